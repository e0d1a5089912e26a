//! GPU hours: who has used how much in a time.

use std::collections::BTreeMap;

use serde::Serialize;

/// A job as accounting remembers it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Its id.
    pub job: u32,
    /// Owner.
    pub user: String,
    /// Account.
    pub account: String,
    /// Namespace of its workload; empty for an sbatch job.
    pub namespace: String,
    /// GPUs it held.
    pub gpus: u32,
    /// Nodes it held.
    pub nodes: u32,
    /// Seconds since the epoch; 0 where it never started.
    pub start: i64,
    /// Seconds since the epoch; 0 where it runs still.
    pub end: i64,
}

/// By what it is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Slurm's users.
    User,
    /// Slurm's accounts.
    Account,
    /// Namespaces in Kubernetes; sbatch jobs are together as `-`.
    Namespace,
    /// Slurm's job ids.
    Job,
}

/// A sum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Of whom.
    pub key: String,
    /// How many jobs.
    pub jobs: u32,
    /// GPUs times seconds.
    pub gpu_seconds: u64,
    /// Nodes times seconds.
    pub node_seconds: u64,
}

/// What was used from `from` to `to`, only the seconds between the two, most GPU time first. One that runs still is
/// counted to the end of the range or to `now`.
pub fn usage(spent: &[Spent], by: By, (from, to): (i64, i64), now: i64) -> Vec<Usage> {
    let mut sums: BTreeMap<String, Usage> = BTreeMap::new();
    for job in spent.iter().filter(|job| job.start > 0) {
        let end = if job.end > 0 { job.end } else { now };
        // One that was cancelled while it waited has begun when it ended, to accounting.
        let seconds = u64::try_from(end.min(to).saturating_sub(job.start.max(from))).unwrap_or(0);
        if seconds == 0 {
            continue;
        }
        let key = match by {
            By::User => job.user.clone(),
            By::Account => job.account.clone(),
            By::Namespace if job.namespace.is_empty() => "-".to_owned(),
            By::Namespace => job.namespace.clone(),
            By::Job => job.job.to_string(),
        };
        let sum = sums
            .entry(key)
            .or_insert_with_key(|key| Usage { key: key.clone(), ..Usage::default() });
        sum.jobs += 1;
        sum.gpu_seconds =
            sum.gpu_seconds.saturating_add(u64::from(job.gpus).saturating_mul(seconds));
        sum.node_seconds =
            sum.node_seconds.saturating_add(u64::from(job.nodes).saturating_mul(seconds));
    }
    let mut sums: Vec<Usage> = sums.into_values().collect();
    sums.sort_by(|a, b| {
        let most = (b.gpu_seconds, b.node_seconds).cmp(&(a.gpu_seconds, a.node_seconds));
        most.then_with(|| crate::order::natural(&a.key, &b.key))
    });
    sums
}
