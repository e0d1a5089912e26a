//! Carries out `core::poison`: looks for poisoned nodes of ours now and then, and cures them.
//!
//! Decides nothing, and does nothing unless the configuration names the sink.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gangway_core::job::{JobId, Standing};
use gangway_core::poison::{Cure, NodeSeen, Sink, cures, poisoned};
use gangway_slurm::{Client, Error, Node, NodeUpdate};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::failpoint::{self, Point};
use crate::metrics::Placeholders;
use crate::queue::Board;

/// Between two looks while slurmctld has messages that nobody took: there is poison about.
const SOON: Duration = Duration::from_secs(5);
/// Between two looks otherwise, for every node is read.
const LATER: Duration = Duration::from_secs(60);
/// Between two attempts at the same cure.
const AGAIN: Duration = Duration::from_secs(15);
/// A node that is poisoned for so long does not get well by itself: slurmctld repeats what was not
/// answered about once a minute.
const HOPELESS: Duration = Duration::from_secs(300);

/// Heals until `stop`.
pub(crate) async fn run(
    sink: Sink,
    slurm: Client,
    board: Arc<Board>,
    metrics: Placeholders,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (tried, ill) = (BTreeMap::new(), BTreeMap::new());
    let mut healer = Healer { sink, slurm, board, metrics, tried, ill };
    let mut looked: Option<Instant> = None;
    while !stop.is_cancelled() {
        let pause =
            if healer.board.undelivered() > 0 || !healer.ill.is_empty() { SOON } else { LATER };
        if looked.is_none_or(|at| at.elapsed() >= pause) {
            looked = Some(Instant::now());
            if let Err(error) = healer.look().await {
                tracing::warn!(error = explain(&error), "could not look for poisoned nodes");
            }
        }
        tokio::select! {
            () = sleep(SOON) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

struct Healer {
    sink: Sink,
    slurm: Client,
    board: Arc<Board>,
    metrics: Placeholders,
    /// What was just tried, and when.
    tried: BTreeMap<Cure, Instant>,
    /// Nodes that are poisoned, since when, and whether that was told as hopeless.
    ill: BTreeMap<String, (Instant, bool)>,
}

impl Healer {
    /// Looks once, and cures what was not just tried.
    async fn look(&mut self) -> Result<(), Error> {
        let nodes: Vec<NodeSeen> = self.slurm.nodes().await?.into_iter().map(seen).collect();
        self.note(&nodes);
        let placeholders = self.board.stamped();
        let running = placeholders.iter().filter(|(_, job)| job.standing() == Standing::Holding);
        let running: Vec<(JobId, &str)> =
            running.map(|(_, job)| (job.id, job.nodes.as_str())).collect();
        self.tried.retain(|_, at| at.elapsed() < AGAIN);
        for cure in cures(&self.sink, &nodes, &running) {
            if self.tried.contains_key(&cure) {
                continue;
            }
            match &cure {
                Cure::Readdress { node } => {
                    let address = Some(self.sink.address.clone());
                    tracing::warn!(
                        node,
                        address,
                        "Slurm believes this node dead; it gets the sink's address"
                    );
                    let update = NodeUpdate { address, ..NodeUpdate::default() };
                    let updated = self.slurm.update_node(node, &update).await;
                    failpoint::pass(Point::Readdressed);
                    updated?;
                }
                Cure::Stir { job } => {
                    let of = placeholders.iter().find(|(_, seen)| seen.id == *job);
                    if let Some((stamp, job)) = of {
                        tracing::warn!(
                            gang = stamp.gang,
                            job = job.id.0,
                            "stirring a placeholder, so that its nodes answer"
                        );
                        let stirred = self.slurm.stir(job).await;
                        failpoint::pass(Point::Stirred);
                        stirred?;
                    }
                }
            }
            self.tried.insert(cure, Instant::now());
        }
        Ok(())
    }

    fn note(&mut self, nodes: &[NodeSeen]) {
        let now: BTreeSet<&str> =
            poisoned(&self.sink, nodes).map(|node| node.name.as_str()).collect();
        self.metrics.poisoned.set(i64::try_from(now.len()).unwrap_or(i64::MAX));
        self.ill.retain(|name, _| {
            let still = now.contains(name.as_str());
            if !still {
                tracing::info!(node = name, "Slurm believes in this node again");
            }
            still
        });
        for name in now {
            let (since, told) =
                self.ill.entry(name.to_owned()).or_insert_with(|| (Instant::now(), false));
            if since.elapsed() >= HOPELESS && !*told {
                *told = true;
                tracing::error!(
                    node = name,
                    "Slurm will give this node to nobody; delete it and create it anew while no job is on it"
                );
            }
        }
    }
}

fn seen(node: Node) -> NodeSeen {
    let is = |state: &str| node.is(state);
    let (external, silent) = (is("EXTERNAL"), is("NOT_RESPONDING"));
    let Node { name, address, partitions, .. } = node;
    NodeSeen { name, address, external, silent, partitions }
}
