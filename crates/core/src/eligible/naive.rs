//! Kubernetes' rules once more, read off its documentation and applied to the JSON as it is: slow, and
//! sharing nothing with what it checks.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::eligible::nodes::Node;
use crate::eligible::taint::Taint;

pub(super) enum Step {
    Put(Node),
    Drop(String),
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Put(node) => write!(f, "{node:?}"),
            Self::Drop(name) => write!(f, "drop {name}"),
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn may_go(pod: &Value, node: &Node) -> bool {
    let label = |key: &str| node.labels.get(key).map(String::as_str);
    if let Some(pairs) = pod["nodeSelector"].as_object()
        && !pairs.iter().all(|(key, value)| label(key) == value.as_str())
    {
        return false;
    }
    let required =
        &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    if !required.is_null() {
        let terms = list(&required["nodeSelectorTerms"]);
        if !terms.iter().any(|term| term_holds(term, node)) {
            return false;
        }
    }
    let asked = list(&pod["containers"]).iter().map(|c| text(&c["resources"]["limits"][DISK]));
    let needed: u64 = asked.map(|text| text.parse::<u64>().unwrap_or(0)).sum();
    if needed > node.room.get(DISK).copied().unwrap_or(0) {
        return false;
    }
    let mut taints = node.taints.clone();
    if node.unschedulable {
        taints.push(Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        });
    }
    taints.iter().all(|taint| {
        taint.effect == "PreferNoSchedule"
            || list(&pod["tolerations"]).iter().any(|toleration| tolerates(toleration, taint))
    })
}

fn term_holds(term: &Value, node: &Node) -> bool {
    let expressions = list(&term["matchExpressions"]);
    let fields = list(&term["matchFields"]);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    // One requirement that makes no sense spoils its whole term.
    let number = |value: &Value| text(value).parse::<i64>();
    let sound = |r: &Value| {
        let values = list(&r["values"]);
        match text(&r["operator"]) {
            "In" | "NotIn" => !values.is_empty(),
            "Exists" | "DoesNotExist" => values.is_empty(),
            "Gt" | "Lt" => values.len() == 1 && number(&values[0]).is_ok(),
            _ => false,
        }
    };
    if !expressions.iter().all(sound) {
        return false;
    }
    expressions.iter().all(|r| {
        let own = node.labels.get(text(&r["key"]));
        let values = list(&r["values"]);
        let among = own.is_some_and(|own| values.iter().any(|v| text(v) == own));
        let than = || own.and_then(|own| own.parse::<i64>().ok()).zip(number(&values[0]).ok());
        match text(&r["operator"]) {
            "In" => among,
            "NotIn" => !among,
            "Exists" => own.is_some(),
            "DoesNotExist" => own.is_none(),
            "Gt" => than().is_some_and(|(own, than)| own > than),
            _ => than().is_some_and(|(own, than)| own < than),
        }
    }) && fields.iter().all(|r| {
        let among = list(&r["values"]).iter().any(|v| text(v) == node.name);
        if text(&r["operator"]) == "In" { among } else { !among }
    })
}

fn tolerates(toleration: &Value, taint: &Taint) -> bool {
    let effect = text(&toleration["effect"]);
    let key = text(&toleration["key"]);
    let value = text(&toleration["value"]);
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match text(&toleration["operator"]) {
            "Exists" => true,
            "Gt" => {
                matches!((taint.value.parse::<i64>(), value.parse::<i64>()), (Ok(a), Ok(b)) if a > b)
            }
            "Lt" => {
                matches!((taint.value.parse::<i64>(), value.parse::<i64>()), (Ok(a), Ok(b)) if a < b)
            }
            _ => value == taint.value,
        }
}

fn any_word(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(words)
}

const DISK: &str = "ephemeral-storage";
const KEYS: &[&str] = &["a", "b"];
const VALUES: &[&str] = &["1", "2", "10", "x"];

fn any_requirement() -> impl Strategy<Value = Value> {
    let operator = any_word(&["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]);
    let values = proptest::collection::vec(any_word(VALUES), 0..3);
    (any_word(KEYS), operator, values).prop_map(
        |(key, operator, values)| json!({"key": key, "operator": operator, "values": values}),
    )
}

fn any_term() -> impl Strategy<Value = Value> {
    let name = (any_word(&["In", "NotIn"]), any_word(&["n1", "n2"])).prop_map(
        |(operator, name)| json!({"key": "metadata.name", "operator": operator, "values": [name]}),
    );
    let expressions = proptest::collection::vec(any_requirement(), 0..3);
    let fields = proptest::collection::vec(name, 0..2);
    (expressions, fields)
        .prop_map(|(labels, names)| json!({"matchExpressions": labels, "matchFields": names}))
}

fn any_toleration() -> impl Strategy<Value = Value> {
    let operator = any_word(&["", "Equal", "Exists", "Gt", "Lt"]);
    let effect = any_word(&["", "NoSchedule", "NoExecute"]);
    let key = any_word(&["", "a", "node.kubernetes.io/unschedulable"]);
    (key, operator, any_word(VALUES), effect).prop_map(|(key, operator, value, effect)| {
        // The API server takes neither a value beside Exists nor another operator without a key.
        let operator = if key.is_empty() { "Exists" } else { operator };
        let value = if operator == "Exists" { "" } else { value };
        json!({"key": key, "operator": operator, "value": value, "effect": effect})
    })
}

/// A pod's spec, with or without a word on its node.
pub(super) fn any_pod() -> impl Strategy<Value = Value> {
    let selector = proptest::collection::btree_map(any_word(KEYS), any_word(VALUES), 0..2);
    let affinity = proptest::option::of(proptest::collection::vec(any_term(), 0..3));
    let tolerations = proptest::collection::vec(any_toleration(), 0..3);
    let disks = proptest::collection::vec(any_word(&["0", "0", "1", "2"]), 0..3);
    (selector, affinity, tolerations, disks).prop_map(|(selector, terms, tolerations, disks)| {
        let container = |disk| json!({"name": "c", "resources": {"limits": {DISK: disk}}});
        let containers: Vec<Value> = disks.into_iter().map(container).collect();
        let mut pod = json!({
            "nodeSelector": selector, "tolerations": tolerations, "containers": containers,
        });
        if let Some(terms) = terms {
            pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                json!({"nodeSelectorTerms": terms});
        }
        pod
    })
}

fn any_node() -> impl Strategy<Value = Node> {
    let labels = proptest::collection::btree_map(
        any_word(KEYS).prop_map(str::to_owned),
        any_word(VALUES).prop_map(str::to_owned),
        0..3,
    );
    let effect = any_word(&["NoSchedule", "NoExecute", "PreferNoSchedule"]);
    let taint = (any_word(KEYS), any_word(VALUES), effect).prop_map(|(key, value, effect)| Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
    });
    let taints = proptest::collection::vec(taint, 0..2);
    let room = proptest::option::of(0..4_u64);
    let cordon = proptest::bool::weighted(0.2);
    (any_word(&["n1", "n2", "n3", "n4", "n70"]), labels, taints, cordon, room).prop_map(
        |(name, labels, taints, unschedulable, room)| Node {
            name: name.to_owned(),
            labels,
            taints,
            unschedulable,
            room: room.map(|room| (DISK.to_owned(), room)).into_iter().collect(),
        },
    )
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any_node().prop_map(Step::Put),
        1 => any_word(&["n1", "n2", "n3", "n4"]).prop_map(|name| Step::Drop(name.to_owned())),
    ]
}
