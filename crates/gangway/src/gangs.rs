//! `Gang` objects, one for each gang of several pods: what `kubectl get gangs` prints.
//!
//! Says what core made of the facts (`core::gangview`) where the API server serves the kind, and goes on without
//! where it does not. It must never read a Gang to decide anything: the only look at them is for those that are
//! left over.

use std::time::Duration;

use gangway_core::follow::Facts;
use gangway_core::gangview::pace::{Line, Pace, Weight};
use gangway_core::gangview::{Seen, Status, is_over, is_shown, status, worth};
use gangway_core::names;
use gangway_core::placeholder::fingerprint;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams,
};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::apiserver::says_gone;
use crate::chain::explain;
use crate::cluster::{Cluster, View};
use crate::report::{pod_reference, workload_reference};

const GROUP: &str = "gangway.dev";
const VERSION: &str = "v1alpha1";
const KIND: &str = "Gang";

/// How often it is asked whether Gangs are served, and how soon after no answer.
const DISCOVER: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);
/// What does not last this long is not written: a gang that Slurm has room for passes through its first phases
/// in a moment.
const SETTLE: Duration = Duration::from_millis(500);

/// Whether Gangs are shown, as all followers share it.
#[derive(Debug)]
pub(crate) struct Gangs {
    served: watch::Sender<bool>,
    /// Gangs of one are shown too.
    singles: bool,
    /// All gangs that there are have been looked at once.
    pub(crate) begun: Notify,
}

impl Gangs {
    pub(crate) fn new(singles: bool) -> Self {
        Self { served: watch::Sender::new(false), singles, begun: Notify::new() }
    }
}

/// Finds out whether Gangs are served, and takes away those that are left over, until the bridge stops.
pub(crate) async fn run(cluster: Cluster) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        () = cluster.gangs.begun.notified() => {}
        () = cluster.stop.cancelled() => return Ok(()),
    }
    loop {
        let served = *cluster.gangs.served.borrow();
        let pause = match is_served(&cluster).await {
            Ok(now) => {
                if now && !served {
                    tracing::info!("Gangs are served");
                    take_away_left_over(&cluster).await;
                }
                cluster.gangs.served.send_if_modified(|old| std::mem::replace(old, now) != now);
                DISCOVER
            }
            Err(error) => {
                tracing::warn!(error = explain(&error), "could not ask whether Gangs are served");
                RETRY
            }
        };
        tokio::select! {
            biased;
            () = cluster.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn is_served(cluster: &Cluster) -> Result<bool, kube::Error> {
    match cluster.client.list_api_group_resources(&format!("{GROUP}/{VERSION}")).await {
        Ok(kinds) => Ok(kinds.resources.iter().any(|kind| kind.kind == KIND)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gangs that ended while no bridge was there, and whose workload stayed.
async fn take_away_left_over(cluster: &Cluster) {
    let all: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &resource());
    let gangs = match all.list(&ListParams::default()).await {
        Ok(gangs) => gangs,
        Err(error) => {
            tracing::warn!(error = explain(&error), "could not look for Gangs that are left over");
            return;
        }
    };
    let known = cluster.world.index().known_gangs();
    for gang in gangs {
        let text = |pointer: &str| gang.data.pointer(pointer).and_then(Value::as_str);
        let ours = text("/spec/cluster") == Some(cluster.id.as_str());
        let (Some(name), Some(namespace)) = (&gang.metadata.name, &gang.metadata.namespace) else {
            continue;
        };
        if let Some(gone) = text("/spec/uid").filter(|uid| ours && !known.contains(*uid)) {
            let span = tracing::error_span!("gangs", gang = gone);
            remove(cluster, namespace, name).instrument(span).await;
        }
    }
}

fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, KIND))
}

fn api(cluster: &Cluster, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client.clone(), namespace, &resource())
}

/// Shows one gang.
pub(crate) struct Shown {
    served: watch::Receiver<bool>,
    pace: Pace,
    /// What there is to say, and since when something of it is due.
    now: Option<Status>,
    due: Option<(Weight, Instant)>,
    written: Option<Status>,
    /// Namespace and name, once there is an object.
    made: Option<(String, String)>,
}

impl Shown {
    pub(crate) fn new(gangs: &Gangs) -> Self {
        Self {
            served: gangs.served.subscribe(),
            pace: Pace::new(Line::First),
            now: None,
            due: None,
            written: None,
            made: None,
        }
    }

    /// Waits until Gangs are served, or are not any more.
    pub(crate) async fn turned(&mut self) {
        if self.served.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes in what is seen now, and writes it if that is worth a write. Returns when to come back.
    pub(crate) async fn show(
        &mut self,
        cluster: &Cluster,
        view: &View,
        seen: &Seen<'_>,
    ) -> Option<Instant> {
        let gang = &view.assembled.gang;
        if !*self.served.borrow_and_update() {
            (self.made, self.written, self.due) = (None, None, None);
            return None;
        }
        if !is_shown(gang, cluster.gangs.singles) || is_over(&seen.facts) {
            self.remove(cluster).await;
            return None;
        }
        let wall = crate::wall::now().as_second();
        let status = status(seen, self.now.as_ref(), wall);
        let weight = match &self.written {
            None => Some(Weight::News),
            Some(written) => worth(written, &status),
        };
        self.now = Some(status);
        let Some(weight) = weight else {
            self.due = None;
            return None;
        };
        let now = Instant::now();
        let since = self.due.filter(|(due, _)| *due == weight).map_or(now, |(_, since)| since);
        self.due = Some((weight, since));
        let paced = self.pace.due(weight, cluster.now());
        let due = (since + SETTLE).max(moment(cluster, paced));
        if now < due {
            return Some(due);
        }
        match self.write(cluster, view, &seen.facts).await {
            Ok(()) => {
                self.due = None;
                self.pace.wrote(cluster.now());
                self.written.clone_from(&self.now);
                None
            }
            Err(error) => {
                tracing::debug!(error = explain(&error), "could not show the gang");
                // It is made again where somebody has taken it away.
                if says_gone(&error) {
                    self.made = None;
                }
                self.pace.wrote(cluster.now());
                Some(Instant::now() + RETRY)
            }
        }
    }

    /// Takes it away, where there is one.
    pub(crate) async fn remove(&mut self, cluster: &Cluster) {
        (self.now, self.written, self.due) = (None, None, None);
        if let Some((namespace, name)) = self.made.take() {
            remove(cluster, &namespace, &name).await;
        }
    }

    async fn write(
        &mut self,
        cluster: &Cluster,
        view: &View,
        facts: &Facts<'_>,
    ) -> Result<(), kube::Error> {
        let Ok(_permit) = cluster.writes.acquire().await else { return Ok(()) };
        let gang = &facts.assembled.gang;
        let api = api(cluster, &gang.namespace);
        let name = name(&gang.name, &gang.uid);
        if self.made.is_none() {
            let object = object(cluster, view, &name);
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => {}
                // A bridge before us has made it.
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(error) => return Err(error),
            }
            self.made = Some((gang.namespace.clone(), name.clone()));
        }
        let status = json!({"status": self.now});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.map(drop)
    }
}

/// When that is, which core counts in milliseconds.
fn moment(cluster: &Cluster, ms: i64) -> Instant {
    cluster.started + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The name of a gang's object: its own, and what tells it from another of that name.
fn name(gang: &str, uid: &str) -> String {
    let mut base: String = gang.chars().take(200).collect();
    base.truncate(base.trim_end_matches(['-', '.']).len());
    format!("{base}-{:08x}", fingerprint([uid]) & 0xffff_ffff)
}

fn object(cluster: &Cluster, view: &View, name: &str) -> DynamicObject {
    let gang = &view.assembled.gang;
    let owner = {
        let index = cluster.world.index();
        let workload = index.workload(&view.group).map(workload_reference);
        workload.or_else(|| index.pod(&gang.uid).map(pod_reference))
    };
    // A workload that was never read has no version, and an owner is not taken without.
    let has_version = |version: &String| !version.is_empty();
    let owners: Vec<Value> = owner
        .iter()
        .filter(|owner| owner.api_version.as_ref().is_some_and(has_version))
        .map(|owner| {
            json!({"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid})
        })
        .collect();
    let mut object = DynamicObject::new(name, &resource()).data(json!({"spec": {
        "cluster": cluster.id, "uid": gang.uid,
        "workload": {"kind": gang.kind, "name": gang.name},
    }}));
    object.metadata.namespace = Some(gang.namespace.clone());
    object.metadata.annotations = Some([(names::GANG.to_owned(), gang.uid.clone())].into());
    // A list of references that has just been made reads as such.
    object.metadata.owner_references = serde_json::from_value(owners.into()).ok();
    object
}

async fn remove(cluster: &Cluster, namespace: &str, name: &str) {
    let gone = api(cluster, namespace).delete(name, &DeleteParams::default()).await;
    if let Err(error) = gone
        && !says_gone(&error)
    {
        // Its owner takes it along, or the next bridge.
        tracing::debug!(object = name, error = explain(&error), "could not take the Gang away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_where_gangs_do() {
        let one = name("train", "uid-1");
        assert!(one.starts_with("train-") && one.len() == "train-".len() + 8, "{one}");
        assert_eq!(one, name("train", "uid-1"));
        assert_ne!(one, name("train", "uid-2"));
        let long = name(&"x".repeat(250), "u");
        assert_eq!(long.len(), 209, "room for what the API server adds");
    }
}
