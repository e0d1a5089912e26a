//! Every node of Kubernetes, and which of them each kind of pod may not go to.
//!
//! Kept so that a change costs little: a node whose facts are as before is no change, a node that has
//! changed is looked at once for each kind of constraints, and equal answers share one text.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::taint::Taint;
use super::{Constraints, hostlist};
use crate::names;

/// A node as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Kubernetes' name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
}

/// A node as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Kubernetes' name.
    pub name: String,
    /// Slurm's name.
    pub slurm: String,
    /// Labels by key, ascending; the words are shared among nodes.
    labels: Box<[(Arc<str>, Arc<str>)]>,
    /// Taints.
    pub taints: Box<[Taint]>,
    /// Cordoned.
    pub unschedulable: bool,
}

impl NodeFacts {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(own, _)| own.as_ref().cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }
}

/// The nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    /// A node keeps its number; numbers of nodes that are gone are given out again.
    slots: Vec<Option<NodeFacts>>,
    free: Vec<usize>,
    by_name: HashMap<String, usize>,
    by_slurm: HashMap<String, usize>,
    words: HashSet<Arc<str>>,
    /// Slots that have changed since the last [`Nodes::settle`].
    changed: Vec<usize>,
    kinds: HashMap<Arc<Constraints>, Shut>,
    /// Kinds that have not been looked at yet.
    fresh: Vec<Arc<Constraints>>,
    texts: HashMap<Bits, Arc<str>>,
    /// How many kinds there were when unused ones were last dropped.
    swept: usize,
}

/// Where one kind of pods may not go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shut {
    bits: Bits,
    text: Arc<str>,
}

impl Nodes {
    /// Takes in a node as it is now. False where nothing of it has changed.
    pub fn put(&mut self, node: &Node) -> bool {
        let slot = self.by_name.get(&node.name).copied();
        if slot.is_some_and(|slot| self.slots[slot].as_ref().is_some_and(|old| same(old, node))) {
            return false;
        }
        let facts = self.facts(node);
        let slot = slot.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(old) = self.slots[slot].take() {
            self.unname(&old.slurm, slot);
        }
        // Another node may have had the name: from now on this one has it.
        let before = self.by_slurm.insert(facts.slurm.clone(), slot);
        self.changed.extend(before);
        self.by_name.insert(facts.name.clone(), slot);
        self.slots[slot] = Some(facts);
        self.changed.push(slot);
        true
    }

    /// Forgets a node that is gone. False where there was none.
    pub fn drop(&mut self, name: &str) -> bool {
        let Some(slot) = self.by_name.remove(name) else { return false };
        if let Some(old) = self.slots[slot].take() {
            self.unname(&old.slurm, slot);
        }
        self.free.push(slot);
        self.changed.push(slot);
        self.words.retain(|word| Arc::strong_count(word) > 1);
        true
    }

    /// Keeps only the nodes of a full list.
    pub fn keep(&mut self, names: &HashSet<String>) {
        let gone: Vec<String> =
            self.by_name.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            self.drop(&name);
        }
    }

    fn unname(&mut self, slurm: &str, slot: usize) {
        if self.by_slurm.get(slurm) == Some(&slot) {
            self.by_slurm.remove(slurm);
        }
    }

    fn facts(&mut self, node: &Node) -> NodeFacts {
        let labels = node.labels.iter().map(|(k, v)| (self.word(k), self.word(v))).collect();
        NodeFacts {
            name: node.name.clone(),
            slurm: slurm_name(node).to_owned(),
            labels,
            taints: node.taints.clone().into(),
            unschedulable: node.unschedulable,
        }
    }

    fn word(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.words.get(word) {
            return known.clone();
        }
        let word: Arc<str> = Arc::from(word);
        self.words.insert(word.clone());
        word
    }

    /// The node that Slurm knows by this name.
    pub fn of_slurm(&self, slurm: &str) -> Option<&NodeFacts> {
        self.by_slurm.get(slurm).and_then(|slot| self.slots[*slot].as_ref())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// The one copy of these constraints that everyone shares.
    pub fn intern(&mut self, constraints: Constraints) -> Arc<Constraints> {
        if let Some((known, _)) = self.kinds.get_key_value(&constraints) {
            return known.clone();
        }
        let kind = Arc::new(constraints);
        let shut = Shut { bits: Bits::default(), text: Arc::from("") };
        self.kinds.insert(kind.clone(), shut);
        self.fresh.push(kind.clone());
        kind
    }

    /// Takes all changes into account. Returns the kinds that are shut out of other nodes than before.
    pub fn settle(&mut self) -> HashSet<Arc<Constraints>> {
        if self.fresh.is_empty() && self.changed.is_empty() {
            return HashSet::new();
        }
        self.sweep();
        let fresh: HashSet<Arc<Constraints>> =
            std::mem::take(&mut self.fresh).into_iter().collect();
        let changed = std::mem::take(&mut self.changed);
        if !changed.is_empty() {
            // A number may stand for another node now.
            self.texts.clear();
        }
        let mut news = HashSet::new();
        let mut kinds = std::mem::take(&mut self.kinds);
        for (kind, shut) in &mut kinds {
            let bits = if fresh.contains(kind) {
                self.look(kind, 0..self.slots.len(), Bits::default())
            } else if changed.is_empty() {
                continue;
            } else {
                self.look(kind, changed.iter().copied(), shut.bits.clone())
            };
            let text = self.text(&bits);
            if text != shut.text {
                shut.text = text;
                news.insert(kind.clone());
            }
            shut.bits = bits;
        }
        self.kinds = kinds;
        news
    }

    /// Drops the kinds nobody has any more, once there may be many.
    fn sweep(&mut self) {
        if self.kinds.len() > 2 * self.swept + 64 {
            self.fresh.retain(|kind| Arc::strong_count(kind) > 2);
            self.kinds.retain(|kind, _| Arc::strong_count(kind) > 1);
            let used: HashSet<Bits> = self.kinds.values().map(|shut| shut.bits.clone()).collect();
            self.texts.retain(|bits, _| used.contains(bits));
            self.swept = self.kinds.len();
        }
    }

    /// The nodes shut to a kind, with these slots looked at anew. A slot without a node, or whose
    /// Slurm name another node has, is shut to nobody: there is nothing of it to exclude.
    fn look(&self, kind: &Constraints, slots: impl Iterator<Item = usize>, mut bits: Bits) -> Bits {
        for slot in slots {
            let own = |facts: &&NodeFacts| self.by_slurm.get(&facts.slurm) == Some(&slot);
            let node = self.slots[slot].as_ref().filter(own);
            bits.set(slot, node.is_some_and(|node| kind.barrier(node).is_some()));
        }
        bits
    }

    fn text(&mut self, bits: &Bits) -> Arc<str> {
        if let Some(known) = self.texts.get(bits) {
            return known.clone();
        }
        let names = bits.iter().filter_map(|slot| self.slots[slot].as_ref());
        let text: Arc<str> = Arc::from(hostlist(names.map(|n| n.slurm.clone()).collect()));
        self.texts.insert(bits.clone(), text.clone());
        text
    }

    /// Slurm hostlist of the nodes that these pods may not go to; empty where they may go anywhere.
    pub fn excluded(&self, kind: &Constraints) -> Arc<str> {
        self.kinds.get(kind).map_or_else(|| Arc::from(""), |shut| shut.text.clone())
    }

    /// How many nodes are open to these pods.
    pub fn open(&self, kind: &Constraints) -> usize {
        let shut = self.kinds.get(kind).map_or(0, |shut| shut.bits.count());
        self.by_slurm.len().saturating_sub(shut)
    }

    /// What to tell where fewer than `needed` nodes are open to these pods: how many, and what shuts
    /// the others, the commonest cause first.
    pub fn too_few(
        &self,
        kind: &Constraints,
        needed: usize,
        pod: &str,
        pods: usize,
    ) -> Option<String> {
        if let Some(problem) = &kind.problem {
            return Some(format!("pod {pod}: {problem}"));
        }
        let open = self.open(kind);
        if open >= needed {
            return None;
        }
        let mut causes: BTreeMap<String, usize> = BTreeMap::new();
        for node in self.slots.iter().flatten() {
            if let Some(cause) = kind.shut_to_many(node) {
                *causes.entry(cause).or_default() += 1;
            }
        }
        let mut causes: Vec<(String, usize)> = causes.into_iter().collect();
        causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let others = causes.len().saturating_sub(MOST_CAUSES);
        let mut said: Vec<String> =
            causes.iter().take(MOST_CAUSES).map(|(why, n)| format!("{n} {why}")).collect();
        if others > 0 {
            said.push(format!("the others for {others} further reasons"));
        }
        let said =
            if said.is_empty() { "Kubernetes has no others".to_owned() } else { said.join(", ") };
        let all = self.count();
        Some(if open == 0 {
            format!("0 of {all} nodes may take pod {pod}: {said}")
        } else {
            format!(
                "only {open} of {all} nodes may take pod {pod} and the like, and its {pods} such pods need {needed}: {said}"
            )
        })
    }
}

/// How many causes a message names.
const MOST_CAUSES: usize = 6;

/// Slurm's name of a node.
fn slurm_name(node: &Node) -> &str {
    let label = |key| node.labels.get(key).map(String::as_str);
    label(names::SLURM_NODE_LABEL)
        .or_else(|| label(names::SLURM_NODE_LABEL_ALIAS))
        .unwrap_or(&node.name)
}

fn same(facts: &NodeFacts, node: &Node) -> bool {
    let labels = facts.labels.iter().map(|(k, v)| (k.as_ref(), v.as_ref()));
    facts.unschedulable == node.unschedulable
        && *facts.taints == *node.taints
        && labels.eq(node.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}

/// A set of small numbers; equal sets are equal however they came about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, bit: usize, on: bool) {
        let (word, mask) = (bit / 64, 1 << (bit % 64));
        if on {
            if self.0.len() <= word {
                self.0.resize(word + 1, 0);
            }
            self.0[word] |= mask;
        } else if let Some(bits) = self.0.get_mut(word) {
            *bits &= !mask;
            while self.0.last() == Some(&0) {
                self.0.pop();
            }
        }
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |(word, bits): (usize, &u64)| {
            let bits = *bits;
            (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| word * 64 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}
