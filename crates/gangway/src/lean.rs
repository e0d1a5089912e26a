//! Objects as they are read: metadata and the parts of spec and status that decide, nothing else.

use std::borrow::Cow;
use std::collections::BTreeMap;

use gangway_core::eligible::nodes::{self, Node};
use gangway_core::eligible::taint::Taint;
use gangway_core::eligible::volume::{Claim, ClaimSpec, Class, VolumeSpec};
use gangway_core::inventory::{Condition, Device, Host, Standing, Told};
use gangway_core::names;
use gangway_core::pod::{Controller, Pod, PodSpec, PodStatus, Quantities, moment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use serde::{Deserialize, Serialize};

/// A `v1` Pod with only what core reads; one tenth of the full object.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LeanPod {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: PodSpec,
    #[serde(default)]
    pub(crate) status: PodStatus,
}

/// A `v1` Node: labels, taints, cordon, and what it has for pods.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LeanNode {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct NodeStatus {
    #[serde(skip_serializing_if = "Quantities::is_empty")]
    allocatable: Quantities,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    taints: Vec<Taint>,
    unschedulable: bool,
}

/// A `v1` Node as the inventory reads it: also whether it is ready, and what we told it of Slurm.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LeanHost {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: HostStatus,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct HostStatus {
    #[serde(skip_serializing_if = "Quantities::is_empty")]
    allocatable: Quantities,
    conditions: Vec<HostCondition>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct HostCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

impl LeanHost {
    /// Whether the kubelet says that the node is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }

    /// The node as a fact; what others tell of it is filled in by the caller.
    pub(crate) fn into_host(self) -> Host {
        let told = self.status.conditions.into_iter().find(|c| c.kind == names::SLURM_READY);
        let annotations = self.metadata.annotations.unwrap_or_default();
        let topology = annotations.get(names::TOPOLOGY);
        let topology = topology.or_else(|| annotations.get(names::TOPOLOGY_ALIAS)).cloned();
        let tenants = annotations.get(names::TENANTS).cloned().unwrap_or_default();
        Host {
            name: self.metadata.name.unwrap_or_default(),
            uid: self.metadata.uid.unwrap_or_default(),
            labels: self.metadata.labels.unwrap_or_default(),
            deleting: self.metadata.deletion_timestamp.is_some(),
            topology,
            taints: self.spec.taints,
            unschedulable: self.spec.unschedulable,
            allocatable: self.status.allocatable,
            told: told.map(|c| {
                let standing = Standing::parse(&c.status);
                let condition = Condition { standing, reason: c.reason, message: c.message };
                Told { condition, tenants }
            }),
            ..Host::default()
        }
    }
}

/// A `resource.k8s.io/v1` ResourceSlice: which devices a driver has found on a node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LeanSlice {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: SliceSpec,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SliceSpec {
    pub(crate) driver: String,
    /// Empty for devices that are not of one node.
    pub(crate) node_name: String,
    pub(crate) pool: SlicePool,
    pub(crate) devices: Vec<SliceDevice>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SlicePool {
    pub(crate) name: String,
    pub(crate) generation: i64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SliceDevice {
    name: String,
    attributes: BTreeMap<String, SliceAttribute>,
    /// What it shares with others of its pool: of these only some can be had at a time.
    consumes_counters: Vec<SliceCounters>,
    taints: Vec<SliceTaint>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct SliceAttribute {
    string: String,
    int: Option<i64>,
}

/// Only that there are any counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SliceCounters {}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct SliceTaint {
    effect: String,
}

impl SliceDevice {
    /// The device as a fact; `None` where nobody is to have it, or where it is another face of one that is listed too.
    pub(crate) fn into_device(self) -> Option<Device> {
        // A driver's own attributes may be written with or without its name before the slash.
        let find = |wanted: &[&str]| {
            let own = |key: &&String| wanted.contains(&key.rsplit('/').next().unwrap_or(key));
            let key = self.attributes.keys().find(own)?;
            self.attributes.get(key)
        };
        let text = |wanted: &[&str]| find(wanted).map_or("", |found| found.string.as_str());
        let shut = |taint: &SliceTaint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
        let other_face = match text(&["type"]) {
            "vfio" => true,
            "mig" => !self.consumes_counters.is_empty(),
            _ => false,
        };
        if other_face || self.taints.iter().any(shut) {
            return None;
        }
        let numa = find(&["numaNode", "numa"]).and_then(|found| found.int);
        Some(Device {
            product: text(&["productName"]).to_owned(),
            profile: text(&["profile"]).to_owned(),
            // -1 is what the kernel says where it does not know.
            numa: numa.and_then(|numa| u32::try_from(numa).ok()),
            name: self.name,
        })
    }
}

/// A `v1` PersistentVolumeClaim.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LeanClaim {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    spec: ClaimSpec,
}

/// A `v1` PersistentVolume.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LeanVolume {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: VolumeSpec,
}

/// A `storage.k8s.io/v1` StorageClass.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LeanClass {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(flatten)]
    pub(crate) class: Class,
}

/// Where the API server has the objects of a type.
macro_rules! resource {
    ($type:ty, $scope:ty, $group:literal, $kind:literal, $plural:literal) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(LeanPod, NamespaceResourceScope, "", "Pod", "pods");
resource!(LeanNode, ClusterResourceScope, "", "Node", "nodes");
resource!(LeanHost, ClusterResourceScope, "", "Node", "nodes");
resource!(LeanSlice, ClusterResourceScope, "resource.k8s.io", "ResourceSlice", "resourceslices");
resource!(LeanClaim, NamespaceResourceScope, "", "PersistentVolumeClaim", "persistentvolumeclaims");
resource!(LeanVolume, ClusterResourceScope, "", "PersistentVolume", "persistentvolumes");
resource!(LeanClass, ClusterResourceScope, "storage.k8s.io", "StorageClass", "storageclasses");

impl From<LeanNode> for Node {
    fn from(lean: LeanNode) -> Self {
        Self {
            name: lean.metadata.name.unwrap_or_default(),
            labels: lean.metadata.labels.unwrap_or_default(),
            taints: lean.spec.taints,
            unschedulable: lean.spec.unschedulable,
            room: nodes::room(&lean.status.allocatable),
        }
    }
}

impl From<LeanClaim> for Claim {
    fn from(lean: LeanClaim) -> Self {
        let meta = lean.metadata;
        let owners = meta.owner_references.unwrap_or_default();
        let owner = owners.into_iter().find(|o| o.controller == Some(true)).map(|o| o.uid);
        Self::read(
            meta.uid.unwrap_or_default(),
            &meta.annotations.unwrap_or_default(),
            owner,
            meta.deletion_timestamp.is_some(),
            lean.spec,
        )
    }
}

impl From<LeanPod> for Pod {
    fn from(lean: LeanPod) -> Self {
        let meta = lean.metadata;
        let controller = meta
            .owner_references
            .unwrap_or_default()
            .into_iter()
            .find(|o| o.controller == Some(true));
        Self {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            annotations: meta.annotations.unwrap_or_default(),
            controller: controller.map(|o| Controller {
                group: o.api_version.split_once('/').map_or("", |(group, _)| group).to_owned(),
                kind: o.kind,
                name: o.name,
                uid: o.uid,
            }),
            // Known to the index, not to the pod.
            grandparent: None,
            deleting: meta.deletion_timestamp.is_some(),
            created: meta.creation_timestamp.map_or(0, |at| moment(&at.0.to_string())),
            spec: lean.spec,
            status: lean.status,
        }
    }
}
