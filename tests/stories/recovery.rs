//! How soon the next pod is bound after slurmrestd has come back, and after the bridge has crashed, with
//! many gangs that run (docs/faults.md).
//!
//! `GANGWAY_RECOVERY_GANGS` and `GANGWAY_RECOVERY_REPEATS` say how many; `cargo xtask bench faults` sets
//! them and judges the figures.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use gangway_tests::{SOON, Story, manifest, wait};
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

/// How long after `began` a pod is bound.
async fn bound_after(story: &Story, probe: &str, began: Instant) -> Duration {
    wait(&format!("{probe} is bound"), SOON, async || {
        let pod = story.kube.pod(probe).await;
        if pod.node.is_some() { Ok(began.elapsed()) } else { Err(pod.why()) }
    })
    .await
}
