//! GPU hours: who has used how much in a time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Efficiency;

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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Of whom.
    pub key: String,
    /// How many jobs.
    pub jobs: u32,
    /// GPUs times seconds.
    pub gpu_seconds: u64,
    /// Nodes times seconds.
    pub node_seconds: u64,
    /// What its devices did meanwhile, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efficiency: Option<Efficiency>,
}

/// What was used from `from` to `to`, only the seconds between the two, most GPU time first. One that runs still is
/// counted to the end of the range or to `now`.
pub fn usage(spent: &[Spent], by: By, range: (i64, i64), now: i64) -> Vec<Usage> {
    let mut sums: BTreeMap<String, Usage> = BTreeMap::new();
    for job in spent {
        let seconds = job.seconds(range, now);
        if seconds > 0 {
            let key = job.key(by);
            let sum = sums.entry(key.clone()).or_insert_with(|| Usage { key, ..Usage::default() });
            sum.count(job, seconds);
        }
    }
    sorted(sums.into_values().collect())
}

/// Most GPU time first.
pub(super) fn sorted(mut sums: Vec<Usage>) -> Vec<Usage> {
    sums.sort_by(|a, b| {
        let most = (b.gpu_seconds, b.node_seconds).cmp(&(a.gpu_seconds, a.node_seconds));
        most.then_with(|| crate::order::natural(&a.key, &b.key))
    });
    sums
}

impl Spent {
    /// For how long it held its nodes in this time.
    pub(super) fn seconds(&self, (from, to): (i64, i64), now: i64) -> u64 {
        if self.start == 0 {
            return 0;
        }
        // Of one that runs, accounting says the end of the time it is asked about, which may be yet to come.
        let end = if self.end > 0 { self.end } else { now };
        // One that was cancelled while it waited has begun when it ended, to accounting.
        u64::try_from(end.min(to).min(now).saturating_sub(self.start.max(from))).unwrap_or(0)
    }

    /// Under which name it is summed up.
    pub(super) fn key(&self, by: By) -> String {
        match by {
            By::User => self.user.clone(),
            By::Account => self.account.clone(),
            By::Namespace if self.namespace.is_empty() => "-".to_owned(),
            By::Namespace => self.namespace.clone(),
            By::Job => self.job.to_string(),
        }
    }
}

impl Usage {
    /// One job more.
    pub(super) fn count(&mut self, job: &Spent, seconds: u64) {
        self.jobs += 1;
        let held = |devices: u32| u64::from(devices).saturating_mul(seconds);
        self.gpu_seconds = self.gpu_seconds.saturating_add(held(job.gpus));
        self.node_seconds = self.node_seconds.saturating_add(held(job.nodes));
    }
}
