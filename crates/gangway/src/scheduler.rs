//! `gangway scheduler`: puts the rooms together, in the order in which a gang passes through them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use gangway_core::names;
use gangway_slurm::{
    Client as SlurmClient, Config as SlurmConfig, Exchange, Observer, TokenSource,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::apiserver;
use crate::cluster::{Cluster, World};
use crate::config::{Flags, Settings};
use crate::door;
use crate::http::{self, Readiness};
use crate::metrics::Metrics;
use crate::nursery::{Nursery, Parent, nursery};
use crate::queue::{Board, Health, Queue};
use crate::source::Source;

pub(crate) mod sweep;

/// Writes to the API server under way at once: enough to keep it busy, few enough to leave it to
/// others.
pub(crate) const WRITES: usize = 48;

/// Runs until SIGTERM or SIGINT, or until a part of it fails.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<()> {
    flags.process.start_log()?;
    let settings = Settings::load(flags)?;
    let metrics = Metrics::new()?;
    let slurm = slurm_client(&settings, &metrics)?;
    let (bridge, mut parent) = Bridge::new(settings, slurm, metrics);
    listen(&bridge).await?;
    let kubernetes = apiserver::client(bridge.settings.kubeconfig.as_deref()).await?;
    start_source(&bridge, kubernetes);

    parent.live(&bridge.stop).await
}

/// What the rooms of one bridge share, its Slurm half running.
pub(crate) struct Bridge {
    settings: Settings,
    nursery: Nursery,
    queue: Arc<Queue>,
    metrics: Metrics,
    readiness: Arc<Readiness>,
    pub(crate) stop: CancellationToken,
}

impl Bridge {
    /// A bridge that has begun to ask Slurm, and its parent.
    pub(crate) fn new(settings: Settings, slurm: SlurmClient, metrics: Metrics) -> (Self, Parent) {
        let stop = CancellationToken::new();
        let (nursery, parent) = nursery();
        let readiness = Arc::new(Readiness::default());
        let queue = Queue::new(slurm, &settings, nursery.clone(), metrics.clone(), stop.clone());
        start_queue(&nursery, &queue, &readiness, &stop);
        (Self { settings, nursery, queue, metrics, readiness, stop }, parent)
    }
}

fn slurm_client(settings: &Settings, metrics: &Metrics) -> anyhow::Result<SlurmClient> {
    let token = TokenSource::File(settings.slurm.token_file.clone());
    let mut config = SlurmConfig::new(&settings.slurm.url, token);
    config.user.clone_from(&settings.slurm.user);
    config.observer = Some(Arc::new(Observed(metrics.clone())));
    SlurmClient::new(config).context("cannot use slurm.url")
}

/// Feeds the client's exchanges into the metrics.
struct Observed(Metrics);

impl Observer for Observed {
    fn request(&self, exchange: &Exchange) {
        let status = exchange.status.map_or(exchange.outcome, status_class);
        self.0.slurm_requests.with_label_values(&[exchange.endpoint, status]).inc();
        self.0
            .slurm_seconds
            .with_label_values(&[exchange.endpoint])
            .observe(exchange.elapsed.as_secs_f64());
    }
}

fn status_class(status: u16) -> &'static str {
    match status {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

fn start_queue(
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
            ready.slurm.store(*health.borrow_and_update() == Health::Up, Ordering::Relaxed);
            tokio::select! {
                biased;
                changed = health.changed() => if changed.is_err() { return Ok(()) },
                () = stopped.cancelled() => return Ok(()),
            }
        }
    });
    nursery.start("keys", queue.clone().keep_sealed());
    let (atlas, slurm, stopped) = (queue.atlas().clone(), queue.slurm().clone(), stop.clone());
    nursery.start("Slurm nodes", async move { atlas.keep_up(slurm, stopped).await });
    let stop = stop.clone();
    nursery.start("Slurm poller", async move { board.poll(stop).await });
}

/// Opens the ports. Done before anything is asked of anyone, so that a wrong address shows at once.
async fn listen(bridge: &Bridge) -> anyhow::Result<()> {
    let Bridge { settings, nursery, queue, metrics, readiness, stop } = bridge;
    let open = async |address| {
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
    };
    let grpc = open(settings.listen.grpc).await?;
    let metrics_port = open(settings.listen.metrics).await?;
    let health_port = open(settings.listen.health).await?;
    tracing::info!(
        grpc = %grpc.local_addr()?, metrics = %metrics_port.local_addr()?, health = %health_port.local_addr()?,
        "listening"
    );
    nursery.start("gRPC", door::serve(grpc, settings.tls.clone(), queue.clone(), stop.clone()));
    nursery.start("metrics", http::metrics(metrics_port, metrics.registry.clone(), stop.clone()));
    nursery.start("health", http::health(health_port, readiness.clone(), stop.clone()));
    Ok(())
}

/// Begins to watch Kubernetes.
pub(crate) fn start_source(bridge: &Bridge, kubernetes: kube::Client) {
    let Bridge { settings, nursery, queue, metrics, readiness, stop } = bridge;
    let (door, serving) = door::inside(queue.clone(), stop.clone());
    nursery.start("own door", serving);
    let cluster = Cluster {
        client: kubernetes,
        door,
        id: settings.cluster.clone(),
        scheduler_name: names::SCHEDULER.to_owned(),
        terms: None,
        world: World::drawn_in(queue.atlas().clone()),
        nursery: nursery.clone(),
        metrics: metrics.clone(),
        writes: Arc::new(Semaphore::new(WRITES)),
        sweep: Arc::new(Notify::new()),
        started: Instant::now(),
        stop: stop.clone(),
    };
    nursery.start("sweep", sweep::run(cluster.clone()));
    let client = cluster.client.clone();
    let world = cluster.world.clone();
    let source = Source::new(cluster, world, readiness.clone());
    let stop = stop.clone();
    nursery.start("source", async move { source.run(client, stop).await });
}
