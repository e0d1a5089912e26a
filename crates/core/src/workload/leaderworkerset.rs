//! A LeaderWorkerSet: each of its groups, a leader and its workers, is a gang.

use serde_json::Value;

use super::template::{Template, ours};
use super::{Shape, count};

/// Reads `spec` for the pods of `scheduler`. With `startupPolicy: LeaderReady` the workers come when the leader is ready.
pub(super) fn shape(spec: &Value, scheduler: &str) -> Shape {
    let template = spec.get("leaderWorkerTemplate").unwrap_or(&Value::Null);
    let size = template.get("size").map_or(Some(1), count).unwrap_or(1);
    let own_leader = template.get("leaderTemplate").is_some_and(|t| !t.is_null());
    let of_leader = if own_leader { "/leaderTemplate" } else { "/workerTemplate" };
    let templates = vec![
        Template::at("leader", 1, template, of_leader),
        Template::at("worker", size.saturating_sub(1), template, "/workerTemplate"),
    ];
    let roles = ours(templates, scheduler);
    let staged = spec.get("startupPolicy").and_then(Value::as_str) == Some("LeaderReady");
    let role = |(i, t): (usize, &Template<'_>)| if staged && i > 0 { t.later() } else { t.role() };
    Shape::Groups(roles.iter().enumerate().map(role).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::names::SCHEDULER;

    #[test]
    fn a_group_is_a_leader_and_its_workers_who_may_come_later() {
        let container = json!({"name": "c", "resources": {"limits": {"cpu": "2"}}});
        let worker = json!({"spec": {"schedulerName": "gangway", "containers": [container]}});
        let mut spec = json!({"leaderWorkerTemplate": {"size": 3, "workerTemplate": worker}});
        let Shape::Groups(roles) = shape(&spec, SCHEDULER) else { unreachable!() };
        let shown: Vec<_> = roles.iter().map(|r| (r.name.as_str(), r.count)).collect();
        assert_eq!(shown, [("leader", 1), ("worker", 2)]);
        assert!(roles.iter().all(|r| r.later.is_none()));

        spec["startupPolicy"] = json!("LeaderReady");
        let Shape::Groups(roles) = shape(&spec, SCHEDULER) else { unreachable!() };
        assert!(roles[0].later.is_none());
        let worker = roles[1].later.as_ref().expect("later");
        assert_eq!(crate::pod::demand(worker).expect("quantities").milli_cpu, 2000);

        // A leader that is scheduled by somebody else is no member.
        spec["leaderWorkerTemplate"]["leaderTemplate"] = json!({"spec": {"containers": []}});
        let Shape::Groups(roles) = shape(&spec, SCHEDULER) else { unreachable!() };
        assert_eq!(roles.len(), 1);
        assert!(roles[0].name == "worker" && roles[0].later.is_none());
    }
}
