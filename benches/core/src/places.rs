//! Placements: from what Slurm granted to a node and devices for every member.

use std::hint::black_box;

use gangway_core::job::{Allocation, GresAllocation, GresRequest, NodeAllocation};
use gangway_core::place::{Candidate, Granted, Hold, Placer};
use gangway_core::topology::layout::Layout;
use gangway_core::topology::{Source, Topology};

use crate::{Case, Maker, facts};

/// More than one Slurm cluster can have: headroom.
const BEYOND: usize = 100_000;

pub(crate) fn add(add: &mut impl FnMut(&str, Maker)) {
    for members in [64, 1024, 5000, 16_384, 65_536, BEYOND] {
        add(&format!("place/1-per-node/{members}"), Box::new(move || whole(members, 1)));
    }
    for per_node in [2, 4, 8] {
        for members in [1024, 65_536] {
            let name = format!("place/{per_node}-per-node/{members}");
            add(&name, Box::new(move || whole(members, per_node)));
        }
    }
    for per_node in [1, 8] {
        let name = format!("place/{per_node}-per-node/65536/one-hole");
        add(&name, Box::new(move || one_hole(65_536, per_node)));
    }
    add("place/4-per-node/65536/scattered-devices", Box::new(|| scattered(65_536)));
    for nodes in [5000, 65_536] {
        add(&format!("granted/read/{nodes}"), Box::new(move || grant(nodes)));
    }
}

/// A cluster as large as the allocation, and an allocation of all of it in an order that is neither
/// that of the names nor that of the network.
struct Cluster {
    topology: Topology,
    needs: Vec<GresRequest>,
    allocation: Allocation,
}

fn cluster(nodes: usize, per_node: u32, devices: impl Fn(usize) -> (u32, u32)) -> Cluster {
    let need = |name: &str, count| GresRequest { name: name.to_owned(), kind: None, count };
    let node = |place: usize| {
        let i = place * 48_271 % nodes;
        let (gpus, efas) = devices(i);
        NodeAllocation {
            name: format!("p5-{i:05}"),
            cpus: 192,
            memory_mib: 2 << 20,
            gres: vec![gres("gpu", "h100", gpus), gres("efa", "", efas)],
        }
    };
    Cluster {
        topology: Topology::new(Source::Auto, &Layout::known(), facts(nodes)),
        needs: vec![need("gpu", 8 / per_node), need("efa", 32 / per_node)],
        allocation: Allocation { nodes: (0..nodes).map(node).collect() },
    }
}

/// A resource whose devices are these bits.
fn gres(name: &str, kind: &str, bits: u32) -> GresAllocation {
    let indexes: Vec<u32> = (0..32).filter(|i| bits >> i & 1 == 1).collect();
    GresAllocation {
        name: name.to_owned(),
        kind: kind.to_owned(),
        count: bits.count_ones(),
        indexes,
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("no bench is that large")
}

/// Everything is free: whole p5 nodes, 8 GPUs and 32 EFAs shared by the members on each.
fn whole(members: usize, per_node: u32) -> Case {
    let cluster = cluster(members / per_node as usize, per_node, |_| (0xff, u32::MAX));
    let candidates =
        (0..number(members)).map(|position| Candidate { position, bound: None }).collect();
    placing(cluster, per_node, candidates, Vec::new())
}

/// Nodes that give eight GPUs of which four are ours, any four, and any sixteen EFAs.
fn scattered(members: usize) -> Case {
    let nodes = members / 4;
    let mut cluster = cluster(nodes, 4, |i| {
        let gpus = (0u32..256).filter(|b| b.count_ones() == 4).nth(i * 7 % 70).unwrap_or(0xf);
        let efas = (0..8)
            .filter(|g| gpus >> g & 1 == 1)
            .fold(0, |all, g| all | 0xf << (4 * ((g + i) % 8)));
        (gpus, efas)
    });
    cluster.needs.iter_mut().for_each(|need| need.count /= 2);
    let candidates =
        (0..number(members)).map(|position| Candidate { position, bound: None }).collect();
    placing(cluster, 4, candidates, Vec::new())
}

/// All are bound with their devices but one in the middle, whose replacement comes.
fn one_hole(members: usize, per_node: u32) -> Case {
    let cluster = cluster(members / per_node as usize, per_node, |_| (0xff, u32::MAX));
    let granted = Granted::read(&cluster.allocation, &cluster.needs, &cluster.topology);
    let granted = granted.expect("it is well formed");
    let all: Vec<Candidate> =
        (0..number(members)).map(|position| Candidate { position, bound: None }).collect();
    let mut placer = Placer::default();
    let spots = placer.place(&cluster.topology, &granted, &cluster.needs, per_node, &all, &[]);
    let spots = spots.expect("it fits").to_vec();
    let mut held: Vec<u128> = Vec::new();
    let candidates = all.iter().zip(&spots).map(|(candidate, spot)| {
        let devices = placer.devices(&cluster.needs, *spot);
        let at = held.chunks(2).position(|known| known == devices).unwrap_or_else(|| {
            held.extend_from_slice(devices);
            held.len() / 2 - 1
        });
        let hold = Hold { node: spot.node, held: Some(number(at)) };
        let bound = Some(hold).filter(|_| candidate.position as usize != members / 2);
        Candidate { bound, ..*candidate }
    });
    let candidates = candidates.collect();
    placing(cluster, per_node, candidates, held)
}

fn placing(cluster: Cluster, per_node: u32, candidates: Vec<Candidate>, held: Vec<u128>) -> Case {
    let Cluster { topology, needs, allocation } = cluster;
    let granted = Granted::read(&allocation, &needs, &topology).expect("it is well formed");
    let mut placer = Placer::default();
    Case::new("member", candidates.len(), move || {
        let candidates = black_box(&candidates);
        let spots = placer.place(&topology, &granted, &needs, per_node, candidates, &held);
        spots.expect("it fits").len()
    })
}

/// From names to numbers: what is done once before placing.
fn grant(nodes: usize) -> Case {
    let Cluster { topology, needs, allocation } = cluster(nodes, 1, |_| (0xff, u32::MAX));
    Case::new("node", nodes, move || {
        let granted = Granted::read(black_box(&allocation), &needs, &topology);
        granted.expect("it is well formed").nodes().len()
    })
}
