//! The protocol facts this client relies on, to be run against a slurmrestd: the real one, and
//! whatever wants to stand in for it.
//!
//! It must never assume an otherwise empty cluster, leave a job or a node behind, or touch what is
//! not its own, except for an update that changes nothing ([`Client::kick`]). It needs at least two
//! EXTERNAL nodes with GPUs and EFAs free within a minute.

mod errors;
mod jobs;
mod nodes;

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gangway_core::job::{Component, GresRequest, JobId, PlaceholderRequest};

use tokio::time::Instant;

use crate::{Client, Config, Error, Node, Submitted};

/// Where the suite runs.
#[derive(Clone, Debug)]
pub struct World {
    /// How to reach slurmrestd as SlurmUser, the token in a file.
    pub config: Config,
    /// A partition of EXTERNAL nodes, each with 8 `gpu` and 32 `efa` that have indexes.
    pub partition: String,
    /// A user who may submit there.
    pub user: String,
    /// A group of that user.
    pub group: String,
    /// An account of that user.
    pub account: String,
    /// Whether slurmctld has an accounting database: unknown accounts are refused, ended jobs
    /// remembered.
    pub accounting: bool,
}

/// What became of the suite.
#[derive(Debug, Default)]
#[must_use]
pub struct Report {
    /// Facts that hold.
    pub held: Vec<&'static str>,
    /// Facts that do not.
    pub broken: Vec<Broken>,
}

/// A fact that does not hold.
#[derive(Debug, thiserror::Error)]
#[error("{fact}")]
pub struct Broken {
    /// The fact.
    pub fact: &'static str,
    /// What was seen instead.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// One fact's outcome.
type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Runs every fact, one after the other, and cleans up.
pub async fn run(world: &World) -> Result<Report, Error> {
    let stage = Stage {
        world,
        client: Client::new(world.config.clone())?,
        made: Mutex::default(),
        tag: format!("conf-{}", std::process::id()),
    };
    let mut report = Report::default();
    errors::run(&stage, &mut report).await;
    nodes::run(&stage, &mut report).await;
    jobs::run(&stage, &mut report).await;
    report.add("nothing is left behind", stage.clear().await);
    Ok(report)
}

impl Report {
    fn add(&mut self, fact: &'static str, outcome: Outcome) {
        match outcome {
            Ok(()) => self.held.push(fact),
            Err(source) => self.broken.push(Broken { fact, source }),
        }
    }
}

/// What the facts share.
struct Stage<'a> {
    world: &'a World,
    client: Client,
    made: Mutex<Vec<JobId>>,
    /// Part of every name and key of this run.
    tag: String,
}

impl Stage<'_> {
    /// A small request: one node, one task, 1 GPU, 2 EFA.
    fn request(&self, name: &str) -> PlaceholderRequest {
        let gres = |name: &str, count| GresRequest { name: name.into(), kind: None, count };
        PlaceholderRequest {
            name: format!("{}-{name}", self.tag),
            user: self.world.user.clone(),
            group: self.world.group.clone(),
            account: Some(self.world.account.clone()),
            partition: self.world.partition.clone(),
            qos: None,
            time_limit_minutes: Some(10),
            components: vec![Component {
                key: format!("{}/{name}", self.tag),
                nodes: 1,
                tasks_per_node: 1,
                cpus_per_task: 1,
                memory_per_node_mib: 100,
                gres_per_node: vec![gres("gpu", 1), gres("efa", 2)],
                excluded_nodes: String::new(),
            }],
            options: gangway_core::job::Options::default(),
        }
    }

    /// Another client of the same server.
    fn other(&self, change: impl FnOnce(&mut Config)) -> Result<Client, Error> {
        let mut config = self.world.config.clone();
        change(&mut config);
        Client::new(config)
    }

    /// Submits and remembers to clean up.
    async fn submit(
        &self,
        request: &PlaceholderRequest,
        id: Option<JobId>,
    ) -> Result<Submitted, Error> {
        let submitted = self.client.submit(request, id).await?;
        self.remember(submitted.job_id);
        Ok(submitted)
    }

    /// Allocates and remembers to clean up.
    async fn allocate(&self, request: &PlaceholderRequest) -> Result<JobId, Error> {
        let id = self.client.allocate(request).await?;
        self.remember(id);
        Ok(id)
    }

    fn remember(&self, id: JobId) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// Nodes of the partition on which nothing runs.
    async fn idle_nodes(&self) -> Result<Vec<Node>, Error> {
        let mut nodes = self.client.nodes().await?;
        nodes.retain(|node| {
            node.partitions.contains(&self.world.partition)
                && node.is("IDLE")
                && node.is("EXTERNAL")
                && !node.is("DRAIN")
                && !node.is("NOT_RESPONDING")
        });
        Ok(nodes)
    }

    /// Ends every job of this run.
    async fn clear(&self) -> Outcome {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for id in made {
            self.client.cancel(id).await?;
        }
        let left = self.client.jobs().await?.into_iter().filter(|job| {
            job.name.starts_with(&self.tag)
                && job.state.standing() != gangway_core::job::Standing::Over
        });
        let left: Vec<_> = left.map(|job| format!("{} {}", job.id, job.state)).collect();
        hold(left.is_empty(), left)
    }
}

/// The fact holds if `condition` does; else `seen` is what was seen.
fn hold(condition: bool, seen: impl fmt::Debug) -> Outcome {
    if condition { Ok(()) } else { Err(format!("{seen:?}").into()) }
}

/// The fact holds if the answer is a no of this category.
fn refused<T: fmt::Debug>(answer: Result<T, Error>, category: &str) -> Outcome {
    hold(answer.as_ref().is_err_and(|error| error.category() == category), answer)
}

/// The fact holds if the answer is a no of this number.
fn answered<T: fmt::Debug>(answer: Result<T, Error>, code: crate::SlurmCode) -> Outcome {
    hold(answer.as_ref().is_err_and(|error| error.code() == Some(code)), answer)
}

/// Asks until there is an answer, for at most a minute.
async fn eventually<T>(
    what: &str,
    ask: impl AsyncFn() -> Result<Option<T>, Error>,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("not within a minute: {what}").into())
}
