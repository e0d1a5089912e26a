//! Taints, tolerations and cordons.
//!
//! The rules are those of `Toleration.ToleratesTaint` and of the scheduler's TaintToleration and
//! NodeUnschedulable plugins (Kubernetes 1.36). `Gt` and `Lt` are read whatever the feature gate says:
//! an API server without it takes no pod that uses them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::nodes::NodeFacts;
use crate::names;

/// The taint that a cordoned node is taken to have.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// A taint of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub effect: String,
}

impl Taint {
    /// Whether the controllers of this cluster's bridge have written it. It keeps nobody off for whom Slurm has found
    /// room: they wrote it for the pods of others.
    pub fn is_own(&self, cluster: &str) -> bool {
        [names::TAINT_MANAGED, names::TAINT_UNAVAILABLE].contains(&self.key.as_str())
            && self.value == own_value(cluster)
    }
}

/// The value of a bridge's own taints. Values hold no colon.
pub(crate) fn own_value(cluster: &str) -> String {
    cluster.replace(':', ".")
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        write!(f, ":{}", self.effect)
    }
}

/// A toleration of a pod. For how long it lasts does not matter before the pod is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Toleration {
    /// Key; empty means every one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// `Equal` (also where empty), `Exists`, `Gt`, `Lt`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// Value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Effect; empty means every one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
}

impl Toleration {
    /// Whether it makes up for this taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let meant = |own: &str, theirs: &str| own.is_empty() || own == theirs;
        if !meant(&self.effect, &taint.effect) || !meant(&self.key, &taint.key) {
            return false;
        }
        let compare = |order| match (decimal(&taint.value), decimal(&self.value)) {
            (Some(theirs), Some(own)) => theirs.cmp(&own) == order,
            _ => false,
        };
        match self.operator.as_str() {
            "" | "Equal" => self.value == taint.value,
            "Exists" => true,
            "Gt" => compare(std::cmp::Ordering::Greater),
            "Lt" => compare(std::cmp::Ordering::Less),
            _ => false,
        }
    }
}

/// A whole number in its one form: no plus sign, no leading zero.
fn decimal(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}

/// What about the node itself keeps a pod out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bar<'a> {
    /// `spec.unschedulable`, or its taint.
    Cordoned,
    /// The first taint that is not tolerated.
    Tainted(&'a Taint),
}

/// What keeps a pod with these tolerations off a node.
pub fn bar<'a>(tolerations: &[Toleration], node: &'a NodeFacts) -> Option<Bar<'a>> {
    let tolerated = |taint: &Taint| tolerations.iter().any(|t| t.tolerates(taint));
    if node.unschedulable {
        let (key, effect) = (UNSCHEDULABLE.to_owned(), "NoSchedule".to_owned());
        if !tolerated(&Taint { key, value: String::new(), effect }) {
            return Some(Bar::Cordoned);
        }
    }
    let shuts = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let mut shut = node.taints.iter().filter(shuts).filter(|taint| !tolerated(taint));
    shut.next().map(|t| if t.key == UNSCHEDULABLE { Bar::Cordoned } else { Bar::Tainted(t) })
}
