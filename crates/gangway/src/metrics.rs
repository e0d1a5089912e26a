//! What can be measured from outside: one struct, one registry, bounded labels (never a pod's name).

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// All metrics of the scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Where they are gathered from.
    pub(crate) registry: Registry,
    /// Requests to slurmrestd by endpoint and outcome.
    pub(crate) slurm_requests: IntCounterVec,
    /// Seconds per request to slurmrestd by endpoint.
    pub(crate) slurm_seconds: HistogramVec,
    /// Gangs by what was last heard of them.
    pub(crate) gangs: IntGaugeVec,
    /// Placeholders submitted by path.
    pub(crate) submits: IntCounterVec,
    /// Bindings by outcome.
    pub(crate) binds: IntCounterVec,
    /// Evictions by cause.
    pub(crate) evictions: IntCounterVec,
    /// Seconds from a gang being complete to its last bind.
    pub(crate) gang_seconds: Histogram,
    /// 1 while slurmrestd and slurmctld answer.
    pub(crate) slurm_up: IntGauge,
    /// Seconds since the epoch of the last good poll.
    pub(crate) last_poll: IntGauge,
    /// 1 while this process may act.
    pub(crate) leads: IntGauge,
    /// EXTERNAL nodes of ours that Slurm gives to nobody.
    pub(crate) poisoned: IntGauge,
}

impl Metrics {
    /// Registers everything on a registry of its own.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter =
            |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
                let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gangs = IntGaugeVec::new(
            Opts::new(
                "gangway_gangs",
                "Gangs by the phase of their life: assembling, asked, queued, running …",
            ),
            &["phase"],
        )?;
        registry.register(Box::new(gangs.clone()))?;
        let slurm_seconds = HistogramVec::new(
            HistogramOpts::new("gangway_slurm_request_seconds", "Seconds per slurmrestd request")
                .buckets(vec![0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]),
            &["endpoint"],
        )?;
        registry.register(Box::new(slurm_seconds.clone()))?;
        let gang_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "gangway_gang_bind_seconds",
                "Seconds from the question to Slurm until the last member of a gang is bound",
            )
            .buckets(vec![0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0, 3600.0]),
        )?;
        registry.register(Box::new(gang_seconds.clone()))?;
        Ok(Self {
            slurm_requests: counter(
                "gangway_slurm_requests_total",
                "Requests to slurmrestd by endpoint and outcome",
                &["endpoint", "outcome"],
            )?,
            submits: counter(
                "gangway_placeholders_total",
                "Placeholders by the way they were asked for and what came of it",
                &["path", "outcome"],
            )?,
            binds: counter("gangway_binds_total", "Bindings by outcome", &["outcome"])?,
            evictions: counter("gangway_evictions_total", "Evictions by outcome", &["outcome"])?,
            slurm_up: gauge("gangway_slurm_up", "1 while slurmrestd and slurmctld answer")?,
            leads: gauge("gangway_leads", "1 while this process leads, 0 while it stands by")?,
            last_poll: gauge(
                "gangway_slurm_last_poll_timestamp_seconds",
                "When Slurm's job states were last read",
            )?,
            poisoned: gauge(
                "gangway_poisoned_nodes",
                "EXTERNAL nodes that Slurm believes dead, where slurm.sink is set",
            )?,
            gangs,
            slurm_seconds,
            gang_seconds,
            registry,
        })
    }
}
