//! A pod as it is kept in memory: metadata and the parts of spec and status that decide.

use std::borrow::Cow;

use gangway_core::pod::{Controller, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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

impl kube::Resource for LeanPod {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
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
            spec: lean.spec,
            status: lean.status,
        }
    }
}
