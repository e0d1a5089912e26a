//! What each of our service accounts may do, and what it has been seen doing: one must be the other.
//!
//! The manifests say the first, the API server's audit log the second. A right that nobody uses is one that only an
//! intruder would; a refusal is a right that was forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Rules that Kubernetes gives to whoever has logged in are not ours to grant.
const EVERYBODYS: &str = "authorization.k8s.io";

/// One thing that may be done, or was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// `list`, `patch` …
    pub verb: String,
    /// API group; empty for the first one.
    pub group: String,
    /// The kind in the plural, and its subresource: `pods/binding`.
    pub resource: String,
    /// Where; empty for everywhere, and for what is in no namespace.
    pub namespace: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)?;
        if self.namespace.is_empty() { Ok(()) } else { write!(f, " in {}", self.namespace) }
    }
}

/// Rights by user, as the API server names it: `system:serviceaccount:gangway:gangway-scheduler`.
pub type ByUser = BTreeMap<String, BTreeSet<Right>>;

/// What roles, and their bindings to service accounts, grant in these objects.
pub fn granted(objects: &[Value]) -> ByUser {
    let mut rights = ByUser::new();
    for binding in
        objects.iter().filter(|object| is(object, &["ClusterRoleBinding", "RoleBinding"]))
    {
        let namespace = text(binding, "/metadata/namespace");
        let (kind, name) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        let named = objects.iter().filter(|role| {
            is(role, &[kind])
                && text(role, "/metadata/name") == name
                && (kind == "ClusterRole" || text(role, "/metadata/namespace") == namespace)
        });
        let rules: Vec<&Value> = named.flat_map(|role| list(role, "rules")).collect();
        for subject in list(binding, "subjects") {
            let user = format!(
                "system:serviceaccount:{}:{}",
                text(subject, "/namespace"),
                text(subject, "/name")
            );
            let own = rights.entry(user).or_default();
            own.extend(rules.iter().flat_map(|rule| of_rule(rule, namespace)));
        }
    }
    rights
}

fn of_rule(rule: &Value, namespace: &str) -> Vec<Right> {
    let mut rights = Vec::new();
    for group in words(rule, "apiGroups") {
        for resource in words(rule, "resources") {
            for verb in words(rule, "verbs") {
                rights.push(Right {
                    verb: verb.to_owned(),
                    group: group.to_owned(),
                    resource: resource.to_owned(),
                    namespace: namespace.to_owned(),
                });
            }
        }
    }
    rights
}

/// What was done, and what was refused for want of a right, by users whose names begin with `who`, by the audit log.
pub fn used(log: &str, who: &str) -> (ByUser, ByUser) {
    let (mut done, mut refused) = (ByUser::new(), ByUser::new());
    // The log is of the whole world, and large; its last line may be half written.
    let lines = log.lines().filter(|line| line.contains(who));
    for event in lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let user = text(&event, "/user/username");
        if !user.starts_with(who) || text(&event, "/objectRef/apiGroup") == EVERYBODYS {
            continue;
        }
        let sub = text(&event, "/objectRef/subresource");
        let slash = if sub.is_empty() { "" } else { "/" };
        let resource = match text(&event, "/objectRef/resource") {
            "" => text(&event, "/requestURI").to_owned(),
            kind => format!("{kind}{slash}{sub}"),
        };
        let right = Right {
            verb: text(&event, "/verb").to_owned(),
            group: text(&event, "/objectRef/apiGroup").to_owned(),
            namespace: text(&event, "/objectRef/namespace").to_owned(),
            resource,
        };
        let decision = text(&event, "/annotations/authorization.k8s.io~1decision");
        if decision == "forbid" {
            refused.entry(user.to_owned()).or_default().insert(right);
        } else if !right.resource.starts_with('/') {
            done.entry(user.to_owned()).or_default().insert(right);
        }
    }
    (done, refused)
}

/// What is wrong: rights that nobody used, and what was refused.
pub fn complaints(granted: &ByUser, done: &ByUser, refused: &ByUser) -> Vec<String> {
    let nothing = BTreeSet::new();
    let mut complaints = Vec::new();
    for (user, rights) in granted {
        let used = done.get(user).unwrap_or(&nothing);
        let idle = rights.iter().filter(|right| !used.iter().any(|one| covers(right, one)));
        complaints.extend(idle.map(|right| format!("{user} may {right}, and never did")));
    }
    for (user, rights) in refused {
        complaints.extend(rights.iter().map(|right| format!("{user} was not let {right}")));
    }
    for user in done.keys().filter(|user| !granted.contains_key(*user)) {
        complaints.push(format!("{user} is at work, and no manifest knows it"));
    }
    complaints
}

fn covers(granted: &Right, used: &Right) -> bool {
    let place = granted.namespace.is_empty() || granted.namespace == used.namespace;
    place
        && (&granted.verb, &granted.group, &granted.resource)
            == (&used.verb, &used.group, &used.resource)
}

/// Rights that none of ours may have, whatever uses them.
pub fn forbidden(granted: &ByUser) -> Vec<String> {
    let far = |right: &Right| {
        let wild =
            [&right.verb, &right.group, &right.resource].iter().any(|word| word.contains('*'));
        let reads = ["get", "list", "watch"].contains(&right.verb.as_str());
        let secret = right.resource == "secrets" && reads && right.namespace.is_empty();
        let deletes = right.verb.starts_with("delete") && right.resource == "pods";
        // A pod that may be changed may be given another image, and one that may be made any rights.
        let takes = ["create", "update", "patch"].contains(&right.verb.as_str())
            && ["pods", "pods/exec", "pods/ephemeralcontainers"].contains(&right.resource.as_str());
        let more = ["escalate", "bind", "impersonate"].contains(&right.verb.as_str());
        wild || secret || deletes || takes || more
    };
    let all = granted.iter().flat_map(|(user, rights)| rights.iter().map(move |r| (user, r)));
    all.filter(|(_, right)| far(right)).map(|(user, right)| format!("{user} may {right}")).collect()
}

/// The objects of every `*-rbac.yaml` in a directory.
pub fn manifests(directory: &Path) -> Vec<Value> {
    let entries = fs::read_dir(directory).expect("the manifests can be listed");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with("-rbac.yaml"));
    files.sort();
    files.iter().flat_map(|file| objects(file)).collect()
}

/// The objects of one file.
pub fn objects(file: &Path) -> Vec<Value> {
    let shown = file.display();
    let text = fs::read_to_string(file).unwrap_or_else(|e| unreachable!("{shown}: {e}"));
    let read: Result<Vec<Value>, _> = serde_saphyr::from_multiple(&text);
    let mut all = read.unwrap_or_else(|e| unreachable!("{shown}: {e}"));
    all.retain(Value::is_object);
    all
}

fn is(object: &Value, kinds: &[&str]) -> bool {
    kinds.contains(&text(object, "/kind"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn words<'a>(rule: &'a Value, key: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    list(rule, key).filter_map(Value::as_str)
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> ByUser {
        granted(&manifests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")))
    }

    #[test]
    fn nobody_of_ours_may_do_what_none_of_them_should() {
        assert!(ours().len() >= 4, "{:?}", ours().keys());
        assert_eq!(forbidden(&ours()), Vec::<String>::new());
    }

    #[test]
    fn a_wildcard_and_cluster_wide_secrets_are_seen() {
        let role = |verb: &str, resource: &str| {
            let rule = serde_json::json!(
                {"apiGroups": [""], "resources": [resource], "verbs": [verb]});
            let rights = of_rule(&rule, "");
            forbidden(&BTreeMap::from([("x".to_owned(), rights.into_iter().collect())]))
        };
        assert_eq!(role("list", "secrets"), ["x may list secrets"]);
        assert_eq!(role("*", "nodes"), ["x may * nodes"]);
        assert_eq!(role("delete", "pods"), ["x may delete pods"]);
        assert_eq!(role("patch", "pods/status"), Vec::<String>::new());
    }

    #[test]
    fn what_is_never_used_and_what_is_refused_are_told() {
        let user = "system:serviceaccount:gangway:gangway-controllers";
        let line = |verb: &str, kind: &str, namespace: &str, decision: &str| {
            serde_json::json!({
                "verb": verb, "user": {"username": user}, "requestURI": "/x",
                "objectRef": {"resource": kind, "namespace": namespace},
                "annotations": {"authorization.k8s.io/decision": decision},
            })
            .to_string()
        };
        let log = [
            line("list", "nodes", "", "allow"),
            line("get", "leases", "elsewhere", "allow"),
            line("list", "secrets", "", "forbid"),
        ]
        .join("\n");
        let (done, refused) = used(&(log + "\n{\"half"), "system:serviceaccount:gangway:");
        let right = |verb: &str, resource: &str, namespace: &str| Right {
            verb: verb.to_owned(),
            group: String::new(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
        };
        let may = [right("list", "nodes", ""), right("get", "leases", "gangway")];
        let granted = BTreeMap::from([(user.to_owned(), BTreeSet::from(may))]);
        assert_eq!(
            complaints(&granted, &done, &refused),
            [
                format!("{user} may get leases in gangway, and never did"),
                format!("{user} was not let list secrets"),
            ]
        );
    }
}
