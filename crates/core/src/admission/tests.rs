use serde_json::{Value, json};

use super::*;
use crate::policy::Rule;

const KCM: &str = "system:kube-controller-manager";

fn house() -> House {
    House {
        cluster: "prod".into(),
        scheduler_name: "gangway".into(),
        ours: vec!["system:serviceaccount:gangway:gangway-scheduler".into()],
        makers: vec![KCM.into()],
        binders: vec!["system:kube-scheduler".into()],
        resources: ResourceTable::default(),
    }
}

fn policy() -> Policy {
    let spec = json!({
        "namespaces": ["team"], "user": "alice", "accounts": ["team1"], "partitions": ["gpu"],
        "maxTimeLimit": "60",
    });
    let rule = Rule::read(&json!({"metadata": {"name": "team"}, "spec": spec}));
    Policy { source: Source::Rules(vec![rule]), ..Policy::default() }
}

fn pod(annotations: &Value) -> Value {
    json!({
        "metadata": {"name": "p", "annotations": annotations},
        "spec": {
            "schedulerName": "default-scheduler",
            "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        },
    })
}

fn review(user: &str, resource: &str, operation: Operation, object: Value) -> Review {
    let (resource, sub_resource) = resource.split_once('/').unwrap_or((resource, ""));
    let group = if resource == "jobs" { "batch" } else { "" };
    Review {
        uid: "u".into(),
        group: group.into(),
        resource: resource.into(),
        sub_resource: sub_resource.into(),
        operation,
        namespace: "team".into(),
        user: user.into(),
        groups: vec!["system:authenticated".into(), "research".into(), "a,b".into()],
        object,
        old_object: Value::Null,
    }
}

/// As the API server would apply it: the patches here only ever set.
fn applied(review: &Review) -> Review {
    let mut review = review.clone();
    for Patch { path, value, .. } in mutate(&house(), &review) {
        let (parent, key) = path.rsplit_once('/').expect("below the root");
        let key = key.replace("~1", "/").replace("~0", "~");
        match review.object.pointer_mut(parent).expect("the parent is there") {
            Value::Object(parts) => drop(parts.insert(key, value)),
            Value::Array(items) if key == "-" => items.push(value),
            other => unreachable!("{path} in {other}"),
        }
    }
    review
}

/// The whole way in: changed, then looked at.
fn enter(review: &Review) -> Result<Value, String> {
    let review = applied(review);
    validate(&house(), &policy(), &review).map(|()| review.object)
}

fn annotation<'a>(pod: &'a Value, key: &str) -> &'a Value {
    &pod["metadata"]["annotations"][key]
}

#[test]
fn a_pod_becomes_ours_and_says_who_asked() {
    let forged = json!({"gangway.dev/requester": "root", "gangway.dev/requester-groups": "admins"});
    for annotations in [json!({}), Value::Null, forged] {
        let made = enter(&review("mallory", "pods", Operation::Create, pod(&annotations)));
        let made = made.expect("it comes in");
        assert_eq!(annotation(&made, names::REQUESTER), "mallory");
        assert_eq!(annotation(&made, names::REQUESTER_GROUPS), "research,system:authenticated");
        assert_eq!(made["spec"]["schedulerName"], "gangway");
        assert_eq!(made["spec"]["tolerations"], json!([house().toleration()]));
        let again = review("mallory", "pods", Operation::Create, made);
        assert_eq!(mutate(&house(), &again), [], "a second look changes nothing");
    }
}

#[test]
fn another_scheduler_and_daemons_are_left_alone() {
    let mut other = pod(&json!({}));
    other["spec"]["schedulerName"] = json!("volcano");
    let made = enter(&review("alice", "pods", Operation::Create, other)).expect("it comes in");
    assert_eq!(made["spec"]["schedulerName"], "volcano");
    let mut daemon = pod(&json!({}));
    daemon["metadata"]["ownerReferences"] = json!([{"kind": "DaemonSet"}]);
    let made = enter(&review(KCM, "pods", Operation::Create, daemon)).expect("it comes in");
    assert_eq!(made["spec"]["schedulerName"], "default-scheduler");
}

#[test]
fn the_pods_of_a_controller_carry_who_made_the_workload() {
    let template = pod(&json!({"gangway.dev/requester": "root"}));
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": template}});
    let job = enter(&review("dora", "jobs", Operation::Create, job)).expect("it comes in");
    let template = job["spec"]["template"].clone();
    assert_eq!(annotation(&template, names::REQUESTER), "dora");
    assert_eq!(template["spec"]["schedulerName"], "gangway");
    let of_kcm = enter(&review(KCM, "pods", Operation::Create, template.clone())).expect("ours");
    assert_eq!(annotation(&of_kcm, names::REQUESTER), "dora");
    // Whoever is no maker cannot pass for one.
    let copied = enter(&review("mallory", "pods", Operation::Create, template)).expect("his");
    assert_eq!(annotation(&copied, names::REQUESTER), "mallory");
    // Whoever changes the template asks for what comes of it; who only labels the Job does not.
    let update = |change: &dyn Fn(&mut Value)| {
        let mut changed = job.clone();
        change(&mut changed);
        let update = Review {
            old_object: job.clone(),
            ..review("mallory", "jobs", Operation::Update, changed)
        };
        let came = enter(&update).expect("it comes in");
        annotation(&came["spec"]["template"], names::REQUESTER).clone()
    };
    assert_eq!(update(&|job| job["metadata"]["labels"] = json!({"a": "b"})), "dora");
    let image = |job: &mut Value| {
        job["spec"]["template"]["spec"]["containers"][0]["image"] = json!("miner");
    };
    assert_eq!(update(&image), "mallory");
    let stamp = |job: &mut Value| {
        job["spec"]["template"]["metadata"]["annotations"][names::REQUESTER] = json!("root");
    };
    assert_eq!(update(&stamp), "dora");
}

#[test]
fn every_pod_template_of_a_kind_is_found() {
    let template = || json!({"spec": {"containers": []}});
    let kinds = json!({
        "metadata": {"annotations": {"spec": "x"}},
        "spec": {
            "jobTemplate": {"spec": {"template": template()}},
            "pytorchReplicaSpecs": {"Master": {"template": template()}, "a/b": {"template": template()}},
            "replicatedJobs": [{"template": {"spec": {"template": template()}}}],
        },
        "template": template(),
        "status": {"template": template()},
    });
    let found: Vec<String> = stamp::templates(&kinds).into_iter().map(|(place, _)| place).collect();
    assert_eq!(
        found,
        [
            "/spec/jobTemplate/spec/template",
            "/spec/pytorchReplicaSpecs/Master/template",
            "/spec/pytorchReplicaSpecs/a~1b/template",
            "/spec/replicatedJobs/0/template/spec/template",
            "/template",
        ]
    );
    assert!(found.iter().all(|place| kinds.pointer(place).is_some()));
}

#[test]
fn what_we_write_is_written_by_nobody_else_in_any_phase() {
    let all = LOCKED.iter().map(|key| ("annotations", (*key).to_owned()));
    let all = all.chain([
        ("annotations", format!("{LOCKED_PREFIX}gpu")),
        ("labels", names::JOB_LABEL.to_owned()),
    ]);
    for (what, key) in all {
        let mut forged = pod(&json!({}));
        forged["metadata"][what][&key] = json!("4711");
        let created = enter(&review("mallory", "pods", Operation::Create, forged.clone()));
        assert!(created.expect_err(&key).contains(&key));
        // Bound: the annotations of a Binding go onto its pod.
        let bound = review("mallory", "pods/binding", Operation::Create, forged.clone());
        assert!(enter(&bound).expect_err(&key).contains(&key));
        for resource in ["pods", "pods/status", "pods/ephemeralcontainers", "pods/resize"] {
            let update = |object: &Value, old: &Value| {
                let review = Review {
                    old_object: old.clone(),
                    ..review("mallory", resource, Operation::Update, object.clone())
                };
                enter(&review)
            };
            let plain = pod(&json!({}));
            assert!(update(&forged, &plain).expect_err(&key).contains(&key), "{resource}: set");
            assert!(update(&plain, &forged).expect_err(&key).contains(&key), "{resource}: removed");
            let mut other = forged.clone();
            other["metadata"][what][&key] = json!("1");
            assert!(update(&other, &forged).expect_err(&key).contains(&key), "{resource}: changed");
            assert!(update(&forged, &forged).is_ok(), "{resource}: left alone");
        }
        let ours = Review { user: house().ours[0].clone(), ..bound };
        assert!(enter(&ours).is_ok(), "we may: {key}");
    }
}

#[test]
fn nobody_changes_who_asked() {
    let own = json!({"gangway.dev/requester": "dora", "gangway.dev/requester-groups": "research"});
    let forged =
        json!({"gangway.dev/requester": "root", "gangway.dev/requester-groups": "research"});
    let update = Review {
        old_object: pod(&own),
        ..review("mallory", "pods", Operation::Update, pod(&forged))
    };
    assert!(enter(&update).expect_err("forged").contains("gangway.dev/requester"));
    assert!(enter(&Review { object: pod(&own), ..update }).is_ok());
}

#[test]
fn a_pod_goes_nowhere_but_where_slurm_says() {
    let mut preset = pod(&json!({}));
    preset["spec"]["nodeName"] = json!("p5-0001");
    let refused = enter(&review("mallory", "pods", Operation::Create, preset.clone()));
    assert!(refused.expect_err("preset").contains("spec.nodeName is set"));
    let mut mirror = review("system:node:p5-0001", "pods", Operation::Create, preset);
    mirror.groups = vec!["system:nodes".into()];
    assert!(enter(&mirror).is_ok(), "a kubelet shows its static pods");
    let binding = json!({"metadata": {"name": "p"}, "target": {"name": "p5-0001"}});
    let binds = |user: &str| {
        enter(&review(user, "pods/binding", Operation::Create, binding.clone())).is_ok()
    };
    assert!(!binds("mallory") && binds("system:kube-scheduler"));
    let mut tolerant = pod(&json!({}));
    tolerant["spec"]["schedulerName"] = json!("volcano");
    tolerant["spec"]["tolerations"] = json!([{"key": names::TAINT_MANAGED, "operator": "Exists"}]);
    let refused = enter(&review("mallory", "pods", Operation::Create, tolerant));
    assert!(refused.expect_err("tolerant").contains("is not scheduled by gangway"));
}

#[test]
fn what_can_never_be_granted_is_refused_at_once() {
    let huge = "x".repeat(10 << 20);
    let bomb = "n[0-9999999][0-9999999][0-9999999]";
    let cases = [
        ("gangway.dev/account", "team2", "account team2"),
        ("gangway.dev/partition", "secret", "partition secret"),
        ("gangway.dev/priority", "1000000", "priority"),
        ("gangway.dev/time-limit", "61", "at most 60"),
        ("gangway.dev/user-id", "0", "user-id: unknown"),
        ("gangway.dev/comment", &*huge, "gangway.dev/comment"),
        ("gangway.dev/exclude", bomb, "gangway.dev/exclude"),
        ("gangway.dev/job-name", "a\nadmin_comment=x", "gangway.dev/job-name"),
    ];
    for (key, value, words) in cases {
        let asking = pod(&json!({ key: value }));
        let created = enter(&review("mallory", "pods", Operation::Create, asking.clone()));
        let problem = created.expect_err(key);
        assert!(problem.contains(words) && problem.len() < 1000, "{problem}");
        // The same by patch, and in the template or on the workload instead of the pod.
        let mut ours = pod(&json!({}));
        ours["spec"]["schedulerName"] = json!("gangway");
        let mut patched = ours.clone();
        patched["metadata"]["annotations"] = json!({ key: value });
        let update =
            Review { old_object: ours, ..review("mallory", "pods", Operation::Update, patched) };
        assert!(enter(&update).expect_err(key).contains(words));
        let by_template = json!({"metadata": {}, "spec": {"template": asking}});
        assert!(enter(&review("m", "jobs", Operation::Create, by_template)).is_err(), "{key}");
        let by_workload = json!({
            "metadata": {"annotations": {key: value}}, "spec": {"template": pod(&json!({}))},
        });
        assert!(enter(&review("m", "jobs", Operation::Create, by_workload)).is_err(), "{key}");
    }
    let mut nothing = pod(&json!({}));
    nothing["spec"]["containers"][0]["resources"] = json!({});
    let refused = enter(&review("m", "pods", Operation::Create, nothing)).expect_err("nothing");
    assert!(refused.contains("nothing is requested"), "{refused}");
    let mut laser = pod(&json!({}));
    laser["spec"]["containers"][0]["resources"]["limits"]["example.com/laser"] = json!("1");
    let refused = enter(&review("m", "pods", Operation::Create, laser)).expect_err("laser");
    assert!(refused.contains("example.com/laser"), "{refused}");
}

#[test]
fn a_question_is_read_as_the_api_server_asks_it() {
    let body = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1-2", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "subResource": "status", "operation": "UPDATE", "namespace": "team",
            "userInfo": {"username": "dora", "groups": ["research"]},
            "object": {"a": 1}, "oldObject": null, "dryRun": false,
        },
    });
    let read = Review::read(body.to_string().as_bytes()).expect("a question");
    assert_eq!(
        (read.uid.as_str(), read.user.as_str(), read.operation),
        ("1-2", "dora", Operation::Update)
    );
    assert_eq!((read.sub_resource.as_str(), &read.old_object), ("status", &Value::Null));
    assert!(Review::read(b"{}").is_err());
}
