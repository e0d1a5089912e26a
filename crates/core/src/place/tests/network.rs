//! Ranks along the network: as few crossings as any order could have, and proof of it.

use super::*;
use crate::topology::{NodeFacts, NodeId, Source};

/// Nodes n0, n1 … in a tree: where each is.
fn topology(paths: &[Vec<u8>]) -> Topology {
    let node = |(i, path): (usize, &Vec<u8>)| NodeFacts {
        name: format!("n{i}"),
        slurm: path.iter().map(|part| format!("s{part}")).collect(),
        ..NodeFacts::default()
    };
    Topology::new(Source::Auto, &[], paths.iter().enumerate().map(node))
}

fn whole(names: &[String]) -> Allocation {
    let node = |name: &String| node(name, 0..8);
    Allocation { nodes: names.iter().map(node).collect() }
}

/// The nodes in which the ranks sit, one after another.
fn ring(topology: &Topology, seats: &[Seat]) -> Vec<NodeId> {
    seats.iter().map(|seat| topology.find(&seat.node).expect("known")).collect()
}

proptest! {
    /// The nodes of a gang, of a larger cluster, in any order Slurm names them.
    #[test]
    fn rings_cross_no_more_than_they_must(
        (paths, taken) in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..4), 1..24)
            .prop_flat_map(|paths| {
                let names: Vec<String> = (0..paths.len()).map(|i| format!("n{i}")).collect();
                let taken = proptest::sample::subsequence(names.clone(), 1..=names.len());
                (Just(paths), taken.prop_shuffle())
            }),
        per_node in 1u32..4,
    ) {
        let topology = topology(&paths);
        let members = u32::try_from(taken.len()).expect("few") * per_node;
        let seekers: Vec<Seeker<'_>> =
            (0..members).map(|rank| Seeker { rank, position: rank, bound: None }).collect();
        let seats = place(&mut Placer::default(), &seekers, per_node, &[], &whole(&taken), &topology);
        let nodes = ring(&topology, &seats.expect("it fits"));
        // Told from the paths, not by what is tested; names and numbers are in the same order.
        let ring = crate::topology::tests::ring(&paths, &nodes);
        prop_assert_eq!(ring.crossings, ring.least);
        // On the nodes themselves, too: each is entered and left once.
        let edges = nodes.iter().zip(nodes.iter().cycle().skip(1)).filter(|(a, b)| a != b).count();
        prop_assert_eq!(edges, if taken.len() > 1 { taken.len() } else { 0 });
    }

    /// Whoever is bound stays, and the others fill the holes: in rank order, along the network.
    #[test]
    fn holes_are_filled_along_the_network(
        paths in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..3), 2..16),
        gone in any::<u16>(),
    ) {
        let topology = topology(&paths);
        let names: Vec<String> = (0..paths.len()).map(|i| format!("n{i}")).collect();
        let members = u32::try_from(names.len()).expect("few");
        let all: Vec<Seeker<'_>> =
            (0..members).map(|rank| Seeker { rank, position: rank, bound: None }).collect();
        let placer = &mut Placer::default();
        let first = place(placer, &all, 1, &gres(8), &whole(&names), &topology).expect("it fits");
        let bound: Vec<Bound> = first.iter().map(|s| bound(&s.node, &s.indexes)).collect();
        let again: Vec<Seeker<'_>> = (0..members)
            .zip(&bound)
            .map(|(rank, bound)| Seeker {
                rank,
                position: rank,
                bound: Some(bound).filter(|_| gone >> rank & 1 == 0),
            })
            .collect();
        let seats = place(placer, &again, 1, &gres(8), &whole(&names), &topology);
        prop_assert_eq!(seats, Ok(first));
    }
}

#[test]
fn a_bound_member_off_its_seat_leaves_the_others_in_order() {
    let topology = topology(&[vec![1], vec![0], vec![1], vec![0]]);
    let names = ["n0", "n1", "n2", "n3"].map(str::to_owned);
    let at = bound("n1", &[]);
    let seekers: Vec<Seeker<'_>> = (0..4)
        .map(|rank| Seeker { rank, position: rank, bound: (rank == 3).then_some(&at) })
        .collect();
    let seats = place(&mut Placer::default(), &seekers, 1, &[], &whole(&names), &topology);
    let nodes: Vec<String> = seats.expect("fits").into_iter().map(|s| s.node).collect();
    // Depth first: n1 n3 n0 n2. Rank 0 finds its seat taken and gets the one that is left.
    assert_eq!(nodes, ["n2", "n3", "n0", "n1"]);
}
