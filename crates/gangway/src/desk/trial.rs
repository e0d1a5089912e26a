//! When would this start: a question that is put to Slurm, answered, and taken away again.
//!
//! Whatever happens to whoever asked, the question is ended; what a bridge that died has left is ended by the next one.

use std::sync::Arc;
use std::time::Duration;

use gangway_api::v1;
use gangway_core::desk::{WhatIf, ballast, choice, guard, read_gres, trial};
use gangway_core::job::{Job, JobId, PlaceholderRequest, Standing};
use gangway_core::policy::{Policy, grant};
use gangway_core::reason;
use gangway_slurm::{Client, Error};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::refused;
use crate::chain::explain;
use crate::mandate::Mandate;
use crate::nursery::Nursery;
use crate::queue::shuns_heterogeneous;

/// Questions in Slurm's queue at once: each is tested by backfill like any job.
const AT_ONCE: usize = 4;
/// Backfill looks every 30 s unless told otherwise (`bf_interval`).
const PATIENCE: Duration = Duration::from_secs(45);
/// How often it is looked whether Slurm has an answer.
const LOOK: Duration = Duration::from_millis(250);
/// How often, and how long, it is tried to take a question away.
const TRIES: u32 = 20;
/// Pause before what is left is looked for again, where Slurm could not be asked.
const AGAIN: Duration = Duration::from_secs(5);
/// Most nodes of a question.
const MOST: u32 = 65_536;

/// Asks; cheap to clone.
#[derive(Clone)]
pub(super) struct Trials {
    slurm: Client,
    heterogeneous: bool,
    cluster: Arc<str>,
    turns: Arc<Semaphore>,
    nursery: Nursery,
    stop: CancellationToken,
}

impl Trials {
    pub(super) fn new(
        (slurm, heterogeneous): (Client, bool),
        cluster: &str,
        nursery: Nursery,
        stop: CancellationToken,
    ) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { slurm, heterogeneous, cluster: cluster.into(), turns, nursery, stop }
    }

    /// Slurm's answer to a question that this policy lets the namespace ask.
    pub(super) async fn ask(
        &self,
        policy: &Policy,
        asked: v1::WhatIfRequest,
    ) -> Result<v1::WhatIfResponse, Status> {
        let request = request(policy, &asked, &self.cluster)?;
        let turn = self.turns.clone().try_acquire_owned();
        let turn = turn.map_err(|_| {
            Status::resource_exhausted("others are asking what if; try again in half a minute")
        })?;
        let (own, (said, answer)) = (self.clone(), oneshot::channel());
        // On its own, so that it is taken away also when whoever asked has hung up.
        self.nursery.start("what if", async move {
            let _turn = turn;
            let _ = said.send(own.put(&request).await);
            Ok(())
        });
        answer.await.map_err(|_| Status::unavailable("the bridge is stopping"))?
    }

    pub(super) async fn put(
        &self,
        request: &PlaceholderRequest,
    ) -> Result<v1::WhatIfResponse, Status> {
        let shuns = shuns_heterogeneous(&self.slurm, self.heterogeneous).await;
        if let Some(why) = shuns.map_err(|error| refused(&error))? {
            return Err(Status::failed_precondition(format!(
                "Slurm is not asked when something would start: {why}"
            )));
        }
        let (heavy, begin) = ballast(request);
        let submitted = self.slurm.submit_held_back(request, &heavy, begin).await;
        let id = match submitted {
            Ok(submitted) => submitted.job_id,
            Err(error) => {
                // It may be in the queue all the same.
                if error.is_doubtful() {
                    self.clear().await.map_err(|error| refused(&error))?;
                }
                return Err(no(&error, request));
            }
        };
        let answer = self.wait(id).await;
        self.end(id).await;
        let job = answer.map_err(|error| refused(&error))?;
        if job.start_time == 0 && never(&job) {
            let why = reason::waiting(&job.reason, &job.description);
            return Err(Status::failed_precondition(format!("it would wait in vain: {why}")));
        }
        Ok(said(&job, request))
    }

    /// Waits until Slurm has said when, or that it never will.
    async fn wait(&self, id: JobId) -> Result<Job, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = self.slurm.job(id).await?.ok_or(Error::NoSuchJob { job: id })?;
            let over = job.standing() == Standing::Over;
            if job.start_time > 0 || over || never(&job) || Instant::now() > deadline {
                return Ok(job);
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                // What is known by now is the answer; there is little time to take the question away.
                () = self.stop.cancelled() => return Ok(job),
            }
        }
    }

    async fn end(&self, id: JobId) {
        for _ in 0..TRIES {
            match self.slurm.cancel(id).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(
                        job = id.0,
                        error = explain(&error),
                        "a question could not be taken away; trying again"
                    );
                    tokio::select! {
                        () = sleep(AGAIN) => {}
                        // Whoever leads next takes it away.
                        () = self.stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Ends every question of this bridge's cluster.
    async fn clear(&self) -> Result<(), Error> {
        let mark = guard(&self.cluster);
        for job in self.slurm.jobs().await? {
            if job.admin_comment == mark && job.standing() != Standing::Over {
                tracing::warn!(
                    job = job.id.0,
                    "taking away a question that was left in Slurm's queue"
                );
                self.slurm.cancel_submission(&job).await?;
            }
        }
        Ok(())
    }

    /// Once this process leads, takes away what one before it may have left.
    pub(super) async fn sweep(self, mandate: Mandate) -> anyhow::Result<()> {
        let sweeping = async {
            mandate.granted().await;
            while let Err(error) = self.clear().await {
                tracing::debug!(
                    error = explain(&error),
                    "cannot look for questions that were left"
                );
                sleep(AGAIN).await;
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = sweeping => {}
        }
        Ok(())
    }
}

/// What is asked, in Slurm's terms, as policy lets it.
fn request(
    policy: &Policy,
    asked: &v1::WhatIfRequest,
    cluster: &str,
) -> Result<PlaceholderRequest, Status> {
    let bad = |problem: String| Status::invalid_argument(problem);
    if !(1..=MOST).contains(&asked.nodes) {
        return Err(bad(format!("nodes must be 1 to {MOST}")));
    }
    let gres = read_gres(&asked.gres).map_err(|error| bad(error.to_string()))?;
    let limit = Some(asked.time_limit_minutes).filter(|minutes| *minutes > 0);
    let ask = choice(&asked.partition, &asked.account, &asked.qos, limit).map_err(bad)?;
    let refuse =
        |refusal: gangway_core::policy::Refusal| Status::failed_precondition(refusal.message);
    let granted = grant(policy, &asked.namespace, &ask).map_err(refuse)?;
    let what = WhatIf {
        nodes: asked.nodes,
        gres,
        cpus: asked.cpus,
        memory_mib: asked.memory,
        time_limit_minutes: limit,
    };
    granted.hold(trial(&what, &granted, cluster)).map_err(refuse)
}

/// Slurm takes nothing of the kind: the words that a gang would be told.
fn no(error: &Error, request: &PlaceholderRequest) -> Status {
    let Some(code) = error.code().and_then(|code| u32::try_from(code.0).ok()) else {
        return refused(error);
    };
    if error.is_retryable() {
        return refused(error);
    }
    let account = request.account.as_deref();
    let refusal = reason::refused(code, "", &request.partition, account, &request.user);
    Status::failed_precondition(format!("it can never start so: {}", refusal.message))
}

/// It would wait until somebody changes something.
fn never(job: &Job) -> bool {
    let reasons = [
        "PartitionConfig",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "PartitionDown",
        "PartitionInactive",
    ];
    reasons.contains(&job.reason.as_str())
}

fn said(job: &Job, request: &PlaceholderRequest) -> v1::WhatIfResponse {
    let message = match (job.start_time, job.reason.as_str()) {
        (1.., _) => "Slurm's backfill expects it then, with the queue as it is now".to_owned(),
        (_, why) => format!(
            "Slurm has no estimate, which it has only for the jobs it tests and within bf_window; {}",
            reason::waiting(if why == "BeginTime" { "" } else { why }, &job.description)
        ),
    };
    v1::WhatIfResponse {
        start: job.start_time,
        reason: job.reason.clone(),
        message,
        nodes: job.planned_nodes.clone(),
        user: request.user.clone(),
        account: job.account.clone(),
        partition: job.partition.clone(),
        now: 0,
    }
}
