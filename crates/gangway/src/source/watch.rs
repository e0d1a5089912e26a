//! The watches themselves: each turns what the API server says into [`Event`]s on one channel.
//!
//! Native PodGroups move with every Kubernetes release and CRDs come and go, so what is served is
//! asked for at the start and again every half minute; such objects are read without types.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use gangway_core::names;
use gangway_core::pod::Pod;
use gangway_core::workload::{Kind, Workload};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta};
use kube::runtime::watcher::{self, Event as Watched};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, ResourceExt, discovery};
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::http::Readiness;
use crate::lean::LeanPod;
use crate::nursery::Nursery;

/// How often the API server is asked what it serves.
const DISCOVER: Duration = Duration::from_secs(30);

/// One change, in the order the API server told it.
#[derive(Debug)]
pub(crate) enum Event {
    Pod(Box<Pod>),
    PodGone(String),
    /// A full list was read: these uids are all there are.
    PodsListed(HashSet<String>),
    /// A pod that another of our processes has bound.
    Stranger(Box<Pod>),
    StrangerGone(String),
    StrangersListed(HashSet<String>),
    Node {
        name: String,
        labels: BTreeMap<String, String>,
    },
    NodeGone(String),
    NodesListed(HashSet<String>),
    Workload(Box<Workload>),
    WorkloadGone {
        kind: Kind,
        namespace: String,
        name: String,
        uid: String,
    },
    WorkloadsListed(Kind, HashSet<String>),
    /// These kinds are served, and being watched.
    Discovered(HashSet<Kind>),
}

/// Starts all watches.
pub(super) fn start(
    nursery: &Nursery,
    client: &Client,
    events: &Sender<Event>,
    stop: &CancellationToken,
    name: &str,
    readiness: Arc<Readiness>,
) {
    let scheduler = name.to_owned();
    let (name, others) =
        (format!("spec.schedulerName={name}"), format!("spec.schedulerName!={name}"));
    nursery.start(
        "pod watch",
        until(stop.clone(), pods(client.clone(), events.clone(), name, readiness)),
    );
    nursery.start(
        "stranger watch",
        until(stop.clone(), strangers(client.clone(), events.clone(), others)),
    );
    nursery.start("node watch", until(stop.clone(), nodes(client.clone(), events.clone())));
    let found = discover(nursery.clone(), client.clone(), events.clone(), scheduler, stop.clone());
    nursery.start("discovery", until(stop.clone(), found));
}

/// Runs a watch until `stop`; one that ends before is a failure.
async fn until(
    stop: CancellationToken,
    watch: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = watch => ended.and_then(|()| anyhow::bail!("the watch has ended")),
    }
}

async fn pods(
    client: Client,
    events: Sender<Event>,
    ours: String,
    readiness: Arc<Readiness>,
) -> anyhow::Result<()> {
    let ours = watcher::Config::default().fields(&ours);
    let mut stream = watch(Api::<LeanPod>::all(client), ours).default_backoff().boxed();
    let mut listed = HashSet::new();
    loop {
        match stream.try_next().await {
            Ok(None) => return Ok(()),
            Ok(Some(event)) => {
                readiness.kubernetes.store(true, Ordering::Relaxed);
                match event {
                    Watched::Init => listed.clear(),
                    Watched::InitApply(pod) => {
                        listed.extend(pod.uid());
                        events.send(Event::Pod(Box::new(pod.into()))).await?;
                    }
                    Watched::InitDone => {
                        events.send(Event::PodsListed(std::mem::take(&mut listed))).await?;
                    }
                    Watched::Apply(pod) => events.send(Event::Pod(Box::new(pod.into()))).await?,
                    Watched::Delete(pod) => {
                        events.send(Event::PodGone(pod.uid().unwrap_or_default())).await?;
                    }
                }
            }
            Err(error) => {
                readiness.kubernetes.store(false, Ordering::Relaxed);
                tracing::warn!(error = explain(&error), "pod watch");
            }
        }
    }
}

/// Pods that another of our processes has bound: the devices they hold are not free (rule 4).
async fn strangers(client: Client, events: Sender<Event>, others: String) -> anyhow::Result<()> {
    let theirs = watcher::Config::default().fields(&others).labels(names::JOB_LABEL);
    let mut stream = watch(Api::<LeanPod>::all(client), theirs).default_backoff().boxed();
    let mut listed = HashSet::new();
    loop {
        match stream.try_next().await {
            Ok(None) => return Ok(()),
            Ok(Some(Watched::Init)) => listed.clear(),
            Ok(Some(Watched::InitApply(pod))) => {
                listed.extend(pod.uid());
                events.send(Event::Stranger(Box::new(pod.into()))).await?;
            }
            Ok(Some(Watched::InitDone)) => {
                events.send(Event::StrangersListed(std::mem::take(&mut listed))).await?;
            }
            Ok(Some(Watched::Apply(pod))) => {
                events.send(Event::Stranger(Box::new(pod.into()))).await?;
            }
            Ok(Some(Watched::Delete(pod))) => {
                events.send(Event::StrangerGone(pod.uid().unwrap_or_default())).await?;
            }
            Err(error) => tracing::warn!(error = explain(&error), "stranger watch"),
        }
    }
}

async fn nodes(client: Client, events: Sender<Event>) -> anyhow::Result<()> {
    let all = watcher::Config::default();
    let mut stream =
        watch(Api::<PartialObjectMeta<Node>>::all(client), all).default_backoff().boxed();
    let mut listed = HashSet::new();
    let known = |node: &PartialObjectMeta<Node>| Event::Node {
        name: node.name_any(),
        labels: node.labels().clone(),
    };
    loop {
        match stream.try_next().await {
            Ok(None) => return Ok(()),
            Ok(Some(Watched::Init)) => listed.clear(),
            Ok(Some(Watched::InitApply(node))) => {
                listed.insert(node.name_any());
                events.send(known(&node)).await?;
            }
            Ok(Some(Watched::InitDone)) => {
                events.send(Event::NodesListed(std::mem::take(&mut listed))).await?;
            }
            Ok(Some(Watched::Apply(node))) => events.send(known(&node)).await?,
            Ok(Some(Watched::Delete(node))) => {
                events.send(Event::NodeGone(node.name_any())).await?;
            }
            Err(error) => tracing::warn!(error = explain(&error), "node watch"),
        }
    }
}

/// Finds out which workload kinds are served and watches each of them.
async fn discover(
    nursery: Nursery,
    client: Client,
    events: Sender<Event>,
    scheduler: String,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut watched: HashSet<Kind> = HashSet::new();
    let mut every = tokio::time::interval(DISCOVER);
    loop {
        every.tick().await;
        let served = match serving(&client).await {
            Ok(served) => served,
            Err(error) => {
                tracing::warn!(error = explain(&error), "could not ask what the API server serves");
                every.reset_after(Duration::from_secs(1));
                continue;
            }
        };
        let mut kinds = HashSet::new();
        for (kind, resource) in served {
            kinds.insert(kind);
            if watched.insert(kind) {
                tracing::info!(kind = kind.name(), version = resource.api_version, "watching");
                let task =
                    workloads(kind, resource, client.clone(), events.clone(), scheduler.clone());
                let stop = stop.clone();
                nursery.start("workload watch", async move { until(stop, task).await });
            }
        }
        events.send(Event::Discovered(kinds)).await?;
    }
}

/// The preferred served version of each kind.
async fn serving(client: &Client) -> Result<Vec<(Kind, ApiResource)>, kube::Error> {
    let groups = client.list_api_groups().await?;
    let mut out = Vec::new();
    for kind in Kind::ALL {
        let missed = |needed| out.iter().all(|(served, _)| *served != needed);
        if kind.needed_with().is_some_and(missed) {
            continue;
        }
        let Some(group) = groups.groups.iter().find(|g| g.name == kind.group()) else { continue };
        let preferred = group.preferred_version.iter();
        for version in preferred.chain(&group.versions) {
            let gvk = GroupVersionKind::gvk(kind.group(), &version.version, kind.name());
            match discovery::pinned_kind(client, &gvk).await {
                Ok((resource, _)) => {
                    out.push((kind, resource));
                    break;
                }
                // This version does not have the kind; another may.
                Err(kube::Error::Discovery(_) | kube::Error::Api(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(out)
}

async fn workloads(
    kind: Kind,
    resource: ApiResource,
    client: Client,
    events: Sender<Event>,
    scheduler: String,
) -> anyhow::Result<()> {
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let mut stream = watch(api, watcher::Config::default()).default_backoff().boxed();
    let mut listed = HashSet::new();
    let read = |mut object: DynamicObject| {
        object.metadata.managed_fields = None;
        serde_json::to_value(&object)
            .ok()
            .and_then(|v| Workload::read(kind, &v, &scheduler))
            .map(Box::new)
    };
    loop {
        match stream.try_next().await {
            Ok(None) => return Ok(()),
            Ok(Some(Watched::Init)) => listed.clear(),
            Ok(Some(Watched::InitApply(object))) => {
                listed.extend(object.uid());
                if let Some(workload) = read(object) {
                    events.send(Event::Workload(workload)).await?;
                }
            }
            Ok(Some(Watched::InitDone)) => {
                events.send(Event::WorkloadsListed(kind, std::mem::take(&mut listed))).await?;
            }
            Ok(Some(Watched::Apply(object))) => {
                if let Some(workload) = read(object) {
                    events.send(Event::Workload(workload)).await?;
                }
            }
            Ok(Some(Watched::Delete(object))) => {
                events
                    .send(Event::WorkloadGone {
                        kind,
                        namespace: object.namespace().unwrap_or_default(),
                        name: object.name_any(),
                        uid: object.uid().unwrap_or_default(),
                    })
                    .await?;
            }
            Err(error) => {
                tracing::warn!(kind = kind.name(), error = explain(&error), "workload watch");
            }
        }
    }
}
