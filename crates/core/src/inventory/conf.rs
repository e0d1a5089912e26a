//! Registrations as Slurm reads them: one line of slurm.conf.
//!
//! A node whose devices Slurm must be told goes alone, for it refuses a range with `GresConf=` (live-slurm.md, i), and
//! each such request costs slurmctld a look at every node it has. Nodes without any, or whose devices stand in
//! slurmctld's own gres.conf, go as one hostlist where they are otherwise alike.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::slice;

use super::{Devices, Wanted};
use crate::hostlist::Hostlist;

/// How long the hostlist of one deletion may be: it travels in a URL, of which slurmrestd took 29 KB and not 89.
const LIST_LEN: usize = 4_000;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The line.
    pub conf: String,
    /// The nodes in it.
    pub nodes: Vec<String>,
    /// Everything in the line but their names.
    traits: String,
}

impl Registration {
    /// In Slurm's words `list` is all of the nodes.
    fn new(list: &str, nodes: &[String], traits: &str) -> Self {
        let conf = format!("NodeName={list} {traits}");
        Self { conf, nodes: nodes.to_vec(), traits: traits.to_owned() }
    }

    /// The same in two requests, for Slurm refuses all for the sake of one. None of one node.
    pub fn halves(&self) -> Option<[Self; 2]> {
        let (one, other) = self.nodes.split_at(self.nodes.len() / 2);
        let half = |nodes: &[String]| {
            // Of no name there is no list.
            let list = Hostlist::from_names(nodes).ok().filter(|_| !nodes.is_empty())?;
            Some(Self::new(&list.to_string(), nodes, &self.traits))
        };
        Some([half(one)?, half(other)?])
    }
}

/// Hostlists that hold all of these, none too long for a URL, each with the number of its names. A name that fits no
/// hostlist goes alone.
pub fn deletions(nodes: &[String]) -> Vec<(String, usize)> {
    let list = Hostlist::from_names(nodes).map(|list| list.sorted().to_string());
    match (list, nodes) {
        (_, []) => Vec::new(),
        (_, [name]) => vec![(name.clone(), 1)],
        (Ok(list), _) if list.len() <= LIST_LEN => vec![(list, nodes.len())],
        _ => {
            let (one, other) = nodes.split_at(nodes.len() / 2);
            [deletions(one), deletions(other)].concat()
        }
    }
}

/// The fewest requests that register all of these.
pub fn registrations(wanted: &[Wanted]) -> Vec<Registration> {
    let mut alike: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut out = Vec::new();
    let alone =
        |name: &String, traits: &str| Registration::new(name, slice::from_ref(name), traits);
    for node in wanted {
        if node.devices.is_empty() || node.listed {
            alike.entry(traits(node)).or_default().push(node.name.clone());
        } else {
            out.push(alone(&node.name, &traits(node)));
        }
    }
    for (traits, nodes) in alike {
        match Hostlist::from_names(&nodes) {
            Ok(list) => out.push(Registration::new(&list.to_string(), &nodes, &traits)),
            // A name that fits no hostlist goes alone, and Slurm says what is wrong with it.
            Err(_) => out.extend(nodes.iter().map(|name| alone(name, &traits))),
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
        let _ = write!(line, " Gres={}", node.gres());
        if !node.listed {
            let _ = write!(line, " GresConf=\"{}\"", gres_conf(node));
        }
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
