//! What happened to the pods of a namespace, in the order in which the API server told it.
//!
//! From it follows whether a device ever had two owners, and for which placeholders gangs were bound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use gangway_core::names;
use gangway_core::place::parse_ranges;
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::{WatchEvent, WatchParams};
use tokio::task::JoinHandle;

use crate::kubernetes::{Kubernetes, Pod};

/// A pod as it was seen, or that it is gone.
#[derive(Clone, Debug)]
enum Entry {
    Seen(Box<Pod>),
    Gone(Box<Pod>),
    /// The watch broke: what happened is not known.
    Broken(String),
}

/// The chronicle of one namespace from the moment it was begun.
#[derive(Debug)]
pub struct Chronicle {
    entries: Arc<Mutex<Vec<Entry>>>,
    writing: JoinHandle<()>,
}

impl Chronicle {
    /// Begins with an empty namespace.
    pub async fn begin(kube: &Kubernetes) -> Self {
        let entries: Arc<Mutex<Vec<Entry>>> = Arc::default();
        let (api, log) = (kube.api::<KubePod>(), entries.clone());
        let list = api.list(&Default::default()).await.expect("pods can be listed");
        let mut version = list.metadata.resource_version.unwrap_or_default();
        let writing = tokio::spawn(async move {
            let write = |entry| log.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
            let params = WatchParams::default().timeout(290);
            loop {
                let mut events = match api.watch(&params, &version).await {
                    Ok(events) => events.boxed(),
                    Err(error) => return write(Entry::Broken(error.to_string())),
                };
                while let Some(event) = events.next().await {
                    match event {
                        Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                            version = pod.metadata.resource_version.clone().unwrap_or_default();
                            write(Entry::Seen(Box::new(Pod::of(pod))));
                        }
                        Ok(WatchEvent::Deleted(pod)) => {
                            version = pod.metadata.resource_version.clone().unwrap_or_default();
                            write(Entry::Gone(Box::new(Pod::of(pod))));
                        }
                        Ok(WatchEvent::Bookmark(_)) => {}
                        Ok(WatchEvent::Error(error)) => {
                            return write(Entry::Broken(error.to_string()));
                        }
                        // The connection ended; the watch goes on where it was.
                        Err(_) => break,
                    }
                }
            }
        });
        Self { entries, writing }
    }

    fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Each time a device was given to a pod while another had it: `node gpu 3: a and b`.
    pub fn shared_devices(&self) -> Vec<String> {
        let mut owners: BTreeMap<(String, String, u32), (String, String)> = BTreeMap::new();
        let mut out = Vec::new();
        for entry in self.entries() {
            match entry {
                Entry::Broken(why) => out.push(format!("the chronicle broke off: {why}")),
                Entry::Gone(pod) => owners.retain(|_, (uid, _)| *uid != pod.uid),
                Entry::Seen(pod) if matches!(pod.phase.as_str(), "Succeeded" | "Failed") => {
                    owners.retain(|_, (uid, _)| *uid != pod.uid);
                }
                Entry::Seen(pod) => {
                    for device in devices(&pod) {
                        let (uid, name) = owners
                            .entry(device.clone())
                            .or_insert_with(|| (pod.uid.clone(), pod.name.clone()));
                        if *uid != pod.uid {
                            out.push(format!("{device:?}: {name} and {}", pod.name));
                        }
                    }
                }
            }
        }
        out.sort();
        out.dedup();
        out
    }

    /// The Slurm jobs for which pods were bound, by gang and generation.
    pub fn placeholders(&self) -> BTreeMap<(String, u32), BTreeSet<u32>> {
        let mut out: BTreeMap<(String, u32), BTreeSet<u32>> = BTreeMap::new();
        for entry in self.entries() {
            let Entry::Seen(pod) = entry else { continue };
            let (gang, job) = (pod.annotations.get(names::GANG), pod.number(names::JOB_ID));
            if let (Some(gang), Some(job)) = (gang, job) {
                let generation = pod.number(names::GENERATION).unwrap_or(0);
                out.entry((gang.clone(), generation)).or_default().insert(job);
            }
        }
        out
    }
}

/// What a bound pod holds: node, kind, index.
fn devices(pod: &Pod) -> Vec<(String, String, u32)> {
    let Some(node) = &pod.node else { return Vec::new() };
    let of = |gres: &str| {
        let text = pod.annotations.get(&format!("{}{gres}", names::INDEX_PREFIX));
        let indexes = text.and_then(|text| parse_ranges(text)).unwrap_or_default();
        let gres = gres.to_owned();
        indexes.into_iter().map(move |index| (node.clone(), gres.clone(), index))
    };
    of("gpu").chain(of("efa")).collect()
}

impl Drop for Chronicle {
    fn drop(&mut self) {
        self.writing.abort();
    }
}
