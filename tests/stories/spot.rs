//! A node that is about to go takes nothing new, and comes back if it stays after all.

use gangway_core::job::BaseState;
use gangway_tests::{Pool, Story, manifest};
use serde_json::json;

#[tokio::test]
async fn a_node_that_is_interrupted_is_drained_and_its_gang_goes_on() {
    let Some(story) = Story::begin("spot").await else { return };
    // With an election, as two replicas would hold it.
    let election = format!("\nleaderElection: {{ enabled: true, name: {} }}", story.cluster);
    let mut pool = Pool::of(&story, &election);
    pool.controllers.start().await;
    pool.add("spot-1").await;
    pool.in_slurm("spot-1", "is idle", |node| node.is("IDLE")).await;
    let template = manifest::template(8, &[("gangway.dev/partition", "mixed")]);
    story.kube.create(&manifest::indexed_job("one", 1, &template)).await;
    let job = story.seated(&story.bound("one-", 1).await).await;
    for key in ["aws-node-termination-handler/spot-itn", "karpenter.sh/disrupted"] {
        // Their own controllers have the gang leave; nothing is evicted for it here.
        let taints = json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
        story.kube.patch_node("spot-1", &taints).await;
        let reason = format!("gangway/{}: about to go: taint {key}", story.cluster);
        let drained = |node: &gangway_slurm::Node| node.is("DRAIN") && node.reason == reason;
        pool.in_slurm("spot-1", "is drained for that", drained).await;
        assert_eq!(story.slurm.job(job.id.0).await.state.base, BaseState::Running);
        story.kube.patch_node("spot-1", &json!({"spec": {"taints": null}})).await;
        pool.in_slurm("spot-1", "is open again", |node| !node.is("DRAIN")).await;
    }
    story.kube.delete(&manifest::indexed_job("one", 1, &template)).await;
    story.gone("one-").await;
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "the controllers ended with {status:?}");
    story.end().await;
}
