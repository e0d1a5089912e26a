//! Nothing leaks (rule 5): placeholders whose pods are gone are ended, also when the pods went while
//! no bridge was running.
//!
//! Only placeholders of our own cluster are looked at, and only once both sides have been read in
//! full; a gang must be missing twice in a row, so that one in the act of appearing is left alone, and
//! the API server must have no pod of ours that the watch has not told of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use gangway_api::v1;
use gangway_api::v1::release_request::UpTo;
use gangway_core::job::{JobState, Standing};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use tokio::time::{MissedTickBehavior, interval};
use tracing::Instrument as _;

use crate::chain::explain;
use crate::cluster::Cluster;
use crate::failpoint::{self, Point};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);

pub(crate) async fn run(cluster: Cluster) -> anyhow::Result<()> {
    // Told once the index is complete.
    tokio::select! {
        biased;
        () = cluster.sweep.notified() => {}
        () = cluster.stop.cancelled() => return Ok(()),
    }
    while !cluster.stop.is_cancelled() {
        if let Err(status) = follow(&cluster).await {
            tracing::warn!(%status, "watching placeholders; beginning anew");
            tokio::select! {
                biased;
                () = tokio::time::sleep(EVERY) => {}
                () = cluster.stop.cancelled() => {}
            }
        }
    }
    Ok(())
}

/// Watches placeholders and ends those nobody stands behind, until the watch breaks.
async fn follow(cluster: &Cluster) -> Result<(), tonic::Status> {
    let mut door = cluster.door.clone();
    let mut events =
        door.watch(v1::WatchRequest { cluster: cluster.id.clone() }).await?.into_inner();
    let mut live: BTreeMap<u32, (String, u32)> = BTreeMap::new();
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let mut synced = false;
    let mut every = interval(EVERY);
    // After a pause of the whole process, two looks in a row would be one.
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = cluster.stop.cancelled() => return Ok(()),
            event = events.next() => match event {
                None => return Err(tonic::Status::unavailable("the watch has ended")),
                Some(event) => match event?.event {
                    Some(v1::watch_event::Event::Placeholder(p)) => {
                        if JobState::parse(&[&p.state]).standing() == Standing::Over {
                            live.remove(&p.job_id);
                        } else {
                            live.insert(p.job_id, (p.uid, p.generation));
                        }
                    }
                    Some(v1::watch_event::Event::Synced(_)) => synced = true,
                    None => {}
                },
            },
            _ = every.tick(), if synced => {
                let known = cluster.world.index().known_gangs();
                let now: BTreeSet<String> =
                    live.values().map(|(uid, _)| uid).filter(|uid| !known.contains(*uid)).cloned().collect();
                let twice: Vec<&String> = now.intersection(&missing).collect();
                if !twice.is_empty() && index_is_current(cluster).await {
                    for uid in twice {
                        // Whatever is begun after this look is for pods that come after it.
                        let own = live.iter().filter(|(_, (of, _))| of == uid);
                        let latest = own.map(|(job, (_, generation))| (*generation, *job)).max();
                        let Some((generation, job)) = latest else { continue };
                        let span = tracing::error_span!("sweep", gang = uid, job);
                        release(cluster, uid, generation).instrument(span).await;
                    }
                }
                missing = now;
            }
        }
    }
}

/// Whether the index knows every pod of ours that there is. The watch may be behind without knowing: then
/// a gang that another bridge serves looks as if it had no pods.
async fn index_is_current(cluster: &Cluster) -> bool {
    let ours = format!("spec.schedulerName={}", cluster.scheduler_name);
    let all: Api<Pod> = Api::all(cluster.client.clone());
    match all.list_metadata(&ListParams::default().fields(&ours)).await {
        Ok(pods) => {
            let index = cluster.world.index();
            let unknown = |uid: &String| index.pod(uid).is_none();
            let behind = pods.items.into_iter().filter_map(|p| p.metadata.uid).any(|u| unknown(&u));
            if behind {
                tracing::warn!("the pod watch is behind; no placeholder is ended for lack of pods");
            }
            !behind
        }
        Err(error) => {
            tracing::warn!(error = explain(&error), "could not make sure that pods are gone");
            false
        }
    }
}

async fn release(cluster: &Cluster, uid: &str, generation: u32) {
    let request = v1::ReleaseRequest {
        cluster: cluster.id.clone(),
        uid: uid.to_owned(),
        reason: "its pods are gone".to_owned(),
        again: false,
        up_to: Some(UpTo::Generation(generation)),
    };
    let released = cluster.door.clone().release(request).await;
    failpoint::pass(Point::Swept);
    match released {
        Ok(answer) => {
            let jobs = answer.into_inner().job_ids;
            cluster.metrics.leaks.with_label_values(&["without_pods"]).inc_by(jobs.len() as u64);
            tracing::warn!(?jobs, "ended a placeholder without pods");
        }
        Err(status) => {
            tracing::warn!(%status, "could not end a placeholder without pods");
        }
    }
}
