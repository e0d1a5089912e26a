//! `nodes:` of the configuration: which nodes of Kubernetes Slurm is to have, and as what.

use std::collections::BTreeMap;
use std::time::Duration;

use gangway_core::inventory::{Effect, Holding, Network, NewPartition, Pool, Rules, Taints};

use super::section::{Problems, Section};

/// Labels whose values become features unless others are named.
const FEATURES: [&str; 4] = [
    "node.kubernetes.io/instance-type",
    "nvidia.com/gpu.product",
    "topology.kubernetes.io/zone",
    "karpenter.sh/capacity-type",
];

/// Taints by which a node is known to be about to go unless others are named.
const LEAVING: [&str; 5] = [
    "karpenter.sh/disrupted",
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/scheduled-maintenance",
    "aws-node-termination-handler/rebalance-recommendation",
    "node.kubernetes.io/out-of-service",
];

/// DRA drivers by the GRES their devices are.
const DRIVERS: [(&str, &str); 3] =
    [("gpu.nvidia.com", "gpu"), ("gpu.amd.com", "gpu"), ("neuron.aws.com", "neuron")];

/// What `nodes` says. What else the rules need comes from other sections.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    pub(crate) rules: Rules,
    /// DRA driver → GRES name.
    pub(crate) drivers: BTreeMap<String, String>,
    /// Seconds between two looks at Slurm while nothing changes.
    pub(crate) look_seconds: u32,
}

impl Nodes {
    /// Between two looks at Slurm while nothing changes.
    pub(crate) fn look(&self) -> Duration {
        Duration::from_secs(self.look_seconds.into())
    }
}

/// Reads the section into rules that know of this section only. `None` where it is not there.
pub(super) fn read(
    mut section: Section<'_>,
    sink: Option<&str>,
    problems: &Problems,
) -> Option<Nodes> {
    let address = section.text("address").or_else(|| sink.map(str::to_owned));
    let port = section.number("port");
    let some = |list: Vec<String>, default: &[&str]| {
        let default = || default.iter().map(|one| (*one).to_owned()).collect();
        if list.is_empty() { default() } else { list }
    };
    let feature_labels = some(section.texts("featureLabels"), &FEATURES);
    let leaving_taints = some(section.texts("leavingTaints"), &LEAVING);
    let mut drivers: BTreeMap<String, String> =
        DRIVERS.map(|(driver, gres)| (driver.to_owned(), gres.to_owned())).into();
    drivers.extend(section.map("drivers"));
    let down_after = section.number("downAfterSeconds").unwrap_or(300);
    let look_seconds = section.number("lookSeconds").unwrap_or(30);
    let mut topology = section.section("topology");
    let mut named = |key, usual: &str| topology.text(key).unwrap_or_else(|| usual.to_owned());
    let (tree, block) = (named("treeName", "topo-tree"), named("blockName", "topo-block"));
    let (tree_labels, block_label) = (topology.texts("tree"), topology.text("block"));
    let network = Network { tree_labels, tree, block_label, block };
    topology.finish();
    let taints = taints(section.section("taints"), problems);
    let mut outside = section.section("outside");
    let holding = Holding {
        on: outside.flag("hold").unwrap_or(true),
        partition: outside.text("partition"),
        account: outside.text("account"),
    };
    outside.finish();
    let made = section.sections("createPartitions").into_iter();
    let new_partitions = made.map(|entry| new_partition(entry, problems)).collect();
    let pools: Vec<Pool> =
        section.sections("pools").into_iter().map(|entry| pool(entry, problems)).collect();
    section.finish();
    if pools.is_empty() {
        return None;
    }
    let port = port.map(u16::try_from).transpose().unwrap_or_else(|_| {
        problems.add("nodes.port", "must be 1 to 65535");
        None
    });
    if address.is_none() {
        let what = "is missing: where the sink slurmd is that answers for nodes without one; a name that does not \
                    resolve stalls slurmctld, and an address where nobody answers loses the node (slurm.sink.address \
                    counts too)";
        problems.add("nodes.address", what);
    }
    if look_seconds == 0 {
        problems.add("nodes.lookSeconds", "must be 1 or more");
    }
    let rules = Rules {
        cluster: String::new(),
        address: address.unwrap_or_default(),
        port,
        pools,
        new_partitions,
        feature_labels,
        network,
        leaving_taints,
        down_after_ms: i64::from(down_after) * 1000,
        resources: Default::default(),
        gpu_types: Default::default(),
        layouts: Vec::new(),
        taints,
        holding,
    };
    Some(Nodes { rules, drivers, look_seconds })
}

/// Our taints carry the cluster as their value, and Kubernetes takes only values like those of labels.
pub(super) fn check_taint_value(cluster: &str, problems: &Problems) {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if cluster.len() > 63 || !ends(cluster.chars().next()) || !ends(cluster.chars().next_back()) {
        let what = "must have at most 63 characters, with a letter or digit at both ends, where nodes.taints is set: it is the taints' value";
        problems.add("cluster", what);
    }
}

fn taints(mut section: Section<'_>, problems: &Problems) -> Taints {
    let mut effect = |key: &str| {
        let text = section.text_or_off(key)?;
        let no = match text.as_str() {
            "off" => return None,
            "NoSchedule" => return Some(Effect::NoSchedule),
            "PreferNoSchedule" => return Some(Effect::PreferNoSchedule),
            "NoExecute" => {
                "must not be NoExecute: it would end the pods that Slurm has let in, which carry no toleration"
            }
            _ => "must be off, NoSchedule or PreferNoSchedule",
        };
        problems.add(&section.at(key), no);
        None
    };
    let taints = Taints { drained: effect("drained"), managed: effect("managed") };
    section.finish();
    taints
}

fn new_partition(mut entry: Section<'_>, problems: &Problems) -> NewPartition {
    let new = NewPartition { name: entry.required("name"), node_sets: entry.texts("nodeSets") };
    if new.node_sets.is_empty() {
        problems.add(
            &entry.at("nodeSets"),
            "is missing: NodeSets of slurm.conf that the partition is made of, or ALL",
        );
    }
    entry.finish();
    new
}

fn pool(mut entry: Section<'_>, problems: &Problems) -> Pool {
    let pool = Pool {
        name: entry.required("name"),
        labels: entry.map("labels"),
        features: entry.texts("features"),
        partitions: entry.texts("partitions"),
        weight: entry.number("weight").unwrap_or(1),
        hybrid: entry.flag("slurmd").unwrap_or(false),
        listed: entry.flag("gresConf").unwrap_or(false),
    };
    if pool.labels.is_empty() {
        problems.add(&entry.at("labels"), "is missing: no node is taken into a pool unasked");
    }
    entry.finish();
    pool
}
