//! One pool: which nodes Slurm must have because Kubernetes has them, and what each side must know of the other's.
//!
//! [`decide`] takes both inventories as they are and says what to do about each difference, in an order that is safe
//! when only a part of it is done: it is asked again after everything that changes, and a plan is never remembered.
//! Nodes of Slurm that do not carry our mark are looked at and told of, and never changed, but for drains of nodes
//! that Kubernetes has too; an administrator's drain is never lifted. This room must never take "not listed" for
//! "gone": both lists must be complete when it is asked.

mod conf;
mod devices;
mod differ;
mod fence;
mod holders;
mod mirror;
mod outside;
pub mod partitions;
mod taint;
mod tenants;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};

use crate::eligible::taint::Taint;
use crate::pod::Quantities;
use crate::topology::layout::Layout;
use crate::translate::ResourceTable;
use crate::translate::gpu::GpuTypes;

pub use conf::{Registration, deletions, registrations};
pub use devices::{Device, Devices};
pub use holders::{
    Census, DEVICE_STANDINGS, Held, Holder, NODE_STATES, Spent, census, devices_held, spent,
};
pub use mirror::{Condition, REASONS, Standing, Told};
pub use outside::{Guest, Hold, Holding, Settling, held, holds, settle};
pub use partitions::{Difference, NewPartition, SlurmPartition, What};
pub use taint::{Effect, Tainting, Taints};
pub use tenants::tenants;
pub use wanted::Wanted;

/// What an operator says about the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Names this bridge's world; part of the mark on each of its nodes.
    pub cluster: String,
    /// `NodeAddr` of every EXTERNAL node: the sink (rule 12).
    pub address: String,
    /// The sink's port, where it is not SlurmdPort.
    pub port: Option<u16>,
    /// Kinds of nodes; the first that a node matches is its own.
    pub pools: Vec<Pool>,
    /// Partitions that may be made where Slurm does not have them.
    pub new_partitions: Vec<NewPartition>,
    /// Labels whose values become features.
    pub feature_labels: Vec<String>,
    /// Where nodes are in the network, by their labels.
    pub network: Network,
    /// Taints (by key) by which somebody says that the node is about to go.
    pub leaving_taints: Vec<String>,
    /// After so many milliseconds of not being ready a node is down, and its jobs end.
    pub down_after_ms: i64,
    /// What a node's resources are called in Slurm.
    pub resources: ResourceTable,
    /// What its GPUs are called.
    pub gpu_types: GpuTypes,
    /// How its devices are wired.
    pub layouts: Vec<Layout>,
    /// Which taints nodes of a pool get.
    pub taints: Taints,
    /// How what pods take beside Slurm is held on hosts with a slurmd.
    pub holding: Holding,
}

/// What labels say of the network, and what Slurm's topologies are called (topology.yaml).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Node labels that name a switch, from the widest to the narrowest; empty for none.
    pub tree_labels: Vec<String>,
    /// Slurm's name of its tree.
    pub tree: String,
    /// Node label that names a block.
    pub block_label: Option<String>,
    /// Slurm's name of its blocks.
    pub block: String,
}

/// A kind of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// For messages.
    pub name: String,
    /// Labels that a node of it has; an empty value asks for the label alone.
    pub labels: BTreeMap<String, String>,
    /// Features of each of its nodes; partitions that are made of node sets get their nodes by these.
    pub features: Vec<String>,
    /// Partitions that each of its nodes must be in.
    pub partitions: Vec<String>,
    /// Slurm gives nodes of less weight out first.
    pub weight: u32,
    /// Whether each node may only be matched with a slurmd that is there: none is registered for it.
    pub hybrid: bool,
    /// Whether slurmctld's own gres.conf lists the devices of its nodes, so that a registration need not.
    pub listed: bool,
}

impl Rules {
    /// The feature by which our nodes are known. It travels inside the registration, so that no node is ever ours
    /// without carrying it.
    pub fn mark(&self) -> String {
        format!("gangway-{}", self.cluster.replace(':', "."))
    }

    /// How every reason begins that we give for a drain.
    pub(crate) fn signature(&self) -> String {
        format!("gangway/{}: ", self.cluster)
    }

    /// The pool of a node.
    pub fn pool(&self, host: &Host) -> Option<&Pool> {
        self.pools.iter().find(|pool| {
            pool.labels.iter().all(|(key, value)| {
                host.labels.get(key).is_some_and(|own| value.is_empty() || own == value)
            })
        })
    }
}

/// A node of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Tells it from an earlier one of the same name.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Where it is in Slurm's network, by its annotation: goes before what its labels say.
    pub topology: Option<String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// Being deleted.
    pub deleting: bool,
    /// `None`: ready. Else since when not, in milliseconds of the caller's clock.
    pub unready_since: Option<i64>,
    /// `status.allocatable`.
    pub allocatable: Quantities,
    /// Devices by GRES name where Kubernetes names them (DRA).
    pub named_devices: BTreeMap<String, Vec<Device>>,
    /// What pods that the bridge does not place take, in thousandths of a CPU.
    pub outside_cpu_milli: u64,
    /// What of memory they take, in bytes.
    pub outside_memory: u64,
    /// What each of these pods takes, by uid.
    pub guests: BTreeMap<String, Guest>,
    /// What Slurm said when it was last to be registered, and would not be.
    pub refusal: Option<String>,
    /// What we last wrote on it about Slurm.
    pub told: Option<Told>,
}

impl Host {
    /// Slurm's name of it.
    pub fn slurm_name(&self) -> &str {
        crate::names::slurm_node(&self.labels).unwrap_or(&self.name)
    }
}

/// A node of Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlurmNode {
    /// Its name.
    pub name: String,
    /// `NodeAddr`.
    pub address: String,
    /// Base state and flags by Slurm's names.
    pub state: BTreeSet<String>,
    /// Why it is drained or down.
    pub reason: String,
    /// Who said so.
    pub reason_user: String,
    /// CPUs.
    pub cpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// CPUs that jobs have.
    pub allocated_cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// As in slurm.conf.
    pub gres: String,
    /// Features declared.
    pub features: BTreeSet<String>,
    /// Partitions it is in.
    pub partitions: BTreeSet<String>,
    /// Lower goes first.
    pub weight: u32,
    /// `topo-block:b1,topo-tree:s1`.
    pub topology: String,
    /// Other people's jobs on it, in words: see [`tenants`].
    pub tenants: String,
}

impl SlurmNode {
    fn is(&self, state: &str) -> bool {
        self.state.contains(state)
    }

    fn external(&self) -> bool {
        self.is("EXTERNAL")
    }

    /// Whether a job is on it.
    fn busy(&self) -> bool {
        self.allocated_cpus > 0 || self.is("ALLOCATED") || self.is("MIXED") || self.is("COMPLETING")
    }
}

/// One step. All are idempotent, and each says what the node must still be: what happened in between makes Slurm
/// refuse it, or makes it needless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Slurm gets the node.
    Register(Wanted),
    /// Slurm forgets the node. Refused while a job is on it.
    Delete {
        /// Slurm's name.
        node: String,
    },
    /// Nothing new starts on it.
    Drain {
        /// Slurm's name.
        node: String,
        /// Begins with our signature, or is an administrator's that is handed back.
        reason: String,
    },
    /// Its jobs end.
    Down {
        /// Slurm's name.
        node: String,
        /// Begins with our signature.
        reason: String,
    },
    /// It is given out again: the drain, or down, was ours.
    Resume {
        /// Slurm's name.
        node: String,
    },
    /// What can be changed in place.
    Change {
        /// Slurm's name.
        node: String,
        /// What to change.
        change: Change,
    },
}

impl Step {
    /// Slurm's name of the node it is about.
    pub fn node(&self) -> &str {
        match self {
            Self::Register(wanted) => &wanted.name,
            Self::Delete { node }
            | Self::Drain { node, .. }
            | Self::Down { node, .. }
            | Self::Resume { node }
            | Self::Change { node, .. } => node,
        }
    }
}

/// What Slurm changes on a node that is there; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// All features, ascending.
    pub features: Option<Vec<String>>,
    /// Weight.
    pub weight: Option<u32>,
    /// Topology.
    pub topology: Option<String>,
    /// `NodeAddr`.
    pub address: Option<String>,
}

impl Change {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What Kubernetes is to be told about one of its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Kubernetes' name.
    pub host: String,
    /// What it is to say from now on.
    pub told: Told,
    /// Whether the condition's status is another than before, and not only the words.
    pub turned: bool,
    /// Whether somebody in Slurm has brought this about, whom people here should hear of.
    pub event: bool,
}

/// What to do about every difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For Slurm, nodes ascending.
    pub steps: Vec<Step>,
    /// For Kubernetes.
    pub news: Vec<News>,
    /// Nodes of Kubernetes whose taints are to change.
    pub taints: Vec<Tainting>,
    /// EXTERNAL nodes of Slurm that nobody backs and that are not ours: told of, and left alone.
    pub strangers: Vec<String>,
    /// When to look again although nothing has changed, in milliseconds of the caller's clock.
    pub again: Option<i64>,
}

/// Compares both inventories, each of them complete. `now` is in milliseconds of a clock that only goes on.
pub fn decide(rules: &Rules, hosts: &[Host], nodes: &[SlurmNode], now: i64) -> Plan {
    let mut plan = Plan::default();
    let by_name: BTreeMap<&str, &SlurmNode> =
        nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut pairs: BTreeMap<&str, (Option<&Host>, Option<&SlurmNode>)> =
        by_name.iter().map(|(name, node)| (*name, (None, Some(*node)))).collect();
    for host in hosts {
        let node = by_name.get(host.slurm_name()).copied();
        // Two hosts of one Slurm name: the first by name counts, the other is told so.
        let pair = pairs.entry(host.slurm_name()).or_insert((None, node));
        let (counts, second) = match pair.0 {
            Some(first) if first.name < host.name => (first, Some(host)),
            first => (host, first),
        };
        pair.0 = Some(counts);
        plan.news.extend(second.and_then(|second| mirror::twice(second, counts)));
        plan.taints.extend(second.and_then(|second| taint::none(rules, second)));
    }
    for (host, node) in pairs.into_values() {
        one(rules, host, node, now, &mut plan);
    }
    plan
}

fn one(rules: &Rules, host: Option<&Host>, node: Option<&SlurmNode>, now: i64, plan: &mut Plan) {
    let ours = node.is_some_and(|node| node.external() && node.features.contains(&rules.mark()));
    let pool = host.and_then(|host| rules.pool(host));
    let known = node.map(|node| (node, ours));
    plan.taints.extend(host.and_then(|host| taint::of(rules, host, pool, known)));
    match (host, node) {
        (None, None) => {}
        (None, Some(node)) if ours => {
            plan.steps.extend(fence::leave(rules, node, "Kubernetes has no such node any more"));
        }
        (None, Some(node)) if node.external() => plan.strangers.push(node.name.clone()),
        // A host with a slurmd that Kubernetes does not know: bare metal for sbatch alone.
        (None, Some(_)) => {}
        (Some(host), node) => match pool {
            Some(pool) => pooled(rules, pool, host, known, now, plan),
            None => {
                let left = node.filter(|_| ours);
                plan.steps.extend(left.and_then(|node| fence::leave(rules, node, mirror::NO_POOL)));
                plan.news.extend(left.and_then(|_| mirror::poolless(host)));
            }
        },
    }
}

/// What to do about a node of a pool; with Slurm's, and whether that is ours.
fn pooled(
    rules: &Rules,
    pool: &Pool,
    host: &Host,
    node: Option<(&SlurmNode, bool)>,
    now: i64,
    plan: &mut Plan,
) {
    let fence = fence::of(rules, host, now);
    plan.again = [plan.again, fence.again].into_iter().flatten().min();
    match node {
        Some((node, ours)) => plan.steps.extend(kept(rules, pool, host, node, ours, &fence)),
        None if pool.hybrid => {}
        // A node on its way up: there will be more to tell in a moment.
        None if host.unready_since.is_some() && host.told.is_none() => return,
        None if fence.is_shut() => {
            plan.news.extend(mirror::kept_out(host, fence.reason()));
            return;
        }
        None => {
            plan.steps.push(Step::Register(wanted::wanted(rules, pool, host)));
            // What came of it is told, not that it is about to be done.
            if host.refusal.is_none() {
                return;
            }
        }
    }
    plan.news.extend(mirror::news(rules, host, pool, node.map(|(node, _)| node)));
}

/// What to do about a node that both sides have.
fn kept(
    rules: &Rules,
    pool: &Pool,
    host: &Host,
    node: &SlurmNode,
    ours: bool,
    fence: &fence::Fence,
) -> Vec<Step> {
    if !ours {
        // With a slurmd on it: it tells Slurm itself what it has; whether anything starts there is told by both.
        // Another EXTERNAL node of that name is somebody else's.
        return if node.external() {
            Vec::new()
        } else {
            fence.steps(rules, node).into_iter().collect()
        };
    }
    let wanted = wanted::wanted(rules, pool, host);
    // Made anew, it would have lost an administrator's drain, behind which nothing starts anyway.
    let may_go = !node.busy() && !fence::is_theirs(rules, node);
    let fresh = differ::must_be_registered_anew(&wanted, node);
    let mut steps = match fresh {
        Some(differ::Anew { why, urgent: true }) if node.busy() => {
            fence.also(&format!("is to be registered anew: {why}")).steps(rules, node)
        }
        Some(_) if may_go => {
            let mut steps = vec![Step::Delete { node: node.name.clone() }];
            if !fence.is_shut() {
                steps.push(Step::Register(wanted));
            }
            return steps;
        }
        _ => fence.steps(rules, node),
    }
    .into_iter()
    .collect::<Vec<_>>();
    let change = differ::change(rules, &wanted, node);
    if !change.is_nothing() {
        steps.push(Step::Change { node: node.name.clone(), change });
    }
    steps
}

#[cfg(test)]
mod converge;
#[cfg(test)]
mod tests;
