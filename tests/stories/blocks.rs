//! What nodes of Kubernetes say of the network is where Slurm places gangs, and the order of their ranks.

use std::collections::BTreeMap;

use gangway_core::order::natural;
use gangway_tests::{POOL, Pod, Pool, SOON, Story, manifest, wait};
use serde_json::json;

/// The partition `mixed`, placed by blocks for as long as this lives.
struct ByBlocks<'a>(&'a Story);

impl<'a> ByBlocks<'a> {
    fn of(story: &'a Story) -> Self {
        let by = Self(story);
        by.place_by("topo-block");
        by
    }

    fn place_by(&self, topology: &str) {
        let topology = format!("Topology={topology}");
        self.0.world.run_as("root", "scontrol", &["update", "PartitionName=mixed", &topology]);
    }
}

impl Drop for ByBlocks<'_> {
    fn drop(&mut self) {
        self.place_by("topo-flat");
    }
}

/// Where each node is: blocks alternate from node to node, and the switches inside a block from one of its nodes to the
/// next. So neither names nor luck give the right answer.
fn network() -> BTreeMap<String, (&'static str, &'static str)> {
    let place = |n: u32| {
        let block = if n.is_multiple_of(2) { "b1" } else { "b2" };
        let switch = if (n / 2).is_multiple_of(2) { "s2" } else { "s1" };
        (format!("blocks-{:02}", n + 1), (block, switch))
    };
    (0..16).map(place).collect()
}

#[tokio::test]
async fn a_gang_of_one_segment_lands_in_one_block_and_ranks_follow() {
    let Some(story) = Story::begin("blocks").await else { return };
    let labels =
        "topology: { tree: [example.com/root, example.com/switch], block: example.com/block }";
    let mut pool = Pool::of(&story, labels);
    pool.controllers.start().await;
    let network = network();
    let resources = json!({
        "cpu": "16", "memory": "64Gi", "pods": "50",
        "nvidia.com/gpu": "8", "vpc.amazonaws.com/efa": "32",
    });
    for (name, (block, switch)) in &network {
        let mut labels = json!({POOL: "mixed", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"});
        // One block says so by labels, the other by an annotation.
        if *block == "b1" {
            labels["example.com/block"] = json!(block);
            labels["example.com/root"] = json!("root");
            labels["example.com/switch"] = json!(switch);
        }
        pool.add_with(name, labels, &resources).await;
        if *block == "b2" {
            let place = format!("topo-block:{block},topo-tree:root:{switch}");
            let part = json!({"metadata": {"annotations": {"gangway.dev/slurm-topology": place}}});
            story.kube.patch_node(name, &part).await;
        }
    }
    wait("Slurm knows where all nodes are", SOON, async || {
        let nodes = story.slurm.client.nodes().await.expect("nodes can be listed");
        let there = nodes.iter().filter(|node| {
            network.get(&node.name).is_some_and(|(block, switch)| {
                node.topology == format!("topo-block:{block},topo-tree:root:{switch}")
            })
        });
        let there = there.count();
        if there == network.len() { Ok(()) } else { Err(format!("{there} of 16")) }
    })
    .await;

    let blocks = ByBlocks::of(&story);
    let asks = [("gangway.dev/partition", "mixed"), ("gangway.dev/segment", "8")];
    let mut seen = Vec::new();
    for gang in ["first", "second"] {
        let template = manifest::template(8, &asks);
        story.kube.create(&manifest::indexed_job(gang, 8, &template)).await;
        let mut pods = story.bound(&format!("{gang}-"), 8).await;
        story.seated(&pods).await;
        pods.sort_by_key(Pod::rank);
        let seated: Vec<String> = pods.into_iter().filter_map(|pod| pod.node).collect();
        let block = network[&seated[0]].0;
        let mut expected: Vec<&String> =
            network.iter().filter(|(_, place)| place.0 == block).map(|(name, _)| name).collect();
        expected.sort_by(|a, b| network[*a].1.cmp(network[*b].1).then_with(|| natural(a, b)));
        assert_eq!(seated.iter().collect::<Vec<_>>(), expected, "{gang} in {block}");
        seen.push(block);
    }
    seen.sort_unstable();
    assert_eq!(seen, ["b1", "b2"]);
    for gang in ["first", "second"] {
        story.kube.delete(&manifest::indexed_job(gang, 8, &manifest::template(8, &asks))).await;
    }
    story.gone("first-").await;
    story.gone("second-").await;
    drop(blocks);
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "the controllers ended with {status:?}");
    story.end().await;
}
