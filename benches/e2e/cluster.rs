//! What a user of the cluster does: namespaces, gangs of pods, and looking at them.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Object, PostParams, Request,
    WatchEvent, WatchParams,
};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use crate::trial::Shape;

/// Connections that create at once.
pub(crate) const CREATORS: usize = 32;
/// For what ends by itself, such as pods being deleted.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);

/// The parts of a pod that are looked at.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    node_name: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Status {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Condition {
    message: String,
}

type Pod = Object<Spec, Status>;

/// The cluster, as its administrator.
pub(crate) struct Cluster {
    client: Client,
    groups: ApiResource,
    namespaces: Mutex<Vec<String>>,
}

/// When each pod's create was sent.
pub(crate) type Created = HashMap<String, Instant>;

impl Cluster {
    pub(crate) async fn connect() -> Result<Self> {
        let client = Client::try_default().await.context("no way to the API server")?;
        let mut groups = resource("PodGroup", "podgroups");
        "scheduling.k8s.io".clone_into(&mut groups.group);
        "v1alpha2".clone_into(&mut groups.version);
        "scheduling.k8s.io/v1alpha2".clone_into(&mut groups.api_version);
        Ok(Self { client, groups, namespaces: Mutex::default() })
    }

    /// Names of the nodes that KWOK plays, in order.
    pub(crate) async fn p5_nodes(&self) -> Result<Vec<String>> {
        let list =
            self.all(&resource("Node", "nodes")).list_metadata(&ListParams::default()).await?;
        let mut names: Vec<String> = list.items.iter().map(ResourceExt::name_any).collect();
        names.retain(|name| name.starts_with("p5-"));
        names.sort();
        Ok(names)
    }

    /// A fresh namespace in which pods can be created.
    pub(crate) async fn namespace(&self) -> Result<String> {
        let number = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).len();
        let name = format!("bench-{}-{number}", std::process::id());
        let object = read(json!({"metadata": {"name": name}}))?;
        self.all(&resource("Namespace", "namespaces"))
            .create(&PostParams::default(), &object)
            .await?;
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        let accounts: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            &name,
            &resource("ServiceAccount", "serviceaccounts"),
        );
        until("the namespace's service account", async || {
            Ok(accounts.get_opt("default").await?.is_some())
        })
        .await?;
        Ok(name)
    }

    pub(crate) async fn remove_namespaces(&self) -> Result<()> {
        let names =
            std::mem::take(&mut *self.namespaces.lock().unwrap_or_else(PoisonError::into_inner));
        let api = self.all(&resource("Namespace", "namespaces"));
        for name in names {
            api.delete(&name, &DeleteParams::background()).await?;
        }
        Ok(())
    }

    /// Creates the groups and then all pods of a shape.
    pub(crate) async fn create(&self, namespace: &str, shape: &Shape) -> Result<Created> {
        let groups: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &self.groups);
        if shape.grouped() {
            let bodies = (0..shape.gangs).map(|gang| {
                let gang = format!("g{gang:02}");
                json!({
                    "apiVersion": self.groups.api_version, "kind": "PodGroup", "metadata": {"name": gang},
                    "spec": {"schedulingPolicy": {"gang": {"minCount": shape.size}}},
                })
            });
            let sent = bodies.map(async |body| {
                groups.create(&PostParams::default(), &read(body)?).await.context("a PodGroup")
            });
            let _: Vec<_> =
                futures::stream::iter(sent).buffer_unordered(CREATORS).try_collect().await?;
        }
        let of_gang = |gang| (0..shape.size).map(move |rank| (gang, rank));
        let bodies = (0..shape.gangs).flat_map(of_gang).map(|(gang, rank)| {
            let mut body = pod(&format!("g{gang:02}-{rank:03}"), "gangway", shape.gpus);
            if shape.grouped() {
                body["spec"]["schedulingGroup"] = json!({"podGroupName": format!("g{gang:02}")});
            }
            if shape.minutes > 0 {
                let minutes = shape.minutes.to_string();
                body["metadata"]["annotations"] = json!({"gangway.dev/time-limit": minutes});
            }
            body
        });
        self.create_pods(namespace, bodies).await
    }

    /// Creates pods that no scheduler looks at.
    pub(crate) async fn create_ownerless(&self, namespace: &str, count: u32) -> Result<Created> {
        self.create_pods(namespace, (0..count).map(|i| pod(&format!("g00-{i:03}"), "none", 8)))
            .await
    }

    /// Creates one pod that no scheduler looks at.
    pub(crate) async fn create_one(&self, namespace: &str, name: &str, gpus: u32) -> Result<()> {
        self.create_pods(namespace, [pod(name, "none", gpus)].into_iter()).await.map(drop)
    }

    async fn create_pods(
        &self,
        namespace: &str,
        bodies: impl Iterator<Item = Value>,
    ) -> Result<Created> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource("Pod", "pods"));
        let sent = bodies.map(async |body| -> Result<_> {
            let object = read(body)?;
            let begin = Instant::now();
            api.create(&PostParams::default(), &object).await.context("a pod")?;
            Ok((object.name_any(), begin))
        });
        futures::stream::iter(sent).buffer_unordered(CREATORS).try_collect().await
    }

    /// Sends a binding like the bridge's own.
    pub(crate) async fn bind(&self, namespace: &str, name: &str, node: &str) -> Result<()> {
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {
                "name": name, "labels": {"gangway.dev/job": "1234567"},
                "annotations": {
                    "gangway.dev/gang": "01234567-89ab-cdef-0123-456789abcdef",
                    "gangway.dev/generation": "0", "gangway.dev/job-id": "1234567",
                    "gangway.dev/node": node, "gangway.dev/rank": "0",
                    "gangway.dev/index.gpu": "0-7", "gangway.dev/index.efa": "0-31",
                },
            },
            "target": {"kind": "Node", "name": node},
        });
        let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods/{name}/binding"));
        let request = request.create(&PostParams::default(), serde_json::to_vec(&body)?)?;
        self.client.request_text(request).await.context("a binding")?;
        Ok(())
    }

    /// Tells the moment at which each pod of a namespace is first seen with a node. Watching has
    /// begun when this returns, and ends with the task.
    pub(crate) async fn watch_bound(
        &self,
        namespace: &str,
        bound: UnboundedSender<(String, Instant)>,
    ) -> Result<JoinHandle<Result<()>>> {
        let api = self.pods(namespace);
        let version = api.list_metadata(&ListParams::default()).await?.metadata.resource_version;
        let mut version = version.context("a list without a version")?;
        let params = WatchParams::default().timeout(280);
        let mut stream = api.watch(&params, &version).await?.boxed();
        Ok(tokio::spawn(async move {
            let mut known = HashSet::new();
            loop {
                while let Some(event) = stream.try_next().await.context("watching pods")? {
                    let now = Instant::now();
                    let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else {
                        continue;
                    };
                    version = pod.resource_version().unwrap_or(version);
                    if !pod.spec.node_name.is_empty() && known.insert(pod.name_any()) {
                        // Whoever listened has what it wanted.
                        let _ = bound.send((pod.name_any(), now));
                    }
                }
                // The API server ends watches that fall behind.
                stream = api.watch(&params, &version).await.context("watching pods")?.boxed();
            }
        }))
    }

    /// What pods that were not bound say, for a person.
    pub(crate) async fn complaints(&self, namespace: &str) -> Result<String> {
        let pods = self.pods(namespace).list(&ListParams::default()).await?.items;
        let waiting: Vec<&Pod> = pods.iter().filter(|pod| pod.spec.node_name.is_empty()).collect();
        let says = |pod: &&Pod| {
            let status = pod.status.clone().unwrap_or_default();
            let messages = status.conditions.into_iter().map(|condition| condition.message);
            format!("{}: {}", pod.name_any(), messages.collect::<Vec<_>>().join(" "))
        };
        let some: Vec<String> = waiting.iter().take(3).map(says).collect();
        Ok(format!("{} of {} pods were not bound; {}", waiting.len(), pods.len(), some.join("; ")))
    }

    /// How many pods of a namespace say why they wait in Slurm.
    pub(crate) async fn told(&self, namespace: &str) -> Result<usize> {
        let mut told = 0;
        let mut page = ListParams::default().limit(5000);
        loop {
            let list = self.pods(namespace).list(&page).await?;
            let says = |pod: &&Pod| {
                let mut conditions = pod.status.iter().flat_map(|status| &status.conditions);
                conditions.any(|condition| condition.message.contains("Slurm job"))
            };
            told += list.items.iter().filter(says).count();
            match list.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page = page.continue_token(&next),
                None => return Ok(told),
            }
        }
    }

    /// Deletes all pods and groups of a namespace and waits until the pods are gone.
    pub(crate) async fn clear(&self, namespace: &str) -> Result<()> {
        let groups: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &self.groups);
        let pods = self.pods(namespace);
        let everything = (DeleteParams::default(), ListParams::default());
        // Of many thousands, longer than the server keeps a request.
        until("their deletion", async || {
            pods.delete_collection(&everything.0, &everything.1).await?;
            groups.delete_collection(&everything.0, &everything.1).await?;
            Ok(true)
        })
        .await?;
        until("the pods' end", async || {
            Ok(pods.list_metadata(&ListParams::default()).await?.items.is_empty())
        })
        .await
    }

    fn all(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), resource)
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced_with(self.client.clone(), namespace, &resource("Pod", "pods"))
    }
}

/// Looks at a condition until it holds; an error if it never does. A server that is too busy to answer
/// is asked again.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let holds = condition().await;
        if let Ok(true) = holds {
            return Ok(());
        }
        if Instant::now() > end {
            holds.with_context(|| format!("waiting for {what}"))?;
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A kind of the core group.
fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

fn read(body: Value) -> Result<DynamicObject> {
    Ok(serde_json::from_value(body)?)
}

/// A pod that wants so many GPUs of a p5 node, and its share of the rest.
fn pod(name: &str, scheduler: &str, gpus: u32) -> Value {
    let wants = json!({
        "cpu": (12 * gpus).to_string(), "memory": format!("{}Gi", 64 * gpus),
        "nvidia.com/gpu": gpus.to_string(), "vpc.amazonaws.com/efa": (4 * gpus).to_string(),
    });
    let worker = json!({
        "name": "worker", "image": "registry.k8s.io/pause:3.10",
        "resources": {"requests": wants, "limits": wants},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "schedulerName": scheduler, "restartPolicy": "Never", "containers": [worker],
            "tolerations": [{"operator": "Exists"}],
        },
    })
}
