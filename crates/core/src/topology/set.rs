//! Sets of nodes, one bit each.
//!
//! A cluster of 65,536 nodes is 8 KiB: it stays in the nearest cache, and whole sets are joined and
//! cut 64 nodes at a time.

use super::NodeId;

/// A set of nodes; grows as nodes come in.
#[derive(Clone, Debug, Default)]
pub struct NodeSet {
    words: Vec<u64>,
}

impl NodeSet {
    /// Puts a node in.
    #[inline]
    pub fn insert(&mut self, node: NodeId) {
        let word = node.at() / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (node.0 % 64);
    }

    /// Takes a node out.
    #[inline]
    pub fn remove(&mut self, node: NodeId) {
        if let Some(word) = self.words.get_mut(node.at() / 64) {
            *word &= !(1 << (node.0 % 64));
        }
    }

    /// Whether a node is in it.
    #[inline]
    pub fn contains(&self, node: NodeId) -> bool {
        self.words.get(node.at() / 64).is_some_and(|word| word >> (node.0 % 64) & 1 == 1)
    }

    /// How many nodes are in it.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no node is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Empties it and keeps its room.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Puts in every node of another set.
    pub fn join(&mut self, other: &Self) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (own, other) in self.words.iter_mut().zip(&other.words) {
            *own |= other;
        }
    }

    /// Takes out every node of another set.
    pub fn cut(&mut self, other: &Self) {
        for (own, other) in self.words.iter_mut().zip(&other.words) {
            *own &= !other;
        }
    }

    /// The nodes in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> {
        (0..).step_by(64).zip(&self.words).flat_map(|(first, word)| {
            let rest = std::iter::successors(Some(*word), |rest| Some(rest & rest.wrapping_sub(1)));
            rest.take_while(|rest| *rest != 0)
                .map(move |rest| NodeId(first + rest.trailing_zeros()))
        })
    }
}

/// Equal when they hold the same nodes, whatever room they have.
impl PartialEq for NodeSet {
    fn eq(&self, other: &Self) -> bool {
        let (short, long) =
            if self.words.len() < other.words.len() { (self, other) } else { (other, self) };
        let (same, rest) = long.words.split_at(short.words.len());
        same == short.words && rest.iter().all(|word| *word == 0)
    }
}

impl Eq for NodeSet {}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::default();
        nodes.into_iter().for_each(|node| set.insert(node));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn nodes() -> impl Strategy<Value = BTreeSet<u32>> {
        proptest::collection::btree_set(0u32..300, 0..40)
    }

    fn set(nodes: &BTreeSet<u32>) -> NodeSet {
        nodes.iter().copied().map(NodeId).collect()
    }

    proptest! {
        #[test]
        fn it_does_what_a_set_does(a in nodes(), b in nodes(), node in 0u32..400) {
            let (mut joined, mut cut) = (set(&a), set(&a));
            joined.join(&set(&b));
            cut.cut(&set(&b));
            prop_assert_eq!(&joined, &set(&a.union(&b).copied().collect()));
            prop_assert_eq!(&cut, &set(&a.difference(&b).copied().collect()));
            prop_assert_eq!(joined.iter().map(|n| n.0).collect::<Vec<_>>(),
                a.union(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(set(&a).contains(NodeId(node)), a.contains(&node));
            prop_assert_eq!(set(&a).len(), a.len());
            cut.remove(NodeId(node));
            prop_assert!(!cut.contains(NodeId(node)));
            prop_assert_eq!(set(&a) == set(&b), a == b);
            joined.clear();
            prop_assert!(joined.is_empty() && joined == NodeSet::default());
        }
    }
}
