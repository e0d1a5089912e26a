//! A node of Kubernetes as Slurm should have it.
//!
//! CPUs and memory are what is allocatable, less what pods take that the bridge does not place; rounded down, so that
//! Slurm never gives out what the kubelet would refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::devices::{self, Devices};
use super::{Host, Pool, Rules};
use crate::quantity;

/// Memory is registered in steps of so many MiB, so that a pod of a few MiB changes nothing.
const MEMORY_STEP: u64 = 256;

/// The label by which layouts are found.
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";

/// A node as Slurm should have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Slurm's name.
    pub name: String,
    /// Sockets; at least one.
    pub sockets: u32,
    /// Cores of each, of one thread.
    pub cores_per_socket: u32,
    /// MiB.
    pub memory_mib: u64,
    /// Devices by name and type.
    pub devices: Vec<Devices>,
    /// slurmctld's gres.conf has their names and cores.
    pub listed: bool,
    /// Features, our mark among them.
    pub features: BTreeSet<String>,
    /// Lower goes first.
    pub weight: u32,
    /// `topo-block:b1,topo-tree:s1`; `None` where neither the configuration names labels nor the node has said.
    pub topology: Option<String>,
    /// `NodeAddr`.
    pub address: String,
    /// Port of it.
    pub port: Option<u16>,
}

impl Wanted {
    /// CPUs.
    pub fn cpus(&self) -> u32 {
        self.sockets * self.cores_per_socket
    }

    /// As in slurm.conf: `gpu:h100:8,efa:32`.
    pub fn gres(&self) -> String {
        let one = |devices: &Devices| format!("{}:{}", devices.label(), devices.each.len());
        self.devices.iter().map(one).collect::<Vec<_>>().join(",")
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.devices.iter().map(|d| (d.label(), d.each.len() as u64)).collect()
    }
}

pub(super) fn wanted(rules: &Rules, pool: &Pool, host: &Host) -> Wanted {
    let amount = |name: &str, read: fn(&str) -> Result<u64, quantity::BadQuantity>| {
        host.allocatable.get(name).and_then(|text| read(text).ok()).unwrap_or(0)
    };
    let layout = host.labels.get(INSTANCE_TYPE);
    let layout = layout.and_then(|kind| rules.layouts.iter().find(|l| l.instance_type == *kind));
    let cpu = amount("cpu", quantity::milli).saturating_sub(host.outside_cpu_milli) / 1000;
    let cpus = u32::try_from(cpu).unwrap_or(u32::MAX);
    let sockets = layout.map(|l| l.sockets).or_else(|| devices::sockets(host)).unwrap_or(1);
    let sockets = sockets.clamp(1, cpus.max(1));
    let memory = amount("memory", quantity::units).saturating_sub(host.outside_memory) >> 20;
    Wanted {
        name: host.slurm_name().to_owned(),
        sockets,
        // A node of no CPU cannot be registered; one of one is never chosen for work.
        cores_per_socket: (cpus / sockets).max(1),
        memory_mib: (memory / MEMORY_STEP * MEMORY_STEP).max(1),
        devices: devices::devices(rules, host, layout, sockets),
        listed: pool.listed,
        features: features(rules, pool, host),
        weight: pool.weight,
        topology: topology(rules, host),
        address: rules.address.clone(),
        port: rules.port,
    }
}

fn features(rules: &Rules, pool: &Pool, host: &Host) -> BTreeSet<String> {
    let labels = rules.feature_labels.iter().filter_map(|key| host.labels.get(key));
    let told = pool.features.iter().chain(labels).map(|feature| word(feature));
    told.filter(|feature| !feature.is_empty()).chain([rules.mark()]).collect()
}

/// A feature that Slurm reads as one word: its operators are `&|*()[],:`.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+/=".contains(c);
    text.chars().map(|c| if plain(c) { c } else { '-' }).collect()
}

/// The annotation is Slurm's own word, for which nobody else has one; else the labels.
fn topology(rules: &Rules, host: &Host) -> Option<String> {
    if host.topology.is_some() {
        return host.topology.clone();
    }
    let network = &rules.network;
    if network.tree_labels.is_empty() && network.block_label.is_none() {
        return None;
    }
    let mut out = Vec::new();
    if let Some(block) = network.block_label.as_ref().and_then(|key| host.labels.get(key)) {
        out.push(format!("{}:{}", network.block, word(block)));
    }
    let switches = network.tree_labels.iter().map_while(|key| host.labels.get(key));
    let path = switches.fold(String::new(), |mut path, switch| {
        let _ = write!(path, ":{}", word(switch));
        path
    });
    if !path.is_empty() {
        out.push(format!("{}{path}", network.tree));
    }
    Some(out.join(","))
}
