//! How soon the next pod is bound after slurmrestd has come back, and after the bridge has crashed, with
//! many gangs that run (docs/faults.md).
//!
//! `GANGWAY_RECOVERY_GANGS` and `GANGWAY_RECOVERY_REPEATS` say how many; `cargo xtask bench faults` sets
//! them and judges the figures.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use gangway_tests::{Fault, Faults, SOON, Story, World, manifest, wait};
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde_json::json;

/// In CI.
const GANGS: usize = 16;
const REPEATS: usize = 2;
/// Creates under way at once.
const AT_ONCE: usize = 16;
/// Promised on a quiet machine: two and five seconds. Here others may be at work.
const AT_LAST: Duration = Duration::from_secs(20);

/// So many gangs that run are asked about at once, until the bridge gives up on an answer (s).
const REREADS: usize = 2;
const GIVEN_UP_S: u64 = 10;
/// Longer than any story.
const HELD_MS: u64 = 600_000;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test]
async fn after_slurmrestd_and_after_the_bridge() {
    let Some(mut story) = Story::prepare("recovery", |_| {}).await else { return };
    let gangs = number("GANGWAY_RECOVERY_GANGS", GANGS);
    let repeats = number("GANGWAY_RECOVERY_REPEATS", REPEATS);
    story.bridge.start().await;
    let template = manifest::template(1, &[]);
    let names = (0..gangs).map(|i| manifest::pod(&format!("runs-{i}"), &template));
    let made = stream::iter(names.map(async |pod| story.kube.create(&pod).await));
    made.buffer_unordered(AT_ONCE).count().await;
    let pods: Api<KubePod> = story.kube.api();
    wait("all gangs run", SOON + Duration::from_millis(100) * gangs as u32, async || {
        let listed = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let bound = |pod: &KubePod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let bound = listed.iter().filter(|pod| bound(pod)).count();
        if bound == gangs { Ok(()) } else { Err(format!("{bound} of {gangs}")) }
    })
    .await;

    let daemon = |word: &str| story.world.run_as("root", "slurm-daemon", &[word, "slurmrestd"]);
    let mut after_slurmrestd = Vec::new();
    for round in 0..repeats {
        daemon("kill");
        let probe = format!("rest-{round}");
        story.kube.create(&manifest::pod(&probe, &template)).await;
        daemon("start");
        wait("slurmrestd is back", SOON, async || {
            story.slurm.client.ping().await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        let began = Instant::now();
        after_slurmrestd.push(bound_after(&story, &probe, began).await);
        story.kube.delete_pod(&probe).await;
    }
    let mut after_crash = Vec::new();
    for round in 0..repeats {
        story.bridge.kill();
        let probe = format!("crash-{round}");
        story.kube.create(&manifest::pod(&probe, &template)).await;
        let began = Instant::now();
        story.bridge.spawn();
        after_crash.push(bound_after(&story, &probe, began).await);
        story.kube.delete_pod(&probe).await;
    }
    for (after, mut took) in [("slurmrestd", after_slurmrestd), ("bridge", after_crash)] {
        took.sort_unstable();
        let at = |percent: usize| took[(took.len() * percent).div_ceil(100).max(1) - 1].as_millis();
        let line = json!({
            "recovery": after, "running_gangs": gangs, "repeats": repeats,
            "next_bind_ms_p50": at(50) as u64, "next_bind_ms_p99": at(99) as u64,
        });
        story.note(&line.to_string());
        assert!(took.iter().all(|took| *took < AT_LAST), "after {after}: {took:?}");
    }
    let names = pods.list(&ListParams::default()).await.expect("pods can be listed");
    let gone = names.iter().filter(|pod| pod.name_any().starts_with("runs-")).count();
    assert_eq!(gone, gangs, "every gang has stayed where it was");
    story.end().await;
}

/// Nobody answers what is asked about the allocations of gangs that run already: a pod that has come while no
/// bridge was there is bound all the same.
#[tokio::test]
async fn who_comes_new_does_not_wait_for_those_that_run() {
    let Some(world) = World::find() else { return };
    let slurm = Faults::before_slurm(world.slurm_url()).await;
    let story = Story::prepare("newcomer", |setup| setup.slurm_url = slurm.url());
    let Some(mut story) = story.await else { return };
    story.bridge.start().await;
    let template = manifest::template(1, &[]);
    for gang in 0..GANGS {
        story.kube.create(&manifest::pod(&format!("runs-{gang}"), &template)).await;
    }
    let before = story.bound("runs-", GANGS).await;
    story.bridge.kill();

    let known: Vec<String> = before.iter().map(|pod| format!("/resources/{}", pod.job())).collect();
    let held = move |question: &gangway_tests::Question<'_>| {
        let path = question.path.trim_end_matches('/');
        known.iter().any(|of| path.ends_with(of.as_str())).then_some(Fault::Delay(HELD_MS))
    };
    slurm.follow(held);
    story.kube.create(&manifest::pod("new", &template)).await;
    let began = Instant::now();
    story.bridge.spawn();
    let took = bound_after(&story, "new", began).await;
    let held = slurm.count(Fault::Delay(HELD_MS));
    story.note(&format!("bound after {took:.1?}, with {held} questions that nobody answers"));
    let rounds = 1 + usize::try_from(took.as_secs() / GIVEN_UP_S).expect("a small number");
    assert!((1..=REREADS * rounds).contains(&held), "{held} of {GANGS} after {took:?}");

    slurm.rest();
    let after = story.bound("runs-", GANGS).await;
    let places = |pods: &[gangway_tests::Pod]| {
        pods.iter().map(|pod| (pod.uid.clone(), pod.node.clone())).collect::<Vec<_>>()
    };
    assert_eq!(places(&before), places(&after), "every gang has stayed where it was");
    story.end().await;
}

/// How long after `began` a pod is bound.
async fn bound_after(story: &Story, probe: &str, began: Instant) -> Duration {
    wait(&format!("{probe} is bound"), SOON, async || {
        let pod = story.kube.pod(probe).await;
        if pod.node.is_some() { Ok(began.elapsed()) } else { Err(pod.why()) }
    })
    .await
}
