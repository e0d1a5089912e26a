//! Jobs on the wire, and how they become `gangway-core`'s facts.
//!
//! It must never guess a device index: what it cannot read is an error.

mod finished;

use std::collections::{BTreeMap, HashMap};

use gangway_core::job::{Allocation, GresAllocation, Job, JobId, JobState, NodeAllocation, Part};
use serde::Deserialize;

use super::number::Number;
use super::or_default;

pub(crate) use finished::{WireFinished, WireFinishedJob};

/// `GET jobs/` and `GET job/{id}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireJobs {
    #[serde(deserialize_with = "or_default")]
    pub(crate) jobs: Vec<WireJob>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) last_update: Number,
}

/// One job of slurmctld.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireJob {
    #[serde(deserialize_with = "or_default")]
    job_id: Number,
    #[serde(deserialize_with = "or_default")]
    step_id: StepId,
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    job_state: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    state_reason: String,
    #[serde(deserialize_with = "or_default")]
    state_description: String,
    #[serde(deserialize_with = "or_default")]
    nodes: String,
    #[serde(deserialize_with = "or_default")]
    scheduled_nodes: String,
    #[serde(deserialize_with = "or_default")]
    partition: String,
    #[serde(deserialize_with = "or_default")]
    user_name: String,
    #[serde(deserialize_with = "or_default")]
    account: String,
    #[serde(deserialize_with = "or_default")]
    submit_time: Number,
    #[serde(deserialize_with = "or_default")]
    eligible_time: Number,
    #[serde(deserialize_with = "or_default")]
    accrue_time: Number,
    #[serde(deserialize_with = "or_default")]
    restart_cnt: Number,
    #[serde(deserialize_with = "or_default")]
    start_time: Number,
    #[serde(deserialize_with = "or_default")]
    end_time: Number,
    #[serde(deserialize_with = "or_default")]
    preempt_time: Number,
    #[serde(deserialize_with = "or_default")]
    failed_node: String,
    #[serde(deserialize_with = "or_default")]
    priority: Number,
    #[serde(deserialize_with = "or_default")]
    admin_comment: String,
    #[serde(deserialize_with = "or_default")]
    comment: String,
    #[serde(deserialize_with = "or_default")]
    flags: Vec<String>,
    /// The leader of the heterogeneous job it is a component of; 0 or unset for an ordinary job.
    #[serde(deserialize_with = "or_default")]
    het_job_id: Number,
    #[serde(deserialize_with = "or_default")]
    het_job_offset: Number,
    #[serde(deserialize_with = "or_default")]
    excluded_nodes: String,
    #[serde(deserialize_with = "or_default")]
    tres_per_node: String,
    #[serde(deserialize_with = "or_default")]
    node_count: Number,
    #[serde(deserialize_with = "or_default")]
    cpus: Number,
    #[serde(deserialize_with = "or_default")]
    memory_per_node: Number,
    #[serde(deserialize_with = "or_default")]
    memory_per_cpu: Number,
    #[serde(deserialize_with = "or_default")]
    tres_req_str: String,
    /// Empty while it waits.
    #[serde(deserialize_with = "or_default")]
    tres_alloc_str: String,
    /// One entry per node; empty without the flag DETAIL.
    #[serde(deserialize_with = "or_default")]
    gres_detail: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    job_resources: WireJobResources,
}

/// `job_resources` of a job record; empty without the flag DETAIL. Its map of cores is passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireJobResources {
    #[serde(deserialize_with = "or_default")]
    nodes: WireJobNodes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireJobNodes {
    #[serde(deserialize_with = "or_default")]
    allocation: Vec<WireJobNode>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireJobNode {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    cpus: WireJobCpus,
    #[serde(deserialize_with = "or_default")]
    memory: WireJobMemory,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireJobCpus {
    #[serde(deserialize_with = "or_default")]
    count: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireJobMemory {
    #[serde(deserialize_with = "or_default")]
    allocated: Number,
}

/// `step_id` of a job record, where Slurm's unique id rides.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StepId {
    #[serde(deserialize_with = "or_default")]
    sluid: String,
}

impl WireJob {
    /// The job as a fact; `None` where it has no id.
    pub(crate) fn into_job(self) -> Option<Job> {
        let held = Some(&self.tres_alloc_str).filter(|tres| !tres.is_empty());
        let node_count = self.node_count.count().unwrap_or(0);
        let cpus: u32 = self.cpus.count().unwrap_or(0);
        let by_cpu = |memory: u64| memory.saturating_mul(cpus.div_ceil(node_count.max(1)).into());
        let memory = self.memory_per_node.count();
        Some(Job {
            cpus,
            memory_mib: memory.or_else(|| self.memory_per_cpu.count().map(by_cpu)).unwrap_or(0),
            gpus: gpus(held.unwrap_or(&self.tres_req_str)),
            id: JobId(self.job_id.count().filter(|&id| id > 0)?),
            sluid: self.step_id.sluid,
            name: self.name,
            state: JobState::parse(&self.job_state),
            reason: if self.state_reason == "None" { String::new() } else { self.state_reason },
            description: self.state_description,
            nodes: self.nodes,
            planned_nodes: self.scheduled_nodes,
            partition: self.partition,
            user: self.user_name,
            account: self.account,
            submit_time: self.submit_time.seconds(),
            eligible_time: self.eligible_time.seconds(),
            accrue_time: self.accrue_time.seconds(),
            restarts: self.restart_cnt.count().unwrap_or(0),
            start_time: self.start_time.seconds(),
            end_time: self.end_time.seconds(),
            preempt_time: self.preempt_time.seconds(),
            failed_nodes: self.failed_node,
            priority: self.priority.count(),
            admin_comment: self.admin_comment,
            comment: self.comment,
            external: self.flags.iter().any(|flag| flag == "EXTERNAL_JOB"),
            parts: Vec::new(),
            excluded_nodes: self.excluded_nodes,
            tres_per_node: self.tres_per_node,
            node_count,
        })
    }

    /// What the job was granted on each of its nodes, where the record was asked for in detail and
    /// all of it can be read.
    fn granted(&self) -> Option<Allocation> {
        let nodes = &self.job_resources.nodes.allocation;
        if nodes.is_empty() || nodes.len() != self.gres_detail.len() {
            return None;
        }
        let node = |(node, gres): (&WireJobNode, &String)| {
            Some(NodeAllocation {
                name: Some(node.name.clone()).filter(|name| !name.is_empty())?,
                cpus: node.cpus.count.count()?,
                memory_mib: node.memory.allocated.count()?,
                gres: gres_detail(gres)?,
            })
        };
        let nodes = nodes.iter().zip(&self.gres_detail).map(node);
        Some(Allocation { nodes: nodes.collect::<Option<_>>()? })
    }
}

impl WireJobs {
    /// The ids that are named.
    #[cfg(feature = "testing")]
    pub(crate) fn ids(&self) -> impl Iterator<Item = JobId> {
        self.jobs.iter().filter_map(|job| job.job_id.count().map(JobId))
    }

    /// What one of the jobs was granted, where that can be read.
    pub(crate) fn granted(&self, id: JobId) -> Option<Allocation> {
        self.jobs.iter().find(|job| job.job_id.count() == Some(id.0))?.granted()
    }

    /// The jobs as facts: the components of a heterogeneous job are parts of its leader. One whose
    /// leader is not in this answer stands for itself.
    pub(crate) fn into_jobs(self) -> Vec<Job> {
        let mut jobs = Vec::with_capacity(self.jobs.len());
        let mut parts: HashMap<u32, BTreeMap<u32, Job>> = HashMap::new();
        for wire in self.jobs {
            let leader = wire.het_job_id.count().filter(|&id| id > 0);
            let offset = wire.het_job_offset.count().unwrap_or(0);
            let Some(job) = wire.into_job() else { continue };
            match leader {
                Some(leader) => drop(parts.entry(leader).or_default().insert(offset, job)),
                None => jobs.push(job),
            }
        }
        for (leader, parts) in parts {
            match parts.get(&0).filter(|first| first.id.0 == leader).cloned() {
                Some(first) => jobs.push(lead(first, parts.into_values())),
                None => jobs.extend(parts.into_values()),
            }
        }
        jobs
    }
}

/// A leader with its components.
fn lead(leader: Job, components: impl Iterator<Item = Job>) -> Job {
    let mut failed = Vec::new();
    let mut preempted = (leader.preempt_time, leader.end_time);
    let (mut node_count, mut gpus) = (0, 0);
    let part = |job: Job| {
        // They end together, so it is enough that one of them has to go.
        if preempted.0 == 0 && job.preempt_time > 0 {
            preempted = (job.preempt_time, job.end_time);
        }
        node_count = job.node_count.saturating_add(node_count);
        gpus = job.gpus.saturating_add(gpus);
        failed.extend(Some(job.failed_nodes).filter(|nodes| !nodes.is_empty()));
        Part {
            id: job.id,
            state: job.state,
            nodes: job.nodes,
            admin_comment: job.admin_comment,
            excluded_nodes: job.excluded_nodes,
            tres_per_node: job.tres_per_node,
            node_count: job.node_count,
            cpus: job.cpus,
            memory_mib: job.memory_mib,
        }
    };
    let parts: Vec<Part> = components.map(part).collect();
    let held = parts.iter().map(|p| p.nodes.as_str()).filter(|nodes| !nodes.is_empty());
    let nodes = held.collect::<Vec<_>>().join(",");
    let (preempt_time, end_time) = preempted;
    let failed_nodes = failed.join(",");
    Job { nodes, failed_nodes, preempt_time, end_time, node_count, gpus, parts, ..leader }
}

/// The GPUs in `cpu=2,mem=1G,node=1,gres/gpu=8,gres/gpu:h100=8`: the sum that Slurm writes, or, where it accounts for
/// types alone, that of the types.
fn gpus(tres: &str) -> u32 {
    let count = |word: &str| word.split_once('=').and_then(|(_, n)| n.parse::<u32>().ok());
    let words = || tres.split(',');
    let all = words().find(|word| word.starts_with("gres/gpu=")).and_then(count);
    let typed = || words().filter(|word| word.starts_with("gres/gpu:")).filter_map(count);
    all.unwrap_or_else(|| typed().fold(0, u32::saturating_add))
}

/// `GET jobs/state/`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireStates {
    /// `None` where the answer has no list at all: then nothing is known.
    pub(crate) jobs: Option<Vec<WireState>>,
}

/// One job's state.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireState {
    #[serde(deserialize_with = "or_default")]
    job_id: StateId,
    #[serde(deserialize_with = "or_default")]
    state: Vec<String>,
}

/// The job id in `jobs/state`: a string, `"18"`, or `"18+1"` for component 1 of a heterogeneous job
/// whose own job id is 18. Array tasks (`"5_1"`) are no placeholders and are left out.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "IdForm")]
struct StateId(Option<u32>);

#[derive(Deserialize)]
#[serde(untagged)]
enum IdForm {
    Text(String),
    Number(Number),
}

impl From<IdForm> for StateId {
    fn from(form: IdForm) -> Self {
        let id = match form {
            IdForm::Text(text) => {
                let own = text.split_once('+').map_or(text.as_str(), |(own, _offset)| own);
                own.parse().ok()
            }
            IdForm::Number(number) => number.count(),
        };
        Self(id.filter(|&id| id > 0))
    }
}

impl WireState {
    /// Id and state; `None` for what has no job id of its own.
    pub(crate) fn into_state(self) -> Option<(JobId, JobState)> {
        Some((JobId(self.job_id.0?), JobState::parse(&self.state)))
    }
}

/// `GET resources/{id}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireResources {
    #[serde(deserialize_with = "or_default")]
    pub(crate) nodes: Vec<WireNodeResources>,
}

/// What was granted on one node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireNodeResources {
    #[serde(deserialize_with = "or_default")]
    node: String,
    #[serde(deserialize_with = "or_default")]
    mem_alloc: Number,
    #[serde(deserialize_with = "or_default")]
    core_bitmap: String,
    #[serde(deserialize_with = "or_default")]
    gres: Vec<WireGres>,
}

/// One generic resource of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireGres {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    count: Number,
    #[serde(deserialize_with = "or_default")]
    index: String,
}

impl WireResources {
    /// The allocation as a fact, or what of it makes no sense.
    pub(crate) fn into_allocation(self) -> Result<Allocation, String> {
        let nodes = self.nodes.into_iter().map(WireNodeResources::into_node);
        Ok(Allocation { nodes: nodes.collect::<Result<_, _>>()? })
    }
}

impl WireNodeResources {
    fn into_node(self) -> Result<NodeAllocation, String> {
        if self.node.is_empty() {
            return Err("a node without a name".to_owned());
        }
        let cpus = bits(&self.core_bitmap)
            .ok_or_else(|| format!("core_bitmap {:?} of {}", self.core_bitmap, self.node))?;
        let mut gres = Vec::with_capacity(self.gres.len());
        for one in self.gres {
            let indexes = indexes(&one.index)
                .ok_or_else(|| format!("index {:?} of {} on {}", one.index, one.name, self.node))?;
            let count = one.count.count().unwrap_or_else(|| indexes.len().try_into().unwrap_or(0));
            gres.push(GresAllocation { name: one.name, kind: one.kind, count, indexes });
        }
        let memory_mib = self.mem_alloc.count().unwrap_or(0);
        Ok(NodeAllocation { name: self.node, cpus, memory_mib, gres })
    }
}

/// Bits set in `0x…`.
fn bits(bitmap: &str) -> Option<u32> {
    let digits = bitmap.strip_prefix("0x").unwrap_or(bitmap);
    digits.chars().map(|digit| digit.to_digit(16).map(u32::count_ones)).sum()
}

/// More devices than any node has: ranges beyond it, one or all together, are nonsense, not a list to build.
const MOST_DEVICES: usize = 65_536;

/// `0-3,5` as numbers, ascending; empty for a resource that is only counted.
pub(crate) fn indexes(text: &str) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || found.len() + (last - first) as usize >= MOST_DEVICES {
            return None;
        }
        found.extend(first..=last);
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

/// The generic resources of one node as in `gres_detail`: `gpu:h100:2(IDX:0,4),efa:8(IDX:0-7)`, or
/// `(CNT:8)` where the devices are only counted. `None` for anything else.
pub(crate) fn gres_detail(text: &str) -> Option<Vec<GresAllocation>> {
    let mut found = Vec::new();
    let mut more = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (head, tail) = rest.split_once('(')?;
        let (which, tail) = tail.split_once(')')?;
        let mut words = head.split(':');
        let (name, kind, count) = match (words.next()?, words.next()?, words.next()) {
            (name, kind, Some(count)) => (name, kind, count),
            (name, count, None) => (name, "", count),
        };
        let indexes = match which.split_once(':')? {
            ("IDX", which) => indexes(which).filter(|all| !all.is_empty())?,
            ("CNT", _) => Vec::new(),
            _ => return None,
        };
        more += indexes.len();
        if name.is_empty() || words.next().is_some() || more > MOST_DEVICES {
            return None;
        }
        let (name, kind) = (name.to_owned(), kind.to_owned());
        found.push(GresAllocation { name, kind, count: count.parse().ok()?, indexes });
        rest = tail.strip_prefix(',').unwrap_or(tail);
    }
    Some(found)
}

/// `DELETE job/{id}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireKill {
    #[serde(deserialize_with = "or_default")]
    pub(crate) status: Vec<WireKillStatus>,
}

/// What became of one job that was to be ended.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireKillStatus {
    #[serde(deserialize_with = "or_default")]
    pub(crate) error: WireKillError,
}

/// Its error: shaped unlike every other error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireKillError {
    #[serde(deserialize_with = "or_default")]
    pub(crate) code: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) message: String,
}

#[cfg(test)]
mod tests;
