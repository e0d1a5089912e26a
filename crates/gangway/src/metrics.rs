//! What can be measured from outside: one roll per process, bounded labels (never a pod's name).
//!
//! Each room registers its own on the [`Roll`] it is given; docs/reference/metrics.md lists all of them, and a test
//! keeps it true. Nothing is decided by what is counted here.

mod few;
mod openmetrics;
#[cfg(test)]
mod page;
mod passage;
#[cfg(test)]
mod queries;
mod roll;

use std::time::Duration;

use gangway_slurm::{Exchange, Observer, SlurmCode};
use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Result};

pub(crate) use few::Few;
pub(crate) use openmetrics::CONTENT;
use openmetrics::Exemplars;
pub(crate) use passage::{Passage, Took};
pub(crate) use roll::Roll;

/// Values of a label that may come from Slurm; there are fewer reasons that it gives in practice.
const REASONS: usize = 48;
/// Error numbers of Slurm's, of some three hundred.
const CODES: usize = 48;

/// Seconds in a queue: from a moment to a day.
const QUEUE: [f64; 12] =
    [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];
/// Seconds of the bridge's own work.
const OWN: [f64; 12] = [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// The three that a gang's life is measured by.
const BIND: &str = "gangway_gang_bind_seconds";
const IN_QUEUE: &str = "gangway_gang_queue_seconds";
const BY_US: &str = "gangway_gang_own_seconds";

/// Of every process that may lead.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// What else it measures.
    pub(crate) roll: Roll,
    /// 1 while it may act.
    pub(crate) leads: IntGauge,
}

impl Process {
    pub(crate) fn new() -> Result<Self> {
        let roll = Roll::new()?;
        let leads =
            roll.gauge("gangway_leads", "1 while this process leads, 0 while it stands by")?;
        Ok(Self { roll, leads })
    }
}

/// Of the Kubernetes half: `gangway scheduler` and `gangway extender`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    gangs: IntGaugeVec,
    reasons: Few,
    /// Bindings by outcome.
    pub(crate) binds: IntCounterVec,
    /// Evictions by cause and outcome.
    pub(crate) evictions: IntCounterVec,
    /// What was found to be left over, and ended.
    pub(crate) leaks: IntCounterVec,
    /// Seconds from the first question of a round to its last bind.
    gang_seconds: Histogram,
    /// Those of them in Slurm's queue.
    queue_seconds: Histogram,
    /// The others.
    own_seconds: Histogram,
    exemplars: Exemplars,
}

impl Metrics {
    pub(crate) fn new(roll: &Roll) -> Result<Self> {
        let total = [0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0, 3600.0];
        Ok(Self {
            gangs: roll.gauges(
                "gangway_gangs",
                "Gangs by the phase of their life; of those that wait or were refused, by Slurm's reason or the kind of refusal",
                &["phase", "reason"],
            )?,
            reasons: Few::new(REASONS),
            binds: roll.counters("gangway_binds_total", "Bindings by outcome", &["outcome"])?,
            evictions: roll.counters(
                "gangway_evictions_total",
                "Evictions by cause and outcome",
                &["cause", "outcome"],
            )?,
            leaks: roll.counters(
                "gangway_leaks_total",
                "Placeholders that were found without pods and ended",
                &["kind"],
            )?,
            gang_seconds: roll.histogram(
                BIND,
                "Seconds from the question to Slurm until the last member of a gang is bound",
                &total,
            )?,
            queue_seconds: roll.histogram(
                IN_QUEUE,
                "Those of gangway_gang_bind_seconds that it waited in Slurm's queue",
                &QUEUE,
            )?,
            own_seconds: roll.histogram(
                BY_US,
                "The others of gangway_gang_bind_seconds: what asking, seating and binding took",
                &OWN,
            )?,
            exemplars: roll.exemplars().clone(),
        })
    }

    /// A gang was bound whole, which took so long; where it is traced, the trace tells of it.
    pub(crate) fn took(&self, took: Took, trace: Option<&str>) {
        let seconds = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs_f64();
        let at = Duration::try_from(crate::wall::now().as_duration()).unwrap_or_default();
        for (histogram, name, ms) in [
            (&self.gang_seconds, BIND, took.all),
            (&self.queue_seconds, IN_QUEUE, took.queue),
            (&self.own_seconds, BY_US, took.all - took.queue),
        ] {
            histogram.observe(seconds(ms));
            if let Some(trace) = trace {
                self.exemplars.note(name, seconds(ms), trace.to_owned(), at.as_secs_f64());
            }
        }
    }

    /// Moves a gang from one phase and reason to another.
    pub(crate) fn moved(&self, from: Option<&Place>, to: Option<&Place>) {
        let gauge = |place: &Place| self.gangs.with_label_values(&[place.0, place.1.as_str()]);
        if let Some(from) = from {
            gauge(from).dec();
        }
        if let Some(to) = to {
            gauge(to).inc();
        }
    }

    /// Where a gang is counted.
    pub(crate) fn place(&self, phase: &'static str, reason: &str) -> Place {
        (phase, self.reasons.of(reason).to_owned())
    }
}

/// A phase, and what of it.
pub(crate) type Place = (&'static str, String);

/// Of whoever speaks to slurmrestd.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    requests: IntCounterVec,
    errors: IntCounterVec,
    codes: Few,
    seconds: HistogramVec,
}

impl Link {
    pub(crate) fn new(roll: &Roll) -> Result<Self> {
        Ok(Self {
            requests: roll.counters(
                "gangway_slurm_requests_total",
                "Requests to slurmrestd by endpoint and outcome: 2xx, 4xx, 5xx, or what broke on the way",
                &["endpoint", "outcome"],
            )?,
            errors: roll.counters(
                "gangway_slurm_errors_total",
                "Answers of slurmrestd that said no, by endpoint and Slurm's error number",
                &["endpoint", "code"],
            )?,
            codes: Few::new(CODES),
            seconds: roll.histograms(
                "gangway_slurm_request_seconds",
                "Seconds per slurmrestd request",
                &["endpoint"],
                &[0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0],
            )?,
        })
    }
}

impl Observer for Link {
    fn request(&self, exchange: &Exchange) {
        let status = exchange.status.map_or(exchange.outcome, status_class);
        self.requests.with_label_values(&[exchange.endpoint, status]).inc();
        self.seconds
            .with_label_values(&[exchange.endpoint])
            .observe(exchange.elapsed.as_secs_f64());
    }

    fn refused(&self, endpoint: &'static str, code: Option<SlurmCode>) {
        let code = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        self.errors.with_label_values(&[endpoint, self.codes.of(&code)]).inc();
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

/// Of the Slurm half: `gangway scheduler`.
#[derive(Clone, Debug)]
pub(crate) struct Placeholders {
    /// Placeholders submitted by path.
    pub(crate) submits: IntCounterVec,
    /// 1 while slurmrestd and slurmctld answer.
    pub(crate) slurm_up: IntGauge,
    /// Seconds since the epoch of the last good poll.
    pub(crate) last_poll: IntGauge,
    /// EXTERNAL nodes of ours that Slurm gives to nobody.
    pub(crate) poisoned: IntGauge,
    /// Placeholders that nobody was to have any more, by why.
    pub(crate) surplus: IntCounterVec,
}

impl Placeholders {
    pub(crate) fn new(roll: &Roll) -> Result<Self> {
        Ok(Self {
            submits: roll.counters(
                "gangway_placeholders_total",
                "Placeholders by the way they were asked for and what came of it",
                &["path", "outcome"],
            )?,
            slurm_up: roll.gauge("gangway_slurm_up", "1 while slurmrestd and slurmctld answer")?,
            last_poll: roll.gauge(
                "gangway_slurm_last_poll_timestamp_seconds",
                "When Slurm's job states were last read",
            )?,
            poisoned: roll.gauge(
                "gangway_poisoned_nodes",
                "EXTERNAL nodes that Slurm believes dead, where slurm.sink is set",
            )?,
            surplus: roll.counters(
                "gangway_surplus_placeholders_total",
                "Placeholders that were ended once more: duplicate of one gang, or revived by a slurmctld that forgot the end",
                &["kind"],
            )?,
        })
    }
}
