//! Placement: who of the gang sits where, by a rule that always gives the same answer (rule 9).
//!
//! Slurm has already chosen the nodes; this is ordering and a checked join, not a search. Nodes are
//! taken in the order of the network ([`crate::topology`]), each gives its seats in a row, a member's
//! seat is the one with the number of its position, and a member that is already bound keeps its node
//! and its devices.
//!
//! [`place`] is for people: names in, names out. The work is done on numbers by [`Placer`].
//!
//! Read next: `granted` (what Slurm gave, in numbers), `placer` (the seats), `near` (the devices).

mod granted;
mod near;
mod placer;

use std::collections::{BTreeMap, HashMap};

use crate::gang::Bound;
use crate::job::{Allocation, GresAllocation, GresRequest, JobId};
use crate::pod::Demand;
use crate::topology::Topology;

pub use granted::Granted;
pub use placer::{Candidate, Hold, Misfit, Placer, Spot};

/// Indexes of devices that can be told apart: those of one GRES on one node, from 0.
pub const MAX_DEVICES: u32 = u128::BITS;

/// Seats that are looked at in one allocation; far more than any gang has members.
const MAX_SEATS: usize = 1 << 20;

/// A member as far as seating needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeker<'a> {
    /// Rank in the gang.
    pub rank: u32,
    /// Its place among the members that are placed alike: the number of its seat.
    /// For a gang whose members are all alike, its rank.
    pub position: u32,
    /// Where it already is.
    pub bound: Option<&'a Bound>,
}

/// One member's place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seat {
    /// Rank of the member.
    pub rank: u32,
    /// Slurm's name of the node.
    pub node: String,
    /// Device indexes by GRES name; empty lists are left out.
    pub indexes: Vec<(String, Vec<u32>)>,
}

/// Why an allocation cannot seat the gang.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Fewer seats than members.
    #[error("the allocation has {seats} seats on {nodes} nodes for {members} members")]
    TooFew {
        /// Seats there are.
        seats: usize,
        /// Nodes there are.
        nodes: usize,
        /// Members to seat.
        members: usize,
    },
    /// A member is bound outside the allocation (rule 1).
    #[error("rank {rank} is bound to node {node}, which is not in the allocation")]
    Outside {
        /// The member's rank.
        rank: u32,
        /// Where it is.
        node: String,
    },
    /// A member holds a device that is not of the allocation: Slurm may give it to others (rule 4).
    #[error("rank {rank} holds {gres} {index} of node {node}, which is not in the allocation")]
    Astray {
        /// The member's rank.
        rank: u32,
        /// Where it is.
        node: String,
        /// GRES name.
        gres: String,
        /// The device.
        index: u32,
    },
    /// A node gives fewer devices than its seats need.
    #[error("node {node} gives {given} of {gres} where its seats need {needed}")]
    ShortOf {
        /// The node.
        node: String,
        /// GRES name.
        gres: String,
        /// Devices allocated.
        given: u32,
        /// Devices needed.
        needed: u32,
    },
    /// A device has an index that is too large to be told apart.
    #[error("node {node} gives device {index} of {gres}; gangway tells devices 0 to {} apart", MAX_DEVICES - 1)]
    TooManyDevices {
        /// The node.
        node: String,
        /// GRES name.
        gres: String,
        /// Its index.
        index: u32,
    },
}

/// Whether a bound member still has what it was given by this placeholder: the same start of it, as far
/// as nodes and devices tell. After slurmctld has forgotten a start, the same job may have begun again
/// elsewhere (rule 2).
pub fn still_holds(bound: &Bound, job: JobId, allocation: &Allocation) -> bool {
    let Some(node) = allocation.nodes.iter().find(|node| node.name == bound.node) else {
        return false;
    };
    // Where Slurm only counts, it says nothing of single devices.
    let given = |gres: &str| {
        let named = node.gres.iter().filter(|given| given.name == gres);
        let all: Vec<u32> = named.flat_map(|given| given.indexes.iter().copied()).collect();
        Some(all).filter(|all| !all.is_empty())
    };
    let own = |(gres, held): (&String, &Vec<u32>)| {
        given(gres).is_none_or(|given| held.iter().all(|index| given.contains(index)))
    };
    bound.job == job && bound.indexes.iter().all(own)
}

/// A device that a bound member holds and that is in use, of what is in use on its node.
pub fn in_use<'a>(bound: &'a Bound, used: &[GresAllocation]) -> Option<(&'a str, u32)> {
    let is_used = |gres: &str, index: u32| {
        used.iter().any(|one| one.name == gres && one.indexes.contains(&index))
    };
    let mut held = bound.indexes.iter().flat_map(|(gres, all)| all.iter().map(move |i| (gres, *i)));
    held.find(|(gres, index)| is_used(gres, *index)).map(|(gres, index)| (gres.as_str(), index))
}

/// Whether members that are bound to a node need more CPUs or memory (MiB) than no job has there: then another
/// job has been given a part of what is theirs.
pub fn is_crowded<'a>(
    free_cpus: u64,
    free_mib: u64,
    bound: impl IntoIterator<Item = &'a Demand>,
) -> bool {
    let (cpus, bytes) = bound.into_iter().fold((0u64, 0u64), |(cpus, bytes), demand| {
        (cpus.saturating_add(demand.milli_cpu), bytes.saturating_add(demand.memory))
    });
    cpus > free_cpus.saturating_mul(1_000) || bytes > free_mib.saturating_mul(1 << 20)
}

/// Seats the members of a gang, or those of it that are alike, in one allocation.
///
/// `per_node` is how many members share a node; `needs` the devices of one member. The result is in
/// the order of `seekers`.
pub fn place(
    placer: &mut Placer,
    seekers: &[Seeker<'_>],
    per_node: u32,
    needs: &[GresRequest],
    allocation: &Allocation,
    topology: &Topology,
) -> Result<Vec<Seat>, PlaceError> {
    let granted = Granted::read(allocation, needs, topology)?;
    let (candidates, held) = candidates(seekers, needs, &granted, topology)?;
    let spots = placer.place(topology, &granted, needs, per_node, &candidates, &held);
    let spots = spots
        .map(<[Spot]>::to_vec)
        .map_err(|misfit| named(misfit, seekers, needs, &granted, topology))?;
    let seat = |(seeker, spot): (&Seeker<'_>, Spot)| Seat {
        rank: seeker.rank,
        node: granted.name(topology, spot.node).to_owned(),
        indexes: indexes(needs, placer.devices(needs, spot)),
    };
    Ok(seekers.iter().zip(spots).map(seat).collect())
}

/// From names to numbers. Members that hold the same devices share one set.
fn candidates(
    seekers: &[Seeker<'_>],
    needs: &[GresRequest],
    granted: &Granted,
    topology: &Topology,
) -> Result<(Vec<Candidate>, Vec<u128>), PlaceError> {
    let mut held = Vec::new();
    let mut sets: HashMap<Vec<u128>, u32> = HashMap::new();
    let mut given = HashMap::new();
    if seekers.iter().any(|s| s.bound.is_some()) {
        given.extend(granted.nodes.iter().copied().zip(granted.pattern.iter().copied()));
    }
    let mut out = Vec::with_capacity(seekers.len());
    for seeker in seekers {
        let mut candidate = Candidate { position: seeker.position, bound: None };
        if let Some(bound) = seeker.bound {
            let outside = || PlaceError::Outside { rank: seeker.rank, node: bound.node.clone() };
            let node = granted.find(topology, &bound.node).ok_or_else(outside)?;
            let pattern = *given.get(&node).ok_or_else(outside)?;
            let set = holding(bound, needs, granted.of_pattern(pattern, needs.len()));
            let set = set.map_err(|(gres, index)| {
                let node = bound.node.clone();
                PlaceError::Astray { rank: seeker.rank, node, gres: gres.to_owned(), index }
            })?;
            let set = set.map(|set| {
                let next = sets.len() as u32;
                *sets.entry(set).or_insert_with_key(|set| {
                    held.extend_from_slice(set);
                    next
                })
            });
            candidate.bound = Some(Hold { node, held: set });
        }
        out.push(candidate);
    }
    Ok((out, held))
}

/// The devices a bound member has of what its node gives, by need; `None` where none are known.
/// `Err`: one that is not given.
fn holding<'a>(
    bound: &Bound,
    needs: &'a [GresRequest],
    given: &[granted::Given],
) -> Result<Option<Vec<u128>>, (&'a str, u32)> {
    let mut out = Vec::with_capacity(needs.len());
    for (need, own) in needs.iter().zip(given) {
        // Two kinds of one name are numbered together.
        let alike = needs.iter().zip(given).filter(|(other, _)| other.name == need.name);
        let all = alike.fold(0, |all, (_, given)| all | given.devices);
        let held = bound.indexes.get(&need.name).map_or(&[][..], Vec::as_slice);
        let has = |index: u32| index < MAX_DEVICES && all >> index & 1 == 1;
        // Where Slurm only counts, it says nothing of single devices.
        if let Some(index) = held.iter().find(|index| all != 0 && !has(**index)) {
            return Err((&need.name, *index));
        }
        out.push(held.iter().filter(|index| has(**index)).fold(0, |b, i| b | 1 << i) & own.devices);
    }
    Ok(Some(out).filter(|out| out.iter().any(|bits| *bits != 0)))
}

/// From numbers to names.
fn named(
    misfit: Misfit,
    seekers: &[Seeker<'_>],
    needs: &[GresRequest],
    granted: &Granted,
    topology: &Topology,
) -> PlaceError {
    match misfit {
        Misfit::TooFew { seats, nodes } => {
            PlaceError::TooFew { seats, nodes, members: seekers.len() }
        }
        Misfit::Outside(seeker) => PlaceError::Outside {
            rank: seekers[seeker].rank,
            node: seekers[seeker].bound.map_or_else(String::new, |b| b.node.clone()),
        },
        Misfit::ShortOf { node, need, given, needed } => PlaceError::ShortOf {
            node: granted.name(topology, node).to_owned(),
            gres: needs[need].name.clone(),
            given,
            needed,
        },
    }
}

/// The devices of a seat by GRES name.
fn indexes(needs: &[GresRequest], devices: &[u128]) -> Vec<(String, Vec<u32>)> {
    let mut by_name: BTreeMap<&str, u128> = BTreeMap::new();
    let mut names = Vec::with_capacity(needs.len());
    for (need, bits) in needs.iter().zip(devices).filter(|(_, bits)| **bits != 0) {
        let all = by_name.entry(&need.name).or_insert_with(|| {
            names.push(need.name.as_str());
            0
        });
        *all |= bits;
    }
    let list = |bits: u128| (0..MAX_DEVICES).filter(|i| bits >> i & 1 == 1).collect();
    names.into_iter().map(|name| (name.to_owned(), list(by_name[name]))).collect()
}

/// Indexes in a compact form, as they stand in the annotation: `0-3,6`.
pub fn ranges(indexes: &[u32]) -> String {
    let mut out = String::new();
    let mut i = 0;
    while i < indexes.len() {
        let mut j = i;
        while j + 1 < indexes.len() && Some(indexes[j + 1]) == indexes[j].checked_add(1) {
            j += 1;
        }
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&indexes[i].to_string());
        if j > i {
            out.push('-');
            out.push_str(&indexes[j].to_string());
        }
        i = j + 1;
    }
    out
}

/// Reads what [`ranges`] wrote; `None` for anything else, and for more than 65,536 indexes.
pub fn parse_ranges(text: &str) -> Option<Vec<u32>> {
    let mut out = Vec::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (u32, u32) = (low.parse().ok()?, high.parse().ok()?);
        if high < low || (high - low) as usize + out.len() >= 65_536 {
            return None;
        }
        out.extend(low..=high);
    }
    Some(out)
}

#[cfg(test)]
#[path = "place/tests.rs"]
mod tests;
