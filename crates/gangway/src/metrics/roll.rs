//! The one way to register a metric: so that what there is can be listed before anything has happened.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    Result,
};

use super::openmetrics::{self, Exemplars};

/// One metric as its page shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) labels: Vec<String>,
    pub(crate) help: String,
}

/// A registry, and what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Roll {
    registry: Registry,
    entries: Arc<Mutex<Vec<Entry>>>,
    exemplars: Exemplars,
}

impl Roll {
    pub(crate) fn new() -> Result<Self> {
        let roll = Self {
            registry: Registry::new(),
            entries: Arc::default(),
            exemplars: Exemplars::default(),
        };
        let build =
            roll.gauges("gangway_build_info", "1, by the version of Gangway", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(roll)
    }

    /// Where it is gathered from.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Traces beside what is in it.
    pub(crate) fn exemplars(&self) -> &Exemplars {
        &self.exemplars
    }

    /// Everything as OpenMetrics, with traces.
    pub(crate) fn as_open_metrics(&self) -> String {
        openmetrics::text(&self.registry.gather(), &self.exemplars)
    }

    /// Everything that was registered, by name.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        entries.sort();
        entries
    }

    pub(crate) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec> {
        self.enter("counter", IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.enter("gauge", IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.enter("gauge", IntGauge::new(name, help)?)
    }

    pub(crate) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.enter("histogram", HistogramVec::new(opts, labels)?)
    }

    pub(crate) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.enter("histogram", Histogram::with_opts(opts)?)
    }

    fn enter<M: Collector + Clone + 'static>(&self, kind: &'static str, metric: M) -> Result<M> {
        self.registry.register(Box::new(metric.clone()))?;
        let entry = |desc: &Desc| Entry {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        };
        let entries = metric.desc().into_iter().map(entry);
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).extend(entries);
        Ok(metric)
    }
}
