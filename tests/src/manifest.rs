//! The objects that users write, as JSON.

use serde_json::{Value, json};

/// A pod template for our scheduler: so many GPUs and four EFAs for each.
pub fn template(gpus: u32, annotations: &[(&str, &str)]) -> Value {
    let annotations: serde_json::Map<String, Value> =
        annotations.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    let mut limits = json!({"cpu": "1", "memory": "256Mi"});
    if gpus > 0 {
        limits["nvidia.com/gpu"] = json!(gpus.to_string());
        limits["vpc.amazonaws.com/efa"] = json!((4 * gpus).to_string());
    }
    json!({
        "metadata": {"annotations": annotations},
        "spec": {
            "schedulerName": "gangway",
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "containers": [{"name": "pytorch", "image": "none", "resources": {"limits": limits}}],
        },
    })
}

/// A pod of its own.
pub fn pod(name: &str, template: &Value) -> Value {
    let mut pod = template.clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    pod
}

/// A pod that names a native PodGroup.
pub fn pod_of_group(name: &str, group: &str, template: &Value) -> Value {
    let mut pod = pod(name, template);
    pod["spec"]["schedulingGroup"] = json!({"podGroupName": group});
    pod
}

/// A native PodGroup.
pub fn pod_group(name: &str, least: u32) -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1alpha2",
        "kind": "PodGroup",
        "metadata": {"name": name},
        "spec": {"schedulingPolicy": {"gang": {"minCount": least}}},
    })
}

/// An Indexed Job whose pods all run at once.
pub fn indexed_job(name: &str, members: u32, template: &Value) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completionMode": "Indexed",
            "parallelism": members,
            "completions": members,
            "template": template,
        },
    })
}

/// A PyTorchJob of one master and so many workers.
pub fn pytorchjob(name: &str, workers: u32, template: &Value) -> Value {
    pytorchjob_of_roles(name, template, workers, template)
}

/// A PyTorchJob whose master and workers differ.
pub fn pytorchjob_of_roles(name: &str, master: &Value, workers: u32, worker: &Value) -> Value {
    let role = |replicas: u32, template: &Value| {
        let mut template = template.clone();
        if let Some(spec) = template["spec"].as_object_mut() {
            spec.remove("restartPolicy");
        }
        json!({"replicas": replicas, "restartPolicy": "OnFailure", "template": template})
    };
    json!({
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {"pytorchReplicaSpecs": {"Master": role(1, master), "Worker": role(workers, worker)}},
    })
}

/// One of a JobSet's replicated Jobs: so many Jobs of so many pods, none of which is made again.
pub fn replicated_job(name: &str, replicas: u32, pods: u32, template: &Value) -> Value {
    let job = json!({
        "parallelism": pods, "completions": pods, "backoffLimit": 0, "template": template,
    });
    json!({"name": name, "replicas": replicas, "template": {"spec": job}})
}

/// A JobSet; `more` is what its spec says beside its Jobs.
pub fn jobset(name: &str, jobs: &[Value], more: &Value) -> Value {
    let mut spec = more.clone();
    spec["replicatedJobs"] = json!(jobs);
    json!({
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// A LeaderWorkerSet of so many groups of so many pods each.
pub fn leader_worker_set(
    name: &str,
    groups: u32,
    size: u32,
    startup: &str,
    template: &Value,
) -> Value {
    json!({
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": groups,
            "startupPolicy": startup,
            "leaderWorkerTemplate": {"size": size, "workerTemplate": always(template)},
        },
    })
}

/// A StatefulSet or Deployment of so many pods.
pub fn apps(kind: &str, name: &str, replicas: u32, template: &Value) -> Value {
    let mut template = always(template);
    template["metadata"]["labels"] = json!({"app": name});
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
        },
    })
}

/// An object of a kind that has no controller here.
pub fn bare(api_version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// The same object as its controller would have made it: owned by another, and labelled.
pub fn owned(object: &Value, owner: &Value, uid: &str, labels: &[(&str, &str)]) -> Value {
    let mut object = object.clone();
    object["metadata"]["ownerReferences"] = json!([{
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": uid,
        "controller": true,
        "blockOwnerDeletion": true,
    }]);
    for (key, value) in labels {
        object["metadata"]["labels"][key] = json!(value);
    }
    object
}

/// A template for pods that are started again for ever.
fn always(template: &Value) -> Value {
    let mut template = template.clone();
    template["spec"]["restartPolicy"] = json!("Always");
    template
}
