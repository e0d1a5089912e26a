//! A scheduler's desk with a large cluster behind it, made up: for what has to be quick with a thousand nodes and
//! thousands of gangs, and for pictures.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::stream::unfold;
use gangway_api::v1;
use gangway_api::v1::desk_server::{Desk, DeskServer};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// GPUs of each node.
const GPUS: u32 = 8;
/// Seconds since the epoch as everything here has it.
type Time = i64;

/// The desk, on a port of its own for as long as it lives.
pub struct Crowd {
    /// Where its door is.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

struct Made {
    nodes: u32,
    now: Time,
    looks: AtomicU32,
    jobs: Mutex<Vec<v1::QueueRow>>,
}

impl Crowd {
    /// A pool of so many nodes, most of them held, and so many gangs that wait. At each look one of those that wait is
    /// gone and another has come. A job is named as a user might who wishes the page ill.
    pub async fn gather(nodes: u32, waiting: u32, now: Time) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let made = Made {
            nodes,
            now,
            looks: AtomicU32::new(0),
            jobs: Mutex::new(jobs(nodes, waiting, now)),
        };
        let desk = DeskServer::new(made).max_encoding_message_size(64 << 20);
        let incoming = unfold(listener, |listener| async move {
            let stream = listener.accept().await.map(|(stream, _)| stream);
            Some((stream, listener))
        });
        let serving = tonic::transport::Server::builder().add_service(desk);
        let task = tokio::spawn(async move {
            // It is ended from outside.
            let _ = serving.serve_with_incoming(incoming).await;
        });
        Self { address, task }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Of running jobs: which nodes, how many of their GPUs, and what kind it is.
struct Held {
    job: u32,
    first: u32,
    nodes: u32,
    gpus: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Seated,
    Unseated,
    Batch,
}

const TEAMS: [(&str, &str, &str); 6] = [
    ("vision", "ana", "cv"),
    ("speech", "bo", "audio"),
    ("llm-pre", "chen", "foundation"),
    ("llm-post", "dara", "foundation"),
    ("bio", "eli", "science"),
    ("ads", "fay", "product"),
];
const WORKS: [&str; 8] =
    ["pretrain-7b", "sft", "eval", "rlhf", "tokenize", "embed", "distill", "ablate"];

/// Who holds what: gangs of 1 to 64 nodes and small jobs, by node after node.
fn held(nodes: u32) -> Vec<Held> {
    let sizes = [16, 4, 1, 1, 64, 2, 8, 1, 32, 1, 4, 2, 1, 16, 8, 1];
    let (mut all, mut first, mut job) = (Vec::new(), 0, 30_000);
    let last = nodes - nodes / 20;
    for turn in 0_u32.. {
        let size = sizes[turn as usize % sizes.len()].min(last.saturating_sub(first));
        if size == 0 {
            return all;
        }
        let kind = match turn % 7 {
            2 | 5 => Kind::Batch,
            6 => Kind::Unseated,
            _ => Kind::Seated,
        };
        let gpus = if size == 1 { 1 + turn % GPUS } else { GPUS };
        all.push(Held { job, first, nodes: size, gpus, kind });
        (first, job) = (first + size, job + 1 + turn % 3);
    }
    all
}

fn workload(job: u32, pods: Vec<String>) -> v1::Workload {
    let (namespace, _, _) = TEAMS[job as usize % TEAMS.len()];
    v1::Workload {
        namespace: namespace.to_owned(),
        kind: if job.is_multiple_of(3) { "Job" } else { "PyTorchJob" }.to_owned(),
        name: name(job),
        gang: format!("gang-{job}"),
        pods,
    }
}

fn name(job: u32) -> String {
    format!("{}-{}", WORKS[job as usize % WORKS.len()], job % 97)
}

fn node(n: u32) -> String {
    format!("p5-{n:04}")
}

fn row(job: u32, batch: bool) -> v1::QueueRow {
    let (_, user, account) = TEAMS[job as usize % TEAMS.len()];
    v1::QueueRow {
        job,
        name: name(job),
        workload: (!batch).then(|| workload(job, Vec::new())),
        partition: if job.is_multiple_of(5) { "inference" } else { "train" }.to_owned(),
        user: user.to_owned(),
        account: account.to_owned(),
        ..v1::QueueRow::default()
    }
}

fn jobs(nodes: u32, waiting: u32, now: Time) -> Vec<v1::QueueRow> {
    let running = held(nodes).into_iter().map(|held| {
        let since = 300 + Time::from(held.job % 90) * 700;
        let last = held.first + held.nodes - 1;
        let hosts = if held.nodes == 1 {
            node(held.first)
        } else {
            format!("p5-[{:04}-{last:04}]", held.first)
        };
        v1::QueueRow {
            state: "RUNNING".to_owned(),
            nodes: held.nodes,
            gpus: held.nodes * held.gpus,
            hosts,
            priority: 4_000_000 - held.job,
            submitted: now - since - 240,
            eligible: now - since - 240,
            start: now - since,
            end: now + 86_400 - since,
            ..row(held.job, held.kind == Kind::Batch)
        }
    });
    running.chain((0..waiting).map(|n| waits(40_000 + n, n, now))).collect()
}

fn waits(job: u32, place: u32, now: Time) -> v1::QueueRow {
    let nodes = [1, 2, 4, 8, 16, 32][job as usize % 6];
    let (reason, description) = match place {
        0 => ("Resources", ""),
        n if n % 41 == 0 => ("QOSMaxGRESPerUser", ""),
        n if n % 97 == 0 => ("Dependency", ""),
        _ => ("Priority", ""),
    };
    let submitted = now - 120 - Time::from(5_000_u32.saturating_sub(place.min(5_000))) * 11;
    v1::QueueRow {
        state: "PENDING".to_owned(),
        reason: reason.to_owned(),
        description: description.to_owned(),
        nodes,
        gpus: nodes * GPUS,
        priority: 3_000_000_u32.saturating_sub(place),
        submitted,
        eligible: submitted,
        start: if place < 400 { now + 600 + Time::from(place) * 180 } else { 0 },
        ..row(job, job.is_multiple_of(4))
    }
}

fn pool(nodes: u32) -> Vec<v1::NodeRow> {
    let mut rows: Vec<v1::NodeRow> = (0..nodes)
        .map(|n| v1::NodeRow {
            name: node(n),
            state: "IDLE".to_owned(),
            partitions: vec!["train".to_owned(), "inference".to_owned()],
            cpus: 192,
            gpus: GPUS,
            free: (0..GPUS).collect(),
            ..v1::NodeRow::default()
        })
        .collect();
    for held in held(nodes) {
        for n in held.first..held.first + held.nodes {
            let row = &mut rows[n as usize];
            let pod = match held.kind {
                Kind::Seated => format!("{}-worker-{}", name(held.job), n - held.first),
                Kind::Unseated | Kind::Batch => String::new(),
            };
            let (_, user, _) = TEAMS[held.job as usize % TEAMS.len()];
            row.state = if held.gpus == GPUS { "ALLOCATED" } else { "MIXED" }.to_owned();
            row.cpus_taken = held.gpus * 24;
            row.free = (held.gpus..GPUS).collect();
            row.holders = vec![v1::Holder {
                job: held.job,
                user: user.to_owned(),
                name: name(held.job),
                workload: (held.kind != Kind::Batch).then(|| workload(held.job, Vec::new())),
                pod,
                gpus: (0..held.gpus).collect(),
            }];
        }
    }
    for n in (0..nodes).filter(|n| n % 83 == 41 || *n + 7 > nodes) {
        let row = &mut rows[n as usize];
        let idle = row.holders.is_empty();
        row.state = if idle { "DOWN+DRAIN" } else { "ALLOCATED+DRAIN" }.to_owned();
        row.reason = "kernel: NVRM Xid 79, GPU has fallen off the bus".to_owned();
    }
    rows
}

#[tonic::async_trait]
impl Desk for Made {
    async fn queue(
        &self,
        _: Request<v1::QueueRequest>,
    ) -> Result<Response<v1::QueueResponse>, Status> {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        let mut jobs = self.jobs.lock().map_err(|_| Status::internal("panicked"))?;
        let waiting = jobs.iter().position(|job| job.state == "PENDING");
        if let (Some(first), true) = (waiting, look > 0) {
            let at = first + (look as usize * 7) % (jobs.len() - first);
            jobs.remove(at);
            jobs.push(waits(60_000 + look, 4_999, self.now));
        }
        let rows = jobs.clone();
        Ok(Response::new(v1::QueueResponse { rows, as_of: self.now, now: self.now }))
    }

    async fn nodes(
        &self,
        _: Request<v1::NodesRequest>,
    ) -> Result<Response<v1::NodesResponse>, Status> {
        Ok(Response::new(v1::NodesResponse {
            rows: pool(self.nodes),
            now: self.now,
            as_of: self.now,
        }))
    }

    async fn why(
        &self,
        request: Request<v1::WhyRequest>,
    ) -> Result<Response<v1::WhyResponse>, Status> {
        let word = request.into_inner().word;
        let jobs = self.jobs.lock().map_err(|_| Status::internal("panicked"))?;
        let at = jobs.iter().position(|job| job.job.to_string() == word);
        let at = at.ok_or_else(|| Status::not_found("no such job"))?;
        let row = jobs[at].clone();
        let ahead: Vec<_> =
            jobs[..at].iter().filter(|job| job.state == "PENDING").take(6).cloned().collect();
        let (why, help) = if row.state == "PENDING" {
            let needs = format!(
                "needs {} nodes with 8 GPUs each in {}: 3 could take it now, 983 are taken, 14 are out of service (p5-0041 DRAIN \"GPU has fallen off the bus\")",
                row.nodes, row.partition
            );
            let ends = "those that hold its nodes end at the latest: job 30004 of eli (64 nodes) in 3h12m, job 30010 of bo (8 nodes) in 5h40m";
            (
                "Priority: others are ahead of it in the queue".to_owned(),
                vec![needs, ends.to_owned()],
            )
        } else {
            (format!("it does not wait: it runs on {}", row.hosts), Vec::new())
        };
        let ahead_count = u32::try_from(at).unwrap_or(u32::MAX);
        Ok(Response::new(v1::WhyResponse {
            row: Some(row),
            why,
            ahead,
            ahead_count,
            help,
            now: self.now,
            as_of: self.now,
            priority: String::new(),
        }))
    }

    async fn what_if(
        &self,
        _: Request<v1::WhatIfRequest>,
    ) -> Result<Response<v1::WhatIfResponse>, Status> {
        Err(Status::unimplemented("it only looks"))
    }

    async fn cancel(
        &self,
        _: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        Err(Status::unimplemented("it only looks"))
    }

    async fn usage(
        &self,
        _: Request<v1::UsageRequest>,
    ) -> Result<Response<v1::UsageResponse>, Status> {
        Err(Status::unimplemented("it only looks"))
    }
}
