//! The watches themselves: each turns what the API server says into [`Event`]s on one channel.
//!
//! Native PodGroups move with every Kubernetes release and CRDs come and go, so what is served is
//! asked for at the start and again every half minute; such objects are read without types.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use gangway_core::eligible::nodes::Node;
use gangway_core::eligible::volume::{Claim, Class, Whence, whence};
use gangway_core::names;
use gangway_core::pod::Pod;
use gangway_core::workload::{Kind, Workload};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event as Watched};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, Resource, ResourceExt, discovery};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::http::Readiness;
use crate::lean::{LeanClaim, LeanClass, LeanNode, LeanPod, LeanVolume};
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
    Node(Box<Node>),
    NodeGone(String),
    NodesListed(HashSet<String>),
    /// A claim, by namespace and name.
    Claim((String, String), Box<Claim>),
    ClaimGone((String, String)),
    ClaimsListed(HashSet<(String, String)>),
    Volume(String, Box<Whence>),
    VolumeGone(String),
    VolumesListed(HashSet<String>),
    Class(String, Box<Class>),
    ClassGone(String),
    ClassesListed(HashSet<String>),
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

/// Starts the watches that pods with volume claims need, once there is such a pod.
pub(super) fn start_volumes(
    nursery: &Nursery,
    client: &Client,
    events: &Sender<Event>,
    stop: &CancellationToken,
) {
    tracing::info!("a pod has volume claims: watching claims, volumes and storage classes");
    let claims = Told::<LeanClaim, (String, String)> {
        what: "volume claim watch",
        key: |claim| (claim.namespace().unwrap_or_default(), claim.name_any()),
        apply: |key, claim| Event::Claim(key, Box::new(claim.into())),
        gone: Event::ClaimGone,
        listed: Event::ClaimsListed,
    };
    let volumes = Told::<LeanVolume, String> {
        what: "volume watch",
        key: LeanVolume::name_any,
        apply: |key, volume| Event::Volume(key, Box::new(whence(&volume.spec))),
        gone: Event::VolumeGone,
        listed: Event::VolumesListed,
    };
    let classes = Told::<LeanClass, String> {
        what: "storage class watch",
        key: LeanClass::name_any,
        apply: |key, class| Event::Class(key, Box::new(class.class)),
        gone: Event::ClassGone,
        listed: Event::ClassesListed,
    };
    let start = |what, task: BoxFuture<'static, anyhow::Result<()>>| {
        nursery.start(what, until(stop.clone(), task));
    };
    start("volume claim watch", claims.watch(client.clone(), events.clone()).boxed());
    start("volume watch", volumes.watch(client.clone(), events.clone()).boxed());
    start("storage class watch", classes.watch(client.clone(), events.clone()).boxed());
}

async fn nodes(client: Client, events: Sender<Event>) -> anyhow::Result<()> {
    let nodes = Told::<LeanNode, String> {
        what: "node watch",
        key: LeanNode::name_any,
        apply: |_, node| Event::Node(Box::new(node.into())),
        gone: Event::NodeGone,
        listed: Event::NodesListed,
    };
    nodes.watch(client, events).await
}

/// How the objects of one type become events.
struct Told<K, Key> {
    what: &'static str,
    key: fn(&K) -> Key,
    apply: fn(Key, K) -> Event,
    gone: fn(Key) -> Event,
    listed: fn(HashSet<Key>) -> Event,
}

impl<K, Key> Told<K, Key>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    Key: Clone + Eq + Hash + Send + 'static,
{
    async fn watch(self, client: Client, events: Sender<Event>) -> anyhow::Result<()> {
        let all = watcher::Config::default();
        let mut stream = watch(Api::<K>::all(client), all).default_backoff().boxed();
        let mut listed = HashSet::new();
        loop {
            match stream.try_next().await {
                Ok(None) => return Ok(()),
                Ok(Some(Watched::Init)) => listed.clear(),
                Ok(Some(Watched::InitApply(object))) => {
                    let key = (self.key)(&object);
                    listed.insert(key.clone());
                    events.send((self.apply)(key, object)).await?;
                }
                Ok(Some(Watched::InitDone)) => {
                    events.send((self.listed)(std::mem::take(&mut listed))).await?;
                }
                Ok(Some(Watched::Apply(object))) => {
                    events.send((self.apply)((self.key)(&object), object)).await?;
                }
                Ok(Some(Watched::Delete(object))) => {
                    events.send((self.gone)((self.key)(&object))).await?;
                }
                Err(error) => tracing::warn!(error = explain(&error), "{}", self.what),
            }
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
