//! `gangway controllers`: keeps both inventories the same.
//!
//! Watches Kubernetes, looks at Slurm's nodes now and then and after every change, asks [`gangway_core::inventory`]
//! what to do and does it. Remembers nothing that is not in either inventory, but what Slurm has just refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use gangway_core::inventory::{self, Hold, Host, SlurmNode};
use gangway_core::job::{GresAllocation, Job};
use gangway_slurm::Client as SlurmClient;
use tokio::sync::{mpsc, watch as latest};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::config::{Flags, Nodes, Settings};
use crate::http::{self, Readiness};
use crate::mandate::Mandate;
#[cfg(test)]
use crate::metrics::Roll;
use crate::metrics::{Link, Process};
use crate::nursery::nursery;
use crate::scheduler::{Way, elect, give_up, slurm_client};

mod carry;
mod figures;
mod hosts;
mod ledger;
mod outside;
mod partitions;
mod taint;
mod watch;

use carry::Carrier;
use figures::Figures;
use hosts::{Fact, Hosts};
use ledger::{Devices, Ledger, Look};
#[cfg(test)]
pub(crate) use ledger::{HOLDER, with_a_thousand_nodes};
use outside::Holder;
use partitions::Partitions;

/// Facts that come in a burst are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// After something was done, or could not be.
const SOON: Duration = Duration::from_secs(1);
/// Facts that may wait before their watches do.
const FACTS: usize = 4096;

/// Runs until SIGTERM or SIGINT, or until a part of it fails.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<()> {
    flags.process.start_log()?;
    let mut settings = Settings::load(flags)?;
    let nodes = settings.nodes.take().context(
        "nodes.pools is missing in the configuration: it says which nodes Slurm is to have; see docs/reference/inventory.md",
    )?;
    if let Some(election) = &mut settings.election {
        election.name = format!("{}-controllers", election.name.trim_end_matches("-scheduler"));
    }
    let metrics = Process::new()?;
    let link = Link::new(&metrics.roll)?;
    let stop = CancellationToken::new();
    let (nursery, mut parent) = nursery();
    let readiness = Arc::new(Readiness::default());
    let mandate = Mandate::new();

    let metrics_port = http::open(settings.listen.metrics).await?;
    let health_port = http::open(settings.listen.health).await?;
    nursery.start("health", http::health(health_port, readiness.clone(), stop.clone()));

    let kubeconfig = settings.kubeconfig.clone();
    let way =
        Way { kubeconfig: kubeconfig.as_deref().map(Path::new), identity: &settings.identity };
    elect(&nursery, way, settings.election.as_ref(), &mandate, &metrics.leads, &stop).await?;
    let client = way.client(Some(&mandate)).await?;
    let slurm = slurm_client(&settings, link, &mandate)?;
    let (facts, heard) = mpsc::channel(FACTS);
    watch::start(&nursery, &client, &facts, &stop, &settings.scheduler_name, &nodes, &readiness)
        .await?;
    let (ledger, devices) = Ledger::new(slurm.clone(), Devices::new(&metrics.roll)?);
    let (looks, heard_looks) = latest::channel(Look::default());
    nursery.start("ledger", ledger.keep(heard_looks, stop.clone()));
    let roll = metrics.roll.clone();
    let serving = http::metrics_and_devices(metrics_port, roll, devices, stop.clone());
    nursery.start("metrics", serving);
    let figures = Figures::new(&metrics.roll)?;
    let partitions = Partitions::new(slurm.clone(), nodes.look(), &metrics.roll)?;
    let keeper = Keeper::new(nodes, slurm, client, figures, partitions, readiness, (heard, looks));
    let stopped = stop.clone();
    nursery.start("inventory", async move {
        tokio::select! {
            () = mandate.granted() => {}
            () = stopped.cancelled() => return Ok(()),
        }
        keeper.keep(stopped).await
    });

    let lived = parent.live(&stop).await;
    give_up(way, settings.election.as_ref()).await;
    lived
}

/// Everything that is measured here.
#[cfg(test)]
pub(crate) fn figures(roll: &Roll) -> prometheus::Result<()> {
    Figures::new(roll)?;
    Partitions::gauge(roll)?;
    Devices::new(roll)?;
    Ok(())
}

/// Of each node that jobs are on: its name, how many CPUs they have, which devices.
type InUse = Vec<(String, u32, Vec<GresAllocation>)>;

/// Keeps the inventories the same.
struct Keeper {
    nodes: Nodes,
    slurm: SlurmClient,
    carrier: Carrier,
    figures: Figures,
    partitions: Partitions,
    hosts: Hosts,
    heard: mpsc::Receiver<Fact>,
    readiness: Arc<Readiness>,
    began: Instant,
    /// What of the nodes was in use when jobs were last read.
    in_use: InUse,
    holder: Holder,
    /// Other people's jobs by node, in words.
    tenants: BTreeMap<String, String>,
    /// The jobs as they were last read.
    jobs: Arc<Vec<Job>>,
    /// For the ledger.
    looks: latest::Sender<Look>,
}

impl Keeper {
    fn new(
        nodes: Nodes,
        slurm: SlurmClient,
        client: kube::Client,
        figures: Figures,
        partitions: Partitions,
        readiness: Arc<Readiness>,
        (heard, looks): (mpsc::Receiver<Fact>, latest::Sender<Look>),
    ) -> Self {
        let cluster = nodes.rules.cluster.clone();
        let carrier = Carrier::new(slurm.clone(), client, cluster, figures.clone());
        let (hosts, began) = (Hosts::default(), Instant::now());
        let (in_use, tenants, holder) = (Vec::new(), BTreeMap::new(), Holder::default());
        Self {
            nodes,
            slurm,
            carrier,
            figures,
            partitions,
            hosts,
            heard,
            readiness,
            began,
            in_use,
            holder,
            tenants,
            jobs: Arc::default(),
            looks,
        }
    }

    async fn keep(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                fact = self.heard.recv() => {
                    let Some(fact) = fact else { return Ok(()) };
                    if !self.take(fact) {
                        continue;
                    }
                }
                () = sleep_until(due) => {}
            }
            if !self.gather().await {
                continue;
            }
            due = Instant::now() + self.round().await;
        }
    }

    /// Takes in what was heard. Whether it is news.
    fn take(&mut self, fact: Fact) -> bool {
        let now = self.now();
        self.hosts.take(fact, now)
    }

    /// Takes in what comes together. Whether all of Kubernetes has been seen.
    async fn gather(&mut self) -> bool {
        tokio::time::sleep(GATHER).await;
        while let Ok(fact) = self.heard.try_recv() {
            self.take(fact);
        }
        let synced = self.hosts.synced();
        self.readiness.synced.store(synced, Ordering::Relaxed);
        synced
    }

    /// Compares once, and does what follows. Returns when to do so again.
    async fn round(&mut self) -> Duration {
        let look = self.nodes.look();
        let took = self.figures.round_seconds.start_timer();
        let nodes = match self.slurm.nodes().await {
            Ok(nodes) => nodes,
            Err(error) => {
                self.readiness.slurm.store(false, Ordering::Relaxed);
                tracing::warn!(error = explain(&error), "could not read Slurm's nodes");
                took.stop_and_discard();
                return SOON;
            }
        };
        self.readiness.slurm.store(true, Ordering::Relaxed);
        let in_use = in_use(&nodes);
        let mut nodes: Vec<_> = nodes.into_iter().map(seen).collect();
        let hosts = self.hosts.all(|node| self.carrier.refusal(node));
        let holds = inventory::holds(&self.nodes.rules, &hosts, &nodes);
        self.look_at_jobs(in_use, &holds).await;
        for node in &mut nodes {
            node.tenants = self.tenants.get(&node.name).cloned().unwrap_or_default();
        }
        self.show(&hosts, &nodes);
        let made = self.partitions.look(&self.nodes.rules, &hosts, &nodes).await;
        let thinking = self.figures.plan_seconds.start_timer();
        let plan = inventory::decide(&self.nodes.rules, &hosts, &nodes, self.now());
        thinking.observe_duration();
        let wait =
            plan.again.map(|at| Duration::from_millis((at - self.now()).max(0).unsigned_abs()));
        let mut carried = self.carrier.carry(plan).await;
        carried.asked |= self.holder.carry(&self.slurm, &self.figures, &holds).await;
        for news in carried.told {
            self.hosts.told(&news.host, news.told, self.now());
        }
        for (host, taints) in carried.tainted {
            self.hosts.tainted(&host, taints);
        }
        self.figures.count(&self.nodes.rules, self.hosts.known());
        took.observe_duration();
        if carried.asked || made { SOON } else { wait.map_or(look, |wait| wait.min(look)) }
    }

    /// Jobs are many and their list is long: it is read when something on the nodes has changed, or other things are to
    /// be held than are.
    async fn look_at_jobs(&mut self, in_use: InUse, holds: &[Hold]) {
        if in_use == self.in_use && !self.holder.must_read(holds) {
            return;
        }
        match self.slurm.jobs().await {
            Ok(jobs) => {
                self.tenants = inventory::tenants(&jobs);
                self.holder.read(inventory::held(&self.nodes.rules, &jobs));
                self.jobs = Arc::new(jobs);
                self.in_use = in_use;
            }
            Err(error) => {
                tracing::warn!(error = explain(&error), "could not read Slurm's jobs");
            }
        }
    }

    /// Shows the ledger what is seen.
    fn show(&self, hosts: &[Host], nodes: &[SlurmNode]) {
        let names = hosts.iter().map(|host| (host.slurm_name().to_owned(), host.name.clone()));
        let (names, nodes, jobs) = (names.collect(), nodes.to_vec(), self.jobs.clone());
        self.looks.send_replace(Look { nodes, names, jobs });
    }

    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

fn in_use(nodes: &[gangway_slurm::Node]) -> InUse {
    let in_use = nodes.iter().filter(|node| node.allocated_cpus > 0);
    in_use.map(|node| (node.name.clone(), node.allocated_cpus, node.gres_used.clone())).collect()
}

fn seen(node: gangway_slurm::Node) -> SlurmNode {
    SlurmNode {
        name: node.name,
        address: node.address,
        state: node.state.into_iter().collect(),
        reason: node.reason,
        reason_user: node.reason_user,
        cpus: node.cpus,
        sockets: node.sockets,
        allocated_cpus: node.allocated_cpus,
        memory_mib: node.memory_mib,
        gres: node.gres,
        features: node.features.into_iter().collect(),
        partitions: node.partitions.into_iter().collect(),
        weight: node.weight,
        topology: node.topology,
        tenants: String::new(),
    }
}
