//! Registrations as Slurm reads them: one line of slurm.conf.
//!
//! A node with devices goes alone, for Slurm refuses a range with `GresConf=` (live-slurm.md, i); nodes without any,
//! and otherwise alike, go as one hostlist.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Devices, Wanted};
use crate::hostlist::Hostlist;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The line.
    pub conf: String,
    /// The nodes in it.
    pub nodes: Vec<String>,
}

/// The fewest requests that register all of these.
pub fn registrations(wanted: &[Wanted]) -> Vec<Registration> {
    let mut alike: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut out = Vec::new();
    for node in wanted {
        let name = node.name.clone();
        if node.devices.is_empty() {
            alike.entry(traits(node)).or_default().push(name);
        } else {
            let conf = format!("NodeName={name} {}", traits(node));
            out.push(Registration { conf, nodes: vec![name] });
        }
    }
    for (traits, nodes) in alike {
        match Hostlist::from_names(&nodes) {
            Ok(list) => out.push(Registration { conf: format!("NodeName={list} {traits}"), nodes }),
            // A name that fits no hostlist goes alone, and Slurm says what is wrong with it.
            Err(_) => out.extend(nodes.into_iter().map(|name| Registration {
                conf: format!("NodeName={name} {traits}"),
                nodes: vec![name],
            })),
        }
    }
    out
}

/// Everything but the name.
fn traits(node: &Wanted) -> String {
    let features: Vec<&str> = node.features.iter().map(String::as_str).collect();
    let mut line = format!(
        "NodeAddr={} State=EXTERNAL CPUs={} Sockets={} CoresPerSocket={} ThreadsPerCore=1 RealMemory={} Weight={} Feature={}",
        node.address,
        node.cpus(),
        node.sockets,
        node.cores_per_socket,
        node.memory_mib,
        node.weight,
        features.join(","),
    );
    if let Some(port) = node.port {
        let _ = write!(line, " Port={port}");
    }
    if let Some(topology) = node.topology.as_ref().filter(|topology| !topology.is_empty()) {
        let _ = write!(line, " Topology={topology}");
    }
    if !node.devices.is_empty() {
        let _ = write!(line, " Gres={} GresConf=\"{}\"", node.gres(), gres_conf(node));
    }
    line
}

/// One record for the devices of each name, type and socket; each device with a file, so that Slurm answers with
/// indexes.
fn gres_conf(node: &Wanted) -> String {
    let mut records = Vec::new();
    for devices in &node.devices {
        let each = &devices.each;
        for run in each.chunk_by(|a, b| a.1 == b.1) {
            records.push(record(node, devices, run));
        }
    }
    records.join("+")
}

fn record(node: &Wanted, devices: &Devices, run: &[(String, Option<u32>)]) -> String {
    let mut record = format!("count={},name={}", run.len(), devices.name);
    if let Some(kind) = &devices.kind {
        let _ = write!(record, ",type={kind}");
    }
    for (file, _) in run {
        let _ = write!(record, ",file={file}");
    }
    if let Some((_, Some(socket))) = run.first()
        && node.sockets > 1
    {
        let first = socket * node.cores_per_socket;
        let _ = write!(record, ",cpus={first}-{}", first + node.cores_per_socket - 1);
    }
    record
}
