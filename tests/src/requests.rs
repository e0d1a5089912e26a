//! The API server's audit log: who asked for what, and what came of it.

use serde_json::Value;

use crate::world::World;

/// One request that was answered.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `create`, `patch` …
    pub verb: String,
    /// The object's kind in the plural, and its subresource: `pods/binding`.
    pub what: String,
    /// Namespace; empty for none.
    pub namespace: String,
    /// The object's name; empty for none.
    pub name: String,
    /// Whose request it was, as it says itself.
    pub agent: String,
    /// When it came, RFC 3339.
    pub at: String,
    /// HTTP status of the answer.
    pub code: u64,
}

impl Asked {
    /// Whether it asked for a change.
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// Everything that was asked of the API server in this world, in lines that contain `word`, and matches.
pub fn audited(world: &World, word: &str, matches: impl Fn(&Asked) -> bool) -> Vec<Asked> {
    let log = std::fs::read(world.audit_log()).expect("the audit log can be read");
    let text = String::from_utf8_lossy(&log);
    // The log is of the whole world, and large.
    let lines = text.lines().filter(|line| line.contains(word));
    let read = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let all = read.filter(|line| line["stage"] == "ResponseComplete").map(|line| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = &line["objectRef"];
        let (kind, sub) = (text(&about["resource"]), text(&about["subresource"]));
        Asked {
            verb: text(&line["verb"]),
            what: if sub.is_empty() { kind } else { format!("{kind}/{sub}") },
            namespace: text(&about["namespace"]),
            name: text(&about["name"]),
            agent: text(&line["userAgent"]),
            at: text(&line["requestReceivedTimestamp"]),
            code: line["responseStatus"]["code"].as_u64().unwrap_or(0),
        }
    });
    all.filter(matches).collect()
}
