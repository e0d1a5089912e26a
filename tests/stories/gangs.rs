//! What people see of gangs: `kubectl get gangs` from the queue to the end, why pods wait and what would help, how
//! soon that is told, and that nothing is written while nothing changes.

mod anew;
mod purse;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gangway_core::job::BaseState;
use gangway_tests::{SOON, Story, audited, manifest, stays, wait};
use serde_json::json;

/// A change of Slurm's reason is on the pod within this, on a machine of two cores that does other things too.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// For so long nothing may be written.
const QUIET: Duration = Duration::from_secs(5);

/// What kubectl prints of the story's gangs: by the beginning of their names, the columns by their titles.
fn gangs(story: &Story, wide: bool) -> Vec<BTreeMap<String, String>> {
    let namespace = format!("--namespace={}", story.kube.namespace);
    let form = if wide { "wide" } else { "" };
    let text = story.kubectl(&["get", "gangs", &namespace, "-o", form]);
    let mut lines = text.lines();
    let Some(head) = lines.next() else { return Vec::new() };
    // Columns begin where their titles do.
    let titles: Vec<(usize, &str)> = head
        .split_whitespace()
        .map(|title| (title.as_ptr() as usize - head.as_ptr() as usize, title))
        .collect();
    let cell = |line: &str, column: usize| {
        let (from, to) = (titles[column].0, titles.get(column + 1).map_or(line.len(), |t| t.0));
        line.get(from..to.min(line.len())).unwrap_or("").trim().to_owned()
    };
    let row =
        |line: &str| (0..titles.len()).map(|i| (titles[i].1.to_owned(), cell(line, i))).collect();
    lines.map(row).collect()
}

/// The one gang whose name begins so, once it is as is wanted.
async fn shown(story: &Story, prefix: &str, wanted: &[(&str, &str)]) -> BTreeMap<String, String> {
    let what = format!("kubectl shows {prefix} with {wanted:?}");
    wait(&what, SOON, async || {
        let all = gangs(story, true);
        let own = all.iter().find(|gang| gang["NAME"].starts_with(prefix));
        let is = |(title, value): &(&str, &str)| own.is_some_and(|own| own[*title] == *value);
        match own {
            Some(own) if wanted.iter().all(is) => Ok(own.clone()),
            _ => Err(format!("{all:?}")),
        }
    })
    .await
}

/// Writes of the bridge in the story's namespace so far.
fn writes(story: &Story) -> Vec<String> {
    let ours = audited(story.world, &story.kube.namespace, |asked| {
        asked.writes()
            && asked.namespace == story.kube.namespace
            && asked.agent.starts_with("gangway/")
    });
    ours.into_iter()
        .map(|asked| format!("{} {} {} {}", asked.at, asked.verb, asked.what, asked.name))
        .collect()
}

#[tokio::test]
async fn kubectl_shows_a_gang_from_the_queue_to_its_end() {
    let Some(mut story) = Story::begin("gangs").await else { return };
    let room = story.room().await;
    let template = manifest::template(8, &[]);
    let large = manifest::indexed_job("large", room, &template);
    let owner = story.kube.create(&large).await;
    story.bound("large-", room as usize).await;
    let pods = format!("{room}/{room}");
    let ready = room.to_string();
    let all_of_it =
        [("PHASE", "Running"), ("PODS", &pods), ("READY", &ready), ("STATE", "RUNNING")];
    let running = shown(&story, "large-", &all_of_it).await;
    assert_eq!((running["KIND"].as_str(), running["STATE"].as_str()), ("Job", "RUNNING"));
    assert!(!running["NODES"].is_empty() && running["POSITION"].is_empty(), "{running:?}");

    // Another gang finds no room, and one pod alone is no gang.
    let began = Instant::now();
    let small = manifest::indexed_job("small", 2, &template);
    story.kube.create(&small).await;
    let single = manifest::pod("single", &template);
    story.kube.create(&single).await;
    let waiting =
        [("PHASE", "Queued"), ("STATE", "PENDING"), ("PODS", "0/2"), ("PARTITION", "gangway")];
    let queued = shown(&story, "small-", &waiting).await;
    story.note(&format!("shown in the queue after {:?}: {queued:?}", began.elapsed()));
    assert_eq!((queued["ACCOUNT"].as_str(), queued["USER"].as_str()), ("team1", "alice"));
    let told = wait("the first pod tells what would help", SOON, async || {
        let why =
            story.pods("small-").await.first().map(gangway_tests::Pod::why).unwrap_or_default();
        let well = why.contains("needs 2 nodes with 8 x gpu")
            && why.contains("such nodes none is free")
            && why.contains("in the queue of gangway")
            && why.contains("Slurm expects it to start");
        if well { Ok(why) } else { Err(why) }
    })
    .await;
    story.note(&format!("told: {told}"));
    story.told("single", "Slurm job").await;
    let names: Vec<String> = gangs(&story, false).into_iter().map(|g| g["NAME"].clone()).collect();
    assert_eq!(names.len(), 2, "no single pod among {names:?}");
    wait("its Gang has all of that too", SOON, async || {
        let all = gangs(&story, true);
        let own = all.iter().find(|gang| gang["NAME"].starts_with("small-"));
        let number = |own: &BTreeMap<String, String>, column: &str| {
            own[column].parse::<u32>().is_ok_and(|n| n > 0)
        };
        let well = own.is_some_and(|own| {
            !own["START"].is_empty()
                && own["MESSAGE"].contains("such nodes")
                && ["JOB", "POSITION", "PRIORITY"].iter().all(|column| number(own, column))
        });
        if well { Ok(()) } else { Err(format!("{own:?}")) }
    })
    .await;
    nothing_is_written(&story).await;
    told_soon(&story).await;

    // The owner goes, and its Gang with it; the other has room.
    story.kube.delete(&large).await;
    story.gone("large-").await;
    shown(&story, "small-", &[("PHASE", "Running"), ("PODS", "2/2"), ("REASON", "")]).await;
    wait("the Gang of the Job that is gone is gone", SOON, async || {
        let all = gangs(&story, false);
        if all.iter().any(|g| g["NAME"].starts_with("large-")) {
            Err(format!("{all:?} of {owner}"))
        } else {
            Ok(())
        }
    })
    .await;

    // A Gang that is left over is taken away by the next bridge.
    story.bridge.kill();
    story.kube.patch(&small, &json!({"spec": {"suspend": true}})).await;
    story.kube.collect_pods("small-").await;
    story.gone("small-").await;
    assert_eq!(gangs(&story, false).len(), 1, "nobody was there to take it away");
    story.bridge.start().await;
    wait("it is taken away", SOON, async || {
        let all = gangs(&story, false);
        if all.is_empty() { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
    goes_on_without_the_kind(&story).await;
    story.end().await;
}

/// The API server stops serving Gangs, and gangs are bound all the same.
async fn goes_on_without_the_kind(story: &Story) {
    story.kubectl(&["delete", "crd", "gangs.gangway.dev"]);
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::indexed_job("unseen", 2, &template)).await;
    story.seated(&story.bound("unseen-", 2).await).await;
    // For whoever plays in this world next.
    let kind = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds/gangs.yaml");
    story.kubectl(&["apply", "--server-side", "-f", kind]);
    story.kubectl(&["wait", "--for=condition=Established", "crd/gangs.gangway.dev"]);
}

/// Slurm's reason changes, and the pods say so, and their Gang.
async fn told_soon(story: &Story) {
    let live = story.slurm.live().await;
    let waiting =
        |job: &gangway_core::job::Job| job.state.base == BaseState::Pending && job.node_count == 2;
    let job = &live.iter().find(|(_, job)| waiting(job)).expect("it waits").1;
    // An odd number, so that one of them is the median. Each takes a coin of every pod's purse, and a pod that is not the
    // first has six, of which two may be gone by now (`core::gangview::pace`): a fourth turn might wait for its coin.
    let changes = [("hold", "JobHeldAdmin"), ("uhold", "JobHeldUser"), ("release", "")];
    let mut took = Vec::new();
    for (verb, reason) in changes {
        let changed = Instant::now();
        story.world.run_as("root", "scontrol", &[verb, &job.id.to_string()]);
        let tells = |why: &str| {
            if reason.is_empty() { !why.contains("JobHeld") } else { why.contains(reason) }
        };
        wait("all pods tell the new reason", SOON, async || {
            let pods = story.pods("small-").await;
            let why: Vec<String> = pods.iter().map(gangway_tests::Pod::why).collect();
            if why.iter().all(|why| tells(why)) { Ok(()) } else { Err(why.join(" | ")) }
        })
        .await;
        took.push(changed.elapsed());
        if !reason.is_empty() {
            shown(story, "small-", &[("REASON", reason)]).await;
        }
    }
    let mut ms: Vec<u128> = took.iter().map(Duration::as_millis).collect();
    ms.sort_unstable();
    let median = ms[ms.len() / 2];
    story.note(&format!(
        "{{\"sight\":\"reason\",\"turns\":{},\"told_ms_p50\":{median},\"told_ms_max\":{}}}",
        ms.len(),
        ms[ms.len() - 1]
    ));
    // One of three may be late, for other stories may have the machine at any one moment.
    assert!(median <= TOLD_WITHIN.as_millis(), "{took:?}");
}

/// What waits and does not change costs no write.
async fn nothing_is_written(story: &Story) {
    let mut last = (writes(story).len(), Instant::now());
    wait("nothing is written any more", SOON, async || {
        let now = writes(story).len();
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() >= Duration::from_secs(1) {
            Ok(())
        } else {
            Err(format!("{now} writes"))
        }
    })
    .await;
    let before = writes(story);
    stays("they wait", QUIET, async || {
        let pods = story.pods("small-").await;
        if pods.iter().all(|pod| pod.node.is_none()) { Ok(()) } else { Err("bound".to_owned()) }
    })
    .await;
    let after = writes(story);
    let more = after.len() - before.len();
    story.note(&format!(
        "{{\"sight\":\"quiet\",\"seconds\":{},\"writes\":{more}}}",
        QUIET.as_secs()
    ));
    assert_eq!(after[before.len()..], [""; 0], "of {} before", before.len());
}
