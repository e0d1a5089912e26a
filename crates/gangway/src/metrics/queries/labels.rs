//! Every label that a query asks a metric for is one that it has: in braces, behind `by`, `on` and `group_left`, and in
//! `label_values`. A wrong one is no error to Prometheus: it matches nothing, or sums up what was to be apart.

use std::collections::{BTreeMap, BTreeSet};

use super::{asked, entries, rules};

/// What a scrape puts on every series.
const TARGET: [&str; 2] = ["job", "instance"];
/// Labels of other exporters' metrics.
const OUTSIDE: [(&str, &[&str]); 4] = [
    ("DCGM_FI_DEV_GPU_UTIL", &["gpu", "UUID", "device", "modelName", "Hostname", "node"]),
    ("DCGM_FI_DEV_POWER_USAGE", &["gpu", "UUID", "device", "modelName", "Hostname", "node"]),
    ("node_amazonefa_tx_bytes", &["device", "port", "node", "index"]),
    ("node_amazonefa_rx_bytes", &["device", "port", "node", "index"]),
];

type Labels = BTreeMap<String, BTreeSet<String>>;

/// The labels of every metric that there is.
fn known() -> Labels {
    let mut known = Labels::new();
    for entry in entries() {
        let labels: BTreeSet<String> = entry.labels.into_iter().collect();
        if entry.kind == "histogram" {
            let le = labels.iter().cloned().chain(["le".to_owned()]).collect();
            known.insert(format!("{}_bucket", entry.name), le);
            for part in ["sum", "count"] {
                known.insert(format!("{}_{part}", entry.name), labels.clone());
            }
        } else {
            known.insert(entry.name, labels);
        }
    }
    let outside = OUTSIDE.iter().map(|(name, labels)| {
        ((*name).to_owned(), labels.iter().map(|&label| label.to_owned()).collect())
    });
    known.extend(outside);
    for labels in known.values_mut() {
        labels.extend(TARGET.map(str::to_owned));
    }
    for (record, query) in rules().into_iter().filter(|(record, _)| !record.is_empty()) {
        // What is recorded is a sum, and has the labels by which it is summed.
        let bare = bare(&query);
        let by = lists(&bare, &["by"]).into_iter().next().expect(&record);
        assert!(bare.trim_start().find("by").is_some_and(|at| at < 8), "{record} is no sum");
        known.insert(record, by.labels.into_iter().collect());
    }
    known
}

/// A query with nothing between its quotes.
fn bare(query: &str) -> String {
    query.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '$')
}

/// The words of a query and what stands behind each.
fn words(text: &str) -> Vec<(&str, &str)> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let from = &rest[start..];
        let end = from.find(|c| !is_word(c)).unwrap_or(from.len());
        out.push((&from[..end], &from[end..]));
        rest = &from[end..];
    }
    out
}

/// What stands in the brackets with which a text begins, and what behind them.
fn within(text: &str, open: char, close: char) -> Option<(&str, &str)> {
    let text = text.trim_start().strip_prefix(open)?;
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == open) - i32::from(c == close);
        if depth == 0 {
            return Some((&text[..at], &text[at + close.len_utf8()..]));
        }
    }
    None
}

/// A list of labels behind a word, and what it is about: the brackets behind it, or nothing.
struct List {
    word: String,
    labels: Vec<String>,
    about: String,
}

fn lists(bare: &str, of: &[&str]) -> Vec<List> {
    let found = words(bare).into_iter().filter(|(word, _)| of.contains(word));
    let list = |(word, rest): (&str, &str)| {
        let (labels, rest) = within(rest, '(', ')')?;
        let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty());
        let labels = labels.map(str::to_owned).collect();
        let about = within(rest, '(', ')').map_or("", |(about, _)| about).to_owned();
        Some(List { word: word.to_owned(), labels, about })
    };
    found.filter_map(list).collect()
}

/// What of a query asks a metric for a label that it does not have.
fn strange(query: &str, known: &Labels) -> Vec<String> {
    let bare = bare(query);
    let mut out = Vec::new();
    // label_replace makes labels, which it names in quotes.
    let made: BTreeSet<&str> = match bare.contains("label_replace") {
        true => query.split('"').skip(1).step_by(2).collect(),
        false => BTreeSet::new(),
    };
    for (metric, rest) in words(&bare) {
        let Some(labels) = known.get(metric) else { continue };
        let Some((matchers, _)) = rest.starts_with('{').then(|| within(rest, '{', '}')).flatten()
        else {
            continue;
        };
        for matcher in matchers.split(',').filter(|matcher| !matcher.trim().is_empty()) {
            let label = matcher.split(['=', '!']).next().unwrap_or_default().trim();
            if !labels.contains(label) {
                out.push(format!("{metric}{{{label}}}"));
            }
        }
    }
    let of = |text: &str| -> BTreeSet<String> {
        words(text).iter().filter_map(|(word, _)| known.get(*word)).flatten().cloned().collect()
    };
    for list in lists(&bare, &["by", "on", "ignoring", "without", "group_left", "group_right"]) {
        // A sum by labels is written in front of what is summed.
        let by = list.word == "by";
        assert!(!by || !list.about.is_empty(), "{query}");
        let labels = of(if by { &list.about } else { &bare });
        let unknown = list
            .labels
            .iter()
            .filter(|label| !labels.contains(label.as_str()) && !made.contains(label.as_str()));
        out.extend(unknown.map(|label| format!("{} ({label})", list.word)));
    }
    for (_, rest) in words(&bare).into_iter().filter(|(word, _)| *word == "label_values") {
        let (inner, _) = within(rest, '(', ')').expect("label_values has brackets");
        let (metric, label) = inner.rsplit_once(',').expect("a metric and a label");
        if !of(metric).contains(label.trim()) {
            out.push(format!("label_values({label})"));
        }
    }
    out
}

#[test]
fn every_label_in_a_query_is_one_of_its_metric() {
    let known = known();
    for (place, query) in asked() {
        let strange = strange(&query, &known);
        assert!(strange.is_empty(), "{strange:?} in {query} of {place}");
    }
}

#[test]
fn a_label_that_its_metric_has_not_is_found() {
    let known = known();
    let good = [
        r#"sum by (phase, job) (gangway_gangs{phase=~"queued|a}b,c",reason!=""}) > 0"#,
        "histogram_quantile(0.5, sum by (job, le) (rate(gangway_gang_bind_seconds_bucket[5m])))",
        r#"sum by (node) (label_replace(gangway_leads, "node", "$1", "job", "(.+)"))"#,
        "gangway_job:gpus:sum * on (job_id) group_left (user) gangway_job:gpu_utilization:avg",
        "label_values(gangway_job:gpus:sum{account=~\"$account\"}, job_id)",
        "sum(gangway_gangs)",
    ];
    for query in good {
        assert_eq!(strange(query, &known), [""; 0], "{query}");
    }
    let bad = [
        (r#"gangway_gangs{cause="a"}"#, "gangway_gangs{cause}"),
        (r#"gangway_gangs{phase="a",cause!~"b"}"#, "gangway_gangs{cause}"),
        ("sum by (phase, le) (gangway_gangs)", "by (le)"),
        // It is a label of the other sum's metric.
        ("sum by (cause) (gangway_gangs) / sum by (cause) (gangway_evictions_total)", "by (cause)"),
        ("sum by (le) (rate(gangway_gang_bind_seconds_count[5m]))", "by (le)"),
        ("gangway_gangs * on (node) gangway_leads", "on (node)"),
        ("gangway:devices:sum{type=\"h100\"}", "gangway:devices:sum{type}"),
        ("label_values(gangway_job:gpus:sum, node)", "label_values( node)"),
    ];
    for (query, found) in bad {
        assert_eq!(strange(query, &known), [found], "{query}");
    }
}
