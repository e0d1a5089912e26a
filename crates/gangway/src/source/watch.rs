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
///
/// At the stop the source goes first, and whatever a watch has in hand then has nobody to take it:
/// that is no failure.
pub(crate) async fn until(
    stop: CancellationToken,
    watch: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        ended = watch => ended,
    };
    if stop.is_cancelled() {
        return Ok(());
    }
    ended.and_then(|()| anyhow::bail!("the watch has ended"))
}

async fn pods(
    client: Client,
    events: Sender<Event>,
    ours: String,
    readiness: Arc<Readiness>,
) -> anyhow::Result<()> {
    let telling = Telling::<LeanPod, String> {
        what: "pod watch".to_owned(),
        key: uid_of,
        apply: Box::new(|pod| Some(Event::Pod(Box::new(pod.into())))),
        gone: Box::new(|pod| Event::PodGone(uid_of(pod))),
        listed: Box::new(Event::PodsListed),
        heard: Box::new(move |well| readiness.kubernetes.store(well, Ordering::Relaxed)),
    };
    telling.watch(Api::all(client), watcher::Config::default().fields(&ours), events).await
}

/// Pods that another of our processes has bound: the devices they hold are not free (rule 4).
async fn strangers(client: Client, events: Sender<Event>, others: String) -> anyhow::Result<()> {
    let theirs = watcher::Config::default().fields(&others).labels(names::JOB_LABEL);
    let telling = Telling::<LeanPod, String> {
        what: "stranger watch".to_owned(),
        key: uid_of,
        apply: Box::new(|pod| Some(Event::Stranger(Box::new(pod.into())))),
        gone: Box::new(|pod| Event::StrangerGone(uid_of(pod))),
        listed: Box::new(Event::StrangersListed),
        heard: Box::new(|_| {}),
    };
    telling.watch(Api::all(client), theirs, events).await
}

fn uid_of<K: ResourceExt>(object: &K) -> String {
    object.uid().unwrap_or_default()
}

/// Starts the watches that pods with volume claims need, once there is such a pod.
pub(super) fn start_volumes(
    nursery: &Nursery,
    client: &Client,
    events: &Sender<Event>,
    stop: &CancellationToken,
) {
    tracing::info!("a pod has volume claims: watching claims, volumes and storage classes");
    let claims = Telling::<LeanClaim, (String, String)> {
        what: "volume claim watch".to_owned(),
        key: claim_key,
        apply: Box::new(|claim| Some(Event::Claim(claim_key(&claim), Box::new(claim.into())))),
        gone: Box::new(|claim| Event::ClaimGone(claim_key(claim))),
        listed: Box::new(Event::ClaimsListed),
        heard: Box::new(|_| {}),
    };
    let volumes = Telling::<LeanVolume, String> {
        what: "volume watch".to_owned(),
        key: LeanVolume::name_any,
        apply: Box::new(|volume| {
            Some(Event::Volume(volume.name_any(), Box::new(whence(&volume.spec))))
        }),
        gone: Box::new(|volume| Event::VolumeGone(volume.name_any())),
        listed: Box::new(Event::VolumesListed),
        heard: Box::new(|_| {}),
    };
    let classes = Telling::<LeanClass, String> {
        what: "storage class watch".to_owned(),
        key: LeanClass::name_any,
        apply: Box::new(|class| Some(Event::Class(class.name_any(), Box::new(class.class)))),
        gone: Box::new(|class| Event::ClassGone(class.name_any())),
        listed: Box::new(Event::ClassesListed),
        heard: Box::new(|_| {}),
    };
    let start = |what, task: BoxFuture<'static, anyhow::Result<()>>| {
        nursery.start(what, until(stop.clone(), task));
    };
    start("volume claim watch", claims.watch_all(client, events).boxed());
    start("volume watch", volumes.watch_all(client, events).boxed());
    start("storage class watch", classes.watch_all(client, events).boxed());
}

fn claim_key(claim: &LeanClaim) -> (String, String) {
    (claim.namespace().unwrap_or_default(), claim.name_any())
}

async fn nodes(client: Client, events: Sender<Event>) -> anyhow::Result<()> {
    let telling = Telling::<LeanNode, String> {
        what: "node watch".to_owned(),
        key: LeanNode::name_any,
        apply: Box::new(|node| Some(Event::Node(Box::new(node.into())))),
        gone: Box::new(|node| Event::NodeGone(node.name_any())),
        listed: Box::new(Event::NodesListed),
        heard: Box::new(|_| {}),
    };
    telling.watch_all(&client, &events).await
}

/// How the objects of one kind become events.
pub(crate) struct Telling<K, Key, E = Event> {
    pub(crate) what: String,
    pub(crate) key: fn(&K) -> Key,
    /// Nothing for an object that cannot be read.
    pub(crate) apply: Box<dyn Fn(K) -> Option<E> + Send>,
    pub(crate) gone: Box<dyn Fn(&K) -> E + Send>,
    pub(crate) listed: Box<dyn Fn(HashSet<Key>) -> E + Send>,
    /// Told with every answer whether the API server was well.
    pub(crate) heard: Box<dyn Fn(bool) + Send>,
}

impl<K, Key, E> Telling<K, Key, E>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    Key: Eq + Hash + Send + 'static,
    E: Debug + Send + Sync + 'static,
{
    pub(crate) fn watch_all(
        self,
        client: &Client,
        events: &Sender<E>,
    ) -> impl Future<Output = anyhow::Result<()>> + Send + use<K, Key, E>
    where
        K: Resource<DynamicType = ()>,
    {
        self.watch(Api::all(client.clone()), watcher::Config::default(), events.clone())
    }

    pub(crate) async fn watch(
        self,
        api: Api<K>,
        which: watcher::Config,
        events: Sender<E>,
    ) -> anyhow::Result<()> {
        let mut stream = watch(api, which).default_backoff().boxed();
        let mut listed = HashSet::new();
        loop {
            let told = match stream.try_next().await {
                Ok(None) => return Ok(()),
                Ok(Some(told)) => told,
                Err(error) => {
                    (self.heard)(false);
                    tracing::warn!(error = explain(&error), "{}", self.what);
                    continue;
                }
            };
            (self.heard)(true);
            let event = match told {
                Watched::Init => {
                    listed.clear();
                    None
                }
                Watched::InitApply(object) => {
                    listed.insert((self.key)(&object));
                    (self.apply)(object)
                }
                Watched::InitDone => Some((self.listed)(std::mem::take(&mut listed))),
                Watched::Apply(object) => (self.apply)(object),
                Watched::Delete(object) => Some((self.gone)(&object)),
            };
            if let Some(event) = event {
                events.send(event).await?;
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
    let api_version = resource.api_version.clone();
    let telling = Telling::<DynamicObject, String> {
        what: format!("{} watch", kind.name()),
        key: uid_of,
        apply: Box::new(move |mut object| {
            object.metadata.managed_fields = None;
            let value = serde_json::to_value(&object).ok()?;
            let mut workload = Workload::read(kind, &value, &scheduler)?;
            // In a list each object is without it, and an owner is not named without.
            workload.api_version.clone_from(&api_version);
            Some(Event::Workload(Box::new(workload)))
        }),
        gone: Box::new(move |object| Event::WorkloadGone {
            kind,
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: uid_of(object),
        }),
        listed: Box::new(move |uids| Event::WorkloadsListed(kind, uids)),
        heard: Box::new(|_| {}),
    };
    telling.watch(Api::all_with(client, &resource), watcher::Config::default(), events).await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::{Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that serves PodGroups in these versions of their group, the first being preferred; the
    /// others have something else.
    fn api_server(versions: &'static [(&'static str, bool)]) -> Client {
        let group = "scheduling.k8s.io";
        let named = move |version: &str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
        let answer = move |path: &str| -> Option<Value> {
            if path == "/apis" {
                let all: Vec<Value> = versions.iter().map(|(version, _)| named(version)).collect();
                let first = all.first()?.clone();
                let group = json!({"name": group, "versions": all, "preferredVersion": first});
                return Some(json!({"kind": "APIGroupList", "groups": [group]}));
            }
            let asked = path.strip_prefix(&format!("/apis/{group}/"))?;
            let (version, has) = versions.iter().find(|(version, _)| *version == asked)?;
            let kind = if *has { "PodGroup" } else { "Workload" };
            let resource = json!({
                "name": format!("{}s", kind.to_lowercase()), "singularName": "", "namespaced": true,
                "kind": kind, "verbs": ["get", "list", "watch"],
            });
            let group_version = format!("{group}/{version}");
            let resources = json!([resource]);
            Some(
                json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources}),
            )
        };
        let service = tower::service_fn(move |request: Request<Body>| {
            let body = answer(request.uri().path());
            let status = if body.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
            let mut response =
                Response::new(Body::from(body.unwrap_or_default().to_string().into_bytes()));
            *response.status_mut() = status;
            async { Ok::<_, Infallible>(response) }
        });
        Client::new(service, "default")
    }

    /// The API of PodGroups changes with every release of Kubernetes: what is served is found out.
    #[tokio::test]
    async fn pod_groups_are_found_in_whichever_version_is_served() {
        type Served = &'static [(&'static str, bool)];
        let cases: [(Served, Option<&str>); 4] = [
            (&[("v1alpha2", true)], Some("v1alpha2")),
            (&[("v1", false), ("v1beta1", true), ("v1alpha3", true)], Some("v1beta1")),
            (&[("v1", true), ("v1beta1", true)], Some("v1")),
            (&[("v1", false)], None),
        ];
        for (served, wanted) in cases {
            let found = serving(&api_server(served)).await.expect("it answers");
            let found = found.iter().find(|(kind, _)| *kind == Kind::PodGroup);
            assert_eq!(found.map(|(_, resource)| resource.version.as_str()), wanted, "{served:?}");
        }
    }

    #[tokio::test]
    async fn a_watch_that_loses_its_listener_fails_but_not_at_the_stop() {
        for (at_the_stop, well) in [(false, false), (true, true)] {
            let (events, listener) = tokio::sync::mpsc::channel(1);
            let stop = CancellationToken::new();
            let inner = stop.clone();
            let watch = async move {
                // The stop comes while the watch has an event in hand.
                if at_the_stop {
                    inner.cancel();
                }
                drop(listener);
                events.send(Event::PodGone(String::new())).await?;
                Ok(())
            };
            assert_eq!(until(stop, watch).await.is_ok(), well, "at the stop: {at_the_stop}");
        }
    }
}
