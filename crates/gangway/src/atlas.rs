//! Where the nodes are and what their GPUs are: what Kubernetes' labels and Slurm's node list say of
//! the network, drawn up for placement, and of GPUs, for what is asked.
//!
//! The node watch writes the labels, Slurm's list is read when it is needed for a node that is not
//! in it yet and every ten minutes; never for each gang. The map is drawn anew when something has
//! changed. It decides nothing, and a gang is never kept waiting for it: what is not known comes last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gangway_core::hostlist::Hostlist;
use gangway_core::job::{Allocation, PlaceholderRequest};
use gangway_core::names;
use gangway_core::topology::{NodeFacts, Source, Topology, slurm_path};
use gangway_core::translate::gpu::{self, GpuTypes, Offer};
use gangway_slurm::Client;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::bell::{Bell, Listener};
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
    gpus: GpuTypes,
    inner: Mutex<Inner>,
    /// When Slurm's list was last asked for; held while it is.
    asked: tokio::sync::Mutex<Option<Instant>>,
    /// Counts the changes of what types of GPU are found from.
    gpu_news: Bell<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By Kubernetes' name of the node.
    labels: HashMap<String, Labelled>,
    /// By Slurm's name.
    slurm: HashMap<String, Listed>,
    /// The map, until something changes.
    drawn: Option<Arc<Topology>>,
    /// The one type of GPU by partition and excluded nodes, until something changes.
    types: HashMap<(String, String), Option<String>>,
    /// How many nodes say what their GPUs are.
    products: usize,
}

impl Inner {
    fn changed(&mut self) {
        self.drawn = None;
        self.types.clear();
    }

    /// Writes down what a node's labels say, or that it is gone. Whether that is news of GPUs.
    fn write(&mut self, name: &str, now: Option<Labelled>) -> bool {
        let says = |node: Option<&Labelled>| {
            node.filter(|node| !node.product.is_empty())
                .map(|node| (node.slurm_name.clone(), node.product.clone()))
        };
        let after = says(now.as_ref());
        let old = match now {
            Some(now) => self.labels.insert(name.to_owned(), now),
            None => self.labels.remove(name),
        };
        let before = says(old.as_ref());
        self.products =
            self.products + usize::from(after.is_some()) - usize::from(before.is_some());
        self.changed();
        before != after
    }
}

/// What Slurm says of a node.
#[derive(Debug, Default, PartialEq)]
struct Listed {
    path: Vec<String>,
    gres: String,
    partitions: Vec<String>,
}

/// What the labels of a node say.
#[derive(Debug, PartialEq)]
struct Labelled {
    slurm_name: String,
    path: Vec<String>,
    instance_type: String,
    /// What its GPUs are called; empty where nothing says.
    product: String,
}

impl Atlas {
    pub(crate) fn new(network: Network, gpus: GpuTypes) -> Self {
        Self { network, gpus, ..Self::default() }
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
        let product = self.gpus.product(labels).to_owned();
        let now = Labelled { slurm_name, path, instance_type, product };
        let mut inner = self.inner();
        if inner.labels.get(name) != Some(&now) && inner.write(name, Some(now)) {
            self.tell_of_gpus();
        }
    }

    /// Forgets the labels of a node that is gone.
    pub(crate) fn forget(&self, name: &str) {
        let mut inner = self.inner();
        if inner.labels.contains_key(name) && inner.write(name, None) {
            self.tell_of_gpus();
        }
    }

    /// Keeps only the nodes of a full list.
    pub(crate) fn keep(&self, names: &HashSet<String>) {
        let mut inner = self.inner();
        let gone: Vec<String> =
            inner.labels.keys().filter(|name| !names.contains(*name)).cloned().collect();
        let news = gone.iter().filter(|name| inner.write(name, None)).count();
        if news > 0 {
            self.tell_of_gpus();
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

    fn tell_of_gpus(&self) {
        self.gpu_news.ring(|count| *count += 1);
    }

    /// Told whenever a gang that waits may have to be asked for with another type of GPU.
    pub(crate) fn gpu_news(&self) -> Listener<u64> {
        self.gpu_news.listen()
    }

    /// What must be told to a job that waits for GPUs of a type left open, as its nodes are now.
    pub(crate) fn other_gpus(
        &self,
        partition: &str,
        excluded: &str,
        asked: &str,
    ) -> Option<String> {
        self.gpus_listed()?;
        // Without Slurm's list nothing is known, which is no news.
        if self.inner().slurm.is_empty() {
            return None;
        }
        gpu::retold(asked, self.gpu_type(partition, excluded).as_deref())
    }

    /// Names the type of the GPUs in a request that leaves it open, where the nodes that it may get
    /// have only one. Returns whether anything was named.
    pub(crate) async fn name_gpus(&self, slurm: &Client, request: &mut PlaceholderRequest) -> bool {
        if !request.components.iter().any(gpu::wanted) {
            return false;
        }
        match self.gpus_listed() {
            None => return false,
            Some(true) => {}
            Some(false) => {
                let _ = timeout(PATIENCE, self.ask(slurm, AGAIN)).await;
            }
        }
        let mut named = false;
        for component in request.components.iter_mut().filter(|c| gpu::wanted(c)) {
            let kind = self.gpu_type(&request.partition, &component.excluded_nodes);
            if let Some(kind) = kind {
                gpu::give(component, &kind);
                named = true;
            }
        }
        named
    }

    /// Whether any node says what its GPUs are.
    pub(crate) fn knows_gpus(&self) -> bool {
        self.inner().products > 0
    }

    /// Whether Slurm has listed every node that says what its GPUs are; `None` where none does.
    fn gpus_listed(&self) -> Option<bool> {
        let inner = self.inner();
        let mut labelled = inner.labels.values().filter(|node| !node.product.is_empty());
        (inner.products > 0)
            .then(|| labelled.all(|node| inner.slurm.contains_key(&node.slurm_name)))
    }

    /// The one type of GPU on a partition's nodes without those excluded. Several partitions may be
    /// named; of none, all nodes are taken.
    fn gpu_type(&self, partition: &str, excluded: &str) -> Option<String> {
        let key = (partition.to_owned(), excluded.to_owned());
        let mut inner = self.inner();
        if let Some(known) = inner.types.get(&key) {
            return known.clone();
        }
        let shut = Hostlist::parse(excluded).map(|list| list.names()).unwrap_or_default();
        let shut: HashSet<String> = shut.into_iter().collect();
        let products: HashMap<&str, &str> =
            inner.labels.values().map(|n| (n.slurm_name.as_str(), n.product.as_str())).collect();
        let of = |node: &Listed| {
            partition.is_empty()
                || partition.split(',').any(|p| node.partitions.iter().any(|own| own == p))
        };
        let open = inner.slurm.iter().filter(|(name, node)| of(node) && !shut.contains(*name));
        let kind = self.gpus.common(open.map(|(name, node)| Offer {
            product: products.get(name.as_str()).copied(),
            gres: &node.gres,
        }));
        inner.types.insert(key, kind.clone());
        kind
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
                let listed = nodes.into_iter().map(|n| {
                    let path = slurm_path(&n.topology);
                    (n.name, Listed { path, gres: n.gres, partitions: n.partitions })
                });
                let now: HashMap<String, Listed> = listed.collect();
                let mut inner = self.inner();
                if inner.slurm != now {
                    inner.slurm = now;
                    inner.changed();
                    self.tell_of_gpus();
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
        for (name, listed) in &inner.slurm {
            facts.entry(name).or_default().slurm.clone_from(&listed.path);
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

    /// As EC2 tells it, with every level contradicting the next finer one: whoever skips a level or
    /// reads the levels in another order comes to another walk.
    #[test]
    fn the_layers_of_ec2_are_read_from_the_zone_down_to_the_node() {
        let there = [
            ("n0", ["use1-az2", "nn-1a", "nn-2a", "nn-3a"]),
            ("n1", ["use1-az1", "nn-1b", "nn-2b", "nn-3b"]),
            ("n2", ["use1-az1", "nn-1a", "nn-2c", "nn-3c"]),
            ("n3", ["use1-az1", "nn-1a", "nn-2a", "nn-3d"]),
        ];
        let atlas = Atlas::default();
        // Two nodes behind each switch: neighbours by the network, not by name.
        for (name, [zone, one, two, three]) in there {
            let layer = |n: u32| format!("topology.k8s.aws/network-node-layer-{n}");
            let keys = ["topology.kubernetes.io/zone".to_owned(), layer(1), layer(2), layer(3)];
            let labels: BTreeMap<String, String> =
                keys.into_iter().zip([zone, one, two, three].map(str::to_owned)).collect();
            atlas.put(name, &labels);
            atlas.put(&format!("{name}-beside"), &labels);
        }
        let all = ["n0", "n1", "n2", "n3", "n0-beside", "n1-beside", "n2-beside", "n3-beside"];
        let expected = ["n3", "n2", "n1", "n0"].map(|n| [n.to_owned(), format!("{n}-beside")]);
        assert_eq!(walk(&atlas, &all), expected.concat());
    }

    #[test]
    fn labels_of_the_configuration_count_in_its_order_and_alone() {
        let keys = ["example.com/rack", "example.com/slot"];
        let network = |keys: [&str; 2]| Network {
            labels: keys.map(str::to_owned).to_vec(),
            ..Network::default()
        };
        let atlas = Atlas::new(network(keys), GpuTypes::default());
        let turned = Atlas::new(network([keys[1], keys[0]]), GpuTypes::default());
        for atlas in [&atlas, &turned] {
            let put = |name, rack, slot, layer| {
                atlas.put(name, &labels(&[(keys[0], rack), (keys[1], slot), (LAYER, layer)]));
            };
            put("n1", "r10", "s1", "nn-a");
            put("n2", "r2", "s3", "nn-b");
            put("n3", "r2", "s2", "nn-c");
            put("n4", "r10", "s4", "nn-d");
        }
        let all = ["n1", "n2", "n3", "n4"];
        assert_eq!(walk(&atlas, &all), ["n3", "n2", "n1", "n4"]);
        assert_eq!(walk(&turned, &all), ["n1", "n3", "n2", "n4"]);
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
        let drawn_by =
            |source| Atlas::new(Network { source, ..Network::default() }, GpuTypes::default());
        let slurm = drawn_by(Source::Slurm);
        slurm.put("n1", &labels(&[(LAYER, "a")]));
        slurm.put("n2", &labels(&[(LAYER, "a")]));
        assert!(slurm.missing(&allocation));
        let labels_only = drawn_by(Source::Labels);
        assert!(!labels_only.missing(&allocation));
    }

    #[test]
    fn a_type_of_gpu_is_that_of_the_open_nodes_of_the_partition() {
        let atlas = Atlas::default();
        let listed = |gres: &str, partition: &str| Listed {
            gres: gres.to_owned(),
            partitions: vec![partition.to_owned()],
            ..Listed::default()
        };
        let nodes =
            [("n1", "gpu:h100:8", "p"), ("n2", "gpu:a100:8", "p"), ("n3", "gpu:h100:8", "q")];
        for (name, gres, partition) in nodes {
            atlas.inner().slurm.insert(name.to_owned(), listed(gres, partition));
        }
        assert_eq!(atlas.gpus_listed(), None, "no label says what a GPU is");
        assert_eq!(atlas.gpu_type("p", "n2"), None);
        const PRODUCT: &str = "nvidia.com/gpu.product";
        let h100 = labels(&[(PRODUCT, "NVIDIA-H100-80GB-HBM3"), (names::SLURM_NODE_LABEL, "n1")]);
        atlas.put("ip-1", &h100);
        atlas.put("n2", &labels(&[(PRODUCT, "NVIDIA-A100-SXM4-40GB")]));
        assert_eq!(atlas.gpus_listed(), Some(true));
        assert_eq!(atlas.gpu_type("p", ""), None, "two types");
        assert_eq!(atlas.gpu_type("p", "n2").as_deref(), Some("h100"));
        assert_eq!(atlas.gpu_type("p", "n1").as_deref(), Some("a100"));
        assert_eq!(atlas.gpu_type("p,q", "n2").as_deref(), Some("h100"));
        assert_eq!(atlas.gpu_type("", "n2").as_deref(), Some("h100"), "all partitions");
        let (any, typed) = ("gres/gpu=4", "gres/gpu:h100=4");
        assert_eq!(atlas.other_gpus("p", "n2", any).as_deref(), Some(typed));
        assert_eq!(atlas.other_gpus("p", "", typed).as_deref(), Some(any));
        assert_eq!(atlas.other_gpus("p", "n2", typed), None, "it knows");
        // What has been found is not believed longer than the labels.
        let mut news = atlas.gpu_news();
        atlas.put("n2", &labels(&[(LAYER, "nn-a"), (PRODUCT, "NVIDIA-A100-SXM4-40GB")]));
        assert!(!news.has_news(), "nothing of its GPUs");
        atlas.put("n2", &labels(&[]));
        assert!(news.has_news());
        news.hear();
        assert_eq!(atlas.gpu_type("p", "n1"), None);
        atlas.put("n9", &h100);
        atlas.put("n8", &labels(&[(PRODUCT, "NVIDIA-H100-80GB-HBM3")]));
        assert_eq!(atlas.gpus_listed(), Some(false), "n8 is not in Slurm's list");
        atlas.keep(&HashSet::from(["n2".to_owned()]));
        assert!(news.has_news());
        assert_eq!(atlas.gpus_listed(), None, "nobody says anything any more");
        assert_eq!(atlas.other_gpus("p", "n2", typed), None, "which is no news");
    }
}
