//! Placement: who of the gang sits where, by a rule that always gives the same answer (rule 9).
//!
//! Slurm has already chosen the nodes; this is ordering and a checked join, not a search. Nodes are
//! taken in natural order of their names, each gives its seats in a row, ranks fill the seats in
//! order, and a member that is already bound keeps its node.

use std::collections::HashMap;

use crate::job::{Allocation, NodeAllocation};
use crate::order::natural;

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
    let per_node = per_node.max(1) as usize;
    let mut nodes: Vec<&NodeAllocation> = allocation.nodes.iter().collect();
    nodes.sort_by(|a, b| natural(&a.name, &b.name));
    let seats = nodes.len() * per_node;
    if seats < seekers.len() {
        return Err(PlaceError::TooFew { seats, nodes: nodes.len(), members: seekers.len() });
    }
    let seat_of = assign(seekers, &nodes, per_node)?;
    let devices =
        nodes.iter().map(|n| devices(n, per_node, gres)).collect::<Result<Vec<_>, _>>()?;
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

/// Which seat each member gets: bound members first, on their own node and where possible on the
/// seat their rank would have; the rest fill what is left in rank order.
fn assign(
    seekers: &[Seeker<'_>],
    nodes: &[&NodeAllocation],
    per_node: usize,
) -> Result<Vec<usize>, PlaceError> {
    if seekers.iter().all(|s| s.bound.is_none()) {
        return Ok((0..seekers.len()).collect());
    }
    let node_at: HashMap<&str, usize> =
        nodes.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
    let mut taken = vec![false; nodes.len() * per_node];
    let mut out: Vec<Option<usize>> = vec![None; seekers.len()];
    for (i, seeker) in seekers.iter().enumerate() {
        let Some(name) = seeker.bound else { continue };
        let outside = || PlaceError::Outside { rank: seeker.rank, node: name.to_owned() };
        let node = *node_at.get(name).ok_or_else(outside)?;
        let own = node * per_node..(node + 1) * per_node;
        let preferred = Some(i).filter(|s| own.contains(s) && !taken[*s]);
        let seat =
            preferred.or_else(|| own.into_iter().find(|s| !taken[*s])).ok_or_else(outside)?;
        taken[seat] = true;
        out[i] = Some(seat);
    }
    let mut free = (0..taken.len()).filter(|s| !taken[*s]);
    Ok(out.into_iter().map(|seat| seat.or_else(|| free.next()).unwrap_or(usize::MAX)).collect())
}

/// The devices of one node, ready to be shared out among its seats.
struct Devices {
    /// GRES name, devices per seat, all indexes ascending.
    kinds: Vec<(String, usize, Vec<u32>)>,
}

fn devices(
    node: &NodeAllocation,
    per_node: usize,
    gres: &[(String, u32)],
) -> Result<Devices, PlaceError> {
    let mut kinds = Vec::with_capacity(gres.len());
    for (name, each) in gres {
        let given: u32 = node.gres.iter().filter(|g| &g.name == name).map(|g| g.count).sum();
        let needed = each.saturating_mul(u32::try_from(per_node).unwrap_or(u32::MAX));
        if given < needed {
            return Err(PlaceError::ShortOf {
                node: node.name.clone(),
                gres: name.clone(),
                given,
                needed,
            });
        }
        let mut indexes: Vec<u32> = node
            .gres
            .iter()
            .filter(|g| &g.name == name)
            .flat_map(|g| g.indexes.iter().copied())
            .collect();
        indexes.sort_unstable();
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
        while j + 1 < indexes.len() && indexes[j + 1] == indexes[j] + 1 {
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
