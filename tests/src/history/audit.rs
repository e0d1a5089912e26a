//! The API server's audit log: who wrote what about pods, in the server's own words.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::Value;

/// The user that the bridge is.
const BRIDGE: &str = "system:serviceaccount:gangway:gangway-scheduler";

/// What the bridge has written about pods of some namespaces.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Bindings that were taken, by namespace and name.
    pub bound: BTreeMap<String, usize>,
    /// Evictions that were taken.
    pub evictions: usize,
    /// Requests about pods that the bridge must never make.
    pub forbidden: Vec<String>,
}

/// Reads the log from `begin` on, as far as it is about pods of namespaces that begin with `prefix`.
pub fn audit(log: &Path, begin: u64, prefix: &str) -> Audit {
    let mut file = File::open(log).expect("the world has an audit log");
    file.seek(SeekFrom::Start(begin)).expect("the log is as long as it was");
    let mut seen = Audit::default();
    for line in BufReader::new(file).lines() {
        let line = line.expect("the log is text");
        // The last line may still be being written.
        if let Some(line) = serde_json::from_str(&line).ok().filter(|_| line.contains(BRIDGE)) {
            seen.take(&line, prefix);
        }
    }
    seen
}

impl Audit {
    fn take(&mut self, line: &Value, prefix: &str) {
        let text = |path: &str| line.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let namespace = text("/objectRef/namespace");
        if text("/user/username") != BRIDGE
            || text("/objectRef/resource") != "pods"
            || !namespace.starts_with(prefix)
        {
            return;
        }
        let pod = format!("{namespace}/{}", text("/objectRef/name"));
        let code = line.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or(0);
        let taken = (200..300).contains(&code);
        match (text("/verb"), text("/objectRef/subresource")) {
            ("create", "binding") => {
                *self.bound.entry(pod).or_default() += usize::from(taken);
            }
            ("create", "eviction") => self.evictions += usize::from(taken),
            ("get" | "list" | "watch", _) | ("patch", "" | "status") => {}
            (verb, part) => self.forbidden.push(format!("{verb} {part} {pod}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bare_delete_is_found_and_bindings_are_counted() {
        let line = |verb: &str, part: &str, code: u32, user: &str| {
            json!({
                "verb": verb, "user": {"username": user}, "responseStatus": {"code": code},
                "objectRef": {"resource": "pods", "subresource": part, "namespace": "t-x", "name": "a"},
            })
        };
        let mut seen = Audit::default();
        seen.take(&line("create", "binding", 201, BRIDGE), "t-");
        seen.take(&line("create", "binding", 409, BRIDGE), "t-");
        seen.take(&line("create", "eviction", 201, BRIDGE), "t-");
        seen.take(&line("patch", "status", 200, BRIDGE), "t-");
        seen.take(&line("delete", "", 200, "admin"), "t-");
        assert_eq!((seen.bound["t-x/a"], seen.evictions), (1, 1));
        assert_eq!(seen.forbidden, [""; 0]);
        seen.take(&line("delete", "", 200, BRIDGE), "other");
        assert_eq!(seen.forbidden, [""; 0]);
        seen.take(&line("delete", "", 200, BRIDGE), "t-");
        assert_eq!(seen.forbidden, ["delete  t-x/a"]);
    }
}
