//! An allocation in the form that placement works on: numbers and bits, no names.
//!
//! Most nodes of an allocation give the same devices, so each node only points at what it gives
//! (its pattern), and devices are shared out once per pattern. Everything that can be wrong with what
//! Slurm sent is found here.

use std::collections::HashMap;

use super::{MAX_DEVICES, PlaceError};
use crate::job::{Allocation, GresAllocation, GresRequest};
use crate::order::natural;
use crate::topology::{NodeId, Topology};

/// What Slurm granted, nodes in Slurm's order.
#[derive(Clone, Debug, Default)]
pub struct Granted {
    pub(super) nodes: Vec<NodeId>,
    /// By place in `nodes`.
    pub(super) pattern: Vec<u32>,
    pub(super) patterns: Vec<Pattern>,
    /// By pattern and need.
    pub(super) given: Vec<Given>,
    /// Names of nodes that the topology does not know, in natural order; their numbers follow on
    /// those of the topology.
    strangers: Vec<String>,
    /// How many nodes the topology knows.
    known: u32,
}

/// A node that is not numbered yet.
const UNKNOWN: NodeId = NodeId(u32::MAX);

/// What nodes give that are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Number of the layout in the topology.
    pub(super) layout: Option<u16>,
}

/// What a node gives of one need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Given {
    /// Which devices; none where Slurm only counts them.
    pub(super) devices: u128,
    /// How many.
    pub(super) count: u32,
}

impl Granted {
    /// Reads what Slurm granted, as far as it is needed.
    pub fn read(
        allocation: &Allocation,
        needs: &[GresRequest],
        topology: &Topology,
    ) -> Result<Self, PlaceError> {
        let known = u32::try_from(topology.len()).unwrap_or(u32::MAX);
        let mut granted = Self { known, ..Self::default() };
        let nodes = allocation.nodes.iter();
        granted.nodes = nodes.map(|n| topology.find(&n.name).unwrap_or(UNKNOWN)).collect();
        granted.number_strangers(allocation);
        let mut seen: HashMap<(Option<u16>, Vec<Given>), u32> = HashMap::new();
        let mut own = Vec::with_capacity(needs.len());
        granted.pattern.reserve(allocation.nodes.len());
        for (i, node) in allocation.nodes.iter().enumerate() {
            own.clear();
            for need in needs {
                own.push(given(need, needs, &node.name, &node.gres)?);
            }
            let layout = topology.layout(granted.nodes[i]).map(|(number, _)| number);
            let same = granted.pattern.last().copied().filter(|last| {
                granted.patterns[*last as usize].layout == layout
                    && granted.of_pattern(*last, needs.len()) == own
            });
            let pattern = same.unwrap_or_else(|| {
                let next = granted.patterns.len() as u32;
                let pattern = *seen.entry((layout, own.clone())).or_insert(next);
                if pattern == next {
                    granted.patterns.push(Pattern { layout });
                    granted.given.extend_from_slice(&own);
                }
                pattern
            });
            granted.pattern.push(pattern);
        }
        Ok(granted)
    }

    /// Gives numbers to the nodes that the topology does not know.
    fn number_strangers(&mut self, allocation: &Allocation) {
        let named = || allocation.nodes.iter().map(|n| &n.name);
        let unknown = named().zip(&self.nodes).filter(|(_, id)| **id == UNKNOWN);
        self.strangers = unknown.map(|(name, _)| name.clone()).collect();
        if self.strangers.is_empty() {
            return;
        }
        self.strangers.sort_by(|a, b| natural(a, b));
        self.strangers.dedup();
        let mut nodes = std::mem::take(&mut self.nodes);
        for (id, name) in nodes.iter_mut().zip(named()).filter(|(id, _)| **id == UNKNOWN) {
            *id = self.stranger(name).unwrap_or(UNKNOWN);
        }
        self.nodes = nodes;
    }

    fn stranger(&self, name: &str) -> Option<NodeId> {
        let at = self.strangers.binary_search_by(|s| natural(s, name)).ok()?;
        Some(NodeId(self.known + at as u32))
    }

    /// Nodes in Slurm's order.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// A node of the allocation, or of the topology, by name.
    pub fn find(&self, topology: &Topology, name: &str) -> Option<NodeId> {
        topology.find(name).or_else(|| self.stranger(name))
    }

    /// Slurm's name of a node of the allocation.
    pub fn name<'a>(&'a self, topology: &'a Topology, node: NodeId) -> &'a str {
        topology.name(node).unwrap_or_else(|| {
            let at = node.0.checked_sub(self.known).map(|at| at as usize);
            at.and_then(|at| self.strangers.get(at)).map_or("", String::as_str)
        })
    }

    /// One more than the largest number of a node.
    pub(super) fn numbers(&self) -> usize {
        self.known as usize + self.strangers.len()
    }

    pub(super) fn of_pattern(&self, pattern: u32, needs: usize) -> &[Given] {
        &self.given[pattern as usize * needs..][..needs]
    }
}

/// What one node gives of one need. Where Slurm says which devices, only those count.
fn given(
    need: &GresRequest,
    needs: &[GresRequest],
    node: &str,
    gres: &[GresAllocation],
) -> Result<Given, PlaceError> {
    // A need that names no kind does not take from one that another need names.
    let other =
        |kind: &str| needs.iter().any(|n| n.name == need.name && n.kind.as_deref() == Some(kind));
    let mine = |g: &&GresAllocation| {
        g.name == need.name
            && need.kind.as_ref().map_or_else(|| !other(&g.kind), |kind| *kind == g.kind)
    };
    let mut out = Given::default();
    for granted in gres.iter().filter(mine) {
        out.count = out.count.saturating_add(granted.count);
        for index in &granted.indexes {
            if *index >= MAX_DEVICES {
                let (node, gres) = (node.to_owned(), need.name.clone());
                return Err(PlaceError::TooManyDevices { node, gres, index: *index });
            }
            out.devices |= 1 << index;
        }
    }
    if out.devices != 0 {
        out.count = out.devices.count_ones();
    }
    Ok(out)
}
