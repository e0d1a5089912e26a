//! What Kubernetes says of its nodes, put together from the watches of nodes, pods and devices.
//!
//! Keeps facts, decides nothing. What is as it was before is no news, so that heartbeats cost nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use gangway_core::eligible::taint::Taint;
use gangway_core::inventory::{Device, Guest as Takes, Host, Told};

/// Within so many milliseconds the watch tells of what we wrote; what it tells after that is somebody else's.
const ECHO: i64 = 10_000;

/// One thing heard.
#[derive(Debug)]
pub(crate) enum Fact {
    /// A node as it is now, and whether it is ready.
    Node(Box<Host>, bool),
    NodeGone(String),
    /// These are all there are.
    NodesListed(HashSet<String>),
    /// A pod on a node that did not come through the bridge, by uid.
    Pod(String, Guest),
    PodGone(String),
    PodsListed(HashSet<String>),
    /// Devices that a driver has found, by the slice's name.
    Slice(String, Found),
    SliceGone(String),
    SlicesListed(HashSet<String>),
    /// The API server has no slices.
    NoSlices,
}

/// A pod that takes a part of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) node: String,
    pub(crate) takes: Takes,
}

/// Devices of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) node: String,
    pub(crate) gres: String,
    /// Driver and pool, and which generation of the pool this is a part of: only the newest counts.
    pub(crate) pool: (String, String),
    pub(crate) generation: i64,
    pub(crate) devices: Vec<Device>,
}

/// Everything heard.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    nodes: BTreeMap<String, Host>,
    guests: HashMap<String, Guest>,
    slices: BTreeMap<String, Found>,
    /// What we have written and not heard of yet, and when: the watch may still tell of what was before.
    wrote: HashMap<String, (Told, i64)>,
    /// Whether nodes, pods and slices have each been read in full.
    listed: [bool; 3],
}

impl Hosts {
    /// Takes one thing in. Whether it is news.
    pub(crate) fn take(&mut self, fact: Fact, now: i64) -> bool {
        match fact {
            Fact::Node(host, ready) => self.node(*host, ready, now),
            Fact::NodeGone(name) => self.nodes.remove(&name).is_some(),
            Fact::NodesListed(names) => {
                self.nodes.retain(|name, _| names.contains(name));
                self.done(0)
            }
            Fact::Pod(uid, guest) => {
                let news = self.guests.get(&uid) != Some(&guest);
                self.guests.insert(uid, guest);
                news
            }
            Fact::PodGone(uid) => self.guests.remove(&uid).is_some(),
            Fact::PodsListed(uids) => {
                self.guests.retain(|uid, _| uids.contains(uid));
                self.done(1)
            }
            Fact::Slice(name, found) => {
                let news = self.slices.get(&name) != Some(&found);
                self.slices.insert(name, found);
                news
            }
            Fact::SliceGone(name) => self.slices.remove(&name).is_some(),
            Fact::SlicesListed(names) => {
                self.slices.retain(|name, _| names.contains(name));
                self.done(2)
            }
            Fact::NoSlices => self.done(2),
        }
    }

    /// A list may have lost something whose end was never told.
    fn done(&mut self, which: usize) -> bool {
        self.listed[which] = true;
        true
    }

    fn node(&mut self, mut host: Host, ready: bool, now: i64) -> bool {
        let before = self.nodes.get(&host.name);
        let since = before.filter(|old| old.uid == host.uid).and_then(|old| old.unready_since);
        match self.wrote.get(&host.name) {
            Some((told, at)) if host.told.as_ref() != Some(told) && now - at < ECHO => {
                host.told = Some(told.clone());
            }
            Some(_) => drop(self.wrote.remove(&host.name)),
            None => {}
        }
        host.unready_since = (!ready).then(|| since.unwrap_or(now));
        let news = before != Some(&host);
        self.nodes.insert(host.name.clone(), host);
        news
    }

    /// Whether all of it has been seen.
    pub(crate) fn synced(&self) -> bool {
        self.listed.iter().all(|listed| *listed)
    }

    /// What we have just written on a node: the watch tells of it later.
    pub(crate) fn told(&mut self, name: &str, told: Told, now: i64) {
        if let Some(host) = self.nodes.get_mut(name) {
            host.told = Some(told.clone());
            self.wrote.insert(name.to_owned(), (told, now));
        }
    }

    /// What taints a node has, as the API server has just said.
    pub(crate) fn tainted(&mut self, name: &str, taints: Vec<Taint>) {
        if let Some(host) = self.nodes.get_mut(name) {
            host.taints = taints;
        }
    }

    /// Every node as it was last told and seen, without what takes a part of it.
    pub(super) fn known(&self) -> impl Iterator<Item = &Host> {
        self.nodes.values()
    }

    /// Every node with what takes a part of it, and what Slurm said against it.
    pub(crate) fn all(&self, refusal: impl Fn(&str) -> Option<String>) -> Vec<Host> {
        let mut hosts = self.nodes.clone();
        for (uid, guest) in &self.guests {
            if let Some(host) = hosts.get_mut(&guest.node) {
                host.outside_cpu_milli += guest.takes.cpu_milli;
                host.outside_memory += guest.takes.memory;
                host.guests.insert(uid.clone(), guest.takes.clone());
            }
        }
        let mut newest: HashMap<&(String, String), i64> = HashMap::new();
        for found in self.slices.values() {
            let generation = newest.entry(&found.pool).or_insert(found.generation);
            *generation = found.generation.max(*generation);
        }
        let current = |found: &&Found| newest.get(&found.pool) == Some(&found.generation);
        for found in self.slices.values().filter(current) {
            if let Some(host) = hosts.get_mut(&found.node) {
                let named = host.named_devices.entry(found.gres.clone()).or_default();
                named.extend(found.devices.iter().cloned());
            }
        }
        let mut hosts: Vec<Host> = hosts.into_values().collect();
        for host in &mut hosts {
            for named in host.named_devices.values_mut() {
                named.sort_by(|a, b| a.name.cmp(&b.name));
                named.dedup_by(|a, b| a.name == b.name);
            }
            host.refusal = refusal(host.slurm_name());
        }
        hosts
    }
}
