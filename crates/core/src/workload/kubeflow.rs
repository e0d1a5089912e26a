//! Kubeflow's jobs: replica types are roles.

use serde_json::Value;

use super::template::{Template, ours};
use super::{Role, Shape, count};

/// PyTorchJob: master first, then workers, then any other replica type by name, as Kubeflow ranks.
/// With an elastic policy the gang is its least number of workers, and the others come after it.
pub(super) fn pytorch(spec: &Value, scheduler: &str) -> Shape {
    let Some(specs) = spec.get("pytorchReplicaSpecs").and_then(Value::as_object) else {
        return Shape::Singles;
    };
    let names: Vec<(String, &Value)> =
        specs.iter().map(|(name, replicas)| (name.to_lowercase(), replicas)).collect();
    let mut templates = replicas(&names);
    templates.sort_by_key(|t| (t.name != "master", t.name != "worker", t.name.to_owned()));
    let least = spec.pointer("/elasticPolicy/minReplicas").and_then(count).map(|n| n.max(1));
    let role = |t: &Template<'_>| -> Role {
        let role = t.role();
        match least.filter(|least| t.name == "worker" && *least < role.count) {
            Some(count) => Role { count, elastic: true, ..role },
            None => role,
        }
    };
    Shape::Roles(ours(templates, scheduler).iter().map(role).collect())
}

/// MPIJob: workers are the ring; the launcher comes after them in rank unless it works too. The
/// mpi-operator may make it only when the workers are ready.
pub(super) fn mpi(spec: &Value, scheduler: &str) -> Shape {
    let Some(specs) = spec.get("mpiReplicaSpecs").and_then(Value::as_object) else {
        return Shape::Singles;
    };
    let names: Vec<(String, &Value)> =
        specs.iter().map(|(name, replicas)| (name.to_lowercase(), replicas)).collect();
    let flag = |key: &str| spec.get(key).and_then(Value::as_bool) == Some(true);
    let launcher_first = flag("runLauncherAsWorker");
    let mut templates = replicas(&names);
    templates.sort_by_key(|t| ((t.name == "launcher") != launcher_first, t.name.to_owned()));
    let templates = ours(templates, scheduler);
    let waits = spec.get("launcherCreationPolicy").and_then(Value::as_str)
        == Some("WaitForWorkersReady")
        && templates.iter().any(|t| t.name != "launcher");
    let role = |t: &Template<'_>| -> Role {
        if waits && t.name == "launcher" { t.later() } else { t.role() }
    };
    Shape::Roles(templates.iter().map(role).collect())
}

fn replicas<'a>(specs: &'a [(String, &'a Value)]) -> Vec<Template<'a>> {
    let one = |(name, replicas): &'a (String, &'a Value)| {
        let count = replicas.get("replicas").filter(|n| !n.is_null()).map_or(Some(1), count);
        Template::at(name, count.unwrap_or(1), replicas, "/template")
    };
    specs.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::names::SCHEDULER;

    #[test]
    fn an_elastic_gang_is_its_least_number_of_workers() {
        let mut spec = json!({"pytorchReplicaSpecs": {"Worker": {"replicas": 4}, "Master": {}},
            "elasticPolicy": {"minReplicas": 2, "maxReplicas": 8}});
        let shown = |spec: &Value| {
            let Shape::Roles(roles) = pytorch(spec, SCHEDULER) else { return vec![] };
            roles.into_iter().map(|r| (r.name, r.count, r.elastic)).collect()
        };
        let role = |name: &str, count, elastic| (name.to_owned(), count, elastic);
        assert_eq!(shown(&spec), [role("master", 1, false), role("worker", 2, true)]);
        spec["pytorchReplicaSpecs"]["Worker"]["replicas"] = json!(2);
        assert_eq!(shown(&spec), [role("master", 1, false), role("worker", 2, false)]);
    }

    fn shown(spec: &Value) -> Vec<(String, u32, bool)> {
        let Shape::Roles(roles) = mpi(spec, SCHEDULER) else { return vec![] };
        roles.into_iter().map(|r| (r.name, r.count, r.later.is_some())).collect()
    }

    fn role(name: &str, count: u32, later: bool) -> (String, u32, bool) {
        (name.to_owned(), count, later)
    }

    #[test]
    fn the_launcher_of_an_mpijob_is_last_unless_it_works_and_may_come_later() {
        let mut spec = json!({"mpiReplicaSpecs": {"Launcher": {}, "Worker": {"replicas": 2}}});
        assert_eq!(shown(&spec), [role("worker", 2, false), role("launcher", 1, false)]);
        spec["launcherCreationPolicy"] = json!("WaitForWorkersReady");
        assert_eq!(shown(&spec), [role("worker", 2, false), role("launcher", 1, true)]);
        spec["runLauncherAsWorker"] = json!(true);
        assert_eq!(shown(&spec), [role("launcher", 1, true), role("worker", 2, false)]);
        // A launcher alone waits for nobody.
        let spec = json!({"mpiReplicaSpecs": {"Launcher": {}},
            "launcherCreationPolicy": "WaitForWorkersReady"});
        assert_eq!(shown(&spec), [role("launcher", 1, false)]);
    }

    #[test]
    fn the_roles_of_another_scheduler_are_not_counted() {
        let of = |name: &str| json!({"template": {"spec": {"schedulerName": name}}});
        let spec = json!({"pytorchReplicaSpecs": {"Worker": of("other"), "Master": of(SCHEDULER)}});
        let shown = |scheduler: &str| {
            let Shape::Roles(roles) = pytorch(&spec, scheduler) else { return vec![] };
            roles.into_iter().map(|r| r.name).collect()
        };
        assert_eq!(shown(SCHEDULER), ["master"]);
        assert_eq!(shown("other"), ["worker"], "whoever asks");
    }
}
