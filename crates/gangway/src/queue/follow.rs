//! One gang's placeholder from the first question to its end.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gangway_core::follow::Verdict;
use gangway_core::gang::Gang;
use gangway_core::job::{Job, JobId, Standing};
use gangway_core::place::{PlaceError, Seeker, place};
use gangway_core::placeholder::{Stamp, Step, next};
use gangway_core::policy::{Refusal, grant};
use gangway_core::{reason, translate};
use gangway_slurm::SlurmCode;
use tokio::time::timeout;

use super::board::Seen;
use super::submit::Submitted;
use super::{Entry, Health, Queue};
use crate::chain::explain;

/// Pause before Slurm is asked again after it could not be.
const RETRY: Duration = Duration::from_secs(1);
/// Slurm's number for a node name that it does not know.
const INVALID_NODE: u32 = SlurmCode::INVALID_NODE_NAME.0.unsigned_abs();

/// What ends the following of a gang.
enum Next {
    /// Look again at what Slurm lists.
    Again,
    /// It is over, and this is the last word on it, if there is one.
    Done(Option<Verdict>),
}

impl Queue {
    /// Follows a gang until it has been refused, has ended, or the bridge stops. Returns the last word
    /// on it.
    pub(super) async fn follow(&self, entry: &Entry) -> Option<Verdict> {
        while !self.stop.is_cancelled() {
            if !self.slurm_answers(entry).await {
                continue;
            }
            let gang = entry.gang();
            let listed = self.board.listed(&entry.key.cluster, &gang.uid);
            let (step, duplicates) = next(&entry.key.cluster, &gang, &listed);
            for job in duplicates {
                self.end_duplicate(&listed, job).await;
            }
            let outcome = match step {
                Step::Submit { .. } if entry.releasing().is_some() => Next::Done(None),
                Step::Submit { stamp } => self.submit_one(entry, &gang, &stamp).await,
                Step::Follow { job, generation } => self.follow_job(entry, job, generation).await,
                Step::Over { job, generation, state } => {
                    let job = listed.iter().find(|(_, j)| j.id == job).map(|(_, j)| j);
                    debug_assert!(job.is_some(), "{state:?} came from this list");
                    Next::Done(job.map(|job| ended(job, generation)))
                }
                Step::Lost { job, generation } => {
                    self.look_in_accounting(entry, job, generation).await
                }
            };
            if let Next::Done(last) = outcome {
                return last;
            }
        }
        None
    }

    /// Whether Slurm answers; if not, says so and waits a little.
    async fn slurm_answers(&self, entry: &Entry) -> bool {
        let mut health = self.board.health();
        let now = health.borrow_and_update().clone();
        match now {
            Health::Up => return true,
            Health::Unknown => {}
            Health::Down(why) => entry.say(unreachable(&why)),
        }
        // Either Slurm is heard of again or the loop looks anew; both are fine.
        let _ = timeout(RETRY, health.changed()).await;
        false
    }

    async fn end_duplicate(&self, listed: &[(Stamp, Job)], id: JobId) {
        let Some((_, job)) = listed.iter().find(|(_, j)| j.id == id) else { return };
        if let Err(error) = self.end(job, "another placeholder of the same gang is there").await {
            tracing::warn!(job = %id, error = explain(&error), "could not end a duplicate");
        }
    }

    async fn submit_one(&self, entry: &Entry, gang: &Gang, stamp: &Stamp) -> Next {
        let request = grant(&self.policy, &gang.namespace, &gang.ask)
            .and_then(|grant| translate::placeholder(gang, &grant, stamp, &self.table));
        let mut request = match request {
            Ok(request) => request,
            Err(refusal) => {
                return Next::Done(Some(Verdict::Refused(refusal)));
            }
        };
        let began = Instant::now();
        match self.cut(&mut request).await {
            Ok(None) => {}
            Ok(Some(refusal)) => return Next::Done(Some(Verdict::Refused(refusal))),
            Err(error) => {
                entry.say(unreachable(&explain(&error)));
                self.pause(entry).await;
                return Next::Again;
            }
        }
        let at_once = !entry.doubted.load(Ordering::Relaxed);
        match self.submit(stamp, &request, at_once).await {
            Submitted::As(job) => self.follow_job(entry, job, stamp.generation).await,
            // A node that was excluded is gone since its partition was read.
            Submitted::Refused(refusal)
                if refusal.slurm_code == INVALID_NODE && self.reaches.was_stale(began).await =>
            {
                Next::Again
            }
            Submitted::Refused(refusal) => Next::Done(Some(Verdict::Refused(refusal))),
            Submitted::Later(why) => {
                entry.say(unreachable(&why));
                self.pause(entry).await;
                Next::Again
            }
            Submitted::Doubt(why) => {
                entry.doubted.store(true, Ordering::Relaxed);
                tracing::warn!(gang = gang.uid, why, "a submit is in doubt; looking for its job");
                entry.say(unreachable(&why));
                tokio::select! {
                    () = self.board.list_again() => {}
                    () = self.stop.cancelled() => {}
                }
                Next::Again
            }
        }
    }

    async fn pause(&self, entry: &Entry) {
        // Being woken early is the purpose.
        let _ = timeout(RETRY, entry.changed.notified()).await;
    }

    /// Follows one job while it waits and runs.
    async fn follow_job(&self, entry: &Entry, id: JobId, generation: u32) -> Next {
        let mut seen = self.board.track(id);
        let mut told = None;
        loop {
            if self.stop.is_cancelled() {
                return Next::Done(None);
            }
            let now = seen.borrow_and_update().clone();
            let mut retry = None;
            match now {
                Seen::Nothing => {}
                // State that slurmctld lost, or purged: only its listing and accounting can tell.
                Seen::NoSuchJob => return self.vanished(entry, id, generation).await,
                Seen::Job(job) => match job.state.standing() {
                    Standing::Over => {
                        return Next::Done(Some(ended(&job, generation)));
                    }
                    _ if entry.releasing().is_some() => {
                        self.insist(entry, &job).await;
                        retry = Some(RETRY);
                    }
                    Standing::Waiting => {
                        entry.say(queued(&job));
                        retry = self.keep_reach(entry, &job, &mut told).await;
                    }
                    Standing::Unclear => {
                        tracing::warn!(job = %id, state = %job.state, flags = ?job.state.flags, "unclear state; waiting");
                    }
                    Standing::Holding => {
                        if !self.allocated(entry, &job, generation).await {
                            retry = Some(RETRY);
                        }
                    }
                },
            }
            let changed = async {
                tokio::select! {
                    _ = seen.changed() => {}
                    () = entry.changed.notified() => {}
                    () = self.stop.cancelled() => {}
                }
            };
            match retry {
                Some(pause) => drop(timeout(pause, changed).await),
                None => changed.await,
            }
        }
    }

    /// Whoever released the gang has told Slurm; if the job lives on all the same (it was just being
    /// submitted, or the call failed), it is told again.
    async fn insist(&self, entry: &Entry, job: &Job) {
        let Some((why, since)) = entry.releasing() else { return };
        if since.elapsed() >= RETRY
            && let Err(error) = self.end(job, &why).await
        {
            tracing::warn!(job = %job.id, error = explain(&error), "could not release; trying again");
        }
    }

    /// The placeholder holds its nodes: seat the gang. `false`: try again.
    async fn allocated(&self, entry: &Entry, job: &Job, generation: u32) -> bool {
        let gang = entry.gang();
        let allocation = match self.slurm.resources(job.id).await {
            Ok(allocation) => allocation,
            Err(error) => {
                tracing::warn!(job = %job.id, error = explain(&error), "could not read the allocation");
                return false;
            }
        };
        let seekers: Vec<Seeker<'_>> = gang
            .members
            .iter()
            .map(|m| Seeker { rank: m.rank, bound: m.bound.as_ref().map(|b| b.node.as_str()) })
            .collect();
        let seats = match self.devices(&gang) {
            Ok(gres) => place(&seekers, gang.ask.pods_per_node.unwrap_or(1), &gres, &allocation),
            Err(refusal) => {
                entry.say(Verdict::Refused(refusal));
                return true;
            }
        };
        match seats {
            Ok(seats) => {
                let by_pod: BTreeMap<_, _> =
                    gang.members.iter().map(|m| m.uid.clone()).zip(seats).collect();
                entry.say(Verdict::Allocated { job: job.id, generation, seats: by_pod });
                true
            }
            // Slurm has taken nodes away or the gang has changed: these pods and this allocation do
            // not belong together. Ending it makes the pods leave, and a new round begin.
            Err(
                error @ (PlaceError::Outside { .. }
                | PlaceError::TooFew { .. }
                | PlaceError::ShortOf { .. }),
            ) => {
                tracing::error!(job = %job.id, %error, "the allocation does not fit its gang; ending it");
                if let Err(error) = self.end(job, &error.to_string()).await {
                    tracing::warn!(job = %job.id, error = explain(&error), "could not end it; trying again");
                }
                false
            }
        }
    }

    /// GRES name and number of devices of the largest member.
    fn devices(&self, gang: &Gang) -> Result<Vec<(String, u32)>, Refusal> {
        let gres = self.table.gres(&gang.largest_demand())?;
        Ok(gres.into_iter().map(|(n, c)| (n, u32::try_from(c).unwrap_or(u32::MAX))).collect())
    }

    /// slurmctld no longer knows a job it had accepted.
    async fn vanished(&self, entry: &Entry, id: JobId, generation: u32) -> Next {
        let bound = entry.gang().members.iter().any(|m| m.bound.is_some())
            || matches!(&*entry.verdict.borrow(), Some(Verdict::Allocated { .. }));
        self.board.forget(id);
        if bound {
            return self.look_in_accounting(entry, id, generation).await;
        }
        tracing::warn!(job = %id, "Slurm has lost a placeholder that had not started; submitting again");
        Next::Again
    }

    /// Pods may be bound for a job that slurmctld does not know. Its purge is no evidence of an end
    /// (rule 6); accounting's record of an end is.
    async fn look_in_accounting(&self, entry: &Entry, id: JobId, generation: u32) -> Next {
        match self.slurm.finished_job(id).await {
            Ok(records) => {
                // Ids come back, so only a record with this very key is evidence.
                let own = |text: &str| {
                    Stamp::parse(text).is_some_and(|s| {
                        s.cluster == entry.key.cluster
                            && s.gang == entry.key.gang
                            && s.generation == generation
                    })
                };
                let record = records
                    .into_iter()
                    .find(|r| own(&r.admin_comment) && r.state.standing() == Standing::Over);
                if let Some(record) = record {
                    return Next::Done(Some(Verdict::Ended {
                        job: id,
                        generation,
                        message: ended_message(id, &record.state.base, ""),
                        state: record.state.base,
                    }));
                }
            }
            Err(error) => {
                tracing::debug!(job = %id, error = explain(&error), "accounting does not answer");
            }
        }
        if entry.releasing().is_some() {
            return Next::Done(None);
        }
        entry.say(Verdict::Queued {
            job: Some(id),
            reason: reason::LOST.to_owned(),
            message: format!(
                "Slurm does not know job {id} any more; its pods are left alone until it does"
            ),
            expected_start: 0,
        });
        self.pause(entry).await;
        Next::Again
    }
}

fn unreachable(why: &str) -> Verdict {
    Verdict::Queued {
        job: None,
        reason: reason::UNREACHABLE.to_owned(),
        message: format!(
            "SlurmUnreachable: gangway cannot reach Slurm and goes on trying; nothing is lost ({why})"
        ),
        expected_start: 0,
    }
}

fn queued(job: &Job) -> Verdict {
    Verdict::Queued {
        job: Some(job.id),
        reason: job.reason.clone(),
        message: format!(
            "Slurm job {} in partition {}: {}",
            job.id,
            job.partition,
            reason::waiting(&job.reason, &job.description)
        ),
        expected_start: job.start_time,
    }
}

fn ended(job: &Job, generation: u32) -> Verdict {
    Verdict::Ended {
        job: job.id,
        generation,
        state: job.state.base.clone(),
        message: ended_message(job.id, &job.state.base, &job.description),
    }
}

fn ended_message(id: JobId, state: &gangway_core::job::BaseState, description: &str) -> String {
    use gangway_core::job::BaseState;
    let what = match state {
        BaseState::Cancelled => "was cancelled in Slurm",
        BaseState::Timeout => "reached its time limit",
        BaseState::Preempted => "was preempted by a job of higher priority",
        BaseState::NodeFail => "lost a node",
        BaseState::Completed => "has completed",
        BaseState::Deadline => "reached its deadline",
        _ => "ended in Slurm",
    };
    let mut out =
        format!("Slurm job {id}, which held the nodes of this gang, {what} ({})", state.name());
    if !description.is_empty() {
        out.push_str(": ");
        out.extend(description.chars().take(200));
    }
    out
}
