//! Volume claims: which nodes reach them, and what must happen to them before a pod is bound.
//!
//! A bound claim is where its PersistentVolume is. A claim that waits for its first user
//! (`WaitForFirstConsumer`) is told the node after placement and is waited for; until then the zones of
//! its class count. Choosing among volumes made in advance (`kubernetes.io/no-provisioner`) is not done.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::selector::{NodeAffinity, Selector, null_is_empty};
use super::{Constraints, Nowhere};
use crate::names;
use crate::pod::Pod;

/// Written by the volume controller once claim and volume are each other's.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Provisioner of classes whose volumes somebody makes in advance.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// A volume of a pod, as far as it has a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// The claim it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimSource>,
    /// A claim of its own is made for it, `pod-volume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<EphemeralSource>,
}

/// `persistentVolumeClaim` of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSource {
    /// Name of the claim, in the pod's namespace.
    pub claim_name: String,
}

/// `ephemeral` of a volume; that it is there is all that matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EphemeralSource {}

impl Volume {
    /// Whether it has a claim.
    pub fn has_claim(&self) -> bool {
        self.persistent_volume_claim.is_some() || self.ephemeral.is_some()
    }

    fn claim(&self, pod: &str) -> Option<String> {
        match (&self.persistent_volume_claim, &self.ephemeral) {
            (Some(named), _) => Some(named.claim_name.clone()),
            (None, Some(_)) => Some(format!("{pod}-{}", self.name)),
            (None, None) => None,
        }
    }
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Unique id.
    pub uid: String,
    /// The pod that it was made for, by uid.
    pub owner: Option<String>,
    /// Its volume, once chosen.
    pub volume: Option<String>,
    /// Claim and volume are each other's.
    pub bound: bool,
    /// Its class.
    pub class: Option<String>,
    /// The node its volume is being made for.
    pub selected: Option<String>,
    /// Deletion has begun.
    pub deleting: bool,
}

/// `spec` of a PersistentVolumeClaim as the API writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    /// Its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Its volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,
}

impl Claim {
    /// Reads what the API says of a claim.
    pub fn read(
        uid: String,
        annotations: &BTreeMap<String, String>,
        owner: Option<String>,
        deleting: bool,
        spec: ClaimSpec,
    ) -> Self {
        Self {
            uid,
            owner,
            volume: spec.volume_name.filter(|name| !name.is_empty()),
            bound: annotations.contains_key(BIND_COMPLETED),
            class: spec.storage_class_name.filter(|name| !name.is_empty()),
            selected: annotations.get(names::SELECTED_NODE).cloned(),
            deleting,
        }
    }
}

/// `spec` of a PersistentVolume as the API writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    /// The nodes that reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
}

/// The nodes that reach a PersistentVolume; `None` for all, `Err` for a selector that cannot be read.
pub type Whence = Result<Option<Selector>, String>;

/// Reads where a PersistentVolume can be reached from.
pub fn whence(spec: &VolumeSpec) -> Whence {
    let required = spec.node_affinity.as_ref().and_then(|a| a.required.as_ref());
    required.map(Selector::parse).transpose()
}

/// A StorageClass as the API writes it, without what does not decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Class {
    /// Who makes its volumes.
    pub provisioner: String,
    /// `Immediate` or `WaitForFirstConsumer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_binding_mode: Option<String>,
    /// Where its volumes can be; empty for anywhere.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub allowed_topologies: Vec<Topology>,
}

/// One place where volumes of a class can be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Topology {
    /// All of these.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub match_label_expressions: Vec<TopologyLabel>,
}

/// A label with its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopologyLabel {
    /// Label.
    pub key: String,
    /// Its values.
    #[serde(deserialize_with = "null_is_empty")]
    pub values: Vec<String>,
}

impl Class {
    fn waits(&self) -> bool {
        self.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
    }

    fn zones(&self) -> Option<Selector> {
        let place = |topology: &Topology| {
            let labels = topology.match_label_expressions.iter();
            Selector::labels_in(labels.map(|label| (label.key.as_str(), label.values.clone())))
        };
        let any = !self.allowed_topologies.is_empty();
        any.then(|| Selector::any(self.allowed_topologies.iter().map(place)))
    }
}

/// Claims, volumes and classes, as the API server shows them.
#[derive(Debug, Default)]
pub struct Volumes {
    /// By namespace and name.
    pub claims: HashMap<(String, String), Claim>,
    /// By name.
    pub volumes: HashMap<String, Whence>,
    /// By name.
    pub classes: HashMap<String, Class>,
    /// All three have been read once; before, nothing can be said of any claim.
    pub synced: bool,
}

/// A claim of a pod that is to be told the pod's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToSelect {
    /// Name, in the pod's namespace.
    pub claim: String,
    /// Unique id.
    pub uid: String,
    /// The node it has been told already.
    pub selected: Option<String>,
}

/// How one pod's claims stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why the pod cannot be asked for yet.
    pub nowhere: Option<Nowhere>,
    /// Claims that wait for their first user.
    pub waiting: Vec<ToSelect>,
}

/// One claim of a pod.
struct Asked<'a> {
    pod: &'a Pod,
    key: (String, String),
    /// Made for this pod alone.
    own: bool,
    shared: bool,
}

impl Volumes {
    /// Looks at the claims of a pod: where they let it go is added to `constraints`. `shared` says of a
    /// claim whether other pods wait for it too: the node it was told is then no word on this one's.
    pub fn look(
        &self,
        pod: &Pod,
        constraints: &mut Constraints,
        shared: impl Fn(&(String, String)) -> bool,
    ) -> Standing {
        let mut standing = Standing::default();
        for volume in &pod.spec.volumes {
            let Some(name) = volume.claim(&pod.name) else { continue };
            let own = volume.persistent_volume_claim.is_none();
            let key = (pod.namespace.clone(), name);
            let shared = shared(&key);
            let asked = Asked { pod, key, own, shared };
            if let Err(nowhere) = self.look_at(&asked, constraints, &mut standing) {
                standing.nowhere.get_or_insert(nowhere);
            }
        }
        standing
    }

    /// The claim of each volume of a pod.
    pub fn claims_of(pod: &Pod) -> impl Iterator<Item = (String, String)> {
        let claims = pod.spec.volumes.iter().filter_map(|volume| volume.claim(&pod.name));
        claims.map(|claim| (pod.namespace.clone(), claim))
    }

    fn look_at(
        &self,
        asked: &Asked<'_>,
        constraints: &mut Constraints,
        standing: &mut Standing,
    ) -> Result<(), Nowhere> {
        let Asked { pod, key, own, shared } = asked;
        let name = &key.1;
        let wait = |what: String| Nowhere { message: what, problem: false };
        let mend = |what: String| Nowhere { message: what, problem: true };
        let called = format!("volume claim {}/{name}", pod.namespace);
        if !self.synced {
            return Err(wait(format!("{called} has not been read yet")));
        }
        let Some(claim) = self.claims.get(key) else {
            return Err(if *own {
                wait(format!("{called} of the pod is still to be made"))
            } else {
                mend(format!("{called} does not exist; create it"))
            });
        };
        if *own && claim.owner.as_deref() != Some(&pod.uid) {
            return Err(mend(format!(
                "{called} was not made for this pod; delete it or rename the pod"
            )));
        }
        if claim.deleting {
            return Err(mend(format!("{called} is being deleted; create it anew")));
        }
        if let Some(volume) = &claim.volume {
            if !claim.bound {
                return Err(wait(format!(
                    "{called} is still to be bound to PersistentVolume {volume}"
                )));
            }
            let whence = self.volumes.get(volume).ok_or_else(|| {
                wait(format!("{called} is bound to PersistentVolume {volume}, which is not there"))
            })?;
            let selector = whence.as_ref().map_err(|why| {
                mend(format!("node affinity of PersistentVolume {volume} cannot be read: {why}"))
            })?;
            if let Some(selector) = selector {
                let source = format!("{called} (PersistentVolume {volume})");
                constraints.and_volume(source, selector.clone());
            }
            return Ok(());
        }
        let class = claim.class.as_ref().and_then(|class| self.classes.get(class));
        let named = claim.class.as_deref().unwrap_or("none");
        let Some(class) = class.filter(|class| class.waits()) else {
            return Err(wait(format!(
                "{called} is not bound yet (class {named} binds without waiting for pods); see kubectl describe pvc {name}"
            )));
        };
        if class.provisioner == NO_PROVISIONER {
            return Err(mend(format!(
                "{called} needs a volume made in advance (class {named} has no provisioner), and gangway does not choose one; name it in the claim's spec.volumeName, or use a class with a provisioner"
            )));
        }
        if let Some(zones) = class.zones() {
            constraints.and_volume(format!("{called} (allowedTopologies of class {named})"), zones);
        }
        if let Some(node) = claim.selected.as_ref().filter(|_| !shared) {
            let source = format!("{called}, whose volume is being made for node {node}");
            constraints.and_volume(source, Selector::name_is(node));
        }
        standing.waiting.push(ToSelect {
            claim: name.clone(),
            uid: claim.uid.clone(),
            selected: claim.selected.clone(),
        });
        Ok(())
    }
}
