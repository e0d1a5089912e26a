//! Getting one placeholder into Slurm, exactly once (rule 2).
//!
//! First the immediate path where it cannot overtake anyone, then the queue with a job id of our own
//! choosing, so that a repeated submit is refused by Slurm instead of becoming a second job.

use futures::join;
use gangway_core::job::{Allocation, Job, JobId, PlaceholderRequest};
use gangway_core::placeholder::{Stamp, is_refused};
use gangway_core::policy::{Category, Refusal};
use gangway_core::reason;
use gangway_slurm::{Error, SlurmCode};
use tokio::time::Instant;

use super::Queue;
use crate::chain::explain;
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};
use crate::trace::Round;

/// What came of a submit.
pub(super) enum Submitted {
    /// Slurm has it under this id, and what it granted where that is known.
    As(JobId, Option<Allocation>),
    /// Slurm will never take it as it is.
    Refused(Refusal),
    /// Slurm could not be asked; nothing happened. Try again.
    Later(String),
    /// It may or may not have happened: look before trying again.
    Doubt(String),
}

impl Submitted {
    /// In a word, for traces.
    fn word(&self) -> &'static str {
        match self {
            Self::As(_, Some(_)) => "granted at once",
            Self::As(_, None) => "accepted",
            Self::Refused(_) => "refused",
            Self::Later(_) => "unreachable",
            Self::Doubt(_) => "doubt",
        }
    }
}

/// How many ids are tried when others hold the chosen one.
const ID_ATTEMPTS: u32 = 8;
/// A placeholder of so many nodes is read in detail, in one request; with more nodes the record grows
/// larger than `resources` is slow.
const FEW_NODES: u32 = 4;

impl Queue {
    /// Submits a placeholder, with the type of its GPUs where its nodes have only one. Slurm's list may
    /// be some minutes old: what it refuses so is asked for as the user did.
    pub(super) async fn submit_typed(
        &self,
        stamp: &Stamp,
        request: &PlaceholderRequest,
        at_once: bool,
        id: Option<JobId>,
    ) -> Submitted {
        let began = Instant::now();
        let submitted = self.submit_either(stamp, request, at_once, id).await;
        let round =
            Round { cluster: &stamp.cluster, gang: &stamp.gang, generation: stamp.generation };
        self.traces.submitted(round, began.elapsed(), submitted.word());
        submitted
    }

    async fn submit_either(
        &self,
        stamp: &Stamp,
        request: &PlaceholderRequest,
        at_once: bool,
        id: Option<JobId>,
    ) -> Submitted {
        let mut typed = request.clone();
        if self.atlas.name_gpus(&self.slurm, &mut typed).await {
            match self.submit(stamp, &typed, at_once, id).await {
                Submitted::Refused(refusal) => {
                    tracing::info!(
                        why = refusal.message,
                        "refused with a type of GPU; asking without"
                    );
                }
                other => return other,
            }
        }
        self.submit(stamp, request, at_once, id).await
    }

    /// Submits a placeholder; `at_once` says whether the immediate way may be tried, `id` is tried before
    /// those that are chosen for it.
    pub(super) async fn submit(
        &self,
        stamp: &Stamp,
        request: &PlaceholderRequest,
        at_once: bool,
        id: Option<JobId>,
    ) -> Submitted {
        // Only backfill starts a heterogeneous job: asked at once, it is refused (2078).
        let at_once = at_once && request.components.len() == 1;
        if at_once && let Some(submitted) = self.at_once(request).await {
            return submitted;
        }
        let chosen = (0..ID_ATTEMPTS).map(|attempt| self.job_ids.choose(stamp, attempt));
        for id in id.into_iter().chain(chosen) {
            match self
                .slurm
                .submit(request, Some(id).filter(|_| !planted::grows(Bug::SubmitsTwice)))
                .await
            {
                Ok(submitted) => {
                    failpoint::pass(Point::Queued);
                    self.count("queued", "accepted");
                    return Submitted::As(submitted.job_id, None);
                }
                Err(error) if error.code() == Some(SlurmCode::DUPLICATE_JOB_ID) => {
                    match self.whose(id, stamp).await {
                        Ok(true) => return Submitted::As(id, None),
                        Ok(false) => {}
                        Err(submitted) => return submitted,
                    }
                }
                Err(error) => return self.refused("queued", &error, request),
            }
        }
        Submitted::Later("the job ids chosen for it are held by other jobs".to_owned())
    }

    /// The immediate path, a few at a time: with a thousand that want it, an answer would otherwise
    /// wait behind all the questions before it can be looked at. `None`: the queue it is.
    async fn at_once(&self, request: &PlaceholderRequest) -> Option<Submitted> {
        // It is never closed.
        let _turn = self.turns.acquire().await.ok()?;
        if self.stop.is_cancelled() {
            return Some(Submitted::Later("the bridge is stopping".to_owned()));
        }
        // What was fair before may not be so any more.
        if self.immediate_is_fair(&request.partition) { self.allocate(request).await } else { None }
    }

    /// `None`: Slurm said not now.
    async fn allocate(&self, request: &PlaceholderRequest) -> Option<Submitted> {
        // The answer may come when slurmctld has begun anew and given the id to somebody else.
        let boot = self.board.boot();
        match self.slurm.allocate(request).await {
            Ok(job) => {
                failpoint::pass(Point::Immediate);
                self.count("immediate", "accepted");
                // The owner can write `comment`; what we trust in the end is `admin_comment`.
                if let [component] = request.components.as_slice() {
                    self.seals.owe(job, component.key.clone(), boot);
                }
                let asked = Instant::now();
                let looked = self.look_at(job, request).await;
                failpoint::pass(Point::Looked);
                match looked {
                    Ok(Some((seen, granted))) => {
                        Some(self.owned((seen, asked), granted, request).await)
                    }
                    Ok(None) => None,
                    Err(error) => Some(Submitted::Doubt(explain(&error))),
                }
            }
            Err(Error::Refused { .. }) => {
                failpoint::pass(Point::Missed);
                self.count("immediate", "missed");
                self.note_miss();
                None
            }
            Err(error) if error.is_doubtful() => {
                self.count("immediate", "doubt");
                Some(Submitted::Doubt(explain(&error)))
            }
            Err(error) if error.is_retryable() => {
                self.count("immediate", "unreachable");
                Some(Submitted::Later(explain(&error)))
            }
            // It can never run so, or not as this user: the queue gives the full answer.
            Err(_) => {
                self.count("immediate", "refused");
                None
            }
        }
    }

    /// Reads a placeholder that has just been given its nodes.
    async fn look_at(
        &self,
        job: JobId,
        request: &PlaceholderRequest,
    ) -> Result<Option<(Job, Option<Allocation>)>, Error> {
        if request.components.iter().all(|component| component.nodes <= FEW_NODES) {
            return self.slurm.job_in_detail(job).await;
        }
        let (seen, granted) = join!(self.slurm.job(job), self.slurm.resources(job));
        // What cannot be read now is asked for again.
        Ok(seen?.map(|seen| (seen, granted.ok())))
    }

    /// Without an accounting database, a user that slurmctld does not know becomes "nobody" instead
    /// of a refusal (tried live): a job of another owner than policy says is none of ours.
    async fn owned(
        &self,
        (job, asked): (Job, Instant),
        granted: Option<Allocation>,
        request: &PlaceholderRequest,
    ) -> Submitted {
        let id = job.id;
        let numeric = request.user.chars().all(|c| c.is_ascii_digit());
        if numeric || job.user.is_empty() || job.user == request.user {
            // What was granted by then may be so no more.
            let is_news = self.board.note(job, asked);
            return Submitted::As(id, granted.filter(|_| is_news));
        }
        if let Err(error) = self.slurm.cancel_submission(&job).await {
            tracing::error!(
                job = id.0,
                error = explain(&error),
                "could not cancel a job of the wrong owner"
            );
        }
        Submitted::Refused(Refusal::new(
            Category::Account,
            format!(
                "Slurm does not know user {}; have it added, or correct policy.identities",
                request.user
            ),
        ))
    }

    /// Whether the job that holds our chosen id is our own earlier submit, and no record of one that was
    /// refused, as the one with a type of GPU may have been a moment ago.
    async fn whose(&self, id: JobId, stamp: &Stamp) -> Result<bool, Submitted> {
        let holder = self.board.read(id).await;
        failpoint::pass(Point::Taken);
        match holder {
            Ok(Some(job)) => {
                let own = Stamp::of(&job)
                    .is_some_and(|s| s.is_of(&stamp.cluster, &stamp.gang, stamp.generation));
                Ok(own && !is_refused(&job))
            }
            Ok(None) => Ok(false),
            Err(error) => Err(Submitted::Doubt(explain(&error))),
        }
    }

    fn refused(&self, path: &str, error: &Error, request: &PlaceholderRequest) -> Submitted {
        if error.is_doubtful() {
            self.count(path, "doubt");
            return Submitted::Doubt(explain(error));
        }
        match error {
            Error::Rejected { code, message, .. } => {
                self.count(path, "refused");
                Submitted::Refused(reason::refused(
                    u32::try_from(code.0).unwrap_or(0),
                    message,
                    &request.partition,
                    request.account.as_deref(),
                    &request.user,
                ))
            }
            _ => {
                self.count(path, "unreachable");
                Submitted::Later(explain(error))
            }
        }
    }

    fn count(&self, path: &str, outcome: &str) {
        self.metrics.submits.with_label_values(&[path, outcome]).inc();
    }
}
