//! What a workload says about its gang: how many pods, in which roles, whether it is over.
//!
//! Read from the object as JSON, not through generated types: native PodGroups move with every
//! Kubernetes release and the other kinds are CRDs. Unknown fields are ignored; a size that cannot
//! be read makes the pods stand alone rather than wait for ever.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::ask::Outcome;

/// The kinds of workload whose pods start together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `scheduling.k8s.io` PodGroup, named by `pod.spec.schedulingGroup`.
    PodGroup,
    /// `batch/v1` Job.
    Job,
    /// `kubeflow.org/v1` PyTorchJob.
    PyTorchJob,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: [Self; 3] = [Self::PodGroup, Self::Job, Self::PyTorchJob];

    /// API group.
    pub fn group(self) -> &'static str {
        match self {
            Self::PodGroup => "scheduling.k8s.io",
            Self::Job => "batch",
            Self::PyTorchJob => "kubeflow.org",
        }
    }

    /// Kind as in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::PodGroup => "PodGroup",
            Self::Job => "Job",
            Self::PyTorchJob => "PyTorchJob",
        }
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
    /// Annotations: defaults for its pods.
    pub annotations: BTreeMap<String, String>,
    /// How its pods belong together.
    pub shape: Shape,
    /// Finished, or being deleted: no further pods will come.
    pub over: bool,
    /// How it has ended, where it says so itself.
    pub outcome: Option<Outcome>,
    /// How long it may run, from its `activeDeadlineSeconds`.
    pub deadline_seconds: Option<u64>,
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
}

/// One role of a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// `master`, `worker` …; empty where there is only one.
    pub name: String,
    /// How many members have it.
    pub count: u32,
}

impl Shape {
    /// How many members must be there before the gang may ask for room.
    pub fn size(&self) -> u32 {
        match self {
            Self::Singles => 1,
            Self::Roles(roles) => roles.iter().map(|r| r.count).sum(),
            Self::AtLeast(n) => *n,
        }
    }
}

/// Largest gang there can be: Slurm's own limit on nodes (MAX_SLURM_NODES).
pub const MAX_GANG: u32 = 65_536;

impl Workload {
    /// Reads a workload object. `None` when it has no name or uid, that is, when it is no object.
    pub fn read(kind: Kind, object: &Value) -> Option<Self> {
        let meta = object.get("metadata")?;
        let text = |v: &Value, k: &str| v.get(k).and_then(Value::as_str).unwrap_or("").to_owned();
        let (name, uid) = (text(meta, "name"), text(meta, "uid"));
        if name.is_empty() || uid.is_empty() {
            return None;
        }
        let annotations = meta
            .get("annotations")
            .and_then(|a| serde_json::from_value(a.clone()).ok())
            .unwrap_or_default();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let shape = match kind {
            Kind::PodGroup => pod_group_shape(spec),
            Kind::Job => job_shape(spec),
            Kind::PyTorchJob => pytorch_shape(spec),
        };
        let shape = if shape.size() > MAX_GANG { Shape::Singles } else { shape };
        Some(Self {
            kind,
            namespace: text(meta, "namespace"),
            name,
            uid,
            api_version: text(object, "apiVersion"),
            annotations,
            shape,
            over: meta.get("deletionTimestamp").is_some_and(|t| !t.is_null()) || finished(object),
            outcome: outcome(object),
            deadline_seconds: deadline(spec),
        })
    }
}

/// Conditions that say no further pods will come: batch (`Complete`, `Failed`), Kubeflow
/// (`Succeeded`, `Failed`).
fn finished(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| {
        let is = |k: &str, v: &str| c.get(k).and_then(Value::as_str) == Some(v);
        (is("type", "Complete") || is("type", "Succeeded") || is("type", "Failed"))
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
            Shape::Roles(vec![Role { name: String::new(), count: p }])
        }
        _ => Shape::Singles,
    }
}

/// Master first, then workers, then any other replica type by name: the order of Kubeflow's ranks.
fn pytorch_shape(spec: &Value) -> Shape {
    let Some(specs) = spec.get("pytorchReplicaSpecs").and_then(Value::as_object) else {
        return Shape::Singles;
    };
    let mut roles: Vec<Role> = specs
        .iter()
        .map(|(name, s)| Role {
            name: name.to_lowercase(),
            count: s.get("replicas").map_or(Some(1), count).unwrap_or(1),
        })
        .collect();
    roles.sort_by_key(|r| (r.name != "master", r.name != "worker", r.name.clone()));
    if roles.iter().map(|r| u64::from(r.count)).sum::<u64>() == 0 {
        return Shape::Singles;
    }
    Shape::Roles(roles)
}

fn count(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok()).map(|n| n.min(MAX_GANG + 1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shape(kind: Kind, spec: &Value) -> Shape {
        let object = json!({"metadata": {"name": "n", "uid": "u"}, "spec": spec});
        Workload::read(kind, &object).expect("an object").shape
    }

    fn roles(list: &[(&str, u32)]) -> Shape {
        Shape::Roles(list.iter().map(|(n, c)| Role { name: (*n).into(), count: *c }).collect())
    }

    #[test]
    fn a_pytorchjob_counts_its_replicas_master_first() {
        let spec = json!({"pytorchReplicaSpecs": {"Worker": {"replicas": 3}, "Master": {}}});
        assert_eq!(shape(Kind::PyTorchJob, &spec), roles(&[("master", 1), ("worker", 3)]));
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
    fn a_workload_says_how_it_ended_and_how_long_it_may_run() {
        let read = |spec: Value, kind: &str, status: &str| {
            let conditions =
                json!([{"type": "Suspended", "status": "True"}, {"type": kind, "status": status}]);
            let object = json!({"metadata": {"name": "n", "uid": "u"}, "spec": spec,
                "status": {"conditions": conditions}});
            let workload = Workload::read(Kind::Job, &object).expect("an object");
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
        assert!(Workload::read(Kind::Job, &done).expect("an object").over);
        let running = json!({"metadata": {"name": "n", "uid": "u"},
            "status": {"conditions": [{"type": "Failed", "status": "False"}]}});
        assert!(!Workload::read(Kind::Job, &running).expect("an object").over);
        let deleted = json!({"metadata": {"name": "n", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert!(Workload::read(Kind::Job, &deleted).expect("an object").over);
    }
}
