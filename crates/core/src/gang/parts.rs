//! The gangs of one workload told apart: groups of a LeaderWorkerSet, stages and restart attempts
//! of a JobSet.
//!
//! Two generations overlap while a workload restarts: the old pods are on their way out while the
//! new ones come. They are two gangs with two placeholders, or the old ones would be counted for
//! the new.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::identity::{REPLICATED_JOB, WORKER_INDEX};
use super::number;
use crate::names;
use crate::pod::{Controller, Pod};
use crate::workload::{Kind, MAX_GANG, Role, Shape, Workload};

/// Labels of the JobSet controller.
const JOBSET_UID: &str = "jobset.sigs.k8s.io/jobset-uid";
const RESTART_ATTEMPT: &str = "jobset.sigs.k8s.io/restart-attempt";
/// Annotation of the LeaderWorkerSet webhook: how many pods the group has, which differs between
/// groups during an update.
const GROUP_SIZE: &str = "leaderworkerset.sigs.k8s.io/size";

/// One gang's share of a workload, and its pods.
type Part<'a> = (Cow<'a, Workload>, Vec<&'a Pod>);

/// Divides the pods of a workload into those of its gangs, and those that have a problem and stand
/// alone with it.
pub(super) fn divide<'a>(
    workload: &'a Workload,
    pods: &[&'a Pod],
) -> (Vec<Part<'a>>, Vec<(&'a Pod, String)>) {
    match &workload.shape {
        Shape::Stages(stages) => stages_and_attempts(workload, stages, pods),
        Shape::Groups(roles) => groups(workload, roles, pods),
        _ => (vec![(Cow::Borrowed(workload), pods.to_vec())], Vec::new()),
    }
}

/// The uid of the gang that a pod of this workload belongs to, if its shape has gangs.
pub fn gang_uid(workload: &Workload, pod: &Pod) -> Option<String> {
    match &workload.shape {
        Shape::Singles => None,
        Shape::Stages(stages) => {
            let (attempt, stage) = stage_of(stages, pod)?;
            Some(stage_uid(workload, stages, attempt, stage))
        }
        Shape::Groups(_) => leader_uid(pod),
        Shape::Roles(_) | Shape::AtLeast(_) => Some(workload.uid.clone()),
    }
}

/// Separates a workload's own pods from those of an earlier one of the same name, and from those
/// whose labels claim what their owners do not confirm (rule 7). What was bound once is believed
/// until the owners are known.
pub fn own<'a>(workload: &Workload, pods: &[&'a Pod]) -> (Vec<&'a Pod>, Vec<&'a Pod>) {
    let is = |owner: &Controller| owner.kind == workload.kind.name() && owner.uid == workload.uid;
    let confirmed = |pod: &Pod| pod.grandparent.as_ref().map_or_else(|| pod.node().is_some(), is);
    match workload.kind {
        Kind::PodGroup | Kind::PluginPodGroup => (pods.to_vec(), Vec::new()),
        Kind::JobSet => pods.iter().partition(|pod| {
            let labelled = pod.labels.get(JOBSET_UID).is_none_or(|uid| *uid == workload.uid);
            labelled && confirmed(pod)
        }),
        // A launcher's own controller is a Job.
        Kind::MpiJob => pods.iter().partition(|pod| match &pod.controller {
            Some(c) if c.kind == Kind::Job.name() => confirmed(pod),
            controller => controller.as_ref().is_none_or(is),
        }),
        Kind::LeaderWorkerSet => {
            // Workers hang on their leader, the leader on the LeaderWorkerSet.
            let leads_elsewhere = |pod: &&&Pod| is_leader(pod) && !confirmed(pod);
            let foreign: BTreeSet<&str> =
                pods.iter().filter(leads_elsewhere).map(|pod| pod.uid.as_str()).collect();
            pods.iter().partition(|pod| {
                !leader_uid(pod).is_some_and(|leader| foreign.contains(leader.as_str()))
            })
        }
        _ => pods.iter().partition(|pod| pod.controller.as_ref().is_none_or(is)),
    }
}

/// The restart attempt and the stage of a JobSet's pod.
fn stage_of(stages: &[Vec<Role>], pod: &Pod) -> Option<(u32, usize)> {
    let name = pod.labels.get(REPLICATED_JOB)?;
    let stage = stages.iter().position(|roles| roles.iter().any(|role| &role.name == name))?;
    Some((number(&pod.labels, RESTART_ATTEMPT)?, stage))
}

fn stage_uid(workload: &Workload, stages: &[Vec<Role>], attempt: u32, stage: usize) -> String {
    let uid = &workload.uid;
    if stages.len() == 1 { format!("{uid}:{attempt}") } else { format!("{uid}:{attempt}:{stage}") }
}

fn stages_and_attempts<'a>(
    workload: &'a Workload,
    stages: &[Vec<Role>],
    pods: &[&'a Pod],
) -> (Vec<Part<'a>>, Vec<(&'a Pod, String)>) {
    let mut parts: BTreeMap<(u32, usize), Vec<&Pod>> = BTreeMap::new();
    let mut strangers = Vec::new();
    for pod in pods {
        match stage_of(stages, pod) {
            Some(key) => parts.entry(key).or_default().push(pod),
            None => strangers.push((*pod, super::no_place(workload))),
        }
    }
    let newest = parts.keys().map(|(attempt, _)| *attempt).max();
    let part = |((attempt, stage), pods): ((u32, usize), Vec<&'a Pod>)| {
        let roles = stages[stage].clone();
        let role = roles.first().map_or("", |role| role.name.as_str());
        let name = match stages.len() {
            1 => workload.name.clone(),
            _ => format!("{}-{role}", workload.name),
        };
        let part = Workload {
            uid: stage_uid(workload, stages, attempt, stage),
            name,
            // Nothing more comes of an attempt once there is a newer one.
            over: workload.over || newest > Some(attempt),
            shape: Shape::Roles(roles),
            ..workload.clone()
        };
        (Cow::Owned(part), pods)
    };
    (parts.into_iter().map(part).collect(), strangers)
}

fn is_leader(pod: &Pod) -> bool {
    pod.labels.get(WORKER_INDEX).is_some_and(|index| index == "0")
}

/// The uid of a pod's leader: its own, that of the pod over its StatefulSet, or what it was bound
/// for. A group that is made anew has the same name and the same key, but another leader.
fn leader_uid(pod: &Pod) -> Option<String> {
    if is_leader(pod) {
        return Some(pod.uid.clone());
    }
    let leader = pod.grandparent.as_ref().filter(|owner| owner.kind == "Pod");
    let bound_for = || pod.node().and_then(|_| pod.annotations.get(names::GANG)).cloned();
    leader.map(|owner| owner.uid.clone()).or_else(bound_for)
}

fn groups<'a>(
    workload: &'a Workload,
    roles: &[Role],
    pods: &[&'a Pod],
) -> (Vec<Part<'a>>, Vec<(&'a Pod, String)>) {
    let mut groups: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    let mut strangers = Vec::new();
    for pod in pods {
        if let Some(leader) = leader_uid(pod) {
            groups.entry(leader).or_default().push(pod);
            continue;
        }
        let set = pod.controller.as_ref().map_or("", |c| c.name.as_str());
        let problem = format!(
            "its StatefulSet {set}, which names its leader, does not exist, or gangway may not read it"
        );
        strangers.push((*pod, problem));
    }
    let part = |(uid, pods): (String, Vec<&'a Pod>)| {
        let leader = pods.iter().find(|pod| pod.uid == uid);
        let name = leader.map_or(&workload.name, |pod| &pod.name).clone();
        let shape = Shape::Roles(sized(roles, &pods));
        (Cow::Owned(Workload { uid, name, shape, ..workload.clone() }), pods)
    };
    (groups.into_iter().map(part).collect(), strangers)
}

/// The roles of a group, as large as its own pods say it is.
fn sized(roles: &[Role], pods: &[&Pod]) -> Vec<Role> {
    let size = pods.iter().find_map(|pod| number(&pod.annotations, GROUP_SIZE));
    let workers = size.filter(|n| *n <= MAX_GANG).map(|n| n.saturating_sub(1));
    let mut roles = roles.to_vec();
    for role in roles.iter_mut().filter(|role| role.name == "worker") {
        role.count = workers.unwrap_or(role.count);
    }
    roles
}
