//! Which devices each member gets, and that nobody's are given away.

use std::collections::BTreeMap;

use super::*;
use crate::pod::Demand;
use crate::topology::layout::Layout;
use crate::topology::{NodeFacts, Source};
use crate::translate::ResourceTable;

/// A node with these devices of each GRES, as one bit each.
fn granting(name: &str, gres: &[(&str, u128)]) -> NodeAllocation {
    let gres = gres.iter().map(|(name, bits)| GresAllocation {
        name: (*name).to_owned(),
        kind: String::new(),
        count: bits.count_ones(),
        indexes: list(*bits),
    });
    NodeAllocation { name: name.to_owned(), gres: gres.collect(), ..NodeAllocation::default() }
}

fn list(bits: u128) -> Vec<u32> {
    (0..128).filter(|i| bits >> i & 1 == 1).collect()
}

/// A topology that knows nodes n0, n1 … to be of one instance type.
fn of_type(instance_type: &str) -> Topology {
    let node = |i| NodeFacts {
        name: format!("n{i}"),
        instance_type: instance_type.to_owned(),
        ..NodeFacts::default()
    };
    Topology::new(Source::Auto, &Layout::known(), (0..4).map(node))
}

/// Places `members` with nobody bound; each line is one member.
fn shown(
    topology: &Topology,
    members: u32,
    per_node: u32,
    needs: &[GresRequest],
    nodes: Vec<NodeAllocation>,
) -> String {
    let seekers: Vec<Seeker<'_>> =
        (0..members).map(|rank| Seeker { rank, position: rank, bound: None }).collect();
    let allocation = Allocation { nodes };
    let seats = place(&mut Placer::default(), &seekers, per_node, needs, &allocation, topology);
    let line = |seat: &Seat| {
        let devices = seat.indexes.iter().map(|(gres, all)| format!(" {gres}={}", ranges(all)));
        format!("{}{}", seat.node, devices.collect::<String>())
    };
    seats.expect("it fits").iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn p5_members_get_the_network_cards_beside_their_gpus() {
    let needs = [need("gpu", 2), need("efa", 8)];
    let whole = granting("n0", &[("gpu", 0xff), ("efa", 0xffff_ffff)]);
    expect![[r#"
        n0 gpu=0-1 efa=0-7
        n0 gpu=2-3 efa=8-15
        n0 gpu=4-5 efa=16-23
        n0 gpu=6-7 efa=24-31"#]]
    .assert_eq(&shown(&of_type("p5.48xlarge"), 4, 4, &needs, vec![whole]));
    // GPUs 1, 2, 5 and 6, and all cards: each member stays on its socket, with its GPUs' cards.
    let half = granting("n0", &[("gpu", 0b0110_0110), ("efa", 0xffff_ffff)]);
    expect![[r#"
        n0 gpu=1-2 efa=4-5,8-9
        n0 gpu=5-6 efa=20-21,24-25"#]]
    .assert_eq(&shown(
        &of_type("p5.48xlarge"),
        2,
        2,
        &[need("gpu", 2), need("efa", 4)],
        vec![half.clone()],
    ));
    // Of an unknown type, indexes in a row.
    expect![[r#"
        n0 gpu=1-2 efa=0-3
        n0 gpu=5-6 efa=4-7"#]]
    .assert_eq(&shown(&of_type("m7i"), 2, 2, &[need("gpu", 2), need("efa", 4)], vec![half]));
}

/// As a bridge asks: the order of the needs is that of their names, and `efa` comes before `gpu` and
/// `neuron`.
#[test]
fn network_cards_never_lead_whatever_comes_first() {
    let needs = |resource: &str, devices: u64, efas: u64| {
        let other = [(resource, devices), ("vpc.amazonaws.com/efa", efas)];
        let other = other.map(|(name, n)| (name.to_owned(), n)).into();
        let demand = Demand { other, ..Demand::default() };
        ResourceTable::default().gres(&demand).expect("both are mapped")
    };
    let p5 = needs("nvidia.com/gpu", 2, 4);
    assert_eq!(p5[0].name, "efa", "the case in point");
    let whole = granting("n0", &[("gpu", 0xff), ("efa", 0xffff_ffff)]);
    expect![[r#"
        n0 efa=0-1,4-5 gpu=0-1
        n0 efa=8-9,12-13 gpu=2-3"#]]
    .assert_eq(&shown(&of_type("p5.48xlarge"), 2, 2, &p5, vec![whole.clone()]));
    let trn1 = needs("aws.amazon.com/neuron", 4, 1);
    let half = granting("n0", &[("neuron", 0xffff), ("efa", 0b1010_1010)]);
    expect![[r#"
        n0 efa=1 neuron=0-3
        n0 efa=3 neuron=4-7"#]]
    .assert_eq(&shown(&of_type("trn1.32xlarge"), 2, 2, &trn1, vec![half]));
    // Where nothing else is needed they lead themselves.
    expect![[r#"
        n0 efa=0-3
        n0 efa=4-7"#]]
    .assert_eq(&shown(&of_type("p5.48xlarge"), 2, 2, &[need("efa", 4)], vec![whole]));
}

#[test]
fn members_keep_to_one_switch_or_socket_while_there_is_one() {
    // GPU 0 alone on its socket: a pair comes from the other one.
    let three = granting("n0", &[("gpu", 0b0111_0001), ("efa", 0b1111)]);
    let p4d = of_type("p4d.24xlarge");
    expect!["n0 gpu=4-5 efa=2"].assert_eq(&shown(
        &p4d,
        1,
        1,
        &[need("gpu", 2), need("efa", 1)],
        vec![three],
    ));
    // One GPU behind each of two switches and a pair behind the third.
    let mixed = granting("n0", &[("gpu", 0b0011_0101), ("efa", 0b1111)]);
    expect![[r#"
        n0 gpu=0,2 efa=0
        n0 gpu=4-5 efa=2"#]]
    .assert_eq(&shown(&p4d, 2, 2, &[need("gpu", 2), need("efa", 1)], vec![mixed]));
    let trn1 = of_type("trn1.32xlarge");
    let quarter = granting("n0", &[("neuron", 0xff00), ("efa", 0xf0)]);
    expect![[r#"
        n0 neuron=8-11 efa=4-5
        n0 neuron=12-15 efa=6-7"#]]
    .assert_eq(&shown(&trn1, 2, 2, &[need("neuron", 4), need("efa", 2)], vec![quarter]));
}

#[test]
fn two_kinds_of_one_gres_are_told_apart() {
    let kind = |name: &str, indexes: std::ops::Range<u32>| GresAllocation {
        kind: name.to_owned(),
        ..gpus(indexes)
    };
    let mut node = node("n1", 0..0);
    node.gres = vec![kind("h100", 0..2), kind("1g.5gb", 2..6)];
    let of = |kind: Option<&str>, count| GresRequest {
        name: "gpu".into(),
        kind: kind.map(Into::into),
        count,
    };
    let allocation = Allocation { nodes: vec![node] };
    let members = [0, 1].map(|rank| At { rank, bound: None });
    // Both kinds are indexes of the same name.
    let both = [of(Some("h100"), 1), of(Some("1g.5gb"), 2)];
    let seats = place_at(&members, 2, &both, &allocation).expect("fits");
    assert_eq!(seats[0].indexes, [("gpu".to_owned(), vec![0, 2, 3])]);
    assert_eq!(seats[1].indexes, [("gpu".to_owned(), vec![1, 4, 5])]);
    // A need that names no kind leaves the named one alone.
    let rest = [of(None, 2), of(Some("h100"), 1)];
    let seats = place_at(&members, 2, &rest, &allocation).expect("fits");
    assert_eq!(seats[1].indexes, [("gpu".to_owned(), vec![1, 4, 5])]);
    let wrong = place_at(&members, 2, &[of(Some("a100"), 1)], &allocation);
    assert!(matches!(wrong, Err(PlaceError::ShortOf { given: 0, needed: 2, .. })), "{wrong:?}");
}

#[test]
fn a_device_that_cannot_be_told_apart_is_an_error() {
    let allocation = Allocation { nodes: vec![node("n1", 127..129)] };
    let error = place_at(&seekers(1), 1, &gres(1), &allocation).expect_err("too large");
    let (node, gres) = ("n1".to_owned(), "gpu".to_owned());
    assert_eq!(error, PlaceError::TooManyDevices { node, gres, index: 128 });
}

/// The case of docs/progress.md: with gaps in the ranks, whoever comes anew was offered a seat that
/// is taken.
#[test]
fn a_replacement_gets_the_devices_that_nobody_holds() {
    let allocation = Allocation { nodes: vec![node("n1", 0..4)] };
    let pod = |indexes: &[u32]| bound("n1", &[("gpu".to_owned(), indexes.to_vec())]);
    // Rank 0 was bound when it was alone in its part of the gang: not with the devices of seat 0.
    let held = [pod(&[2, 3])];
    let seekers = [
        Seeker { rank: 0, position: 0, bound: Some(&held[0]) },
        Seeker { rank: 1, position: 1, bound: None },
    ];
    let seats =
        place(&mut Placer::default(), &seekers, 2, &gres(2), &allocation, &Topology::default());
    let seats = seats.expect("fits");
    assert_eq!(seats[0].indexes, [("gpu".to_owned(), vec![2, 3])]);
    assert_eq!(seats[1].indexes, [("gpu".to_owned(), vec![0, 1])]);
    // Devices that no plan would give together stay together all the same.
    let held = [pod(&[0, 3])];
    let seekers = [
        Seeker { rank: 0, position: 0, bound: Some(&held[0]) },
        Seeker { rank: 1, position: 1, bound: None },
    ];
    let seats =
        place(&mut Placer::default(), &seekers, 2, &gres(2), &allocation, &Topology::default());
    let seats = seats.expect("fits");
    assert_eq!(seats[0].indexes, [("gpu".to_owned(), vec![0, 3])]);
    assert_eq!(seats[1].indexes, [("gpu".to_owned(), vec![1, 2])]);
}

#[test]
fn a_device_that_slurm_no_longer_gives_is_not_confirmed() {
    let mut allocation = Allocation { nodes: vec![node("n1", 4..8)] };
    let held = bound("n1", &[("gpu".to_owned(), vec![4, 2])]);
    let seekers = [Seeker { rank: 5, position: 0, bound: Some(&held) }];
    let seat = |allocation: &Allocation| {
        let topology = Topology::default();
        place(&mut Placer::default(), &seekers, 2, &gres(2), allocation, &topology)
    };
    let (node, gres) = ("n1".to_owned(), "gpu".to_owned());
    assert_eq!(seat(&allocation), Err(PlaceError::Astray { rank: 5, node, gres, index: 2 }));
    // A Slurm that only counts says nothing of single devices.
    allocation.nodes[0].gres[0].indexes.clear();
    assert!(seat(&allocation).is_ok());
}

/// Nodes of a known or unknown type that give any devices at all, some members bound with any of
/// them.
#[derive(Clone, Debug)]
struct Mixed {
    instance_type: &'static str,
    nodes: Vec<(u128, u128)>,
    per_node: u32,
    needs: (u32, u32),
    /// By member: bound or not, and a seed for what it holds.
    members: Vec<(bool, u64)>,
}

fn mixed() -> impl Strategy<Value = Mixed> {
    let types = prop_oneof![Just("p5.48xlarge"), Just("p4d.24xlarge"), Just("none")];
    let node = (0u128..256, 0u128..=u128::from(u32::MAX));
    let nodes = proptest::collection::vec(node, 1..5);
    let members = proptest::collection::vec((any::<bool>(), any::<u64>()), 1..16);
    (types, nodes, 1u32..5, (0u32..4, 0u32..6), members).prop_map(
        |(instance_type, nodes, per_node, needs, members)| Mixed {
            instance_type,
            nodes,
            per_node,
            needs,
            members,
        },
    )
}

impl Mixed {
    fn allocation(&self) -> Allocation {
        let node = |(i, (gpu, efa)): (usize, &(u128, u128))| {
            granting(&format!("n{i}"), &[("gpu", *gpu), ("efa", *efa)])
        };
        Allocation { nodes: self.nodes.iter().enumerate().map(node).collect() }
    }

    fn needs(&self) -> [GresRequest; 2] {
        [need("gpu", self.needs.0), need("efa", self.needs.1)]
    }

    /// What the bound members hold: devices of their own, as many as they need, of any node that has
    /// them left.
    fn bound(&self) -> Vec<Option<Bound>> {
        let mut free = self.nodes.clone();
        let mut seats = vec![self.per_node; free.len()];
        let pick = |free: &mut u128, count: u32, seed: u64| {
            let mut own = list(*free);
            while own.len() > count as usize {
                own.remove(seed as usize % own.len());
            }
            *free &= !own.iter().fold(0, |bits, i| bits | 1u128 << i);
            own
        };
        let (gpus, efas) = self.needs;
        let bind = |(is_bound, seed): &(bool, u64)| {
            let at = (0..free.len()).map(|i| (i + *seed as usize) % free.len()).find(|i| {
                let (gpu, efa) = free[*i];
                seats[*i] > 0 && gpu.count_ones() >= gpus && efa.count_ones() >= efas
            })?;
            is_bound.then(|| {
                seats[at] -= 1;
                let gpu = pick(&mut free[at].0, gpus, *seed);
                let efa = pick(&mut free[at].1, efas, *seed >> 32);
                let held = [("gpu".to_owned(), gpu), ("efa".to_owned(), efa)];
                let held: Vec<_> = held.into_iter().filter(|(_, own)| !own.is_empty()).collect();
                bound(&format!("n{at}"), &held)
            })
        };
        self.members.iter().map(bind).collect()
    }
}

proptest! {
    /// Rule 4, in one allocation: whatever is given, needed and held, no device has two owners,
    /// everyone has what it needs of its own node, and who is bound keeps what it holds.
    #[test]
    fn no_device_has_two_owners(cases in proptest::collection::vec(mixed(), 1..4)) {
        // One placer for all: what is left in its memory must not matter.
        let mut placer = Placer::default();
        for case in cases {
            let (allocation, bound, needs) = (case.allocation(), case.bound(), case.needs());
            let seekers: Vec<Seeker<'_>> = (0..)
                .zip(&bound)
                .map(|(rank, bound)| Seeker { rank, position: rank, bound: bound.as_ref() })
                .collect();
            let topology = of_type(case.instance_type);
            let seats = place(&mut placer, &seekers, case.per_node, &needs, &allocation, &topology);
            let fresh = place(
                &mut Placer::default(), &seekers, case.per_node, &needs, &allocation, &topology,
            );
            prop_assert_eq!(&seats, &fresh);
            let Ok(seats) = seats else { continue };
            let mut given: BTreeMap<(&str, &str), BTreeSet<u32>> = BTreeMap::new();
            let mut on_node: BTreeMap<&str, u32> = BTreeMap::new();
            for (seat, bound) in seats.iter().zip(&bound) {
                let node = allocation.nodes.iter().find(|n| n.name == seat.node).expect("rule 1");
                *on_node.entry(&node.name).or_default() += 1;
                for need in &needs {
                    let has = seat.indexes.iter().find(|(gres, _)| *gres == need.name);
                    let has = has.map_or(&[][..], |(_, all)| all);
                    let of_node = node.gres.iter().find(|g| g.name == need.name).expect("there");
                    if of_node.count > 0 {
                        prop_assert_eq!(has.len(), need.count as usize);
                    }
                    let all = given.entry((&node.name, &of_node.name)).or_default();
                    for device in has {
                        prop_assert!(of_node.indexes.contains(device));
                        prop_assert!(all.insert(*device), "{device} given twice");
                    }
                }
                if let Some(bound) = bound {
                    prop_assert_eq!(&bound.node, &seat.node);
                    let has: BTreeMap<_, _> = seat.indexes.iter().cloned().collect();
                    prop_assert_eq!(&bound.indexes, &has);
                }
            }
            prop_assert!(on_node.values().all(|n| *n <= case.per_node));
        }
    }
}
