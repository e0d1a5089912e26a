//! Gang assembly: which pods start together, in which order, and whether all of them are there.
//!
//! A half-created gang waits; its size comes from its workload, never from counting pods (rule 3).
//! Members come in any order; a member's rank depends only on what it is (role and index), so it is
//! the same however often it is computed (rule 9).

mod carried;
mod identity;
mod later;
mod parts;
pub mod standin;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ask::{Ask, OnLoss, Requester};
use crate::eligible::Nowhere;
use crate::job::JobId;
use crate::names;
use crate::order::natural;
use crate::pod::{self, Demand, Pod};
use crate::workload::{Kind, Shape, Workload};

/// The pods of a workload that must start together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gang {
    /// The workload's uid, or the pod's own for a gang of one; where a workload has several gangs,
    /// what tells them apart: `<uid>:<restart attempt>` of a JobSet, the leader pod's uid of a
    /// LeaderWorkerSet's group.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name of the workload or pod.
    pub name: String,
    /// `PyTorchJob`, `Job`, `PodGroup`, `JobSet` …, or `Pod`.
    pub kind: String,
    /// Members in rank order. Deleted ones are not among them.
    pub members: Vec<Member>,
    /// How many there must be.
    pub expected: u32,
    /// Members whose pods are made only when others are ready. Room is asked for them from the
    /// start, and a seat kept for each until its pod comes.
    pub later: Vec<Later>,
    /// What the user chose.
    pub ask: Ask,
    /// Slurm hostlists of nodes that members must not go to, for [`Member::reach`] and
    /// [`Later::reach`]; empty where every member may go anywhere.
    pub excluded_nodes: Vec<Arc<str>>,
}

/// Members of one role whose pods come later, present or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Later {
    /// Their role.
    pub role: String,
    /// The lowest of their ranks.
    pub first: u32,
    /// How many they are; their ranks are in a row.
    pub count: u32,
    /// What each will need, by the workload's template.
    pub demand: Demand,
    /// Which of [`Gang::excluded_nodes`] those that are still to come must not go to, by the
    /// workload's template.
    pub reach: u32,
}

impl Later {
    /// Whether the member of this rank is one of them.
    pub fn has(&self, rank: u32) -> bool {
        rank.checked_sub(self.first).is_some_and(|i| i < self.count)
    }
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
    pub demand: Arc<Demand>,
    /// Where it is, once bound.
    pub bound: Option<Bound>,
    /// Its containers have ended for good.
    pub finished: bool,
    /// A scheduling gate keeps it from being bound.
    pub gated: bool,
    /// Which of [`Gang::excluded_nodes`] it must not go to.
    pub reach: u32,
    /// Whether it knows that it has to leave.
    pub notice: Notice,
}

/// What a pod knows of its leaving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notice {
    /// Nothing.
    #[default]
    None,
    /// It was warned.
    Warned,
    /// It was warned, and has checkpointed.
    Checkpointed,
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
    /// The devices it holds, by GRES name; those that the pod does not say are not in it.
    pub indexes: BTreeMap<String, Vec<u32>>,
}

impl Gang {
    /// Every member that does not come later is there, and all that are there may be bound.
    pub fn complete(&self) -> bool {
        self.size() >= self.expected as usize && !self.members.iter().any(|m| m.gated)
    }

    /// How many members it has, those included that are still to come.
    pub fn size(&self) -> usize {
        let absent = if self.later.is_empty() { 0 } else { self.absent().count() };
        self.members.len() + absent
    }

    /// Members that are still to come: rank, and what they are.
    pub fn absent(&self) -> impl Iterator<Item = (u32, &Later)> {
        let asked_of = if self.later.is_empty() { &[][..] } else { &self.members };
        let present: BTreeSet<u32> = asked_of.iter().map(|m| m.rank).collect();
        let all = self.later.iter().flat_map(|later| {
            (later.first..later.first.saturating_add(later.count)).map(move |rank| (rank, later))
        });
        all.filter(move |(rank, _)| !present.contains(rank))
    }

    /// The members that a placeholder is for, whoever comes later: those of the first hour, or all
    /// where none of these is left.
    pub fn founders(&self) -> impl Iterator<Item = &Member> {
        let founder = |m: &Member| !self.later.iter().any(|l| l.has(m.rank));
        let any = self.members.iter().any(founder);
        self.members.iter().filter(move |m| !any || founder(m))
    }

    /// Whether it runs as a whole on what this job was given, as far as its pods say: then nobody waits for
    /// what its allocation is.
    pub fn is_seated(&self, job: JobId) -> bool {
        let there = |m: &Member| m.finished || m.bound.as_ref().is_some_and(|b| b.job == job);
        self.complete() && !self.members.is_empty() && self.members.iter().all(there)
    }

    /// What its largest member needs, resource by resource: what every member is asked for.
    pub fn largest_demand(&self) -> Demand {
        let mut largest = Demand::default();
        let demands = self.members.iter().map(|m| &*m.demand);
        for demand in demands.chain(self.later.iter().map(|l| &l.demand)) {
            largest.raise_to(demand);
        }
        largest
    }

    /// What becomes of the others when one of its members is lost.
    pub fn on_loss(&self) -> OnLoss {
        self.ask.on_loss.unwrap_or(OnLoss::Restart)
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
    /// The gang that must have its nodes before this pod may ask for one: it is beyond the least
    /// number of an elastic workload, and taking the last node would keep all from starting.
    pub after: Option<String>,
    /// Why no question can be asked, as nodes and volumes are now.
    pub nowhere: Option<Nowhere>,
    /// A member that is not bound was there when another was: binding them was begun and not finished.
    /// Told by the API server's clock alone, so that a bridge that has just started knows it.
    pub torn: bool,
    /// Pods that stand in for lost members of this gang, each on a node of its own.
    pub stand_ins: Vec<StandIn>,
    /// This is such a pod, a gang of one to Slurm.
    pub stands_in: Option<StandsIn>,
    /// Changes whenever what policy grants may have changed: whoever was refused asks again.
    pub policies: u64,
}

/// Which workload a pod says it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// None: a gang of one.
    Alone,
    /// This one, in the pod's own namespace.
    Workload(Kind, String),
}

use carried::{bound, notice};
use later::later;
use standin::{StandIn, StandsIn};

pub use identity::{claim, needs_grandparent};
pub use parts::{gang_uid, own};

/// Forms the gangs of one workload's pods: the workload's own gang, if its shape makes one, and a
/// gang of one for every pod that stands alone. A workload may have several gangs at once: groups,
/// stages, restarts that overlap. `workload` is `None` for pods without one.
pub fn assemble(workload: Option<&Workload>, pods: &[&Pod]) -> Vec<Assembled> {
    let Some(workload) = workload else { return assemble_part(None, pods) };
    let (parts, strangers) = parts::divide(workload, pods);
    let mut out: Vec<Assembled> =
        parts.iter().flat_map(|(part, pods)| assemble_part(Some(part), pods)).collect();
    out.extend(strangers.into_iter().map(|(pod, problem)| {
        alone(&workload.annotations, workload.deadline_seconds, workload.over, pod, Some(problem))
    }));
    out
}

fn assemble_part(workload: Option<&Workload>, pods: &[&Pod]) -> Vec<Assembled> {
    let none = BTreeMap::new();
    let annotations = workload.map_or(&none, |w| &w.annotations);
    let deadline = workload.and_then(|w| w.deadline_seconds);
    let over = workload.is_some_and(|w| w.over);
    let Some(workload) = workload.filter(|w| w.shape != Shape::Singles) else {
        return pods.iter().map(|pod| alone(annotations, deadline, over, pod, None)).collect();
    };
    let (beside, pods) = standin::apart(workload, pods);
    let beside: Vec<Assembled> = beside
        .into_iter()
        .map(|(pod, said)| standin::formed(alone(annotations, deadline, over, pod, None), said))
        .collect();
    let (together, apart) = split(workload, &pods, standin::live(&beside));
    let (mut formed, strangers) = form(workload, &together, &standin::ranks(&beside));
    formed.stand_ins = standin::of_gang(&beside);
    let gang = &formed.gang;
    let started = gang.complete() && gang.members.iter().all(|m| m.bound.is_some() || m.finished);
    let after = (!started).then(|| format!("{} {}", gang.kind, gang.name));
    let apart = apart.into_iter().map(|pod| (pod, None)).chain(strangers);
    let mut out = vec![formed];
    out.extend(apart.map(|(pod, problem)| Assembled {
        after: after.clone(),
        ..alone(annotations, deadline, over, pod, problem)
    }));
    out.extend(beside);
    out
}

/// A gang of one, with what is wrong with its pod beside what its own fields tell.
fn alone(
    annotations: &BTreeMap<String, String>,
    deadline: Option<u64>,
    over: bool,
    pod: &Pod,
    problem: Option<String>,
) -> Assembled {
    let mut builder = Builder::new(annotations, deadline);
    let member = builder.member(pod, "", 0);
    if let Some(problem) = problem {
        builder.fault(pod, problem);
    }
    let deleting = pod.deleting;
    builder.finish(
        Gang {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            kind: "Pod".to_owned(),
            members: if deleting { vec![] } else { vec![member] },
            expected: 1,
            later: Vec::new(),
            excluded_nodes: Vec::new(),
            ask: Ask::default(),
        },
        if deleting { BTreeSet::from([pod.uid.clone()]) } else { BTreeSet::new() },
        over || deleting,
    )
}

/// Separates the pods of a workload that form its gang from those that stand alone: pods beyond the
/// least count of a PodGroup start on their own, once the gang is there. `beside` stand in for members.
fn split<'a>(workload: &Workload, pods: &[&'a Pod], beside: u32) -> (Vec<&'a Pod>, Vec<&'a Pod>) {
    let belongs = |p: &Pod| p.annotations.get(names::GANG) == Some(&workload.uid);
    // The gang of a LeaderWorkerSet's group is named after its leader.
    let stands_alone =
        |p: &Pod| p.annotations.get(names::GANG) == Some(&p.uid) && p.uid != workload.uid;
    let Shape::AtLeast(least) = workload.shape else {
        return pods.iter().partition(|p| !stands_alone(p));
    };
    let mut pods = pods.to_vec();
    pods.sort_by(|a, b| {
        (!belongs(a), stands_alone(a), a.deleting)
            .cmp(&(!belongs(b), stands_alone(b), b.deleting))
            .then_with(|| natural(&a.name, &b.name))
    });
    let mut together = Vec::new();
    let mut alone = Vec::new();
    let mut live = beside;
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

/// Pods that stand alone, with their problem if they have one.
type Strangers<'a> = Vec<(&'a Pod, Option<String>)>;

/// Forms the gang of a workload. Returns also the pods that have no place in it: they stand alone
/// with their problem, because a gang without members tells nobody. Ranks in `elsewhere` have stand-ins.
fn form<'a>(
    workload: &Workload,
    pods: &[&'a Pod],
    elsewhere: &BTreeSet<u32>,
) -> (Assembled, Strangers<'a>) {
    let mut builder = Builder::new(&workload.annotations, workload.deadline_seconds);
    // Pods that nobody makes anew are not evicted for one another's sake.
    let replaces = workload.replaces || pods.iter().any(|pod| pod.controller.is_none());
    builder.on_loss = replaces.then_some(OnLoss::Replace);
    let mut leaving = BTreeSet::new();
    let mut by_rank: BTreeMap<u32, Vec<(&Pod, &str)>> = BTreeMap::new();
    let mut unranked = Vec::new();
    for pod in pods.iter().copied() {
        if pod.deleting {
            leaving.insert(pod.uid.clone());
            continue;
        }
        match identity::rank(workload, pod) {
            Some((rank, role)) => by_rank.entry(rank).or_default().push((pod, role)),
            None => unranked.push(pod),
        }
    }
    if let Shape::AtLeast(_) = workload.shape {
        unranked.sort_by(|a, b| natural(&a.name, &b.name));
        let mut free = (0u32..)
            .filter(|r| !by_rank.contains_key(r) && !elsewhere.contains(r))
            .take(unranked.len())
            .collect::<Vec<_>>()
            .into_iter();
        for pod in unranked.drain(..) {
            by_rank.entry(free.next().unwrap_or(u32::MAX)).or_default().push((pod, ""));
        }
    }
    let mut strangers = Vec::new();
    unranked.sort_by(|a, b| natural(&a.name, &b.name));
    for pod in unranked {
        // Where pods of a role are alike, each takes the next free place; any beyond stand alone.
        match identity::range_of(workload, pod) {
            Some((role, mut ranks)) => {
                match ranks.find(|r| !by_rank.contains_key(r) && !elsewhere.contains(r)) {
                    Some(rank) => by_rank.entry(rank).or_default().push((pod, role)),
                    None => strangers.push((pod, None)),
                }
            }
            None => {
                builder.fault(pod, no_place(workload));
                strangers.push((pod, Some(no_place(workload))));
            }
        }
    }
    let later = later(workload, &mut builder.problems);
    // An index that has run to its end is waited for by nobody, also where its pod was taken away since.
    let there = |rank: &u32| by_rank.contains_key(rank) || elsewhere.contains(rank);
    let gone_well = workload.gone_well(|index| there(&index));
    // Whoever has a stand-in is expected no more, or a bridge that has just started would wait for it.
    let away = elsewhere.iter().filter(|rank| !by_rank.contains_key(rank)).count();
    let missing = gone_well.saturating_add(u32::try_from(away).unwrap_or(u32::MAX));
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
            kind: shown_kind(workload).to_owned(),
            members,
            expected: workload.shape.size().saturating_sub(missing),
            later,
            ask: Ask::default(),
            excluded_nodes: Vec::new(),
        },
        leaving,
        workload.over,
    );
    (formed, strangers)
}

/// What the user knows the workload as: a TrainJob is carried out by a JobSet of its name.
fn shown_kind(workload: &Workload) -> &str {
    match &workload.owner {
        Some(owner) if owner.group == "trainer.kubeflow.org" => &owner.kind,
        _ => workload.kind.name(),
    }
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
    /// Who made the pods that they are made of so far, where all of them say it.
    requester: Option<Option<Requester>>,
    /// What the member before needs: mostly the same, and then kept once.
    last: Arc<Demand>,
    /// How long the workload may run.
    deadline: Option<u64>,
    /// What the workload itself says of a member that is lost.
    on_loss: Option<OnLoss>,
    /// How long the pod that may run longest may; `None` before the first pod.
    longest: Option<u64>,
    /// When the first of those that are bound was, and when the first of those that wait was made.
    first_bound: Option<u64>,
    first_waiting: Option<u64>,
}

impl<'a> Builder<'a> {
    fn new(annotations: &'a BTreeMap<String, String>, deadline: Option<u64>) -> Self {
        Self {
            annotations,
            problems: Vec::new(),
            faults: BTreeMap::new(),
            asks: Vec::new(),
            requester: None,
            last: Arc::default(),
            deadline,
            on_loss: None,
            longest: None,
            first_bound: None,
            first_waiting: None,
        }
    }

    /// The time limit where no annotation says one: no pod runs longer than Kubernetes lets it.
    fn time_limit(&self) -> Option<u32> {
        let seconds = [self.deadline, self.longest].into_iter().flatten().min();
        seconds.and_then(|s| u32::try_from(s.div_ceil(60)).ok())
    }

    fn fault(&mut self, pod: &Pod, what: String) {
        self.faults.entry(what).or_default().push(pod.name.clone());
    }

    fn member(&mut self, pod: &Pod, role: &str, rank: u32) -> Member {
        let own = pod.spec.active_deadline_seconds.unwrap_or(u64::MAX);
        self.longest = Some(self.longest.map_or(own, |longest| longest.max(own)));
        let (first, at) = match pod.node() {
            Some(_) => (&mut self.first_bound, pod.status.conditions.scheduled),
            None => (&mut self.first_waiting, pod.created),
        };
        let counts = !pod.deleting && (pod.node().is_some() || !pod.finished());
        if at > 0 && counts {
            *first = Some(first.map_or(at, |first| first.min(at)));
        }
        let own = Requester::read(&pod.annotations);
        self.requester = Some(match self.requester.take() {
            None => own,
            Some(others) => others.zip(own).map(|(others, own)| others.with(own)),
        });
        match Ask::read(self.annotations, &pod.annotations) {
            Ok(ask) => self.asks.push((pod.name.clone(), ask)),
            Err(problems) => self.problems.extend(problems),
        }
        let needs = match pod::demand(&pod.spec) {
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
        if *self.last != needs {
            self.last = Arc::new(needs);
        }
        Member {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            role: role.to_owned(),
            rank,
            demand: self.last.clone(),
            bound: bound(pod),
            finished: pod.finished(),
            gated: !pod.spec.scheduling_gates.is_empty(),
            reach: 0,
            notice: notice(pod),
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
        gang.ask.requester = self.requester.take().flatten();
        gang.ask.on_loss = gang.ask.on_loss.or(self.on_loss);
        gang.ask.time_limit_minutes = gang.ask.time_limit_minutes.or_else(|| self.time_limit());
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
        let torn =
            self.first_waiting.zip(self.first_bound).is_some_and(|(made, bound)| made <= bound);
        let problems = self.problems;
        Assembled {
            gang,
            problems,
            leaving,
            over,
            after: None,
            nowhere: None,
            torn,
            stand_ins: Vec::new(),
            stands_in: None,
            policies: 0,
        }
    }
}

#[cfg(test)]
#[path = "gang/tests.rs"]
mod tests;
