//! Reads one mapping of the configuration and remembers every problem with its path.
//!
//! serde's `deny_unknown_fields` stops at the first problem; an operator wants all of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::Value;

/// Collects problems from all sections.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<String>>);

impl Problems {
    pub(super) fn add(&self, path: &str, problem: &str) {
        self.0.borrow_mut().push(format!("{path}: {problem}"));
    }

    pub(super) fn into_result(self) -> Result<(), Vec<String>> {
        let list = self.0.into_inner();
        if list.is_empty() { Ok(()) } else { Err(list) }
    }
}

/// One mapping of the file. Keys that nobody has asked for when it is finished are unknown.
pub(super) struct Section<'a> {
    path: String,
    value: Option<&'a Value>,
    asked: BTreeSet<String>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(super) fn root(value: &'a Value, problems: &'a Problems) -> Self {
        Self::new(String::new(), Some(value), problems)
    }

    fn new(path: String, value: Option<&'a Value>, problems: &'a Problems) -> Self {
        let value = value.filter(|v| !v.is_null());
        if value.is_some_and(|v| !v.is_object()) {
            problems.add(if path.is_empty() { "file" } else { &path }, "must be a mapping");
        }
        Self { path, value, asked: BTreeSet::new(), problems }
    }

    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn get(&mut self, key: &str) -> Option<&'a Value> {
        self.asked.insert(key.to_owned());
        self.value?.get(key).filter(|v| !v.is_null())
    }

    fn typed<T>(
        &mut self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(key)?;
        let out = read(value);
        if out.is_none() {
            self.problems.add(&self.at(key), &format!("must be {what}"));
        }
        out
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.typed(key, "a text", |v| match v {
            Value::String(s) if !s.is_empty() => Some(s.clone()),
            // YAML reads `user: 5001` as a number; to Slurm it is a name like any other.
            Value::Number(n) => Some(n.to_string()),
            _ => None,
        })
    }

    /// A text that may be `off`, which YAML reads as false.
    pub(super) fn text_or_off(&mut self, key: &str) -> Option<String> {
        self.typed(key, "a text", |v| match v {
            Value::String(s) if !s.is_empty() => Some(s.clone()),
            Value::Bool(false) => Some("off".to_owned()),
            _ => None,
        })
    }

    pub(super) fn required(&mut self, key: &str) -> String {
        let missing = self.get(key).is_none();
        if missing {
            self.problems.add(&self.at(key), "is missing");
        }
        self.text(key).unwrap_or_default()
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn number(&mut self, key: &str) -> Option<u32> {
        self.typed(key, "a number from 0 to 4294967295", |v| v.as_u64()?.try_into().ok())
    }

    pub(super) fn address(&mut self, key: &str) -> Option<SocketAddr> {
        self.typed(key, "an address such as 127.0.0.1:9090", |v| v.as_str()?.parse().ok())
    }

    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let read = |v: &'a Value| {
            v.as_array()?.iter().map(|i| i.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        };
        self.typed(key, "a list of texts", read).unwrap_or_default()
    }

    pub(super) fn map(&mut self, key: &str) -> BTreeMap<String, String> {
        let read = |v: &'a Value| {
            let pairs = v.as_object()?.iter();
            pairs.map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect::<Option<_>>()
        };
        self.typed(key, "a mapping of texts", read).unwrap_or_default()
    }

    pub(super) fn numbers(&mut self, key: &str) -> BTreeMap<String, u32> {
        let read = |v: &'a Value| {
            let number = |v: &Value| u32::try_from(v.as_u64()?).ok();
            v.as_object()?.iter().map(|(k, v)| Some((k.clone(), number(v)?))).collect::<Option<_>>()
        };
        self.typed(key, "a mapping of numbers", read).unwrap_or_default()
    }

    pub(super) fn section(&mut self, key: &str) -> Self {
        let value = self.get(key);
        Self::new(self.at(key), value, self.problems)
    }

    pub(super) fn sections(&mut self, key: &str) -> Vec<Self> {
        let path = self.at(key);
        let problems = self.problems;
        let list = self.typed(key, "a list", Value::as_array);
        let entries = list.into_iter().flatten().enumerate();
        entries.map(|(i, v)| Self::new(format!("{path}[{i}]"), Some(v), problems)).collect()
    }

    /// Every key must have been asked for by now.
    pub(super) fn finish(self) {
        let Some(map) = self.value.and_then(Value::as_object) else { return };
        for key in map.keys().filter(|k| !self.asked.contains(*k)) {
            let known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
            self.problems.add(&self.at(key), &format!("unknown; known are {}", known.join(", ")));
        }
    }
}
