//! A job of the fake: what was asked, what it was given, and its record as slurmrestd prints it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Devices that are asked for: name, type (empty for any), count.
pub(crate) type GresAsked = (String, String, u32);

/// What a job asks of each of its nodes, and of how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shape {
    /// Nodes.
    pub nodes: u32,
    pub(crate) tasks_per_node: u32,
    pub(crate) cpus_per_task: u32,
    pub(crate) memory_mib: u64,
    pub(crate) gres: Vec<GresAsked>,
}

impl Shape {
    pub(crate) fn cpus(&self) -> u32 {
        self.tasks_per_node * self.cpus_per_task
    }
}

/// Devices of one kind: what a node has, or which of them a job was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gres {
    /// Its name.
    pub name: String,
    /// Its type; empty for none.
    pub kind: String,
    /// How many.
    pub count: u32,
    /// Which; empty on a node.
    pub indexes: BTreeSet<u32>,
}

/// What a job was given on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Granted {
    /// The node.
    pub node: String,
    /// Devices.
    pub gres: Vec<Gres>,
}

/// One job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// Its id.
    pub id: u32,
    /// Slurm's own unique id of the submission.
    pub sluid: String,
    /// Its name.
    pub name: String,
    /// Base state by Slurm's name.
    pub state: &'static str,
    /// Why it waits or ended.
    pub reason: &'static str,
    /// What it holds, or held.
    pub granted: Vec<Granted>,
    /// When it started, milliseconds since the epoch; 0 for not.
    pub started_ms: i64,
    /// When it ended; 0 for not.
    pub ended_ms: i64,
    /// The key, where only SlurmUser writes.
    pub admin_comment: String,
    /// The key as the owner wrote it.
    pub comment: String,
    /// Its partition.
    pub partition: String,
    /// What it asks for.
    pub shape: Shape,
    pub(crate) user: String,
    pub(crate) account: String,
    pub(crate) external: bool,
    pub(crate) excluded: BTreeSet<String>,
    pub(crate) submitted_ms: i64,
    pub(crate) limit_ms: Option<i64>,
    /// How long an sbatch job runs.
    pub(crate) runs_ms: Option<i64>,
}

impl Job {
    /// It holds its nodes.
    pub fn is_running(&self) -> bool {
        self.state == "RUNNING"
    }

    /// It waits.
    pub fn is_pending(&self) -> bool {
        self.state == "PENDING"
    }

    /// It is over.
    pub fn is_over(&self) -> bool {
        !self.is_running() && !self.is_pending()
    }

    /// The key it carries.
    pub fn key(&self) -> &str {
        if self.admin_comment.is_empty() { &self.comment } else { &self.admin_comment }
    }

    /// The nodes it holds or held.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.granted.iter().map(|granted| granted.node.as_str())
    }

    /// The record in `jobs` and `job/{id}`.
    pub(crate) fn record(&self, detail: bool) -> Value {
        let seconds = |ms: i64| set(ms / 1000);
        let ends = match (self.ended_ms, self.limit_ms) {
            (0, Some(limit)) if self.started_ms > 0 => self.started_ms + limit,
            (ended, _) => ended,
        };
        let mut record = json!({
            "job_id": self.id,
            "step_id": {"sluid": self.sluid},
            "name": self.name,
            "job_state": [self.state],
            "state_reason": if self.reason.is_empty() { "None" } else { self.reason },
            "state_description": "",
            "nodes": self.nodes().collect::<Vec<_>>().join(","),
            "partition": self.partition,
            "user_name": self.user,
            "account": self.account,
            "submit_time": seconds(self.submitted_ms),
            "eligible_time": seconds(self.submitted_ms),
            "start_time": seconds(self.started_ms),
            "end_time": seconds(ends),
            "priority": set(1),
            "admin_comment": self.admin_comment,
            "comment": self.comment,
            "flags": if self.external { &["EXTERNAL_JOB"][..] } else { &[] },
            "het_job_id": set(0),
            "tres_per_node": self.shape.tres_per_node(),
            "node_count": set(self.shape.nodes.into()),
            "cpus": set(self.shape.cpus().saturating_mul(self.shape.nodes).into()),
            "memory_per_node": set(i64::try_from(self.shape.memory_mib).unwrap_or(i64::MAX)),
            "tres_req_str": self.shape.tres(),
            "tres_alloc_str": if self.is_running() { self.shape.tres() } else { String::new() },
            "excluded_nodes": self.excluded.iter().map(String::as_str).collect::<Vec<_>>().join(","),
        });
        if detail && self.is_running() {
            record["gres_detail"] = self.granted.iter().map(Granted::detail).collect();
            let (cpus, memory) = (self.shape.cpus(), self.shape.memory_mib);
            let node = |granted: &Granted| {
                json!({"name": granted.node, "cpus": {"count": cpus},
                    "memory": {"allocated": memory}})
            };
            let nodes: Vec<Value> = self.granted.iter().map(node).collect();
            record["job_resources"] = json!({"nodes": {"allocation": nodes}});
        }
        record
    }

    /// The record in `slurmdb/job/{id}`.
    pub(crate) fn remembered(&self) -> Value {
        json!({
            "job_id": self.id,
            "sluid": self.sluid,
            "name": self.name,
            "user": self.user,
            "account": self.account,
            "partition": self.partition,
            "allocation_nodes": self.shape.nodes,
            "tres": {"allocated": [
                {"type": "node", "name": "", "count": self.shape.nodes},
                {"type": "gres", "name": "gpu", "count": self.shape.gpus()},
            ]},
            "nodes": self.nodes().collect::<Vec<_>>().join(","),
            "state": {"current": [self.state], "reason": "None"},
            "comment": {"administrator": self.admin_comment, "job": self.comment},
            "time": {"submission": self.submitted_ms / 1000, "start": self.started_ms / 1000,
                "end": self.ended_ms / 1000},
        })
    }

    /// What it was given, as in `resources/{id}`.
    pub(crate) fn resources(&self) -> Value {
        let bits = self.shape.cpus();
        let rest = if bits.is_multiple_of(4) {
            String::new()
        } else {
            format!("{:X}", (1 << (bits % 4)) - 1)
        };
        let bitmap = format!("0x{rest}{}", "F".repeat((bits / 4) as usize));
        let node = |granted: &Granted| {
            let gres = |gres: &Gres| {
                json!({"name": gres.name, "type": gres.kind, "count": gres.count,
                    "index": ranges(&gres.indexes)})
            };
            json!({"node": granted.node, "mem_alloc": self.shape.memory_mib,
                "core_bitmap": bitmap, "gres": granted.gres.iter().map(gres).collect::<Vec<_>>()})
        };
        json!({"nodes": self.granted.iter().map(node).collect::<Vec<_>>()})
    }
}

impl Granted {
    /// `gpu:h100:2(IDX:0-1),efa:8(IDX:0-7)`.
    fn detail(&self) -> String {
        self.gres.iter().map(|gres| gres.used(&gres.indexes)).collect::<Vec<_>>().join(",")
    }
}

impl Gres {
    /// `gpu:h100:2(IDX:0-1)`: these of them.
    pub(crate) fn used(&self, indexes: &BTreeSet<u32>) -> String {
        let kind = if self.kind.is_empty() { String::new() } else { format!(":{}", self.kind) };
        let which = if indexes.is_empty() { "N/A".to_owned() } else { ranges(indexes) };
        format!("{}{kind}:{}(IDX:{which})", self.name, indexes.len())
    }
}

impl Shape {
    /// GPUs on all nodes.
    fn gpus(&self) -> u32 {
        let each = self.gres.iter().filter(|g| g.0 == "gpu").map(|g| g.2);
        each.fold(0, u32::saturating_add).saturating_mul(self.nodes)
    }

    /// `cpu=4,node=2,gres/gpu=16`: of all nodes.
    fn tres(&self) -> String {
        let (nodes, cpus) = (self.nodes, self.cpus().saturating_mul(self.nodes));
        format!("cpu={cpus},node={nodes},gres/gpu={}", self.gpus())
    }

    /// `gres/gpu:h100=8,gres/efa=32`.
    fn tres_per_node(&self) -> String {
        let one = |(name, kind, count): &GresAsked| match kind.as_str() {
            "" => format!("gres/{name}={count}"),
            kind => format!("gres/{name}:{kind}={count}"),
        };
        self.gres.iter().map(one).collect::<Vec<_>>().join(",")
    }
}

/// A number as slurmrestd prints most of them.
pub(crate) fn set(number: i64) -> Value {
    json!({"set": true, "infinite": false, "number": number})
}

fn ranges(indexes: &BTreeSet<u32>) -> String {
    gangway_core::place::ranges(&indexes.iter().copied().collect::<Vec<_>>())
}
