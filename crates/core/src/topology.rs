//! Where nodes are in the network, and the order in which ranks should meet them.
//!
//! A ring of ranks has to cross into and out of every part of the network that it occupies, once
//! each; walking the nodes depth first crosses no more than that, on every level at once. So all that
//! placement needs of a topology is one number per node: its place in that walk.
//! It is worked out once, when the topology changes, never per gang.
//!
//! This room must never choose nodes (Slurm does), and never guess: a node of which nothing is known
//! comes last, in natural order of its name. The same facts give the same order (rule 9), in
//! whichever order they are told.
//!
//! Read next: [`set`] (sets of nodes), [`layout`] (devices inside one node).

pub mod layout;
pub mod set;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;

use crate::order::natural;
use layout::Layout;
use set::NodeSet;

/// A node of one [`Topology`], numbered in natural order of the names. Numbers from
/// [`Topology::len`] on stand for nodes of an allocation that the topology does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// As an index.
    #[inline]
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// What is known of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Slurm's name of it.
    pub name: String,
    /// Where Kubernetes' labels say it is, coarsest first; empty where they do not say.
    pub labels: Vec<String>,
    /// Where Slurm says it is, coarsest first ([`slurm_path`]); empty where it does not say.
    pub slurm: Vec<String>,
    /// `p5.48xlarge` …; empty where unknown.
    pub instance_type: String,
}

/// Whose word on the network counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Labels where all nodes of the allocation have them, else Slurm.
    #[default]
    Auto,
    /// Slurm alone.
    Slurm,
    /// Labels alone.
    Labels,
}

/// Every node that is known, and the order of each source.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    source: Source,
    names: Vec<String>,
    ids: HashMap<String, NodeId>,
    labels: Order,
    slurm: Order,
    layouts: Vec<Layout>,
    /// By node, an index into `layouts` plus one; 0 for none.
    layout_of: Vec<u16>,
}

impl Topology {
    /// Puts the nodes in order. Of several facts of one name the last counts.
    pub fn new(
        source: Source,
        layouts: &[Layout],
        nodes: impl IntoIterator<Item = NodeFacts>,
    ) -> Self {
        let mut nodes: Vec<NodeFacts> = nodes.into_iter().collect();
        nodes.sort_by(|a, b| natural(&a.name, &b.name));
        nodes.reverse();
        nodes.dedup_by(|a, b| a.name == b.name);
        nodes.reverse();
        let labels = Order::of(nodes.iter().map(|n| n.labels.as_slice()));
        let slurm = Order::of(nodes.iter().map(|n| n.slurm.as_slice()));
        let layout_of = nodes.iter().map(|n| layout_of(layouts, &n.instance_type)).collect();
        let names: Vec<String> = nodes.into_iter().map(|n| n.name).collect();
        let ids = (0..).map(NodeId).zip(&names).map(|(id, name)| (name.clone(), id)).collect();
        Self { source, names, ids, labels, slurm, layouts: layouts.to_vec(), layout_of }
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no node is known.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// A node by Slurm's name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.ids.get(name).copied()
    }

    /// Slurm's name of a node.
    pub fn name(&self, node: NodeId) -> Option<&str> {
        self.names.get(node.at()).map(String::as_str)
    }

    /// How the devices of a node are wired, where its instance type is known.
    pub fn layout(&self, node: NodeId) -> Option<(u16, &Layout)> {
        let number = self.layout_of.get(node.at())?.checked_sub(1)?;
        self.layouts.get(usize::from(number)).map(|layout| (number, layout))
    }

    /// One of the layouts it was made with.
    pub(crate) fn layout_by_number(&self, number: u16) -> Option<&Layout> {
        self.layouts.get(usize::from(number))
    }

    /// Whether for these nodes together the labels count.
    pub fn by_labels(&self, nodes: &[NodeId]) -> bool {
        match self.source {
            Source::Labels => true,
            Source::Slurm => false,
            Source::Auto => nodes.iter().all(|node| self.labels.knows(*node)),
        }
    }

    /// The order that counts for these nodes together.
    pub fn order(&self, nodes: &[NodeId]) -> &Order {
        if self.by_labels(nodes) { &self.labels } else { &self.slurm }
    }
}

/// A depth-first walk over all nodes of a topology.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// By node, its place in the walk.
    position: Vec<u32>,
    /// By place in the walk, the node.
    walk: Vec<u32>,
    known: NodeSet,
}

impl Order {
    /// The walk over nodes with these paths; siblings in natural order, nodes of one part by number.
    fn of<'a>(paths: impl ExactSizeIterator<Item = &'a [String]> + Clone) -> Self {
        let levels = paths.clone().map(<[String]>::len).max().unwrap_or(0);
        let count = paths.len();
        let keys = keys(paths.clone(), levels);
        let key = |node: u32| &keys[node as usize * levels..][..levels];
        let mut walk: Vec<u32> = (0..).take(count).collect();
        walk.sort_by(|a, b| key(*a).cmp(key(*b)).then(a.cmp(b)));

        let mut position = vec![0; count];
        for (place, node) in (0..).zip(&walk) {
            position[*node as usize] = place;
        }
        let mut known = NodeSet::default();
        for (node, _) in (0..).map(NodeId).zip(paths).filter(|(_, path)| !path.is_empty()) {
            known.insert(node);
        }
        Self { position, walk, known }
    }

    /// The place of a node in the walk. Nodes that the topology does not know come last.
    #[inline]
    pub fn position(&self, node: NodeId) -> u32 {
        self.position.get(node.at()).copied().unwrap_or(node.0)
    }

    /// The node at a place in the walk: the other way round.
    #[inline]
    pub fn node(&self, position: u32) -> NodeId {
        NodeId(self.walk.get(position as usize).copied().unwrap_or(position))
    }

    /// Whether the source says anything of this node.
    pub fn knows(&self, node: NodeId) -> bool {
        self.known.contains(node)
    }
}

/// By node and level, the rank of its part among all texts of that level; a path that ends early
/// comes before its siblings, a node without a path after all.
fn keys<'a>(paths: impl Iterator<Item = &'a [String]> + Clone, levels: usize) -> Vec<u32> {
    let mut keys = Vec::new();
    let mut ranks: Vec<HashMap<&str, u32>> = Vec::with_capacity(levels);
    for level in 0..levels {
        let mut texts: Vec<&str> =
            paths.clone().filter_map(|path| path.get(level)).map(String::as_str).collect();
        // Most nodes share their part, and comparing naturally is slow.
        texts.sort_unstable();
        texts.dedup();
        texts.sort_by(|a, b| natural(a, b));
        ranks.push(texts.into_iter().zip(1..).collect());
    }
    for path in paths {
        let part = |level: usize| match path.get(level) {
            Some(text) => ranks[level].get(text.as_str()).copied().unwrap_or(0),
            None if path.is_empty() => u32::MAX,
            None => 0,
        };
        keys.extend((0..levels).map(part));
    }
    keys
}

fn layout_of(layouts: &[Layout], instance_type: &str) -> u16 {
    let found = layouts.iter().position(|layout| layout.instance_type == instance_type);
    found.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or(0)
}

/// Slurm's word on where a node is (`topology` of `GET node/{name}`), coarsest first.
///
/// `topo-tree:root:s1,topo-block:b7` is a node in switch s1 below root; where that leaves nodes equal,
/// in block b7. The first topology named is Slurm's first, so it goes first here.
pub fn slurm_path(text: &str) -> Vec<String> {
    text.split([',', ':'])
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}
