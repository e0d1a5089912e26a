//! EXTERNAL nodes that Slurm believes dead are healed, with a gang on them.

use gangway_core::job::BaseState;
use gangway_slurm::NodeUpdate;
use gangway_tests::{SOON, Story, manifest, wait};

/// An address to which nothing can be sent, so that nothing answers there, and at once.
pub(crate) const DEAD: &str = "255.255.255.255";

pub(crate) async fn readdress(story: &Story, node: &str, address: &str) {
    let update = NodeUpdate { address: Some(address.to_owned()), ..NodeUpdate::default() };
    story.slurm.client.update_node(node, &update).await.expect("the node can be changed");
}

/// Waits until Slurm believes that a node does not answer, or that it does.
pub(crate) async fn is_silent(story: &Story, node: &str, silent: bool) {
    wait(&format!("node {node} is silent: {silent}"), 2 * SOON, async || {
        let seen = story.slurm.client.node(node).await.expect("Slurm answers");
        let seen = seen.expect("the node is there");
        let same = seen.is("NOT_RESPONDING") == silent;
        if same { Ok(()) } else { Err(format!("{:?} at {}", seen.state, seen.address)) }
    })
    .await;
}

#[tokio::test]
async fn a_poisoned_node_with_a_gang_on_it_is_healed() {
    let sink = "127.0.0.1";
    let story = Story::prepare("poison", |setup| {
        setup.slurm = format!("sink: {{ address: {sink}, partitions: [gangway] }}");
    })
    .await;
    let Some(mut story) = story else { return };
    story.bridge.start().await;
    story.kube.create(&manifest::indexed_job("gang", 2, &manifest::template(8, &[]))).await;
    let pods = story.bound("gang-", 2).await;
    let job = story.seated(&pods).await;
    let node = pods[0].node.clone().expect("bound");
    story.bridge.freeze(true);
    readdress(&story, &node, DEAD).await;
    story.slurm.client.stir(&job).await.expect("a signal is taken");
    is_silent(&story, &node, true).await;
    story.bridge.freeze(false);
    is_silent(&story, &node, false).await;
    assert_eq!(story.slurm.job(job.id.0).await.state.base, BaseState::Running);
    let seen = story.slurm.client.node(&node).await.expect("Slurm answers").expect("the node");
    assert_eq!(seen.address, sink);
    assert_eq!(story.seated(&story.bound("gang-", 2).await).await.id, job.id, "nobody has moved");
    story.end().await;
}
