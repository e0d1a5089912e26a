//! A gang that asked for time to checkpoint: warned, given its time, and only then let go.

use std::time::Duration;

use gangway_core::job::{BaseState, Standing};
use gangway_core::names;
use gangway_tests::http::Hook;
use gangway_tests::{Pod, SOON, Story, manifest, stays, wait};
use k8s_openapi::api::core::v1::Pod as KubePod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

/// What one story asks for (s).
const GRACE: i64 = 16;

/// A pair of whole nodes in a partition that others preempt, or in the ordinary one.
fn pair(story: &Story, name: &str, annotations: &[(&str, &str)]) -> Vec<Value> {
    let template = manifest::template(8, annotations);
    let pods = ["a", "b"].map(|one| format!("{name}-{one}"));
    story.note(&format!("pair {name}: {annotations:?}"));
    let mut objects = vec![manifest::pod_group(name, 2)];
    objects.extend(pods.iter().map(|pod| manifest::pod_of_group(pod, name, &template)));
    objects
}

async fn create(story: &Story, objects: &[Value]) {
    for object in objects {
        story.kube.create(object).await;
    }
}

/// Waits until the pods of that prefix all know that they have to leave, for a reason with these words.
async fn warned(story: &Story, prefix: &str, why: &str) -> Vec<Pod> {
    wait(&format!("the pods {prefix} are warned of {why:?}"), SOON, async || {
        let pods = story.pods(prefix).await;
        let knows = |pod: &Pod| {
            let said = pod.annotations.get(names::LEAVE_WHY);
            said.is_some_and(|said| said.contains(why)) && !pod.deleting
        };
        let all = !pods.is_empty() && pods.iter().all(knows);
        if all { Ok(pods) } else { Err(format!("{pods:?}")) }
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "what pods are told is by the clock on the wall")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn leave_by(pod: &Pod) -> Timestamp {
    let text = pod.annotations.get(names::LEAVE_BY).expect("a warned pod says until when");
    text.parse().expect("a time")
}

async fn has_checkpointed(story: &Story, name: &str) {
    let part = json!({"metadata": {"annotations": {names::CHECKPOINTED: "true"}}});
    story.kube.patch_pod(name, &part).await;
}

async fn all_stay(story: &Story, prefix: &str, what: &str) {
    stays(what, Duration::from_secs(2), async || {
        let pods = story.pods(prefix).await;
        if pods.len() == 2 && pods.iter().all(|pod| !pod.deleting) {
            return Ok(());
        }
        Err(format!("{pods:?}"))
    })
    .await;
}

#[tokio::test]
async fn after_scancel_they_leave_when_all_have_checkpointed() {
    let Some(story) = Story::begin("checkpointed").await else { return };
    create(&story, &pair(&story, "pair", &[("gangway.dev/checkpoint-grace", "2:00")])).await;
    let id = story.seated(&story.bound("pair-", 2).await).await.id.0;
    story.slurm.scancel("alice", id);
    let pods = warned(&story, "pair-", "was cancelled in Slurm (CANCELLED)").await;
    let left = leave_by(&pods[0]).duration_since(now());
    assert!(left > SignedDuration::from_secs(60), "two minutes were asked for, {left} are left");
    all_stay(&story, "pair-", "nobody leaves while nobody has checkpointed").await;
    has_checkpointed(&story, "pair-a").await;
    all_stay(&story, "pair-", "nor while one has").await;
    has_checkpointed(&story, "pair-b").await;
    story.gone("pair-").await;

    let events = story.kube.events().await;
    for pod in &pods {
        for (reason, words) in [("MustLeave", "CANCELLED"), ("Evicted", "all have checkpointed")] {
            let told = events
                .iter()
                .any(|e| e.name == pod.name && e.reason == reason && e.message.contains(words));
            assert!(told, "{} {reason}: {events:?}", pod.name);
        }
    }
    let evicted = story.first("create eviction", "pair-");
    assert!(evicted < leave_by(&pods[0]), "they need not wait for their time to be up");
    story.end().await;
}

#[tokio::test]
async fn after_scancel_they_leave_when_their_time_is_up_and_not_before() {
    let Some(mut story) = Story::begin("time-is-up").await else { return };
    create(&story, &pair(&story, "pair", &[("gangway.dev/checkpoint-grace", "0:16")])).await;
    let id = story.seated(&story.bound("pair-", 2).await).await.id.0;
    story.slurm.scancel("alice", id);
    let pods = warned(&story, "pair-", "CANCELLED").await;
    // Whoever comes after it keeps the promise, as it was given.
    story.bridge.kill();
    let half = leave_by(&pods[0]) - SignedDuration::from_secs(GRACE / 2);
    wait("half of their time is over", SOON, async || {
        if now() >= half { Ok(()) } else { Err(now().to_string()) }
    })
    .await;
    story.bridge.spawn();
    story.gone("pair-").await;
    let evicted = story.first("create eviction", "pair-");
    let late = evicted.duration_since(leave_by(&pods[0]));
    story.note(&format!("evicted {late:?} after their time was up"));
    // The annotation has no parts of a second.
    assert!(late > SignedDuration::from_secs(-1), "evicted {late} before the time");
    assert!(late < SignedDuration::from_secs(GRACE / 2), "the grace was given again: {late}");
    story.end().await;
}

/// The nodes go from one gang to the other without a moment in which both have them.
fn no_overlap(story: &Story, old: &str, new: &str) {
    let (gone, bound) = (story.last("delete", old), story.first("create binding", new));
    let apart = bound.duration_since(gone);
    story.note(&format!("first bound {apart:?} after the last had gone"));
    assert!(apart >= SignedDuration::ZERO, "{new} was bound while {old} was there: {apart:?}");
}

#[tokio::test]
async fn preemption_is_told_when_the_other_job_comes() {
    let Some(story) = Story::begin("preempted").await else { return };
    let low = [("gangway.dev/partition", "scavenge"), ("gangway.dev/checkpoint-grace", "2:00")];
    let job = manifest::pytorchjob("low", 1, &manifest::template(8, &low));
    story.kube.create(&job).await;
    let first = story.bound("low-", 2).await;
    let placeholder = story.seated(&first).await;
    create(&story, &pair(&story, "high", &[("gangway.dev/partition", "urgent")])).await;

    warned(&story, "low-", "is preempted by a job of higher priority").await;
    let old = story.slurm.job(placeholder.id.0).await;
    assert_eq!(old.state.base, BaseState::Running, "warned before the end");
    assert!(old.preempt_time > 0, "{old:?}");
    let late = now().as_second() - old.preempt_time;
    story.note(&format!("warned within {late} s of Slurm's choice"));
    assert!(late < 20, "warned {late} s after Slurm had chosen the job");
    let since = old.end_time - old.preempt_time;
    assert!(since >= 60, "Slurm's own grace has just begun: {since} s");
    all_stay(&story, "low-", "they have their time").await;
    assert!(story.pods("high-").await.iter().all(|pod| pod.node.is_none()));
    for pod in &first {
        has_checkpointed(&story, &pod.name).await;
    }
    // The nodes go at once, and not when Slurm's grace is over.
    story.seated(&story.bound("high-", 2).await).await;
    assert!(now().as_second() < old.end_time, "the preemptor need not wait");
    no_overlap(&story, "low-", "high-");

    // It comes back by itself, as the next generation, when the nodes are free again.
    let waits = story.told("low-", "Slurm job").await;
    assert!(waits.iter().all(|pod| first.iter().all(|old| old.uid != pod.uid)));
    for name in ["high-a", "high-b"] {
        story.kube.delete_pod(name).await;
    }
    let again = story.bound("low-", 2).await;
    let next = story.seated(&again).await;
    assert_ne!(next.id, placeholder.id);
    assert_eq!(again[0].number(names::GENERATION), Some(2));
    story.end().await;
}

#[tokio::test]
async fn preempted_at_once_they_keep_their_devices_until_their_time_is_up() {
    let Some(story) = Story::begin("preempted-at-once").await else { return };
    let low = [("gangway.dev/partition", "spot"), ("gangway.dev/checkpoint-grace", "0:10")];
    create(&story, &pair(&story, "low", &low)).await;
    let placeholder = story.seated(&story.bound("low-", 2).await).await;
    create(&story, &pair(&story, "high", &[("gangway.dev/partition", "urgent")])).await;
    let pods = warned(&story, "low-", "was preempted").await;
    assert_eq!(story.slurm.job(placeholder.id.0).await.state.base, BaseState::Preempted);
    // Slurm has given the nodes away; the pods that hold them are still there.
    wait("the other job runs", SOON, async || {
        let live = story.slurm.live().await;
        let holds = live.iter().any(|(_, job)| job.state.standing() == Standing::Holding);
        if holds { Ok(()) } else { Err(format!("{live:?}")) }
    })
    .await;
    story.told("high-", "still holds a device").await;
    story.seated(&story.bound("high-", 2).await).await;
    let early = leave_by(&pods[0]).duration_since(story.first("create eviction", "low-"));
    assert!(early < SignedDuration::from_secs(1), "evicted {early} before the time");
    no_overlap(&story, "low-", "high-");
    story.end().await;
}

#[tokio::test]
async fn a_time_limit_is_told_before_it_comes_and_the_hook_lets_them_go() {
    let Some(story) = Story::begin("time-limit").await else { return };
    let mut hook = Hook::listen(200).await;
    let address = format!("http://:{}/checkpoint?fast=1", hook.port);
    let asks = [
        ("gangway.dev/time-limit", "1"),
        ("gangway.dev/checkpoint-grace", "0:50"),
        ("gangway.dev/checkpoint-hook", &address),
    ];
    create(&story, &pair(&story, "pair", &asks)).await;
    let placeholder = story.seated(&story.bound("pair-", 2).await).await;
    let running = async || {
        let pods = story.pods("pair-").await;
        if pods.iter().all(|pod| pod.phase == "Running") {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    };
    wait("the pods run", SOON, running).await;
    // Their kubelet says where they are.
    for name in ["pair-a", "pair-b"] {
        let here = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
        let api = story.kube.api::<KubePod>();
        let patch = Patch::Merge(&here);
        let moved = api.patch_status(name, &PatchParams::default(), &patch).await;
        assert!(moved.is_ok(), "{moved:?}");
    }
    for _ in 0..2 {
        let (path, body) = hook.heard(SOON).await;
        assert_eq!(path, "/checkpoint?fast=1");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert!(body["why"].as_str().is_some_and(|why| why.contains("time limit")), "{body}");
        let by: Timestamp = body["leaveBy"].as_str().expect("a text").parse().expect("a time");
        let off = by.as_second() - placeholder.end_time;
        assert!(off.abs() <= 3, "they may stay until the limit, and {off} s more");
    }
    story.gone("pair-").await;
    let job = story.slurm.reaches(placeholder.id.0, BaseState::Cancelled).await;
    assert!(job.end_time < placeholder.end_time, "before the limit: {job:?}");
    let events = story.kube.events().await;
    let told = |reason: &str, words: &str| {
        events.iter().any(|e| e.reason == reason && e.message.contains(words))
    };
    assert!(told("MustLeave", "reaches its time limit"), "{events:?}");
    assert!(told("Evicted", "all have checkpointed"), "{events:?}");
    story.end().await;
}

#[tokio::test]
async fn a_limit_that_is_extended_takes_the_warning_back() {
    let Some(story) = Story::begin("extended").await else { return };
    let asks = [("gangway.dev/time-limit", "2"), ("gangway.dev/checkpoint-grace", "1:55")];
    create(&story, &pair(&story, "pair", &asks)).await;
    let placeholder = story.seated(&story.bound("pair-", 2).await).await;
    warned(&story, "pair-", "reaches its time limit").await;
    let id = format!("JobId={}", placeholder.id);
    story.world.run_as("root", "scontrol", &["update", &id, "TimeLimit=60"]);
    // Every minute all jobs are read anyway: that would be too late.
    wait("they know that they may stay", Duration::from_secs(40), async || {
        let pods = story.pods("pair-").await;
        let told = pods.iter().any(|pod| pod.annotations.contains_key(names::LEAVE_BY));
        if told { Err(format!("{pods:?}")) } else { Ok(()) }
    })
    .await;
    all_stay(&story, "pair-", "they stay").await;
    story.end().await;
}

/// The operator has a command run, once for each gang that is warned; one that fails keeps nobody.
#[tokio::test]
async fn the_operators_command_is_run_for_the_gang() {
    let heard = std::env::temp_dir().join(format!("gangway-heard-{}", std::process::id()));
    let script = r#"cat >> "$0"; echo "$GANGWAY_NAMESPACE/$GANGWAY_NAME" >> "$0"; exit 3"#;
    let command = json!(["/bin/sh", "-c", script, heard]);
    let differ = |setup: &mut gangway_tests::Setup| {
        setup.more = format!("warningCommand: {}\n", json!({"command": command}));
    };
    let Some(mut story) = Story::prepare("command", differ).await else { return };
    story.bridge.start().await;
    create(&story, &pair(&story, "pair", &[("gangway.dev/checkpoint-grace", "0:05")])).await;
    let before = story.bound("pair-", 2).await;
    let id = story.seated(&before).await.id.0;
    story.slurm.scancel("alice", id);
    let pods = warned(&story, "pair-", "CANCELLED").await;
    story.gone("pair-").await;
    let text = std::fs::read_to_string(&heard).expect("it has written down what it heard");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "run once: {text}");
    assert_eq!(lines[1], format!("{}/pair", story.cluster));
    let said: Value = serde_json::from_str(lines[0]).expect("JSON");
    assert_eq!(said["leaveBy"], pods[0].annotations[names::LEAVE_BY]);
    assert!(said["why"].as_str().is_some_and(|why| why.contains("CANCELLED")), "{said}");
    let told: Vec<_> = said["pods"].as_array().into_iter().flatten().collect();
    assert_eq!(told.len(), 2);
    for pod in &before {
        let own = told.iter().find(|told| told["uid"] == pod.uid).expect("each of its pods");
        assert_eq!((&own["job"], &own["rank"]), (&json!(id), &json!(pod.rank())));
    }
    let events = story.kube.events().await;
    let failed = |e: &gangway_tests::Note| e.reason == "WarningCommand" && e.message.contains("3");
    assert!(events.iter().any(failed), "{events:?}");
    story.end().await;
    std::fs::remove_file(&heard).expect("it is ours");
}
