//! What people are told of placeholders that wait: their place in the queue, and what of that which they need
//! there is.
//!
//! Reads Slurm's nodes while somebody waits for some, seldom where that takes long. It must never hold up or
//! decide anything: whoever cannot be told is told less.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use gangway_core::job::{BaseState, Job, JobId};
use gangway_core::outlook::{Ask, Node, is_about_nodes, outlook};
use tokio::time::Instant;

use super::Queue;
use super::board::Outlook;
use crate::chain::explain;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How old what was read of the nodes may become, and how many times as long as it took to read it.
const NODES: Duration = Duration::from_secs(5);
const BREATHERS: u32 = 60;
/// Placeholders that are told something new in one look: whoever watches has to keep up.
const AT_ONCE: usize = 500;
/// Far back in a queue a place is told anew only when it has moved by this part of it.
const FAR: u32 = 20;

/// Slurm's nodes as last read.
#[derive(Default)]
struct Nodes {
    list: Vec<Node>,
    /// What those who wait for the same are told of them.
    words: HashMap<Ask, String>,
    /// When they may be read again.
    again: Option<Instant>,
}

impl Nodes {
    fn read(&mut self, list: Vec<Node>) {
        self.list = list;
        self.words.clear();
    }

    /// Empty where nothing can be said.
    fn words(&mut self, job: &Job) -> String {
        if self.list.is_empty() || !is_about_nodes(&job.reason) {
            return String::new();
        }
        let Some(ask) = Ask::of(job) else { return String::new() };
        self.words.entry(ask).or_insert_with_key(|ask| outlook(ask, &self.list)).clone()
    }
}

impl Queue {
    /// Keeps telling, until the bridge stops.
    pub(crate) async fn keep_outlook(self: Arc<Self>) -> anyhow::Result<()> {
        let mut nodes = Nodes::default();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
            }
            let all = self.board.stamped();
            let waits = |job: &Job| job.state.base == BaseState::Pending;
            let waiting: Vec<Arc<Job>> =
                all.into_iter().map(|(_, job)| job).filter(|job| waits(job)).collect();
            let ids: HashSet<JobId> = waiting.iter().map(|job| job.id).collect();
            self.board.keep_outlooks(&ids);
            if waiting.is_empty() {
                continue;
            }
            if waiting.iter().any(|job| is_about_nodes(&job.reason)) {
                self.look_at_nodes(&mut nodes).await;
            }
            let places = self.board.positions();
            let mut told = 0;
            for job in &waiting {
                let place = places.get(&job.id).copied().unwrap_or(0);
                told += usize::from(self.foresee(job, place, nodes.words(job)).await);
                if told >= AT_ONCE {
                    break;
                }
            }
        }
    }

    /// Whether that was news.
    async fn foresee(&self, job: &Job, place: u32, words: String) -> bool {
        let known = self.board.outlook(job.id);
        let priority = job.priority.unwrap_or(0);
        let factors = if known.factors.0 == priority {
            known.factors
        } else {
            let said = self.priority(&self.slurm, job, crate::wall::now().as_second()).await;
            (priority, said.map(|said| said.factors()).unwrap_or_default())
        };
        let far = known.position > FAR && place > FAR;
        let same = far && known.position.abs_diff(place) < known.position / FAR;
        let position = if same { known.position } else { place };
        self.board.foresee(job.id, Outlook { position, words, factors })
    }

    async fn look_at_nodes(&self, nodes: &mut Nodes) {
        if nodes.again.is_some_and(|again| Instant::now() < again) {
            return;
        }
        let began = Instant::now();
        match self.slurm.nodes().await {
            Ok(list) => {
                nodes.read(list.into_iter().map(fact).collect());
            }
            Err(error) => {
                nodes.read(Vec::new());
                tracing::debug!(error = explain(&error), "could not read what nodes there are");
            }
        }
        nodes.again = Some(Instant::now() + NODES.max(began.elapsed() * BREATHERS));
    }
}

/// What of a node people are told.
pub(crate) fn fact(node: gangway_slurm::Node) -> Node {
    Node {
        name: node.name,
        state: node.state,
        reason: node.reason,
        reason_user: node.reason_user,
        gres: node.gres,
        used: node.gres_used,
        cpus: (node.cpus, node.allocated_cpus),
        memory_mib: (node.memory_mib, node.allocated_memory_mib),
        partitions: node.partitions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(id: u32, tres: &str) -> Job {
        let (partition, reason) = ("gpu".to_owned(), "Resources".to_owned());
        let tres_per_node = tres.to_owned();
        Job { id: JobId(id), node_count: 2, partition, reason, tres_per_node, ..Job::default() }
    }

    #[test]
    fn nodes_are_looked_through_once_for_all_who_ask_the_same() {
        let node = |name: &str| Node {
            name: name.to_owned(),
            gres: "gpu:8".to_owned(),
            cpus: (8, 0),
            partitions: vec!["gpu".to_owned()],
            ..Node::default()
        };
        let mut nodes = Nodes::default();
        assert_eq!(nodes.words(&waits(1, "gres/gpu=8")), "", "nothing has been read");
        nodes.read(vec![node("a"), node("b")]);
        for id in 1..=1000 {
            let words = nodes.words(&waits(id, "gres/gpu=8"));
            assert_eq!(words, "needs 2 nodes with 8 x gpu; of 2 such nodes 2 are free");
            nodes.words(&waits(id, "gres/gpu=4"));
        }
        assert_eq!(nodes.words.len(), 2);
        nodes.read(vec![node("a")]);
        let words = nodes.words(&waits(1, "gres/gpu=8"));
        assert_eq!(words, "needs 2 nodes with 8 x gpu; of 1 such node 1 is free", "as last read");
    }
}
