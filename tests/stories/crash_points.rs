//! The bridge dies at every one of its fail points, for gangs of 1, 3 and 16: the next one finishes the
//! work, and the history of both sides breaks no rule (docs/faults.md).
//!
//! The three gangs are told side by side, each with a bridge and a scheduler name of its own; what is the same
//! for all sizes is told of the smallest (`alone`).

mod alone;
mod lane;

use std::collections::BTreeSet;
use std::time::Instant;

use futures::future::join_all;
use gangway_core::follow::ALL_BOUND_WITHIN_MS;
use gangway_core::job::{BaseState, Component, GresRequest, JobId, Options, PlaceholderRequest};
use gangway_tests::history::{Recorder, audit};
use gangway_tests::{Bridge, Fault, Faults, Nodes, Story, World, http};
use serde_json::json;

use lane::{Gang, Lane};

/// What a bridge that has just started needs beside rule 3's half minute.
const STARTED_MS: i64 = 15_000;

#[tokio::test]
async fn every_one_is_got_over() {
    // Its pods hold devices until the story lets them go, which real kubelets would not have.
    if World::find_where(|world| world.kubelets().is_empty()).is_none() {
        return;
    }
    let Some(story) = Story::prepare("crash", |_| {}).await else { return };
    let points = Bridge::fail_points();
    let log = story.world.audit_log();
    let begin = std::fs::metadata(&log).expect("an audit log").len();
    let recorder =
        Recorder::begin(story.kube.client.clone(), story.slurm.client_again(), "t-crash-").await;
    let faults = Faults::before_slurm(story.world.slurm_url()).await;
    let mut lanes = Vec::new();
    for size in [1, 3, 16] {
        lanes.push(Lane::begin(&story, size, &recorder).await);
    }
    let began = Instant::now();
    each(&mut lanes, births).await;
    each(&mut lanes, endings).await;
    each(&mut lanes, queued).await;
    join_all(lanes.iter_mut().map(|lane| key_that_is_owed(lane, &faults))).await;
    let nodes = Nodes::of(&story);
    nodes.label(&Nodes::p5(1, 16), crate::volumes::ZONE, "a").await;
    each(&mut lanes, claims).await;
    blocked(&story, &mut lanes, &nodes).await;
    alone::all(&mut lanes[0]).await;

    let deaths: usize = lanes.iter().map(|lane| lane.died.len()).sum();
    let mut passed: BTreeSet<String> =
        lanes.iter().flat_map(|lane| lane.story.bridge.passed()).collect();
    passed.extend(lanes[0].died.iter().cloned());
    let seconds = began.elapsed().as_secs();
    story.note(&json!({
        "fail_points": points.len(), "hit": points.iter().filter(|p| passed.contains(*p)).count(),
        "deaths": deaths, "seconds": seconds,
    }).to_string());
    for lane in &lanes {
        // A successor beside its gang is told in `loss`.
        let here = |point: &&String| !point.starts_with("standin.");
        let told = |point: &&String| here(point) && (lane.size == 1 || !alone::is_told(point));
        let of_it = points.iter().filter(told);
        let never: Vec<&String> = of_it.filter(|point| !lane.died_at(point)).collect();
        assert!(never.is_empty(), "no bridge of a gang of {} has died at {never:?}", lane.size);
    }
    let history = recorder.history().await;
    let now = history.stays.iter().filter_map(|s| Some(s.gone?.ms)).max().unwrap_or(i64::MAX);
    let broken = history.broken_rules(ALL_BOUND_WITHIN_MS + STARTED_MS, now);
    assert_eq!(broken, [""; 0], "rules were broken");
    assert_eq!(history.started_twice(), [""; 0], "one placeholder for each generation");
    assert!(history.stays.iter().all(|stay| stay.gone.is_some()), "all pods have gone");
    let audit = audit(&log, begin, "t-crash-");
    assert_eq!(audit.forbidden, [""; 0], "requests that the bridge must not make");
    let twice: Vec<_> = audit.bound.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "bound twice: {twice:?}");
    assert!(audit.bound.len() > deaths, "{} bindings", audit.bound.len());
    for lane in lanes {
        lane.story.end().await;
    }
    drop(recorder);
    story.end().await;
}

/// Tells a part in every lane at once.
async fn each(lanes: &mut [Lane<'_>], part: impl AsyncFn(&mut Lane<'_>)) {
    join_all(lanes.iter_mut().map(|lane| part(lane))).await;
}

/// First, one in the middle, and the last of so many.
fn some_of(size: u32) -> BTreeSet<u32> {
    BTreeSet::from([1, size.div_ceil(2), size])
}

/// From the first look at Slurm to the last binding.
async fn births(lane: &mut Lane<'_>) {
    let once = ["jobs.listed", "submit.immediate", "submit.looked", "key.sealed"];
    let once = once.map(str::to_owned).into_iter();
    let binds = some_of(lane.size).into_iter().map(|nth| format!("pod.bound:{nth}"));
    for at in once.chain(binds).collect::<Vec<_>>() {
        let gang = lane.gang(&[], |_| {}).await;
        lane.die(&at).await;
        lane.start();
        lane.bound(&gang).await;
        lane.over(&gang).await;
    }
    let gang = lane.gang(&[("checkpoint-grace", "00:02"), ("time-limit", "60")], |_| {}).await;
    lane.die("time.read").await;
    lane.start();
    lane.bound(&gang).await;
    lane.over(&gang).await;
}

/// From the first word that it is over to the last.
async fn endings(lane: &mut Lane<'_>) {
    for at in ["cancel.sent", "cancel.seen"] {
        let gang = lane.gang(&[], |_| {}).await;
        lane.arm(at);
        lane.bound(&gang).await;
        lane.story.kube.delete_pods(&gang.name).await;
        lane.dies(at).await;
        lane.start();
        lane.nothing_left(&gang).await;
    }
    let evictions = some_of(lane.size).into_iter().map(|nth| format!("pod.evicted:{nth}"));
    for at in ["event.written".to_owned()].into_iter().chain(evictions).collect::<Vec<_>>() {
        let gang = lane.gang(&[], |_| {}).await;
        lane.start();
        let job = lane.bound(&gang).await;
        lane.story.bridge.kill();
        lane.scancel(job).await;
        lane.die(&at).await;
        lane.start();
        lane.nothing_left(&gang).await;
    }
    let gang = lane.gang(&[("checkpoint-grace", "00:02")], |_| {}).await;
    lane.arm("pod.warned");
    let job = lane.bound(&gang).await;
    lane.scancel(job).await;
    lane.dies("pod.warned").await;
    lane.start();
    lane.nothing_left(&gang).await;

    let hook = http::Hook::listen(200).await;
    let way = format!("http://:{}/", hook.port);
    let gang = lane.gang(&[("checkpoint-grace", "10:00"), ("checkpoint-hook", &way)], |_| {}).await;
    lane.arm("pod.checkpointed");
    let job = lane.bound(&gang).await;
    lane.at_home(&gang).await;
    lane.scancel(job).await;
    lane.dies("pod.checkpointed").await;
    lane.start();
    lane.nothing_left(&gang).await;

    let gang = lane.gang(&[], |_| {}).await;
    lane.arm("release.inquired");
    lane.bound(&gang).await;
    lane.story.kube.delete_pods(&gang.name).await;
    lane.dies("release.inquired").await;
    lane.start();
    lane.nothing_left(&gang).await;

    // Its pods go while there is no bridge.
    let gang = lane.gang(&[], |_| {}).await;
    lane.start();
    lane.bound(&gang).await;
    lane.story.bridge.kill();
    lane.story.kube.delete_pods(&gang.name).await;
    lane.story.gone(&gang.name).await;
    lane.die("sweep.released").await;
    lane.start();
    lane.nothing_left(&gang).await;
}

/// Through Slurm's queue.
async fn queued(lane: &mut Lane<'_>) {
    lane.set_up(|setup| setup.immediate = false);
    for at in ["submit.queued", "allocation.read", "partitions.read"] {
        let gang = lane
            .gang(&[], |pod| {
                let own = json!({
                    "key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["p5-0016"],
                });
                pod["spec"]["affinity"]["nodeAffinity"] = json!({
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [own]}],
                    },
                });
            })
            .await;
        lane.die(at).await;
        lane.start();
        lane.bound(&gang).await;
        lane.over(&gang).await;
    }
    // Somebody else has the job id that it would choose.
    let gated = json!([{"name": "gangway.dev/story"}]);
    let gang = lane.gang(&[], |pod| pod["spec"]["schedulingGates"] = gated.clone()).await;
    let theirs = lane.first_id(&gang);
    let request = PlaceholderRequest { components: vec![small("somebody else's")], ..ask() };
    let given = lane.story.slurm.client.submit(&request, Some(theirs)).await;
    assert!(given.is_ok(), "{given:?}");
    lane.story.slurm.adopt(theirs);
    lane.open_gates(&gang).await;
    lane.die("submit.taken").await;
    lane.start();
    lane.bound(&gang).await;
    let cancelled = lane.story.slurm.client.cancel(theirs).await;
    assert!(cancelled.is_ok(), "{cancelled:?}");
    lane.over(&gang).await;
}

/// The key of a placeholder that was taken at once cannot be written until it is to end.
async fn key_that_is_owed(lane: &mut Lane<'_>, faults: &Faults) {
    faults.follow(|asked| {
        let key = String::from_utf8_lossy(asked.body).contains("\"admin_comment\"");
        let writes = asked.method == "POST" && asked.path.contains("/job/");
        let submits = asked.path.contains("/submit") || asked.path.contains("/allocate");
        (writes && key && !submits).then_some(Fault::Status(502))
    });
    lane.set_up(|setup| setup.slurm_url = faults.url());
    let gang = lane.gang(&[], |_| {}).await;
    lane.arm("key.sealed-last");
    lane.bound(&gang).await;
    lane.story.kube.delete_pods(&gang.name).await;
    lane.dies("key.sealed-last").await;
    lane.set_up(|_| {});
    lane.start();
    lane.nothing_left(&gang).await;
}

/// A claim is told its node; then that node shuts, and all is given back.
async fn claims(lane: &mut Lane<'_>) {
    let story = &lane.story;
    let storage = crate::volumes::Storage { story };
    storage.make_class("WaitForFirstConsumer", &[]).await;
    let mut claims = Vec::new();
    for at in ["claim.told", "key.marked"] {
        let claim = at.replace('.', "-");
        let storage = crate::volumes::Storage { story: &lane.story };
        storage.make_claim(&claim, &storage.class()).await;
        let volume = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
        let gang = lane
            .gang(&[], |pod| {
                // The first one's alone: many pods may not have one claim.
                let first = pod["metadata"]["name"].as_str().is_some_and(|n| n.ends_with("-0"));
                if first {
                    pod["spec"]["volumes"] = volume.clone();
                }
            })
            .await;
        let nodes = Nodes::of(&lane.story);
        if at == "claim.told" {
            lane.die(at).await;
        } else {
            lane.arm(at);
            let storage = crate::volumes::Storage { story: &lane.story };
            let chosen = storage.wait_selected(&claim).await;
            nodes.cordon(&[chosen]).await;
            lane.dies(at).await;
        }
        lane.start();
        let storage = crate::volumes::Storage { story: &lane.story };
        storage.wait_selected(&claim).await;
        storage.provision(&claim, "a").await;
        lane.bound(&gang).await;
        lane.over(&gang).await;
        claims.push(claim);
    }
    let storage = crate::volumes::Storage { story: &lane.story };
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    storage.clear(&claims).await;
}

/// With no room: all lanes wait together, for what blocks one blocks all.
async fn blocked(story: &Story, lanes: &mut [Lane<'_>], nodes: &Nodes) {
    each(lanes, async |lane| lane.set_up(|_| {})).await;
    for at in ["submit.missed", "condition.written", "nodes.excluded"] {
        let blocker = block(story, 16).await;
        let shut = Nodes::p5(16, 16);
        let wait_for = async |lane: &mut Lane<'_>| {
            let gang = lane.gang(&[], |_| {}).await;
            lane.arm(at);
            if at == "nodes.excluded" {
                lane.waits(&gang).await;
            } else {
                lane.dies(at).await;
            }
            gang
        };
        let gangs: Vec<Gang> = join_all(lanes.iter_mut().map(wait_for)).await;
        if at == "nodes.excluded" {
            nodes.cordon(&shut).await;
            join_all(lanes.iter_mut().map(|lane| lane.dies(at))).await;
        }
        each(lanes, async |lane| lane.start()).await;
        join_all(lanes.iter_mut().zip(&gangs).map(|(lane, gang)| lane.waits(gang))).await;
        unblock(story, blocker).await;
        let end = async |lane: &mut Lane<'_>, gang: &Gang| {
            lane.bound(gang).await;
            lane.over(gang).await;
        };
        join_all(lanes.iter_mut().zip(&gangs).map(|(lane, gang)| end(lane, gang))).await;
        nodes.restore(&shut).await;
    }

    // What ends lets somebody start: each lane has one gang that runs and one that waits.
    let run = async |lane: &mut Lane<'_>| {
        let gang = lane.gang(&[], |_| {}).await;
        lane.arm("scheduler.woken");
        lane.bound(&gang).await;
        gang
    };
    let first: Vec<Gang> = join_all(lanes.iter_mut().map(run)).await;
    let taken: u32 = lanes.iter().map(Lane::nodes).sum();
    let blocker = block(story, 16 - taken).await;
    let queue = async |lane: &mut Lane<'_>| {
        let gang = lane.gang(&[], |_| {}).await;
        lane.waits(&gang).await;
        gang
    };
    let second: Vec<Gang> = join_all(lanes.iter_mut().map(queue)).await;
    let turn = async |lane: &mut Lane<'_>, first: &Gang, second: &Gang| {
        lane.story.kube.delete_pods(&first.name).await;
        lane.dies("scheduler.woken").await;
        lane.start();
        lane.bound(second).await;
        lane.nothing_left_of(first).await;
        lane.over(second).await;
    };
    let both = lanes.iter_mut().zip(first.iter().zip(&second));
    join_all(both.map(|(lane, (first, second))| turn(lane, first, second))).await;
    unblock(story, blocker).await;
}

/// Takes so many whole nodes as somebody else.
async fn block(story: &Story, nodes: u32) -> JobId {
    let gres = |name: &str, count| GresRequest { name: name.to_owned(), kind: None, count };
    let gres = vec![gres("gpu", 8), gres("efa", 32)];
    let part = Component { nodes, gres_per_node: gres, ..small("nobody's") };
    let request = PlaceholderRequest { components: vec![part], ..ask() };
    let given = story.slurm.client.submit(&request, None).await;
    let job = given.expect("a job that blocks").job_id;
    story.slurm.adopt(job);
    story.slurm.reaches(job.0, BaseState::Running).await;
    job
}

async fn unblock(story: &Story, blocker: JobId) {
    let cancelled = story.slurm.client.cancel(blocker).await;
    assert!(cancelled.is_ok(), "{cancelled:?}");
    story.slurm.client.kick("p5-0001").await.expect("Slurm's scheduler can be woken");
}

fn small(key: &str) -> Component {
    Component {
        key: key.to_owned(),
        nodes: 1,
        tasks_per_node: 1,
        cpus_per_task: 1,
        memory_per_node_mib: 100,
        gres_per_node: Vec::new(),
        excluded_nodes: String::new(),
    }
}

fn ask() -> PlaceholderRequest {
    PlaceholderRequest {
        name: "somebody-else".to_owned(),
        user: "bob".to_owned(),
        group: "bob".to_owned(),
        account: Some("team2".to_owned()),
        partition: "gangway".to_owned(),
        qos: None,
        time_limit_minutes: None,
        options: Options::default(),
        components: Vec::new(),
    }
}
