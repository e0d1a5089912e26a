//! What the API server has written down about the pods of a story: who did what, and when.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::story::Story;

/// One write about a pod that the API server has carried out.
#[derive(Clone, Debug)]
pub struct Write {
    /// When it was answered.
    pub at: Timestamp,
    /// Who asked.
    pub by: String,
    /// `create binding`, `create eviction`, `patch`, `delete` …
    pub what: String,
    /// The pod's name.
    pub pod: String,
}

impl Story {
    /// Every write about pods of this story so far, in the order of their answers.
    pub fn writes(&self) -> Vec<Write> {
        let log =
            std::fs::read_to_string(self.world.audit_log()).expect("the audit log can be read");
        let own = log.lines().filter(|line| line.contains(&self.cluster));
        let mut writes: Vec<Write> = own.filter_map(|line| self.write(line)).collect();
        writes.sort_by_key(|write| write.at);
        writes
    }

    fn write(&self, line: &str) -> Option<Write> {
        // The last line may be half written.
        let event: Value = serde_json::from_str(line).ok()?;
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let done = event.pointer("/responseStatus/code").and_then(Value::as_u64);
        let ours = text("/objectRef/resource") == "pods"
            && text("/objectRef/namespace") == self.cluster
            && !["get", "list", "watch"].contains(&text("/verb"))
            && done.is_some_and(|code| code < 300);
        let what = format!("{} {}", text("/verb"), text("/objectRef/subresource"));
        ours.then(|| Write {
            at: text("/stageTimestamp").parse().expect("a time"),
            by: text("/user/username").to_owned(),
            what: what.trim_end().to_owned(),
            pod: text("/objectRef/name").to_owned(),
        })
    }

    /// How often the API server has refused somebody who was acted for (`kubectl --as`) here.
    pub fn refusals_of(&self, user: &str) -> usize {
        let log =
            std::fs::read_to_string(self.world.audit_log()).expect("the audit log can be read");
        let own = log.lines().filter(|line| line.contains(&self.cluster));
        let refused = |line: &str| {
            let event: Value = serde_json::from_str(line).ok()?;
            let who = event.pointer("/impersonatedUser/username").and_then(Value::as_str);
            let code = event.pointer("/responseStatus/code").and_then(Value::as_u64);
            (who == Some(user) && code.is_some_and(|code| (400..500).contains(&code))).then_some(())
        };
        own.filter_map(refused).count()
    }

    /// When the last of these writes about pods whose names begin so was answered.
    pub fn last(&self, what: &str, prefix: &str) -> Timestamp {
        let found = self.writes().into_iter().rev();
        let mut found = found.filter(|write| write.what == what && write.pod.starts_with(prefix));
        found.next().unwrap_or_else(|| unreachable!("no {what} of {prefix}")).at
    }

    /// When the first of them was.
    pub fn first(&self, what: &str, prefix: &str) -> Timestamp {
        let mut found = self
            .writes()
            .into_iter()
            .filter(|write| write.what == what && write.pod.starts_with(prefix));
        found.next().unwrap_or_else(|| unreachable!("no {what} of {prefix}")).at
    }
}
