//! The whole bridge between two ends that its caller gives: for a simulator, without ports, signals or
//! files.
//!
//! The rooms are those of `gangway scheduler`; nothing is decided here.

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::metrics::Metrics;
use crate::scheduler::{Bridge, start_source};

/// Runs a bridge until `stop`, or until a part of it fails; dropped, it is gone as after SIGKILL.
/// `settings` is what the configuration file would say.
pub async fn bridge(
    kubernetes: kube::Client,
    slurm: gangway_slurm::Client,
    settings: &str,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let settings = Settings::rehearsed(settings)?;
    let metrics = Metrics::new().context("metrics")?;
    let (bridge, mut parent) = Bridge::new(settings, slurm, metrics);
    start_source(&bridge, kubernetes);
    parent.run(stop.cancelled_owned()).await
}
