//! The API server's audit log: who asked for what, and when, by the server's own clock.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde::Deserialize;

/// The user that the bridge is.
const BRIDGE: &str = "system:serviceaccount:gangway:gangway-scheduler";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    verb: String,
    #[serde(default, rename = "requestURI")]
    uri: String,
    user: User,
    #[serde(default)]
    object_ref: Option<Object>,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

/// What happened in a part of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Requests of the bridge, by verb and resource.
    pub(crate) writes: BTreeMap<String, u32>,
    pub(crate) reads: BTreeMap<String, u32>,
    /// Writes of everyone else: creators, KWOK, controllers.
    pub(crate) other_writes: u32,
    /// Answered creates of pods in the namespace, by pod: when asked and when answered.
    pub(crate) created: HashMap<String, Span>,
    /// The same of bindings.
    pub(crate) bound: HashMap<String, Span>,
}

/// Begin and end of a request in milliseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// The log's present end.
pub(crate) fn end(log: &Path) -> Result<u64> {
    let length =
        std::fs::metadata(log).with_context(|| format!("no audit log {}", log.display()))?;
    Ok(length.len())
}

/// What the log says from `begin` on; `namespace` is the one whose pods are looked at one by one.
pub(crate) fn since(log: &Path, begin: u64, namespace: &str) -> Result<Seen> {
    let mut file = File::open(log).with_context(|| format!("no audit log {}", log.display()))?;
    if file.metadata()?.len() < begin {
        bail!("{} was rotated during a trial", log.display());
    }
    file.seek(SeekFrom::Start(begin))?;
    let mut seen = Seen::default();
    for line in BufReader::new(file).lines() {
        // The last line may still be being written; it is of no request that we wait for.
        let Ok(line) = serde_json::from_str::<Line>(&line?) else { continue };
        seen.take(line, namespace);
    }
    Ok(seen)
}

impl Seen {
    fn take(&mut self, line: Line, namespace: &str) {
        let object = line.object_ref.unwrap_or_default();
        let writes = !matches!(line.verb.as_str(), "get" | "list" | "watch");
        let mine =
            object.namespace == namespace && object.resource == "pods" && line.verb == "create";
        if mine {
            let span = Span {
                from: millis(line.request_received_timestamp),
                to: millis(line.stage_timestamp),
            };
            match object.subresource.as_str() {
                "" => drop(self.created.insert(object.name.clone(), span)),
                "binding" => drop(self.bound.insert(object.name.clone(), span)),
                _ => {}
            }
        }
        if line.user.username != BRIDGE {
            self.other_writes += u32::from(writes);
            return;
        }
        let what = match (object.resource.as_str(), object.subresource.as_str()) {
            ("", _) => line.uri.split('?').next().unwrap_or_default().to_owned(),
            (resource, "") => resource.to_owned(),
            (resource, subresource) => format!("{resource}/{subresource}"),
        };
        let counts = if writes { &mut self.writes } else { &mut self.reads };
        *counts.entry(format!("{} {what}", line.verb)).or_default() += 1;
    }
}

fn millis(at: Timestamp) -> f64 {
    at.as_microsecond() as f64 / 1e3
}
