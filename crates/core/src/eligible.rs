//! Where a pod may go: node selectors, affinity, taints, cordons, volumes, and what Slurm does not
//! count (hugepages, ephemeral storage), by Kubernetes' rules.
//!
//! Says which nodes are shut to a pod, and why; Slurm chooses among the others. Whether a node is full
//! is never asked here: that is Slurm's business, and a gang that waits for room waits in its queue.
//! Of what Slurm does not count, a node must have as much as the pod needs, in use or not.
//! What passes for a while (a cordon, a node that is not ready) counts while it lasts.
//!
//! Read in this order: [`selector`], [`taint`], [`volume`], [`nodes`].

pub mod nodes;
pub mod selector;
pub mod taint;
pub mod volume;

use std::collections::HashMap;
use std::sync::Arc;

use crate::gang::{Assembled, Gang, Member};
use crate::hostlist::Hostlist;
use crate::order::natural;
use crate::pod::{self, PodSpec};
use crate::quantity;

use nodes::{NodeFacts, Nodes};
use selector::Selector;
use taint::{Bar, Toleration, bar};

/// Everything that keeps a pod from some nodes. Pods of one template have equal ones, which are kept
/// and looked at once ([`Nodes::intern`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Constraints {
    /// Rules on the node's labels and name: all must hold.
    rules: Vec<Rule>,
    tolerations: Vec<Toleration>,
    /// What its node must have that Slurm does not count, by resource.
    room: Vec<(String, u64)>,
    /// A selector that cannot be read: no node is open then.
    problem: Option<String>,
}

/// One rule, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Rule {
    source: Source,
    selector: Selector,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// One pair of `spec.nodeSelector`.
    NodeSelector { key: String, value: String },
    /// `spec.affinity.nodeAffinity`, its required half.
    Affinity,
    /// A volume that not every node reaches; for people.
    Volume(String),
}

impl Constraints {
    /// What the pod's own specification says.
    pub fn of(spec: &PodSpec) -> Self {
        let mut out = Self::default();
        for (key, value) in &spec.node_selector {
            let source = Source::NodeSelector { key: key.clone(), value: value.clone() };
            out.rules.push(Rule { source, selector: Selector::label_is(key, value) });
        }
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        if let Some(required) = affinity.and_then(|a| a.required.as_ref()) {
            match Selector::parse(required) {
                Ok(selector) => out.rules.push(Rule { source: Source::Affinity, selector }),
                Err(why) => {
                    out.problem = Some(format!("its required node affinity cannot be read: {why}"));
                }
            }
        }
        out.tolerations.clone_from(&spec.tolerations);
        out.tolerations.sort();
        out.tolerations.dedup();
        // A quantity that cannot be read is told where the gang is put together.
        let needed = pod::demand(spec).unwrap_or_default().other.into_iter();
        out.room = needed.filter(|(resource, _)| left_to_kubelet(resource)).collect();
        out
    }

    /// Adds that only these nodes reach a volume.
    pub fn and_volume(&mut self, volume: String, selector: Selector) {
        self.rules.push(Rule { source: Source::Volume(volume), selector });
    }

    /// Why the pod may not go to a node, for people: `is cordoned`; `None` where it may.
    pub fn shut(&self, node: &NodeFacts) -> Option<String> {
        self.barrier(node).map(Barrier::of_one)
    }

    /// Everything a node must go through.
    fn sieves(&self) -> impl Iterator<Item = Sieve> {
        let rules = self.rules.iter().map(|rule| Sieve::Selector(rule.selector.clone()));
        let nothing = self.problem.as_ref().map(|_| Sieve::Selector(Selector::any([])));
        let node = Sieve::Tolerations(self.tolerations.clone());
        let room = Some(&self.room).filter(|room| !room.is_empty());
        rules.chain(nothing).chain([node]).chain(room.map(|room| Sieve::Room(room.clone())))
    }

    fn barrier<'a>(&'a self, node: &'a NodeFacts) -> Option<Barrier<'a>> {
        if let Some(why) = &self.problem {
            return Some(Barrier::Problem(why));
        }
        let failed = self.rules.iter().find(|rule| !rule.selector.selects(node));
        failed
            .map(|rule| Barrier::Rule(&rule.source))
            .or_else(|| bar(&self.tolerations, node).map(Barrier::Node))
            .or_else(|| lacks(&self.room, node).map(|(what, needed)| Barrier::Room(what, *needed)))
    }
}

/// A resource that Kubernetes accounts for and Slurm has no word for: asked of nobody, but a node must
/// have it.
pub(crate) fn left_to_kubelet(resource: &str) -> bool {
    resource == "ephemeral-storage" || resource.starts_with("hugepages-")
}

/// The first of these that a node has too little of, however empty it is.
fn lacks<'a>(room: &'a [(String, u64)], node: &NodeFacts) -> Option<&'a (String, u64)> {
    room.iter().find(|(resource, needed)| node.room(resource) < *needed)
}

/// What a node must go through, whoever asks: a selector, tolerations for its taints, or what it must
/// have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Sieve {
    Selector(Selector),
    Tolerations(Vec<Toleration>),
    Room(Vec<(String, u64)>),
}

impl Sieve {
    fn keeps_back(&self, node: &NodeFacts) -> bool {
        match self {
            Self::Selector(selector) => !selector.selects(node),
            Self::Tolerations(tolerations) => bar(tolerations, node).is_some(),
            Self::Room(room) => lacks(room, node).is_some(),
        }
    }
}

/// The first thing that keeps a pod from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Barrier<'a> {
    Problem(&'a str),
    Rule(&'a Source),
    Node(Bar<'a>),
    Room(&'a str, u64),
}

impl Barrier<'_> {
    /// After the name of a node.
    fn of_one(self) -> String {
        self.words(["does", "is", "has", "cannot"])
    }

    /// After a number of nodes.
    fn of_many(self, count: usize) -> String {
        if count == 1 { self.of_one() } else { self.words(["do", "are", "have", "cannot"]) }
    }

    fn words(self, [does, is, has, cannot]: [&str; 4]) -> String {
        match self {
            Self::Problem(why) => why.to_owned(),
            Self::Rule(Source::NodeSelector { key, value }) => {
                format!("{does} not match nodeSelector {key}={value}")
            }
            Self::Rule(Source::Affinity) => format!("{does} not match the required node affinity"),
            Self::Rule(Source::Volume(volume)) => format!("{cannot} reach {volume}"),
            Self::Node(Bar::Cordoned) => format!("{is} cordoned"),
            Self::Node(Bar::Tainted(taint)) => {
                format!("{has} taint {taint} that the pod does not tolerate")
            }
            Self::Room(resource, needed) => {
                format!(
                    "{has} less {resource} in all than the {} it needs",
                    quantity::binary(needed)
                )
            }
        }
    }
}

/// Where the members of a gang may not go: a table of Slurm hostlists, and which of them each member
/// has, in the members' order. Both empty where every member may go anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reach {
    /// Slurm hostlists, different ones.
    pub excluded: Vec<Arc<str>>,
    /// Index into them.
    pub members: Vec<u32>,
    /// The same for those that are still to come, by role.
    pub later: Vec<u32>,
}

impl Reach {
    /// The reach a gang has now.
    pub fn of(gang: &Gang) -> Self {
        if gang.excluded_nodes.is_empty() {
            return Self::default();
        }
        let members = gang.members.iter().map(|m| m.reach).collect();
        let later = gang.later.iter().map(|later| later.reach).collect();
        Self { excluded: gang.excluded_nodes.clone(), members, later }
    }
}

/// Why a gang cannot be asked for, as its nodes and volumes are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nowhere {
    /// For the user.
    pub message: String,
    /// The user must mend something; otherwise it passes by itself.
    pub problem: bool,
}

/// Writes into a gang where its members may go. `constraints` gives a waiting member's by pod uid,
/// `templates` by role those of members that are still to come; members that are bound or have ended go
/// nowhere any more, so what changes then does not touch them.
pub fn settle<'a>(
    assembled: &mut Assembled,
    nodes: &Nodes,
    constraints: impl Fn(&str) -> Option<&'a Arc<Constraints>>,
    templates: impl Fn(&str) -> Option<&'a Arc<Constraints>>,
) {
    let gang = &mut assembled.gang;
    let per_node = gang.ask.pods_per_node.unwrap_or(1).max(1) as usize;
    // Members of one template share their constraints, so few are looked at however many there are.
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    let mut known: HashMap<*const Constraints, usize> = HashMap::new();
    let mut take = |own: &'a Arc<Constraints>, first: &str, count: usize| {
        let kind = *known.entry(Arc::as_ptr(own)).or_insert_with(|| {
            kinds.push(Kind { own, text: nodes.excluded(own), first: first.to_owned(), count: 0 });
            kinds.len() - 1
        });
        kinds[kind].count += count;
        kind
    };
    let mut absent: HashMap<u32, usize> = HashMap::new();
    for (_, later) in gang.absent() {
        *absent.entry(later.first).or_default() += 1;
    }
    let members = gang.members.iter().map(|member| {
        let waiting = member.bound.is_none() && !member.finished;
        let own = constraints(&member.uid).filter(|_| waiting)?;
        Some(take(own, &member.name, 1))
    });
    let kind_of: Vec<Option<usize>> = members.collect();
    let later = gang.later.iter().map(|later| {
        let count = *absent.get(&later.first).filter(|_| later.count > 0)?;
        Some(take(templates(&later.role)?, &format!("of template {}", later.role), count))
    });
    let kind_of_later: Vec<Option<usize>> = later.collect();
    let short = kinds.iter().find_map(|kind| {
        nodes.too_few(kind.own, kind.count.div_ceil(per_node), &kind.first, kind.count)
    });
    if let Some(message) = short {
        assembled.nowhere.get_or_insert(Nowhere { message, problem: true });
    }
    let texts: Vec<Arc<str>> = kinds.into_iter().map(|kind| kind.text).collect();
    if texts.iter().all(|text| text.is_empty()) {
        return;
    }
    let nothing: Arc<str> = Arc::from("");
    let mut table: Vec<Arc<str>> = Vec::new();
    let mut row_of: HashMap<Arc<str>, u32> = HashMap::new();
    let mut row = |kind: Option<usize>| {
        let text = kind.map_or(&nothing, |kind| &texts[kind]);
        *row_of.entry(text.clone()).or_insert_with(|| {
            table.push(text.clone());
            u32::try_from(table.len() - 1).unwrap_or(0)
        })
    };
    for (member, kind) in gang.members.iter_mut().zip(kind_of) {
        member.reach = row(kind);
    }
    for (later, kind) in gang.later.iter_mut().zip(kind_of_later) {
        later.reach = row(kind);
    }
    gang.excluded_nodes = table;
}

/// Keeps a stand-in that waits off the node that was lost: one that Kubernetes does not have is shut to
/// nobody else, and Slurm might give the rest of it.
pub fn shun(assembled: &mut Assembled) {
    let Some(stands_in) = &assembled.stands_in else { return };
    let gang = &mut assembled.gang;
    let waits = |m: &&mut Member| m.bound.is_none() && !m.finished;
    let Some(member) = gang.members.first_mut().filter(waits) else { return };
    let shut = gang.excluded_nodes.get(member.reach as usize).map_or("", |text| text.as_ref());
    let text = union(&[shut, stands_in.node.as_str()]);
    member.reach = 0;
    gang.excluded_nodes = vec![Arc::from(text)];
}

/// Members with the same constraints.
struct Kind<'a> {
    own: &'a Arc<Constraints>,
    text: Arc<str>,
    /// Name of one of them.
    first: String,
    count: usize,
}

/// Several hostlists as one: every name once, in natural order. What is no hostlist is left out.
pub fn union<S: AsRef<str>>(lists: &[S]) -> String {
    let mut texts: Vec<&str> = lists.iter().map(AsRef::as_ref).filter(|t| !t.is_empty()).collect();
    texts.dedup();
    match texts.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        many => {
            let lists = many.iter().filter_map(|text| Hostlist::parse(text).ok());
            hostlist(lists.flat_map(|list| list.names()).collect())
        }
    }
}

/// Names as a hostlist, each once, in natural order. A name that Slurm could not read is left out.
pub fn hostlist(mut names: Vec<String>) -> String {
    names.sort_by(|a, b| natural(a, b));
    names.dedup();
    if let Ok(list) = Hostlist::from_names(names.iter()) {
        return list.to_string();
    }
    names.retain(|name| Hostlist::from_names([name]).is_ok());
    Hostlist::from_names(names.iter()).map(|list| list.to_string()).unwrap_or_default()
}

#[cfg(test)]
#[path = "eligible/tests.rs"]
mod tests;
