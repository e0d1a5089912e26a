//! JSON patches (RFC 6902), the one kind that is needed: set a value.

use serde::Serialize;
use serde_json::Value;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Patch {
    op: &'static str,
    /// Where, as a JSON pointer.
    pub path: String,
    /// What.
    pub value: Value,
}

impl Patch {
    pub(super) fn set(path: String, value: Value) -> Self {
        Self { op: "add", path, value }
    }
}

/// A key as a step of a JSON pointer.
pub(super) fn step(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
