//! The whole bridge between two ends that its caller gives: for a simulator, without ports, signals or
//! files.
//!
//! The rooms are those of `gangway scheduler`; nothing is decided here.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::anteroom::Anteroom;
use crate::config::Settings;
use crate::http::Readiness;
use crate::mandate::Mandate;
use crate::metrics::{Metrics, Placeholders, Process};
use crate::nursery::nursery;
use crate::queue::Queue;
use crate::scheduler::{Shared, start_queue, start_source};
use crate::trace::Traces;

/// Runs a bridge until `stop`, or until a part of it fails; dropped, it is gone as after SIGKILL.
/// `settings` is what the configuration file would say.
pub async fn bridge(
    kubernetes: kube::Client,
    slurm: gangway_slurm::Client,
    settings: &str,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    crate::wall::stop();
    let settings = Settings::rehearsed(settings)?;
    let process = Process::new().context("metrics")?;
    let metrics = Metrics::new(&process.roll)?;
    let traces = Traces::default();
    let placeholders = Placeholders::new(&process.roll)?;
    let (nursery, mut parent) = nursery();
    let (readiness, mandate) = (Arc::new(Readiness::default()), Mandate::new());
    let queue =
        Queue::new(slurm, &settings, nursery.clone(), (placeholders, traces.clone()), stop.clone());
    start_queue(&nursery, &queue, &readiness, &stop);
    nursery.start("mandate", mandate.clone().without_election(stop.clone()));
    let anteroom = Anteroom::default();
    let shared =
        Shared { nursery, settings, queue, anteroom, mandate, metrics, traces, readiness, stop };
    start_source(&shared, kubernetes);
    parent.run(shared.stop.clone().cancelled_owned()).await
}
