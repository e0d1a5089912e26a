//! A node's devices by GRES name and type: those that device plugins count, and those that DRA drivers name.

use std::collections::BTreeMap;

use super::{Host, Rules};
use crate::order::natural;
use crate::quantity;
use crate::topology::layout::Layout;

/// More NUMA nodes than any host has: a driver that says so is wrong.
const MOST_SOCKETS: u32 = 64;

/// A device that a DRA driver has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name in the driver's pool.
    pub name: String,
    /// What its vendor calls it; empty where the driver does not say.
    pub product: String,
    /// Of a part of a GPU, which: `1g.10gb`. Empty for whole devices.
    pub profile: String,
    /// The NUMA node it is at.
    pub numa: Option<u32>,
}

/// Devices of one name and type.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Devices {
    /// GRES name.
    pub name: String,
    /// GRES type.
    pub kind: Option<String>,
    /// Which there are, by the name Slurm gets for each, and the socket it is at where that is known.
    pub each: Vec<(String, Option<u32>)>,
}

impl Devices {
    pub(super) fn label(&self) -> String {
        let kind = self.kind.as_ref().map_or(String::new(), |kind| format!(":{kind}"));
        format!("{}{kind}", self.name)
    }
}

/// GRES name and type.
type Kind = (String, Option<String>);
/// Of each kind, every device with its name and NUMA node, where these are known.
type Found = BTreeMap<Kind, Vec<(Option<String>, Option<u32>)>>;

pub(super) fn devices(
    rules: &Rules,
    host: &Host,
    layout: Option<&Layout>,
    sockets: u32,
) -> Vec<Devices> {
    // Indexes of a GRES run through all of its types on a node.
    let mut next: BTreeMap<String, u32> = BTreeMap::new();
    let mut out = Vec::new();
    for ((name, kind), found) in found(rules, host) {
        let from = next.entry(name.clone()).or_default();
        let mut each = Vec::new();
        for (own, numa) in found {
            let index = *from;
            *from = from.saturating_add(1);
            let wired = || layout.and_then(|layout| socket(layout, &name, index));
            let at = numa.or_else(wired).filter(|socket| *socket < sockets);
            each.push((own.unwrap_or_else(|| format!("{name}{index}")), at));
        }
        if !each.is_empty() {
            out.push(Devices { name, kind, each });
        }
    }
    out
}

/// How many sockets the NUMA nodes of named devices tell of.
pub(super) fn sockets(host: &Host) -> Option<u32> {
    let numas = host.named_devices.values().flatten().filter_map(|device| device.numa);
    numas.max().map(|numa| numa.saturating_add(1)).filter(|sockets| *sockets <= MOST_SOCKETS)
}

fn found(rules: &Rules, host: &Host) -> Found {
    let label = rules.gpu_types.kind(&host.labels);
    let mut found: Found = BTreeMap::new();
    for (resource, text) in &host.allocatable {
        let Some((name, kind)) = rules.resources.find(resource) else { continue };
        let kind = kind.or_else(|| label.clone().filter(|_| name == "gpu"));
        let count = quantity::units(text).unwrap_or(0).min(u64::from(u16::MAX));
        let own = found.entry((name, kind)).or_default();
        own.extend((0..count).map(|_| (None, None)));
    }
    for (name, devices) in &host.named_devices {
        // A device plugin beside the driver tells the same devices a second time.
        if found.iter().any(|((own, _), all)| own == name && !all.is_empty()) {
            name_counted(&mut found, name, devices);
            continue;
        }
        let mut sorted: Vec<&Device> = devices.iter().collect();
        sorted.sort_by(|a, b| natural(&a.name, &b.name));
        for device in sorted {
            let kind =
                kind(rules, name, device).or_else(|| label.clone().filter(|_| name == "gpu"));
            let own = found.entry((name.clone(), kind)).or_default();
            own.push((Some(device.name.clone()), device.numa));
        }
    }
    found
}

/// Where the plugin counts as many as the driver names, each gets its name.
fn name_counted(found: &mut Found, name: &str, devices: &[Device]) {
    let mut kinds = found.iter_mut().filter(|((own, _), all)| own == name && !all.is_empty());
    let (Some((_, all)), None) = (kinds.next(), kinds.next()) else { return };
    if all.len() != devices.len() {
        return;
    }
    let mut sorted: Vec<&Device> = devices.iter().collect();
    sorted.sort_by(|a, b| natural(&a.name, &b.name));
    *all = sorted.into_iter().map(|device| (Some(device.name.clone()), device.numa)).collect();
}

fn kind(rules: &Rules, name: &str, device: &Device) -> Option<String> {
    if !device.profile.is_empty() {
        return Some(device.profile.to_ascii_lowercase());
    }
    (name == "gpu").then(|| rules.gpu_types.kind_of(&device.product)).flatten()
}

/// The socket at which this device is by the instance type.
fn socket(layout: &Layout, gres: &str, index: u32) -> Option<u32> {
    let mut switches = 0..layout.switches;
    let switch =
        switches.find(|s| layout.behind(*s, gres) & 1_u128.checked_shl(index).unwrap_or(0) != 0);
    switch.map(|switch| layout.socket(switch))
}
