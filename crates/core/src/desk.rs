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
pub use explain::{Explanation, explain, explain_outside, find};
pub use holders::{Held, Holder, NodeRow, Seated, Taken, nodes};
pub use question::{
    BadGres, WHAT_IF, WhatIf, ballast, choice, guard, read_gres, read_minutes, trial,
};
pub use queue::{Row, outside, rows};
pub use spent::{By, Spent, Usage, usage};

use crate::gang::Gang;
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

    /// What a gang is of, with its pods where they are wanted.
    pub fn of(gang: &Gang, pods: bool) -> Self {
        let pods = if pods { gang.members.as_slice() } else { &[] };
        Self {
            namespace: gang.namespace.clone(),
            kind: gang.kind.clone(),
            name: gang.name.clone(),
            gang: gang.uid.clone(),
            pods: pods.iter().map(|member| member.name.clone()).collect(),
        }
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
