//! One trial: a fresh namespace, all pods at once, every bind timed, and everything removed again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::audit::{self, Seen};
use crate::cluster::{Cluster, Created, until};
use crate::world::{Requests, World};

/// How long a gang may take before the trial is given up.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
/// After the last bind, until the bridge has written whatever it still wants to.
const SETTLE: Duration = Duration::from_millis(500);
/// How many pods the loop binds that does nothing else.
pub(crate) const IDEAL_PODS: [u32; 2] = [128, 1000];
/// Nodes that the largest shape of whole nodes takes.
const LARGEST: u32 = 128;

/// How many gangs of how many pods, and the GPUs of each.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) gangs: u32,
    pub(crate) size: u32,
    pub(crate) gpus: u32,
    /// Minutes that are asked of Slurm; 0 for its default.
    pub(crate) minutes: u32,
}

impl Shape {
    pub(crate) const fn of(name: &'static str, gangs: u32, size: u32, gpus: u32) -> Self {
        Self { name, gangs, size, gpus, minutes: 0 }
    }

    pub(crate) fn pods(&self) -> u32 {
        self.gangs * self.size
    }

    /// A single pod comes without a PodGroup.
    pub(crate) fn grouped(&self) -> bool {
        self.size > 1
    }
}

/// What one trial showed. Times are milliseconds.
pub(crate) struct Trial {
    /// From the first create being sent to the last being answered.
    pub(crate) create_ms: f64,
    /// For each pod, from its create being sent to its node being seen.
    pub(crate) pod_ms: Vec<f64>,
    /// From the last create being answered to the last node being seen.
    pub(crate) after_create_ms: f64,
    pub(crate) cpu_s: f64,
    pub(crate) slurm: Requests,
    pub(crate) seen: Seen,
}

impl Trial {
    pub(crate) fn last_bound_ms(&self) -> f64 {
        self.create_ms + self.after_create_ms
    }
}

/// Trials on one world.
pub(crate) struct Session<'a> {
    pub(crate) world: &'a World,
    pub(crate) cluster: &'a Cluster,
    pub(crate) nodes: Vec<String>,
}

impl<'a> Session<'a> {
    pub(crate) async fn new(world: &'a World, cluster: &'a Cluster) -> Result<Self> {
        let nodes = cluster.p5_nodes().await?;
        if nodes.len() < LARGEST as usize {
            bail!("{} p5 nodes are too few; use `cargo xtask world up --nodes 256`", nodes.len());
        }
        Ok(Self { world, cluster, nodes })
    }

    pub(crate) async fn run(&self, shape: &Shape) -> Result<Trial> {
        let namespace = self.cluster.namespace().await?;
        let others = self.world.live_jobs().await?;
        let trial = self.measure(shape, &namespace).await;
        self.cluster.clear(&namespace).await?;
        until("the end of the placeholders", async || {
            Ok(self.world.live_jobs().await?.iter().all(|job| others.contains(job)))
        })
        .await?;
        trial.with_context(|| format!("shape {}", shape.name))
    }

    async fn measure(&self, shape: &Shape, namespace: &str) -> Result<Trial> {
        let (sender, mut bound) = unbounded_channel();
        let watching = self.cluster.watch_bound(namespace, sender).await?;
        let slurm = self.world.slurm_requests().await?;
        let log = audit::end(&self.world.audit)?;
        let cpu = self.world.cpu_s()?;

        let begin = Instant::now();
        let created = self.cluster.create(namespace, shape).await?;
        let last_answer = Instant::now();
        let waited = timeout(LIMIT, gather(&mut bound, &created)).await;
        let cpu_s = self.world.cpu_s()? - cpu;
        let Ok(gathered) = waited else {
            bail!("after {} s {}", LIMIT.as_secs(), self.cluster.complaints(namespace).await?);
        };
        let (pod_ms, last) = gathered?;

        tokio::time::sleep(SETTLE).await;
        watching.abort();
        let mut requests = self.world.slurm_requests().await?;
        for (endpoint, count) in slurm {
            *requests.entry(endpoint).or_default() -= count;
        }
        Ok(Trial {
            create_ms: millis(begin, last_answer),
            pod_ms,
            after_create_ms: millis(begin, last) - millis(begin, last_answer),
            cpu_s,
            slurm: requests,
            seen: audit::since(&self.world.audit, log, namespace)?,
        })
    }

    /// Bindings alone: what the API server and this machine allow. From the first sent to the last
    /// seen by a watch, milliseconds.
    pub(crate) async fn ideal(&self, pods: u32, at_once: usize) -> Result<f64> {
        let namespace = self.cluster.namespace().await?;
        let measured = self.bind_all(&namespace, pods, at_once).await;
        self.cluster.clear(&namespace).await?;
        measured
    }

    async fn bind_all(&self, namespace: &str, pods: u32, at_once: usize) -> Result<f64> {
        let created = self.cluster.create_ownerless(namespace, pods).await?;
        tokio::time::sleep(SETTLE).await;
        let (sender, mut bound) = unbounded_channel();
        let watching = self.cluster.watch_bound(namespace, sender).await?;
        let mut names: Vec<&String> = created.keys().collect();
        names.sort();
        let begin = Instant::now();
        let sent = names.into_iter().zip(self.nodes.iter().cycle());
        let sent = sent.map(|(name, node)| self.cluster.bind(namespace, name, node));
        let sending = async {
            let sent = futures::stream::iter(sent).buffer_unordered(at_once);
            sent.try_collect::<Vec<()>>().await
        };
        let both = async { futures::try_join!(sending, gather(&mut bound, &created)) };
        let (_, (_, last)) = timeout(LIMIT, both).await.context("binding without a bridge")??;
        watching.abort();
        Ok(millis(begin, last))
    }
}

/// Waits until every pod has been seen with a node: milliseconds since its create, and the last moment.
pub(crate) async fn gather(
    bound: &mut UnboundedReceiver<(String, Instant)>,
    created: &Created,
) -> Result<(Vec<f64>, Instant)> {
    let mut times = Vec::with_capacity(created.len());
    let mut last = None;
    while times.len() < created.len() {
        let (name, at) = bound.recv().await.context("the watch of the pods has ended")?;
        let sent = created.get(&name).with_context(|| format!("a pod {name} that is not ours"))?;
        times.push(millis(*sent, at));
        last = last.max(Some(at));
    }
    Ok((times, last.context("a shape has at least one pod")?))
}

pub(crate) fn millis(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}
