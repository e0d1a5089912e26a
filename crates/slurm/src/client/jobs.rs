//! Jobs: asking for placeholders, looking at them, ending them.
//!
//! It must never signal with anything but KILL ([`Client::stir`] is for the cure of poisoned nodes
//! alone), never cancel as another user (rule 12), never wait
//! for an allocation, and never let "could not ask" look like "gone" (rule 6).

use gangway_core::inventory::Hold;
use gangway_core::job::{Allocation, Component, Job, JobId, JobState, Moment, PlaceholderRequest};
use serde_json::json;

use super::{Call, Client, Plugin, Reply, about_job, segment};
use crate::code::SlurmCode;
use crate::error::Error;
use crate::placeholder;
use crate::wire::job::{
    WireFinished, WireFinishedJob, WireJobs, WireKill, WireResources, WireState, WireStates,
};

/// The highest priority that Slurm does not use for something else.
const FIRST: u32 = u32::MAX - 10;

/// Bytes of a list that takes longer to read than others should wait: some hundred jobs.
const LONG: usize = 4 << 20;

/// An accepted job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Submitted {
    /// Its id.
    pub job_id: JobId,
    /// What slurmctld thinks of it: "not available now" for a job larger than its partition.
    pub warnings: Vec<String>,
    /// Accepted although answered with an error (a busy block topology does it, with HTTP 500):
    /// the job is in the queue and will run.
    pub error: Option<SlurmCode>,
}

/// What became of a cancel; each of them means that the job holds nothing or soon will not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// Slurm ends it now.
    Ending,
    /// It had ended already (error 2021).
    AlreadyOver,
    /// slurmctld does not know it (error 2017): purged, or never was.
    Unknown,
}

/// All jobs as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Jobs {
    /// Every job slurmctld has in memory, ended ones too until they are purged.
    pub jobs: Vec<Job>,
    /// Seconds since the epoch; what to give to [`Client::jobs_since`].
    pub last_update: i64,
}

/// A job as the accounting database remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FinishedJob {
    /// Its id, which Slurm may have given to several jobs.
    pub id: JobId,
    /// Slurm's unique id of the submission, the same as [`Job::sluid`].
    pub sluid: String,
    /// State; the database may lag behind slurmctld and still say RUNNING.
    pub state: JobState,
    /// Reason; `None` in Slurm is empty.
    pub reason: String,
    /// Hostlist of its nodes.
    pub nodes: String,
    /// Our key (kept without any `AccountingStoreFlags`).
    pub admin_comment: String,
    /// Its name.
    pub name: String,
    /// Owner's name.
    pub user: String,
    /// Account.
    pub account: String,
    /// Partition.
    pub partition: String,
    /// GPUs it holds or held, of all nodes; 0 where the database does not account for them (`AccountingStorageTRES`).
    pub gpus: u32,
    /// Nodes it holds or held.
    pub node_count: u32,
    /// The owner's comment, where the database keeps it (`AccountingStoreFlags=job_comment`).
    pub comment: String,
    /// Seconds since the epoch.
    pub submit_time: i64,
    /// Seconds since the epoch; 0 where it never started.
    pub start_time: i64,
    /// Seconds since the epoch; 0 where it has not ended.
    pub end_time: i64,
}

impl Client {
    /// Puts a placeholder into the queue (`POST job/submit`), as its owner, key in `admin_comment`.
    ///
    /// A request of several components is one heterogeneous job; its components take the ids that
    /// follow, and only backfill starts it. Never send one to a Slurm before 26.05.3, where an
    /// external one could end slurmctld.
    ///
    /// With a `job_id` a repeated submit is refused with [`SlurmCode::DUPLICATE_JOB_ID`] instead of
    /// making a second job; keep it below 0x03FF_FFFF and above Slurm's `MaxJobId`.
    pub async fn submit(
        &self,
        request: &PlaceholderRequest,
        job_id: Option<JobId>,
    ) -> Result<Submitted, Error> {
        let body = placeholder::queued(request, job_id);
        let call = Call::post("job/submit", "job/submit".to_owned(), &body)?;
        self.call(&call).await?.submitted()
    }

    /// Puts a question into the queue that never starts, so that Slurm says when the request could
    /// (`POST job/submit`): a heterogeneous job whose second component may not begin before `begin`. What is
    /// asked must be of one component. Slurm's answer is the leader's [`Job::start_time`], once backfill has
    /// looked. It has to be cancelled: without a word it would start at `begin`.
    pub async fn submit_held_back(
        &self,
        request: &PlaceholderRequest,
        ballast: &Component,
        begin: Moment,
    ) -> Result<Submitted, Error> {
        let body = placeholder::held_back(request, ballast, begin);
        let call = Call::post("job/submit", "job/submit".to_owned(), &body)?;
        self.call(&call).await?.submitted()
    }

    /// Allocates at once or not at all (`POST job/allocate`, immediate), asked as the owner, key in
    /// `comment`. Never waits: [`Error::Refused`] means that the queue may take it.
    ///
    /// The owner is whoever slurmctld makes of `request.user`: without an accounting database an
    /// unknown name runs as nobody (seen). Each refusal leaves a FAILED job until it is purged.
    pub async fn allocate(&self, request: &PlaceholderRequest) -> Result<JobId, Error> {
        let body = placeholder::immediate(request);
        let call = Call::post("job/allocate", "job/allocate".to_owned(), &body)?
            .on_behalf_of(&request.user);
        match self.call(&call).await?.submitted() {
            Ok(submitted) => Ok(submitted.job_id),
            Err(Error::Rejected { code, message, .. }) if code.is_not_now() => {
                Err(Error::Refused { code, message })
            }
            Err(error) => Err(error),
        }
    }

    /// Holds a part of one node, as the configured user and before everybody who waits: an EXTERNAL job without an end.
    /// Only for a node that slurmctld has from its configuration: a job that names a node is ended when slurmctld comes
    /// back without it.
    pub async fn hold(&self, hold: &Hold) -> Result<Submitted, Error> {
        let mut job = json!({
            "name": "gangway-outside",
            "flags": ["EXTERNAL_JOB"],
            "partition": hold.partition,
            "required_nodes": [hold.node],
            "nodes": "1",
            "tasks": 1,
            "cpus_per_task": hold.cpus,
            // 0 means "all of the node's memory" to Slurm.
            "memory_per_node": { "set": true, "number": hold.memory_mib.max(1) },
            "priority": { "set": true, "number": FIRST },
            "time_limit": { "set": true, "infinite": true },
            "admin_comment": hold.key,
        });
        if !hold.tres.is_empty() {
            job["tres_per_node"] = json!(hold.tres);
        }
        if let Some(account) = &hold.account {
            job["account"] = json!(account);
        }
        let call = Call::post("job/submit", "job/submit".to_owned(), &json!({ "job": job }))?;
        self.call(&call).await?.submitted()
    }

    /// Writes a job's `admin_comment`, which only SlurmUser and operators may.
    pub async fn set_admin_comment(&self, job: JobId, text: &str) -> Result<(), Error> {
        let call = Call::post("job", format!("job/{job}"), &json!({ "admin_comment": text }))?;
        self.order(&call).await.map_err(about_job(job))
    }

    /// Says anew which nodes a job that waits must not get (a hostlist; empty for none). Its place in
    /// the queue, its age and its id stay. A name that Slurm does not know is
    /// [`SlurmCode::INVALID_NODE_NAME`]; where no node is left, the job waits with `BadConstraints`
    /// until it is told otherwise.
    pub async fn set_excluded_nodes(&self, job: JobId, nodes: &str) -> Result<(), Error> {
        // A list of one: an empty list means "as it is", an empty name in it "none".
        let body = json!({ "excluded_nodes": [nodes] });
        let call = Call::post("job", format!("job/{job}"), &body)?;
        self.order(&call).await.map_err(about_job(job))
    }

    /// Says anew what each node must give to a job that waits, as in `tres_per_node`. Its place in the
    /// queue, its age and its id stay.
    pub async fn set_tres_per_node(&self, job: JobId, tres: &str) -> Result<(), Error> {
        let body = json!({ "tres_per_node": tres });
        let call = Call::post("job", format!("job/{job}"), &body)?;
        self.order(&call).await.map_err(about_job(job))
    }

    /// One job; `None` only where slurmctld says that it has no such job. Without the per-core
    /// detail, which is nine tenths of the default answer.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, Error> {
        Ok(self.job_flagged(id, "flags=ALL").await?.map(|(job, _)| job))
    }

    /// One job, and what it was granted where it runs and that can be read from its record; else ask
    /// [`Client::resources`]. One request instead of two, but 40 KB for each node of 192 cores.
    pub async fn job_in_detail(
        &self,
        id: JobId,
    ) -> Result<Option<(Job, Option<Allocation>)>, Error> {
        self.job_flagged(id, "flags=ALL&flags=DETAIL").await
    }

    async fn job_flagged(
        &self,
        id: JobId,
        flags: &str,
    ) -> Result<Option<(Job, Option<Allocation>)>, Error> {
        let reply = self.call(&Call::get("job", format!("job/{id}?{flags}"))).await?;
        let reply = match reply.accepted().map_err(about_job(id)) {
            Ok(reply) => reply,
            Err(Error::NoSuchJob { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // A leader comes with the other components of its heterogeneous job.
        let answer: WireJobs = reply.read()?;
        let granted = answer.granted(id);
        let job = answer.into_jobs().into_iter().find(|job| job.id == id);
        match job {
            Some(job) => Ok(Some((job, granted))),
            None => Err(reply.malformed("the job is not in its own answer")),
        }
    }

    /// Id and state of every job in slurmctld's memory (`GET jobs/state/`, 80 bytes each): the one
    /// to poll. A component of a heterogeneous job comes under its own id. A job that is missing
    /// here is not proven gone: ask for it by id.
    pub async fn job_states(&self) -> Result<Vec<(JobId, JobState)>, Error> {
        let call = Call::get("jobs/state", "jobs/state/".to_owned());
        let reply = self.call(&call).await?.accepted()?;
        let answer: WireStates = reply.read()?;
        let jobs = answer.jobs.ok_or_else(|| reply.malformed("no list of jobs"))?;
        self.count(jobs.len());
        Ok(jobs.into_iter().filter_map(WireState::into_state).collect())
    }

    /// Every job in slurmctld's memory (`GET jobs/?flags=ALL`, about 9 KB each): for a slow
    /// reconcile. See [`Config::timeout_per_job`](super::Config).
    pub async fn jobs(&self) -> Result<Vec<Job>, Error> {
        Ok(self.list().await?.jobs)
    }

    /// The same, with the moment that [`Client::jobs_since`] wants.
    pub async fn list(&self) -> Result<Jobs, Error> {
        // Time 0 is how slurmrestd says "unchanged": to a question that named no time, nonsense.
        let read = |reply: Reply| {
            reply.all_jobs()?.ok_or_else(|| reply.malformed("jobs without last_update"))
        };
        let jobs = self.all("jobs/?flags=ALL".to_owned(), read).await?;
        self.count(jobs.jobs.len());
        Ok(jobs)
    }

    /// As [`Client::list`], or `None` where nothing has changed since `since` (a
    /// [`Jobs::last_update`]). On any change it is all jobs again, not the difference.
    pub async fn jobs_since(&self, since: i64) -> Result<Option<Jobs>, Error> {
        let path = format!("jobs/?flags=ALL&update_time={since}");
        self.all(path, |reply| reply.all_jobs()).await
    }

    /// Asks for all jobs, with the patience that so many want. A long list is read beside the runtime, which has others
    /// to serve meanwhile.
    async fn all<T: Send + 'static>(
        &self,
        path: String,
        read: fn(Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let call = Call { longer: self.longer(), ..Call::get("jobs", path) };
        let reply = self.call(&call).await?;
        if reply.answer.body.len() < LONG {
            return read(reply.accepted()?);
        }
        match tokio::task::spawn_blocking(move || read(reply.accepted()?)).await {
            Ok(read) => read,
            Err(broken) => match broken.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends.
                Err(_) => Err(Error::Shut { endpoint: "jobs" }),
            },
        }
    }

    /// What a RUNNING job was granted (`GET resources/{id}`), to its owner and operators.
    ///
    /// A job that does not run is [`SlurmCode::JOB_NOT_RUNNING`]. `cpus` counts the cores of the
    /// bitmap slurmctld sends: nodes with several threads per core have as many times more.
    pub async fn resources(&self, id: JobId) -> Result<Allocation, Error> {
        let call = Call::get("resources", format!("resources/{id}"));
        let reply = self.call(&call).await?.accepted().map_err(about_job(id))?;
        let answer: WireResources = reply.read()?;
        if answer.nodes.is_empty() {
            return Err(reply.malformed("an allocation without nodes"));
        }
        answer.into_allocation().map_err(|what| reply.malformed(what))
    }

    /// Ends a job with KILL (`DELETE job/{id}`), as the configured user. Whichever job has the id now:
    /// see [`Client::cancel_submission`].
    pub async fn cancel(&self, id: JobId) -> Result<Cancelled, Error> {
        self.end(id, &id.to_string()).await
    }

    /// Ends this very job, all of its components, and no other that has been given its id since:
    /// [`Cancelled::Unknown`] then. By Slurm's unique id of the submission, where that is known (tried:
    /// `DELETE job/{sluid}`).
    pub async fn cancel_submission(&self, job: &Job) -> Result<Cancelled, Error> {
        match job.sluid.as_str() {
            "" => self.cancel(job.id).await,
            sluid => self.end(job.id, sluid).await,
        }
    }

    async fn end(&self, id: JobId, name: &str) -> Result<Cancelled, Error> {
        let reply = self.call(&Call::delete("job", format!("job/{}", segment(name)))).await?;
        let (endpoint, status) = (reply.endpoint, reply.answer.status);
        let answer: WireKill = match reply.accepted().map_err(about_job(id)) {
            Ok(reply) => reply.read()?,
            Err(Error::NoSuchJob { .. }) => return Ok(Cancelled::Unknown),
            Err(error) => return Err(error),
        };
        let mut outcome = Cancelled::Ending;
        for one in answer.status {
            match SlurmCode(one.error.code.count().unwrap_or(0)) {
                SlurmCode(0) => {}
                SlurmCode::ALREADY_DONE => outcome = Cancelled::AlreadyOver,
                SlurmCode::INVALID_JOB_ID => outcome = Cancelled::Unknown,
                code => {
                    let message = one.error.message;
                    return Err(Error::Rejected { endpoint, status, code, message });
                }
            }
        }
        Ok(outcome)
    }

    /// Sends CONT to a job that runs, which changes nothing for a job without processes. Only where each
    /// of its EXTERNAL nodes has an address that answers: the answer makes slurmctld believe in them
    /// again, and where none comes the node is lost to Slurm (rule 12).
    pub async fn stir(&self, job: &Job) -> Result<(), Error> {
        let name = if job.sluid.is_empty() { job.id.to_string() } else { job.sluid.clone() };
        let call = Call::delete("job", format!("job/{}?signal=SIGCONT", segment(&name)));
        self.order(&call).await.map_err(about_job(job.id))
    }

    /// What the accounting database knows of a job that slurmctld may have purged
    /// (`GET /slurmdb/{v}/job/{id}`), newest submission first; empty where it knows nothing.
    ///
    /// Ids are re-used: compare SLUID, key or submit time before believing one of them. Without a
    /// database it is [`Error::NoSuchEndpoint`] or [`Error::Rejected`].
    pub async fn finished_job(&self, id: JobId) -> Result<Vec<FinishedJob>, Error> {
        let call = Call::get("slurmdb/job", format!("job/{id}"));
        let call = Call { plugin: Plugin::Slurmdb, ..call };
        let reply = match self.call(&call).await?.accepted().map_err(about_job(id)) {
            Ok(reply) => reply,
            Err(Error::NoSuchJob { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let answer: WireFinished = reply.read()?;
        let jobs = answer.jobs.into_iter().filter_map(WireFinishedJob::into_finished);
        let mut found: Vec<_> = jobs.filter(|job| job.id == id).collect();
        found.sort_by_key(|job| std::cmp::Reverse(job.submit_time));
        Ok(found)
    }
}

impl Client {
    /// What the accounting database knows of all jobs that ran between two moments, seconds since the epoch
    /// (`GET /slurmdb/{v}/jobs/`), each component of a heterogeneous job for itself. Jobs still running are among them,
    /// with the end of the time asked for as theirs, and those that began before; one that was cancelled while it waited
    /// has begun when it ended, without nodes.
    pub async fn finished_jobs(&self, from: i64, to: i64) -> Result<Vec<FinishedJob>, Error> {
        let path = format!("jobs/?start_time={from}&end_time={to}&skip_steps=true");
        let call = Call { plugin: Plugin::Slurmdb, ..Call::get("slurmdb/jobs", path) };
        let answer: WireFinished = self.read(&call).await?;
        Ok(answer.jobs.into_iter().filter_map(WireFinishedJob::into_finished).collect())
    }
}

impl Reply {
    /// All jobs, or `None` for "unchanged": an empty list at time 0.
    pub(crate) fn all_jobs(&self) -> Result<Option<Jobs>, Error> {
        let answer: WireJobs = self.read()?;
        let last_update = answer.last_update.seconds();
        if answer.jobs.is_empty() && last_update == 0 {
            return Ok(None);
        }
        Ok(Some(Jobs { jobs: answer.into_jobs(), last_update }))
    }

    /// A job id above 0 is an accepted job, whatever the HTTP status and the errors beside it.
    pub(crate) fn submitted(self) -> Result<Submitted, Error> {
        let envelope = if self.answer.is_json { self.envelope().ok() } else { None };
        let id = envelope.as_ref().and_then(|envelope| envelope.job_id.count());
        let Some((envelope, id)) = envelope.zip(id).filter(|&(_, id)| id > 0) else {
            let reply = self.accepted()?;
            return Err(reply.malformed("neither a job id nor an error"));
        };
        let code = |error: Error| error.code().unwrap_or(SlurmCode::UNSPECIFIED);
        let error = self.accepted().err().map(code);
        let warnings = envelope.warnings.into_iter().map(|warning| warning.description);
        let complaints = envelope.errors.iter().map(crate::wire::Complaint::message);
        let said = complaints.chain(warnings).filter(|text| !text.is_empty());
        Ok(Submitted { job_id: JobId(id), warnings: said.collect(), error })
    }
}
