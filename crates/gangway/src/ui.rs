//! `gangway ui`: one page to look at, the queue, the pool and the life of each gang, live.
//!
//! It asks the desk of a running scheduler, like a person at a terminal, and knows no Slurm and no Kubernetes. Nothing
//! can be changed through it. It does not know who looks: whoever reaches it sees all jobs, so it listens on this host
//! alone unless told otherwise, and an auth proxy belongs before it.

mod delta;
mod life;
mod look;
mod picture;
mod server;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use self::look::Gallery;
use self::server::{Figures, Page};
use crate::config::{UiFlags, UiSettings};
use crate::door;
use crate::http::{self, Readiness};
use crate::metrics::Roll;
use crate::nursery::nursery;
use crate::tls::{HTTP_1, TlsListener};

/// Runs until SIGTERM or SIGINT, or until a part of it fails.
pub(crate) async fn run(flags: &UiFlags) -> anyhow::Result<()> {
    crate::log::start(&flags.log, flags.log_json)?;
    let settings = UiSettings::load(flags)?;
    let roll = Roll::new()?;
    let figures = figures(&roll)?;
    let stop = CancellationToken::new();
    let (nursery, mut parent) = nursery();
    let channel = door::outside(&settings.door).await?;
    let gallery = Gallery::new(channel, &settings.door.url, &settings.cluster);

    let http_port = http::open(settings.listen.http).await?;
    let metrics_port = http::open(settings.listen.metrics).await?;
    let health_port = http::open(settings.listen.health).await?;
    tracing::info!(
        http = %http_port.local_addr()?, metrics = %metrics_port.local_addr()?, health = %health_port.local_addr()?,
        door = settings.door.url, cluster = settings.cluster, "listening"
    );
    let page = Page::new(gallery.clone(), figures, &settings, stop.clone());
    match settings.tls {
        None => nursery.start("page", server::serve(http_port, page)),
        Some(tls) => {
            nursery.start("page", server::serve(TlsListener::new(http_port, tls, HTTP_1)?, page));
        }
    }
    nursery.start("look", gallery.keep(stop.clone()));
    nursery.start("metrics", http::metrics(metrics_port, roll, stop.clone()));
    // It is of use without the door too: it shows what was seen last.
    let readiness = Arc::new(Readiness::default());
    for well in [&readiness.synced, &readiness.kubernetes, &readiness.slurm] {
        well.store(true, Ordering::Relaxed);
    }
    nursery.start("health", http::health(health_port, readiness, stop.clone()));
    parent.live(&stop).await
}

/// Everything that is measured here.
pub(crate) fn figures(roll: &Roll) -> prometheus::Result<Figures> {
    Figures::new(roll)
}
