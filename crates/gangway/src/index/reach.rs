//! Where each waiting pod may go, as nodes and volumes are now.
//!
//! Pods of one template share one set of constraints; only a pod with claims keeps what it was read
//! from, because what its claims allow changes. Bound pods are not here.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use gangway_core::eligible::nodes::{Node, NodeFacts, Nodes};
use gangway_core::eligible::volume::{Claim, Class, Standing, Volumes, Whence};
use gangway_core::eligible::{self, Constraints};
use gangway_core::follow::Spot;
use gangway_core::gang::Assembled;
use gangway_core::pod::Pod;
use gangway_core::workload::Workload;

use super::Group;

type ClaimKey = (String, String);

/// The waiting pods, the nodes, the volumes.
#[derive(Debug, Default)]
pub(crate) struct PodReach {
    nodes: Nodes,
    volumes: Volumes,
    pods: HashMap<String, Own>,
    /// By workload and role: where pods may go that are still to come.
    templates: HashMap<Group, Vec<(String, Arc<Constraints>)>>,
    /// Which waiting pods use a claim.
    users: HashMap<ClaimKey, BTreeSet<String>>,
    /// Which of the three lists of volumes have been read once.
    listed: [bool; 3],
}

#[derive(Debug)]
struct Own {
    constraints: Arc<Constraints>,
    standing: Standing,
}

impl PodReach {
    /// Takes in a pod, and out of it what nobody needs after this.
    pub(super) fn put(&mut self, pod: &mut Pod) {
        pod.spec.volumes.retain(|volume| volume.has_claim());
        let waits = pod.node().is_none() && !pod.finished();
        if waits {
            for claim in Volumes::claims_of(pod) {
                self.users.entry(claim).or_default().insert(pod.uid.clone());
            }
            self.look(pod);
        }
        if !waits || pod.spec.volumes.is_empty() {
            pod.spec.node_selector.clear();
            pod.spec.affinity = None;
            pod.spec.tolerations = Vec::new();
            pod.spec.volumes = Vec::new();
        }
    }

    /// Reads again where a waiting pod may go.
    pub(super) fn look(&mut self, pod: &Pod) {
        let mut constraints = Constraints::of(&pod.spec);
        let shared = |claim: &ClaimKey| self.users.get(claim).is_some_and(|pods| pods.len() > 1);
        let standing = self.volumes.look(pod, &mut constraints, shared);
        let constraints = self.nodes.intern(constraints);
        self.pods.insert(pod.uid.clone(), Own { constraints, standing });
    }

    pub(super) fn drop(&mut self, pod: &Pod) {
        self.pods.remove(&pod.uid);
        for claim in Volumes::claims_of(pod) {
            if let Some(pods) = self.users.get_mut(&claim) {
                pods.remove(&pod.uid);
                if pods.is_empty() {
                    self.users.remove(&claim);
                }
            }
        }
    }

    /// Reads where the pods of a workload may go that come later.
    pub(super) fn put_templates(&mut self, group: Group, workload: &Workload) {
        let roles = workload.shape.roles().filter_map(|role| {
            let spec = role.later.as_ref()?;
            Some((role.name.clone(), self.nodes.intern(Constraints::of(spec))))
        });
        let roles: Vec<_> = roles.collect();
        if roles.is_empty() {
            self.templates.remove(&group);
        } else {
            self.templates.insert(group, roles);
        }
    }

    /// Forgets them with their workload.
    pub(super) fn drop_templates(&mut self, group: &Group) {
        self.templates.remove(group);
    }

    /// Whether any pod waits that has claims.
    pub(crate) fn needs_volumes(&self) -> bool {
        !self.users.is_empty()
    }

    /// Takes in a node. False where nothing of it has changed.
    pub(crate) fn put_node(&mut self, node: &Node) -> bool {
        self.nodes.put(node)
    }

    /// Forgets a node that is gone.
    pub(crate) fn drop_node(&mut self, name: &str) -> bool {
        self.nodes.drop(name)
    }

    /// Keeps only the nodes of a full list.
    pub(crate) fn keep_nodes(&mut self, names: &HashSet<String>) {
        self.nodes.keep(names);
    }

    /// Takes in a claim, or that it is gone. Returns the pods to look at.
    pub(crate) fn put_claim(&mut self, key: ClaimKey, claim: Option<Claim>) -> Vec<String> {
        let pods = self.users.get(&key).into_iter().flatten().cloned().collect();
        if put(&mut self.volumes.claims, key, claim) { pods } else { Vec::new() }
    }

    /// Takes in a PersistentVolume, or that it is gone. Returns the pods to look at.
    pub(crate) fn put_volume(&mut self, name: String, whence: Option<Whence>) -> Vec<String> {
        let claims = &self.volumes.claims;
        let meant = |key: &ClaimKey| {
            claims.get(key).is_some_and(|claim| claim.volume.as_deref() == Some(&name))
        };
        let users = self.users.iter().filter(|(key, _)| meant(key));
        let pods = users.flat_map(|(_, pods)| pods).cloned().collect();
        if put(&mut self.volumes.volumes, name, whence) { pods } else { Vec::new() }
    }

    /// Takes in a StorageClass, or that it is gone. Returns the pods to look at.
    pub(crate) fn put_class(&mut self, name: String, class: Option<Class>) -> Vec<String> {
        if put(&mut self.volumes.classes, name, class) { self.users() } else { Vec::new() }
    }

    /// Keeps only the claims of a full list. Returns the pods to look at.
    pub(crate) fn keep_claims(&mut self, keys: &HashSet<ClaimKey>) -> Vec<String> {
        self.volumes.claims.retain(|key, _| keys.contains(key));
        self.read(0)
    }

    /// Keeps only the volumes of a full list. Returns the pods to look at.
    pub(crate) fn keep_volumes(&mut self, names: &HashSet<String>) -> Vec<String> {
        self.volumes.volumes.retain(|name, _| names.contains(name));
        self.read(1)
    }

    /// Keeps only the classes of a full list. Returns the pods to look at.
    pub(crate) fn keep_classes(&mut self, names: &HashSet<String>) -> Vec<String> {
        self.volumes.classes.retain(|name, _| names.contains(name));
        self.read(2)
    }

    fn read(&mut self, list: usize) -> Vec<String> {
        self.listed[list] = true;
        self.volumes.synced = self.listed.iter().all(|read| *read);
        self.users()
    }

    fn users(&self) -> Vec<String> {
        let pods: BTreeSet<&String> = self.users.values().flatten().collect();
        pods.into_iter().cloned().collect()
    }

    /// Takes changed nodes into account. Returns the pods that may go elsewhere than before, and the
    /// workloads with pods still to come of which that is true.
    pub(super) fn settle(&mut self) -> (Vec<String>, Vec<Group>) {
        let news = self.nodes.settle();
        if news.is_empty() {
            return Default::default();
        }
        let news: HashSet<*const Constraints> = news.iter().map(Arc::as_ptr).collect();
        let changed = |own: &Arc<Constraints>| news.contains(&Arc::as_ptr(own));
        let pods = self.pods.iter().filter(|(_, own)| changed(&own.constraints));
        let templates =
            self.templates.iter().filter(|(_, roles)| roles.iter().any(|(_, own)| changed(own)));
        (
            pods.map(|(uid, _)| uid.clone()).collect(),
            templates.map(|(group, _)| group.clone()).collect(),
        )
    }

    /// Writes into a gang of this group where its members may go, or why nowhere.
    pub(super) fn settle_gang(&self, group: &Group, assembled: &mut Assembled) {
        let waiting = assembled.gang.members.iter().filter_map(|m| self.pods.get(&m.uid));
        let told = waiting.filter_map(|own| own.standing.nowhere.as_ref());
        assembled.nowhere = told.max_by_key(|nowhere| nowhere.problem).cloned();
        let own = |uid: &str| self.pods.get(uid).map(|own| &own.constraints);
        let templates = self.templates.get(group).map_or(&[][..], Vec::as_slice);
        let later = |role: &str| templates.iter().find(|(r, _)| r == role).map(|(_, own)| own);
        eligible::settle(assembled, &self.nodes, own, later);
        eligible::shun(assembled);
    }

    /// The node that Slurm knows by this name.
    pub(super) fn node(&self, slurm: &str) -> Option<&NodeFacts> {
        self.nodes.of_slurm(slurm)
    }

    /// Why a waiting pod may not go to a node.
    pub(super) fn shut(&self, uid: &str, node: &NodeFacts) -> Option<String> {
        self.pods.get(uid)?.constraints.shut(node)
    }

    /// What is still to be made for a waiting pod before it can be bound to this node.
    pub(super) fn unmade(&self, uid: &str, node: &str) -> Option<Spot> {
        let standing = &self.pods.get(uid)?.standing;
        let claims = standing.waiting.clone();
        let message = match &standing.nowhere {
            Some(nowhere) => nowhere.message.clone(),
            None if claims.is_empty() => return None,
            None => {
                let names: Vec<&str> = claims.iter().map(|claim| claim.claim.as_str()).collect();
                format!(
                    "waiting for the volumes of claims {} to be made for node {node}",
                    names.join(", ")
                )
            }
        };
        Some(Spot::Volumes { node: node.to_owned(), claims, message })
    }
}

/// Puts a thing in its place, or takes it away. False where that changes nothing.
fn put<K: Eq + Hash, V: PartialEq>(map: &mut HashMap<K, V>, key: K, thing: Option<V>) -> bool {
    match thing {
        Some(thing) if map.get(&key) == Some(&thing) => false,
        Some(thing) => {
            map.insert(key, thing);
            true
        }
        None => map.remove(&key).is_some(),
    }
}
