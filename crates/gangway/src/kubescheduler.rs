//! `gangway extender`: the other door, for a stock kube-scheduler.
//!
//! kube-scheduler keeps its queue and its plugins (volumes, claims, ports) and asks us, by its HTTP
//! extender protocol, which node a pod may have. The Kubernetes half is that of `gangway scheduler`:
//! the same source, followers and decisions; only the hands differ ([`offering`]). The Slurm half is
//! a running `gangway scheduler`, reached through its gRPC door like by any stranger. Never decides
//! where a pod goes, and never binds one that kube-scheduler has not brought.

pub(crate) mod offering;
pub(crate) mod offers;
mod server;
mod wire;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use self::offering::Terms;
use self::offers::Offers;
use self::server::Desk;
use crate::anteroom::Anteroom;
use crate::cluster::{Cluster, World};
use crate::command::Caller;
use crate::config::{ExtenderFlags, ExtenderSettings};
use crate::door;
use crate::gangs::{self, Gangs};
use crate::http::{self, Readiness};
use crate::mandate::Mandate;
use crate::metrics::{Metrics, Process};
use crate::nursery::{Nursery, nursery};
use crate::scheduler::{WRITES, Way, elect, give_up, sweep};
use crate::sights;
use crate::source::Source;
use crate::tls::{HTTP_1, TlsListener};
use crate::trace::Traces;

/// The door's name in gRPC health.
const DOOR: &str = gangway_api::v1::extender_server::SERVICE_NAME;
/// How often the door is asked whether it is well, and how long it may take.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT, or until a part of it fails.
pub(crate) async fn run(flags: &ExtenderFlags) -> anyhow::Result<()> {
    flags.process.start_log()?;
    let settings = ExtenderSettings::load(flags)?;
    let process = Process::new()?;
    let metrics = Metrics::new(&process.roll)?;
    let stop = CancellationToken::new();
    let (nursery, mut parent) = nursery();
    let readiness = Arc::new(Readiness::default());
    let (offers, world) = (Offers::default(), World::default());
    let mandate = Mandate::new();
    let channel = door::outside(&settings.door).await?;

    let name = &settings.scheduler_name;
    let desk = Desk::new(offers.clone(), world.clone(), mandate.clone(), name, &process.roll)?;
    listen(&nursery, &settings, desk, &process, &readiness, &stop).await?;
    nursery.start("door health", look(channel.clone(), readiness.clone(), stop.clone()));
    let way = Way { kubeconfig: settings.kubeconfig.as_deref(), identity: &settings.identity };
    let election = settings.election.as_ref();
    elect(&nursery, way, election, &mandate, &process.leads, &stop).await?;
    let identity = settings.identity.as_str();
    let traces = Traces::to(flags.process.traces.as_deref(), "gangway-extender", identity)?;
    let cluster = Cluster {
        client: way.client(Some(&mandate)).await?,
        door: door::client(channel),
        id: settings.cluster.clone(),
        scheduler_name: settings.scheduler_name.clone(),
        terms: Some(Terms { offers, take_up_ms: i64::from(settings.take_up_seconds) * 1000 }),
        world: world.clone(),
        nursery: nursery.clone(),
        metrics,
        traces: traces.clone(),
        writes: Arc::new(Semaphore::new(WRITES)),
        caller: settings.warning_command.clone().map(Caller::new),
        sweep: Arc::new(Notify::new()),
        gangs: Arc::new(Gangs::new(settings.gangs.singles)),
        sights: Arc::default(),
        anteroom: Anteroom::default(),
        started: Instant::now(),
        stop: stop.clone(),
    };
    nursery.start("sweep", sweep::run(cluster.clone()));
    if settings.gangs.show {
        nursery.start("sights", sights::keep(cluster.clone()));
        nursery.start("gangs", gangs::run(cluster.clone()));
    }
    let client = cluster.client.clone();
    let source = Source::new(cluster, world, readiness);
    let stopped = stop.clone();
    let begin = async move { mandate.granted().await };
    nursery.start("source", async move { source.run(client, begin, stopped).await });

    let lived = parent.live(&stop).await;
    traces.end().await;
    give_up(way, election).await;
    lived
}

/// Everything that is measured here.
#[cfg(test)]
pub(crate) fn figures(roll: &crate::metrics::Roll) -> prometheus::Result<()> {
    let (offers, world, mandate) = (Offers::default(), World::default(), Mandate::new());
    Desk::new(offers, world, mandate, "gangway-extended", roll).map(drop)
}

/// Opens the ports.
async fn listen(
    nursery: &Nursery,
    settings: &ExtenderSettings,
    desk: Desk,
    process: &Process,
    readiness: &Arc<Readiness>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let http_port = http::open(settings.listen.http).await?;
    let metrics_port = http::open(settings.listen.metrics).await?;
    let health_port = http::open(settings.listen.health).await?;
    tracing::info!(
        http = %http_port.local_addr()?, metrics = %metrics_port.local_addr()?, health = %health_port.local_addr()?,
        scheduler_name = settings.scheduler_name, cluster = settings.cluster, "listening"
    );
    match &settings.tls {
        None => nursery.start("extender", server::serve(http_port, desk, stop.clone())),
        Some(tls) => {
            let secured = TlsListener::new(http_port, tls.clone(), HTTP_1)?;
            nursery.start("extender", server::serve(secured, desk, stop.clone()));
        }
    }
    nursery.start("metrics", http::metrics(metrics_port, process.roll.clone(), stop.clone()));
    nursery.start("health", http::health(health_port, readiness.clone(), stop.clone()));
    Ok(())
}

/// Keeps asking the door whether it is well.
async fn look(
    channel: Channel,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut health = HealthClient::new(channel);
    let mut every = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        // The door of a standby is served, but not this service.
        let service = DOOR.to_owned();
        let checked = timeout(LOOK, health.check(HealthCheckRequest { service })).await;
        let serving = i32::from(ServingStatus::Serving);
        let well = matches!(checked, Ok(Ok(answer)) if answer.get_ref().status == serving);
        if readiness.slurm.swap(well, Ordering::Relaxed) != well {
            if well {
                tracing::info!("the door answers");
            } else {
                tracing::warn!("the door does not answer");
            }
        }
    }
}
