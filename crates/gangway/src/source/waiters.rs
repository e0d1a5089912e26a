//! Which groups wait for which workloads, so that news of one reaches those that depend on it.
//!
//! A table and nothing else: it is filled as groups are looked at.

use std::collections::{BTreeSet, HashMap};

use gangway_core::gang::Assembled;

use crate::index::{Group, Index};

/// A workload as dependencies name it: namespace, and `kind/name` in small letters.
type Target = (String, String);

/// The table, both ways.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    groups: HashMap<Target, BTreeSet<Group>>,
    targets: HashMap<Group, BTreeSet<Target>>,
}

impl Waiters {
    /// Takes in what a group waits for now.
    pub(super) fn note(&mut self, group: &Group, formed: &[Assembled]) {
        let mut now = BTreeSet::new();
        for Assembled { gang, .. } in formed {
            let paths = gang.ask.dependency.iter().flat_map(|d| d.workloads());
            now.extend(paths.map(|path| (gang.namespace.clone(), path.to_owned())));
        }
        for target in self.targets.remove(group).unwrap_or_default().difference(&now) {
            if let Some(groups) = self.groups.get_mut(target) {
                groups.remove(group);
                if groups.is_empty() {
                    self.groups.remove(target);
                }
            }
        }
        for target in &now {
            self.groups.entry(target.clone()).or_default().insert(group.clone());
        }
        if !now.is_empty() {
            self.targets.insert(group.clone(), now);
        }
    }

    /// Whoever waits for a pod by its name.
    pub(super) fn for_pod(&self, namespace: &str, name: &str) -> Vec<Group> {
        self.of(namespace, &format!("pod/{name}"))
    }

    /// The same, by its uid, while the index still knows it.
    pub(super) fn for_pod_of(&self, index: &Index, uid: &str) -> Vec<Group> {
        index.pod(uid).map(|pod| self.for_pod(&pod.namespace, &pod.name)).unwrap_or_default()
    }

    /// Adds to the groups that have changed those that wait for one of them.
    pub(super) fn wake(&self, changed: &mut BTreeSet<Group>) {
        if self.groups.is_empty() {
            return;
        }
        let mut more = Vec::new();
        for group in changed.iter() {
            if let Group::Workload(kind, namespace, name) = group {
                let path = format!("{}/{name}", kind.name().to_ascii_lowercase());
                more.extend(self.of(namespace, &path));
            }
        }
        changed.extend(more);
    }

    fn of(&self, namespace: &str, path: &str) -> Vec<Group> {
        let target = (namespace.to_owned(), path.to_owned());
        self.groups.get(&target).into_iter().flatten().cloned().collect()
    }
}
