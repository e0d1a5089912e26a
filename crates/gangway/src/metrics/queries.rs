//! Every name in a rule, an alert or a panel is one that there is: of a metric, a label or a word of PromQL.

mod labels;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::page::{holder, processes};
use super::roll::Entry;

/// What other exporters write.
const OUTSIDE: [&str; 4] = [
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_POWER_USAGE",
    "node_amazonefa_tx_bytes",
    "node_amazonefa_rx_bytes",
];
/// Labels that are theirs, or Prometheus'.
const LABELS: [&str; 6] = ["job", "instance", "le", "Hostname", "gpu", "node"];
const WORDS: [&str; 27] = [
    "absent",
    "and",
    "avg",
    "bool",
    "by",
    "count",
    "group",
    "group_left",
    "group_right",
    "histogram_quantile",
    "ignoring",
    "increase",
    "label_replace",
    "label_values",
    "max",
    "min",
    "on",
    "or",
    "rate",
    "sum",
    "time",
    "topk",
    "unless",
    "vector",
    "without",
    "m",
    "d",
];

fn manifests(directory: &str, ends: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests").join(directory);
    let files =
        std::fs::read_dir(path).expect("the directory").map(|entry| entry.expect("a file").path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.to_string_lossy().ends_with(ends)).collect();
    files.sort();
    files
}

/// Every rule: what it records, or the empty text, and its query.
fn rules() -> Vec<(String, String)> {
    let mut out = Vec::new();
    for file in manifests("monitoring", "s.yaml").iter().filter(|f| !f.ends_with("tests.yaml")) {
        let text = std::fs::read_to_string(file).expect("a file");
        let rule: Value = serde_saphyr::from_str(&text).expect("YAML");
        assert_eq!(rule["kind"], "PrometheusRule");
        for group in rule["spec"]["groups"].as_array().expect("groups") {
            for rule in group["rules"].as_array().expect("rules") {
                let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
                out.push((text("record"), text("expr")));
            }
        }
    }
    out
}

/// Every query of a dashboard, wherever it stands.
fn queries(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| queries(one, out)),
        Value::Object(map) => {
            for (key, one) in map {
                match one {
                    Value::String(text) if key == "expr" || key == "query" => {
                        out.push(text.clone());
                    }
                    other => queries(other, out),
                }
            }
        }
        _ => {}
    }
}

/// The names in a query, without what stands in quotes.
fn names(query: &str) -> BTreeSet<String> {
    let bare: String = query.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '$');
    let words = bare.split(|c: char| !word(c)).filter(|w| !w.starts_with('$'));
    words.filter(|w| w.starts_with(|c: char| c.is_ascii_alphabetic())).map(str::to_owned).collect()
}

/// Everything that a process of ours serves.
fn entries() -> Vec<Entry> {
    let all = processes().into_iter().flat_map(|(_, roll)| roll.entries());
    all.chain([holder()]).collect()
}

/// Every query of a rule, an alert or a panel, and where it stands.
fn asked() -> Vec<(String, String)> {
    let mut asked: Vec<(String, String)> =
        rules().into_iter().map(|(_, expr)| ("a rule".to_owned(), expr)).collect();
    assert!(asked.len() > 20);
    let dashboards = manifests("dashboards", ".json");
    assert_eq!(dashboards.len(), 4);
    for file in dashboards {
        let text = std::fs::read_to_string(&file).expect("a file");
        let mut found = Vec::new();
        queries(&serde_json::from_str(&text).expect("JSON"), &mut found);
        assert!(found.len() > 5, "{file:?}");
        // The data source is a variable whose query is no query.
        let real = found.into_iter().filter(|query| query != "prometheus");
        asked.extend(real.map(|query| (file.display().to_string(), query)));
    }
    asked
}

#[test]
fn every_name_in_a_query_is_known() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for entry in entries() {
        known.extend(entry.labels);
        if entry.kind == "histogram" {
            known.extend(["bucket", "sum", "count"].map(|part| format!("{}_{part}", entry.name)));
        }
        known.insert(entry.name);
    }
    known.extend(rules().into_iter().map(|(record, _)| record));
    known.extend(OUTSIDE.iter().chain(&LABELS).chain(&WORDS).map(|&word| word.to_owned()));
    for (place, query) in asked() {
        let strange: Vec<String> = names(&query).difference(&known).cloned().collect();
        assert!(strange.is_empty(), "{strange:?} in {query} of {place}");
    }
}

#[test]
fn names_in_quotes_and_variables_are_none() {
    let found = names(r#"sum by (le) (rate(a_bucket{b=~"c|d",e="$f"}[$__rate_interval])) > 0.5"#);
    let want = ["a_bucket", "b", "by", "e", "le", "rate", "sum"];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), want);
}
