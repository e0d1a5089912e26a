//! Every node of Kubernetes, and which of them each kind of pod may not go to.
//!
//! Kept so that a change costs little: a node whose facts are as before is no change, a node that has
//! changed is looked at once for each kind of constraints, and equal answers share one text.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::taint::Taint;
use super::{Barrier, Constraints, Sieve, hostlist, left_to_kubelet};
use crate::names;
use crate::pod::Quantities;
use crate::quantity;

/// What Kubernetes itself taints a node with whose kubelet is not heard of, or that a person has given up.
const LOST: [&str; 3] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/out-of-service",
];

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
    /// What it has for pods that Slurm does not count, in use or not, by resource: see [`room`].
    pub room: BTreeMap<String, u64>,
}

/// The part of `status.allocatable` that Slurm does not count: hugepages and ephemeral storage, bytes.
pub fn room(allocatable: &Quantities) -> BTreeMap<String, u64> {
    let counted = allocatable.iter().filter(|(resource, _)| left_to_kubelet(resource));
    counted.filter_map(|(name, text)| Some((name.clone(), quantity::units(text).ok()?))).collect()
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
    /// What it has that Slurm does not count, by resource.
    room: Box<[(Arc<str>, u64)]>,
}

impl NodeFacts {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(own, _)| own.as_ref().cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }

    /// Whether Kubernetes has lost it: its kubelet is not heard of.
    pub fn is_lost(&self) -> bool {
        self.taints.iter().any(|taint| LOST.contains(&taint.key.as_str()))
    }

    /// How much it has of a resource that Slurm does not count.
    pub(super) fn room(&self, resource: &str) -> u64 {
        self.room.iter().find(|(own, _)| own.as_ref() == resource).map_or(0, |(_, n)| *n)
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
    /// Some slot stands for another name than before.
    renamed: bool,
    kinds: HashMap<Arc<Constraints>, Kind>,
    /// Kinds that have not been looked at yet.
    fresh: Vec<Arc<Constraints>>,
    sieves: Sieves,
    shut: HashMap<Bits, Arc<Shut>>,
    /// How many kinds there were when unused ones were last dropped.
    swept: usize,
}

/// One kind of pods: through which sieves its nodes must go, and which of them are shut to it.
#[derive(Debug)]
struct Kind {
    sieves: Vec<usize>,
    shut: Arc<Shut>,
}

/// Nodes that some kind of pods may not go to; kinds with the same nodes share it.
#[derive(Debug, Default)]
struct Shut {
    text: Arc<str>,
    count: usize,
}

/// Every different sieve once, with the nodes it keeps back: pods with volumes of their own differ in
/// the names of these and hardly ever in the nodes.
#[derive(Debug, Default)]
struct Sieves {
    numbers: HashMap<Sieve, usize>,
    all: Vec<(Sieve, Bits)>,
}

impl Sieves {
    fn number(&mut self, sieve: Sieve) -> (usize, bool) {
        if let Some(number) = self.numbers.get(&sieve) {
            return (*number, false);
        }
        self.numbers.insert(sieve.clone(), self.all.len());
        self.all.push((sieve, Bits::default()));
        (self.all.len() - 1, true)
    }
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
        let old = self.slots[slot].take();
        self.renamed |= old.as_ref().is_none_or(|old| old.slurm != facts.slurm);
        if let Some(old) = old {
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
        self.renamed = true;
        // Not each time: it looks at every word.
        if self.free.len().is_multiple_of(256) {
            self.words.retain(|word| Arc::strong_count(word) > 1);
        }
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
        let room = node.room.iter().map(|(name, n)| (self.word(name), *n)).collect();
        NodeFacts {
            name: node.name.clone(),
            slurm: slurm_name(node).to_owned(),
            labels,
            taints: node.taints.clone().into(),
            unschedulable: node.unschedulable,
            room,
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

    /// How many kinds of pods are known.
    pub fn kinds(&self) -> usize {
        self.kinds.len()
    }

    /// The one copy of these constraints that everyone shares.
    pub fn intern(&mut self, constraints: Constraints) -> Arc<Constraints> {
        if let Some((known, _)) = self.kinds.get_key_value(&constraints) {
            return known.clone();
        }
        let kind = Arc::new(constraints);
        let shut = Arc::default();
        self.kinds.insert(kind.clone(), Kind { sieves: Vec::new(), shut });
        self.fresh.push(kind.clone());
        kind
    }

    /// Takes all changes into account. Returns the kinds that are shut out of other nodes than before.
    pub fn settle(&mut self) -> HashSet<Arc<Constraints>> {
        if self.fresh.is_empty() && self.changed.is_empty() {
            return HashSet::new();
        }
        self.sweep();
        let changed = std::mem::take(&mut self.changed);
        let mut moved: Vec<bool> = Vec::with_capacity(self.sieves.all.len());
        let mut sieves = std::mem::take(&mut self.sieves);
        for (sieve, bits) in &mut sieves.all {
            moved.push(self.look(sieve, bits, changed.iter().copied()));
        }
        let mut kinds = std::mem::take(&mut self.kinds);
        let fresh = std::mem::take(&mut self.fresh);
        for constraints in &fresh {
            let Some(kind) = kinds.get_mut(constraints) else { continue };
            for sieve in constraints.sieves() {
                let (number, new) = sieves.number(sieve);
                if new {
                    let (sieve, bits) = &mut sieves.all[number];
                    self.look(sieve, bits, 0..self.slots.len());
                    moved.push(true);
                }
                kind.sieves.push(number);
            }
        }
        let renamed = std::mem::take(&mut self.renamed);
        if renamed {
            self.shut.clear();
        }
        let fresh: HashSet<*const Constraints> = fresh.iter().map(Arc::as_ptr).collect();
        let mut news = HashSet::new();
        for (constraints, kind) in &mut kinds {
            let touched = renamed
                || kind.sieves.iter().any(|number| moved[*number])
                || fresh.contains(&Arc::as_ptr(constraints));
            if touched {
                let shut = self.shut(&sieves, &kind.sieves);
                if shut.text != kind.shut.text {
                    news.insert(constraints.clone());
                }
                kind.shut = shut;
            }
        }
        (self.kinds, self.sieves) = (kinds, sieves);
        news
    }

    /// Drops the kinds nobody has any more, once there may be many, and what only they needed.
    fn sweep(&mut self) {
        if self.kinds.len() <= 2 * self.swept + 64 {
            return;
        }
        self.fresh.retain(|kind| Arc::strong_count(kind) > 2);
        self.kinds.retain(|kind, _| Arc::strong_count(kind) > 1);
        self.shut.retain(|_, shut| Arc::strong_count(shut) > 1);
        self.swept = self.kinds.len();
        let mut kept = Sieves::default();
        for kind in self.kinds.values_mut() {
            for number in &mut kind.sieves {
                let (sieve, bits) = &self.sieves.all[*number];
                let (moved, new) = kept.number(sieve.clone());
                if new {
                    kept.all[moved].1 = bits.clone();
                }
                *number = moved;
            }
        }
        self.sieves = kept;
    }

    /// Looks at these slots anew; whether that changes what the sieve keeps back. A slot without a
    /// node, or whose Slurm name another node has, is kept from nobody: there is nothing to exclude.
    fn look(&self, sieve: &Sieve, bits: &mut Bits, slots: impl Iterator<Item = usize>) -> bool {
        let mut moved = false;
        for slot in slots {
            let own = |facts: &&NodeFacts| self.by_slurm.get(&facts.slurm) == Some(&slot);
            let node = self.slots[slot].as_ref().filter(own);
            moved |= bits.set(slot, node.is_some_and(|node| sieve.keeps_back(node)));
        }
        moved
    }

    /// What these sieves keep back together.
    fn shut(&mut self, sieves: &Sieves, numbers: &[usize]) -> Arc<Shut> {
        let mut bits = Bits::default();
        for number in numbers {
            bits.join(&sieves.all[*number].1);
        }
        if let Some(known) = self.shut.get(&bits) {
            return known.clone();
        }
        let names = bits.iter().filter_map(|slot| self.slots[slot].as_ref());
        let text = Arc::from(hostlist(names.map(|n| n.slurm.clone()).collect()));
        let shut = Arc::new(Shut { text, count: bits.count() });
        self.shut.insert(bits, shut.clone());
        shut
    }

    /// Slurm hostlist of the nodes that these pods may not go to; empty where they may go anywhere.
    pub fn excluded(&self, kind: &Constraints) -> Arc<str> {
        self.kinds.get(kind).map_or_else(Arc::default, |kind| kind.shut.text.clone())
    }

    /// How many nodes are open to these pods.
    pub fn open(&self, kind: &Constraints) -> usize {
        let shut = self.kinds.get(kind).map_or(0, |kind| kind.shut.count);
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
        let mut causes: HashMap<Barrier<'_>, usize> = HashMap::new();
        for node in self.slots.iter().flatten() {
            if let Some(cause) = kind.barrier(node) {
                *causes.entry(cause).or_default() += 1;
            }
        }
        let causes = causes.into_iter().map(|(cause, count)| (cause.of_many(count), count));
        let mut causes: Vec<(String, usize)> = causes.collect();
        causes.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
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
        && facts
            .room
            .iter()
            .map(|(k, n)| (k.as_ref(), n))
            .eq(node.room.iter().map(|(k, n)| (k.as_str(), n)))
        && labels.eq(node.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}

/// A set of small numbers; equal sets are equal however they came about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    /// Whether that was a change.
    fn set(&mut self, bit: usize, on: bool) -> bool {
        let (word, mask) = (bit / 64, 1 << (bit % 64));
        if self.0.get(word).is_some_and(|bits| bits & mask != 0) == on {
            return false;
        }
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
        true
    }

    fn join(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(own, more)| *own |= more);
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
