//! Nodes and partitions: looking at them, and keeping EXTERNAL nodes registered.
//!
//! It must never decide which node should exist. Create and delete take slurmctld's write locks:
//! one node per call, a few milliseconds each.

use gangway_core::job::GresAllocation;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::json;

use super::{Call, Client, Reply, segment};
use crate::code::SlurmCode;
use crate::error::Error;
use crate::wire::node::{WireNode, WireNodes, WirePartition, WirePartitions};

/// One node as slurmctld describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Slurm's name of it.
    pub name: String,
    /// `NodeAddr`.
    pub address: String,
    /// `NodeHostname`.
    pub hostname: String,
    /// slurmd's port.
    pub port: u16,
    /// Base state and flags by Slurm's names: `IDLE`, `EXTERNAL`, `NOT_RESPONDING` …
    pub state: Vec<String>,
    /// Why it is drained or down.
    pub reason: String,
    /// Who said so.
    pub reason_user: String,
    /// Nodes of less weight are given out first.
    pub weight: u32,
    /// Free text.
    pub comment: String,
    /// Free text, `key=value` by custom.
    pub extra: String,
    /// CPUs configured.
    pub cpus: u32,
    /// CPUs in use.
    pub allocated_cpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// Cores on each socket.
    pub cores_per_socket: u32,
    /// Threads on each core.
    pub threads_per_core: u32,
    /// Memory configured, MiB.
    pub memory_mib: u64,
    /// Memory in use, MiB.
    pub allocated_memory_mib: u64,
    /// As in slurm.conf: `gpu:h100:8,efa:32`.
    pub gres: String,
    /// What of it jobs have.
    pub gres_used: Vec<GresAllocation>,
    /// Features declared.
    pub features: Vec<String>,
    /// Features active.
    pub active_features: Vec<String>,
    /// Partitions it is in.
    pub partitions: Vec<String>,
    /// `topo-block:b1,topo-tree:s1`; empty for none, and in v0.0.44.
    pub topology: String,
}

impl Node {
    /// Whether Slurm lists this base state or flag.
    pub fn is(&self, state: &str) -> bool {
        self.state.iter().any(|one| one == state)
    }
}

/// What to change on a node; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeUpdate {
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Free text, `key=value` by custom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<String>,
    /// Slurm's names: `DRAIN`, `UNDRAIN`, `DOWN`, `RESUME`. `DRAIN` and `DOWN` need a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Vec<String>>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `NodeAddr`: an address that resolves, or slurmctld stalls (rule 12).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// All features from now on. Partitions do not follow by themselves: [`Client::restate_partition`].
    #[serde(flatten, serialize_with = "features", skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Nodes of less weight are given out first.
    #[serde(serialize_with = "set", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// `topo-block:b1,topo-tree:s1`; v0.0.45 only.
    #[serde(rename = "topology_str", skip_serializing_if = "Option::is_none")]
    pub topology: Option<String>,
}

/// Features that are declared and those that are active: Slurm takes the one only with the other.
fn features<S: Serializer>(features: &Option<Vec<String>>, out: S) -> Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(Some(2))?;
    map.serialize_entry("features", features)?;
    map.serialize_entry("features_act", features)?;
    map.end()
}

/// A number as Slurm writes those that may be infinite or not set.
fn set<S: Serializer>(number: &Option<u32>, out: S) -> Result<S::Ok, S::Error> {
    json!({ "set": number.is_some(), "infinite": false, "number": number.unwrap_or_default() })
        .serialize(out)
}

/// One partition as slurmctld describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// `UP`, `DOWN`, `DRAIN`, `INACTIVE`.
    pub state: Vec<String>,
    /// Hostlist of its nodes as of now.
    pub nodes: String,
    /// Node sets it is made of.
    pub node_sets: String,
    /// How many nodes.
    pub node_count: u32,
    /// Longest time limit, minutes; `None` for no limit.
    pub max_time_minutes: Option<u32>,
    /// Most nodes of one job; `None` for no limit.
    pub max_nodes: Option<u32>,
    /// Jobs of a higher tier go first, and may preempt.
    pub priority_tier: u32,
    /// `PriorityJobFactor`: what the partition adds to a priority, beside that of others.
    pub priority_factor: u32,
    /// Seconds between the warning and the end of a preempted job.
    pub grace_seconds: u32,
}

impl Partition {
    /// Whether it starts jobs.
    pub fn is_up(&self) -> bool {
        self.state.iter().any(|state| state == "UP")
    }
}

impl Client {
    /// All nodes (`GET nodes/`).
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let answer: WireNodes = self.read(&Call::get("nodes", "nodes/".to_owned())).await?;
        Ok(answer.nodes.into_iter().filter_map(WireNode::into_node).collect())
    }

    /// One node; `None` where slurmctld has none of this name.
    pub async fn node(&self, name: &str) -> Result<Option<Node>, Error> {
        let reply = self.call(&Call::get("node", format!("node/{}", segment(name)))).await?;
        let Some(reply) = found(reply)? else { return Ok(None) };
        let answer: WireNodes = reply.read()?;
        let mut nodes = answer.nodes.into_iter().filter_map(WireNode::into_node);
        let node = nodes.find(|node| node.name == name);
        node.map(Some).ok_or_else(|| reply.malformed("the node is not in its own answer"))
    }

    /// Registers nodes (`POST new/node/`) by one line of slurm.conf: `NodeName=… CPUs=… NodeAddr=…
    /// State=EXTERNAL`. With `GresConf=` one node at a time (Slurm refuses a range). A name that
    /// exists is [`SlurmCode::NODE_EXISTS`].
    pub async fn create_node(&self, conf: &str) -> Result<(), Error> {
        let body = json!({ "node_conf": conf });
        self.order(&Call::post("new/node", "new/node/".to_owned(), &body)?).await
    }

    /// Changes a node (`POST node/{name}`).
    pub async fn update_node(&self, name: &str, update: &NodeUpdate) -> Result<(), Error> {
        let path = format!("node/{}", segment(name));
        self.order(&Call::post("node", path, update)?).await
    }

    /// Changes all nodes of a hostlist alike (`POST nodes/`), in one request.
    pub async fn update_nodes(&self, nodes: &str, update: &NodeUpdate) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            name: &'a str,
            #[serde(flatten)]
            update: &'a NodeUpdate,
        }
        let body = Body { name: nodes, update };
        self.order(&Call::post("nodes", "nodes/".to_owned(), &body)?).await
    }

    /// Has a partition that is made of node sets look again at who is in them (`POST partitions/`, since
    /// v0.0.45): a node whose features have changed stays where it was until then.
    pub async fn restate_partition(&self, partition: &Partition) -> Result<(), Error> {
        let nodes = json!({ "configured": partition.node_sets });
        let body = json!({ "partitions": [{ "name": partition.name, "nodes": nodes }] });
        self.order(&Call::post("partitions", "partitions/".to_owned(), &body)?).await
    }

    /// Makes a partition of node sets that slurm.conf has (`POST partitions/`, since v0.0.45); everything else of it is
    /// as Slurm has it by default. A name that exists is changed instead.
    pub async fn create_partition(&self, name: &str, node_sets: &[String]) -> Result<(), Error> {
        let nodes = json!({ "configured": node_sets.join(",") });
        let body = json!({ "partitions": [{ "name": name, "nodes": nodes }] });
        self.order(&Call::post("partitions", "partitions/".to_owned(), &body)?).await
    }

    /// Removes a partition (`DELETE partition/{name}`). Refused while jobs are in it.
    pub async fn delete_partition(&self, name: &str) -> Result<(), Error> {
        let path = format!("partition/{}", segment(name));
        self.order(&Call::delete("partition", path)).await
    }

    /// Removes a dynamic node. [`SlurmCode::NODES_BUSY`] while jobs are on it,
    /// [`SlurmCode::INVALID_NODE_NAME`] where there is none.
    pub async fn delete_node(&self, name: &str) -> Result<(), Error> {
        self.order(&Call::delete("node", format!("node/{}", segment(name)))).await
    }

    /// Removes all nodes of a hostlist that can be removed, in one request. The same codes as for one, where any
    /// of them stays or was not there; which, it does not say.
    pub async fn delete_nodes(&self, nodes: &str) -> Result<(), Error> {
        self.delete_node(nodes).await
    }

    /// All partitions (`GET partitions/`).
    pub async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let call = Call::get("partitions", "partitions/".to_owned());
        let answer: WirePartitions = self.read(&call).await?;
        Ok(answer.partitions.into_iter().filter_map(WirePartition::into_partition).collect())
    }

    /// One partition; `None` where slurmctld has none of this name.
    pub async fn partition(&self, name: &str) -> Result<Option<Partition>, Error> {
        let path = format!("partition/{}", segment(name));
        let reply = self.call(&Call::get("partition", path)).await?;
        let Some(reply) = found(reply)? else { return Ok(None) };
        // An unknown one is answered with a list that is empty, and a warning.
        let answer: WirePartitions = reply.read()?;
        let mut all = answer.partitions.into_iter().filter_map(WirePartition::into_partition);
        Ok(all.find(|partition| partition.name == name))
    }

    /// Stirs slurmctld so that freed nodes are given out within a second: an update of `node` that
    /// changes nothing (tried: 0.1-0.9 s instead of 17 s). Once after a batch of releases, never for
    /// each.
    pub async fn kick(&self, node: &str) -> Result<(), Error> {
        self.update_node(node, &NodeUpdate::default()).await
    }
}

/// `None` for "no such thing": error 2018, or HTTP 200 with a complaint that has no number.
fn found(reply: Reply) -> Result<Option<Reply>, Error> {
    match reply.accepted() {
        Ok(reply) => Ok(Some(reply)),
        Err(Error::Rejected { code: SlurmCode::INVALID_NODE_NAME, .. }) => Ok(None),
        Err(Error::Rejected { code: SlurmCode(0), status: 200, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
