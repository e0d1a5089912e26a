//! One trace per round of a gang, from its first pod to its last bind, by OTLP (gRPC). Off unless configured.
//!
//! The ids of a trace follow from cluster, gang and generation alone, so both halves of the bridge, and a bridge that
//! goes on after another, write into the same trace without telling each other. Spans are handed over when they are
//! over; where nobody takes them they are dropped, and no gang ever waits for that.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use gangway_core::placeholder::fingerprint;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};
use tonic::transport::Endpoint;

use crate::metrics::Passage;
use crate::wall;

/// How long a batch is gathered, and how long its sending may take.
const GATHER: Duration = Duration::from_secs(1);
const SEND: Duration = Duration::from_secs(5);
/// Spans that may wait for a collector; more are dropped.
const WAITING: usize = 4096;

/// The span that all others of a round are in.
const ROOT: &str = "gang";

/// Where traces go. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Traces(Option<Arc<BatchSpanProcessor>>);

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Traces({})", if self.0.is_some() { "on" } else { "off" })
    }
}

/// One round of one gang.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round<'a> {
    pub(crate) cluster: &'a str,
    /// The gang's uid.
    pub(crate) gang: &'a str,
    pub(crate) generation: u32,
}

/// What was bound, for the trace's root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) job: u32,
    pub(crate) members: usize,
}

impl Traces {
    /// To a collector; without one traces are off. Must be called where tokio runs.
    pub(crate) fn to(
        collector: Option<&str>,
        service: &'static str,
        identity: &str,
    ) -> anyhow::Result<Self> {
        let Some(url) = collector.filter(|url| !url.is_empty()) else { return Ok(Self::default()) };
        anyhow::ensure!(
            url.starts_with("http://"),
            "the address of the traces' collector must begin with http://, which {url:?} does not; have one on this node or in this mesh take them"
        );
        let endpoint = Endpoint::from_shared(url.to_owned());
        let endpoint = endpoint.with_context(|| format!("{url:?} is no address of a collector"))?;
        let channel = endpoint.timeout(SEND).connect_timeout(SEND).connect_lazy();
        let exporter = SpanExporter::builder().with_tonic().with_channel(channel).build();
        let exporter = exporter.context("traces cannot be sent")?;
        let batch = BatchConfigBuilder::default().with_scheduled_delay(GATHER);
        let mut processor =
            BatchSpanProcessor::new(exporter, batch.with_max_queue_size(WAITING).build());
        let attributes = [
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", identity.to_owned()),
        ];
        let resource =
            Resource::builder_empty().with_service_name(service).with_attributes(attributes);
        processor.set_resource(&resource.build());
        tracing::info!(collector = url, "traces are sent");
        Ok(Self(Some(Arc::new(processor))))
    }

    /// A gang was bound whole, `ended` milliseconds by the clock of its passage: everything between its first pod and
    /// now. Gives the trace's id, where traces are on.
    pub(crate) fn bound(
        &self,
        round: Round<'_>,
        bound: Bound<'_>,
        passed: &Passage,
        ended: i64,
    ) -> Option<String> {
        let processor = self.0.as_ref()?;
        let now = SystemTime::from(wall::now());
        let at = |ms: i64| now - Duration::from_millis(u64::try_from(ended - ms).unwrap_or(0));
        let attributes = vec![
            KeyValue::new("gangway.cluster", round.cluster.to_owned()),
            KeyValue::new("gangway.gang", round.gang.to_owned()),
            KeyValue::new("gangway.generation", i64::from(round.generation)),
            KeyValue::new("gangway.workload", bound.name.to_owned()),
            KeyValue::new("gangway.members", i64::try_from(bound.members).unwrap_or(i64::MAX)),
            KeyValue::new("k8s.namespace.name", bound.namespace.to_owned()),
            KeyValue::new("slurm.job.id", i64::from(bound.job)),
        ];
        for (name, from, to) in parts(passed, ended) {
            processor.on_end(span(round, name, (at(from), at(to)), Vec::new(), Status::Unset));
        }
        let whole = (at(passed.seen), now);
        processor.on_end(span(round, ROOT, whole, attributes, Status::Ok));
        Some(trace_id(round).to_string())
    }

    /// Slurm was asked for a placeholder, which took so long and came to this.
    pub(crate) fn submitted(&self, round: Round<'_>, took: Duration, outcome: &'static str) {
        let Some(processor) = &self.0 else { return };
        let now = SystemTime::from(wall::now());
        let attributes = vec![KeyValue::new("gangway.outcome", outcome)];
        processor.on_end(span(round, "submit", (now - took, now), attributes, Status::Unset));
    }

    /// Sends what is left.
    pub(crate) async fn end(self) {
        let Some(processor) = self.0 else { return };
        let ended = tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(SEND));
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the last traces were not sent"),
            Err(error) => tracing::debug!(%error, "the last traces were not sent"),
        }
    }
}

/// The parts of a round, in order: name, begin and end.
fn parts(passed: &Passage, ended: i64) -> Vec<(&'static str, i64, i64)> {
    let points = [
        ("assemble", Some(passed.seen)),
        ("ask", passed.asked),
        ("queue", passed.taken),
        ("seat", passed.allocated),
        ("bind", passed.binding),
    ];
    let known: Vec<(&str, i64)> =
        points.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    let ends = known.iter().skip(1).map(|(_, at)| *at).chain([ended]);
    let all = known.iter().zip(ends).map(|((name, from), to)| (*name, *from, to.max(*from)));
    // Nodes at once: there was no queue.
    all.filter(|(name, from, to)| *name != "queue" || to > from).collect()
}

/// The trace of a round.
fn trace_id(round: Round<'_>) -> TraceId {
    let generation = round.generation.to_string();
    let cluster = format!("cluster {}", round.cluster);
    let half = |which| u128::from(fingerprint([cluster.as_str(), round.gang, &generation, which]));
    // None may be 0, which means none.
    TraceId::from((half("trace, first half") << 64 | half("trace, second half")).max(1))
}

fn span_id(round: Round<'_>, name: &str) -> SpanId {
    let generation = round.generation.to_string();
    let (cluster, name) = (format!("cluster {}", round.cluster), format!("span {name}"));
    SpanId::from(fingerprint([cluster.as_str(), round.gang, &generation, &name]).max(1))
}

fn span(
    round: Round<'_>,
    name: &'static str,
    (start_time, end_time): (SystemTime, SystemTime),
    attributes: Vec<KeyValue>,
    status: Status,
) -> SpanData {
    let own = span_id(round, name);
    let parent = if name == ROOT { SpanId::INVALID } else { span_id(round, ROOT) };
    SpanData {
        span_context: SpanContext::new(
            trace_id(round),
            own,
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: parent,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time,
        end_time,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: InstrumentationScope::builder("gangway").build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Round<'_> = Round { cluster: "c", gang: "g", generation: 1 };

    #[test]
    fn every_bridge_gives_a_round_the_same_ids_and_no_two_rounds_do() {
        let id = |cluster, gang, generation| trace_id(Round { cluster, gang, generation });
        assert_eq!(trace_id(ROUND), id("c", "g", 1));
        let all =
            [id("c", "g", 1), id("c", "g", 2), id("d", "g", 1), id("c", "h", 1), id("g", "c", 1)];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        let [root, part] = [ROOT, "bind"].map(|name| {
            let now = SystemTime::UNIX_EPOCH;
            span(ROUND, name, (now, now), Vec::new(), Status::Unset)
        });
        assert_eq!(part.parent_span_id, root.span_context.span_id());
        assert_eq!(root.parent_span_id, SpanId::INVALID);
    }

    #[test]
    fn the_parts_of_a_round_fill_it_without_a_gap() {
        let mut passed = Passage::new(10);
        passed.asked = Some(20);
        (passed.taken, passed.allocated, passed.binding) = (Some(25), Some(90), Some(95));
        let all = parts(&passed, 100);
        let names: Vec<_> = all.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, ["assemble", "ask", "queue", "seat", "bind"]);
        assert!(all.windows(2).all(|two| two[0].2 == two[1].1), "{all:?}");
        assert_eq!((all[0].1, all[4].2), (10, 100));
        passed.taken = passed.allocated;
        assert!(parts(&passed, 100).iter().all(|(name, ..)| *name != "queue"));
    }

    #[tokio::test]
    async fn a_collector_that_cannot_be_one_is_refused_and_one_that_is_away_keeps_nobody() {
        assert!(Traces::to(None, "gangway", "x").is_ok_and(|traces| traces.0.is_none()));
        for bad in ["https://collector:4317", "collector:4317", "http://a b"] {
            assert!(Traces::to(Some(bad), "gangway", "x").is_err(), "{bad}");
        }
        let away = Traces::to(Some("http://127.0.0.1:9"), "gangway", "x").expect("an address");
        let began = std::time::Instant::now();
        for _ in 0..10_000 {
            away.submitted(ROUND, Duration::ZERO, "accepted");
        }
        assert!(began.elapsed() < SEND, "{:?}", began.elapsed());
    }
}
