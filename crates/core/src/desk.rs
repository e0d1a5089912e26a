//! What a person at a terminal is told: Slurm's queue with pods and sbatch jobs in one list, why a job waits, who holds
//! which device, and what was used.
//!
//! Pure values, made from what Slurm and the bridge know and drawn by the command line. Nothing here may change
//! anything, or guess: what Slurm does not say stays empty.

mod efficiency;
mod explain;
mod holders;
mod question;
mod queue;
mod spent;

use serde::Serialize;

pub use efficiency::{Efficiency, Measured, Sample, Series, efficiency, measured};
pub use explain::{Explanation, explain, find};
pub use holders::{Held, Holder, NodeRow, Seated, Taken, nodes};
pub use question::{
    BadGres, WHAT_IF, WhatIf, ballast, choice, guard, read_gres, read_minutes, trial,
};
pub use queue::{Row, rows};
pub use spent::{By, Spent, Usage, usage};

use crate::placeholder::Stamp;

/// The workload in Kubernetes that a placeholder stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// `Job`, `PyTorchJob`, `Pod` …; empty where only Slurm's record is known.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The gang's uid.
    pub gang: String,
    /// Its pods as they are known, in rank order.
    pub pods: Vec<String>,
}

impl Workload {
    /// As far as Slurm's record tells: a placeholder carries the gang's uid in its stamp, and namespace and name as its
    /// job name unless the user chose another.
    pub fn named(stamp: &Stamp, job_name: &str) -> Self {
        let (namespace, name) = job_name.split_once('/').unwrap_or(("", job_name));
        let (namespace, name, gang) = (namespace.into(), name.into(), stamp.gang.clone());
        Self { namespace, name, gang, ..Self::default() }
    }

    /// `namespace/name`.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() {
            return self.name.clone();
        }
        format!("{}/{}", self.namespace, self.name)
    }
}

/// What is known of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Jobs of a higher tier go first.
    pub tier: u32,
    /// Whether it starts jobs.
    pub up: bool,
}

/// What is known of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Slurm's name of it.
    pub name: String,
    /// Base state and flags by Slurm's names.
    pub state: Vec<String>,
    /// Why it is drained or down.
    pub reason: String,
    /// Partitions it is in.
    pub partitions: Vec<String>,
    /// CPUs it has, and how many of them jobs have.
    pub cpus: (u32, u32),
    /// GPUs it has.
    pub gpus: u32,
    /// Which of them jobs have, ascending.
    pub taken: Vec<u32>,
    /// How many of them jobs have: more than are named where Slurm only counts.
    pub gpus_taken: u32,
}

impl Host {
    /// Whether Slurm lists this base state or flag.
    fn is(&self, state: &str) -> bool {
        self.state.iter().any(|one| one == state)
    }

    /// In service: it takes jobs, or could once there is room.
    fn serves(&self) -> bool {
        !["DOWN", "DRAIN", "NOT_RESPONDING", "ERROR", "FAIL", "MAINTENANCE"]
            .iter()
            .any(|state| self.is(state))
    }
}

/// `gpu:h100:8,efa:32` as a number of GPUs.
pub fn gpus_of(gres: &str) -> u32 {
    let one = |word: &str| {
        let word = word.split('(').next().unwrap_or_default();
        let mut parts = word.split(':');
        (parts.next() == Some("gpu")).then(|| parts.next_back()?.parse::<u32>().ok())?
    };
    gres.split(',').filter_map(one).fold(0, u32::saturating_add)
}

/// Whether two lists of partitions, separated by commas, have one in common.
fn share(a: &str, b: &str) -> bool {
    a.split(',').any(|one| b.split(',').any(|other| one == other))
}

/// Seconds as people say them: `45s`, `12m`, `3h05m`, `2d04h`.
pub fn lasting(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m"),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests;
