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
