//! A gang that does not fit yet says why, and is bound, all of it, when room appears.

use std::time::Instant;

use gangway_core::job::BaseState;
use gangway_tests::{SOON, Story, manifest, wait};

#[tokio::test]
async fn tells_slurms_reason_and_goes_on_when_there_is_room() {
    let Some(story) = Story::begin("no-room").await else { return };
    let room = story.room().await;
    let template = manifest::template(8, &[]);
    let large = manifest::indexed_job("large", room, &template);
    story.kube.create(&large).await;
    story.seated(&story.bound("large-", room as usize).await).await;

    let began = Instant::now();
    let uid = story.kube.create(&manifest::indexed_job("small", 4, &template)).await;
    let pods = wait("the pods tell Slurm's reason", SOON, async || {
        let pods = story.pods("small-").await;
        let well = |why: &str| {
            why.contains("Slurm job") && (why.contains("Resources") || why.contains("Priority"))
        };
        if pods.len() == 4 && pods.iter().all(|pod| well(&pod.why())) {
            return Ok(pods);
        }
        Err(pods.iter().map(gangway_tests::Pod::why).collect::<Vec<_>>().join(" | "))
    })
    .await;
    story.note(&format!("told after {:?}: {}", began.elapsed(), pods[0].why()));
    let live = story.slurm.live().await;
    let (_, waiting) = live.iter().find(|(s, _)| s.gang == uid).expect("a placeholder");
    assert_eq!(waiting.state.base, BaseState::Pending);
    for pod in &pods {
        let (reason, message) = pod.told.clone().expect("a condition");
        assert_eq!(reason, "Unschedulable", "what autoscalers know");
        assert!(message.contains(&waiting.id.to_string()), "{message} names {}", waiting.id);
        assert_eq!(pod.node, None);
    }

    story.kube.delete(&large).await;
    story.gone("large-").await;
    let freed = Instant::now();
    let bound = story.bound("small-", 4).await;
    story.note(&format!("bound {:?} after the last pod before it was gone", freed.elapsed()));
    assert_eq!(story.seated(&bound).await.id, waiting.id, "the same placeholder");
    story.end().await;
}
