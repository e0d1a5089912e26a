//! What Kubernetes shows, kept so that each change touches one gang.
//!
//! One writer (source) applies events; readers look under a short lock. No I/O, no decisions: it
//! answers "which gangs changed", "what is this gang now" and "is this seat free".

mod reach;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use gangway_core::follow::Spot;
use gangway_core::gang::{Assembled, Claim, assemble, claim};
use gangway_core::names;
use gangway_core::place::{Seat, parse_ranges};
use gangway_core::pod::Pod;
use gangway_core::workload::{Kind, Shape, Workload};

pub(crate) use reach::PodReach;

/// A workload by what a pod knows of it: kind, namespace, name. Pods without one are each their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Group {
    Workload(Kind, String, String),
    Alone(String),
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pods: HashMap<String, (Pod, Group)>,
    groups: HashMap<Group, BTreeSet<String>>,
    workloads: HashMap<(Kind, String, String), Workload>,
    reach: PodReach,
    /// Which pods hold a device, by Kubernetes node, GRES and index. More than one would be a
    /// broken rule 4; it is kept as a set so that the index never hides it.
    devices: HashMap<(String, String, u32), BTreeSet<String>>,
}

impl Index {
    /// Takes in a pod as it is now. Returns the group it belongs to.
    pub(crate) fn put_pod(&mut self, mut pod: Pod) -> Group {
        let before = self.take_out(&pod.uid);
        self.reach.put(&mut pod);
        let group = match claim(&pod) {
            Claim::Alone => Group::Alone(pod.uid.clone()),
            Claim::Workload(kind, name) => Group::Workload(kind, pod.namespace.clone(), name),
        };
        for key in held(&pod) {
            self.devices.entry(key).or_default().insert(pod.uid.clone());
        }
        self.groups.entry(group.clone()).or_default().insert(pod.uid.clone());
        self.pods.insert(pod.uid.clone(), (pod, group.clone()));
        if let Some(before) = before.filter(|b| *b != group) {
            self.forget_if_over(&before);
        }
        group
    }

    /// Forgets a pod that is gone. Returns the group it belonged to.
    pub(crate) fn drop_pod(&mut self, uid: &str) -> Option<Group> {
        let group = self.take_out(uid)?;
        self.forget_if_over(&group);
        Some(group)
    }

    /// Takes a pod out; its workload stays known.
    fn take_out(&mut self, uid: &str) -> Option<Group> {
        let (pod, group) = self.pods.remove(uid)?;
        self.reach.drop(&pod);
        for key in held(&pod) {
            if let Some(holders) = self.devices.get_mut(&key) {
                holders.remove(uid);
                if holders.is_empty() {
                    self.devices.remove(&key);
                }
            }
        }
        if let Some(members) = self.groups.get_mut(&group) {
            members.remove(uid);
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
        Some(group)
    }

    /// A workload that is over is remembered for its pods only.
    fn forget_if_over(&mut self, group: &Group) {
        if let Group::Workload(kind, namespace, name) = group
            && !self.groups.contains_key(group)
        {
            let key = (*kind, namespace.clone(), name.clone());
            if self.workloads.get(&key).is_some_and(|w| w.over) {
                self.workloads.remove(&key);
            }
        }
    }

    /// Takes in a workload as it is now.
    pub(crate) fn put_workload(&mut self, workload: Workload) -> Group {
        let key = (workload.kind, workload.namespace.clone(), workload.name.clone());
        self.workloads.insert(key.clone(), workload);
        Group::Workload(key.0, key.1, key.2)
    }

    /// Marks a workload as gone. While pods of it are there it is remembered, for their ending.
    pub(crate) fn drop_workload(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Group {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let group = Group::Workload(kind, namespace.to_owned(), name.to_owned());
        if let Some(known) = self.workloads.get_mut(&key)
            && known.uid == uid
        {
            known.over = true;
            if !self.groups.contains_key(&group) {
                self.workloads.remove(&key);
            }
        }
        group
    }

    /// Whether any pod waits that has volume claims.
    pub(crate) fn needs_volumes(&self) -> bool {
        self.reach.needs_volumes()
    }

    /// Where pods may go: for nodes, claims, volumes and classes as they come and go.
    pub(crate) fn reach(&mut self) -> &mut PodReach {
        &mut self.reach
    }

    /// Takes changed nodes into account. Returns the groups whose pods may go elsewhere than before.
    pub(crate) fn settle(&mut self) -> Vec<Group> {
        let pods = self.reach.settle();
        pods.iter().filter_map(|uid| self.group_of(uid)).cloned().collect()
    }

    /// Looks at the claims of these pods anew. Returns their groups.
    pub(crate) fn look_at_claims(&mut self, pods: Vec<String>) -> Vec<Group> {
        let mut groups = Vec::new();
        for uid in pods {
            if let Some((pod, group)) = self.pods.get(&uid) {
                self.reach.look(pod);
                groups.push(group.clone());
            }
        }
        groups
    }

    /// The pods that are not in a full list.
    pub(crate) fn pods_not_in(&self, uids: &HashSet<String>) -> Vec<String> {
        self.pods.keys().filter(|uid| !uids.contains(*uid)).cloned().collect()
    }

    /// Marks the workloads of a kind that are not in a full list as gone.
    pub(crate) fn keep_workloads(&mut self, kind: Kind, uids: &HashSet<String>) -> Vec<Group> {
        let gone: Vec<Workload> = self
            .workloads
            .values()
            .filter(|w| w.kind == kind && !uids.contains(&w.uid))
            .cloned()
            .collect();
        gone.iter().map(|w| self.drop_workload(kind, &w.namespace, &w.name, &w.uid)).collect()
    }

    /// The uids of all gangs that have pods, or that a pod is bound for.
    pub(crate) fn known_gangs(&self) -> HashSet<String> {
        let mut known: HashSet<String> = self.pods.keys().cloned().collect();
        for (pod, group) in self.pods.values() {
            known.extend(pod.annotations.get(names::GANG).cloned());
            known.extend(self.workload(group).map(|w| w.uid.clone()));
        }
        known
    }

    /// Every group there is.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.keys()
    }

    /// The group a pod belongs to.
    pub(crate) fn group_of(&self, uid: &str) -> Option<&Group> {
        self.pods.get(uid).map(|(_, group)| group)
    }

    /// A pod by uid.
    pub(crate) fn pod(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(uid).map(|(pod, _)| pod)
    }

    /// The workload of a group, for references.
    pub(crate) fn workload(&self, group: &Group) -> Option<&Workload> {
        match group {
            Group::Alone(_) => None,
            Group::Workload(kind, namespace, name) => {
                self.workloads.get(&(*kind, namespace.clone(), name.clone()))
            }
        }
    }

    /// The gangs of one group as they are now.
    pub(crate) fn assemble(&self, group: &Group) -> Vec<Assembled> {
        let mut formed = self.form(group);
        for assembled in &mut formed {
            self.reach.settle_gang(assembled);
        }
        formed
    }

    fn form(&self, group: &Group) -> Vec<Assembled> {
        let uids = self.groups.get(group).into_iter().flatten();
        let pods: Vec<&Pod> = uids.filter_map(|uid| self.pod(uid)).collect();
        match group {
            Group::Alone(_) => assemble(None, &pods),
            Group::Workload(kind, namespace, name) => match self.workload(group) {
                Some(workload) => {
                    // Pods of an earlier workload of the same name are not of this one.
                    let own = |p: &&&Pod| {
                        *kind == Kind::PodGroup
                            || p.controller.as_ref().is_none_or(|c| c.uid == workload.uid)
                    };
                    let mine: Vec<&Pod> = pods.iter().filter(own).copied().collect();
                    let others: Vec<&Pod> = pods.iter().filter(|p| !own(p)).copied().collect();
                    let mut out = assemble(Some(workload), &mine);
                    out.extend(orphans(*kind, namespace, name, &others));
                    out
                }
                None => orphans(*kind, namespace, name, &pods),
            },
        }
    }

    /// Where each seat is, and whether its devices are free for that pod.
    pub(crate) fn spots(&self, seats: &BTreeMap<String, Seat>) -> BTreeMap<String, Spot> {
        seats.iter().map(|(uid, seat)| (uid.clone(), self.spot(uid, seat))).collect()
    }

    fn spot(&self, uid: &str, seat: &Seat) -> Spot {
        let Some(facts) = self.reach.node(&seat.node) else { return Spot::NoNode };
        let node = &facts.name;
        if let Some(why) = self.reach.shut(uid, facts) {
            return Spot::Shut { node: node.clone(), why };
        }
        let indexes =
            seat.indexes.iter().flat_map(|(gres, all)| all.iter().map(move |i| (gres, *i)));
        for (gres, index) in indexes {
            let holders = self.devices.get(&(node.clone(), gres.clone(), index));
            let other = holders.into_iter().flatten().find(|holder| *holder != uid);
            if let Some(pod) = other.and_then(|o| self.pod(o)) {
                return Spot::Taken { by: pod.path() };
            }
        }
        self.reach.unmade(uid, node).unwrap_or_else(|| Spot::Free(node.clone()))
    }
}

/// The devices a pod holds: from its binding until its containers have stopped for good.
fn held(pod: &Pod) -> Vec<(String, String, u32)> {
    let (Some(node), false) = (pod.node(), pod.finished()) else { return Vec::new() };
    let mut out = Vec::new();
    for (key, value) in &pod.annotations {
        let Some(gres) = key.strip_prefix(names::INDEX_PREFIX) else { continue };
        for index in parse_ranges(value).unwrap_or_default() {
            out.push((node.to_owned(), gres.to_owned(), index));
        }
    }
    out
}

/// Pods whose workload is not there. Those that are bound still belong to the gang they were bound
/// for and are followed to its end; those that are not wait for their workload to appear.
fn orphans(kind: Kind, namespace: &str, name: &str, pods: &[&Pod]) -> Vec<Assembled> {
    let mut bound: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    let mut waiting = Vec::new();
    for pod in pods.iter().copied() {
        match pod.annotations.get(names::GANG).filter(|_| pod.node().is_some()) {
            Some(gang) => bound.entry(gang).or_default().push(pod),
            None => waiting.push(pod),
        }
    }
    let mut out = Vec::new();
    let stand_in = |uid: &str, over: bool, shape: Shape| Workload {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        api_version: String::new(),
        annotations: BTreeMap::new(),
        shape,
        over,
    };
    for (gang, pods) in bound {
        let shape = Shape::AtLeast(u32::try_from(pods.len()).unwrap_or(1));
        out.extend(assemble(Some(&stand_in(gang, true, shape)), &pods));
    }
    for pod in waiting {
        // Each such pod tells its own user; together they are no gang that could be placed.
        let shape = Shape::AtLeast(1);
        for mut assembled in assemble(Some(&stand_in(&pod.uid, false, shape)), &[pod]) {
            assembled.problems = vec![format!(
                "its {} {namespace}/{name} does not exist, or gangway may not read it",
                kind.name()
            )];
            out.push(assembled);
        }
    }
    out
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
