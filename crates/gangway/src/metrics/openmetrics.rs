//! OpenMetrics text, for scrapers that ask for it: the same figures, and beside buckets of what a gang took the trace of
//! one that fell into it (exemplars).
//!
//! The crate `prometheus` writes the older format alone, which has no place for a trace. Whoever does not ask for
//! OpenMetrics gets that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// What it is sent as.
pub(crate) const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One gang of many that fell into a bucket.
#[derive(Clone, Debug, PartialEq)]
struct Exemplar {
    trace: String,
    value: f64,
    /// When, in seconds since the epoch.
    at: f64,
}

/// The latest exemplars, by metric and by the upper bound of its bucket (as bits; infinity above all).
#[derive(Clone, Debug, Default)]
pub(crate) struct Exemplars(Arc<Mutex<BTreeMap<String, Vec<Exemplar>>>>);

impl Exemplars {
    /// A value was observed, and this trace tells of it. One for each power of two is kept.
    pub(crate) fn note(&self, metric: &str, value: f64, trace: String, at: f64) {
        let one = Exemplar { trace, value, at };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(metric.to_owned()).or_default();
        own.retain(|other| octave(other.value) != octave(value));
        own.push(one);
    }

    /// The latest of a metric that is above one bound and not above the next.
    fn between(&self, metric: &str, above: f64, bound: f64) -> Option<Exemplar> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.get(metric)?.iter().filter(|one| one.value > above && one.value <= bound);
        own.max_by(|a, b| a.at.total_cmp(&b.at)).cloned()
    }
}

fn octave(value: f64) -> f64 {
    // From a moment to a long life: sixty of them at most.
    value.clamp(1e-6, 1e12).log2().floor()
}

/// Everything that was gathered.
pub(crate) fn text(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut out = String::new();
    for family in families {
        let name = family.name();
        let (kind, base) = match family.get_field_type() {
            MetricType::COUNTER => ("counter", name.strip_suffix("_total").unwrap_or(name)),
            MetricType::HISTOGRAM => ("histogram", name),
            MetricType::GAUGE => ("gauge", name),
            _ => ("unknown", name),
        };
        line(&mut out, format_args!("# HELP {base} {}", escaped(family.help())));
        line(&mut out, format_args!("# TYPE {base} {kind}"));
        for metric in family.get_metric() {
            match family.get_field_type() {
                MetricType::HISTOGRAM => histogram(&mut out, name, metric, exemplars),
                MetricType::COUNTER => {
                    sample(&mut out, name, metric, metric.get_counter().get_value());
                }
                _ => sample(&mut out, name, metric, metric.get_gauge().get_value()),
            }
        }
    }
    out.push_str("# EOF\n");
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = writeln!(out, "{text}");
}

fn sample(out: &mut String, name: &str, metric: &Metric, value: f64) {
    line(out, format_args!("{name}{} {value}", labels(metric.get_label(), None)));
}

fn histogram(out: &mut String, name: &str, metric: &Metric, exemplars: &Exemplars) {
    let (own, histogram) = (metric.get_label(), metric.get_histogram());
    let finite = histogram.get_bucket().iter().map(|b| (b.upper_bound(), b.cumulative_count()));
    let count = histogram.get_sample_count();
    let mut above = f64::NEG_INFINITY;
    for (bound, n) in finite.filter(|(bound, _)| bound.is_finite()).chain([(f64::INFINITY, count)])
    {
        let le = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
        // Only metrics without labels have any.
        let one = exemplars.between(name, above, bound).filter(|_| own.is_empty());
        let trace = one.map_or_else(String::new, |Exemplar { trace, value, at }| {
            format!(" # {{trace_id=\"{trace}\"}} {value} {at:.3}")
        });
        line(out, format_args!("{name}_bucket{} {n}{trace}", labels(own, Some(&le))));
        above = bound;
    }
    let all = labels(own, None);
    line(out, format_args!("{name}_sum{all} {}", histogram.get_sample_sum()));
    line(out, format_args!("{name}_count{all} {count}"));
}

fn labels(own: &[LabelPair], le: Option<&str>) -> String {
    let own = own.iter().map(|pair| (pair.name(), pair.value()));
    let all = own.chain(le.map(|le| ("le", le)));
    let all: Vec<String> =
        all.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Roll;

    #[test]
    fn buckets_carry_the_trace_of_the_latest_gang_that_fell_into_them() {
        let roll = Roll::new().expect("a roll");
        let seconds = roll.histogram("a_seconds", "Of \"a\"", &[0.5, 1.0]).expect("a metric");
        let exemplars = Exemplars::default();
        for (value, trace, at) in [(0.7, "aa", 1.0), (0.8, "bb", 2.0), (3.0, "cc", 3.0)] {
            seconds.observe(value);
            exemplars.note("a_seconds", value, trace.to_owned(), at);
        }
        let counters = roll.counters("b_total", "Of b", &["why"]).expect("a metric");
        counters.with_label_values(&["a \\ b\n"]).inc();
        let text = text(&roll.registry().gather(), &exemplars);
        let want = "# HELP a_seconds Of \\\"a\\\"\n# TYPE a_seconds histogram\n\
            a_seconds_bucket{le=\"0.5\"} 0\n\
            a_seconds_bucket{le=\"1.0\"} 2 # {trace_id=\"bb\"} 0.8 2.000\n\
            a_seconds_bucket{le=\"+Inf\"} 3 # {trace_id=\"cc\"} 3 3.000\n\
            a_seconds_sum 4.5\na_seconds_count 3\n\
            # HELP b Of b\n# TYPE b counter\nb_total{why=\"a \\\\ b\\n\"} 1\n";
        assert!(text.starts_with(want), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn as_many_are_kept_as_there_are_powers_of_two() {
        let exemplars = Exemplars::default();
        for number in 0..10_000 {
            exemplars.note("a", f64::from(number) / 7.0, "t".to_owned(), f64::from(number));
        }
        let kept = exemplars.0.lock().expect("nobody has panicked")["a"].len();
        assert!(kept < 40, "{kept}");
    }
}
