use proptest::prelude::*;

use super::*;

fn facts(name: &str, labels: &[&str], slurm: &str) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        slurm: slurm_path(slurm),
        instance_type: String::new(),
    }
}

/// Names of all nodes in the order that counts for all of them together.
fn walk(source: Source, nodes: &[NodeFacts]) -> Vec<String> {
    let topology = Topology::new(source, &[], nodes.to_vec());
    let mut ids: Vec<NodeId> = (0..topology.len() as u32).map(NodeId).collect();
    let order = topology.order(&ids);
    ids.sort_by_key(|id| order.position(*id));
    ids.iter().filter_map(|id| topology.name(*id)).map(str::to_owned).collect()
}

#[test]
fn slurm_says_where_in_its_own_notation() {
    assert_eq!(slurm_path("topo-block:b1,topo-tree:s1"), ["topo-block", "b1", "topo-tree", "s1"]);
    assert_eq!(slurm_path("topo-tree:root:s9"), ["topo-tree", "root", "s9"]);
    assert!(slurm_path("").is_empty() && slurm_path(" , ").is_empty());
}

#[test]
fn siblings_are_in_natural_order_and_the_unknown_come_last() {
    let nodes = [
        facts("a1", &[], ""),
        facts("n3", &[], "t:root:s10"),
        facts("n20", &[], "t:root:s9"),
        facts("n4", &[], "t:root:s9"),
        facts("n1", &[], "t:root"),
    ];
    assert_eq!(walk(Source::Auto, &nodes), ["n1", "n4", "n20", "n3", "a1"]);
}

#[test]
fn labels_count_only_where_all_nodes_have_them() {
    let mut nodes = vec![
        facts("n1", &["z", "l2"], "t:s1"),
        facts("n2", &["z", "l1"], "t:s2"),
        facts("n3", &["z", "l2"], "t:s3"),
    ];
    assert_eq!(walk(Source::Auto, &nodes), ["n2", "n1", "n3"]);
    assert_eq!(walk(Source::Slurm, &nodes), ["n1", "n2", "n3"]);
    nodes.push(facts("n4", &[], "t:s0"));
    assert_eq!(walk(Source::Auto, &nodes), ["n4", "n1", "n2", "n3"]);
    assert_eq!(walk(Source::Labels, &nodes), ["n2", "n1", "n3", "n4"]);
    // The order is that of the nodes asked for, not of the cluster.
    let topology = Topology::new(Source::Auto, &[], nodes);
    let [n1, n2] = ["n1", "n2"].map(|name| topology.find(name).expect("known"));
    let order = topology.order(&[n1, n2]);
    assert!(order.position(n2) < order.position(n1));
    // One that nobody knows has no labels, and comes after all others.
    let order = topology.order(&[n1, n2, NodeId(4)]);
    assert!(order.position(n1) < order.position(n2));
    assert_eq!(order.position(NodeId(4)), 4);
}

#[test]
fn of_one_name_the_last_word_counts() {
    let nodes = [facts("n1", &[], "t:s2"), facts("n2", &[], "t:s1"), facts("n1", &[], "t:s0")];
    assert_eq!(walk(Source::Auto, &nodes), ["n1", "n2"]);
}

proptest! {
    /// Brute force: of all orders of up to seven nodes, none crosses less than the walk, and the walk
    /// meets the lower bound.
    #[test]
    fn no_order_crosses_less_than_the_walk(
        paths in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..4), 1..8),
    ) {
        let node = |(i, path): (usize, &Vec<u8>)| {
            let slurm = path.iter().map(|part| format!("s{part}")).collect();
            NodeFacts { name: format!("n{i}"), slurm, ..NodeFacts::default() }
        };
        let topology = Topology::new(Source::Auto, &[], paths.iter().enumerate().map(node));
        let mut nodes: Vec<NodeId> = (0..paths.len() as u32).map(NodeId).collect();
        let order = topology.order(&nodes);
        nodes.sort_by_key(|node| order.position(*node));
        let walk = ring(&paths, &nodes);
        let mut fewest = u32::MAX;
        // A ring has no beginning, so the first may stay where it is.
        permute(&mut nodes.clone(), 1, &mut |nodes| fewest = fewest.min(ring(&paths, nodes).crossings));
        prop_assert_eq!(walk.crossings, fewest);
        prop_assert_eq!(walk.least, fewest);
    }

    #[test]
    fn facts_in_any_order_give_the_same_walk(
        (nodes, shuffled) in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..3), 1..9)
            .prop_map(|paths| {
                let node = |(i, path): (usize, &Vec<u8>)| {
                    let parts: Vec<String> = path.iter().map(ToString::to_string).collect();
                    facts(&format!("n{i}"), &[], &parts.join(":"))
                };
                paths.iter().enumerate().map(node).collect::<Vec<_>>()
            })
            .prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle())),
    ) {
        prop_assert_eq!(walk(Source::Auto, &nodes), walk(Source::Auto, &shuffled));
    }
}

/// How often a ring crosses from one part of the network into another, all levels together.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// How often it does.
    pub(crate) crossings: u32,
    /// How often any ring over these nodes has to: once out of every occupied part.
    pub(crate) least: u32,
}

/// A ring over these nodes, told from their paths alone: node n3 is at `paths[3]`.
pub(crate) fn ring(paths: &[Vec<u8>], nodes: &[NodeId]) -> Ring {
    let levels = paths.iter().map(Vec::len).max().unwrap_or(0);
    let mut ring = Ring::default();
    for level in 0..levels {
        // On every level a node is in one part: that of all parts above it, and of this one.
        let part = |node: &NodeId| -> Vec<Option<u8>> {
            (0..=level).map(|above| paths[node.at()].get(above).copied()).collect()
        };
        for (i, node) in nodes.iter().enumerate() {
            ring.crossings += u32::from(part(node) != part(&nodes[(i + 1) % nodes.len()]));
        }
        let occupied: std::collections::BTreeSet<_> = nodes.iter().map(part).collect();
        ring.least += if occupied.len() > 1 { occupied.len() as u32 } else { 0 };
    }
    ring
}

fn permute(nodes: &mut [NodeId], from: usize, visit: &mut impl FnMut(&[NodeId])) {
    if from >= nodes.len() {
        return visit(nodes);
    }
    for at in from..nodes.len() {
        nodes.swap(from, at);
        permute(nodes, from + 1, visit);
        nodes.swap(from, at);
    }
}
