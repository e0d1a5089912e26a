//! What is told of jobs that wait, beside what Slurm says of each by itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use gangway_core::job::{BaseState, Job, JobId};
use gangway_core::outlook::{Waiter, positions};

use super::Board;

/// How a job that waits stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Its place in its partition's queue, from 1; 0 where that is not known.
    pub(crate) position: u32,
    /// What it needs, and what of that there is.
    pub(crate) words: String,
    /// What its priority is made of, and which that was.
    pub(crate) factors: (u32, String),
}

impl Board {
    /// What was said last of a job.
    pub(crate) fn outlook(&self, job: JobId) -> Outlook {
        self.inner().outlooks.get(&job).cloned().unwrap_or_default()
    }

    /// Says something of a job; whoever watches it hears it. Whether it was news.
    pub(crate) fn foresee(&self, job: JobId, outlook: Outlook) -> bool {
        let mut inner = self.inner();
        if *inner.outlooks.entry(job).or_default() == outlook {
            return false;
        }
        inner.outlooks.insert(job, outlook);
        if let Some((stamp, job)) = inner.stamped.find(job) {
            // Nobody listening is fine.
            let _ = self.changes.send((stamp.clone(), job.clone()));
        }
        true
    }

    /// Forgets what was said of others.
    pub(crate) fn keep_outlooks(&self, waiting: &HashSet<JobId>) {
        self.inner().outlooks.retain(|id, _| waiting.contains(id));
    }

    /// How many placeholders of a gang others have preempted, of those that Slurm remembers.
    pub(crate) fn preemptions(&self, cluster: &str, gang: &str) -> u32 {
        let inner = self.inner();
        let preempted = |(_, job): &&(_, Arc<Job>)| *job.ending() == BaseState::Preempted;
        let count = inner.stamped.of(cluster, gang).filter(preempted).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Where those that wait stand, by the last list of all jobs and the last states.
    pub(crate) fn positions(&self) -> HashMap<JobId, u32> {
        let inner = self.inner();
        let pending = inner.partitions.iter().filter(|(id, _)| {
            inner.states.get(id).is_some_and(|state| state.base == BaseState::Pending)
        });
        // Components of a heterogeneous job count once, as its leader.
        let waiters: Vec<Waiter<'_>> = pending
            .filter_map(|(id, (partition, aside, priority))| {
                Some(Waiter { id: *id, partition, priority: (*priority)?, aside: *aside })
            })
            .collect();
        positions(&waiters)
    }
}
