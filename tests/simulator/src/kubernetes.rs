//! An API server in memory: objects with resource versions, watches, bindings, evictions.
//!
//! It must keep to what a live one was seen to answer (live-kubernetes.md, 6), and decides nothing:
//! faults and delays are laid over it by the network.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

/// A kind that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Pods,
    Nodes,
    Jobs,
    PyTorchJobs,
}

impl Resource {
    fn find(group: &str, plural: &str) -> Option<Self> {
        Some(match (group, plural) {
            ("", "pods") => Self::Pods,
            ("", "nodes") => Self::Nodes,
            ("batch", "jobs") => Self::Jobs,
            ("kubeflow.org", "pytorchjobs") => Self::PyTorchJobs,
            _ => return None,
        })
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Nodes => "Node",
            Self::Jobs => "Job",
            Self::PyTorchJobs => "PyTorchJob",
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::Pods | Self::Nodes => "v1",
            Self::Jobs => "batch/v1",
            Self::PyTorchJobs => "kubeflow.org/v1",
        }
    }
}

/// `namespace/name`, or a node's name.
type Key = (Resource, String);

/// One write, as watches tell of it.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) version: u64,
    pub(crate) resource: Resource,
    pub(crate) verb: &'static str,
    pub(crate) object: Arc<Value>,
}

/// What a watch asked for.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) resource: Resource,
    pub(crate) selector: Selector,
    /// Everything after this version.
    pub(crate) since: u64,
}

/// Which pods a list or watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    All,
    Scheduler(String),
    /// Another scheduler's, with a label of ours: nobody makes such pods here.
    Strangers,
}

impl Selector {
    pub(crate) fn takes(&self, object: &Value) -> bool {
        match self {
            Self::All => true,
            Self::Scheduler(name) => object["spec"]["schedulerName"] == **name,
            Self::Strangers => false,
        }
    }
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Object(u16, Value),
    Watch(Watch),
}

/// A request whose effect the rules look at.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// A pod was bound: the pod as it is now, and whether the write named its uid.
    Bound { pod: Value, fenced: bool },
    /// A pod is being evicted: the pod as it was.
    Evicted { pod: Value, fenced: bool },
    /// A pod was deleted without the Eviction API.
    Deleted { pod: Value },
}

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    version: u64,
    uids: u64,
    /// Writes that watches have yet to be told of.
    pub(crate) news: Vec<Written>,
    log: Vec<Written>,
    pub(crate) effects: Vec<Effect>,
}

impl Store {
    pub(crate) fn of(&self, resource: Resource) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |((of, _), _)| *of == resource).map(|(_, object)| &**object)
    }

    pub(crate) fn get(&self, resource: Resource, path: &str) -> Option<&Value> {
        self.objects.get(&(resource, path.to_owned())).map(|object| &**object)
    }

    /// The latest version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Makes an object; its uid is told.
    pub(crate) fn create(&mut self, resource: Resource, mut object: Value) -> String {
        self.uids += 1;
        let uid = format!("{}-{:04}", resource.kind().to_lowercase(), self.uids);
        object["apiVersion"] = resource.api_version().into();
        object["kind"] = resource.kind().into();
        object["metadata"]["uid"] = uid.clone().into();
        object["metadata"]["creationTimestamp"] = "2027-01-01T00:00:00Z".into();
        self.write("ADDED", resource, object);
        uid
    }

    /// Changes an object that is there.
    pub(crate) fn change(&mut self, resource: Resource, path: &str, by: impl FnOnce(&mut Value)) {
        let Some(mut object) = self.get(resource, path).cloned() else { return };
        by(&mut object);
        self.write("MODIFIED", resource, object);
    }

    /// Takes an object away.
    pub(crate) fn remove(&mut self, resource: Resource, path: &str) {
        if let Some(object) = self.objects.remove(&(resource, path.to_owned())) {
            self.note("DELETED", resource, Value::clone(&object));
        }
    }

    /// Begins to end a pod: one that no kubelet has is gone at once.
    pub(crate) fn delete_pod(&mut self, path: &str) {
        let Some(pod) = self.get(Resource::Pods, path) else { return };
        if node(pod).is_none() || finished(pod) {
            return self.remove(Resource::Pods, path);
        }
        if !deleting(pod) {
            self.change(Resource::Pods, path, |pod| {
                pod["metadata"]["deletionTimestamp"] = "2027-01-01T00:00:00Z".into();
            });
        }
    }

    fn write(&mut self, verb: &'static str, resource: Resource, object: Value) {
        self.note(verb, resource, object);
    }

    fn note(&mut self, verb: &'static str, resource: Resource, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        if verb != "DELETED" {
            self.objects.insert((resource, path(&object)), object.clone());
        }
        let written = Written { version: self.version, resource, verb, object };
        self.news.push(written.clone());
        self.log.push(written);
    }

    /// What was written after a version.
    pub(crate) fn since(&self, version: u64) -> impl Iterator<Item = &Written> {
        self.log.iter().filter(move |written| written.version > version)
    }

    /// Answers one request.
    pub(crate) fn answer(&mut self, method: &str, path: &str, query: &str, body: &Value) -> Answer {
        let words: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match words.as_slice() {
            ["apis"] => return Answer::Object(200, groups()),
            ["apis", group, "v1"] => return resources(group),
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] => (*group, rest),
            _ => return failure(404, "NotFound"),
        };
        match (method, rest) {
            ("GET", [plural]) => self.list(group, plural, query),
            ("POST", ["namespaces", _, "events"]) => Answer::Object(201, body.clone()),
            ("GET", ["namespaces", ns, "pods", name]) => {
                match self.get(Resource::Pods, &format!("{ns}/{name}")) {
                    Some(pod) => Answer::Object(200, pod.clone()),
                    None => failure(404, "NotFound"),
                }
            }
            ("POST", ["namespaces", ns, "pods", name, "binding"]) => {
                self.bind(&format!("{ns}/{name}"), body)
            }
            ("POST", ["namespaces", ns, "pods", name, "eviction"]) => {
                self.evict(&format!("{ns}/{name}"), body)
            }
            ("PATCH", ["namespaces", ns, "pods", name, ..]) => {
                self.patch(&format!("{ns}/{name}"), body)
            }
            ("DELETE", ["namespaces", ns, "pods", name]) => {
                let path = format!("{ns}/{name}");
                let Some(pod) = self.get(Resource::Pods, &path).cloned() else {
                    return failure(404, "NotFound");
                };
                self.effects.push(Effect::Deleted { pod });
                self.delete_pod(&path);
                success(200)
            }
            _ => failure(404, "NotFound"),
        }
    }

    fn list(&self, group: &str, plural: &str, query: &str) -> Answer {
        let Some(resource) = Resource::find(group, plural) else {
            return failure(404, "NotFound");
        };
        let asked: BTreeMap<&str, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key, decode(value)))
            .collect();
        let selector = match asked.get("fieldSelector").map(String::as_str) {
            Some(text) if text.contains("!=") => Selector::Strangers,
            Some(text) => Selector::Scheduler(text.rsplit('=').next().unwrap_or("").to_owned()),
            None => Selector::All,
        };
        if asked.get("watch").is_some_and(|watch| watch == "true" || watch == "1") {
            let since = asked.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
            return Answer::Watch(Watch { resource, selector, since });
        }
        let items: Vec<Value> = self.of(resource).filter(|o| selector.takes(o)).cloned().collect();
        let list = json!({
            "apiVersion": resource.api_version(), "kind": format!("{}List", resource.kind()),
            "metadata": {"resourceVersion": self.version.to_string()}, "items": items,
        });
        Answer::Object(200, list)
    }

    fn bind(&mut self, path: &str, body: &Value) -> Answer {
        let Some(pod) = self.get(Resource::Pods, path) else { return failure(404, "NotFound") };
        let uid = &body["metadata"]["uid"];
        let fenced = !uid.is_null();
        if fenced && *uid != pod["metadata"]["uid"] || node(pod).is_some() || deleting(pod) {
            return failure(409, "Conflict");
        }
        let body = body.clone();
        self.change(Resource::Pods, path, |pod| {
            pod["spec"]["nodeName"] = body["target"]["name"].clone();
            for map in ["annotations", "labels"] {
                merge(&mut pod["metadata"][map], &body["metadata"][map]);
            }
        });
        if let Some(pod) = self.get(Resource::Pods, path).cloned() {
            self.effects.push(Effect::Bound { pod, fenced });
        }
        success(201)
    }

    fn evict(&mut self, path: &str, body: &Value) -> Answer {
        let Some(pod) = self.get(Resource::Pods, path) else { return failure(404, "NotFound") };
        let uid = &body["deleteOptions"]["preconditions"]["uid"];
        let fenced = !uid.is_null();
        if fenced && *uid != pod["metadata"]["uid"] {
            return failure(409, "Conflict");
        }
        if !deleting(pod) {
            self.effects.push(Effect::Evicted { pod: pod.clone(), fenced });
        }
        self.delete_pod(path);
        success(201)
    }

    fn patch(&mut self, path: &str, body: &Value) -> Answer {
        let Some(pod) = self.get(Resource::Pods, path) else { return failure(404, "NotFound") };
        let uid = &body["metadata"]["uid"];
        if !uid.is_null() && *uid != pod["metadata"]["uid"] {
            return failure(409, "Conflict");
        }
        let body = body.clone();
        self.change(Resource::Pods, path, |pod| {
            merge(&mut pod["metadata"]["annotations"], &body["metadata"]["annotations"]);
            if let Some(conditions) = body["status"].get("conditions") {
                pod["status"]["conditions"] = conditions.clone();
            }
        });
        let pod = self.get(Resource::Pods, path).cloned().unwrap_or_default();
        Answer::Object(200, pod)
    }
}

/// A JSON merge patch of a map of words.
fn merge(into: &mut Value, from: &Value) {
    let Some(from) = from.as_object() else { return };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Some(map) = into.as_object_mut() else { return };
    for (key, value) in from {
        if value.is_null() {
            map.remove(key);
        } else {
            map.insert(key.clone(), value.clone());
        }
    }
}

/// `%2C` and `+` as what they stand for.
fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next().unwrap_or(0)).to_digit(16).unwrap_or(0);
        out.push(match byte {
            b'%' => u8::try_from(digit() * 16 + digit()).unwrap_or(0),
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn groups() -> Value {
    let group = |name: &str| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    json!({"kind": "APIGroupList", "apiVersion": "v1",
        "groups": [group("batch"), group("kubeflow.org")]})
}

fn resources(group: &str) -> Answer {
    let (plural, resource) = match group {
        "batch" => ("jobs", Resource::Jobs),
        "kubeflow.org" => ("pytorchjobs", Resource::PyTorchJobs),
        _ => return failure(404, "NotFound"),
    };
    let verbs = ["get", "list", "watch"];
    let served = json!({"name": plural, "singularName": "", "namespaced": true,
        "kind": resource.kind(), "verbs": verbs});
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": resource.api_version(), "resources": [served]});
    Answer::Object(200, list)
}

pub(crate) fn failure(code: u16, reason: &str) -> Answer {
    Answer::Object(code, status(code, reason))
}

/// A Status that says no.
pub(crate) fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code})
}

fn success(code: u16) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "code": code});
    Answer::Object(code, status)
}

/// `namespace/name`, or a node's name.
pub(crate) fn path(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str();
    let name = text("name").unwrap_or_default();
    text("namespace").map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// Where a pod is bound.
pub(crate) fn node(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str()
}

/// Whether its end has begun.
pub(crate) fn deleting(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether its containers have stopped for good.
pub(crate) fn finished(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// One of its annotations.
pub(crate) fn annotation<'a>(pod: &'a Value, key: &str) -> Option<&'a str> {
    pod["metadata"]["annotations"][key].as_str()
}

/// Its uid.
pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}
