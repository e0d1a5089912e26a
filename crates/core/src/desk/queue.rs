//! Slurm's queue as one list: who runs, then who waits, in the order in which Slurm looks at them.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::HashMap;

use serde::Serialize;

use super::{Partition, Workload};
use crate::follow::Report;
use crate::gang::Gang;
use crate::job::{BaseState, Job, JobId, Standing};
use crate::life::Phase;
use crate::outlook::{Waiter, positions};
use crate::reason::stands_aside;

/// One job of the queue: a placeholder, or an sbatch job; or a gang that has no job in Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its place among those that wait for its partition, from 1; 0 for one that does not wait, or not for nodes.
    pub position: u32,
    /// Its id; 0 for a gang that Slurm has no job for.
    pub job: u32,
    /// Its name.
    pub name: String,
    /// The workload it stands for; none for an sbatch job.
    pub workload: Option<Workload>,
    /// Partition or partitions.
    pub partition: String,
    /// Owner.
    pub user: String,
    /// Account.
    pub account: String,
    /// Base state by Slurm's name; without a job the gang's phase.
    pub state: String,
    /// Slurm's reason; without a job the word that its pods are told.
    pub reason: String,
    /// Slurm's free text beside it; without a job what its pods are told.
    pub description: String,
    /// Nodes it holds or asks for.
    pub nodes: u32,
    /// GPUs it holds or asks for, on all nodes.
    pub gpus: u32,
    /// Hostlist of the nodes it holds.
    pub hosts: String,
    /// Slurm's priority; 0 where it has none, and for what is held.
    pub priority: u32,
    /// Seconds since the epoch; 0 where unknown.
    pub submitted: i64,
    /// From when on it may start, as far as its begin time and what it depends on go; 0 where Slurm does not say.
    pub eligible: i64,
    /// How often it was requeued.
    pub restarts: u32,
    /// When it started, or is expected to; 0 where Slurm does not say.
    pub start: i64,
    /// When it ends at the latest; 0 where Slurm does not say.
    pub end: i64,
    /// Hostlist of the nodes that Slurm plans for it while it waits.
    pub planned: String,
}

impl Row {
    /// It waits in the queue.
    pub fn waits(&self) -> bool {
        self.state == BaseState::Pending.name()
    }

    /// Uid of the gang it stands for.
    pub fn gang(&self) -> Option<&str> {
        self.workload.as_ref().map(|own| own.gang.as_str())
    }

    /// `namespace/name` of its workload, or its job name.
    pub fn path(&self) -> String {
        self.workload.as_ref().map_or_else(|| self.name.clone(), Workload::path)
    }
}

/// Every job that is not over, in Slurm's order: those that hold nodes, then those that wait; of both the higher tier
/// of their partition first, then the higher priority, then the lower id.
pub fn rows<J: Borrow<Job>>(
    jobs: &[J],
    partitions: &[Partition],
    workload: impl Fn(&Job) -> Option<Workload>,
) -> Vec<Row> {
    let tiers: HashMap<&str, u32> =
        partitions.iter().map(|one| (one.name.as_str(), one.tier)).collect();
    let tier = |row: &Row| {
        let tiers = row.partition.split(',').filter_map(|name| tiers.get(name));
        tiers.max().copied().unwrap_or(0)
    };
    let all = jobs.iter().map(|job| -> &Job { job.borrow() });
    let live = all.filter(|job| job.standing() != Standing::Over);
    let mut rows: Vec<Row> = live.map(|job| row(job, workload(job))).collect();
    rows.sort_by_cached_key(|row| {
        (row.waits(), Reverse(tier(row)), Reverse(row.priority), row.job)
    });
    number(&mut rows);
    rows
}

/// A gang that Slurm has no job for: where it is in its life, and what its pods are told; with its pods where they are
/// wanted.
pub fn outside(gang: &Gang, phase: Phase, report: &Report, pods: bool) -> Row {
    let reason = if report.topic.is_empty() { report.reason } else { &report.topic };
    Row {
        workload: Some(Workload::of(gang, pods)),
        name: gang.name.clone(),
        partition: gang.ask.partition.clone().unwrap_or_default(),
        state: phase.name().to_uppercase(),
        reason: reason.to_owned(),
        description: report.message.clone(),
        ..Row::default()
    }
}

fn row(job: &Job, workload: Option<Workload>) -> Row {
    let pending = job.state.base == BaseState::Pending;
    Row {
        position: 0,
        job: job.id.0,
        name: job.name.clone(),
        workload,
        partition: job.partition.clone(),
        user: job.user.clone(),
        account: job.account.clone(),
        state: job.state.base.name().to_owned(),
        reason: job.reason.clone(),
        description: job.description.clone(),
        nodes: job.node_count,
        gpus: job.gpus,
        hosts: job.nodes.clone(),
        priority: job.priority.unwrap_or(0),
        submitted: job.submit_time,
        eligible: job.eligible_time,
        restarts: job.restarts,
        start: job.start_time,
        // While it waits this is the expected start and the time limit, which nobody asked for.
        end: if pending { 0 } else { job.end_time },
        planned: if pending { job.planned_nodes.clone() } else { String::new() },
    }
}

/// Says to each that waits which one it is for its partition, as its pods and its Gang say it.
fn number(rows: &mut [Row]) {
    let waiting = rows.iter().filter(|row| row.waits());
    let waiters: Vec<Waiter<'_>> = waiting
        .map(|row| Waiter {
            id: JobId(row.job),
            partition: &row.partition,
            priority: row.priority,
            aside: stands_aside(&row.reason),
        })
        .collect();
    let places = positions(&waiters);
    for row in rows {
        row.position = places.get(&JobId(row.job)).copied().unwrap_or(0);
    }
}
