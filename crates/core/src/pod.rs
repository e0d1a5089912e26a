//! A pod as far as a decision needs it, and what it asks for.
//!
//! A lean mirror of the Kubernetes Pod, read with serde and with unknown fields ignored, so that one
//! build speaks to every Kubernetes release and the pod cache stays small. Facts and arithmetic only.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::eligible::selector::Affinity;
use crate::eligible::taint::Toleration;
use crate::eligible::volume::Volume;
use crate::placeholder::fingerprint;
use crate::quantity::{self, BadQuantity};

/// Resource name (`cpu`, `nvidia.com/gpu` …) to quantity text, as in the API.
pub type Quantities = BTreeMap<String, String>;

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name; may be taken again by another pod after this one is gone.
    pub name: String,
    /// Unique for ever: what every write about this pod is fenced with.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The owner reference marked as controller.
    pub controller: Option<Controller>,
    /// The controller of its controller, where that is known: a JobSet over its Job, a leader pod
    /// over a StatefulSet of workers. Its controller itself where nothing is over that.
    pub grandparent: Option<Controller>,
    /// Deletion has begun.
    pub deleting: bool,
    /// When it was made, by the API server's clock: see [`moment`].
    pub created: u64,
    /// Its specification.
    pub spec: PodSpec,
    /// Its status.
    pub status: PodStatus,
}

/// The controller that made the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    /// API group without version; empty for the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
}

/// The part of `pod.spec` that decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Who schedules it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    /// Where it is bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Gates that keep it from being scheduled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scheduling_gates: Vec<SchedulingGate>,
    /// Containers. Pods of one gang mostly have the same: whoever keeps many pods may share them.
    pub containers: Arc<Vec<Container>>,
    /// Init containers, sidecars (`restartPolicy: Always`) among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
    /// What the runtime class adds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub overhead: Quantities,
    /// Pod-level resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Native gang membership (Kubernetes 1.36 and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduling_group: Option<SchedulingGroup>,
    /// How long it may run after it has been started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<u64>,
    /// Labels its node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Which nodes it must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints it stands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Volumes, of which those with claims matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
}

/// A gate on scheduling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulingGate {
    /// Its name.
    pub name: String,
}

/// `spec.schedulingGroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SchedulingGroup {
    /// Name of the PodGroup in the pod's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_group_name: Option<String>,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name.
    pub name: String,
    /// Requests and limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// `Always` on an init container makes it a sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<String>,
}

/// Requests and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// What is reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Quantities>,
    /// What is allowed; stands in where a request is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Quantities>,
}

/// The part of `pod.status` that decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What its conditions say.
    #[serde(deserialize_with = "conditions", skip_serializing)]
    pub conditions: Conditions,
}

/// What matters of a pod's conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// When it was bound, by the API server's clock, which writes it with the binding (condition
    /// `PodScheduled`): see [`moment`].
    pub scheduled: u64,
    /// Its containers serve, as its kubelet says. For people: nothing is decided by it.
    pub ready: bool,
    /// [`told`] of what it says while it has no node; 0: nothing.
    pub told: u64,
}

/// A number for what a pod's condition `PodScheduled=False` says, by which it is known again. The seconds of an estimate
/// at its end tremble and do not count.
pub fn told(reason: &str, message: &str) -> u64 {
    let steady = match message.len().checked_sub(":00Z".len()) {
        Some(end) if message.ends_with('Z') => message.get(..end).unwrap_or(message),
        _ => message,
    };
    fingerprint([format!("{reason}: {steady}").as_str()])
}

/// A moment as the API server writes it (`2026-11-27T05:43:09Z`) as a number that is larger the later
/// it is, and is good for nothing else; 0 for what is no moment.
pub fn moment(text: &str) -> u64 {
    let digits = text.strip_suffix('Z').unwrap_or("").bytes().filter(u8::is_ascii_digit);
    let number = |all: u64, digit: u8| all * 10 + u64::from(digit - b'0');
    if text.len() == "2026-11-27T05:43:09Z".len() { digits.fold(0, number) } else { 0 }
}

fn conditions<'de, D: Deserializer<'de>>(from: D) -> Result<Conditions, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Condition {
        r#type: String,
        status: String,
        last_transition_time: Option<String>,
        reason: String,
        message: String,
    }
    let all = Option::<Vec<Condition>>::deserialize(from)?.unwrap_or_default();
    let find = |kind: &str| all.iter().find(|c| c.r#type == kind && c.status == "True");
    let at = find("PodScheduled").and_then(|c| c.last_transition_time.as_deref());
    // A gate is the API server's word, and no answer.
    let answers = |c: &&Condition| c.status == "False" && c.reason != "SchedulingGated";
    let waits = all.iter().filter(answers).find(|c| c.r#type == "PodScheduled");
    Ok(Conditions {
        scheduled: at.map_or(0, moment),
        ready: find("Ready").is_some(),
        told: waits.map_or(0, |c| told(&c.reason, &c.message)),
    })
}

impl Pod {
    /// Its condition says why it has no node.
    pub fn tells_why_it_waits(&self) -> bool {
        self.status.conditions.told != 0
    }

    /// Ended by itself: its containers have stopped for good.
    pub fn finished(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// The node it is bound to.
    pub fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref().filter(|n| !n.is_empty())
    }

    /// `namespace/name`, for people.
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// What one pod needs at its highest point, by the rules of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Thousandths of a CPU.
    pub milli_cpu: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Everything else in whole units, by resource name; zeros left out.
    pub other: BTreeMap<String, u64>,
}

impl Demand {
    /// Nothing at all is asked for.
    pub fn is_empty(&self) -> bool {
        self.milli_cpu == 0 && self.memory == 0 && self.other.is_empty()
    }

    fn add(&mut self, more: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_add(more.milli_cpu);
        self.memory = self.memory.saturating_add(more.memory);
        for (name, n) in &more.other {
            let sum = self.other.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*n);
        }
    }

    /// The larger of both, resource by resource.
    pub fn raise_to(&mut self, least: &Self) {
        self.milli_cpu = self.milli_cpu.max(least.milli_cpu);
        self.memory = self.memory.max(least.memory);
        for (name, n) in &least.other {
            let own = self.other.entry(name.clone()).or_default();
            *own = (*own).max(*n);
        }
    }

    /// Takes over what the pod-level resources state, resource by resource.
    fn overrule(&mut self, stated: &Self, names: &Quantities) {
        for name in names.keys() {
            match name.as_str() {
                "cpu" => self.milli_cpu = stated.milli_cpu,
                "memory" => self.memory = stated.memory,
                _ => {
                    let n = stated.other.get(name).copied().unwrap_or(0);
                    self.other.insert(name.clone(), n);
                }
            }
        }
    }

    fn read(quantities: &Quantities) -> Result<Self, BadQuantity> {
        let mut demand = Self::default();
        for (name, text) in quantities {
            match name.as_str() {
                "cpu" => demand.milli_cpu = quantity::milli(text)?,
                "memory" => demand.memory = quantity::units(text)?,
                _ => {
                    let n = quantity::units(text)?;
                    if n > 0 {
                        demand.other.insert(name.clone(), n);
                    }
                }
            }
        }
        Ok(demand)
    }
}

/// Requests, with limits standing in for missing ones.
fn effective(resources: Option<&Resources>) -> Quantities {
    let Some(resources) = resources else { return Quantities::new() };
    let mut all = resources.limits.clone().unwrap_or_default();
    all.extend(resources.requests.clone().unwrap_or_default());
    all
}

/// What the pod-level resources put in place of the sum. A request always counts. A limit stands in only
/// for what no container mentions, or cannot be shared out beyond what is there: so does the API server
/// before anybody sees a pod, but not in a workload's template.
fn pod_level(spec: &PodSpec) -> Quantities {
    let Some(resources) = &spec.resources else { return Quantities::new() };
    let mentioned = |name: &str| {
        let has = |list: &Option<Quantities>| list.as_ref().is_some_and(|l| l.contains_key(name));
        let all = spec.containers.iter().chain(&spec.init_containers);
        all.filter_map(|c| c.resources.as_ref()).any(|r| has(&r.requests) || has(&r.limits))
    };
    let stands_in = |name: &str| is_hugepages(name) || !mentioned(name);
    let limits = resources.limits.iter().flatten().filter(|(name, _)| stands_in(name));
    let stated = limits.chain(resources.requests.iter().flatten());
    stated.filter(|(name, _)| of_whole_pods(name)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// What may be asked for a pod as a whole; anything else is its containers' alone.
fn of_whole_pods(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory") || is_hugepages(resource)
}

fn is_hugepages(resource: &str) -> bool {
    resource.starts_with("hugepages-")
}

/// What a pod needs: all containers and sidecars together, or its largest init step if that is more
/// (an init step runs beside the sidecars started before it); pod-level resources overrule the sum; then
/// overhead. As Kubernetes' `PodRequests` says of the pod that the API server makes of it.
pub fn demand(spec: &PodSpec) -> Result<Demand, BadQuantity> {
    let mut running = Demand::default();
    let mut sidecars = Demand::default();
    let mut peak = Demand::default();
    for container in spec.containers.iter() {
        running.add(&Demand::read(&effective(container.resources.as_ref()))?);
    }
    for init in &spec.init_containers {
        let own = Demand::read(&effective(init.resources.as_ref()))?;
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&own);
            peak.raise_to(&sidecars);
        } else {
            let mut step = sidecars.clone();
            step.add(&own);
            peak.raise_to(&step);
        }
    }
    running.add(&sidecars);
    running.raise_to(&peak);
    let stated = pod_level(spec);
    running.overrule(&Demand::read(&stated)?, &stated);
    running.add(&Demand::read(&spec.overhead)?);
    running.other.retain(|_, n| *n > 0);
    Ok(running)
}

#[cfg(test)]
#[path = "pod/tests.rs"]
mod tests;
