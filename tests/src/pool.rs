//! A pool of nodes that a story has on both sides, and the controllers that keep them the same.

use std::collections::BTreeSet;
use std::process::ExitStatus;
use std::time::Duration;

use gangway_slurm::{Client, Node, NodeUpdate};
use serde_json::{Value, json};

use crate::bridge::{Bridge, Setup};
use crate::http;
use crate::nodes::Nodes;
use crate::story::Story;
use crate::wait::{SOON, wait};

/// The label by which the story's nodes are known, with the pool as its value.
pub const POOL: &str = "story.gangway.dev/pool";

/// Nodes and their controllers. Nothing is left of either when it is dropped.
pub struct Pool {
    /// `gangway controllers`.
    pub controllers: Bridge,
    /// The nodes of Kubernetes.
    pub nodes: Nodes,
    slurm: Client,
    mark: String,
    /// For the clean-up of a story that breaks off.
    left: Option<Client>,
}

impl Pool {
    /// Controllers with the pools `mixed` and `both`, whose nodes are in the partition `mixed`, and those of the second
    /// in `spare` too, and the pool `hosts` of nodes with a slurmd. Further lines of the section `nodes` may follow. Not started yet.
    pub fn of(story: &Story, more: &str) -> Self {
        Self::with(story, "", more)
    }

    /// The same with a further pool.
    pub fn with(story: &Story, pool: &str, more: &str) -> Self {
        let pool = if pool.is_empty() { String::new() } else { format!("- {{ {pool} }}") };
        // A story does not wait for half a minute, unless it says so.
        let look = if more.contains("lookSeconds") { "" } else { "lookSeconds: 2" };
        let (port, more) = (story.world.sink_port(), more.to_owned());
        let controllers = story.another("controllers", |setup: &mut Setup| {
            setup.verb = "controllers";
            setup.kubeconfig = Some(story.world.controllers_kubeconfig());
            setup.more = format!(
                "nodes:\n  address: 127.0.0.1\n  port: {port}\n  {look}\n  pools:\n    \
                 - {{ name: mixed, labels: {{ {POOL}: mixed }}, features: [mixed], partitions: [mixed] }}\n    \
                 - {{ name: both, labels: {{ {POOL}: both }}, features: [mixed, spare], partitions: [mixed, spare] }}\n    \
                 - {{ name: hosts, labels: {{ {POOL}: hosts }}, partitions: [hybrid], slurmd: true }}\n    \
                 {pool}\n  \
                 {more}\n"
            );
        });
        let mark = format!("gangway-{}", story.cluster);
        let (slurm, left) = (story.slurm.client_again(), Some(story.slurm.client_again()));
        Self { controllers, nodes: Nodes::of(story), slurm, mark, left }
    }

    /// Adds a node like a p5.48xlarge to Kubernetes.
    pub async fn add(&self, name: &str) {
        self.add_to("mixed", name).await;
    }

    /// The same in another pool.
    pub async fn add_to(&self, pool: &str, name: &str) {
        let labels = json!({
            POOL: pool,
            "node.kubernetes.io/instance-type": "p5.48xlarge",
            "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        });
        let resources = json!({
            "cpu": "191500m", "memory": "2000Gi", "pods": "250",
            "nvidia.com/gpu": "8", "vpc.amazonaws.com/efa": "32",
        });
        self.add_with(name, labels, &resources).await;
    }

    /// Adds a node with these labels and resources to Kubernetes.
    pub async fn add_with(&self, name: &str, labels: Value, resources: &Value) {
        self.nodes.add(name, &labels, resources).await;
    }

    /// The node in Slurm, if it is there.
    pub async fn find(&self, name: &str) -> Option<Node> {
        self.slurm.node(name).await.expect("nodes can be read")
    }

    /// Waits until Slurm's node is as `fits` says.
    pub async fn in_slurm(&self, name: &str, what: &str, fits: impl Fn(&Node) -> bool) -> Node {
        wait(&format!("{name} {what} in Slurm"), SOON, async || match self.find(name).await {
            Some(node) if fits(&node) => Ok(node),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Waits until Slurm does not have the node.
    pub async fn not_in_slurm(&self, name: &str, within: Duration) {
        wait(&format!("{name} is gone from Slurm"), within, async || match self.find(name).await {
            None => Ok(()),
            Some(node) => Err(format!("{:?} {}", node.state, node.reason)),
        })
        .await;
    }

    /// Does as an administrator does.
    pub async fn administrate(&self, name: &str, state: &str, reason: Option<&str>) {
        let update = NodeUpdate {
            state: Some(vec![state.to_owned()]),
            reason: reason.map(str::to_owned),
            ..NodeUpdate::default()
        };
        self.slurm.update_node(name, &update).await.expect("an administrator may");
    }

    /// All nodes of Slurm, by name, with what an administrator sees of each.
    pub async fn everything(&self) -> Vec<(String, Vec<String>, String)> {
        let nodes = self.slurm.nodes().await.expect("nodes can be listed");
        nodes.into_iter().map(|node| (node.name, node.features, node.reason)).collect()
    }

    /// Names of the story's nodes in Slurm.
    pub async fn own(&self) -> BTreeSet<String> {
        let nodes = self.slurm.nodes().await.expect("nodes can be listed");
        let own = nodes.into_iter().filter(|node| node.features.contains(&self.mark));
        own.map(|node| node.name).collect()
    }

    /// How many requests the controllers have made of slurmrestd since they started.
    pub async fn requests(&self) -> u64 {
        let (_, text) = http::get(self.controllers.metrics, "/metrics").await.expect("metrics");
        let lines = text.lines().filter(|line| line.starts_with("gangway_slurm_requests_total"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Ends the controllers, takes the nodes away on both sides, and gives the controllers' exit status.
    pub async fn end(mut self) -> Option<ExitStatus> {
        let status = self.controllers.stop(Duration::from_secs(15)).await;
        self.controllers.clear();
        sweep(&self.slurm, &self.mark).await;
        self.left = None;
        status
    }
}

/// Takes what is left out of Slurm.
async fn sweep(slurm: &Client, mark: &str) {
    wait("none of the story's nodes is left in Slurm", SOON, async || {
        let nodes = slurm.nodes().await.expect("nodes can be listed");
        let own = |node: &Node| node.features.iter().any(|feature| feature == mark);
        let own: Vec<Node> = nodes.into_iter().filter(own).collect();
        for node in &own {
            // Refused while a job is on it, which ends.
            let _ = slurm.delete_node(&node.name).await;
        }
        if own.is_empty() { Ok(()) } else { Err(format!("{} nodes", own.len())) }
    })
    .await;
}

impl Drop for Pool {
    /// A story that broke off: no later one may be given its nodes. Its own clean-up ends the jobs on them, and waits
    /// for nothing of ours; so this is left to a thread.
    fn drop(&mut self) {
        self.controllers.kill();
        let Some(slurm) = self.left.take() else { return };
        let mark = self.mark.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(sweep(&slurm, &mark));
        });
    }
}
