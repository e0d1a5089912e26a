//! Which node is whose: pods and sbatch jobs by the indexes of their GPUs.

use std::collections::HashMap;

use serde::Serialize;

use super::Workload;
use crate::hostlist::Hostlist;
use crate::job::{Allocation, GresAllocation};
use crate::order::natural;
use crate::outlook::{Node, devices};

/// What one running job holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub job: u32,
    /// Owner.
    pub user: String,
    /// Its name.
    pub name: String,
    /// The workload it stands for; none for an sbatch job.
    pub workload: Option<Workload>,
    /// Its nodes, with what it has of each.
    pub on: Taken,
    /// Where its pods sit, as far as that is known.
    pub seats: Vec<Seated>,
}

/// What is known of the nodes a job holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of it.
    Known(Allocation),
    /// The names of the nodes alone, as a hostlist.
    Nodes(String),
}

impl Default for Taken {
    fn default() -> Self {
        Self::Nodes(String::new())
    }
}

/// One pod of a gang and what it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seated {
    /// Its name.
    pub pod: String,
    /// Slurm's name of the node.
    pub node: String,
    /// GPUs.
    pub gpus: Vec<u32>,
}

/// One node as people see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// Slurm's name of it.
    pub name: String,
    /// Base state and flags, joined by `+`.
    pub state: String,
    /// Why it is drained or down.
    pub reason: String,
    /// Partitions it is in.
    pub partitions: Vec<String>,
    /// CPUs it has.
    pub cpus: u32,
    /// CPUs that jobs have.
    pub cpus_taken: u32,
    /// GPUs it has.
    pub gpus: u32,
    /// GPUs that no job has, ascending.
    pub free: Vec<u32>,
    /// Who has the others, by the first index.
    pub holders: Vec<Holder>,
}

/// Who holds a part of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Slurm's job.
    pub job: u32,
    /// Owner.
    pub user: String,
    /// Name of the job.
    pub name: String,
    /// The workload; none for an sbatch job.
    pub workload: Option<Workload>,
    /// The pod, where it is known which.
    pub pod: String,
    /// GPUs, ascending; empty where the job has none or Slurm only counts them.
    pub gpus: Vec<u32>,
}

/// All nodes in the order people expect, each with its holders.
pub fn nodes(hosts: &[Node], held: &[Held]) -> Vec<NodeRow> {
    let mut by_node: HashMap<String, Vec<Holder>> = HashMap::new();
    for job in held {
        for (node, holders) in job.holders() {
            by_node.entry(node).or_default().extend(holders);
        }
    }
    let mut rows: Vec<NodeRow> = hosts
        .iter()
        .map(|host| {
            let mut holders = by_node.remove(&host.name).unwrap_or_default();
            holders.sort_by(|a, b| {
                (a.gpus.first(), a.job, &a.pod).cmp(&(b.gpus.first(), b.job, &b.pod))
            });
            row(host, holders)
        })
        .collect();
    rows.sort_by(|a, b| natural(&a.name, &b.name));
    rows
}

impl Held {
    fn holders(&self) -> Vec<(String, Vec<Holder>)> {
        match &self.on {
            Taken::Nodes(hosts) => {
                let names = Hostlist::parse(hosts).map(|list| list.names()).unwrap_or_default();
                names.into_iter().map(|node| (node, vec![self.holder("", Vec::new())])).collect()
            }
            Taken::Known(allocation) => {
                let nodes = allocation.nodes.iter();
                let gpus = |node: &crate::job::NodeAllocation| {
                    let own = node.gres.iter().filter(|gres| gres.name == "gpu");
                    let mut all: Vec<u32> = own.flat_map(|gres| gres.indexes.clone()).collect();
                    all.sort_unstable();
                    all
                };
                nodes
                    .map(|node| (node.name.clone(), self.on_node(&node.name, gpus(node))))
                    .collect()
            }
        }
    }

    /// Its pods on a node, and the job itself for what none of them has.
    fn on_node(&self, node: &str, mut gpus: Vec<u32>) -> Vec<Holder> {
        let mut holders = Vec::new();
        for seat in self.seats.iter().filter(|seat| seat.node == node) {
            gpus.retain(|gpu| !seat.gpus.contains(gpu));
            holders.push(self.holder(&seat.pod, seat.gpus.clone()));
        }
        if holders.is_empty() || !gpus.is_empty() {
            holders.push(self.holder("", gpus));
        }
        holders
    }

    fn holder(&self, pod: &str, gpus: Vec<u32>) -> Holder {
        Holder {
            job: self.job,
            user: self.user.clone(),
            name: self.name.clone(),
            workload: self.workload.clone().map(|own| Workload { pods: Vec::new(), ..own }),
            pod: pod.to_owned(),
            gpus,
        }
    }
}

fn row(host: &Node, holders: Vec<Holder>) -> NodeRow {
    let mut state = host.state.clone();
    // Every node that only pods use has it.
    state.retain(|one| one != "EXTERNAL" && one != "DYNAMIC_NORM");
    let gpus = devices(&host.gres, "gpu");
    let taken: Vec<&GresAllocation> = host.used.iter().filter(|used| used.name == "gpu").collect();
    let is_held = |gpu: &u32| holders.iter().any(|holder| holder.gpus.contains(gpu));
    let is_taken = |gpu: &u32| taken.iter().any(|used| used.indexes.contains(gpu));
    let free = (0..gpus).filter(|gpu| !is_held(gpu) && !is_taken(gpu)).collect();
    // Where Slurm only counts, nobody knows which are free.
    let counted = taken.iter().any(|used| used.count as usize > used.indexes.len());
    NodeRow {
        free: if counted { Vec::new() } else { free },
        name: host.name.clone(),
        state: state.join("+"),
        reason: host.reason.clone(),
        partitions: host.partitions.clone(),
        cpus: host.cpus.0,
        cpus_taken: host.cpus.1,
        gpus,
        holders,
    }
}
