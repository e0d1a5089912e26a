//! Gang assembly: which pods start together, in which order, and whether all of them are there.
//!
//! A half-created gang waits; its size comes from its workload, never from counting pods (rule 3).
//! Members come in any order; a member's rank depends only on what it is (role and index), so it is
//! the same however often it is computed (rule 9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ask::Ask;
use crate::eligible::Nowhere;
use crate::job::JobId;
use crate::names;
use crate::order::natural;
use crate::pod::{self, Demand, Pod};
use crate::workload::{Kind, Role, Shape, Workload};

/// The pods of a workload that must start together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gang {
    /// The workload's uid, or the pod's own for a gang of one.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name of the workload or pod.
    pub name: String,
    /// `PyTorchJob`, `Job`, `PodGroup` or `Pod`.
    pub kind: String,
    /// Members in rank order. Deleted ones are not among them.
    pub members: Vec<Member>,
    /// How many there must be.
    pub expected: u32,
    /// What the user chose.
    pub ask: Ask,
    /// Slurm hostlists of nodes that members must not go to, for [`Member::reach`]; empty where every
    /// member may go anywhere.
    pub excluded_nodes: Vec<Arc<str>>,
}

/// One pod of a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Pod uid.
    pub uid: String,
    /// Pod name.
    pub name: String,
    /// Its role; empty where members are alike.
    pub role: String,
    /// Position in the gang, from 0.
    pub rank: u32,
    /// What it needs.
    pub demand: Demand,
    /// Where it is, once bound.
    pub bound: Option<Bound>,
    /// Its containers have ended for good.
    pub finished: bool,
    /// A scheduling gate keeps it from being bound.
    pub gated: bool,
    /// Which of [`Gang::excluded_nodes`] it must not go to.
    pub reach: u32,
}

/// A binding that has been made, as the pod carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Generation of the placeholder it was bound for; 0 when the pod does not say.
    pub generation: u32,
    /// The placeholder's job; 0 when the pod does not say.
    pub job: JobId,
    /// Slurm's name of the node.
    pub node: String,
}

impl Gang {
    /// Every member is there and may be bound.
    pub fn complete(&self) -> bool {
        self.members.len() >= self.expected as usize && !self.members.iter().any(|m| m.gated)
    }

    /// What its largest member needs, resource by resource: what every member is asked for.
    pub fn largest_demand(&self) -> Demand {
        let mut largest = Demand::default();
        for member in &self.members {
            largest.raise_to(&member.demand);
        }
        largest
    }

    /// `namespace/name`, for people.
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A gang, or why its pods cannot form one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The gang as far as it is there.
    pub gang: Gang,
    /// What is wrong with its pods: bad annotations, no requests, disagreement. For the user.
    pub problems: Vec<String>,
    /// Members that are being deleted: their devices are not free yet.
    pub leaving: BTreeSet<String>,
    /// The workload is finished or being deleted: nothing more will come.
    pub over: bool,
    /// Why no question can be asked, as nodes and volumes are now.
    pub nowhere: Option<Nowhere>,
}

/// Which workload a pod says it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// None: a gang of one.
    Alone,
    /// This one, in the pod's own namespace.
    Workload(Kind, String),
}

/// Reads which workload a pod belongs to. A native PodGroup goes before the controller, because the
/// user put it there to say what starts together.
pub fn claim(pod: &Pod) -> Claim {
    let group = pod.spec.scheduling_group.as_ref().and_then(|g| g.pod_group_name.as_ref());
    if let Some(name) = group.filter(|n| !n.is_empty()) {
        return Claim::Workload(Kind::PodGroup, name.clone());
    }
    let Some(controller) = &pod.controller else { return Claim::Alone };
    match (controller.group.as_str(), controller.kind.as_str()) {
        ("batch", "Job") => Claim::Workload(Kind::Job, controller.name.clone()),
        ("kubeflow.org", "PyTorchJob") => {
            Claim::Workload(Kind::PyTorchJob, controller.name.clone())
        }
        _ => Claim::Alone,
    }
}

/// Forms the gangs of one workload's pods: the workload's own gang, if its shape makes one, and a
/// gang of one for every pod that stands alone. `workload` is `None` for pods without one.
pub fn assemble(workload: Option<&Workload>, pods: &[&Pod]) -> Vec<Assembled> {
    let none = BTreeMap::new();
    let annotations = workload.map_or(&none, |w| &w.annotations);
    let over = workload.is_some_and(|w| w.over);
    let mut out = Vec::new();
    let (together, alone) = match workload {
        Some(w) if w.shape != Shape::Singles => split(w, pods),
        _ => (Vec::new(), pods.to_vec()),
    };
    let mut strangers = Vec::new();
    if let Some(w) = workload.filter(|w| w.shape != Shape::Singles) {
        let (formed, unranked) = form(w, &together);
        out.push(formed);
        strangers = unranked.into_iter().map(|pod| (pod, Some(no_place(w)))).collect();
    }
    for (pod, problem) in alone.into_iter().map(|pod| (pod, None)).chain(strangers) {
        let mut builder = Builder::new(annotations);
        let member = builder.member(pod, "", 0);
        if let Some(problem) = problem {
            builder.fault(pod, problem);
        }
        let deleting = pod.deleting;
        out.push(builder.finish(
            Gang {
                uid: pod.uid.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                kind: "Pod".to_owned(),
                members: if deleting { vec![] } else { vec![member] },
                expected: 1,
                ask: Ask::default(),
                excluded_nodes: Vec::new(),
            },
            if deleting { BTreeSet::from([pod.uid.clone()]) } else { BTreeSet::new() },
            over || deleting,
        ));
    }
    out
}

/// Separates the pods of a workload that form its gang from those that stand alone: pods beyond the
/// least count of a PodGroup start on their own, once the gang is there.
fn split<'a>(workload: &Workload, pods: &[&'a Pod]) -> (Vec<&'a Pod>, Vec<&'a Pod>) {
    let Shape::AtLeast(least) = workload.shape else { return (pods.to_vec(), Vec::new()) };
    let mut pods = pods.to_vec();
    let belongs = |p: &Pod| p.annotations.get(names::GANG) == Some(&workload.uid);
    let stands_alone = |p: &Pod| p.annotations.get(names::GANG) == Some(&p.uid);
    pods.sort_by(|a, b| {
        (!belongs(a), stands_alone(a), a.deleting)
            .cmp(&(!belongs(b), stands_alone(b), b.deleting))
            .then_with(|| natural(&a.name, &b.name))
    });
    let mut together = Vec::new();
    let mut alone = Vec::new();
    let mut live = 0;
    for pod in pods {
        // A pod that is leaving takes no place, but it is still of the gang it was bound for.
        let counts = !pod.deleting;
        if !stands_alone(pod) && (live < least || belongs(pod)) {
            live += u32::from(counts);
            together.push(pod);
        } else {
            alone.push(pod);
        }
    }
    (together, alone)
}

/// What is wrong with a pod whose workload does not know its role and index.
fn no_place(workload: &Workload) -> String {
    format!("no role and index that {} {} knows", workload.kind.name(), workload.name)
}

/// Forms the gang of a workload. Returns also the pods that have no place in it: they stand alone
/// with their problem, because a gang without members tells nobody.
fn form<'a>(workload: &Workload, pods: &[&'a Pod]) -> (Assembled, Vec<&'a Pod>) {
    let mut builder = Builder::new(&workload.annotations);
    let mut leaving = BTreeSet::new();
    let mut by_rank: BTreeMap<u32, Vec<(&Pod, &str)>> = BTreeMap::new();
    let mut unranked = Vec::new();
    for pod in pods.iter().copied() {
        if pod.deleting {
            leaving.insert(pod.uid.clone());
            continue;
        }
        match rank(workload, pod) {
            Some((rank, role)) => by_rank.entry(rank).or_default().push((pod, role)),
            None => unranked.push(pod),
        }
    }
    if let Shape::AtLeast(_) = workload.shape {
        unranked.sort_by(|a, b| natural(&a.name, &b.name));
        let mut free = (0u32..)
            .filter(|r| !by_rank.contains_key(r))
            .take(unranked.len())
            .collect::<Vec<_>>()
            .into_iter();
        for pod in unranked.drain(..) {
            by_rank.entry(free.next().unwrap_or(u32::MAX)).or_default().push((pod, ""));
        }
    }
    for pod in &unranked {
        builder.fault(pod, no_place(workload));
    }
    let mut members = Vec::new();
    for (rank, mut pods) in by_rank {
        // Two for one rank: an ended pod and its replacement, or two incarnations. The living one,
        // then the bound one, then the first by name holds the rank.
        pods.sort_by(|(a, _), (b, _)| {
            (a.finished(), a.node().is_none())
                .cmp(&(b.finished(), b.node().is_none()))
                .then_with(|| a.uid.cmp(&b.uid))
        });
        if let Some((pod, role)) = pods.first() {
            members.push(builder.member(pod, role, rank));
        }
    }
    let formed = builder.finish(
        Gang {
            uid: workload.uid.clone(),
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            kind: workload.kind.name().to_owned(),
            members,
            expected: workload.shape.size(),
            ask: Ask::default(),
            excluded_nodes: Vec::new(),
        },
        leaving,
        workload.over,
    );
    (formed, unranked)
}

/// The rank and role a pod has by what it is, or else the rank it was bound with: a bound pod that
/// its workload no longer counts (a PyTorchJob made smaller) holds its node until it has ended.
fn rank<'a>(workload: &'a Workload, pod: &Pod) -> Option<(u32, &'a str)> {
    let by_shape = match &workload.shape {
        Shape::Roles(roles) => rank_by_role(workload.kind, roles, pod),
        Shape::Singles | Shape::AtLeast(_) => None,
    };
    let as_bound = || pod.node().and_then(|_| number(&pod.annotations, names::RANK));
    by_shape.or_else(|| as_bound().map(|rank| (rank, "")))
}

/// The rank and role by labels: ranks run through the roles in their order.
fn rank_by_role<'a>(kind: Kind, roles: &'a [Role], pod: &Pod) -> Option<(u32, &'a str)> {
    let (role, index) = match kind {
        Kind::Job => {
            let key = "batch.kubernetes.io/job-completion-index";
            ("", number(&pod.annotations, key).or_else(|| number(&pod.labels, key))?)
        }
        Kind::PyTorchJob | Kind::PodGroup => (
            pod.labels.get("training.kubeflow.org/replica-type")?.as_str(),
            number(&pod.labels, "training.kubeflow.org/replica-index")?,
        ),
    };
    let mut before = 0u32;
    for candidate in roles {
        if candidate.name == role {
            return (index < candidate.count).then(|| (before + index, candidate.name.as_str()));
        }
        before += candidate.count;
    }
    None
}

fn number(map: &BTreeMap<String, String>, key: &str) -> Option<u32> {
    map.get(key)?.parse().ok()
}

/// Collects members and what is wrong with them.
struct Builder<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: Vec<String>,
    /// What is wrong with single pods, and which.
    faults: BTreeMap<String, Vec<String>>,
    asks: Vec<(String, Ask)>,
}

impl<'a> Builder<'a> {
    fn new(annotations: &'a BTreeMap<String, String>) -> Self {
        Self { annotations, problems: Vec::new(), faults: BTreeMap::new(), asks: Vec::new() }
    }

    fn fault(&mut self, pod: &Pod, what: String) {
        self.faults.entry(what).or_default().push(pod.name.clone());
    }

    fn member(&mut self, pod: &Pod, role: &str, rank: u32) -> Member {
        match Ask::read(self.annotations, &pod.annotations) {
            Ok(ask) => self.asks.push((pod.name.clone(), ask)),
            Err(problems) => self.problems.extend(problems),
        }
        let demand = match pod::demand(&pod.spec) {
            Ok(demand) => {
                if demand.is_empty() {
                    self.fault(pod, "nothing is requested, so Slurm cannot know what is needed; set resources.requests (cpu, memory) or limits (nvidia.com/gpu) on the containers".to_owned());
                }
                demand
            }
            Err(bad) => {
                self.fault(pod, bad.to_string());
                Demand::default()
            }
        };
        Member {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            role: role.to_owned(),
            rank,
            demand,
            bound: bound(pod),
            finished: pod.finished(),
            gated: !pod.spec.scheduling_gates.is_empty(),
            reach: 0,
        }
    }

    fn finish(mut self, mut gang: Gang, leaving: BTreeSet<String>, over: bool) -> Assembled {
        if let Some((first, ask)) = self.asks.first() {
            gang.ask = ask.clone();
            if let Some((other, _)) = self.asks.iter().find(|(_, other)| other != ask) {
                self.problems.push(format!(
                    "pods {first} and {other} differ in their gangway.dev/ annotations; all pods of one gang are one Slurm job, so write the same on each (or on the {})",
                    gang.kind
                ));
            }
        }
        // Ten members with the same fault are one fault.
        for (what, pods) in self.faults {
            let others = match pods.len() {
                0 | 1 => String::new(),
                2 => " (and 1 other)".to_owned(),
                n => format!(" (and {} others)", n - 1),
            };
            let first = pods.first().map_or("", String::as_str);
            self.problems.push(format!("pod {first}{others}: {what}"));
        }
        self.problems.sort();
        self.problems.dedup();
        Assembled { gang, problems: self.problems, leaving, over, nowhere: None }
    }
}

/// The binding a pod carries.
fn bound(pod: &Pod) -> Option<Bound> {
    let node = pod.node()?;
    let number = |key: &str| pod.annotations.get(key).and_then(|v| v.parse().ok()).unwrap_or(0);
    Some(Bound {
        generation: number(names::GENERATION),
        job: JobId(number(names::JOB_ID)),
        node: pod.annotations.get(names::NODE).cloned().unwrap_or_else(|| node.to_owned()),
    })
}

#[cfg(test)]
#[path = "gang/tests.rs"]
mod tests;
