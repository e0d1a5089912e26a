//! Ranks follow the network, as Slurm or the nodes' labels tell it.

use gangway_core::order::natural;
use gangway_tests::{Nodes, Pod, Story, manifest};
use serde_json::json;

/// The two nodes of the partition `spare`, in natural order: without a word on the network, rank 0
/// gets the first.
async fn spare(story: &Story) -> [String; 2] {
    let nodes = story.slurm.client.nodes().await.expect("nodes can be listed");
    let mut names: Vec<String> = nodes
        .into_iter()
        .filter(|node| node.partitions.iter().any(|name| name == "spare"))
        .map(|node| node.name)
        .collect();
    names.sort_by(|a, b| natural(a, b));
    names.try_into().expect("the world has two spare nodes")
}

/// Runs one of the world's commands as its administrator.
fn run(story: &Story, name: &str, words: &[&str]) {
    let mut command = story.world.command(name);
    let ran = command.args(words).env("KUBECONFIG", story.world.kubeconfig()).status();
    assert!(ran.is_ok_and(|status| status.success()), "{name} {words:?}");
}

/// Binds a gang of two in `spare` and tells the node of each rank.
async fn nodes_by_rank(story: &Story, gang: &str, more: &[(&str, &str)]) -> Vec<String> {
    let annotations = [&[("gangway.dev/partition", "spare")], more].concat();
    let template = manifest::template(8, &annotations);
    story.kube.create(&manifest::pod_group(gang, 2)).await;
    for i in 0..2 {
        let pod = manifest::pod_of_group(&format!("{gang}-{i}"), gang, &template);
        story.kube.create(&pod).await;
    }
    let mut pods = story.bound(gang, 2).await;
    story.seated(&pods).await;
    pods.sort_by_key(Pod::rank);
    pods.into_iter().filter_map(|pod| pod.node).collect()
}

#[tokio::test]
async fn ranks_follow_slurms_topology() {
    let Some(story) = Story::begin("network-slurm").await else { return };
    let [first, second] = spare(&story).await;
    let move_to = |node: &str, place: &str| {
        let (node, place) = (format!("NodeName={node}"), format!("topology={place}"));
        run(&story, "scontrol", &["update", &node, &place]);
    };
    // As its administrator writes it: Slurm tells no more of a tree than the node's own path.
    move_to(&first, "topo-tree:root:s2");
    move_to(&second, "topo-tree:root:s1");
    let told = story.slurm.client.node(&second).await.expect("Slurm answers").expect("it is there");
    let seated = nodes_by_rank(&story, "tree", &[]).await;
    move_to(&first, "");
    move_to(&second, "");
    story.note(&format!("Slurm says {:?} of {second}; ranks sit on {seated:?}", told.topology));
    assert_eq!(seated, [second, first]);
    story.end().await;
}

/// Blocks, in a partition that Slurm places by them: a segment for each.
#[tokio::test]
async fn ranks_follow_slurms_blocks() {
    let Some(story) = Story::begin("network-blocks").await else { return };
    let [first, second] = spare(&story).await;
    let move_to = |node: &str, place: &str| {
        let (node, place) = (format!("NodeName={node}"), format!("topology={place}"));
        run(&story, "scontrol", &["update", &node, &place]);
    };
    let place_by = |topology: &str| {
        let topology = format!("Topology={topology}");
        run(&story, "scontrol", &["update", "PartitionName=spare", &topology]);
    };
    move_to(&first, "topo-block:b2");
    move_to(&second, "topo-block:b1");
    place_by("topo-block");
    let seated = nodes_by_rank(&story, "blocks", &[("gangway.dev/segment", "1")]).await;
    place_by("topo-flat");
    move_to(&first, "");
    move_to(&second, "");
    assert_eq!(seated, [second, first]);
    story.end().await;
}

#[tokio::test]
async fn ranks_follow_the_labels_of_the_nodes() {
    let Some(mut story) = Story::prepare("network-labels", |_| {}).await else { return };
    let [first, second] = spare(&story).await;
    let kubectl = |words: &[&str]| run(&story, "kubectl", words);
    let layer = "topology.k8s.aws/network-node-layer-3";
    kubectl(&["label", "node", &first, &format!("{layer}=nn-b")]);
    kubectl(&["label", "node", &second, &format!("{layer}=nn-a")]);
    // A bridge is ready when it has read every node.
    story.bridge.start().await;
    let seated = nodes_by_rank(&story, "labelled", &[]).await;
    for node in [&first, &second] {
        run(&story, "kubectl", &["label", "node", node, &format!("{layer}-")]);
    }
    assert_eq!(seated, [second, first]);
    story.end().await;
}

/// Two levels: units, and switches below them whose names run across the units.
#[tokio::test]
async fn ranks_follow_slurms_tree_of_two_levels() {
    let Some(story) = Story::begin("network-tree").await else { return };
    let nodes = Nodes::of(&story);
    let eight = Nodes::p5(1, 8);
    nodes.label(&eight, "example.com/tree", "yes").await;
    // By name, by switch alone and by unit alone the order would be another one.
    let tree = [
        ("unit-1", "s3", [4, 8]),
        ("unit-1", "s6", [2, 6]),
        ("unit-2", "s4", [1, 7]),
        ("unit-2", "s5", [3, 5]),
    ];
    let mut moved = Moved { story: &story, nodes: Vec::new() };
    let mut expected = Vec::new();
    for (unit, switch, numbers) in tree {
        for number in numbers {
            let node = eight[number - 1].clone();
            moved.to(&node, &format!("topo-tree:root:{unit}:{switch}"));
            expected.push(node);
        }
    }
    let told = story.slurm.client.node(&expected[0]).await.expect("Slurm answers");
    let told = told.expect("it is there").topology;
    assert_eq!(told, "topo-tree:root:unit-1:s3", "as it was written");

    let mut template = manifest::template(8, &[]);
    template["spec"]["nodeSelector"] = json!({"example.com/tree": "yes"});
    story.kube.create(&manifest::indexed_job("tree", 8, &template)).await;
    let mut pods = story.bound("tree-", 8).await;
    story.seated(&pods).await;
    pods.sort_by_key(Pod::rank);
    let seated: Vec<String> = pods.into_iter().filter_map(|pod| pod.node).collect();
    drop(moved);
    assert_eq!(seated, expected);
    story.end().await;
}

/// Nodes that were moved in Slurm's network; they go back, also when the story breaks off.
struct Moved<'a> {
    story: &'a Story,
    nodes: Vec<String>,
}

impl Moved<'_> {
    fn to(&mut self, node: &str, place: &str) {
        self.nodes.push(node.to_owned());
        let (node, place) = (format!("NodeName={node}"), format!("topology={place}"));
        run(self.story, "scontrol", &["update", &node, &place]);
    }
}

impl Drop for Moved<'_> {
    fn drop(&mut self) {
        for node in &self.nodes {
            let node = format!("NodeName={node}");
            // What cannot be undone shows in the next story.
            let _ = self
                .story
                .world
                .command("scontrol")
                .args(["update", &node, "topology="])
                .env("KUBECONFIG", self.story.world.kubeconfig())
                .status();
        }
    }
}
