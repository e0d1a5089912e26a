//! Whatever is asked by annotation is read back from the real Slurm, word for word.

use gangway_core::ask::TABLE;
use gangway_core::job::{BaseState, JobId};
use gangway_core::names::{ALIAS_PREFIX, PREFIX};
use gangway_tests::{SOON, Story, manifest, wait};
use serde_json::{Value, json};

/// A reservation far ahead, which no job of any story touches.
const RESERVATION: &str = "asking";
/// 2037-01-31T18:00:00Z, beyond the patience of any story.
const FAR: i64 = 2_117_037_600;

/// One annotation and what Slurm must say of its job.
struct Case {
    name: &'static str,
    value: String,
    /// By the names of `scontrol show job`.
    shown: Vec<(&'static str, String)>,
}

fn case(name: &'static str, value: impl Into<String>, shown: &[(&'static str, &str)]) -> Case {
    let shown = shown.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    Case { name, value: value.into(), shown }
}

/// Every annotation at least once; `first` is some job of the same user.
fn cases(first: u32) -> Vec<Case> {
    let seconds = FAR.to_string();
    vec![
        case("partition", "spare,gangway", &[("Partition", "spare,gangway")]),
        case("account", "team2", &[("Account", "team2")]),
        case("qos", "normal", &[("QOS", "normal")]),
        case("job-name", "train-7b", &[("JobName", "train-7b")]),
        case("time-limit", "1-02:03:00", &[("TimeLimit", "1-02:03:00")]),
        case("time-min", "30", &[("TimeMin", "00:30:00")]),
        case("gpu-type", "h100", &[("TresPerNode", "gres/efa:16,gres/gpu:h100:4")]),
        case("gres", "gpu:h100:8", &[("TresPerNode", "gres/efa:16,gres/gpu:h100:8")]),
        case("pods-per-node", "2", &[("NtasksPerN:B:S:C", "1:0:*:*")]),
        case("constraints", "gangway&spare", &[("Features", "gangway&spare")]),
        case("prefer", "spare", &[("Prefer", "spare")]),
        case("exclude", "p5-0003,p5-[0001-0002]", &[("ExcNodeList", "p5-[0001-0003]")]),
        case("licenses", "matlab:2,ansys", &[("Licenses", "matlab:2,ansys:1")]),
        case("reservation", RESERVATION, &[("Reservation", RESERVATION)]),
        case(
            "dependency",
            format!("afterok:{first},singleton"),
            &[("Dependency", &format!("afterok:{first}(unfulfilled),singleton(unfulfilled)"))],
        ),
        case("begin", "2037-01-31T19:00:00+01:00", &[("StartTime", &seconds)]),
        case("deadline", "2037-01-31T18:00Z", &[("Deadline", &seconds)]),
        case("nice", "100", &[("Nice", "100")]),
        case("nice", "-100", &[("Nice", "-100")]),
        case("priority", "12345", &[("Priority", "12345")]),
        case("wckey", "paper", &[("WCKey", "paper")]),
        case("comment", "for \"the\" paper, no. 7", &[("Comment", "for \"the\" paper, no. 7")]),
        case("switches", "1@10:30", &[("Switches", "1@00:10:30")]),
        case("segment", "1", &[("SegmentSize", "1")]),
        case("contiguous", "true", &[("Contiguous", "1")]),
        case("spread", "true", &[("SPREAD_JOB", "true")]),
        case("exclusive", "true", &[("Exclusive", "NODE")]),
        case("exclusive", "user", &[("Exclusive", "USER")]),
        case("exclusive", "mcs", &[("Exclusive", "MCS")]),
        case("exclusive", "topo", &[("Exclusive", "TOPO")]),
    ]
}

#[tokio::test]
async fn every_annotation_arrives_in_slurm() {
    let Some(story) = begin("asking", "").await else { return };
    let first = story.slurm.sbatch("alice", &["-p", "hybrid", "-n1", "--mem=100"]);
    story.slurm.reaches(first, BaseState::Running).await;
    let cases = cases(first);
    let tried = |row: &gangway_core::ask::Row| cases.iter().any(|case| case.name == row.name);
    let untried: Vec<&str> = TABLE.iter().filter(|row| !tried(row)).map(|row| row.name).collect();
    assert_eq!(untried, [""; 0], "annotations without a case");
    for (place, case) in cases.iter().enumerate() {
        let key = format!("{PREFIX}{}", case.name);
        create(&story, &format!("own-{place}"), &[(&key, &case.value)]).await;
    }
    // The same by the peer's names, where it has them.
    let alias = |case: &Case| TABLE.iter().find(|row| row.name == case.name)?.alias;
    for (place, case) in cases.iter().enumerate() {
        if let Some(alias) = alias(case) {
            let key = format!("{ALIAS_PREFIX}{alias}");
            create(&story, &format!("alias-{place}"), &[(&key, &case.value)]).await;
        }
    }
    for (place, case) in cases.iter().enumerate() {
        shows(&story, &format!("own-{place}"), case).await;
        if alias(case).is_some() {
            shows(&story, &format!("alias-{place}"), case).await;
        }
    }
    end(story).await;
}

#[tokio::test]
async fn what_needs_the_queue_does_not_keep_pods_from_their_nodes() {
    let Some(story) = begin("asking-bound", "").await else { return };
    let begin = case("begin", "now+2seconds", &[]);
    let comment = case("comment", "gangway/1 other gang 1 0000000000000000", &[]);
    for (name, case) in [("later", begin), ("forged", comment)] {
        let key = format!("{PREFIX}{}", case.name);
        create(&story, name, &[(&key, &case.value)]).await;
        story.seated(&story.bound(name, 1).await).await;
    }
    // Whole nodes, of which the pod uses four GPUs.
    create(&story, "whole", &[("gangway.dev/exclusive", "true")]).await;
    let pods = story.bound("whole", 1).await;
    let held = story.slurm.devices(pods[0].job(), "gpu").await;
    assert_eq!(held.values().map(Vec::len).sum::<usize>(), 8, "{held:?}");
    assert_eq!(pods[0].annotations["gangway.dev/index.gpu"], "0-3");
    end(story).await;
}

#[tokio::test]
async fn a_deadline_of_kubernetes_is_a_time_limit_of_slurm() {
    let Some(story) = begin("asking-limit", "").await else { return };
    let template = manifest::template(4, &[]);
    let mut pod = manifest::pod("pod", &template);
    pod["spec"]["activeDeadlineSeconds"] = json!(3601);
    story.kube.create(&pod).await;
    let mut job = manifest::indexed_job("job", 2, &template);
    job["spec"]["activeDeadlineSeconds"] = json!(7200);
    story.kube.create(&job).await;
    for (prefix, count, limit) in [("pod", 1, "01:01:00"), ("job-", 2, "02:00:00")] {
        let pods = story.bound(prefix, count).await;
        let placeholder = story.seated(&pods).await;
        assert_eq!(shown(&story, placeholder.id)["TimeLimit"], limit);
    }
    end(story).await;
}

#[tokio::test]
async fn an_annotation_asks_only_inside_policy() {
    let policy = "  closed: [exclusive]\n";
    let Some(story) = begin("asking-policy", policy).await else { return };
    create(&story, "closed", &[("gangway.dev/exclusive", "true")]).await;
    story.told("closed", "gangway.dev/exclusive is not open to namespace").await;
    create(&story, "open", &[("gangway.dev/priority", "12345")]).await;
    story.seated(&story.bound("open", 1).await).await;
    // Without a word of the platform team, nobody jumps the queue.
    let Some(plain) = Story::prepare_beside(&story, "asking-plain").await else { return };
    for (name, key, value) in
        [("first", "gangway.dev/priority", "12345"), ("nicer", "gangway.dev/nice", "-1")]
    {
        create(&plain, name, &[(key, value)]).await;
        plain.told(name, "is not open to namespace").await;
    }
    end(story).await;
}

#[tokio::test]
async fn slurms_refusals_say_which_annotation_to_mend() {
    let Some(story) = begin("asking-refused", "").await else { return };
    let refused = [
        ("constraints", "moonlight"),
        ("licenses", "unknown:1"),
        ("licenses", "matlab:1000"),
        ("reservation", "nobodys"),
        ("dependency", "afterok:66000000"),
        ("exclude", "nowhere-[1-3]"),
        ("deadline", "2001-01-01T00:00Z"),
    ];
    for (place, (name, value)) in refused.iter().enumerate() {
        let pod = format!("refused-{place}");
        create(&story, &pod, &[(&format!("{PREFIX}{name}"), value)]).await;
        let pods = story.told(&pod, &format!("gangway.dev/{name}")).await;
        story.note(&format!("{name}={value}: {}", pods[0].why()));
        assert_eq!(pods[0].node, None);
    }
    end(story).await;
}

#[tokio::test]
async fn a_gang_waits_for_another_workload_by_its_name() {
    let Some(story) = begin("asking-after", "").await else { return };
    let after = |what: &str| vec![("gangway.dev/dependency".to_owned(), what.to_owned())];
    let ask = async |name: &str, what: &str| {
        let annotations = after(what);
        let pairs: Vec<(&str, &str)> =
            annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        create(&story, name, &pairs).await;
    };
    // Not there yet.
    ask("well", "afterok:job/first").await;
    ask("badly", "afternotok:job/first").await;
    ask("any", "afterany:job/first").await;
    ask("pod", "afterok:pod/well").await;
    story.told("well", "there is no job/first in its namespace").await;
    assert_eq!(story.slurm.live().await.len(), 0);
    // There, and running: its end is Slurm's to wait for, its success is not.
    let first = manifest::indexed_job("first", 2, &manifest::template(4, &[]));
    story.kube.create(&first).await;
    let members = story.bound("first-", 2).await;
    let running = members[0].job();
    story.told("well", "waiting until job/first has succeeded").await;
    story.told("badly", "waiting until job/first has failed").await;
    let any = placeholder(&story, "any").await;
    assert_eq!(shown(&story, any)["Dependency"], format!("afterany:{running}(unfulfilled)"));
    story.told("any", "Dependency").await;
    assert_eq!(story.slurm.live().await.len(), 2, "the job itself, and who waits for its end");
    // It ends well.
    for pod in &members {
        story.kube.patch_pod(&pod.name, &json!({"metadata": {"annotations": {"world.gangway.dev/exit": "0"}}})).await;
    }
    let well = story.bound("well", 1).await;
    assert_eq!(shown(&story, JobId(well[0].job())).get("Dependency"), None);
    story.bound("any", 1).await;
    story.told("badly", "job/first has succeeded").await;
    story.told("pod", "waiting until pod/well has succeeded").await;
    let exit = json!({"metadata": {"annotations": {"world.gangway.dev/exit": "0"}}});
    story.kube.patch_pod("well", &exit).await;
    story.bound("pod", 1).await;
    end(story).await;
}

#[tokio::test]
async fn a_gang_that_waits_for_another_survives_the_bridge() {
    let Some(mut story) = begin("asking-restart", "").await else { return };
    let template = manifest::template(4, &[]);
    story.kube.create(&manifest::pod("first", &template)).await;
    let first = story.bound("first", 1).await;
    create(&story, "second", &[("gangway.dev/dependency", "afterany:pod/first")]).await;
    let waiting = placeholder(&story, "second").await;
    story.bridge.kill();
    // Gone for good, with nothing left to resolve its name.
    story.kube.delete_pod("first").await;
    story.bridge.start().await;
    let second = story.bound("second", 1).await;
    assert_eq!(JobId(second[0].job()), waiting, "the placeholder that was there");
    assert_ne!(second[0].job(), first[0].job());
    end(story).await;
}

/// A story whose namespace may ask for everything that is closed by default.
async fn begin(name: &str, policy: &str) -> Option<Story> {
    let mut story = Story::prepare(name, |setup| {
        setup.allow = "accounts: [team2], qos: [normal], allow: [priority]".to_owned();
        setup.policy = policy.to_owned();
    })
    .await?;
    reserve(&story);
    story.bridge.start().await;
    Some(story)
}

async fn end(story: Story) {
    let world = story.world;
    story.end().await;
    world.run_as("slurm", "scontrol", &["delete", &format!("ReservationName={RESERVATION}")]);
}

fn reserve(story: &Story) {
    let known = story.world.run_as("slurm", "scontrol", &["-o", "show", "reservation"]);
    if known.contains(&format!("ReservationName={RESERVATION} ")) {
        return;
    }
    let name = format!("ReservationName={RESERVATION}");
    let what = ["StartTime=2038-01-01", "Duration=10", "Nodes=h4", "Users=alice"];
    let words: Vec<&str> = ["create", "reservation", &name].into_iter().chain(what).collect();
    story.world.run_as("slurm", "scontrol", &words);
}

async fn create(story: &Story, name: &str, annotations: &[(&str, &str)]) {
    story.kube.create(&manifest::pod(name, &manifest::template(4, annotations))).await;
}

/// The placeholder of a lone pod.
async fn placeholder(story: &Story, name: &str) -> JobId {
    let uid = story.kube.pod(name).await.uid;
    wait(&format!("{name} has a placeholder"), SOON, async || {
        let live = story.slurm.live().await;
        match live.iter().find(|(stamp, _)| stamp.gang == uid) {
            Some((_, job)) => Ok(job.id),
            None => Err(story.kube.pod(name).await.why()),
        }
    })
    .await
}
