//! Placement: who of the gang sits where, by a rule that always gives the same answer (rule 9).
//!
//! Slurm has already chosen the nodes; this is ordering and a checked join, not a search. Nodes are
//! taken in natural order of their names, each gives its seats in a row, a member's seat is the one
//! with the number of its rank, and a member that is already bound keeps its node.

use std::collections::HashMap;

use crate::job::{Allocation, NodeAllocation};
use crate::order::natural;
use crate::workload::MAX_GANG;

/// A member as far as seating needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeker<'a> {
    /// Rank in the gang; the list is in rank order.
    pub rank: u32,
    /// Slurm's name of the node it is already bound to.
    pub bound: Option<&'a str>,
}

/// One member's place.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// Seats the members of a gang in an allocation.
///
/// `per_node` is how many members share a node; `gres` how many devices of each kind one member
/// needs. The result is in the order of `seekers`.
pub fn place(
    seekers: &[Seeker<'_>],
    per_node: u32,
    gres: &[(String, u32)],
    allocation: &Allocation,
) -> Result<Vec<Seat>, PlaceError> {
    let per_node = per_node.clamp(1, MAX_GANG) as usize;
    let mut nodes: Vec<&NodeAllocation> = allocation.nodes.iter().collect();
    nodes.sort_by(|a, b| natural(&a.name, &b.name));
    let seats = nodes.len() * per_node;
    if seats < seekers.len() {
        return Err(PlaceError::TooFew { seats, nodes: nodes.len(), members: seekers.len() });
    }
    let seat_of = assign(seekers, &nodes, per_node)?;
    // A gang smaller than `per_node` has asked for its own seats only.
    let mut used = vec![0; nodes.len()];
    for seat in &seat_of {
        used[seat / per_node] = used[seat / per_node].max(seat % per_node + 1);
    }
    let devices = nodes
        .iter()
        .zip(used)
        .map(|(node, seats)| devices(node, seats, gres))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(seekers
        .iter()
        .zip(seat_of)
        .map(|(seeker, seat)| Seat {
            rank: seeker.rank,
            node: nodes[seat / per_node].name.clone(),
            indexes: devices[seat / per_node].share(seat % per_node),
        })
        .collect())
}

/// Which seat each member gets: the one with the number of its rank, so that whoever replaces a
/// member finds the same devices, however many others are missing at the time. A bound member gets
/// one on its own node in any case; who has none yet fills what is left in rank order.
fn assign(
    seekers: &[Seeker<'_>],
    nodes: &[&NodeAllocation],
    per_node: usize,
) -> Result<Vec<usize>, PlaceError> {
    if seekers.iter().enumerate().all(|(i, s)| s.bound.is_none() && s.rank as usize == i) {
        return Ok((0..seekers.len()).collect());
    }
    let node_at: HashMap<&str, usize> =
        nodes.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
    let mut seats =
        Seats { taken: vec![false; nodes.len() * per_node], of: vec![usize::MAX; seekers.len()] };
    let mut bound = Vec::new();
    let mut unbound = Vec::new();
    for (i, seeker) in seekers.iter().enumerate() {
        let Some(name) = seeker.bound else {
            unbound.push(i);
            continue;
        };
        let outside = || PlaceError::Outside { rank: seeker.rank, node: name.to_owned() };
        let node = *node_at.get(name).ok_or_else(outside)?;
        let own = node * per_node..(node + 1) * per_node;
        if !own.contains(&(seeker.rank as usize)) || !seats.take(i, seeker.rank as usize) {
            bound.push((i, own, outside()));
        }
    }
    for (i, own, outside) in bound {
        if !own.into_iter().any(|seat| seats.take(i, seat)) {
            return Err(outside);
        }
    }
    unbound.retain(|i| !seats.take(*i, seekers[*i].rank as usize));
    let mut left = 0..nodes.len() * per_node;
    for i in unbound {
        left.by_ref().any(|seat| seats.take(i, seat));
    }
    Ok(seats.of)
}

/// Seats as they are given away.
struct Seats {
    taken: Vec<bool>,
    /// The seat of each seeker.
    of: Vec<usize>,
}

impl Seats {
    /// Gives a seat to a seeker, if it is there and free.
    fn take(&mut self, seeker: usize, seat: usize) -> bool {
        let free = self.taken.get(seat) == Some(&false);
        if free {
            self.taken[seat] = true;
            self.of[seeker] = seat;
        }
        free
    }
}

/// The devices of one node, ready to be shared out among its seats.
struct Devices {
    /// GRES name, devices per seat, all indexes ascending.
    kinds: Vec<(String, usize, Vec<u32>)>,
}

fn devices(
    node: &NodeAllocation,
    seats: usize,
    gres: &[(String, u32)],
) -> Result<Devices, PlaceError> {
    let mut kinds = Vec::with_capacity(gres.len());
    for (name, each) in gres {
        let own = || node.gres.iter().filter(|g| &g.name == name);
        let mut indexes: Vec<u32> = own().flat_map(|g| g.indexes.iter().copied()).collect();
        indexes.sort_unstable();
        indexes.dedup();
        // Where Slurm says which devices, only those count.
        let given = match u32::try_from(indexes.len()).unwrap_or(u32::MAX) {
            0 => own().fold(0u32, |sum, g| sum.saturating_add(g.count)),
            n => n,
        };
        let needed = each.saturating_mul(u32::try_from(seats).unwrap_or(u32::MAX));
        if given < needed {
            return Err(PlaceError::ShortOf {
                node: node.name.clone(),
                gres: name.clone(),
                given,
                needed,
            });
        }
        kinds.push((name.clone(), *each as usize, indexes));
    }
    Ok(Devices { kinds })
}

impl Devices {
    /// What the seat with this number on the node gets.
    fn share(&self, slot: usize) -> Vec<(String, Vec<u32>)> {
        self.kinds
            .iter()
            .filter_map(|(name, each, all)| {
                let own = all.get(slot * each..(slot + 1) * each).filter(|o| !o.is_empty())?;
                Some((name.clone(), own.to_vec()))
            })
            .collect()
    }
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
