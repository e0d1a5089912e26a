//! What a workload says about its gang: how many pods, in which roles, whether it is over.
//!
//! Read from the object as JSON, not through generated types: native PodGroups move with every
//! Kubernetes release and the other kinds are CRDs. Unknown fields are ignored; a size that cannot
//! be read makes the pods stand alone rather than wait for ever.

mod jobset;
mod kubeflow;
mod leaderworkerset;
mod ray;
mod template;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use crate::ask::Outcome;
use crate::names::{ALIAS_PREFIX, PREFIX};
use crate::pod::{Controller, PodSpec};

/// The kinds of workload whose pods start together, and one that only leads from a pod to its
/// workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `scheduling.k8s.io` PodGroup, named by `pod.spec.schedulingGroup`.
    PodGroup,
    /// `scheduling.x-k8s.io` PodGroup of scheduler-plugins, named by a label.
    PluginPodGroup,
    /// `batch/v1` Job.
    Job,
    /// `kubeflow.org/v1` PyTorchJob.
    PyTorchJob,
    /// `kubeflow.org` MPIJob: v2beta1 of the mpi-operator or v1 of the training-operator.
    MpiJob,
    /// `jobset.x-k8s.io` JobSet; a TrainJob's pods are those of the JobSet it makes.
    JobSet,
    /// `leaderworkerset.x-k8s.io` LeaderWorkerSet.
    LeaderWorkerSet,
    /// `ray.io` RayCluster.
    RayCluster,
    /// `apps` StatefulSet: no gang, but the link between the workers of a LeaderWorkerSet and
    /// their leader.
    StatefulSet,
}

impl Kind {
    /// Every kind there is; what a kind [needs](Self::needed_with) stands before it.
    pub const ALL: [Self; 9] = [
        Self::PodGroup,
        Self::PluginPodGroup,
        Self::Job,
        Self::PyTorchJob,
        Self::MpiJob,
        Self::JobSet,
        Self::LeaderWorkerSet,
        Self::RayCluster,
        Self::StatefulSet,
    ];

    /// API group.
    pub fn group(self) -> &'static str {
        match self {
            Self::PodGroup => "scheduling.k8s.io",
            Self::PluginPodGroup => "scheduling.x-k8s.io",
            Self::Job => "batch",
            Self::PyTorchJob | Self::MpiJob => "kubeflow.org",
            Self::JobSet => "jobset.x-k8s.io",
            Self::LeaderWorkerSet => "leaderworkerset.x-k8s.io",
            Self::RayCluster => "ray.io",
            Self::StatefulSet => "apps",
        }
    }

    /// Kind as in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::PodGroup | Self::PluginPodGroup => "PodGroup",
            Self::Job => "Job",
            Self::PyTorchJob => "PyTorchJob",
            Self::MpiJob => "MPIJob",
            Self::JobSet => "JobSet",
            Self::LeaderWorkerSet => "LeaderWorkerSet",
            Self::RayCluster => "RayCluster",
            Self::StatefulSet => "StatefulSet",
        }
    }

    /// The kind without which this one need not be watched: every cluster has StatefulSets, and
    /// only those of LeaderWorkerSets say anything about a gang.
    pub fn needed_with(self) -> Option<Self> {
        (self == Self::StatefulSet).then_some(Self::LeaderWorkerSet)
    }
}

/// One workload object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its kind.
    pub kind: Kind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id: the gang's uid.
    pub uid: String,
    /// API version it was served at, for references in events.
    pub api_version: String,
    /// Annotations of ours and of the peer: defaults for its pods.
    pub annotations: BTreeMap<String, String>,
    /// What made it, if something did.
    pub owner: Option<Controller>,
    /// How its pods belong together.
    pub shape: Shape,
    /// Finished, or being deleted: no further pods will come.
    pub over: bool,
    /// How it has ended, where it says so itself.
    pub outcome: Option<Outcome>,
    /// How long it may run, from its `activeDeadlineSeconds`.
    pub deadline_seconds: Option<u64>,
    /// It says itself that its pods go on when one of them is lost.
    pub replaces: bool,
    /// Indexes that have run to their end: no pod comes for them any more, and theirs may be gone.
    pub done: Arc<[Range<u32>]>,
}

/// How the pods of a workload belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// They do not: each pod is a gang of one.
    Singles,
    /// A fixed number per role; ranks run through the roles in this order.
    Roles(Vec<Role>),
    /// At least so many of pods that are alike; any beyond are gangs of one.
    AtLeast(u32),
    /// One gang after another, each of these roles: a stage begins when the one before it has run
    /// to its end. A workload that starts at once, or bit by bit, has one stage.
    Stages(Vec<Vec<Role>>),
    /// Any number of gangs, each of these roles.
    Groups(Vec<Role>),
}

/// One role of a gang.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// `master`, `worker` …; empty where there is only one.
    pub name: String,
    /// How many members have it.
    pub count: u32,
    /// Its pods are made only when members of other roles are ready; until then this template says
    /// what each of them will need.
    pub later: Option<Box<PodSpec>>,
    /// Elastic: pods of this role beyond the count are gangs of one that come after the gang.
    pub elastic: bool,
}

impl Shape {
    /// How many members must be there before the gang may ask for room.
    pub fn size(&self) -> u32 {
        match self {
            Self::Singles => 1,
            Self::Roles(roles) | Self::Groups(roles) => size(roles),
            Self::AtLeast(n) => *n,
            Self::Stages(stages) => stages.iter().map(|roles| size(roles)).max().unwrap_or(0),
        }
    }
}

impl Shape {
    /// Its roles, of all stages.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        let (roles, stages) = match self {
            Self::Roles(roles) | Self::Groups(roles) => (roles.as_slice(), &[][..]),
            Self::Stages(stages) => (&[][..], stages.as_slice()),
            Self::Singles | Self::AtLeast(_) => (&[][..], &[][..]),
        };
        roles.iter().chain(stages.iter().flatten())
    }
}

fn size(roles: &[Role]) -> u32 {
    roles.iter().fold(0u32, |sum, role| sum.saturating_add(role.count))
}

/// Largest gang there can be: Slurm's own limit on nodes (MAX_SLURM_NODES).
pub const MAX_GANG: u32 = 65_536;

impl Workload {
    /// Reads a workload object as far as it is for the pods of `scheduler`. `None` when it has no name or uid, that is, when it is no object.
    pub fn read(kind: Kind, object: &Value, scheduler: &str) -> Option<Self> {
        let meta = object.get("metadata")?;
        let text = |v: &Value, k: &str| v.get(k).and_then(Value::as_str).unwrap_or("").to_owned();
        let (name, uid) = (text(meta, "name"), text(meta, "uid"));
        if name.is_empty() || uid.is_empty() {
            return None;
        }
        let annotations = meta
            .get("annotations")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            // What others have written there can be large, and is nothing to us.
            .filter(|(key, _)| key.starts_with(PREFIX) || key.starts_with(ALIAS_PREFIX))
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let shape = match kind {
            Kind::PodGroup => pod_group_shape(spec),
            Kind::Job => job_shape(spec),
            Kind::PyTorchJob => kubeflow::pytorch(spec, scheduler),
            Kind::PluginPodGroup => match spec.get("minMember").and_then(count) {
                Some(n) if n > 0 => Shape::AtLeast(n),
                _ => Shape::Singles,
            },
            Kind::MpiJob => kubeflow::mpi(spec, scheduler),
            Kind::JobSet => jobset::shape(spec, scheduler),
            Kind::LeaderWorkerSet => leaderworkerset::shape(spec, scheduler),
            Kind::RayCluster => ray::shape(spec, scheduler),
            Kind::StatefulSet => Shape::Singles,
        };
        let shape = if (1..=MAX_GANG).contains(&shape.size()) { shape } else { Shape::Singles };
        Some(Self {
            kind,
            namespace: text(meta, "namespace"),
            name,
            uid,
            api_version: text(object, "apiVersion"),
            annotations,
            owner: owner(meta),
            shape,
            over: meta.get("deletionTimestamp").is_some_and(|t| !t.is_null()) || finished(object),
            outcome: outcome(object),
            deadline_seconds: deadline(spec),
            replaces: replaces(kind, spec),
            done: if kind == Kind::Job { done(object) } else { Arc::default() },
        })
    }

    /// How many of its indexes have run to their end, but for those that `present` still has.
    pub fn gone_well(&self, present: impl Fn(u32) -> bool) -> u32 {
        let indexes = self.done.iter().cloned().flatten();
        u32::try_from(indexes.filter(|index| !present(*index)).count()).unwrap_or(u32::MAX)
    }
}

/// The owner reference marked as controller.
fn owner(meta: &Value) -> Option<Controller> {
    let owners = meta.get("ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|o| o.get("controller").and_then(Value::as_bool) == Some(true));
    let text = |k: &str| owner?.get(k)?.as_str().map(str::to_owned);
    let version = text("apiVersion")?;
    Some(Controller {
        group: version.split_once('/').map_or("", |(group, _)| group).to_owned(),
        kind: text("kind")?,
        name: text("name")?,
        uid: text("uid")?,
    })
}

/// Conditions that say no further pods will come: batch (`Complete`, `Failed`), Kubeflow
/// (`Succeeded`, `Failed`), JobSet (`Completed`, `Failed`).
fn finished(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| {
        let is = |k: &str, v: &str| c.get(k).and_then(Value::as_str) == Some(v);
        ["Complete", "Completed", "Succeeded", "Failed"].iter().any(|t| is("type", t))
            && is("status", "True")
    })
}

/// How a workload has ended by its own conditions. Deleted is neither well nor badly.
fn outcome(object: &Value) -> Option<Outcome> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let text = |c: &Value, k: &str| c.get(k).and_then(Value::as_str).map(str::to_owned);
    let is_true = |c: &&Value| text(c, "status").as_deref() == Some("True");
    conditions.into_iter().flatten().filter(is_true).find_map(|c| match text(c, "type")?.as_str() {
        // JobSet and Trainer say Completed or Complete, Kubeflow's older kinds Succeeded.
        "Complete" | "Completed" | "Succeeded" => Some(Outcome::Succeeded),
        "Failed" => Some(Outcome::Failed),
        _ => None,
    })
}

/// `activeDeadlineSeconds` where Job and TrainJob have it, or Kubeflow's older kinds.
fn deadline(spec: &Value) -> Option<u64> {
    let paths = ["/activeDeadlineSeconds", "/runPolicy/activeDeadlineSeconds"];
    paths.iter().find_map(|path| spec.pointer(path)?.as_u64()).filter(|seconds| *seconds > 0)
}

/// Whether a workload says itself that the others go on when one of its pods is lost: elastic training,
/// indexes that fail each for itself, groups that are not made anew, and Ray, whose workers come and go.
fn replaces(kind: Kind, spec: &Value) -> bool {
    let says = |path: &str| spec.pointer(path).is_some_and(|value| !value.is_null());
    match kind {
        Kind::PyTorchJob => says("/elasticPolicy"),
        Kind::Job => says("/backoffLimitPerIndex"),
        Kind::LeaderWorkerSet => {
            spec.pointer("/leaderWorkerTemplate/restartPolicy").and_then(Value::as_str)
                == Some("None")
        }
        Kind::RayCluster => true,
        _ => false,
    }
}

/// A gang policy moves between releases; what stays is a `minCount` somewhere below `spec`
/// (v1alpha2: `spec.schedulingPolicy.gang.minCount`, v1beta1: the same).
fn pod_group_shape(spec: &Value) -> Shape {
    let paths = ["/schedulingPolicy/gang/minCount", "/policy/gang/minCount", "/gang/minCount"];
    match paths.iter().find_map(|p| spec.pointer(p)).and_then(count) {
        Some(n) if n > 0 => Shape::AtLeast(n),
        _ => Shape::Singles,
    }
}

/// An Indexed Job whose pods all run at once is a gang; one that works through a list of
/// completions is not: its pods come one after another.
fn job_shape(spec: &Value) -> Shape {
    let indexed = spec.get("completionMode").and_then(Value::as_str) == Some("Indexed");
    let parallelism = spec.get("parallelism").map_or(Some(1), count);
    let completions = spec.get("completions").and_then(count);
    match (indexed, parallelism, completions) {
        (true, Some(p), Some(c)) if p == c && p > 0 => {
            Shape::Roles(vec![Role { count: p, ..Role::default() }])
        }
        _ => Shape::Singles,
    }
}

/// `status.completedIndexes` of a Job: `0,3-5`. What cannot be read is taken for none.
fn done(object: &Value) -> Arc<[Range<u32>]> {
    let text = object.pointer("/status/completedIndexes").and_then(Value::as_str).unwrap_or("");
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        (first <= last && last < MAX_GANG).then(|| first..last + 1)
    };
    text.split(',').filter_map(range).collect()
}

fn count(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok()).map(|n| n.min(MAX_GANG + 1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::names::SCHEDULER;

    fn shape(kind: Kind, spec: &Value) -> Shape {
        let object = json!({"metadata": {"name": "n", "uid": "u"}, "spec": spec});
        Workload::read(kind, &object, SCHEDULER).expect("an object").shape
    }

    fn roles(list: &[(&str, u32)]) -> Shape {
        let role = |(n, c): &(&str, u32)| Role { name: (*n).into(), count: *c, ..Role::default() };
        Shape::Roles(list.iter().map(role).collect())
    }

    #[test]
    fn a_pytorchjob_counts_its_replicas_master_first() {
        let spec = json!({"pytorchReplicaSpecs": {"Worker": {"replicas": 3}, "Master": {}}});
        assert_eq!(shape(Kind::PyTorchJob, &spec), roles(&[("master", 1), ("worker", 3)]));
    }

    #[test]
    fn a_workload_may_say_that_its_pods_go_on_without_one_another() {
        let of = |kind, spec: Value| replaces(kind, &spec);
        assert!(of(Kind::PyTorchJob, json!({"elasticPolicy": {"minReplicas": 1}})));
        assert!(!of(Kind::PyTorchJob, json!({})));
        assert!(of(Kind::Job, json!({"backoffLimitPerIndex": 0})));
        assert!(!of(Kind::Job, json!({"backoffLimitPerIndex": null})));
        let group = |policy: &str| json!({"leaderWorkerTemplate": {"restartPolicy": policy}});
        assert!(of(Kind::LeaderWorkerSet, group("None")));
        assert!(!of(Kind::LeaderWorkerSet, group("RecreateGroupOnPodRestart")));
        assert!(of(Kind::RayCluster, json!({})));
    }

    #[test]
    fn only_an_indexed_job_that_runs_at_once_is_a_gang() {
        let indexed = |p: u32, c: u32| json!({"completionMode": "Indexed", "parallelism": p, "completions": c});
        assert_eq!(shape(Kind::Job, &indexed(4, 4)), roles(&[("", 4)]));
        assert_eq!(shape(Kind::Job, &indexed(2, 4)), Shape::Singles);
        assert_eq!(shape(Kind::Job, &json!({"parallelism": 4, "completions": 4})), Shape::Singles);
    }

    #[test]
    fn a_pod_group_asks_for_its_least_count() {
        let gang = json!({"schedulingPolicy": {"gang": {"minCount": 5}}});
        assert_eq!(shape(Kind::PodGroup, &gang), Shape::AtLeast(5));
        assert_eq!(
            shape(Kind::PodGroup, &json!({"schedulingPolicy": {"basic": {}}})),
            Shape::Singles
        );
    }

    #[test]
    fn absurd_sizes_do_not_make_a_gang() {
        let huge = json!({"schedulingPolicy": {"gang": {"minCount": 4_000_000_000u64}}});
        assert_eq!(shape(Kind::PodGroup, &huge), Shape::Singles);
        let many = json!({"pytorchReplicaSpecs": {"Worker": {"replicas": 65_000}, "Master": {"replicas": 65_000}}});
        assert_eq!(shape(Kind::PyTorchJob, &many), Shape::Singles);
    }

    #[test]
    fn a_job_says_which_of_its_indexes_have_run_to_their_end() {
        let done = |text: &str| {
            let object = json!({"metadata": {"name": "n", "uid": "u"},
                "status": {"completedIndexes": text}});
            let job = Workload::read(Kind::Job, &object, SCHEDULER).expect("an object");
            job.done.iter().cloned().flatten().collect::<Vec<u32>>()
        };
        assert_eq!(done("0,3-5,7"), [0, 3, 4, 5, 7]);
        for nothing in ["", "-", "x", "5-3", "0-4000000000"] {
            assert_eq!(done(nothing), [0; 0], "{nothing:?}");
        }
        let object =
            json!({"metadata": {"name": "n", "uid": "u"}, "status": {"completedIndexes": "0-2"}});
        let read = |kind| Workload::read(kind, &object, SCHEDULER).expect("an object");
        assert_eq!(read(Kind::Job).gone_well(|index| index == 1), 2);
        assert_eq!(read(Kind::JobSet).gone_well(|_| false), 0, "only a Job has indexes of its own");
    }

    #[test]
    fn a_plugin_pod_group_asks_for_its_least_members() {
        assert_eq!(shape(Kind::PluginPodGroup, &json!({"minMember": 3})), Shape::AtLeast(3));
        assert_eq!(shape(Kind::PluginPodGroup, &json!({"minMember": 0})), Shape::Singles);
        assert_eq!(shape(Kind::PluginPodGroup, &json!({})), Shape::Singles);
    }

    #[test]
    fn of_annotations_only_ours_are_kept_and_of_owners_only_the_controller() {
        let object = json!({"metadata": {"name": "n", "uid": "u",
            "annotations": {"gangway.dev/partition": "a", "slurmjob.slinky.slurm.net/qos": "b",
                "kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "x", "uid": "1"},
                {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "s", "uid": "2",
                 "controller": true}]}});
        let workload = Workload::read(Kind::Job, &object, SCHEDULER).expect("an object");
        let kept: Vec<_> = workload.annotations.keys().map(String::as_str).collect();
        assert_eq!(kept, ["gangway.dev/partition", "slurmjob.slinky.slurm.net/qos"]);
        let [group, kind, name, uid] = ["jobset.x-k8s.io", "JobSet", "s", "2"].map(str::to_owned);
        assert_eq!(workload.owner, Some(Controller { group, kind, name, uid }));
    }

    #[test]
    fn a_workload_says_how_it_ended_and_how_long_it_may_run() {
        let read = |spec: Value, kind: &str, status: &str| {
            let conditions =
                json!([{"type": "Suspended", "status": "True"}, {"type": kind, "status": status}]);
            let object = json!({"metadata": {"name": "n", "uid": "u"}, "spec": spec,
                "status": {"conditions": conditions}});
            let workload = Workload::read(Kind::Job, &object, SCHEDULER).expect("an object");
            (workload.outcome, workload.deadline_seconds)
        };
        let succeeded = Some(Outcome::Succeeded);
        assert_eq!(
            read(json!({"activeDeadlineSeconds": 61}), "Complete", "True"),
            (succeeded, Some(61))
        );
        let kubeflow = json!({"runPolicy": {"activeDeadlineSeconds": 5}});
        assert_eq!(read(kubeflow, "Succeeded", "True"), (succeeded, Some(5)));
        assert_eq!(read(json!({}), "Failed", "True"), (Some(Outcome::Failed), None));
        assert_eq!(read(json!({"activeDeadlineSeconds": null}), "Failed", "False"), (None, None));
    }

    #[test]
    fn a_finished_or_deleted_workload_is_over() {
        let done = json!({"metadata": {"name": "n", "uid": "u"},
            "status": {"conditions": [{"type": "Complete", "status": "True"}]}});
        assert!(Workload::read(Kind::Job, &done, SCHEDULER).expect("an object").over);
        let done = json!({"metadata": {"name": "n", "uid": "u"},
            "status": {"conditions": [{"type": "Completed", "status": "True"}]}});
        assert!(Workload::read(Kind::JobSet, &done, SCHEDULER).expect("an object").over);
        let running = json!({"metadata": {"name": "n", "uid": "u"},
            "status": {"conditions": [{"type": "Failed", "status": "False"}]}});
        assert!(!Workload::read(Kind::Job, &running, SCHEDULER).expect("an object").over);
        let deleted = json!({"metadata": {"name": "n", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert!(Workload::read(Kind::Job, &deleted, SCHEDULER).expect("an object").over);
    }
}
