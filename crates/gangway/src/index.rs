//! What Kubernetes shows, kept so that each change touches one gang.
//!
//! One writer (source) applies events; readers look under a short lock. No I/O, no decisions: it
//! answers "which gangs changed", "what is this gang now" and "is this seat free".

mod promises;
mod reach;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use gangway_core::ask::{Other, Outcome};
use gangway_core::follow::Spot;
use gangway_core::gang::{
    Assembled, Claim, Gang, Member, assemble, claim, gang_uid, needs_grandparent, own,
};
use gangway_core::names;
use gangway_core::place::{Seat, parse_ranges};
use gangway_core::pod::{Container, Controller, Pod};
use gangway_core::workload::{Kind, Shape, Workload};
use tokio::time::Instant;

use promises::Promises;
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
    /// Pods that another of our processes has bound: followed there, but they hold devices.
    strangers: HashMap<String, Pod>,
    workloads: HashMap<(Kind, String, String), Workload>,
    /// The pods, by their controller's uid, whose gang depends on what is over their controller.
    links: HashMap<String, BTreeSet<String>>,
    reach: PodReach,
    /// Which pods hold a device, by Kubernetes node, GRES and index. More than one would be a
    /// broken rule 4; it is kept as a set so that the index never hides it.
    devices: HashMap<(String, String, u32), BTreeSet<String>>,
    /// Devices that bindings on their way will take.
    promises: Promises,
    templates: Templates,
    /// Counts the times that what policy grants has changed.
    policies: u64,
}

/// Containers seen lately: pods made from one template have the same, and twenty thousand that wait
/// should not keep twenty thousand copies.
#[derive(Debug, Default)]
struct Templates(VecDeque<Arc<Vec<Container>>>);

impl Templates {
    /// As many as controllers make pods from at the same time.
    const MOST: usize = 32;

    fn share(&mut self, containers: &mut Arc<Vec<Container>>) {
        match self.0.iter().find(|known| *known == containers) {
            Some(known) => *containers = known.clone(),
            None => {
                self.0.truncate(Self::MOST - 1);
                self.0.push_front(containers.clone());
            }
        }
    }
}

impl Index {
    /// Takes in a pod as it is now. Returns the group it belongs to.
    pub(crate) fn put_pod(&mut self, mut pod: Pod) -> Group {
        self.templates.share(&mut pod.spec.containers);
        let before = self.take_out(&pod.uid);
        self.reach.put(&mut pod);
        let claim = claim(&pod);
        if let Some(controller) = pod.controller.clone().filter(|_| needs_grandparent(&claim)) {
            self.links.entry(controller.uid.clone()).or_default().insert(pod.uid.clone());
            pod.grandparent = self.over(&pod.namespace, &controller);
        }
        let group = match claim {
            Claim::Alone => Group::Alone(pod.uid.clone()),
            Claim::Workload(kind, name) => Group::Workload(kind, pod.namespace.clone(), name),
        };
        for key in held(&pod) {
            self.devices.entry(key).or_default().insert(pod.uid.clone());
        }
        if pod.node().is_some() || pod.finished() {
            self.promises.drop(&pod.uid);
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
        self.promises.drop(uid);
        let group = self.take_out(uid)?;
        self.forget_if_over(&group);
        Some(group)
    }

    /// What is over a pod's controller, as far as that is known.
    fn over(&self, namespace: &str, controller: &Controller) -> Option<Controller> {
        let kind = [Kind::Job, Kind::StatefulSet]
            .into_iter()
            .find(|kind| kind.group() == controller.group && kind.name() == controller.kind)?;
        let known = self.workloads.get(&(kind, namespace.to_owned(), controller.name.clone()))?;
        let over = || known.owner.clone().unwrap_or_else(|| controller.clone());
        (known.uid == controller.uid).then(over)
    }

    /// Takes a pod out; its workload stays known.
    fn take_out(&mut self, uid: &str) -> Option<Group> {
        let (pod, group) = self.pods.remove(uid)?;
        self.reach.drop(&pod);
        self.let_go(&pod);
        if let Some(members) = self.groups.get_mut(&group) {
            members.remove(uid);
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
        let controller = pod.controller.map(|c| c.uid).unwrap_or_default();
        if let Some(pods) = self.links.get_mut(&controller) {
            pods.remove(uid);
            if pods.is_empty() {
                self.links.remove(&controller);
            }
        }
        Some(group)
    }

    fn let_go(&mut self, pod: &Pod) {
        for key in held(pod) {
            if let Some(holders) = self.devices.get_mut(&key) {
                holders.remove(&pod.uid);
                if holders.is_empty() {
                    self.devices.remove(&key);
                }
            }
        }
    }

    /// Takes in a pod that another of our processes has bound.
    pub(crate) fn put_stranger(&mut self, pod: Pod) {
        self.drop_stranger(&pod.uid);
        for key in held(&pod) {
            self.devices.entry(key).or_default().insert(pod.uid.clone());
        }
        self.strangers.insert(pod.uid.clone(), pod);
    }

    /// Forgets such a pod.
    pub(crate) fn drop_stranger(&mut self, uid: &str) {
        if let Some(pod) = self.strangers.remove(uid) {
            self.let_go(&pod);
        }
    }

    /// Keeps only such pods of a full list.
    pub(crate) fn keep_strangers(&mut self, uids: &HashSet<String>) {
        let gone = self.strangers.keys().filter(|uid| !uids.contains(*uid));
        for uid in gone.cloned().collect::<Vec<_>>() {
            self.drop_stranger(&uid);
        }
    }

    /// A workload that is no more is remembered for its pods only. One that has ended and is still
    /// there is remembered for those that wait for it.
    fn forget_if_over(&mut self, group: &Group) {
        if let Group::Workload(kind, namespace, name) = group
            && !self.groups.contains_key(group)
        {
            let key = (*kind, namespace.clone(), name.clone());
            if self.workloads.get(&key).is_some_and(no_more) {
                self.workloads.remove(&key);
                self.reach.drop_templates(group);
            }
        }
    }

    /// Takes in a workload as it is now. Returns the groups it says something about: that of its
    /// own pods, and those that its pods belong to for what is over it.
    pub(crate) fn put_workload(&mut self, workload: Workload) -> Vec<Group> {
        let key = (workload.kind, workload.namespace.clone(), workload.name.clone());
        let mut groups = vec![Group::Workload(key.0, key.1.clone(), key.2.clone())];
        for uid in self.links.get(&workload.uid).into_iter().flatten() {
            let Some((pod, group)) = self.pods.get_mut(uid) else { continue };
            let over = workload.owner.clone().or_else(|| pod.controller.clone());
            if pod.grandparent != over {
                pod.grandparent = over;
                groups.extend((!groups.contains(group)).then(|| group.clone()));
            }
        }
        self.reach.put_templates(groups[0].clone(), &workload);
        self.workloads.insert(key, workload);
        groups
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
            known.outcome = None;
            if !self.groups.contains_key(&group) {
                self.workloads.remove(&key);
                self.reach.drop_templates(&group);
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
        let (pods, mut groups) = self.reach.settle();
        groups.extend(pods.iter().filter_map(|uid| self.group_of(uid)).cloned());
        groups
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
            known.extend(self.workload(group).and_then(|w| gang_uid(w, pod)));
        }
        known
    }

    /// How many members of a gang serve, as their kubelets say.
    pub(crate) fn ready(&self, gang: &Gang) -> u32 {
        let ready = |m: &&Member| self.pod(&m.uid).is_some_and(|pod| pod.status.conditions.ready);
        u32::try_from(gang.members.iter().filter(ready).count()).unwrap_or(u32::MAX)
    }

    /// Every group there is.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.keys()
    }

    /// The group a pod belongs to.
    pub(crate) fn group_of(&self, uid: &str) -> Option<&Group> {
        self.pods.get(uid).map(|(_, group)| group)
    }

    /// The uid of the gang a pod belongs to; `None` while its workload has not been seen.
    pub(crate) fn gang_of(&self, uid: &str) -> Option<String> {
        let (pod, group) = self.pods.get(uid)?;
        match group {
            Group::Alone(uid) => Some(uid.clone()),
            Group::Workload(..) => self.workload(group).and_then(|w| gang_uid(w, pod)),
        }
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

    /// What policy grants has changed: every gang is to be looked at.
    pub(crate) fn policies_changed(&mut self) -> impl Iterator<Item = &Group> {
        self.policies += 1;
        self.groups()
    }

    /// The gangs of one group as they are now.
    pub(crate) fn assemble(&self, group: &Group) -> Vec<Assembled> {
        let mut formed = self.form(group);
        for Assembled { gang, problems, .. } in &mut formed {
            let Some(dependency) = &gang.ask.dependency else { continue };
            for path in dependency.workloads() {
                let Some(other) = self.other(&gang.namespace, path) else { continue };
                if other.uid == gang.uid {
                    problems.push(format!(
                        "annotation gangway.dev/dependency: {path} cannot wait for itself"
                    ));
                }
                gang.ask.others.insert(path.to_owned(), other);
            }
        }
        for assembled in &mut formed {
            assembled.policies = self.policies;
            self.reach.settle_gang(group, assembled);
        }
        formed
    }

    /// What is seen of the workload `kind/name`; `None` where there is none.
    fn other(&self, namespace: &str, path: &str) -> Option<Other> {
        let (kind, name) = path.split_once('/')?;
        if kind == "pod" {
            let mut pods = self.pods.values();
            let (pod, group) = pods.find(|(p, _)| p.name == name && p.namespace == namespace)?;
            let gang = self.workload(group).filter(|w| w.shape != Shape::Singles);
            let uid = gang.map_or(&pod.uid, |w| &w.uid).clone();
            return Some(Other { uid, outcome: ended([pod].into_iter()) });
        }
        // Two kinds of different API groups may share a name.
        let kinds = Kind::ALL.into_iter().filter(|k| k.name().eq_ignore_ascii_case(kind));
        let mut groups = kinds.map(|k| Group::Workload(k, namespace.to_owned(), name.to_owned()));
        groups.find_map(|group| {
            let workload = self.workload(&group).filter(|w| !no_more(w))?;
            let outcome = workload.outcome.or_else(|| self.ended_by_pods(&group, workload));
            Some(Other { uid: self.only_gang(&group, workload), outcome })
        })
    }

    /// A PodGroup says nothing of an end; its pods do.
    fn ended_by_pods(&self, group: &Group, workload: &Workload) -> Option<Outcome> {
        let pods = self.groups.get(group)?.iter().filter_map(|uid| self.pod(uid));
        let pods: Vec<&Pod> = pods.collect();
        let all = pods.len() >= workload.shape.size() as usize;
        ended(pods.into_iter()).filter(|_| all && workload.kind.name() == "PodGroup")
    }

    /// The uid of the one gang that a workload is. One that is several, or none, has no placeholder to
    /// wait for, and is waited for by what it says itself.
    fn only_gang(&self, group: &Group, workload: &Workload) -> String {
        let mut gangs = self.form(group).into_iter().filter(|a| !a.gang.members.is_empty());
        match (gangs.next(), gangs.next()) {
            (Some(only), None) if workload.shape != Shape::Singles => only.gang.uid,
            _ => workload.uid.clone(),
        }
    }

    fn form(&self, group: &Group) -> Vec<Assembled> {
        let uids = self.groups.get(group).into_iter().flatten();
        let pods: Vec<&Pod> = uids.filter_map(|uid| self.pod(uid)).collect();
        match group {
            Group::Alone(_) => assemble(None, &pods),
            Group::Workload(kind, namespace, name) => match self.workload(group) {
                Some(workload) => {
                    let (mine, others) = own(workload, &pods);
                    let mut out = assemble(Some(workload), &mine);
                    let why = "that there is now is not what its owners lead to";
                    out.extend(orphans(*kind, namespace, name, &others, why));
                    out
                }
                None => {
                    let why = "does not exist, or gangway may not read it";
                    orphans(*kind, namespace, name, &pods, why)
                }
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
            return Spot::Shut { node: node.clone(), why, lost: facts.is_lost() };
        }
        let indexes =
            seat.indexes.iter().flat_map(|(gres, all)| all.iter().map(move |i| (gres, *i)));
        let now = Instant::now();
        for (gres, index) in indexes {
            if let Some(by) = self.holder(&(node.clone(), gres.clone(), index), uid, now) {
                return Spot::Taken { by };
            }
        }
        self.reach.unmade(uid, node).unwrap_or_else(|| Spot::Free(node.clone()))
    }

    /// Who holds a device, or is about to, beside this pod: `namespace/name`.
    fn holder(&self, device: &(String, String, u32), but: &str, now: Instant) -> Option<String> {
        let holders = self.devices.get(device).into_iter().flatten().map(String::as_str);
        let holder = holders.into_iter().find(|holder| *holder != but);
        let holder = holder.or_else(|| self.promises.holder(device, but, now))?;
        let pod = self.pod(holder).or_else(|| self.strangers.get(holder))?;
        Some(pod.path())
    }
}

/// Deleted, or about to be: nothing will be known of its end.
fn no_more(workload: &Workload) -> bool {
    workload.over && workload.outcome.is_none()
}

/// How pods have ended; `None` while one of them has not, or there are none.
fn ended<'a>(pods: impl Iterator<Item = &'a Pod>) -> Option<Outcome> {
    let mut all = None;
    for pod in pods {
        match pod.status.phase.as_deref() {
            Some("Succeeded") => all = all.or(Some(Outcome::Succeeded)),
            Some("Failed") => all = Some(Outcome::Failed),
            _ => return None,
        }
    }
    all
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

/// Pods whose workload is not there, or is not theirs, and `why`. Those that are bound still belong to the gang they were bound
/// for and are followed to its end; those that are not wait for their workload to appear.
fn orphans(kind: Kind, namespace: &str, name: &str, pods: &[&Pod], why: &str) -> Vec<Assembled> {
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
        owner: None,
        shape,
        over,
        outcome: None,
        deadline_seconds: None,
        replaces: false,
        done: Arc::default(),
    };
    for (gang, pods) in bound {
        let shape = Shape::AtLeast(u32::try_from(pods.len()).unwrap_or(1));
        out.extend(assemble(Some(&stand_in(gang, true, shape)), &pods));
    }
    for pod in waiting {
        // Each such pod tells its own user; together they are no gang that could be placed.
        let shape = Shape::AtLeast(1);
        for mut assembled in assemble(Some(&stand_in(&pod.uid, false, shape)), &[pod]) {
            assembled.problems = vec![format!("its {} {namespace}/{name} {why}", kind.name())];
            out.push(assembled);
        }
    }
    out
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
