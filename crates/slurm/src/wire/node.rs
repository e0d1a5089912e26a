//! Nodes and partitions on the wire, and how they become facts.
//!
//! It must never drop a node state it does not know: names are kept as Slurm sends them.

use gangway_core::job::GresAllocation;
use serde::Deserialize;

use super::job::indexes;
use super::number::Number;
use super::or_default;
use crate::client::{Node, Partition};

/// `GET nodes/` and `GET node/{name}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireNodes {
    #[serde(deserialize_with = "or_default")]
    pub(crate) nodes: Vec<WireNode>,
}

/// One node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireNode {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    address: String,
    #[serde(deserialize_with = "or_default")]
    hostname: String,
    #[serde(deserialize_with = "or_default")]
    port: Number,
    #[serde(deserialize_with = "or_default")]
    state: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    reason: String,
    #[serde(deserialize_with = "or_default")]
    reason_set_by_user: String,
    #[serde(deserialize_with = "or_default")]
    weight: Number,
    #[serde(deserialize_with = "or_default")]
    comment: String,
    #[serde(deserialize_with = "or_default")]
    extra: String,
    #[serde(deserialize_with = "or_default")]
    cpus: Number,
    #[serde(deserialize_with = "or_default")]
    alloc_cpus: Number,
    #[serde(deserialize_with = "or_default")]
    sockets: Number,
    #[serde(deserialize_with = "or_default")]
    cores: Number,
    #[serde(deserialize_with = "or_default")]
    threads: Number,
    #[serde(deserialize_with = "or_default")]
    real_memory: Number,
    #[serde(deserialize_with = "or_default")]
    alloc_memory: Number,
    #[serde(deserialize_with = "or_default")]
    gres: String,
    #[serde(deserialize_with = "or_default")]
    gres_used: String,
    #[serde(deserialize_with = "or_default")]
    features: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    active_features: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    partitions: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    topology: String,
}

impl WireNode {
    /// The node as a fact; `None` where it has no name.
    pub(crate) fn into_node(self) -> Option<Node> {
        if self.name.is_empty() {
            return None;
        }
        Some(Node {
            name: self.name,
            address: self.address,
            hostname: self.hostname,
            port: self.port.count().unwrap_or(0),
            state: self.state,
            reason: self.reason,
            reason_user: self.reason_set_by_user,
            weight: self.weight.count().unwrap_or(0),
            comment: self.comment,
            extra: self.extra,
            cpus: self.cpus.count().unwrap_or(0),
            allocated_cpus: self.alloc_cpus.count().unwrap_or(0),
            sockets: self.sockets.count().unwrap_or(0),
            cores_per_socket: self.cores.count().unwrap_or(0),
            threads_per_core: self.threads.count().unwrap_or(0),
            memory_mib: self.real_memory.count().unwrap_or(0),
            allocated_memory_mib: self.alloc_memory.count().unwrap_or(0),
            gres: self.gres,
            gres_used: gres_used(&self.gres_used),
            features: self.features,
            active_features: self.active_features,
            partitions: self.partitions,
            topology: self.topology,
        })
    }
}

/// What of a node's generic resources is in use: `gpu:h100:2(IDX:0,4),efa:0(IDX:N/A)`; what cannot be
/// read is left out.
fn gres_used(text: &str) -> Vec<GresAllocation> {
    let one = |part: &str| {
        let (head, which) = part.split_once('(').unwrap_or((part, ""));
        // What is not in use has no list, and no brackets either.
        let head = head.rsplit(',').next()?;
        let mut words = head.split(':');
        let (name, second, third) = (words.next()?, words.next()?, words.next());
        let (kind, count) = third.map_or(("", second), |count| (second, count));
        let count: u32 = count.parse().ok()?;
        let listed = which.strip_prefix("IDX:").filter(|_| count > 0);
        let indexes = listed.map_or_else(|| Some(Vec::new()), indexes)?;
        Some(GresAllocation { name: name.to_owned(), kind: kind.to_owned(), count, indexes })
    };
    text.split(')').filter_map(one).collect()
}

/// `GET partitions/` and `GET partition/{name}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WirePartitions {
    #[serde(deserialize_with = "or_default")]
    pub(crate) partitions: Vec<WirePartition>,
}

/// One partition.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WirePartition {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    node_sets: String,
    #[serde(deserialize_with = "or_default")]
    nodes: WirePartitionNodes,
    #[serde(deserialize_with = "or_default")]
    partition: WirePartitionState,
    #[serde(deserialize_with = "or_default")]
    maximums: WireMaximums,
    #[serde(deserialize_with = "or_default")]
    priority: WirePriority,
    #[serde(deserialize_with = "or_default")]
    grace_time: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WirePartitionNodes {
    #[serde(deserialize_with = "or_default")]
    configured: String,
    #[serde(deserialize_with = "or_default")]
    total: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WirePartitionState {
    #[serde(deserialize_with = "or_default")]
    state: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireMaximums {
    #[serde(deserialize_with = "or_default")]
    time: Number,
    #[serde(deserialize_with = "or_default")]
    nodes: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WirePriority {
    #[serde(deserialize_with = "or_default")]
    tier: Number,
    #[serde(deserialize_with = "or_default")]
    job_factor: Number,
}

impl WirePartition {
    /// The partition as a fact; `None` where it has no name.
    pub(crate) fn into_partition(self) -> Option<Partition> {
        if self.name.is_empty() {
            return None;
        }
        Some(Partition {
            name: self.name,
            state: self.partition.state,
            nodes: self.nodes.configured,
            node_sets: self.node_sets,
            node_count: self.nodes.total.count().unwrap_or(0),
            max_time_minutes: self.maximums.time.count(),
            max_nodes: self.maximums.nodes.count(),
            priority_tier: self.priority.tier.count().unwrap_or(0),
            priority_factor: self.priority.job_factor.count().unwrap_or(0),
            grace_seconds: self.grace_time.count().unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_in_use_are_told_apart_where_slurm_does() {
        let used = gres_used("efa:0,gpu:h100:3(IDX:0-1,5),npu:0(IDX:N/A),shard:4(CNT:4)");
        let told: Vec<_> =
            used.iter().map(|u| (u.name.as_str(), u.count, &u.indexes[..])).collect();
        assert_eq!(told[0], ("gpu", 3, &[0, 1, 5][..]));
        assert_eq!(told[1], ("npu", 0, &[][..]));
        assert!(told[2..].iter().all(|(_, _, indexes)| indexes.is_empty()), "{told:?}");
        assert!(gres_used("").is_empty() && gres_used("gpu:many(IDX:9-1)").is_empty());
    }

    #[test]
    fn a_node_keeps_states_this_version_does_not_know() {
        let text = r#"{"nodes":[{"name":"p5-1","state":["IDLE","EXTERNAL","SPARKLING"],
            "cpus":192,"real_memory":2000000,"gres":"gpu:h100:8,efa:32","new_field":{"a":1},
            "comment":null,"cores":96,"sockets":2,"threads":1},{"state":["IDLE"]}]}"#;
        let wire: WireNodes = serde_json::from_str(text).unwrap();
        let nodes: Vec<_> = wire.nodes.into_iter().filter_map(WireNode::into_node).collect();
        assert_eq!(nodes.len(), 1);
        assert!(nodes[0].is("SPARKLING") && nodes[0].is("EXTERNAL") && !nodes[0].is("DOWN"));
        assert_eq!((nodes[0].cpus, nodes[0].memory_mib), (192, 2_000_000));
    }

    #[test]
    fn a_partition_without_limits_has_none() {
        let text = r#"{"partitions":[{"name":"gangway","nodes":{"configured":"p5-[1-4]","total":4},
            "partition":{"state":["UP"]},"priority":{"tier":1},
            "maximums":{"time":{"set":false,"infinite":true,"number":0},
                        "nodes":{"set":true,"infinite":false,"number":9}}}]}"#;
        let mut wire: WirePartitions = serde_json::from_str(text).unwrap();
        let partition = wire.partitions.remove(0).into_partition().unwrap();
        assert_eq!(partition.max_time_minutes, None);
        assert_eq!(partition.max_nodes, Some(9));
        assert_eq!((partition.node_count, partition.is_up()), (4, true));
    }
}
