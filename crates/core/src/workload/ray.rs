//! A RayCluster: the head and its worker groups start together; pods that the autoscaler adds
//! beyond the least number are gangs of one.

use serde_json::Value;

use super::template::{Template, ours};
use super::{Shape, count};

/// What KubeRay calls the head's group on its pod.
pub(super) const HEAD_GROUP: &str = "headgroup";

/// Reads `spec` for the pods of `scheduler`.
pub(super) fn shape(spec: &Value, scheduler: &str) -> Shape {
    let autoscaled = spec.get("enableInTreeAutoscaling").and_then(Value::as_bool) == Some(true);
    let groups = spec.get("workerGroupSpecs").and_then(Value::as_array);
    let head = spec.get("headGroupSpec").unwrap_or(&Value::Null);
    let mut templates = vec![Template::at(HEAD_GROUP, 1, head, "/template")];
    for group in groups.into_iter().flatten() {
        let number = |key: &str| group.get(key).and_then(count);
        let suspended = group.get("suspend").and_then(Value::as_bool) == Some(true);
        let least = number("minReplicas").unwrap_or(0);
        let most = number("maxReplicas").unwrap_or(u32::MAX).max(least);
        // As KubeRay counts: what is asked for, between the least and the most.
        let replicas = match (suspended, autoscaled) {
            (true, _) => 0,
            (false, true) => least,
            (false, false) => number("replicas").unwrap_or(least).clamp(least, most),
        };
        let pods = replicas.saturating_mul(number("numOfHosts").unwrap_or(1).max(1));
        let name = group.get("groupName").and_then(Value::as_str).unwrap_or("");
        templates.push(Template::at(name, pods, group, "/template"));
    }
    Shape::Roles(ours(templates, scheduler).iter().map(Template::role).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::names::SCHEDULER;

    #[test]
    fn head_first_then_groups_autoscaled_ones_with_their_least() {
        let mut spec = json!({"headGroupSpec": {}, "workerGroupSpecs": [
            {"groupName": "gpu", "replicas": 3, "minReplicas": 1, "numOfHosts": 2},
            {"groupName": "cpu", "replicas": 2, "minReplicas": 0}]});
        let shown = |spec: &Value| {
            let Shape::Roles(roles) = shape(spec, SCHEDULER) else { return String::new() };
            roles.iter().map(|r| format!("{} {}", r.name, r.count)).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(shown(&spec), "headgroup 1, gpu 6, cpu 2");
        spec["enableInTreeAutoscaling"] = json!(true);
        assert_eq!(shown(&spec), "headgroup 1, gpu 2");
    }
}
