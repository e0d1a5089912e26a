//! Another bridge that believes it leads may have made a placeholder of the same gang: which of them is
//! followed, and what the end of the other says.
//!
//! Decides nothing (that is `core::placeholder::next`); it sees to it that the decision is made anew when
//! there is something new to decide about.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gangway_core::gang::Gang;
use gangway_core::job::{BaseState, Job, JobId, Standing};
use gangway_core::placeholder::{Stamp, Step, is_believed, next};
use gangway_core::policy::grant;
use gangway_slurm::Error;
use tokio::sync::broadcast::error::RecvError;

use crate::queue::{Entry, Key, Queue, bound_for};

impl Queue {
    /// The placeholders of a gang, without jobs that only say they are.
    pub(super) fn placeholders(&self, entry: &Entry, gang: &Gang) -> Vec<(Stamp, Job)> {
        let mut listed = self.board.listed(&entry.key.cluster, &gang.uid);
        if listed.iter().all(|(_, job)| !job.admin_comment.is_empty()) {
            return listed;
        }
        let granted = grant(&self.policy.borrow(), &gang.namespace, &gang.ask).ok();
        let user = granted.as_ref().map(|granted| granted.user.as_str());
        listed.retain(|(_, job)| {
            let believed = is_believed(job, gang, user);
            if !believed {
                tracing::warn!(
                    job = job.id.0,
                    user = job.user,
                    "a job of somebody else says it is a placeholder of this gang"
                );
            }
            believed
        });
        listed
    }

    /// Reads the placeholders that members are bound for, where another bridge made them and they were
    /// never listed here.
    pub(super) async fn learn(&self, entry: &Entry, gang: &Gang) -> Result<(), Error> {
        let bound: BTreeSet<JobId> = bound_for(gang).filter(|job| job.0 != 0).collect();
        if bound.is_empty() {
            return Ok(());
        }
        let listed = self.placeholders(entry, gang);
        for job in bound.into_iter().filter(|job| listed.iter().all(|(_, j)| j.id != *job)) {
            // A job that Slurm does not know, or another's, changes nothing.
            self.board.read(job).await?;
        }
        Ok(())
    }

    /// Whether something else is to be done for the gang, as it is now, than to follow this job.
    pub(super) fn reconsiders(&self, entry: &Entry, job: JobId) -> bool {
        let gang = entry.gang();
        let listed = self.placeholders(entry, &gang);
        // One that was submitted a moment ago is not listed yet.
        if listed.iter().all(|(_, j)| j.id != job) {
            return false;
        }
        let unknown = |of: JobId| of.0 != 0 && listed.iter().all(|(_, j)| j.id != of);
        let (step, duplicates) = next(&entry.key.cluster, &gang, &listed);
        let same = matches!(step, Step::Follow { job: followed, .. } if followed == job);
        !same || !duplicates.is_empty() || bound_for(&gang).any(unknown)
    }

    /// Whether the gang was asked for anew since it was decided to follow this job, and something else is to be done
    /// for it now. News of Slurm may come before whoever asked has woken us.
    pub(super) fn asked_otherwise(&self, entry: &Entry, job: JobId) -> bool {
        let number = entry.asked().1;
        entry.weighed.swap(number, Ordering::Relaxed) != number && self.reconsiders(entry, job)
    }

    /// Whether the gang has another live placeholder than this.
    pub(super) fn others(&self, entry: &Entry, job: JobId) -> bool {
        let listed = self.placeholders(entry, &entry.gang());
        listed.iter().any(|(_, other)| other.id != job && other.standing() != Standing::Over)
    }

    /// Whether a placeholder that has ended was the one too many: its end says nothing of the pods.
    pub(super) async fn superseded(&self, entry: &Entry, job: &Job) -> bool {
        // Such a one is only ever cancelled.
        if entry.releasing().is_some() || *job.ending() != BaseState::Cancelled {
            return false;
        }
        if Stamp::of(job).is_some_and(|stamp| stamp.is_given_back()) {
            return true;
        }
        tokio::select! {
            biased;
            () = self.board.list_again() => {}
            () = self.stop.cancelled() => {}
        }
        self.others(entry, job.id)
    }

    /// Wakes whoever follows a gang of which another placeholder has turned up.
    pub(crate) async fn keep_single(self: Arc<Self>) -> anyhow::Result<()> {
        let mut changes = self.board.changes();
        loop {
            let change = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                change = changes.recv() => change,
            };
            match change {
                Ok((stamp, job)) if job.standing() != Standing::Over => {
                    let key = Key { cluster: stamp.cluster, gang: stamp.gang };
                    let entry = self.entries.get(&key).map(|entry| entry.clone());
                    if let Some(entry) = entry
                        && !matches!(entry.following().0, JobId(0))
                        && entry.following().0 != job.id
                    {
                        tracing::warn!(
                            gang = key.gang,
                            job = job.id.0,
                            "another placeholder of this gang"
                        );
                        entry.changed.notify_one();
                    }
                }
                Ok(_) => {}
                // Missed some: any of them may have been such a one.
                Err(RecvError::Lagged(_)) => {
                    self.entries.iter().for_each(|entry| entry.changed.notify_one());
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }
}
