//! What the API server is told of a pod, or of a workload, before it takes it.
//!
//! The early word only: whoever comes past it meets the same [`crate::policy`] where the token is. What no later look
//! can mend is decided here: who asked (the stamp), and that nobody but us writes what we write.

mod patch;
mod review;
mod stamp;

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub use patch::Patch;
pub use review::{Operation, Review};

use crate::ask::{Ask, Requester};
use crate::eligible::taint::own_value;
use crate::names;
use crate::pod::{self, PodSpec};
use crate::policy::{Policy, Source, grant};
use crate::translate::ResourceTable;

/// Annotations that the bridge alone writes on pods, whole names.
pub const LOCKED: &[&str] = &[
    names::GANG,
    names::GENERATION,
    names::JOB_ID,
    names::NODE,
    names::RANK,
    names::NOTE,
    names::STANDS_IN,
    names::LEAVE_BY,
    names::LEAVE_WHY,
];
/// The same by how they begin.
pub const LOCKED_PREFIX: &str = names::INDEX_PREFIX;
/// Labels that the bridge alone writes on pods, by how they begin.
pub const LOCKED_LABEL_PREFIX: &str = names::PREFIX;
/// Annotations that admission alone writes.
pub const STAMPS: [&str; 2] = [names::REQUESTER, names::REQUESTER_GROUPS];

/// Kinds that pods are made from, as (group, resources): whatever makes pods for a trusted maker must be here, or its
/// template could carry a forged stamp.
pub const MAKERS_OF_PODS: &[(&str, &[&str])] = &[
    ("", &["podtemplates", "replicationcontrollers"]),
    ("apps", &["daemonsets", "deployments", "replicasets", "statefulsets"]),
    ("batch", &["cronjobs", "jobs"]),
    ("jobset.x-k8s.io", &["jobsets"]),
    ("kubeflow.org", &["mpijobs", "pytorchjobs"]),
    ("leaderworkerset.x-k8s.io", &["leaderworkersets"]),
    ("ray.io", &["rayclusters", "rayjobs", "rayservices"]),
];

/// Who is who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct House {
    /// The bridge's name in its taints.
    pub cluster: String,
    /// `spec.schedulerName` of our pods.
    pub scheduler_name: String,
    /// Users that are us.
    pub ours: Vec<String>,
    /// Users who make pods for others, and whose pods' stamps come from a guarded template.
    pub makers: Vec<String>,
    /// Users who bind pods beside us.
    pub binders: Vec<String>,
    /// Resources that Slurm has a word for.
    pub resources: ResourceTable,
}

impl House {
    fn is_ours(&self, review: &Review) -> bool {
        self.ours.contains(&review.user)
    }

    fn schedules(&self, spec: &Value) -> bool {
        spec["schedulerName"].as_str() == Some(&self.scheduler_name)
    }

    /// What our pods tolerate: the taint that keeps others off our nodes.
    fn toleration(&self) -> Value {
        json!({
            "key": names::TAINT_MANAGED, "operator": "Equal", "value": own_value(&self.cluster),
            "effect": "NoSchedule",
        })
    }
}

/// What is changed of an object on its way in.
pub fn mutate(house: &House, review: &Review) -> Vec<Patch> {
    let object = &review.object;
    if house.is_ours(review) || !review.sub_resource.is_empty() {
        return Vec::new();
    }
    if review.is_pod() {
        if review.operation != Operation::Create {
            return Vec::new();
        }
        let mut out = stamp::patches("", object, &stamp::of_pod(house, review));
        if !made_by_daemon_set(object) && object["spec"]["nodeName"].as_str().is_none() {
            out.extend(schedule(house, "", object));
        }
        return out;
    }
    let mut out = Vec::new();
    for (place, template) in stamp::templates(object) {
        out.extend(stamp::patches(&place, template, &stamp::of_template(house, review, &place)));
        if review.operation == Operation::Create && review.resource != "daemonsets" {
            out.extend(schedule(house, &place, template));
        }
    }
    out
}

/// Makes a pod, or a template of pods, ours: where it names no other scheduler.
fn schedule(house: &House, place: &str, pod: &Value) -> Vec<Patch> {
    let spec = &pod["spec"];
    let named = spec["schedulerName"].as_str().unwrap_or("");
    if !matches!(named, "" | "default-scheduler") && named != house.scheduler_name {
        return Vec::new();
    }
    let mut out = Vec::new();
    if named != house.scheduler_name {
        out.push(Patch::set(format!("{place}/spec/schedulerName"), json!(house.scheduler_name)));
    }
    let own = house.toleration();
    match spec["tolerations"].as_array() {
        None => out.push(Patch::set(format!("{place}/spec/tolerations"), json!([own]))),
        Some(all) if all.contains(&own) => {}
        Some(_) => out.push(Patch::set(format!("{place}/spec/tolerations/-"), own)),
    }
    out
}

/// Whether an object may come in; if not, why, and what to do.
pub fn validate(house: &House, policy: &Policy, review: &Review) -> Result<(), String> {
    if house.is_ours(review) {
        return Ok(());
    }
    if review.group.is_empty() && review.resource == "pods" {
        locked(review)?;
        if review.sub_resource == "binding" {
            return binds(house, review);
        }
        if !review.sub_resource.is_empty() {
            return Ok(());
        }
        stamp::check_pod(house, review)?;
        return pod(house, policy, review);
    }
    if !review.sub_resource.is_empty() {
        return Ok(());
    }
    let object = &review.object;
    for (place, template) in stamp::templates(object) {
        stamp::check_template(house, review, &place)?;
        let same = review.old_object.pointer(&place) == Some(template)
            && object["metadata"]["annotations"] == review.old_object["metadata"]["annotations"];
        if house.schedules(&template["spec"]) && !same {
            let annotations = texts(&template["metadata"]["annotations"]);
            if let Some(key) = annotations.keys().find(|key| is_locked(key)) {
                return Err(format!("its pod template has {}", written_by_us(key)));
            }
            let workload = texts(&object["metadata"]["annotations"]);
            asks(house, policy, review, &workload, template)?;
        }
    }
    Ok(())
}

fn is_locked(annotation: &str) -> bool {
    LOCKED.contains(&annotation) || annotation.starts_with(LOCKED_PREFIX)
}

fn written_by_us(key: &str) -> String {
    format!("{key}, which only gangway writes; leave it as it is, or remove it from what you apply")
}

/// What we write on pods is written by nobody else, in whatever way and phase.
fn locked(review: &Review) -> Result<(), String> {
    let changed = |what: &str, is_locked: &dyn Fn(&str) -> bool| {
        let of = |object: &Value| texts(&object["metadata"][what]);
        let (new, old) = (
            of(&review.object),
            match review.operation {
                Operation::Update => of(&review.old_object),
                _ => BTreeMap::new(),
            },
        );
        let mut keys = new.keys().chain(old.keys());
        keys.find(|key| is_locked(key) && new.get(*key) != old.get(*key)).cloned()
    };
    let annotation = changed("annotations", &is_locked).map(|key| ("annotation", key));
    let label =
        || changed("labels", &|key| key.starts_with(LOCKED_LABEL_PREFIX)).map(|key| ("label", key));
    match annotation.or_else(label) {
        None => Ok(()),
        Some((what, key)) => Err(format!("{what} {}", written_by_us(&key))),
    }
}

/// A Binding of a pod in a namespace of ours.
fn binds(house: &House, review: &Review) -> Result<(), String> {
    if house.binders.contains(&review.user) {
        return Ok(());
    }
    Err(format!(
        "{} may not bind pods here: Slurm decides where they run; let {} do it",
        review.user, house.scheduler_name
    ))
}

fn pod(house: &House, policy: &Policy, review: &Review) -> Result<(), String> {
    let object = &review.object;
    let (spec, daemon) = (&object["spec"], made_by_daemon_set(object));
    let creates = review.operation == Operation::Create;
    let by_kubelet = review.groups.iter().any(|group| group == "system:nodes");
    let preset = spec["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    if creates && preset && !by_kubelet && !daemon {
        return Err("spec.nodeName is set: in this namespace Slurm decides where pods run; remove it, and exclude nodes with gangway.dev/exclude".to_owned());
    }
    if !house.schedules(spec) {
        let tolerated = spec["tolerations"].as_array();
        let mut tolerated = tolerated.into_iter().flatten();
        if creates && !daemon && tolerated.any(|t| t["key"] == names::TAINT_MANAGED) {
            return Err(format!(
                "it tolerates {} and is not scheduled by {}: nodes with that taint are given out by Slurm alone; set schedulerName: {1}, or remove the toleration",
                names::TAINT_MANAGED,
                house.scheduler_name
            ));
        }
        return Ok(());
    }
    let annotations = |object: &Value| texts(&object["metadata"]["annotations"]);
    if creates || annotations(object) != annotations(&review.old_object) {
        asks(house, policy, review, &BTreeMap::new(), object)?;
    }
    Ok(())
}

/// What a pod, or the pods of a template, would ask of Slurm.
fn asks(
    house: &House,
    policy: &Policy,
    review: &Review,
    workload: &BTreeMap<String, String>,
    pod: &Value,
) -> Result<(), String> {
    let own = texts(&pod["metadata"]["annotations"]);
    let mut ask = Ask::read(workload, &own).map_err(|problems| problems.join("; "))?;
    // Spelt by us, so it can be read; a kind of its own may have other fields.
    let spec: PodSpec = serde_json::from_value(pod["spec"].clone())
        .map_err(|error| format!("its pod cannot be read: {error}"))?;
    let demand = pod::demand(&spec).map_err(|bad| bad.to_string())?;
    if demand.is_empty() {
        return Err("nothing is requested, so Slurm cannot know what is needed; set resources.requests (cpu, memory) or limits (nvidia.com/gpu) on the containers".to_owned());
    }
    let devices = house.resources.gres(&demand).map_err(|refusal| refusal.message)?;
    if ask.gpu_type.is_some() && !devices.iter().any(|gres| gres.name == "gpu") {
        return Err("gangway.dev/gpu-type is set, but no container asks for a GPU; add limits nvidia.com/gpu or remove the annotation".to_owned());
    }
    if policy.source == Source::Unread {
        return Ok(());
    }
    ask.requester = Requester::read(&own);
    let granted = grant(policy, &review.namespace, &ask).map_err(|refusal| refusal.message)?;
    granted.check(&ask).map_err(|refusal| refusal.message)
}

fn made_by_daemon_set(pod: &Value) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| owner["kind"] == "DaemonSet")
}

/// A map of texts; what is none is not in it.
fn texts(map: &Value) -> BTreeMap<String, String> {
    let pairs = map.as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
#[path = "admission/tests.rs"]
mod tests;
