//! `gangway scheduler`: puts the rooms together, in the order in which a gang passes through them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use gangway_slurm::{Client as SlurmClient, Config as SlurmConfig, TokenSource};
use prometheus::IntGauge;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::anteroom::Anteroom;
use crate::apiserver::{self, Hand};
use crate::cluster::{Cluster, World};
use crate::command::Caller;
use crate::config::{self, Flags, Settings, SlurmPolicies};
use crate::desk;
use crate::door;
use crate::election::Election;
use crate::extender;
use crate::gangs::{self, Gangs};
use crate::http::{self, Readiness};
use crate::mandate::Mandate;
use crate::metrics::{Link, Metrics, Placeholders, Process};
use crate::nursery::{Nursery, nursery};
use crate::policies;
use crate::queue::{Board, Health, Queue};
use crate::sights;
use crate::source::Source;
use crate::trace::Traces;

mod heal;
pub(crate) mod sweep;

/// Writes to the API server under way at once: enough to keep it busy, few enough to leave it to
/// others.
pub(crate) const WRITES: usize = 48;

/// How long people wait for Slurm, and on how many connections.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 4;

/// Runs until SIGTERM or SIGINT, or until a part of it fails.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<()> {
    flags.process.start_log()?;
    let settings = Settings::load(flags)?;
    let process = Process::new()?;
    let metrics = Metrics::new(&process.roll)?;
    let placeholders = Placeholders::new(&process.roll)?;
    let stop = CancellationToken::new();
    let (nursery, mut parent) = nursery();
    let readiness = Arc::new(Readiness::default());
    let mandate = Mandate::new();

    let link = Link::new(&process.roll)?;
    let slurm = slurm_client(&settings, link.clone(), &mandate)?;
    let (collector, identity) = (flags.process.traces.as_deref(), settings.identity.as_str());
    let traces = Traces::to(collector, "gangway-scheduler", identity)?;
    let told = (placeholders.clone(), traces.clone());
    let queue = Queue::new(slurm, &settings, nursery.clone(), told, stop.clone());
    start_queue(&nursery, &queue, &readiness, &stop);
    if let Some(sink) = settings.slurm.sink.clone() {
        let (slurm, board) = (queue.slurm().clone(), queue.board().clone());
        let healing = heal::run(sink, slurm, board, placeholders, stop.clone());
        let (mandate, stop) = (mandate.clone(), stop.clone());
        nursery.start("heal", async move {
            tokio::select! {
                () = mandate.granted() => healing.await,
                () = stop.cancelled() => Ok(()),
            }
        });
    }
    let anteroom = Anteroom::default();
    let behind = (patient_client(&settings, link, &mandate)?, queue.clone(), anteroom.clone());
    listen(&nursery, &settings, behind, &mandate, &process, &readiness, &stop).await?;
    let way = Way { kubeconfig: settings.kubeconfig.as_deref(), identity: &settings.identity };
    let election = settings.election.as_ref();
    elect(&nursery, way, election, &mandate, &process.leads, &stop).await?;
    let client = way.client(Some(&mandate)).await?;
    let shared =
        Shared { nursery, settings, queue, anteroom, mandate, metrics, traces, readiness, stop };
    start_source(&shared, client);

    let lived = parent.live(&shared.stop).await;
    shared.traces.clone().end().await;
    let settings = &shared.settings;
    let way = Way { kubeconfig: settings.kubeconfig.as_deref(), identity: &settings.identity };
    give_up(way, settings.election.as_ref()).await;
    lived
}

/// How a process of this identity reaches the API server.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) kubeconfig: Option<&'a Path>,
    pub(crate) identity: &'a str,
}

impl Way<'_> {
    /// A client of its own; with a mandate, its writes are held back where that does not hold.
    pub(crate) async fn client(self, mandate: Option<&Mandate>) -> anyhow::Result<kube::Client> {
        apiserver::client(self.kubeconfig, Hand::of(self.identity, mandate.cloned())?).await
    }
}

/// Has this process lead, at once or when the Lease is its own.
pub(crate) async fn elect(
    nursery: &Nursery,
    way: Way<'_>,
    election: Option<&config::Election>,
    mandate: &Mandate,
    leads: &IntGauge,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    match election {
        None => nursery.start("mandate", mandate.clone().without_election(stop.clone())),
        Some(settings) => {
            let client = way.client(None).await?;
            let election = Election::new(client, settings, mandate.clone());
            nursery.start("election", election.run(stop.clone()));
            nursery.start("mandate", mandate.clone().with_election(stop.clone()));
        }
    }
    let (mandate, leads, stop) = (mandate.clone(), leads.clone(), stop.clone());
    nursery.start("standing", async move {
        tokio::select! {
            () = mandate.granted() => leads.set(1),
            () = stop.cancelled() => {}
        }
        Ok(())
    });
    Ok(())
}

/// Gives the Lease up at the end, when nothing is done any more.
pub(crate) async fn give_up(way: Way<'_>, election: Option<&config::Election>) {
    let Some(settings) = election else { return };
    match way.client(None).await {
        Ok(client) => Election::release(client, settings).await,
        Err(error) => tracing::warn!(%error, "could not give the Lease up; it runs out"),
    }
}

/// A client whose requests are counted, and held back where the mandate does not hold.
pub(crate) fn slurm_client(
    settings: &Settings,
    link: Link,
    mandate: &Mandate,
) -> anyhow::Result<SlurmClient> {
    SlurmClient::new(slurm_config(settings, link, mandate)).context("cannot use slurm.url")
}

fn slurm_config(settings: &Settings, link: Link, mandate: &Mandate) -> SlurmConfig {
    let token = TokenSource::File(settings.slurm.token_file.clone());
    let mut config = SlurmConfig::new(&settings.slurm.url, token);
    config.tls.clone_from(&settings.slurm.tls);
    config.user.clone_from(&settings.slurm.user);
    config.observer = Some(Arc::new(link));
    config.gate = Some(Arc::new(mandate.clone()));
    config
}

/// A client of its own for people who look: it takes no connection from the gangs, and waits as long as a list of all
/// jobs may take slurmrestd (7 s and 82 MB for 10,000, seen).
fn patient_client(
    settings: &Settings,
    link: Link,
    mandate: &Mandate,
) -> anyhow::Result<SlurmClient> {
    let mut config = slurm_config(settings, link, mandate);
    (config.timeout, config.max_connections) = (PATIENCE, CONNECTIONS);
    SlurmClient::new(config).context("cannot use slurm.url")
}

pub(crate) fn start_queue(
    nursery: &Nursery,
    queue: &Arc<Queue>,
    readiness: &Arc<Readiness>,
    stop: &CancellationToken,
) {
    let board: Arc<Board> = queue.board().clone();
    let mut health = board.health();
    let ready = readiness.clone();
    let stopped = stop.clone();
    nursery.start("Slurm health", async move {
        loop {
            ready.slurm.store(health.hear() == Health::Up, Ordering::Relaxed);
            tokio::select! {
                biased;
                () = health.changed() => {}
                () = stopped.cancelled() => return Ok(()),
            }
        }
    });
    nursery.start("keys", queue.clone().keep_sealed());
    nursery.start("single", queue.clone().keep_single());
    nursery.start("endings", queue.clone().keep_ended());
    let (atlas, slurm, stopped) = (queue.atlas().clone(), queue.slurm().clone(), stop.clone());
    nursery.start("Slurm nodes", async move { atlas.keep_up(slurm, stopped).await });
    let stop = stop.clone();
    nursery.start("Slurm poller", async move { board.poll(stop).await });
}

/// Opens the ports. Done before anything is asked of anyone, so that a wrong address shows at once.
async fn listen(
    nursery: &Nursery,
    settings: &Settings,
    behind: (SlurmClient, Arc<Queue>, Anteroom),
    mandate: &Mandate,
    process: &Process,
    readiness: &Arc<Readiness>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let grpc = http::open(settings.listen.grpc).await?;
    let metrics_port = http::open(settings.listen.metrics).await?;
    let health_port = http::open(settings.listen.health).await?;
    tracing::info!(
        grpc = %grpc.local_addr()?, metrics = %metrics_port.local_addr()?, health = %health_port.local_addr()?,
        "listening"
    );
    let room = extender::service(behind.1.clone(), mandate.clone());
    let desk = desk::service(nursery, settings, behind, mandate.clone(), stop.clone());
    let guard = (settings.tls.clone(), settings.calls_per_second);
    let served = door::serve(grpc, guard, (room, desk), mandate.clone(), stop.clone());
    nursery.start("gRPC", served);
    nursery.start("metrics", http::metrics(metrics_port, process.roll.clone(), stop.clone()));
    nursery.start("health", http::health(health_port, readiness.clone(), stop.clone()));
    Ok(())
}

/// What the rooms of one bridge share.
pub(crate) struct Shared {
    pub(crate) nursery: Nursery,
    pub(crate) settings: Settings,
    pub(crate) queue: Arc<Queue>,
    pub(crate) anteroom: Anteroom,
    pub(crate) mandate: Mandate,
    pub(crate) metrics: Metrics,
    pub(crate) traces: Traces,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) stop: CancellationToken,
}

/// Begins to watch Kubernetes.
pub(crate) fn start_source(shared: &Shared, kubernetes: kube::Client) {
    let Shared { nursery, settings, queue, anteroom, mandate, .. } = shared;
    let Shared { metrics, traces, readiness, stop, .. } = shared;
    let room = extender::service(queue.clone(), mandate.clone());
    let (door, serving) = door::inside(room, stop.clone());
    nursery.start("own door", serving);
    let cluster = Cluster {
        client: kubernetes,
        door,
        id: settings.cluster.clone(),
        scheduler_name: settings.scheduler_name.clone(),
        terms: None,
        world: World::drawn_in(queue.atlas().clone()),
        nursery: nursery.clone(),
        metrics: metrics.clone(),
        traces: traces.clone(),
        writes: Arc::new(Semaphore::new(WRITES)),
        caller: settings.warning_command.clone().map(Caller::new),
        sweep: Arc::new(Notify::new()),
        gangs: Arc::new(Gangs::new(settings.gangs.singles)),
        sights: Arc::default(),
        anteroom: anteroom.clone(),
        started: Instant::now(),
        stop: stop.clone(),
    };
    nursery.start("sweep", sweep::run(cluster.clone()));
    if settings.gangs.show {
        nursery.start("outlook", queue.clone().keep_outlook());
        nursery.start("sights", sights::keep(cluster.clone()));
        nursery.start("gangs", gangs::run(cluster.clone()));
    }
    let client = cluster.client.clone();
    let world = cluster.world.clone();
    let policy = queue.policy();
    let watching =
        policies::run(client.clone(), settings.slurm_policies, policy.clone(), stop.clone());
    nursery.start("SlurmPolicies", watching);
    if settings.slurm_policies != SlurmPolicies::Off {
        let (client, slurm, leads) = (client.clone(), queue.slurm().clone(), mandate.clone());
        let (policy, stop) = (policy.subscribe(), stop.clone());
        nursery.start("policy status", async move {
            policies::status::run(client, slurm, policy, leads.granted(), stop).await
        });
    }
    let source = Source::new(cluster, world, readiness.clone()).heeding(policy.subscribe());
    let read = policies::read(policy.subscribe());
    let (queue, mandate) = (queue.clone(), mandate.clone());
    let elected = settings.election.is_some();
    let begin = async move {
        mandate.granted().await;
        read.await;
        // Whoever led before us may have asked Slurm for something at the last moment.
        if elected {
            queue.board().catch_up().await;
        }
    };
    let stop = stop.clone();
    nursery.start("source", async move { source.run(client, begin, stop).await });
}
