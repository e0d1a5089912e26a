//! Whatever is asked by annotation is read back from the real Slurm, word for word.

use std::collections::BTreeMap;
use std::time::Instant;

use gangway_core::ask::{Row, TABLE};
use gangway_core::job::{BaseState, JobId};
use gangway_core::names::{ALIAS_PREFIX, PREFIX};
use gangway_core::placeholder::JobIds;
use gangway_tests::{Pod, SOON, Story, manifest, wait};
use serde_json::{Value, json};

/// A reservation far ahead, which no job of any story touches.
const RESERVATION: &str = "asking";
/// 2037-01-31T18:00:00Z, beyond the patience of any story.
const FAR: i64 = 2_117_037_600;

/// What is between the gang and the bridge, and nothing that Slurm is asked for.
const OF_OURS: [&str; 3] = ["checkpoint-grace", "checkpoint-hook", "on-member-failure"];

/// One annotation and what Slurm must say of its job.
struct Case {
    name: &'static str,
    value: String,
    /// Where in the job (a JSON pointer, or `Exclusive` of `scontrol show job`), and what.
    shown: Vec<(&'static str, Value)>,
    /// Whether a job can have it and run.
    runs: bool,
    /// Whether only the queue can take it.
    queued: bool,
}

impl Case {
    fn gang(&self, name: &str, annotations: &[(&str, &str)]) -> Value {
        let template = manifest::template(4, annotations);
        match self.name {
            "pods-per-node" => manifest::indexed_job(name, 2, &template),
            _ => manifest::pod(name, &template),
        }
    }

    /// What of the job is not as it was asked.
    fn compare(&self, who: &str, job: &Value) -> Vec<String> {
        let found = |place: &str| job.pointer(place).or_else(|| job.get(place));
        let wrong = self.shown.iter().filter(|(place, value)| found(place) != Some(value));
        wrong
            .map(|(place, _)| {
                format!("{who}: {}={}: {place} is {:?}", self.name, self.value, found(place))
            })
            .collect()
    }
}

fn own(case: &Case) -> String {
    format!("{PREFIX}{}", case.name)
}

fn case(name: &'static str, value: impl Into<String>, shown: &[(&'static str, Value)]) -> Case {
    Case { name, value: value.into(), shown: shown.to_vec(), runs: true, queued: false }
}

/// One that the immediate path cannot take.
fn queued(name: &'static str, value: impl Into<String>, shown: &[(&'static str, Value)]) -> Case {
    Case { queued: true, ..case(name, value, shown) }
}

/// One whose job waits, or changes as it starts.
fn waiting(name: &'static str, value: impl Into<String>, shown: &[(&'static str, Value)]) -> Case {
    Case { runs: false, ..case(name, value, shown) }
}

/// Every annotation at least once; `first` is a job that runs.
fn cases(first: u32) -> Vec<Case> {
    let after = format!("afterok:{first}?afternotok:{first}");
    let unfulfilled = format!("afterok:{first}(unfulfilled)?afternotok:{first}(unfulfilled)");
    vec![
        waiting("partition", "spare,gangway", &[("/partition", json!("spare,gangway"))]),
        case("account", "team2", &[("/account", json!("team2"))]),
        case("qos", "asking", &[("/qos", json!("asking"))]),
        case("job-name", "train-7b", &[("/name", json!("train-7b"))]),
        case("time-limit", "1-02:03:00", &[("/time_limit/number", json!(1563))]),
        case("time-min", "30", &[("/time_minimum/number", json!(30))]),
        case("gpu-type", "h100", &[("/tres_per_node", json!("gres/efa=16,gres/gpu:h100=4"))]),
        case("gres", "gpu:h100:6", &[("/tres_per_node", json!("gres/efa=16,gres/gpu:h100=6"))]),
        case(
            "pods-per-node",
            "2",
            &[("/tasks_per_node/number", json!(2)), ("/node_count/number", json!(1))],
        ),
        case("constraints", "gangway&spare", &[("/features", json!("gangway&spare"))]),
        // Gone from the record once the job has started.
        waiting("prefer", "spare", &[("/prefer", json!("spare"))]),
        case("exclude", "p5-0003,p5-[0001-0002]", &[("/excluded_nodes", json!("p5-[0001-0003]"))]),
        case("licenses", "matlab:2,ansys", &[("/licenses", json!("matlab:2,ansys"))]),
        waiting("reservation", RESERVATION, &[("/resv_name", json!(RESERVATION))]),
        waiting("dependency", after, &[("/dependency", json!(unfulfilled))]),
        waiting("begin", "2037-01-31T19:00:00+01:00", &[("/eligible_time/number", json!(FAR))]),
        queued("deadline", "2037-01-31T18:00Z", &[("/deadline/number", json!(FAR))]),
        case("nice", "100", &[("/nice", json!(100))]),
        queued("nice", "-100", &[("/nice", json!(-100))]),
        queued("priority", "12345", &[("/priority/number", json!(12345))]),
        case("wckey", "paper", &[("/wckey", json!("paper"))]),
        queued(
            "comment",
            r#"for "the" paper, no. 7"#,
            &[("/comment", json!(r#"for "the" paper, no. 7"#))],
        ),
        case(
            "switches",
            "1@4:30",
            &[("/required_switches", json!(1)), ("/maximum_switch_wait_time", json!(270))],
        ),
        case("segment", "1", &[("/segment_size", json!(1))]),
        case("contiguous", "true", &[("/contiguous", json!(true))]),
        case("spread", "true", &[("SpreadJob", json!("Yes"))]),
        case("exclusive", "true", &[("Exclusive", json!("NODE"))]),
        case("exclusive", "user", &[("Exclusive", json!("USER"))]),
        case("exclusive", "mcs", &[("Exclusive", json!("MCS"))]),
        case("exclusive", "topo", &[("Exclusive", json!("TOPO"))]),
    ]
}

#[tokio::test]
async fn every_annotation_arrives_in_slurm() {
    let Some(story) = begin("asking", "").await else { return };
    let first = story.slurm.sbatch("alice", &["-p", "hybrid", "-n1", "--mem=100"]);
    story.slurm.reaches(first, BaseState::Running).await;
    let cases = cases(first);
    let tried =
        |row: &Row| OF_OURS.contains(&row.name) || cases.iter().any(|case| case.name == row.name);
    let untried: Vec<&str> = TABLE.iter().filter(|row| !tried(row)).map(|row| row.name).collect();
    assert_eq!(untried, [""; 0], "annotations without a case");

    let mut wrong = Vec::new();
    // Those that can run, one by one: nobody waits, so only what needs the queue goes there, under an
    // id of our own choosing.
    for (place, case) in cases.iter().enumerate().filter(|(_, case)| case.runs) {
        let members = if case.name == "pods-per-node" { 2 } else { 1 };
        let name = format!("now-{place}");
        let pairs = [(&*own(case), &*case.value)];
        let pods = if case.queued {
            let name = format!("{name}-x");
            story.kube.create(&case.gang(&name, &pairs)).await;
            story.bound(&name, members).await
        } else {
            at_once(&story, members, &name, |name| case.gang(name, &pairs)).await
        };
        wrong.extend(case.compare(&name, &shown(&story, JobId(pods[0].job()))));
        if case.queued && !from_the_queue(&pods) {
            wrong.push(format!("{name}: {} did not go to the queue", case.name));
        }
    }
    // In the queue: by our names and by the peer's.
    let mut asked: Vec<(String, String, &Case)> = Vec::new();
    for (place, case) in cases.iter().enumerate() {
        let alias = TABLE.iter().find(|row| row.name == case.name).and_then(|row| row.alias);
        let alias = alias.map(|alias| format!("{ALIAS_PREFIX}{alias}"));
        let begin = Some(("gangway.dev/begin", "now+1hour")).filter(|_| case.name != "begin");
        for (way, key) in [("own", Some(own(case))), ("alias", alias)] {
            let Some(key) = key else { continue };
            let name = format!("{way}-{place}-x");
            let pairs = [(key.as_str(), case.value.as_str())].into_iter().chain(begin);
            let object = case.gang(&name, &pairs.collect::<Vec<_>>());
            asked.push((name, story.kube.create(&object).await, case));
        }
    }
    let jobs = wait("each gang has its job", SOON, async || {
        let live = story.slurm.live().await;
        let jobs: BTreeMap<String, JobId> =
            live.into_iter().map(|(stamp, job)| (stamp.gang, job.id)).collect();
        match asked.iter().find(|(_, gang, _)| !jobs.contains_key(gang)) {
            None => Ok(jobs),
            Some((name, _, case)) => {
                let why = story.pods(name).await.first().map(Pod::why).unwrap_or_default();
                Err(format!("{name} ({}={}) has none: {why}", case.name, case.value))
            }
        }
    })
    .await;
    for (name, gang, case) in &asked {
        wrong.extend(case.compare(name, &shown(&story, jobs[gang])));
    }
    // They wait for their time, not for nodes, and keep nobody from asking at once.
    let plain = manifest::template(4, &[]);
    at_once(&story, 1, "beside", |name| manifest::pod(name, &plain)).await;
    assert_eq!(wrong, [""; 0]);
    let annotations = TABLE.len() - OF_OURS.len();
    story.note(&format!("{annotations} annotations, {} jobs in the queue", asked.len()));
    end(story).await;
}

#[tokio::test]
async fn what_needs_the_queue_does_not_keep_pods_from_their_nodes() {
    let Some(story) = begin("asking-bound", "").await else { return };
    let begin = case("begin", "now+2seconds", &[]);
    let comment = queued("comment", "gangway/1 other gang 1 0000000000000000", &[]);
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
    for (prefix, count, limit) in [("pod", 1, 61), ("job-", 2, 120)] {
        let pods = story.bound(prefix, count).await;
        let placeholder = story.seated(&pods).await;
        assert_eq!(shown(&story, placeholder.id)["time_limit"]["number"], limit);
    }
    end(story).await;
}

#[tokio::test]
async fn an_annotation_asks_only_inside_policy() {
    let policy = "closed: [exclusive]";
    let Some(story) = begin("asking-policy", policy).await else { return };
    create(&story, "closed", &[("gangway.dev/exclusive", "true")]).await;
    story.told("closed", "gangway.dev/exclusive is not open to namespace").await;
    create(&story, "open", &[("gangway.dev/priority", "12345")]).await;
    story.seated(&story.bound("open", 1).await).await;
    end(story).await;
}

#[tokio::test]
async fn nobody_jumps_the_queue_without_a_word_of_the_platform_team() {
    let Some(story) = Story::begin("asking-plain").await else { return };
    for (name, key, value) in
        [("first", "gangway.dev/priority", "12345"), ("nicer", "gangway.dev/nice", "-1")]
    {
        create(&story, name, &[(key, value)]).await;
        story.told(name, "is not open to namespace").await;
    }
    assert_eq!(story.slurm.placeholders().await.len(), 0);
    story.end().await;
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

/// A heterogeneous job: what it waits for and uses as a whole is asked once, the rest of each role.
#[tokio::test]
async fn a_gang_of_roles_asks_for_all_of_it() {
    let Some(story) = begin("asking-roles", "").await else { return };
    let first = story.slurm.sbatch("alice", &["-p", "hybrid", "-n1", "--mem=100"]);
    story.slurm.reaches(first, BaseState::Running).await;
    let (master, worker) = (manifest::template(0, &[]), manifest::template(4, &[]));
    let mut object = manifest::pytorchjob_of_roles("train", &master, 2, &worker);
    object["metadata"]["annotations"] = json!({
        "gangway.dev/licenses": "matlab:2",
        "gangway.dev/dependency": format!("afterany:{first}"),
        "gangway.dev/begin": "now+1second",
        "gangway.dev/constraints": "gangway",
        "gangway.dev/wckey": "paper",
        "gangway.dev/nice": "5",
        "gangway.dev/comment": "roles",
        "gangway.dev/exclude": "p5-0001",
        "gangway.dev/time-limit": "90",
    });
    let gang = story.kube.create(&object).await;
    let leader = placeholder(&story, "train", &gang).await.0;
    story.told("train-", "Dependency").await;
    let parts = [shown(&story, JobId(leader)), shown(&story, JobId(leader + 1))];
    for part in &parts {
        assert_eq!(part["features"], "gangway");
        assert_eq!((&part["wckey"], &part["comment"]), (&json!("paper"), &json!("roles")));
        assert_eq!((&part["nice"], &part["excluded_nodes"]), (&json!(5), &json!("p5-0001")));
        assert_eq!(part["time_limit"]["number"], 90);
    }
    let of = |what: &str| parts.each_ref().map(|part| part[what].clone());
    assert_eq!(of("licenses"), [json!("matlab:2"), json!("")]);
    assert_eq!(of("dependency")[0], format!("afterany:{first}(unfulfilled)"));
    story.slurm.scancel("alice", first);
    story.seated(&story.bound("train-", 3).await).await;
    end(story).await;
}

#[tokio::test]
async fn of_one_name_one_runs_at_a_time() {
    let Some(story) = begin("asking-one", "").await else { return };
    let alone = [("gangway.dev/job-name", "alone"), ("gangway.dev/dependency", "singleton")];
    create(&story, "first", &alone).await;
    story.bound("first", 1).await;
    let second = create(&story, "second", &alone).await;
    let waiting = placeholder(&story, "second", &second).await;
    story.told("second", "Dependency").await;
    assert_eq!(shown(&story, waiting)["dependency"], "singleton(unfulfilled)");
    story.kube.delete_pod("first").await;
    story.seated(&story.bound("second", 1).await).await;
    end(story).await;
}

#[tokio::test]
async fn a_gang_waits_for_another_workload_by_its_name() {
    let Some(story) = begin("asking-after", "").await else { return };
    let ask = async |name: &str, what: &str| {
        create(&story, name, &[("gangway.dev/dependency", what)]).await
    };
    // Not there yet.
    ask("well", "afterok:job/first").await;
    ask("badly", "afternotok:job/first").await;
    let any = ask("any", "afterany:job/first").await;
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
    let any = placeholder(&story, "any", &any).await;
    assert_eq!(shown(&story, any)["dependency"], format!("afterany:{running}(unfulfilled)"));
    story.told("any", "Dependency").await;
    assert_eq!(story.slurm.live().await.len(), 2, "the job itself, and who waits for its end");
    // It ends well.
    let exit = json!({"metadata": {"annotations": {"world.gangway.dev/exit": "0"}}});
    for pod in &members {
        story.kube.patch_pod(&pod.name, &exit).await;
    }
    let well = story.bound("well", 1).await;
    assert_eq!(shown(&story, JobId(well[0].job()))["dependency"], "");
    story.bound("any", 1).await;
    story.told("badly", "job/first has succeeded").await;
    story.told("pod", "waiting until pod/well has succeeded").await;
    story.kube.patch_pod("well", &exit).await;
    story.bound("pod", 1).await;
    // One that goes away takes its outcome with it, and who waits for it hears so.
    ask("last", "afterok:pod/any").await;
    story.told("last", "waiting until pod/any has succeeded").await;
    story.kube.delete_pod("any").await;
    story.told("last", "there is no pod/any in its namespace").await;
    end(story).await;
}

#[tokio::test]
async fn a_gang_that_waits_for_another_survives_the_bridge() {
    let Some(mut story) = begin("asking-restart", "").await else { return };
    let template = manifest::template(4, &[]);
    story.kube.create(&manifest::pod("first", &template)).await;
    let first = story.bound("first", 1).await;
    let second = [("gangway.dev/dependency", "afterany:pod/first")];
    let gang = create(&story, "second", &second).await;
    let waiting = placeholder(&story, "second", &gang).await;
    story.bridge.kill();
    // Gone for good, with nothing left to resolve its name.
    story.kube.delete_pod("first").await;
    story.bridge.start().await;
    let second = story.bound("second", 1).await;
    assert_eq!(JobId(second[0].job()), waiting, "the placeholder that was there");
    assert_ne!(second[0].job(), first[0].job());
    end(story).await;
}

/// A story whose namespace may ask for everything that is closed by default, and whose Slurm has
/// everything there is to ask for.
async fn begin(name: &str, policy: &str) -> Option<Story> {
    let mut story = Story::prepare(name, |setup| {
        setup.identity = "accounts: [team2], qos: [asking], allow: [priority]".to_owned();
        setup.policy = policy.to_owned();
    })
    .await?;
    let manager = |words: &[&str]| story.world.run_as("root", "sacctmgr", words);
    if !manager(&["-n", "show", "qos", "format=name%20"]).contains("asking") {
        manager(&["-i", "add", "qos", "asking"]);
        manager(&["-i", "modify", "user", "alice", "set", "qos+=asking"]);
        manager(&["-i", "add", "user", "alice", "account=team2", "qos=normal,asking"]);
    }
    let control = |words: &[&str]| story.world.run_as("root", "scontrol", words);
    let reservation = format!("ReservationName={RESERVATION}");
    if !control(&["-o", "show", "reservation"]).contains(&format!("{reservation} ")) {
        let of = ["StartTime=2038-01-01", "Duration=10", "Nodes=p5-0001", "Users=alice"];
        control(&[&["create", "reservation", &reservation], &of[..]].concat());
    }
    story.bridge.start().await;
    Some(story)
}

async fn end(story: Story) {
    let world = story.world;
    story.end().await;
    world.run_as("root", "scontrol", &["delete", &format!("ReservationName={RESERVATION}")]);
}

/// A pod that asks for four GPUs, and its uid.
async fn create(story: &Story, name: &str, annotations: &[(&str, &str)]) -> String {
    story.kube.create(&manifest::pod(name, &manifest::template(4, annotations))).await
}

/// Whether a gang's job has an id that only the queue gives.
fn from_the_queue(pods: &[Pod]) -> bool {
    pods[0].job() >= JobIds::default().first
}

/// A gang that gets its nodes without the queue. Another story's gang may be waiting for nodes just
/// then, and is not overtaken; so it is tried until nobody waits.
async fn at_once(
    story: &Story,
    members: usize,
    name: &str,
    gang: impl Fn(&str) -> Value,
) -> Vec<Pod> {
    let began = Instant::now();
    for attempt in 0.. {
        let name = format!("{name}-{attempt}-x");
        let object = gang(&name);
        story.kube.create(&object).await;
        let pods = story.bound(&name, members).await;
        if !from_the_queue(&pods) {
            return pods;
        }
        assert!(began.elapsed() < SOON, "{name} and those before it went to the queue");
        story.kube.delete(&object).await;
        story.gone(&name).await;
    }
    unreachable!("it is tried for ever")
}

/// The placeholder of a gang.
async fn placeholder(story: &Story, name: &str, gang: &str) -> JobId {
    wait(&format!("{name} has a placeholder"), SOON, async || {
        let live = story.slurm.live().await;
        let own = live.iter().filter(|(stamp, _)| stamp.gang == gang);
        // Of a heterogeneous job, its leader.
        match own.map(|(_, job)| job.id).min() {
            Some(job) => Ok(job),
            None => {
                let pods = story.pods(name).await;
                Err(pods.first().map(Pod::why).unwrap_or_default())
            }
        }
    })
    .await
}

/// A job as Slurm's own tools show it: slurmrestd's fields, and those of `scontrol show job` that
/// have no such form.
fn shown(story: &Story, job: JobId) -> Value {
    let job = job.to_string();
    let control = |words: &[&str]| story.world.run_as("root", "scontrol", words);
    let text = control(&["--json", "show", "job", &job]);
    let mut all: Value = serde_json::from_str(&text).expect("scontrol writes JSON");
    let mut out = all["jobs"][0].take();
    for word in control(&["-o", "show", "job", &job]).split(' ') {
        if let Some((key @ ("Exclusive" | "SpreadJob"), value)) = word.split_once('=') {
            out[key] = json!(value);
        }
    }
    out
}
