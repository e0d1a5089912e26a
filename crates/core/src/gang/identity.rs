//! Who a pod is: the workload it belongs to, its role and its number in it.
//!
//! Read from its owner reference and the labels that its controller writes. A label can only choose
//! among the workloads of the pod's own namespace (rule 7), and where the owner is known it must
//! agree, see [`super::own`].

use std::ops::Range;

use super::{Claim, number};
use crate::names;
use crate::pod::Pod;
use crate::workload::{Kind, Role, Shape, Workload};

/// scheduler-plugins: the pod's PodGroup.
const PLUGIN_GROUP: &str = "scheduling.x-k8s.io/pod-group";
/// Labels of the Kubeflow operators.
const REPLICA_TYPE: &str = "training.kubeflow.org/replica-type";
const REPLICA_INDEX: &str = "training.kubeflow.org/replica-index";
const JOB_ROLE: &str = "training.kubeflow.org/job-role";
const JOB_NAME: &str = "training.kubeflow.org/job-name";
const OPERATOR: &str = "training.kubeflow.org/operator-name";
/// Labels of the JobSet controller.
const JOBSET_NAME: &str = "jobset.sigs.k8s.io/jobset-name";
pub(super) const REPLICATED_JOB: &str = "jobset.sigs.k8s.io/replicatedjob-name";
const REPLICATED_JOB_REPLICAS: &str = "jobset.sigs.k8s.io/replicatedjob-replicas";
const JOB_INDEX: &str = "jobset.sigs.k8s.io/job-index";
/// Label of the LeaderWorkerSet controller.
const LWS_NAME: &str = "leaderworkerset.sigs.k8s.io/name";
pub(super) const WORKER_INDEX: &str = "leaderworkerset.sigs.k8s.io/worker-index";
/// KubeRay: the worker group, or `headgroup`.
const RAY_GROUP: &str = "ray.io/group";
/// Both label and annotation of the Job controller.
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Reads which workload a pod belongs to. A PodGroup that the user names goes before a Job, JobSet
/// or LeaderWorkerSet, because it says what starts together; Kubeflow and KubeRay name one that
/// they have made themselves, and know more than it does.
pub fn claim(pod: &Pod) -> Claim {
    let group = pod.spec.scheduling_group.as_ref().and_then(|g| g.pod_group_name.as_deref());
    if let Some(name) = group.filter(|n| !n.is_empty()) {
        return Claim::Workload(Kind::PodGroup, name.to_owned());
    }
    let controller = pod.controller.as_ref();
    let of = |group: &str, kind: &str| controller.filter(|c| c.group == group && c.kind == kind);
    for kind in [Kind::PyTorchJob, Kind::MpiJob, Kind::RayCluster] {
        if let Some(owner) = of(kind.group(), kind.name()) {
            return Claim::Workload(kind, owner.name.clone());
        }
    }
    let label = |key: &str| pod.labels.get(key).filter(|n| !n.is_empty()).cloned();
    let job = of(Kind::Job.group(), Kind::Job.name());
    let set = of(Kind::StatefulSet.group(), Kind::StatefulSet.name());
    // The mpi-operator's launcher is the pod of a Job.
    let launcher = job.is_some() && pod.labels.get(OPERATOR).is_some_and(|o| o == "mpi-operator");
    let named = [
        (Kind::MpiJob, label(JOB_NAME).filter(|_| launcher)),
        (Kind::PluginPodGroup, label(PLUGIN_GROUP)),
        (Kind::JobSet, label(JOBSET_NAME).filter(|_| job.is_some())),
        (Kind::LeaderWorkerSet, label(LWS_NAME).filter(|_| set.is_some())),
        (Kind::Job, job.map(|job| job.name.clone())),
    ];
    let found = named.into_iter().find_map(|(kind, name)| Some(Claim::Workload(kind, name?)));
    found.unwrap_or(Claim::Alone)
}

/// Whether the controller of the pod's controller says something about its gang.
pub fn needs_grandparent(claim: &Claim) -> bool {
    let Claim::Workload(kind, _) = claim else { return false };
    matches!(kind, Kind::JobSet | Kind::LeaderWorkerSet | Kind::MpiJob)
}

/// The rank and role a pod has by what it is, or else the rank it was bound with: a bound pod that
/// its workload no longer counts (a PyTorchJob made smaller) holds its node until it has ended.
pub(super) fn rank<'a>(workload: &'a Workload, pod: &Pod) -> Option<(u32, &'a str)> {
    let by_shape = match &workload.shape {
        Shape::Roles(roles) => rank_by_role(workload.kind, roles, pod),
        _ => None,
    };
    let as_bound = || pod.node().and_then(|_| number(&pod.annotations, names::RANK));
    let role = || range_of(workload, pod).map_or("", |(role, _)| role);
    by_shape.or_else(|| as_bound().map(|rank| (rank, role())))
}

/// Ranks run through the roles in their order, and in each by the pod's number in it.
fn rank_by_role<'a>(kind: Kind, roles: &'a [Role], pod: &Pod) -> Option<(u32, &'a str)> {
    let (role, before) = find_role(roles, role(kind, pod)?)?;
    let index = index(kind, role, pod)?;
    (index < role.count).then(|| (before + index, role.name.as_str()))
}

/// The role of a pod and the ranks it may take, where the pods of a role are alike; none where its
/// role is elastic and this pod is beyond the gang.
pub(super) fn range_of<'a>(workload: &'a Workload, pod: &Pod) -> Option<(&'a str, Range<u32>)> {
    let Shape::Roles(roles) = &workload.shape else { return None };
    let (role, before) = find_role(roles, role(workload.kind, pod)?)?;
    let end = before + role.count;
    match workload.kind {
        Kind::RayCluster => Some((role.name.as_str(), before..end)),
        _ => role.elastic.then_some((role.name.as_str(), end..end)),
    }
}

/// The role of that name, and how many members have one before it.
fn find_role<'a>(roles: &'a [Role], name: &str) -> Option<(&'a Role, u32)> {
    let mut before = 0;
    for role in roles {
        if role.name == name {
            return Some((role, before));
        }
        before += role.count;
    }
    None
}

/// The name of a pod's role, as its workload has it.
fn role(kind: Kind, pod: &Pod) -> Option<&str> {
    let label = |key: &str| pod.labels.get(key).map(String::as_str);
    match kind {
        Kind::Job => Some(""),
        Kind::PyTorchJob => label(REPLICA_TYPE),
        // The training-operator says it in one label, the mpi-operator in another.
        Kind::MpiJob => label(REPLICA_TYPE).or_else(|| label(JOB_ROLE)),
        Kind::JobSet => label(REPLICATED_JOB),
        Kind::LeaderWorkerSet => {
            Some(if label(WORKER_INDEX)? == "0" { "leader" } else { "worker" })
        }
        Kind::RayCluster => label(RAY_GROUP),
        Kind::PodGroup | Kind::PluginPodGroup | Kind::StatefulSet => None,
    }
}

/// Its number in its role, from 0. `None` where pods of a role are alike.
fn index(kind: Kind, role: &Role, pod: &Pod) -> Option<u32> {
    let completion = || {
        number(&pod.annotations, COMPLETION_INDEX).or_else(|| number(&pod.labels, COMPLETION_INDEX))
    };
    match kind {
        Kind::Job => completion(),
        Kind::PyTorchJob => number(&pod.labels, REPLICA_INDEX),
        Kind::MpiJob if role.name == "launcher" => Some(0),
        // The label counts from 1 where the launcher works too; the name, which stands in the
        // hostfile, never does.
        Kind::MpiJob => pod.name.rsplit_once('-')?.1.parse().ok(),
        Kind::JobSet => {
            let jobs = number(&pod.labels, REPLICATED_JOB_REPLICAS).filter(|jobs| *jobs > 0)?;
            let each = role.count / jobs;
            let within = completion().filter(|index| *index < each)?;
            number(&pod.labels, JOB_INDEX)?.checked_mul(each)?.checked_add(within)
        }
        Kind::LeaderWorkerSet => match number(&pod.labels, WORKER_INDEX)? {
            0 => Some(0),
            worker => Some(worker - 1),
        },
        Kind::RayCluster | Kind::PodGroup | Kind::PluginPodGroup | Kind::StatefulSet => None,
    }
}
