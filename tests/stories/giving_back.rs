//! What pods no longer need goes back to Slurm, and nothing before.

use std::time::{Duration, Instant};

use gangway_core::job::BaseState;
use gangway_tests::{Story, manifest, stays};
use serde_json::json;

/// Promised: the placeholder ends within this time after its last pod.
const PROMPTLY: Duration = Duration::from_secs(5);

#[tokio::test]
async fn deleted_pods_end_their_placeholder() {
    let Some(story) = Story::begin("deleted").await else { return };
    let job = manifest::indexed_job("gang", 4, &manifest::template(8, &[]));
    story.kube.create(&job).await;
    let placeholder = story.seated(&story.bound("gang-", 4).await).await;
    story.kube.delete(&job).await;
    story.gone("gang-").await;
    let began = Instant::now();
    story.nothing_lives(PROMPTLY).await;
    story.note(&format!("placeholder over {:?} after its last pod", began.elapsed()));
    let over = story.slurm.job(placeholder.id.0).await;
    assert_eq!(over.state.base, BaseState::Cancelled);
    story.end().await;
}

#[tokio::test]
async fn a_pod_that_succeeds_ends_its_placeholder() {
    let Some(story) = Story::begin("succeeded").await else { return };
    let template = manifest::template(4, &[("world.gangway.dev/exit", "0")]);
    story.kube.create(&manifest::pod("alone", &template)).await;
    let pods = story.bound("alone", 1).await;
    gangway_tests::wait("the pod succeeds", gangway_tests::SOON, async || {
        let pod = story.kube.pod("alone").await;
        if pod.phase == "Succeeded" { Ok(()) } else { Err(pod.phase) }
    })
    .await;
    story.nothing_lives(PROMPTLY).await;
    let pod = story.kube.pod("alone").await;
    assert_eq!((&pod.uid, pod.phase.as_str()), (&pods[0].uid, "Succeeded"), "it is left as it is");
    story.end().await;
}

#[tokio::test]
async fn a_gang_keeps_its_placeholder_until_its_last_pod_has_finished() {
    let Some(story) = Story::begin("finishing").await else { return };
    story.kube.create(&manifest::pod_group("pair", 2)).await;
    let template = manifest::template(8, &[]);
    for name in ["pair-a", "pair-b"] {
        story.kube.create(&manifest::pod_of_group(name, "pair", &template)).await;
    }
    let id = story.seated(&story.bound("pair-", 2).await).await.id.0;

    let exit = json!({"metadata": {"annotations": {"world.gangway.dev/exit": "0"}}});
    story.kube.patch_pod("pair-a", &exit).await;
    stays("the placeholder lives on for the other pod", Duration::from_secs(3), async || {
        let job = story.slurm.job(id).await;
        let pod = story.kube.pod("pair-b").await;
        if job.state.base == BaseState::Running && pod.phase == "Running" && !pod.deleting {
            Ok(())
        } else {
            Err(format!("{} {pod:?}", job.state))
        }
    })
    .await;

    story.kube.patch_pod("pair-b", &exit).await;
    // A finished pod of a workload that goes on may get a successor; that is waited for.
    story.nothing_lives(PROMPTLY * 3).await;
    story.end().await;
}
