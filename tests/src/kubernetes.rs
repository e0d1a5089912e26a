//! The Kubernetes side as a user of kubectl sees it, in one namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gangway_core::names;
use gangway_core::order::natural;
use k8s_openapi::api::core::v1::{
    ContainerStatus, Event, Namespace, Node, Pod as KubePod, ServiceAccount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, LogParams, Patch,
    PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

/// A pod, as far as stories look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
    /// The node it is bound to.
    pub node: Option<String>,
    /// `Running` and so on.
    pub phase: String,
    /// Deletion has begun.
    pub deleting: bool,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Reason and message of `PodScheduled=False`.
    pub told: Option<(String, String)>,
    /// Changes with every write.
    pub version: String,
}

impl Pod {
    pub(crate) fn of(pod: KubePod) -> Self {
        let (meta, spec) = (pod.metadata, pod.spec.unwrap_or_default());
        let status = pod.status.unwrap_or_default();
        let scheduled = status.conditions.unwrap_or_default();
        let scheduled = scheduled.into_iter().find(|c| c.type_ == "PodScheduled");
        Self {
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            node: spec.node_name,
            phase: status.phase.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            annotations: meta.annotations.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            told: scheduled
                .filter(|c| c.status == "False")
                .map(|c| (c.reason.unwrap_or_default(), c.message.unwrap_or_default())),
            version: meta.resource_version.unwrap_or_default(),
        }
    }

    /// A number that the bridge wrote.
    pub fn number(&self, annotation: &str) -> Option<u32> {
        self.annotations.get(annotation)?.parse().ok()
    }

    /// Its rank.
    pub fn rank(&self) -> u32 {
        self.number(names::RANK).unwrap_or_else(|| unreachable!("{} has no rank", self.name))
    }

    /// The Slurm job it is bound for.
    pub fn job(&self) -> u32 {
        self.number(names::JOB_ID).unwrap_or_else(|| unreachable!("{} has no job", self.name))
    }

    /// Why it waits, in one text.
    pub fn why(&self) -> String {
        self.told
            .as_ref()
            .map(|(reason, message)| format!("{reason}: {message}"))
            .unwrap_or_default()
    }
}

/// An event.
#[derive(Clone, Debug)]
pub struct Note {
    /// Kind of what it is about.
    pub kind: String,
    /// Name of what it is about.
    pub name: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// One namespace.
#[derive(Clone)]
pub struct Kubernetes {
    /// For what has no helper here.
    pub client: kube::Client,
    /// The namespace.
    pub namespace: String,
    kubeconfig: PathBuf,
}

impl Kubernetes {
    /// The way to a namespace, which need not exist yet.
    pub async fn reach(kubeconfig: &Path, namespace: &str) -> Self {
        let file = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig can be read");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let client = kube::Client::try_from(config.expect("the kubeconfig makes sense"));
        Self {
            client: client.expect("a client"),
            namespace: namespace.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    /// How to reach it again, from another runtime.
    pub(crate) fn way(&self) -> (PathBuf, String) {
        (self.kubeconfig.clone(), self.namespace.clone())
    }

    /// Makes the namespace and waits until pods can be created in it.
    pub async fn make_namespace(&self) {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(self.namespace.clone());
        let all: Api<Namespace> = Api::all(self.client.clone());
        all.create(&PostParams::default(), &namespace).await.expect("a new namespace");
        let accounts: Api<ServiceAccount> = self.api();
        crate::wait("the namespace has its service account", crate::SOON, async || {
            accounts.get("default").await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    /// Lets the namespace go; nobody waits for it.
    pub async fn drop_namespace(&self) {
        let all: Api<Namespace> = Api::all(self.client.clone());
        // It is empty by now; one that stays is a cosmetic fault of the world.
        let _ = all.delete(&self.namespace, &DeleteParams::default()).await;
    }

    /// Typed access to this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn dynamic(&self, api_version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Creates an object, as `kubectl create` does. Gives its uid.
    pub async fn create(&self, object: &Value) -> String {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let api = self.dynamic(text("apiVersion"), text("kind"));
        let object: DynamicObject =
            serde_json::from_value(object.clone()).expect("a manifest is an object");
        let made = api.create(&PostParams::default(), &object).await;
        made.expect("the API server takes the object").metadata.uid.unwrap_or_default()
    }

    /// Deletes an object by the manifest it was made from; its pods go with it.
    pub async fn delete(&self, object: &Value) {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let api = self.dynamic(text("apiVersion"), text("kind"));
        let deleted = api.delete(name, &DeleteParams::background()).await;
        assert!(deleted.is_ok(), "{} {name} cannot be deleted: {deleted:?}", text("kind"));
    }

    /// Deletes one pod.
    pub async fn delete_pod(&self, name: &str) {
        let deleted = self.api::<KubePod>().delete(name, &DeleteParams::default()).await;
        assert!(deleted.is_ok(), "pod {name} cannot be deleted: {deleted:?}");
    }

    /// Deletes the pods whose names begin so, all at once; one that is gone is fine.
    pub async fn delete_pods(&self, prefix: &str) {
        let api = self.api::<KubePod>();
        let pods = self.pods().await;
        let own = pods.iter().filter(|pod| pod.name.starts_with(prefix));
        let gone = futures::future::join_all(own.map(async |pod| {
            match api.delete(&pod.name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop),
            }
        }));
        let failed: Vec<_> = gone.await.into_iter().filter_map(Result::err).collect();
        assert!(failed.is_empty(), "pods {prefix} cannot be deleted: {failed:?}");
    }

    /// Takes these pods out of the API server at once, as Kubernetes does a minute later with those of a node that is
    /// gone.
    pub async fn collect_pods(&self, prefix: &str) {
        let api = self.api::<KubePod>();
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let pods = self.pods().await;
        for pod in pods.iter().filter(|pod| pod.name.starts_with(prefix)) {
            match api.delete(&pod.name, &now).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other.expect("pods can be deleted")),
            }
        }
    }

    /// Deletes everything a story may have made; what is not there is fine.
    pub async fn delete_all(&self) {
        let kinds = [
            ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
            ("jobset.x-k8s.io/v1alpha2", "JobSet"),
            ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
            ("kubeflow.org/v1", "PyTorchJob"),
            ("kubeflow.org/v2beta1", "MPIJob"),
            ("ray.io/v1", "RayCluster"),
            ("apps/v1", "Deployment"),
            ("apps/v1", "StatefulSet"),
            ("batch/v1", "Job"),
            ("scheduling.x-k8s.io/v1alpha1", "PodGroup"),
            ("scheduling.k8s.io/v1alpha2", "PodGroup"),
            ("scheduling.k8s.io/v1alpha2", "Workload"),
            ("v1", "Pod"),
            ("v1", "PersistentVolumeClaim"),
        ];
        for (api_version, kind) in kinds {
            let api = self.dynamic(api_version, kind);
            let all = ListParams::default();
            let deleted = api.delete_collection(&DeleteParams::background(), &all).await;
            // A world without `--kinds` does not serve them all.
            let none = matches!(&deleted, Err(kube::Error::Api(status)) if status.code == 404);
            assert!(none || deleted.is_ok(), "{kind}s cannot be deleted: {deleted:?}");
        }
    }

    /// Writes a part of a node.
    pub async fn patch_node(&self, name: &str, part: &Value) {
        let all: Api<Node> = Api::all(self.client.clone());
        let patched = all.patch(name, &PatchParams::default(), &Patch::Merge(part)).await;
        assert!(patched.is_ok(), "node {name} cannot be patched: {patched:?}");
    }

    /// Writes a part of a node's status.
    pub async fn patch_node_status(&self, name: &str, part: &Value) {
        let all: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(part);
        let patched = all.patch_status(name, &PatchParams::default(), &patch).await;
        assert!(patched.is_ok(), "the status of node {name} cannot be patched: {patched:?}");
    }

    pub(crate) async fn create_node(&self, node: &Value) {
        let node: Node = serde_json::from_value(node.clone()).expect("a node");
        let all: Api<Node> = Api::all(self.client.clone());
        all.create(&PostParams::default(), &node).await.expect("a new node");
    }

    /// A node, as it would be created anew.
    pub(crate) async fn node(&self, name: &str) -> Value {
        let all: Api<Node> = Api::all(self.client.clone());
        let mut node = all.get(name).await.expect("nodes can be read");
        let (labels, annotations) = (node.metadata.labels.take(), node.metadata.annotations.take());
        let name = node.metadata.name.take();
        node.metadata = ObjectMeta { name, labels, annotations, ..ObjectMeta::default() };
        serde_json::to_value(node).expect("a node is JSON")
    }

    /// An annotation of a node.
    pub async fn node_annotation(&self, name: &str, key: &str) -> Option<String> {
        let all: Api<Node> = Api::all(self.client.clone());
        let node = all.get_opt(name).await.expect("nodes can be read")?;
        node.metadata.annotations?.remove(key)
    }

    /// Events about a node, as (reason, message).
    pub async fn node_events(&self, name: &str) -> Vec<(String, String)> {
        let all: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let events = all.list(&about).await.expect("events can be listed").items;
        let said = events
            .into_iter()
            .map(|e| (e.reason.unwrap_or_default(), e.message.unwrap_or_default()));
        said.collect()
    }

    /// Names of the nodes that have a label.
    pub async fn nodes_with(&self, label: &str) -> BTreeSet<String> {
        let all: Api<Node> = Api::all(self.client.clone());
        let listed = all.list(&ListParams::default().labels(label)).await;
        let listed = listed.expect("nodes can be listed");
        listed.items.into_iter().filter_map(|node| node.metadata.name).collect()
    }

    /// A condition of a node as (status, reason, message).
    pub async fn node_condition(&self, name: &str, kind: &str) -> Option<(String, String, String)> {
        let all: Api<Node> = Api::all(self.client.clone());
        let node = all.get_opt(name).await.expect("nodes can be read")?;
        let conditions = node.status?.conditions?;
        let own = conditions.into_iter().find(|condition| condition.type_ == kind)?;
        Some((own.status, own.reason.unwrap_or_default(), own.message.unwrap_or_default()))
    }

    /// A node's taints as `kubectl describe` writes them, ascending.
    pub async fn node_taints(&self, name: &str) -> Vec<String> {
        let all: Api<Node> = Api::all(self.client.clone());
        let node = all.get_opt(name).await.expect("nodes can be read");
        let taints = node.and_then(|node| node.spec?.taints).unwrap_or_default();
        let said = taints.into_iter().map(|taint| {
            let value = taint.value.map_or_else(String::new, |value| format!("={value}"));
            format!("{}{value}:{}", taint.key, taint.effect)
        });
        let mut said: Vec<String> = said.collect();
        said.sort();
        said
    }

    pub(crate) async fn delete_node(&self, name: &str) {
        let all: Api<Node> = Api::all(self.client.clone());
        let deleted = all.delete(name, &DeleteParams::default()).await;
        assert!(deleted.is_ok(), "node {name} cannot be deleted: {deleted:?}");
    }

    /// Writes a part of a pod.
    pub async fn patch_pod(&self, name: &str, part: &Value) {
        let patch = Patch::Merge(part);
        let patched = self.api::<KubePod>().patch(name, &PatchParams::default(), &patch).await;
        assert!(patched.is_ok(), "pod {name} cannot be patched: {patched:?}");
    }

    /// Writes a part of an object, given by the manifest it was made from.
    pub async fn patch(&self, object: &Value, part: &Value) {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let api = self.dynamic(text("apiVersion"), text("kind"));
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(part)).await;
        assert!(patched.is_ok(), "{} {name} cannot be patched: {patched:?}", text("kind"));
    }

    /// All pods, in the order of their names.
    pub async fn pods(&self) -> Vec<Pod> {
        let listed = self.api::<KubePod>().list(&ListParams::default()).await;
        let listed = listed.expect("pods can be listed").items;
        let mut pods: Vec<Pod> = listed.into_iter().map(Pod::of).collect();
        pods.sort_by(|a, b| natural(&a.name, &b.name));
        pods
    }

    /// One pod, which must be there.
    pub async fn pod(&self, name: &str) -> Pod {
        Pod::of(self.api::<KubePod>().get(name).await.expect("the pod is there"))
    }

    /// The first container of a pod, as its kubelet says.
    pub async fn container(&self, name: &str) -> Option<ContainerStatus> {
        let pod = self.api::<KubePod>().get(name).await.expect("the pod is there");
        pod.status?.container_statuses?.into_iter().next()
    }

    /// `kubectl logs`. Empty where there is none yet.
    pub async fn logs(&self, name: &str) -> String {
        let logs = self.api::<KubePod>().logs(name, &LogParams::default()).await;
        logs.unwrap_or_default()
    }

    /// All events.
    pub async fn events(&self) -> Vec<Note> {
        let listed = self.api::<Event>().list(&ListParams::default()).await;
        let note = |event: Event| Note {
            kind: event.involved_object.kind.unwrap_or_default(),
            name: event.involved_object.name.unwrap_or_default(),
            reason: event.reason.unwrap_or_default(),
            message: event.message.unwrap_or_default(),
        };
        listed.expect("events can be listed").items.into_iter().map(note).collect()
    }
}
