//! The watches of the inventory: nodes, pods that the bridge does not place, devices that drivers have found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gangway_core::inventory::Guest as Takes;
use gangway_core::names;
use gangway_core::pod::{self, Demand, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::hosts::{Fact, Found, Guest};
use crate::config::Nodes;
use crate::http::Readiness;
use crate::lean::{LeanHost, LeanPod, LeanSlice, SliceDevice};
use crate::nursery::Nursery;
use crate::source::{Telling, until};

pub(super) async fn start(
    nursery: &Nursery,
    client: &Client,
    facts: &Sender<Fact>,
    stop: &CancellationToken,
    scheduler_name: &str,
    settings: &Nodes,
    readiness: &Arc<Readiness>,
) -> anyhow::Result<()> {
    let nodes = nodes(readiness.clone()).watch_all(client, facts);
    nursery.start("node watch", until(stop.clone(), nodes));
    let others =
        watcher::Config::default().fields(&format!("spec.schedulerName!={scheduler_name}"));
    let guests = guests().watch(Api::all(client.clone()), others, facts.clone());
    nursery.start("pod watch", until(stop.clone(), guests));
    if serves_slices(client).await? {
        let slices = slices(settings.drivers.clone()).watch_all(client, facts);
        nursery.start("device watch", until(stop.clone(), slices));
    } else {
        facts.send(Fact::NoSlices).await?;
    }
    Ok(())
}

/// Whether the API server has ResourceSlices at all.
async fn serves_slices(client: &Client) -> Result<bool, kube::Error> {
    let one = ListParams::default().limit(1);
    match Api::<LeanSlice>::all(client.clone()).list_metadata(&one).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn nodes(readiness: Arc<Readiness>) -> Telling<LeanHost, String, Fact> {
    Telling {
        what: "node watch".to_owned(),
        key: LeanHost::name_any,
        apply: Box::new(|node| {
            let ready = node.is_ready();
            Some(Fact::Node(Box::new(node.into_host()), ready))
        }),
        gone: Box::new(|node| Fact::NodeGone(node.name_any())),
        listed: Box::new(Fact::NodesListed),
        heard: Box::new(move |well| readiness.kubernetes.store(well, Ordering::Relaxed)),
    }
}

fn guests() -> Telling<LeanPod, String, Fact> {
    let uid_of = |pod: &LeanPod| pod.uid().unwrap_or_default();
    Telling {
        what: "pod watch".to_owned(),
        key: uid_of,
        apply: Box::new(move |lean| {
            let uid = uid_of(&lean);
            Some(
                guest(&lean.into())
                    .map_or(Fact::PodGone(uid.clone()), |guest| Fact::Pod(uid, guest)),
            )
        }),
        gone: Box::new(move |pod| Fact::PodGone(uid_of(pod))),
        listed: Box::new(Fact::PodsListed),
        heard: Box::new(|_| {}),
    }
}

/// What a pod takes of its node; `None` while it has none, once it has finished, and where Slurm counts it already.
fn guest(pod: &Pod) -> Option<Guest> {
    let node = pod.node()?;
    if pod.finished() || pod.labels.contains_key(names::JOB_LABEL) {
        return None;
    }
    let demand = pod::demand(&pod.spec).ok()?;
    let Demand { milli_cpu: cpu_milli, memory, other } = demand;
    Some(Guest { node: node.to_owned(), takes: Takes { cpu_milli, memory, other } })
}

fn slices(drivers: BTreeMap<String, String>) -> Telling<LeanSlice, String, Fact> {
    Telling {
        what: "device watch".to_owned(),
        key: LeanSlice::name_any,
        apply: Box::new(move |slice| {
            let name = slice.name_any();
            let gres = drivers.get(&slice.spec.driver)?.clone();
            let spec = slice.spec;
            let (pool, generation) = ((spec.driver, spec.pool.name), spec.pool.generation);
            let devices = spec.devices.into_iter().filter_map(SliceDevice::into_device).collect();
            Some(Fact::Slice(name, Found { node: spec.node_name, gres, pool, generation, devices }))
        }),
        gone: Box::new(|slice| Fact::SliceGone(slice.name_any())),
        listed: Box::new(Fact::SlicesListed),
        heard: Box::new(|_| {}),
    }
}
