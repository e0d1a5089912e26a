//! Where the nodes are: what Kubernetes' labels and Slurm's node list say of the network, drawn up
//! for placement.
//!
//! The node watch writes the labels, Slurm's list is read when an allocation has a node that is not
//! in it yet and every ten minutes; never for each gang. The map is drawn anew when something has
//! changed. It decides nothing, and a gang is never kept waiting for it: what is not known comes last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gangway_core::job::Allocation;
use gangway_core::names;
use gangway_core::topology::{NodeFacts, Source, Topology, slurm_path};
use gangway_slurm::Client;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::config::Network;

/// How old Slurm's list may become.
const STALE: Duration = Duration::from_secs(600);
/// How soon it is asked for again because of a node that it does not have.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a gang waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The map and what it is drawn from.
#[derive(Debug, Default)]
pub(crate) struct Atlas {
    network: Network,
    inner: Mutex<Inner>,
    /// When Slurm's list was last asked for; held while it is.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By Kubernetes' name of the node.
    labels: HashMap<String, Labelled>,
    /// By Slurm's name.
    slurm: HashMap<String, Vec<String>>,
    /// The map, until something changes.
    drawn: Option<Arc<Topology>>,
}

/// What the labels of a node say.
#[derive(Debug, PartialEq)]
struct Labelled {
    slurm_name: String,
    path: Vec<String>,
    instance_type: String,
}

impl Atlas {
    pub(crate) fn new(network: Network) -> Self {
        Self { network, ..Self::default() }
    }

    /// Takes in a node's labels.
    pub(crate) fn put(&self, name: &str, labels: &BTreeMap<String, String>) {
        let text = |key: &str| labels.get(key).cloned().unwrap_or_default();
        let mut path: Vec<String> = self.network.labels.iter().map(|key| text(key)).collect();
        // Without its finest label nothing tells which nodes are neighbours.
        if path.last().is_none_or(String::is_empty) {
            path.clear();
        }
        let slurm_name = names::slurm_node(labels).unwrap_or(name).to_owned();
        let instance_type = text(&self.network.instance_type_label);
        let now = Labelled { slurm_name, path, instance_type };
        let mut inner = self.inner();
        if inner.labels.get(name) != Some(&now) {
            inner.labels.insert(name.to_owned(), now);
            inner.drawn = None;
        }
    }

    /// Forgets the labels of a node that is gone.
    pub(crate) fn forget(&self, name: &str) {
        let mut inner = self.inner();
        if inner.labels.remove(name).is_some() {
            inner.drawn = None;
        }
    }

    /// Keeps only the nodes of a full list.
    pub(crate) fn keep(&self, names: &HashSet<String>) {
        let mut inner = self.inner();
        let before = inner.labels.len();
        inner.labels.retain(|name, _| names.contains(name));
        if inner.labels.len() != before {
            inner.drawn = None;
        }
    }

    /// The map for these nodes. Slurm is asked first where it has to be.
    pub(crate) async fn for_nodes(&self, slurm: &Client, allocation: &Allocation) -> Arc<Topology> {
        if self.missing(allocation) {
            // Not waited for longer: a gang without its best order beats one that does not start.
            let _ = timeout(PATIENCE, self.ask(slurm, AGAIN)).await;
        }
        self.draw()
    }

    /// Whether Slurm's list is needed for these nodes and lacks one of them.
    fn missing(&self, allocation: &Allocation) -> bool {
        let map = self.draw();
        let nodes: Vec<_> = allocation.nodes.iter().filter_map(|n| map.find(&n.name)).collect();
        let labelled = nodes.len() == allocation.nodes.len() && map.by_labels(&nodes);
        let inner = self.inner();
        self.network.source != Source::Labels
            && !labelled
            && allocation.nodes.iter().any(|n| !inner.slurm.contains_key(&n.name))
    }

    /// Reads Slurm's list, unless that was done less than `age` ago.
    async fn ask(&self, slurm: &Client, age: Duration) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < age) {
            return;
        }
        *asked = Some(Instant::now());
        match slurm.nodes().await {
            Ok(nodes) => {
                let paths = nodes.into_iter().map(|n| (n.name, slurm_path(&n.topology)));
                let now: HashMap<String, Vec<String>> = paths.collect();
                let mut inner = self.inner();
                if inner.slurm != now {
                    inner.slurm = now;
                    inner.drawn = None;
                }
            }
            Err(error) => {
                tracing::warn!(error = explain(&error), "could not read where Slurm's nodes are");
            }
        }
    }

    /// Reads Slurm's list again now and then, once it has been needed at all.
    pub(crate) async fn keep_up(
        &self,
        slurm: Client,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut every = tokio::time::interval(AGAIN);
        loop {
            tokio::select! {
                biased;
                _ = every.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            if !self.inner().slurm.is_empty() {
                self.ask(&slurm, STALE).await;
            }
        }
    }

    /// The map as of now.
    fn draw(&self) -> Arc<Topology> {
        let mut inner = self.inner();
        if let Some(drawn) = &inner.drawn {
            return drawn.clone();
        }
        let mut facts: HashMap<&str, NodeFacts> = HashMap::new();
        for (name, path) in &inner.slurm {
            facts.entry(name).or_default().slurm.clone_from(path);
        }
        for node in inner.labels.values() {
            let facts = facts.entry(&node.slurm_name).or_default();
            facts.labels.clone_from(&node.path);
            facts.instance_type.clone_from(&node.instance_type);
        }
        let named = facts.into_iter().map(|(name, f)| NodeFacts { name: name.to_owned(), ..f });
        let drawn = Arc::new(Topology::new(self.network.source, &self.network.layouts, named));
        inner.drawn = Some(drawn.clone());
        drawn
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock is held ends the process anyway (see nursery).
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn walk(atlas: &Atlas, names: &[&str]) -> Vec<String> {
        let map = atlas.draw();
        let mut nodes: Vec<_> = names.iter().filter_map(|name| map.find(name)).collect();
        let order = map.order(&nodes);
        nodes.sort_by_key(|node| order.position(*node));
        nodes.iter().filter_map(|node| map.name(*node)).map(str::to_owned).collect()
    }

    const LAYER: &str = "topology.k8s.aws/network-node-layer-3";

    #[test]
    fn labels_are_read_under_slurms_name_of_the_node() {
        let atlas = Atlas::default();
        atlas.put("ip-1", &labels(&[(LAYER, "nn-b"), (names::SLURM_NODE_LABEL, "n1")]));
        atlas.put(
            "n2",
            &labels(&[(LAYER, "nn-a"), ("node.kubernetes.io/instance-type", "p5.48xlarge")]),
        );
        assert_eq!(walk(&atlas, &["n1", "n2"]), ["n2", "n1"]);
        let map = atlas.draw();
        let wired = |name: &str| map.find(name).and_then(|node| map.layout(node)).is_some();
        assert!(wired("n2") && !wired("n1"));
    }

    #[test]
    fn the_map_is_drawn_anew_only_when_something_has_changed() {
        let atlas = Atlas::default();
        let there = labels(&[(LAYER, "nn-a")]);
        atlas.put("n1", &there);
        let first = atlas.draw();
        atlas.put("n1", &there);
        assert!(Arc::ptr_eq(&first, &atlas.draw()));
        atlas.keep(&HashSet::from(["n1".to_owned()]));
        assert!(Arc::ptr_eq(&first, &atlas.draw()));
        atlas.forget("n1");
        assert!(atlas.draw().is_empty());
    }

    #[test]
    fn slurm_is_needed_only_where_labels_do_not_say() {
        let node = |name: &str| gangway_core::job::NodeAllocation {
            name: name.to_owned(),
            ..Default::default()
        };
        let allocation = Allocation { nodes: vec![node("n1"), node("n2")] };
        let atlas = Atlas::default();
        assert!(atlas.missing(&allocation));
        atlas.put("n1", &labels(&[(LAYER, "a")]));
        // A zone alone is everywhere and says nothing of the network inside it.
        atlas.put("n2", &labels(&[("topology.kubernetes.io/zone", "z")]));
        assert!(atlas.missing(&allocation));
        atlas.put("n2", &labels(&[(LAYER, "a")]));
        assert!(!atlas.missing(&allocation));
        let slurm = Atlas::new(Network { source: Source::Slurm, ..Network::default() });
        slurm.put("n1", &labels(&[(LAYER, "a")]));
        slurm.put("n2", &labels(&[(LAYER, "a")]));
        assert!(slurm.missing(&allocation));
        let labels_only = Atlas::new(Network { source: Source::Labels, ..Network::default() });
        assert!(!labels_only.missing(&allocation));
    }
}
