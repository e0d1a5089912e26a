use std::collections::BTreeSet;

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::job::{GresAllocation, JobId, NodeAllocation};

#[path = "tests/devices.rs"]
mod devices;
#[path = "tests/network.rs"]
mod network;

/// A member by rank, and the node it is bound to without its devices being known.
#[derive(Clone, Copy)]
struct At<'a> {
    rank: u32,
    bound: Option<&'a str>,
}

/// Places members that are all alike where nothing is known of the network.
fn place_at(
    members: &[At<'_>],
    per_node: u32,
    needs: &[GresRequest],
    allocation: &Allocation,
) -> Result<Vec<Seat>, PlaceError> {
    let bound: Vec<Option<Bound>> =
        members.iter().map(|m| m.bound.map(|n| bound(n, &[]))).collect();
    let seekers: Vec<Seeker<'_>> = members
        .iter()
        .zip(&bound)
        .map(|(m, bound)| Seeker { rank: m.rank, position: m.rank, bound: bound.as_ref() })
        .collect();
    let topology = Topology::default();
    place(&mut Placer::default(), &seekers, per_node, needs, allocation, &topology)
}

/// A binding to a node, with these devices.
fn bound(node: &str, indexes: &[(String, Vec<u32>)]) -> Bound {
    let indexes = indexes.iter().cloned().collect();
    Bound { generation: 1, job: JobId(7), node: node.to_owned(), indexes }
}

/// A gang that fits an allocation: nodes, members per node, GPUs per member, members.
#[derive(Clone, Debug)]
struct Case {
    allocation: Allocation,
    per_node: u32,
    each: u32,
    members: u32,
}

#[test]
fn a_node_is_crowded_when_less_is_left_than_its_members_need() {
    let member = |milli_cpu, memory| Demand { milli_cpu, memory, ..Demand::default() };
    let pair = [member(1_500, 1 << 30), member(500, 1 << 30)];
    assert!(!is_crowded(2, 2_048, &pair));
    assert!(is_crowded(1, 2_048, &pair), "a CPU is somebody else's");
    assert!(is_crowded(2, 2_047, &pair), "or some memory");
    assert!(!is_crowded(0, 0, &[member(0, 0)]), "who needs nothing has nothing to lose");
    assert!(!is_crowded(u64::MAX, u64::MAX, &pair));
}

#[test]
fn a_member_still_holds_what_this_very_start_gave_it() {
    let gres = |indexes: &[u32]| GresAllocation {
        name: "gpu".to_owned(),
        count: 2,
        indexes: indexes.to_vec(),
        ..GresAllocation::default()
    };
    let node = |name: &str, indexes: &[u32]| NodeAllocation {
        name: name.to_owned(),
        gres: vec![gres(indexes)],
        ..NodeAllocation::default()
    };
    let own = bound("n1", &[("gpu".to_owned(), vec![2, 3])]);
    let holds =
        |job, nodes: Vec<NodeAllocation>| still_holds(&own, JobId(job), &Allocation { nodes });
    assert!(holds(7, vec![node("n2", &[0]), node("n1", &[1, 2, 3])]));
    assert!(!holds(8, vec![node("n1", &[2, 3])]), "another job");
    assert!(!holds(7, vec![node("n2", &[2, 3])]), "other nodes");
    assert!(!holds(7, vec![node("n1", &[0, 1])]), "other devices");
    assert!(holds(7, vec![node("n1", &[])]), "Slurm only counts");
    assert_eq!(in_use(&own, &[gres(&[0, 1])]), None);
    assert_eq!(in_use(&own, &[gres(&[1]), gres(&[0, 3])]), Some(("gpu", 3)));
}

proptest! {
    #[test]
    fn the_order_of_the_allocation_changes_nothing(
        (case, shuffled) in case().prop_flat_map(|case| {
            let nodes = Just(case.allocation.nodes.clone()).prop_shuffle();
            (Just(case), nodes)
        }),
    ) {
        let seats = seat(&case, &[]);
        let allocation = Allocation { nodes: shuffled };
        prop_assert_eq!(seat(&Case { allocation, ..case }, &[]), seats);
    }

    #[test]
    fn every_seat_is_in_the_allocation_and_no_device_is_given_twice(case in case()) {
        let seats = seat(&case, &[]).expect("it fits");
        prop_assert_eq!(seats.len(), case.members as usize);
        let mut given = BTreeSet::new();
        for (rank, seat) in (0..).zip(&seats) {
            prop_assert_eq!(seat.rank, rank);
            let node = case.allocation.nodes.iter().find(|n| n.name == seat.node);
            let node = node.expect("rule 1: its node is in the allocation");
            let own: Vec<u32> = node.gres.iter().flat_map(|g| g.indexes.clone()).collect();
            let indexes: Vec<u32> = seat.indexes.iter().flat_map(|(_, i)| i.clone()).collect();
            prop_assert_eq!(indexes.len(), case.each as usize, "exactly what is asked");
            for index in indexes {
                prop_assert!(own.contains(&index), "{index} is not of {}", node.name);
                prop_assert!(given.insert((seat.node.clone(), index)), "{index} given twice");
            }
        }
    }

    /// Rule 9, also after members were replaced one after another: whoever is missing, the others
    /// keep their seats, and a replacement gets the devices of the one before it.
    #[test]
    fn a_rank_has_the_same_seat_whoever_else_is_there(
        case in case(), there in any::<u64>(), bound in any::<u64>(),
    ) {
        let all = seat(&case, &[]).expect("it fits");
        let some: Vec<&Seat> = all.iter().filter(|s| there >> (s.rank % 64) & 1 == 1).collect();
        let members: Vec<At<'_>> = some
            .iter()
            .map(|s| At {
                rank: s.rank,
                bound: Some(s.node.as_str()).filter(|_| bound >> (s.rank % 64) & 1 == 1),
            })
            .collect();
        let again = place_at(&members, case.per_node, &gres(case.each), &case.allocation).expect("fits");
        prop_assert_eq!(again.iter().collect::<Vec<_>>(), some);
    }

    #[test]
    fn a_bound_member_stays_wherever_it_is(
        case in case(), at in proptest::collection::vec(any::<prop::sample::Index>(), 24),
    ) {
        let names: Vec<&str> = case.allocation.nodes.iter().map(|n| n.name.as_str()).collect();
        let bound: Vec<&str> =
            (0..case.members as usize).map(|i| names[at[i].index(names.len())]).collect();
        let crowded = names.iter().any(|name| {
            bound.iter().filter(|b| *b == name).count() > case.per_node as usize
        });
        match seat(&case, &bound) {
            Ok(seats) => {
                prop_assert!(!crowded);
                prop_assert!(seats.iter().zip(&bound).all(|(seat, node)| seat.node == *node));
                let pins: Vec<&str> = seats.iter().map(|s| s.node.as_str()).collect();
                prop_assert_eq!(seat(&case, &pins), Ok(seats.clone()));
            }
            Err(error) => prop_assert!(crowded, "{error}"),
        }
    }

    #[test]
    fn ranges_survive_their_text(indexes in proptest::collection::vec(any::<u32>(), 0..40)) {
        prop_assert_eq!(parse_ranges(&ranges(&indexes)), Some(indexes));
    }

    #[test]
    fn hostile_ranges_are_none_or_few(text in "[0-9,+-]{0,24}|\\PC{0,12}") {
        if let Some(indexes) = parse_ranges(&text) {
            prop_assert!(indexes.len() <= 65_536);
        }
    }
}

#[test]
fn ranks_fill_the_nodes_in_natural_order_and_share_their_devices() {
    let allocation = Allocation { nodes: vec![node("n10", 0..4), node("n2", 4..8)] };
    let seats = place_at(&seekers(3), 2, &gres(2), &allocation).expect("fits");
    let shown: Vec<String> = seats
        .iter()
        .map(|s| format!("{} {} {}={}", s.rank, s.node, s.indexes[0].0, ranges(&s.indexes[0].1)))
        .collect();
    expect!["0 n2 gpu=4-5\n1 n2 gpu=6-7\n2 n10 gpu=0-1"].assert_eq(&shown.join("\n"));
}

#[test]
fn two_kinds_of_one_gres_are_one_supply() {
    let mut split = node("n1", 0..2);
    split.gres.push(gpus(6..8));
    let seats =
        place_at(&seekers(2), 2, &gres(2), &Allocation { nodes: vec![split] }).expect("fits");
    assert_eq!(seats[1].indexes, [("gpu".to_owned(), vec![6, 7])]);
}

#[test]
fn devices_that_slurm_only_counts_have_no_indexes() {
    let mut counted = node("n1", 0..4);
    counted.gres[0].indexes.clear();
    let seats = place_at(&seekers(2), 2, &gres(2), &Allocation { nodes: vec![counted] });
    assert!(seats.expect("fits").iter().all(|s| s.indexes.is_empty()));
}

#[test]
fn a_gang_smaller_than_a_node_needs_its_own_seats_only() {
    // translate asks for two seats of a gang of two, however many could share the node.
    let allocation = Allocation { nodes: vec![node("n1", 0..4)] };
    let seats = place_at(&seekers(2), 8, &gres(2), &allocation).expect("fits");
    assert_eq!(seats[1].indexes, [("gpu".to_owned(), vec![2, 3])]);
}

#[test]
fn a_replacement_gets_the_devices_of_the_one_before_it() {
    // Ranks 1 and 2 are gone; the replacement of rank 2 comes first.
    let allocation = Allocation { nodes: vec![node("n1", 0..4)] };
    let at = |rank, bound| At { rank, bound };
    let seekers = [at(0, Some("n1")), at(2, None), at(3, Some("n1"))];
    let seats = place_at(&seekers, 4, &gres(1), &allocation).expect("fits");
    assert_eq!(seats[1].indexes, [("gpu".to_owned(), vec![2])]);
}

#[test]
fn a_rank_beyond_all_seats_gets_what_is_left() {
    let allocation = Allocation { nodes: vec![node("n1", 0..4)] };
    let members = [1, u32::MAX].map(|rank| At { rank, bound: None });
    let seats = place_at(&members, 2, &gres(2), &allocation).expect("fits");
    assert_eq!(seats[0].indexes, [("gpu".to_owned(), vec![2, 3])]);
    assert_eq!(seats[1].indexes, [("gpu".to_owned(), vec![0, 1])]);
}

#[test]
fn too_few_seats_are_an_error() {
    let allocation = Allocation { nodes: vec![node("n1", 0..4)] };
    let error = place_at(&seekers(3), 2, &gres(1), &allocation);
    assert_eq!(error, Err(PlaceError::TooFew { seats: 2, nodes: 1, members: 3 }));
    let none = place_at(&seekers(1), 1, &[], &Allocation::default());
    assert_eq!(none, Err(PlaceError::TooFew { seats: 0, nodes: 0, members: 1 }));
}

#[test]
fn a_member_bound_outside_the_allocation_is_an_error() {
    let allocation = Allocation { nodes: vec![node("n1", 0..4), node("n2", 0..4)] };
    let bound = [At { rank: 0, bound: None }, At { rank: 1, bound: Some("n3") }];
    let error = place_at(&bound, 1, &gres(1), &allocation);
    assert_eq!(error, Err(PlaceError::Outside { rank: 1, node: "n3".to_owned() }));
    // More on one node than it has seats is outside, too.
    let crowd = [0, 1].map(|rank| At { rank, bound: Some("n1") });
    let error = place_at(&crowd, 1, &gres(1), &allocation);
    assert!(matches!(error, Err(PlaceError::Outside { .. })), "{error:?}");
}

#[test]
fn a_node_that_gives_too_little_is_named() {
    let short = |node: NodeAllocation| {
        place_at(&seekers(2), 2, &gres(3), &Allocation { nodes: vec![node] })
    };
    let wanted = |given| {
        let (node, gres) = ("n1".to_owned(), "gpu".to_owned());
        Err(PlaceError::ShortOf { node, gres, given, needed: 6 })
    };
    assert_eq!(short(node("n1", 0..4)), wanted(4));
    // Six counted, but only four are named: two seats would share or one have none.
    let mut vague = node("n1", 0..4);
    vague.gres[0].count = 6;
    assert_eq!(short(vague), wanted(4));
    let mut nothing = node("n1", 0..4);
    nothing.gres.clear();
    assert_eq!(short(nothing), wanted(0));
}

#[test]
fn ranges_are_compact_and_foreign_text_is_refused() {
    assert_eq!(ranges(&[0, 1, 2, 3, 6, 8, 9]), "0-3,6,8-9");
    assert_eq!(ranges(&[u32::MAX, 0]), "4294967295,0");
    assert_eq!(parse_ranges(""), Some(vec![]));
    for text in ["a", "1-", "-1", "3-1", "1-2-3", "0-4294967295", "0-65535,7", "4294967296", "1 "] {
        assert_eq!(parse_ranges(text), None, "{text}");
    }
}

/// Nodes in no order, some of whose devices are not ours; at most 24 members.
fn case() -> impl Strategy<Value = Case> {
    let names = proptest::sample::subsequence(vec!["n1", "n2", "n10", "n020", "m3", "x"], 1..=6);
    (names.prop_shuffle(), 1u32..=4, 0u32..=3).prop_flat_map(|(names, per_node, each)| {
        let seats = u32::try_from(names.len()).expect("few") * per_node;
        let first = proptest::collection::vec(0u32..5, names.len());
        (first, 1..=seats).prop_map(move |(first, members)| {
            let nodes = names.iter().zip(first);
            let nodes = nodes.map(|(name, first)| node(name, first..first + per_node * each));
            Case { allocation: Allocation { nodes: nodes.collect() }, per_node, each, members }
        })
    })
}

fn seat(case: &Case, bound: &[&str]) -> Result<Vec<Seat>, PlaceError> {
    let members: Vec<At<'_>> = (0..case.members)
        .map(|rank| At { rank, bound: bound.get(rank as usize).copied() })
        .collect();
    place_at(&members, case.per_node, &gres(case.each), &case.allocation)
}

fn seekers(members: u32) -> Vec<At<'static>> {
    (0..members).map(|rank| At { rank, bound: None }).collect()
}

fn gres(each: u32) -> Vec<GresRequest> {
    vec![need("gpu", each)]
}

fn need(name: &str, count: u32) -> GresRequest {
    GresRequest { name: name.to_owned(), kind: None, count }
}

fn gpus(indexes: std::ops::Range<u32>) -> GresAllocation {
    GresAllocation {
        name: "gpu".to_owned(),
        kind: String::new(),
        count: indexes.end - indexes.start,
        indexes: indexes.collect(),
    }
}

fn node(name: &str, indexes: std::ops::Range<u32>) -> NodeAllocation {
    NodeAllocation { name: name.to_owned(), gres: vec![gpus(indexes)], ..NodeAllocation::default() }
}
