use super::*;

#[test]
fn a_pod_knows_when_it_was_bound() {
    let scheduled = |status: serde_json::Value| {
        serde_json::from_value::<PodStatus>(status).expect("a status").conditions.scheduled
    };
    let condition = |kind: &str, status: &str, at: serde_json::Value| {
        serde_json::json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-27T05:44:00Z"},
            {"type": kind, "status": status, "lastTransitionTime": at},
        ]})
    };
    let at = serde_json::json!("2026-11-27T05:43:09Z");
    assert_eq!(scheduled(condition("PodScheduled", "True", at.clone())), 20_261_127_054_309);
    assert_eq!(scheduled(condition("PodScheduled", "False", at.clone())), 0);
    assert_eq!(scheduled(condition("Initialized", "True", at)), 0);
    assert_eq!(scheduled(condition("PodScheduled", "True", serde_json::Value::Null)), 0);
    assert_eq!(scheduled(serde_json::json!({"conditions": null})), 0);
    assert_eq!(scheduled(serde_json::json!({})), 0);
}

#[test]
fn moments_are_in_order_and_nothing_else_is_one() {
    let years = ["2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"];
    let moments = years.map(moment);
    assert!(moments.is_sorted() && moments[0] > 0, "{moments:?}");
    for text in ["", "soon", "2026-01-01T00:00:00", "2026-01-01T00:00:00.123456Z"] {
        assert_eq!(moment(text), 0, "{text}");
    }
}

fn spec(json: serde_json::Value) -> PodSpec {
    serde_json::from_value(json).expect("a pod spec")
}

fn asks(requests: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({"name": "c", "resources": {"requests": requests}})
}

#[test]
fn containers_add_up_and_limits_stand_in() {
    let spec = spec(serde_json::json!({"containers": [
        asks(&serde_json::json!({"cpu": "1500m", "memory": "1Gi"})),
        {"name": "gpu", "resources": {"limits": {"nvidia.com/gpu": "8", "cpu": "1"}}},
    ]}));
    let demand = demand(&spec).expect("readable");
    assert_eq!((demand.milli_cpu, demand.memory), (2500, 1 << 30));
    assert_eq!(demand.other["nvidia.com/gpu"], 8);
}

#[test]
fn the_largest_init_step_counts_beside_the_sidecars_before_it() {
    let mut sidecar = asks(&serde_json::json!({"cpu": "1"}));
    sidecar["restartPolicy"] = "Always".into();
    let spec = spec(serde_json::json!({
        "initContainers": [asks(&serde_json::json!({"cpu": "2"})), sidecar, asks(&serde_json::json!({"cpu": "5"}))],
        "containers": [asks(&serde_json::json!({"cpu": "3"}))],
        "overhead": {"cpu": "250m"},
    }));
    // Running: 3 + 1 sidecar = 4; the last init step: 1 + 5 = 6; overhead on top.
    assert_eq!(demand(&spec).expect("readable").milli_cpu, 6250);
}

#[test]
fn pod_level_resources_overrule_the_sum() {
    let spec = spec(serde_json::json!({
        "containers": [asks(&serde_json::json!({"cpu": "1", "nvidia.com/gpu": "2"}))],
        "resources": {"requests": {"cpu": "16"}},
    }));
    let demand = demand(&spec).expect("readable");
    assert_eq!((demand.milli_cpu, demand.other["nvidia.com/gpu"]), (16_000, 2));
}

/// Random pods, and what Kubernetes 1.36.3 itself reserves for each: a Go program wrote them as a user
/// may (`written`), had the API server's own `SetObjectDefaults_Pod` complete them (`stored`, where that
/// differs), and asked `k8s.io/component-helpers/resource`'s `PodRequests` (`needs`; CPU in thousandths).
#[test]
fn pods_need_what_kubernetes_says_they_need() {
    let cases = include_str!("kubernetes-1.36.3.jsonl").lines();
    let mut seen = 0;
    for (line, text) in (1..).zip(cases) {
        let case: serde_json::Value = serde_json::from_str(text).expect("a case");
        let needs = |name: &str| case["needs"][name].as_u64().unwrap_or(0);
        let mut want =
            Demand { milli_cpu: needs("cpu"), memory: needs("memory"), ..Demand::default() };
        for name in case["needs"].as_object().expect("a mapping").keys() {
            if !matches!(name.as_str(), "cpu" | "memory") {
                want.other.insert(name.clone(), needs(name));
            }
        }
        for form in ["written", "stored"] {
            let Some(pod) = case.get(form) else { continue };
            let got = demand(&spec(pod.clone())).expect("readable");
            assert_eq!(got, want, "line {line}, {form}: {pod:#}");
            seen += 1;
        }
    }
    assert!(seen > 80, "{seen} pods");
}

#[test]
fn nothing_asked_is_nothing() {
    let spec = spec(
        serde_json::json!({"containers": [{"name": "c"}, asks(&serde_json::json!({"nvidia.com/gpu": "0"}))]}),
    );
    assert!(demand(&spec).expect("readable").is_empty());
}

#[test]
fn a_bad_quantity_is_named() {
    let spec = spec(serde_json::json!({"containers": [asks(&serde_json::json!({"cpu": "many"}))]}));
    assert_eq!(demand(&spec), Err(BadQuantity("many".into())));
}

#[test]
fn what_a_pod_says_is_known_again_and_a_gate_is_no_answer() {
    let says = |reason: &str, message: &str| {
        let condition = serde_json::json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        });
        let status = serde_json::json!({"conditions": [condition]});
        let status: PodStatus = serde_json::from_value(status).expect("a status");
        status.conditions.told
    };
    let why = "Slurm job 7: Priority; Slurm expects it to start at 2026-11-28T12:10:07Z";
    assert_eq!(says("Unschedulable", why), told("Unschedulable", why));
    assert_eq!(says("Unschedulable", why), told("Unschedulable", &why.replace(":07Z", ":09Z")));
    for (reason, other) in [
        ("Refused", why.to_owned()),
        ("Unschedulable", why.replace(":10:07Z", ":11:07Z")),
        ("Unschedulable", why.replace("Priority", "Resources")),
    ] {
        assert_ne!(says("Unschedulable", why), told(reason, &other), "{reason} {other}");
    }
    assert_eq!(says("SchedulingGated", "waits"), 0);
    assert_eq!(PodStatus::default().conditions.told, 0);
}
