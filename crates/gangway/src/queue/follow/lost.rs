//! A placeholder that slurmctld does not know any more: what became of it, and what then.
//!
//! Decides nothing: `core::placeholder::fate` says what the evidence is worth. Nobody is evicted but on
//! accounting's record of an end (rule 6).

use gangway_core::follow::Verdict;
use gangway_core::gang::Gang;
use gangway_core::job::{Job, JobId};
use gangway_core::placeholder::{Fate, Record, Silence, Stamp, after_lost, fate, successor_over};
use gangway_core::reason;
use gangway_slurm::Error;

use super::words::{ended, ended_message};
use super::{Entry, Key, Next, Queue};
use crate::chain::explain;
use crate::planted::{self, Bug};

/// A job that slurmctld does not know.
#[derive(Clone, Copy)]
pub(super) struct Lost {
    pub(super) job: JobId,
    pub(super) generation: u32,
    /// Where this bridge has seen it alive: when the slurmctld of that time had begun, and when the job
    /// was submitted.
    pub(super) alive: Option<(i64, i64)>,
    /// How often slurmctld has said since that it has no such job while there was no accounting to ask.
    pub(super) denials: u32,
}

impl Queue {
    /// slurmctld no longer knows a job it had accepted.
    pub(super) fn vanished(&self, entry: &Entry, lost: Lost) -> Next {
        let bound = entry.gang().members.iter().any(|m| m.bound.is_some())
            || matches!(&*entry.verdict.borrow(), Some(Verdict::Allocated { .. }));
        let Key { cluster, gang } = &entry.key;
        self.board.forget(lost.job, |stamp| stamp.is_of(cluster, gang, lost.generation));
        if planted::grows(Bug::TakesGoneForOver) {
            let job = Job { id: lost.job, ..Job::default() };
            return Next::Done(Some(ended(&job, lost.generation)));
        }
        if bound {
            return Next::Lost(lost);
        }
        // What says so may be older than the placeholder: an id that slurmctld has forgotten in a crash is
        // given anew at once, to this very gang too.
        tracing::warn!("Slurm has lost a placeholder that had not started; submitting again");
        Next::Doubt
    }

    /// Waits for a list of all jobs that is asked for from now on (rule 2: find before submit).
    pub(super) async fn list_in_doubt(&self) {
        tokio::select! {
            biased;
            () = self.board.list_in_doubt() => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Pods may be bound for a job that slurmctld does not know: is it over, or forgotten?
    pub(super) async fn ask_accounting(
        &self,
        entry: &Entry,
        gang: &Gang,
        listed: &[(Stamp, Job)],
        lost: Lost,
    ) -> Next {
        let cluster = &entry.key.cluster;
        let mut lost = lost;
        let (job, generation) = (lost.job, lost.generation);
        let end =
            |state, message| Next::Done(Some(Verdict::Ended { job, generation, state, message }));
        match self.fate(&entry.key, &mut lost).await {
            Ok(Some(Fate::Ended(state))) => {
                let message = ended_message(job, &state, "", "");
                return end(state, message);
            }
            // What took its place was asked for when it was known to be forgotten, by us or by a bridge
            // before us.
            Ok(Some(_))
                if entry.releasing().is_none()
                    && let Some(instead) =
                        successor_over(listed, job, generation, self.board.boot()) =>
            {
                let state = instead.state.base.clone();
                let message = ended_message(instead.id, &state, "", "");
                return end(state, message);
            }
            Ok(Some(Fate::Forgotten)) if entry.releasing().is_none() => {
                let stamp = after_lost(cluster, gang, listed, generation);
                tracing::warn!(
                    job = job.0,
                    generation = stamp.generation,
                    "Slurm has forgotten a placeholder that had started; asking anew"
                );
                // Under the id that its pods carry: where Slurm gives them the same nodes, they stay.
                let id = (stamp.generation == generation).then_some(job);
                return self.submit_one(entry, gang, &stamp, id).await;
            }
            Ok(Some(Fate::Forgotten | Fate::Unknown) | None) => {}
            Err(error) => {
                tracing::debug!(job = job.0, error = explain(&error), "accounting does not answer");
            }
        }
        if entry.releasing().is_some() {
            return Next::Done(None);
        }
        let waits = Verdict::Queued {
            job: Some(lost.job),
            reason: reason::LOST.to_owned(),
            message: format!(
                "Slurm does not know job {} any more, and accounting has no end of it; its pods are left alone until either says more, or they are deleted",
                lost.job
            ),
            expected_start: 0,
        };
        entry.key.span(Some(job)).in_scope(|| entry.say(waits));
        self.pause(entry).await;
        Next::Lost(lost)
    }

    /// What has become of a job, by the word of slurmctld and accounting. `None`: slurmctld knows it after
    /// all.
    async fn fate(&self, key: &Key, lost: &mut Lost) -> Result<Option<Fate>, Error> {
        // Whoever knows it after all is heard of by the board, and the gang is looked at again.
        if let Some(job) = self.board.read(lost.job).await?
            && Stamp::of(&job).is_some_and(|s| s.is_of(&key.cluster, &key.gang, lost.generation))
        {
            lost.denials = 0;
            return Ok(None);
        }
        let diag = self.slurm.diag().await?;
        let before = |(boot, _): &(i64, i64)| *boot != 0 && *boot != diag.boot_time;
        let seen_before_boot = lost.alive.filter(before).map(|(_, submitted)| submitted);
        let (records, accounting) = match self.slurm.finished_job(lost.job).await {
            // There is no accounting: slurmctld's word and what we have seen ourselves must do.
            Err(Error::NoSuchEndpoint { .. }) => (Vec::new(), false),
            Err(error @ Error::Rejected { .. }) if !error.is_retryable() => (Vec::new(), false),
            records => (records?, true),
        };
        let records: Vec<Record> = records
            .into_iter()
            .map(|r| Record {
                key: r.admin_comment,
                state: r.state,
                submit_time: r.submit_time,
                start_time: r.start_time,
            })
            .collect();
        let (boot_time, now) = (diag.boot_time, diag.now);
        lost.denials = if accounting { 0 } else { lost.denials + 1 };
        let denials = lost.denials;
        let silence =
            Silence { records: &records, accounting, denials, boot_time, now, seen_before_boot };
        Ok(Some(fate(&key.cluster, &key.gang, lost.generation, &silence)))
    }
}
