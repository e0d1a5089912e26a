//! Pods come and go while their gang waits or runs; what Slurm holds for it follows.

use gangway_core::job::BaseState;
use gangway_tests::{SOON, Story, manifest, wait};
use serde_json::Value;

/// Takes every node of the partition `gangway`; gives what to delete to free them.
async fn fill(story: &Story) -> Value {
    let room = story.room().await;
    let large = manifest::indexed_job("large", room, &manifest::template(8, &[]));
    story.kube.create(&large).await;
    story.bound("large-", room as usize).await;
    large
}

#[tokio::test]
async fn a_gang_deleted_while_it_waits_leaves_the_queue() {
    let Some(story) = Story::begin("gave-up").await else { return };
    fill(&story).await;
    let job = manifest::indexed_job("small", 4, &manifest::template(8, &[]));
    let uid = story.kube.create(&job).await;
    story.told("small-", "Slurm job").await;
    story.kube.delete(&job).await;
    story.gone("small-").await;
    wait("its placeholder has left the queue", SOON, async || {
        let live = story.slurm.live().await;
        let left = live.iter().find(|(stamp, _)| stamp.gang == uid);
        left.map_or(Ok(()), |(_, job)| Err(format!("{} {}", job.id, job.state)))
    })
    .await;
    assert_eq!(story.slurm.live().await.len(), 1, "the large gang's lives on");
    story.end().await;
}

#[tokio::test]
async fn a_placeholder_cancelled_while_it_waits_is_told() {
    let Some(story) = Story::begin("cancelled-waiting").await else { return };
    fill(&story).await;
    let uid = story.kube.create(&manifest::pod("small", &manifest::template(8, &[]))).await;
    story.told("small", "Slurm job").await;
    let live = story.slurm.live().await;
    let (_, waiting) = live.iter().find(|(s, _)| s.gang == uid).expect("a placeholder");
    story.slurm.scancel("alice", waiting.id.0);
    story.slurm.reaches(waiting.id.0, BaseState::Cancelled).await;
    // Its owner has said that it shall not run: the pod does not stay behind.
    story.gone("small").await;
    let events = story.kube.events().await;
    let id = waiting.id.to_string();
    assert!(events.iter().any(|e| e.name == "small" && e.message.contains(&id)), "{events:?}");
    story.end().await;
}

#[tokio::test]
async fn a_pod_of_the_same_name_is_another_pod() {
    let Some(story) = Story::begin("same-name").await else { return };
    let large = fill(&story).await;
    let pod = manifest::pod("twin", &manifest::template(8, &[]));
    let first = story.kube.create(&pod).await;
    story.told("twin", "Slurm job").await;
    story.kube.delete_pod("twin").await;
    story.gone("twin").await;
    let second = story.kube.create(&pod).await;
    story.told("twin", "Slurm job").await;
    story.kube.delete(&large).await;
    let bound = story.bound("twin", 1).await;
    assert_eq!(bound[0].uid, second);
    story.seated(&bound).await;
    let live = story.slurm.live().await;
    assert!(live.iter().all(|(stamp, _)| stamp.gang != first), "nothing is left of the first");
    story.end().await;
}
