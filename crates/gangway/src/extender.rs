//! The gRPC door, server side: a thin adapter from messages to the queue. Decides nothing.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use gangway_api::v1;
use gangway_core::follow::Verdict;
use gangway_core::gang::Gang;
use gangway_core::job::Job;
use gangway_core::placeholder::Stamp;
use tokio_stream::wrappers::{BroadcastStream, WatchStream};
use tonic::{Request, Response, Status};

use crate::chain::explain;
use crate::mandate::{Mandate, Standing};
use crate::queue::{Board, Health, Key, Queue};

/// Largest message that is read: a gang of 65,536 members with their resources.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// The service.
#[derive(Clone)]
pub(crate) struct Extender {
    queue: Arc<Queue>,
    mandate: Mandate,
}

/// The service, ready to be added to a server.
pub(crate) type Room = v1::extender_server::ExtenderServer<Extender>;

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service, ready to be added to a server.
pub(crate) fn service(queue: Arc<Queue>, mandate: Mandate) -> Room {
    Room::new(Extender { queue, mandate })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// Whoever asks a process that stands by is told who leads.
pub(crate) fn leads(mandate: &Mandate) -> Result<(), Status> {
    let (why, leader) = match mandate.standing() {
        Standing::Leads if mandate.holds() => return Ok(()),
        Standing::Waits(leader) if leader.is_empty() => {
            ("this gangway stands by, and it is not known yet who leads".to_owned(), leader)
        }
        Standing::Waits(leader) => {
            (format!("this gangway stands by; {leader} leads: ask there"), leader)
        }
        Standing::Leads | Standing::Over => {
            ("this gangway does not lead any more and is ending".to_owned(), String::new())
        }
    };
    let mut status = Status::unavailable(why);
    if let Ok(leader) = leader.parse() {
        status.metadata_mut().insert("gangway-leader", leader);
    }
    Err(status)
}

#[tonic::async_trait]
impl v1::extender_server::Extender for Extender {
    type PlaceStream = Answer<v1::Verdict>;
    type WatchStream = Answer<v1::WatchEvent>;

    async fn place(
        &self,
        request: Request<v1::PlaceRequest>,
    ) -> Result<Response<Self::PlaceStream>, Status> {
        leads(&self.mandate)?;
        let gang =
            request.into_inner().gang.ok_or_else(|| Status::invalid_argument("gang is missing"))?;
        let cluster = gang.cluster.clone();
        let gang = Gang::try_from(gang).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let verdicts =
            WatchStream::new(self.queue.place(cluster, gang).await).filter_map(async |v| v);
        // The stream ends with the verdict that ends the question.
        let answer = verdicts.scan(false, |over, verdict| {
            let item = (!*over).then(|| Ok(v1::Verdict::of(&verdict)));
            *over = matches!(verdict, Verdict::Refused(_) | Verdict::Ended { .. });
            futures::future::ready(item)
        });
        Ok(Response::new(Box::pin(answer)))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        leads(&self.mandate)?;
        let request = request.into_inner();
        request.check().map_err(|e| Status::invalid_argument(e.to_string()))?;
        // Before Slurm's jobs have been listed, "there is none" would be a guess.
        if matches!(self.queue.board().health().hear(), Health::Unknown) {
            return Err(Status::unavailable("Slurm has not answered yet"));
        }
        let latest = request.latest();
        let key = Key { cluster: request.cluster, gang: request.uid };
        let jobs = self
            .queue
            .release(&key, &request.reason, request.again, latest)
            .await
            .map_err(|e| Status::unavailable(explain(&e)))?;
        Ok(Response::new(v1::ReleaseResponse { job_ids: jobs.into_iter().map(|j| j.0).collect() }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        leads(&self.mandate)?;
        let request = request.into_inner();
        request.check().map_err(|e| Status::invalid_argument(e.to_string()))?;
        let (verdict, jobs) =
            self.queue.explain(&Key { cluster: request.cluster, gang: request.uid });
        Ok(Response::new(v1::ExplainResponse {
            verdict: verdict.as_ref().map(v1::Verdict::of),
            placeholders: jobs
                .iter()
                .map(|(stamp, job)| placeholder(self.queue.board(), stamp, job))
                .collect(),
        }))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        leads(&self.mandate)?;
        let cluster = request.into_inner().cluster;
        let board = self.queue.board().clone();
        let mut health = board.health();
        let answer = async move {
            // Subscribed before the snapshot, so that no change falls between the two.
            let changes = BroadcastStream::new(board.changes());
            health.until(|h| *h == Health::Up).await;
            let mut first: Vec<(Stamp, Arc<Job>)> = board.stamped();
            first.retain(|(s, _)| s.cluster == cluster);
            first.sort_by_key(|(_, j)| j.id);
            let first: Vec<_> =
                first.into_iter().map(|(s, j)| Ok(event(placeholder(&board, &s, &j)))).collect();
            let synced = v1::WatchEvent { event: Some(v1::watch_event::Event::Synced(true)) };
            let later = changes.filter_map(move |change| {
                let item = match change {
                    Ok((stamp, job)) if stamp.cluster == cluster => {
                        Some(Ok(event(placeholder(&board, &stamp, &job))))
                    }
                    Ok(_) => None,
                    // A reader that is too slow has missed changes: it must begin anew.
                    Err(_) => Some(Err(Status::data_loss("too slow; watch again"))),
                };
                futures::future::ready(item)
            });
            futures::stream::iter(first).chain(futures::stream::iter([Ok(synced)])).chain(later)
        };
        Ok(Response::new(Box::pin(futures::stream::once(answer).flatten())))
    }
}

fn event(placeholder: v1::Placeholder) -> v1::WatchEvent {
    v1::WatchEvent { event: Some(v1::watch_event::Event::Placeholder(placeholder)) }
}

fn placeholder(board: &Board, stamp: &Stamp, job: &Job) -> v1::Placeholder {
    let outlook = board.outlook(job.id);
    v1::Placeholder {
        uid: stamp.gang.clone(),
        generation: stamp.generation,
        job_id: job.id.0,
        state: job.state.base.name().to_owned(),
        reason: job.reason.clone(),
        nodes: job.nodes.clone(),
        partition: job.partition.clone(),
        user: job.user.clone(),
        account: job.account.clone(),
        priority: job.priority.unwrap_or(0),
        position: outlook.position,
        expected_start: job.start_time,
        preemptions: board.preemptions(&stamp.cluster, &stamp.gang),
        outlook: outlook.words,
        factors: outlook.factors.1,
    }
}
