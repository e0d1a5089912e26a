//! The desk beside the door: what a person asks of Slurm's queue, answered from what Slurm and the bridge know.
//!
//! A thin adapter: `core::desk` says what is seen, and only [`guests`] who may cancel. Nobody who looks may cost Slurm
//! more than one list in two seconds, however many they are.

mod guests;
mod ledger;
mod prometheus;
mod trial;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, stream};
use gangway_api::v1;
use gangway_core::desk::{self, Held, Row, Spent, Taken, Workload};
use gangway_core::job::{Allocation, BaseState, Job, JobId, JobState};
use gangway_core::placeholder::Stamp;
use gangway_slurm::{Client, Error, FinishedJob};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::anteroom::Anteroom;
use crate::chain::explain;
use crate::config::{self, Settings};
use crate::extender::leads;
use crate::mandate::Mandate;
use crate::nursery::Nursery;
use crate::queue::Queue;
use ledger::{Ledger, Listing, Oldest};
use prometheus::Prometheus;
use trial::Trials;

/// Allocations that are read at once.
const READS: usize = 4;
/// Longest range of time that accounting is asked for.
const YEAR: i64 = 366 * 86_400;

/// The service.
#[derive(Clone)]
pub(crate) struct Desk(Arc<Inner>);

struct Inner {
    slurm: Client,
    queue: Arc<Queue>,
    anteroom: Anteroom,
    mandate: Mandate,
    settings: config::Desk,
    ledger: Arc<Ledger>,
    trials: Trials,
    prometheus: Prometheus,
    /// What running jobs hold, by job and the moment it started: it does not change but for nodes that were lost.
    held: Mutex<HashMap<(JobId, i64, String), Arc<Allocation>>>,
}

/// The service, ready to be added to a server.
pub(crate) type Room = v1::desk_server::DeskServer<Desk>;

/// The service, ready to be added to a server. What a bridge before this one has left of its questions in Slurm is
/// cleared away.
pub(crate) fn service(
    nursery: &Nursery,
    settings: &Settings,
    (slurm, queue, anteroom): (Client, Arc<Queue>, Anteroom),
    mandate: Mandate,
    stop: CancellationToken,
) -> Room {
    let trials = Trials::new(
        (slurm.clone(), settings.slurm.heterogeneous),
        &settings.cluster,
        nursery.clone(),
        stop,
    );
    nursery.start("questions", trials.clone().sweep(mandate.clone()));
    let ledger = Arc::new(Ledger::new(slurm.clone(), queue.board().clone(), nursery.clone()));
    let (settings, held) = (settings.desk.clone(), Mutex::default());
    let prometheus = Prometheus::new(settings.prometheus.clone());
    let desk =
        Inner { slurm, queue, anteroom, mandate, settings, ledger, trials, prometheus, held };
    Room::new(Desk(Arc::new(desk))).max_encoding_message_size(crate::extender::MAX_MESSAGE)
}

/// Slurm's no, for whoever asked.
fn refused(error: &Error) -> Status {
    let said = explain(error);
    if error.is_retryable() || error.is_doubtful() {
        return Status::unavailable(format!("Slurm cannot be asked now: {said}"));
    }
    Status::failed_precondition(format!("Slurm refuses: {said}"))
}

impl Inner {
    /// The stamp of a job that is believed: the owner of an EXTERNAL job may write any into its comment, so there it
    /// counts of the job that is followed for the gang alone.
    fn stamp(&self, job: &Job) -> Option<Stamp> {
        let ours = Stamp::parse(&job.admin_comment);
        ours.or_else(|| Stamp::of(job).filter(|stamp| self.queue.follows(stamp, job.id)))
    }

    fn workload(&self, job: &Job, pods: bool) -> Option<Workload> {
        let stamp = self.stamp(job)?;
        Some(
            self.queue.workload(&stamp, pods).unwrap_or_else(|| Workload::named(&stamp, &job.name)),
        )
    }

    async fn listing(&self, oldest: Oldest) -> Result<Arc<Listing>, Status> {
        self.ledger.listing(oldest).await.map_err(|error| refused(&error))
    }

    /// What Slurm lists, then the gangs that it has no job for.
    fn rows(&self, listing: &Listing, pods: bool) -> Vec<Row> {
        let mut rows =
            desk::rows(&listing.jobs, &listing.partitions, |job| self.workload(job, pods));
        rows.extend(self.anteroom.rows(pods));
        rows
    }

    /// The one row that a word means, and all rows.
    async fn meant(&self, word: &str, namespace: &str) -> Result<Meant, Status> {
        let listing = match self.listing(Oldest::Untold).await {
            Ok(listing) => listing,
            // Why a gang has no job may be said without Slurm, most of all that Slurm does not answer.
            Err(away) => {
                let rows = self.anteroom.rows(true);
                let row = desk::find(&rows, word, namespace).map_err(|_| away)?.clone();
                return Ok(Meant { row, rows, listing: None });
            }
        };
        let mut meant = (self.rows(&listing, true), listing);
        if desk::find(&meant.0, word, namespace).is_err() {
            // It may have come since.
            let listing = self.listing(Oldest::Now).await?;
            meant = (self.rows(&listing, true), listing);
        }
        let (rows, listing) = meant;
        match desk::find(&rows, word, namespace) {
            Ok(row) => Ok(Meant { row: row.clone(), rows, listing: Some(listing) }),
            Err(several) => Err(none_or_several(word, namespace, &several)),
        }
    }

    /// What each running job holds.
    async fn held(&self, listing: &Listing) -> Vec<Held> {
        let of = |job: &Job, part: Part| {
            let seats = self.stamp(job).map(|stamp| self.queue.seats(&stamp, job.id));
            let held = Held {
                job: job.id.0,
                user: job.user.clone(),
                name: job.name.clone(),
                workload: self.workload(job, false),
                seats: seats.unwrap_or_default(),
                on: Taken::Nodes(part.nodes.clone()),
            };
            (held, part)
        };
        let jobs = listing.jobs.iter();
        let running: Vec<(Held, Part)> =
            jobs.flat_map(|job| parts(job).into_iter().map(move |part| of(job, part))).collect();
        let read = |(held, part): (Held, Part)| async move {
            let on = if part.gpus == 0 { held.on } else { self.allocation(part).await };
            Held { on, ..held }
        };
        stream::iter(running).map(read).buffered(READS).collect().await
    }

    async fn allocation(&self, part: Part) -> Taken {
        let key = (part.id, part.start, part.nodes.clone());
        let known = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Taken::Known(Allocation::clone(&known));
        }
        match self.slurm.resources(part.id).await {
            Ok(allocation) => {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                held.insert(key, Arc::new(allocation.clone()));
                Taken::Known(allocation)
            }
            // It has ended meanwhile, or Slurm does not say: its nodes are known.
            Err(error) => {
                tracing::debug!(
                    job = part.id.0,
                    error = explain(&error),
                    "what it holds cannot be read"
                );
                Taken::Nodes(part.nodes)
            }
        }
    }

    /// Forgets what jobs held that are over.
    fn forget(&self, listing: &Listing) {
        let live: HashMap<JobId, i64> = listing
            .jobs
            .iter()
            .flat_map(|job| parts(job))
            .map(|part| (part.id, part.start))
            .collect();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(id, start, _), _| live.get(id) == Some(start));
    }

    /// A job as accounting knows it. What its placeholder is for accounting learns at its end alone, where it was
    /// asked for at once; until then slurmctld's record tells, which is in `live` by id and time of submission.
    fn spent(&self, job: FinishedJob, live: &HashMap<(u32, i64), &Job>) -> Spent {
        let stamp = Stamp::parse(&job.admin_comment);
        let of = |stamp: Stamp| {
            self.queue.workload(&stamp, false).unwrap_or_else(|| Workload::named(&stamp, &job.name))
        };
        let known = live.get(&(job.id.0, job.submit_time));
        let workload = stamp.map(of).or_else(|| self.workload(known?, false));
        Spent {
            job: job.id.0,
            user: job.user,
            account: job.account,
            namespace: workload.map(|own| own.namespace).unwrap_or_default(),
            gpus: job.gpus,
            nodes: job.node_count,
            start: job.start_time,
            end: job.end_time,
        }
    }
}

/// What a word means.
struct Meant {
    row: Row,
    /// It, and all others.
    rows: Vec<Row>,
    /// What Slurm says; `None`: it does not answer, and the row is none of its.
    listing: Option<Arc<Listing>>,
}

impl Meant {
    fn job(&self) -> Option<&Job> {
        let mut jobs = self.listing.as_ref()?.jobs.iter();
        jobs.find(|job| job.id.0 == self.row.job).map(|job| &**job)
    }
}

/// Why a word means no one row.
fn none_or_several(word: &str, namespace: &str, several: &[&Row]) -> Status {
    if several.is_empty() {
        let of = if namespace.is_empty() {
            String::new()
        } else {
            format!(" for namespace {namespace}")
        };
        return Status::not_found(format!(
            "no job, gang or pod {word} is in Slurm's queue or waits to get there{of}; `gangway queue` lists all, `gangway usage --by job` what has ended"
        ));
    }
    let named = several.iter().take(5).map(|row| match row.job {
        0 => row.path(),
        job => format!("{} (job {job})", row.path()),
    });
    Status::failed_precondition(format!(
        "{word} may mean {}; say which, by namespace or job id",
        named.collect::<Vec<_>>().join(", ")
    ))
}

/// What runs under one id: a job, or a component of a heterogeneous one.
struct Part {
    id: JobId,
    nodes: String,
    gpus: u32,
    start: i64,
}

fn parts(job: &Job) -> Vec<Part> {
    let runs = |state: &JobState| state.base == BaseState::Running;
    let part = |id: JobId, nodes: &str| Part {
        id,
        nodes: nodes.to_owned(),
        gpus: job.gpus,
        start: job.start_time,
    };
    if job.parts.is_empty() {
        return if runs(&job.state) { vec![part(job.id, &job.nodes)] } else { Vec::new() };
    }
    let running = job.parts.iter().filter(|one| runs(&one.state));
    running.map(|one| part(one.id, &one.nodes)).collect()
}

#[tonic::async_trait]
impl v1::desk_server::Desk for Desk {
    async fn queue(
        &self,
        _: Request<v1::QueueRequest>,
    ) -> Result<Response<v1::QueueResponse>, Status> {
        leads(&self.0.mandate)?;
        let listing = self.0.listing(Oldest::Told).await?;
        let rows = self.0.rows(&listing, false).into_iter().map(Into::into).collect();
        Ok(Response::new(v1::QueueResponse { rows, as_of: listing.as_of, now: now() }))
    }

    async fn why(
        &self,
        request: Request<v1::WhyRequest>,
    ) -> Result<Response<v1::WhyResponse>, Status> {
        leads(&self.0.mandate)?;
        let request = request.into_inner();
        let meant = self.0.meant(&request.word, &request.namespace).await?;
        let row = &meant.row;
        let as_of = meant.listing.as_ref().map_or_else(now, |listing| listing.as_of);
        if row.job == 0 {
            return Ok(Response::new(v1::WhyResponse::of(
                desk::explain_outside(row),
                as_of,
                now(),
            )));
        }
        let (nodes, partitions) = self.0.ledger.hosts().await.map_err(|error| refused(&error))?;
        let slurms = (nodes.as_slice(), partitions.as_slice());
        let mut explained = desk::explain(row, (&meant.rows, meant.job()), slurms, now());
        if let Some(job) = meant.job().filter(|_| row.waits()) {
            let said = self.0.queue.priority(&self.0.slurm, job, now()).await;
            explained.priority = said.map(|said| said.told()).unwrap_or_default();
        }
        if let Some(told) = row.gang().and_then(|gang| self.0.anteroom.told(gang)) {
            explained.why.push_str(&format!("; its pods are told: {told}"));
        }
        Ok(Response::new(v1::WhyResponse::of(explained, as_of, now())))
    }

    async fn nodes(
        &self,
        _: Request<v1::NodesRequest>,
    ) -> Result<Response<v1::NodesResponse>, Status> {
        leads(&self.0.mandate)?;
        let listing = self.0.listing(Oldest::Untold).await?;
        self.0.forget(&listing);
        let held = self.0.held(&listing).await;
        let (hosts, _) = self.0.ledger.hosts().await.map_err(|error| refused(&error))?;
        let rows = desk::nodes(&hosts, &held).into_iter().map(Into::into).collect();
        Ok(Response::new(v1::NodesResponse { rows, as_of: listing.as_of, now: now() }))
    }

    async fn what_if(
        &self,
        request: Request<v1::WhatIfRequest>,
    ) -> Result<Response<v1::WhatIfResponse>, Status> {
        leads(&self.0.mandate)?;
        let policy = self.0.queue.policy().borrow().clone();
        let mut answer = self.0.trials.ask(&policy, request.into_inner()).await?;
        answer.now = now();
        Ok(Response::new(answer))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        leads(&self.0.mandate)?;
        let certificates = request.peer_certs();
        let names = certificates.as_deref().map(Vec::as_slice).unwrap_or_default();
        let guest = guests::guest(names, &self.0.settings)?;
        let request = request.into_inner();
        let row = self.0.meant(&request.word, &request.namespace).await?.row;
        guest.may_cancel(&row)?;
        if row.job == 0 {
            return Err(Status::failed_precondition(format!(
                "Slurm has no job for {} that could be ended; delete the workload to be rid of it",
                row.path()
            )));
        }
        let job = self.0.slurm.job(JobId(row.job)).await.map_err(|error| refused(&error))?;
        let job = job.ok_or_else(|| Status::not_found("Slurm does not know the job any more"))?;
        // Whoever has the id now: it may not be the one that was looked at.
        if job.user != row.user || job.submit_time != row.submitted {
            return Err(Status::aborted("the job has just become another; look again"));
        }
        tracing::info!(
            gang = row.gang(),
            job = row.job,
            client = guest.name(),
            owner = row.user,
            "cancelled from a terminal"
        );
        self.0.slurm.cancel_submission(&job).await.map_err(|error| refused(&error))?;
        self.0.ledger.forget();
        Ok(Response::new(v1::CancelResponse { row: Some(row.into()) }))
    }

    async fn usage(
        &self,
        request: Request<v1::UsageRequest>,
    ) -> Result<Response<v1::UsageResponse>, Status> {
        leads(&self.0.mandate)?;
        let request = request.into_inner();
        let (from, to, by) = (request.from, request.to, request.by());
        if from < 0 || to <= from || to - from > YEAR {
            return Err(Status::invalid_argument("`to` must come after `from`, at most 366 days"));
        }
        // First, for it may not even be known where to ask.
        let measured = match request.efficiency {
            true => Some(self.0.prometheus.measured((from, to.min(now()))).await?),
            false => None,
        };
        let jobs = self.0.slurm.finished_jobs(from, to).await;
        let jobs = jobs.map_err(|error| refused(&error))?;
        let listing = self.0.listing(Oldest::Untold).await?;
        let live = listing.jobs.iter().flat_map(|job| {
            let ids = job.parts.iter().map(|part| part.id).chain([job.id]);
            ids.map(move |id| ((id.0, job.submit_time), &**job))
        });
        let live = live.collect();
        let spent: Vec<Spent> = jobs.into_iter().map(|job| self.0.spent(job, &live)).collect();
        let rows = match measured {
            Some(measured) => desk::efficiency(&spent, &measured, by.into(), (from, to), now()),
            None => desk::usage(&spent, by.into(), (from, to), now()),
        };
        Ok(Response::new(v1::UsageResponse { rows: rows.into_iter().map(Into::into).collect() }))
    }
}

/// Seconds since the epoch.
fn now() -> i64 {
    crate::wall::now().as_second()
}

#[cfg(test)]
mod tests;
