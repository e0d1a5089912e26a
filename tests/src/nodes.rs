//! Nodes of the world that a story changes: labels, taints, cordons, taken back when it ends.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::kubernetes::Kubernetes;
use crate::story::Story;

/// The changes of one story. A story that breaks off takes them back too.
pub struct Nodes {
    kube: Kubernetes,
    changed: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Nodes {
    /// Ready to change nodes of this story's world.
    pub fn of(story: &Story) -> Self {
        Self { kube: story.kube.clone(), changed: Arc::default() }
    }

    /// The world's p5 nodes, `from` to `to` by number, both included.
    pub fn p5(from: u32, to: u32) -> Vec<String> {
        (from..=to).map(|number| format!("p5-{number:04}")).collect()
    }

    async fn change(&self, name: &str, part: Value, back: Value) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), back));
        self.kube.patch_node(name, &part).await;
    }

    /// Adds a node that Slurm does not know, as a control plane's are, and with its usual taint.
    pub async fn add_stranger(&self, name: &str) {
        // Taking it back is taking it away.
        let change = (name.to_owned(), Value::Null);
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(change);
        let key = "node-role.kubernetes.io/control-plane";
        let node = json!({
            "metadata": {"name": name},
            "spec": {"taints": [{"key": key, "effect": "NoSchedule"}]},
        });
        self.kube.create_node(&node).await;
    }

    /// Adds a node with these labels and this much of each resource, which runs pods as the others do.
    /// Slurm is not told.
    pub async fn add(&self, name: &str, labels: &Value, resources: &Value) {
        let change = (name.to_owned(), Value::Null);
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(change);
        let mut node = json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"capacity": resources, "allocatable": resources},
        });
        // By this label KWOK knows the nodes that it plays.
        node["metadata"]["labels"]["type"] = json!("kwok");
        self.kube.create_node(&node).await;
    }

    /// Adds this very node, that nobody plays.
    pub async fn add_as(&self, node: &Value) {
        let name = node["metadata"]["name"].as_str().expect("a name").to_owned();
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push((name, Value::Null));
        self.kube.create_node(node).await;
    }

    /// Takes a node away from Kubernetes that none of its own daemons would bring back.
    pub async fn take_away(&self, name: &str) {
        let back = self.kube.node(name).await;
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), back));
        self.kube.delete_node(name).await;
    }

    /// Gives a node more of a resource.
    pub async fn equip(&self, name: &str, resource: &str, quantity: &str) {
        let with = |value: Value| json!({"status": {"capacity": {resource: value}, "allocatable": {resource: value}}});
        let change = (name.to_owned(), with(Value::Null));
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(change);
        self.kube.patch_node_status(name, &with(json!(quantity))).await;
    }

    /// Gives nodes a label.
    pub async fn label(&self, names: &[String], key: &str, value: &str) {
        for name in names {
            let with = |value: Value| json!({"metadata": {"labels": {key: value}}});
            self.change(name, with(json!(value)), with(Value::Null)).await;
        }
    }

    /// Gives nodes a taint, and no other.
    pub async fn taint(&self, names: &[String], key: &str, effect: &str) {
        for name in names {
            let taints = json!([{"key": key, "value": "yes", "effect": effect}]);
            let back = json!({"spec": {"taints": null}});
            self.change(name, json!({"spec": {"taints": taints}}), back).await;
        }
    }

    /// Sees to it that no taint is left on nodes that had none, whoever writes it.
    pub fn leave_untainted(&self, names: &[String]) {
        let back = json!({"spec": {"taints": null}});
        let changes = names.iter().map(|name| (name.clone(), back.clone()));
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).extend(changes);
    }

    /// `kubectl cordon`.
    pub async fn cordon(&self, names: &[String]) {
        for name in names {
            let back = json!({"spec": {"unschedulable": null}});
            self.change(name, json!({"spec": {"unschedulable": true}}), back).await;
        }
    }

    /// Takes back what was done to these nodes.
    pub async fn restore(&self, names: &[String]) {
        let mut mine = Vec::new();
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).retain(|(name, back)| {
            let own = names.contains(name);
            if own {
                mine.push((name.clone(), back.clone()));
            }
            !own
        });
        for (name, back) in mine.into_iter().rev() {
            undo(&self.kube, &name, &back).await;
        }
    }
}

async fn undo(kube: &Kubernetes, name: &str, back: &Value) {
    if back.is_null() {
        kube.delete_node(name).await;
    } else if back.get("kind").is_some() {
        kube.create_node(back).await;
    } else if back.get("status").is_some() {
        kube.patch_node_status(name, back).await;
    } else {
        kube.patch_node(name, back).await;
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let changed =
            std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner));
        if changed.is_empty() {
            return;
        }
        let (kubeconfig, namespace) = self.kube.way();
        // The runtime of a test that panics no longer runs anything.
        let undoing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let kube = Kubernetes::reach(&kubeconfig, &namespace).await;
                // The last first: a node that was added goes when what was done to it is undone.
                for (name, back) in changed.into_iter().rev() {
                    undo(&kube, &name, &back).await;
                }
            });
        });
        // What cannot be undone shows in the next story.
        let _ = undoing.join();
    }
}
