//! Everybody else in the cluster: users who make and delete workloads, the controllers that make pods
//! of them, and the kubelets that run those.
//!
//! They act on the store directly, without faults: what is tried here is the bridge.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::kubernetes::{Resource, Store, deleting, finished, node, path, uid};

/// What kind of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pod by itself, made anew by its user under the same name.
    Bare,
    /// An Indexed Job: a lost pod has a successor of another name, at once.
    Job,
    /// A PyTorchJob: a lost pod has a successor of the same name, when it is gone, also one that had
    /// succeeded; and all is done when its master is.
    PyTorch,
}

/// One workload, as its user means it and as it goes.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) size: u32,
    pub(crate) gpus: u32,
    /// How long each pod runs, the first time and every other.
    pub(crate) runs_ms: [u64; 2],
    pub(crate) arrives_ms: u64,
    /// Its user loses interest then.
    pub(crate) leaves_ms: Option<u64>,
    /// One of its pods is deleted then.
    pub(crate) loses_ms: Option<u64>,
    pub(crate) uid: String,
    made: bool,
    pub(crate) removed: bool,
    /// By index: it has succeeded, how often it was made, since when it is missing.
    pub(crate) done: Vec<bool>,
    made_times: Vec<u32>,
    missing_ms: Vec<Option<u64>>,
    completed_ms: Option<u64>,
}

impl Workload {
    pub(crate) fn new(kind: Kind, name: String, size: u32, gpus: u32) -> Self {
        let n = size as usize;
        Self {
            kind,
            name,
            size,
            gpus,
            runs_ms: [5_000, 2_000],
            arrives_ms: 0,
            leaves_ms: None,
            loses_ms: None,
            uid: String::new(),
            made: false,
            removed: false,
            done: vec![false; n],
            made_times: vec![0; n],
            missing_ms: vec![None; n],
            completed_ms: None,
        }
    }

    /// It has run to its end, or its user has taken it away.
    pub(crate) fn is_settled(&self) -> bool {
        self.removed
    }

    /// Whether everything it was for has been done.
    fn is_done(&self) -> bool {
        match self.kind {
            Kind::PyTorch => self.done.first() == Some(&true),
            Kind::Bare | Kind::Job => self.done.iter().all(|done| *done),
        }
    }

    /// The index of one of its pods.
    pub(crate) fn index_of(&self, pod: &Value) -> Option<u32> {
        let mine = pod["metadata"]["labels"]["workload"] == *self.name;
        let index = pod["metadata"]["labels"]["index"].as_str()?.parse().ok()?;
        mine.then_some(index)
    }
}

/// No phase: it is no more.
const GONE: &str = "gone";

/// What a kubelet knows of a pod.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    starts_ms: Option<u64>,
    ends_ms: Option<u64>,
    gone_ms: Option<u64>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) workloads: Vec<Workload>,
    lives: BTreeMap<String, Life>,
    /// Pods take up to so long to end; some take much longer.
    pub(crate) ending_ms: u64,
    pub(crate) slow_endings_in_1000: u64,
}

impl Cast {
    /// These workloads, on kubelets that take so long to end a pod.
    pub(crate) fn new(workloads: Vec<Workload>, ending_ms: u64) -> Self {
        Self { workloads, lives: BTreeMap::new(), ending_ms, slow_endings_in_1000: 0 }
    }

    /// Lets everybody do what is due. What was done is told.
    pub(crate) fn act(&mut self, now: u64, dice: Dice, store: &mut Store) -> Vec<String> {
        let mut told = Vec::new();
        self.kubelets(now, dice, store, &mut told);
        for workload in &mut self.workloads {
            user(workload, now, store, &mut told);
            controller(workload, now, dice, store, &mut told);
        }
        told
    }

    fn kubelets(&mut self, now: u64, dice: Dice, store: &mut Store, told: &mut Vec<String>) {
        let pods = store.of(Resource::Pods).filter(|pod| !finished(pod));
        let due: Vec<(String, String, &str)> = pods
            .filter_map(|pod| Some((path(pod), uid(pod).to_owned(), self.due(pod, now, dice)?)))
            .collect();
        for (path, uid, what) in due {
            told.push(format!("pod {path} {uid} is {what}"));
            match what {
                GONE => store.remove(Resource::Pods, &path),
                phase => {
                    store
                        .change(Resource::Pods, &path, |pod| pod["status"]["phase"] = phase.into());
                }
            }
        }
    }

    /// What a kubelet has to say of a pod now, if that is news.
    fn due(&mut self, pod: &Value, now: u64, dice: Dice) -> Option<&'static str> {
        let uid = uid(pod);
        if !deleting(pod) && node(pod).is_none() {
            return None;
        }
        let life = self.lives.entry(uid.to_owned()).or_default();
        if deleting(pod) {
            let gone = *life.gone_ms.get_or_insert_with(|| {
                let slow = dice.chance(uid, 1, self.slow_endings_in_1000);
                let most = if slow { 40_000 } else { self.ending_ms };
                now + dice.roll(uid, 2, 50..most.max(51))
            });
            return (now >= gone).then_some(GONE);
        }
        let starts = *life.starts_ms.get_or_insert_with(|| now + dice.roll(uid, 3, 50..500));
        if now < starts {
            return None;
        }
        let runs = || pod["metadata"]["labels"]["runs"].as_str()?.parse().ok();
        let ends = *life.ends_ms.get_or_insert_with(|| now + runs().unwrap_or(1_000));
        let phase = if now >= ends { "Succeeded" } else { "Running" };
        (pod["status"]["phase"] != phase).then_some(phase)
    }
}

fn user(workload: &mut Workload, now: u64, store: &mut Store, told: &mut Vec<String>) {
    if !workload.made && now >= workload.arrives_ms {
        workload.made = true;
        workload.uid = match workload.kind {
            Kind::Bare => String::new(),
            Kind::Job => store.create(Resource::Jobs, job(workload)),
            Kind::PyTorch => store.create(Resource::PyTorchJobs, pytorchjob(workload)),
        };
        told.push(format!(
            "{:?} {} {} of {} comes",
            workload.kind, workload.name, workload.uid, workload.size
        ));
    }
    if workload.loses_ms.is_some_and(|at| now >= at) && workload.made && !workload.removed {
        workload.loses_ms = None;
        let bound = pods_of(workload, store).find(|pod| node(pod).is_some() && !finished(pod));
        if let Some(lost) = bound.map(path) {
            told.push(format!("somebody deletes pod {lost}"));
            store.delete_pod(&lost);
        }
    }
    let bored = workload.leaves_ms.is_some_and(|at| now >= at);
    let completed = workload.completed_ms.is_some_and(|at| now >= at + 3_000);
    if workload.made && !workload.removed && (bored || completed) {
        workload.removed = true;
        told.push(format!("{} is deleted", workload.name));
        let pods: Vec<String> = pods_of(workload, store).map(path).collect();
        let object = format!("team/{}", workload.name);
        match workload.kind {
            Kind::Bare => {}
            Kind::Job => store.remove(Resource::Jobs, &object),
            Kind::PyTorch => store.remove(Resource::PyTorchJobs, &object),
        }
        for pod in pods {
            store.delete_pod(&pod);
        }
    }
}

/// The pods of a workload.
pub(crate) fn pods_of<'a>(
    workload: &'a Workload,
    store: &'a Store,
) -> impl Iterator<Item = &'a Value> {
    store.of(Resource::Pods).filter(|pod| workload.index_of(pod).is_some())
}

fn controller(
    workload: &mut Workload,
    now: u64,
    dice: Dice,
    store: &mut Store,
    told: &mut Vec<String>,
) {
    if !workload.made || workload.removed {
        return;
    }
    let mut present = vec![false; workload.size as usize];
    let mut succeeded = Vec::new();
    for pod in pods_of(workload, store) {
        let Some(index) = workload.index_of(pod) else { continue };
        if finished(pod) {
            succeeded.push(index as usize);
        }
        // The Job controller makes a successor once the pod's end has begun, Kubeflow's once it is gone.
        present[index as usize] |= workload.kind != Kind::Job || !deleting(pod);
    }
    let before = workload.done.clone();
    if workload.kind == Kind::PyTorch {
        // Kubeflow knows of no success but in the pods that are there.
        let completed = workload.completed_ms.is_some();
        workload.done.iter_mut().for_each(|done| *done &= completed);
    }
    for index in succeeded {
        workload.done[index] = true;
    }
    if workload.kind == Kind::Job && workload.done != before {
        let done = workload.done.iter().enumerate().filter(|(_, done)| **done);
        let indexes: Vec<String> = done.map(|(index, _)| index.to_string()).collect();
        let indexes = indexes.join(",");
        store.change(Resource::Jobs, &format!("team/{}", workload.name), |job| {
            job["status"]["completedIndexes"] = indexes.into();
        });
    }
    if workload.is_done() && workload.completed_ms.is_none() {
        workload.completed_ms = Some(now);
        let (resource, kind) = match workload.kind {
            Kind::Bare => return,
            Kind::Job => (Resource::Jobs, "Complete"),
            Kind::PyTorch => (Resource::PyTorchJobs, "Succeeded"),
        };
        store.change(resource, &format!("team/{}", workload.name), |object| {
            object["status"]["conditions"] = json!([{"type": kind, "status": "True"}]);
        });
        told.push(format!("{} is complete", workload.name));
    }
    // Of what is done nothing is made anew.
    let to_make = if workload.completed_ms.is_some() { 0 } else { workload.size };
    for index in 0..to_make {
        let i = index as usize;
        if present[i] || workload.done[i] {
            workload.missing_ms[i] = None;
            continue;
        }
        let since = *workload.missing_ms[i].get_or_insert(now);
        let about = format!("{} {index}", workload.name);
        let first = workload.made_times[i] == 0;
        let wait =
            dice.roll(&about, workload.made_times[i].into(), 0..if first { 60 } else { 1_500 });
        if now < since + wait {
            continue;
        }
        workload.made_times[i] += 1;
        let pod = pod(workload, index, workload.made_times[i]);
        let at = path(&pod);
        let uid = store.create(Resource::Pods, pod);
        told.push(format!("pod {at} {uid} is made"));
    }
}

fn template(workload: &Workload) -> Value {
    let gpus = workload.gpus.to_string();
    let resources =
        json!({"limits": {"nvidia.com/gpu": gpus}, "requests": {"cpu": "1", "memory": "1Gi"}});
    json!({"schedulerName": "gangway", "containers": [{"name": "main", "resources": resources}]})
}

fn job(workload: &Workload) -> Value {
    json!({
        "metadata": {"namespace": "team", "name": workload.name},
        "spec": {"completionMode": "Indexed", "parallelism": workload.size,
            "completions": workload.size, "template": {"spec": template(workload)}},
        "status": {},
    })
}

fn pytorchjob(workload: &Workload) -> Value {
    let replicas =
        |count: u32| json!({"replicas": count, "template": {"spec": template(workload)}});
    let mut specs = json!({"Master": replicas(1)});
    if workload.size > 1 {
        specs["Worker"] = replicas(workload.size - 1);
    }
    json!({
        "metadata": {"namespace": "team", "name": workload.name},
        "spec": {"pytorchReplicaSpecs": specs},
        "status": {},
    })
}

fn pod(workload: &Workload, index: u32, times: u32) -> Value {
    let runs = workload.runs_ms[usize::from(times > 1)].to_string();
    let mut labels = json!({"workload": workload.name, "index": index.to_string(), "runs": runs});
    let owner = |resource: Resource, kind: &str| {
        json!([{"apiVersion": resource.api_version(), "kind": kind, "name": workload.name,
            "uid": workload.uid, "controller": true}])
    };
    let (name, owners) = match workload.kind {
        Kind::Bare => (workload.name.clone(), Value::Null),
        Kind::Job => {
            labels["batch.kubernetes.io/job-completion-index"] = index.to_string().into();
            (format!("{}-{index}-{times:04}", workload.name), owner(Resource::Jobs, "Job"))
        }
        Kind::PyTorch => {
            let (role, number) = if index == 0 { ("master", 0) } else { ("worker", index - 1) };
            labels["training.kubeflow.org/replica-type"] = role.into();
            labels["training.kubeflow.org/replica-index"] = number.to_string().into();
            labels["training.kubeflow.org/job-name"] = workload.name.clone().into();
            (
                format!("{}-{role}-{number}", workload.name),
                owner(Resource::PyTorchJobs, "PyTorchJob"),
            )
        }
    };
    json!({
        "metadata": {"namespace": "team", "name": name, "labels": labels, "annotations": {},
            "ownerReferences": owners},
        "spec": template(workload),
        "status": {"phase": "Pending"},
    })
}
