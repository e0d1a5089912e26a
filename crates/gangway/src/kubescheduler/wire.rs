//! kube-scheduler's extender protocol as it is on the wire: JSON over POST, Go's field names as they
//! are. Only the fields that count; whatever else is there is passed over.
//!
//! Source: `k8s.io/kube-scheduler/extender/v1` and `pkg/scheduler/extender.go` of Kubernetes 1.36.
//! That side decodes without regard to case and takes `null` for "not there".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `ExtenderArgs`: a pod and the nodes that kube-scheduler's own plugins have left over, as objects
/// (`nodeCacheCapable: false`) or as names (`true`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Args {
    pub(super) pod: Pod,
    #[serde(default)]
    pub(super) nodes: Option<NodeList>,
    #[serde(default)]
    pub(super) node_names: Option<Vec<String>>,
}

/// As much of a `v1.Pod` as tells whose it is.
#[derive(Debug, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: PodMeta,
    #[serde(default)]
    pub(super) spec: PodSpec,
}

#[derive(Debug, Deserialize)]
pub(super) struct PodMeta {
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(default)]
    pub(super) scheduler_name: String,
}

/// `v1.NodeList`; its nodes go back as they came.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct NodeList {
    #[serde(default)]
    pub(super) metadata: Value,
    #[serde(default)]
    pub(super) items: Option<Vec<Value>>,
}

impl NodeList {
    fn name(node: &Value) -> &str {
        node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
    }
}

impl Args {
    /// The names of the nodes, in whichever form they came.
    pub(super) fn names(&self) -> Vec<&str> {
        match (&self.node_names, &self.nodes) {
            (Some(names), _) => names.iter().map(String::as_str).collect(),
            (None, Some(list)) => list.items.iter().flatten().map(NodeList::name).collect(),
            (None, None) => Vec::new(),
        }
    }

    /// All nodes, as they came.
    pub(super) fn all(self) -> FilterResult {
        FilterResult { nodes: self.nodes, node_names: self.node_names, ..FilterResult::default() }
    }

    /// One node of them, in the form in which they came.
    pub(super) fn only(mut self, name: &str) -> FilterResult {
        if let Some(names) = &mut self.node_names {
            names.retain(|n| n == name);
        }
        if let Some(items) = self.nodes.as_mut().and_then(|list| list.items.as_mut()) {
            items.retain(|node| NodeList::name(node) == name);
        }
        self.all()
    }

    /// None of them, for this reason; nothing that could be preempted would help.
    pub(super) fn none(self, why: &str) -> FilterResult {
        let failed = self.names().into_iter().map(|n| (n.to_owned(), why.to_owned())).collect();
        let nodes = self.nodes.is_some().then(|| NodeList {
            items: Some(Vec::new()),
            metadata: Value::Object(serde_json::Map::new()),
        });
        FilterResult {
            nodes,
            node_names: self.node_names.is_some().then(Vec::new),
            failed_and_unresolvable_nodes: failed,
            ..FilterResult::default()
        }
    }
}

/// `ExtenderFilterResult`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FilterResult {
    pub(super) nodes: Option<NodeList>,
    pub(super) node_names: Option<Vec<String>>,
    pub(super) failed_nodes: BTreeMap<String, String>,
    /// Nodes that eviction of other pods would not open: kube-scheduler does not try.
    pub(super) failed_and_unresolvable_nodes: BTreeMap<String, String>,
    pub(super) error: String,
}

/// `HostPriority`, from 0 to 10.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HostPriority {
    pub(super) host: String,
    pub(super) score: i64,
}

/// `ExtenderBindingArgs`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BindingArgs {
    pub(super) pod_name: String,
    pub(super) pod_namespace: String,
    #[serde(rename = "PodUID")]
    pub(super) pod_uid: String,
    pub(super) node: String,
}

/// `ExtenderBindingResult`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BindingResult {
    pub(super) error: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args(nodes: &Value, names: &Value) -> Args {
        let pod = json!({
            "metadata": {"uid": "u", "namespace": "t", "name": "p", "creationTimestamp": null},
            "spec": {"schedulerName": "s", "containers": []}, "status": {},
        });
        let text = json!({"Pod": pod, "Nodes": nodes, "NodeNames": names}).to_string();
        serde_json::from_str(&text).expect("as kube-scheduler 1.36 writes it")
    }

    fn node(name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"a": "b"}}, "status": {"phase": "x"}})
    }

    #[test]
    fn names_come_and_go_as_names() {
        let read = || args(&Value::Null, &json!(["n1", "n2"]));
        assert_eq!(read().names(), ["n1", "n2"]);
        assert_eq!(read().pod.spec.scheduler_name, "s");
        let only = serde_json::to_value(read().only("n2")).expect("JSON");
        assert_eq!((&only["NodeNames"], &only["Nodes"]), (&json!(["n2"]), &Value::Null));
        let none = serde_json::to_value(read().none("why")).expect("JSON");
        assert_eq!(none["NodeNames"], json!([]));
        assert_eq!(none["FailedAndUnresolvableNodes"], json!({"n1": "why", "n2": "why"}));
        assert_eq!((&none["FailedNodes"], &none["Error"]), (&json!({}), &json!("")));
    }

    #[test]
    fn nodes_come_and_go_whole() {
        let list = json!({"metadata": {}, "items": [node("n1"), node("n2")]});
        let read = || args(&list, &Value::Null);
        assert_eq!(read().names(), ["n1", "n2"]);
        let only = serde_json::to_value(read().only("n2")).expect("JSON");
        assert_eq!(only["Nodes"]["items"], json!([node("n2")]));
        assert_eq!(only["NodeNames"], Value::Null);
        let none = serde_json::to_value(read().none("why")).expect("JSON");
        assert_eq!(none["Nodes"]["items"], json!([]));
        let empty = args(&json!({"metadata": {}, "items": null}), &Value::Null);
        assert_eq!(empty.names(), Vec::<&str>::new());
        let all = serde_json::to_value(read().all()).expect("JSON");
        assert_eq!(all["Nodes"], list);
    }

    #[test]
    fn a_binding_is_read_as_it_is_written() {
        let text = r#"{"PodName":"p","PodNamespace":"t","PodUID":"u","Node":"n1"}"#;
        let args: BindingArgs = serde_json::from_str(text).expect("as kube-scheduler writes it");
        assert_eq!((args.pod_uid.as_str(), args.node.as_str()), ("u", "n1"));
        let priority = HostPriority { host: "n1".to_owned(), score: 10 };
        let text = serde_json::to_string(&[priority]).expect("JSON");
        assert_eq!(text, r#"[{"Host":"n1","Score":10}]"#);
    }
}
