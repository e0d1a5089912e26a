//! Node selectors: as Kubernetes writes them, and as they are once read.
//!
//! The rules are those of `component-helpers/scheduling/corev1/nodeaffinity` (Kubernetes 1.36): terms
//! are alternatives, all requirements of a term must hold, a term without requirements selects nothing,
//! and a term that cannot be read selects nothing while another one may.

use serde::{Deserialize, Deserializer, Serialize};

use super::nodes::NodeFacts;

/// `spec.affinity`, as far as it names nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// Which nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
}

/// `nodeAffinity`: what is only preferred is left to Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// What must hold. In a PersistentVolume the same is called `required`.
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        alias = "required",
        skip_serializing_if = "Option::is_none"
    )]
    pub required: Option<NodeSelector>,
}

/// A node selector as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// Alternatives.
    #[serde(deserialize_with = "null_is_empty")]
    pub node_selector_terms: Vec<Term>,
}

/// One alternative of a selector as written: all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Term {
    /// On labels.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// On the node's name.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub match_fields: Vec<Requirement>,
}

/// One requirement as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// Label or field.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    pub operator: String,
    /// What it is compared with.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub values: Vec<String>,
}

/// Go writes a list that was never made as `null`.
pub(super) fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A selector that has been read: it cannot be wrong any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector(Vec<Vec<Test>>);

/// One test of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
    Label(String, Op),
    Name { is: bool, name: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
}

impl Selector {
    /// Reads a selector. An error only where no term is left that could select a node and one of them
    /// cannot be read; it names the key.
    pub fn parse(written: &NodeSelector) -> Result<Self, String> {
        let mut terms = Vec::new();
        let mut wrong = None;
        for term in &written.node_selector_terms {
            if term.match_expressions.is_empty() && term.match_fields.is_empty() {
                continue;
            }
            let labels = term.match_expressions.iter().map(label_test);
            match labels.chain(term.match_fields.iter().map(name_test)).collect() {
                Ok(tests) => terms.push(tests),
                Err(why) => wrong = wrong.or(Some(why)),
            }
        }
        match wrong {
            Some(why) if terms.is_empty() => Err(why),
            _ => Ok(Self(terms)),
        }
    }

    /// Nodes whose label has exactly this value.
    pub fn label_is(key: &str, value: &str) -> Self {
        Self::labels_in([(key, vec![value.to_owned()])])
    }

    /// Nodes each of whose labels has one of the values.
    pub fn labels_in<'a>(pairs: impl IntoIterator<Item = (&'a str, Vec<String>)>) -> Self {
        let test = |(key, values): (&str, _)| Test::Label(key.to_owned(), Op::In(values));
        Self(vec![pairs.into_iter().map(test).collect()])
    }

    /// The node of this name alone.
    pub fn name_is(name: &str) -> Self {
        Self(vec![vec![Test::Name { is: true, name: name.to_owned() }]])
    }

    /// What one of several selectors selects.
    pub fn any(selectors: impl IntoIterator<Item = Self>) -> Self {
        Self(selectors.into_iter().flat_map(|s| s.0).collect())
    }

    /// Whether the node is selected.
    pub fn selects(&self, node: &NodeFacts) -> bool {
        self.0.iter().any(|term| !term.is_empty() && term.iter().all(|test| test.holds(node)))
    }
}

impl Test {
    fn holds(&self, node: &NodeFacts) -> bool {
        match self {
            Self::Name { is, name } => (node.name == *name) == *is,
            Self::Label(key, op) => {
                let value = node.label(key);
                // A label that is no whole number is neither greater nor less.
                let number = || value.and_then(|v| v.parse::<i64>().ok());
                match op {
                    Op::In(values) => value.is_some_and(|v| values.iter().any(|own| own == v)),
                    Op::NotIn(values) => value.is_none_or(|v| values.iter().all(|own| own != v)),
                    Op::Exists => value.is_some(),
                    Op::DoesNotExist => value.is_none(),
                    Op::Gt(than) => number().is_some_and(|n| n > *than),
                    Op::Lt(than) => number().is_some_and(|n| n < *than),
                }
            }
        }
    }
}

fn label_test(requirement: &Requirement) -> Result<Test, String> {
    let Requirement { key, operator, values } = requirement;
    let wrong = |what: &str| format!("{key}: operator {operator} {what}");
    let number = || match values.as_slice() {
        [one] => one.parse::<i64>().map_err(|_| wrong("needs a whole number")),
        _ => Err(wrong("needs exactly one value")),
    };
    let none = |op| if values.is_empty() { Ok(op) } else { Err(wrong("takes no values")) };
    let some = || match values.iter().find(|value| !is_label_value(value)) {
        _ if values.is_empty() => Err(wrong("needs values")),
        Some(bad) => Err(wrong(&format!("has {bad:.70?}, which no label can be"))),
        None => Ok(values.clone()),
    };
    let op = match operator.as_str() {
        "In" => Op::In(some()?),
        "NotIn" => Op::NotIn(some()?),
        "Exists" => none(Op::Exists)?,
        "DoesNotExist" => none(Op::DoesNotExist)?,
        "Gt" => Op::Gt(number()?),
        "Lt" => Op::Lt(number()?),
        _ => return Err(wrong("is not one of In, NotIn, Exists, DoesNotExist, Gt, Lt")),
    };
    Ok(Test::Label(key.clone(), op))
}

fn name_test(requirement: &Requirement) -> Result<Test, String> {
    let Requirement { key, operator, values } = requirement;
    let is = match operator.as_str() {
        "In" => true,
        "NotIn" => false,
        _ => return Err(format!("field {key}: operator {operator} is not one of In, NotIn")),
    };
    match values.as_slice() {
        [name] if key == "metadata.name" => Ok(Test::Name { is, name: name.clone() }),
        [_] => Err(format!("field {key}: only metadata.name can be asked for")),
        _ => Err(format!("field {key}: operator {operator} needs exactly one value")),
    }
}

/// Whether a label can have this value: at most 63 letters, digits, `-`, `_` and `.`, the first and
/// the last of them no sign; or nothing.
fn is_label_value(text: &str) -> bool {
    let alphanumeric = |end: Option<char>| end.is_none_or(|c| c.is_ascii_alphanumeric());
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.len() <= 63
        && text.chars().all(fine)
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().next_back())
}
