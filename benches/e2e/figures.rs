//! From trials to a line of JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::audit::Span;
use crate::trial::{Session, Shape, Trial};

/// Requests by which the bridge looks at slurmctld and all jobs, whether or not there is anything new.
const POLLING: [&str; 3] = ["diag", "jobs", "jobs/state"];

/// What the machine allows without a bridge, milliseconds for a number of pods.
#[derive(Default)]
pub(crate) struct Ideal {
    /// The loop that only binds.
    pub(crate) binds: BTreeMap<u32, f64>,
    /// The loop that creates, asks Slurm and binds.
    pub(crate) whole: BTreeMap<u32, f64>,
}

/// The line of the loop that only binds, and its median in milliseconds.
pub(crate) fn ideal(
    session: &Session<'_>,
    pods: u32,
    at_once: usize,
    runs: &[f64],
) -> (Value, f64) {
    let typical = rank(runs, 0.5);
    let line = json!({
        "shape": "ideal", "pods": pods, "nodes": session.nodes.len(), "trials": runs.len(),
        "concurrency": at_once,
        "binds_ms_p50": round(typical), "binds_ms_max": round(rank(runs, 1.0)),
        "binds_per_s": round(f64::from(pods) / typical * 1e3),
    });
    (line, typical)
}

/// The line of a shape that was done by hand, and its median in milliseconds.
pub(crate) fn by_hand(session: &Session<'_>, shape: &Shape, runs: &[f64]) -> (Value, f64) {
    let typical = rank(runs, 0.5);
    let line = json!({
        "shape": "by hand", "pods": shape.pods(), "nodes": session.nodes.len(), "trials": runs.len(),
        "last_bound_ms_p50": round(typical), "last_bound_ms_max": round(rank(runs, 1.0)),
        "pods_per_s": round(f64::from(shape.pods()) / typical * 1e3),
    });
    (line, typical)
}

/// The line of a shape. Counts are means over the trials, times are medians unless named otherwise.
pub(crate) fn shape(
    session: &Session<'_>,
    shape: &Shape,
    trials: &[Trial],
    ideal: &Ideal,
) -> Value {
    let pods = f64::from(shape.pods());
    let gangs = f64::from(shape.gangs);
    let all = |of: fn(&Trial) -> f64| trials.iter().map(of).collect::<Vec<f64>>();
    let mean =
        |of: &dyn Fn(&Trial) -> f64| trials.iter().map(of).sum::<f64>() / trials.len() as f64;
    let each: Vec<f64> = trials.iter().flat_map(|trial| trial.pod_ms.iter().copied()).collect();
    let last = all(Trial::last_bound_ms);
    let after = all(|trial| trial.after_create_ms);
    let sum = |counts: &BTreeMap<String, u32>, which: fn(&str) -> bool| {
        f64::from(
            counts.iter().filter(|(what, _)| which(what)).map(|(_, count)| count).sum::<u32>(),
        )
    };
    let polls =
        |trial: &Trial| POLLING.iter().filter_map(|name| trial.slurm.get(*name)).sum::<f64>();
    let (rss, peak) = session.world.memory_mb().unwrap_or_default();
    let phases: Vec<Phases> = trials.iter().flat_map(phases).collect();
    let phase =
        |of: fn(&Phases) -> f64| round(rank(&phases.iter().map(of).collect::<Vec<_>>(), 0.5));
    let mut line = json!({
        "shape": shape.name, "pods": shape.pods(), "gangs": shape.gangs, "nodes": session.nodes.len(),
        "trials": trials.len(),
        "pod_ms_p50": round(rank(&each, 0.5)), "pod_ms_p99": round(rank(&each, 0.99)),
        "last_bound_ms_p50": round(rank(&last, 0.5)), "last_bound_ms_p99": round(rank(&last, 0.99)),
        "last_bound_ms_max": round(rank(&last, 1.0)),
        // The bridge may have to open its connections for this one.
        "last_bound_ms_first": round(last.first().copied().unwrap_or(f64::NAN)),
        "create_ms": round(rank(&all(|trial| trial.create_ms), 0.5)),
        "after_create_ms": round(rank(&after, 0.5)), "after_create_ms_min": round(rank(&after, 0.0)),
        "pods_per_s": round(pods / rank(&last, 0.5) * 1e3),
        "api_writes_per_pod":
            round(mean(&|trial| sum(&trial.seen.writes, |what| !of_gang(what))) / pods),
        "api_writes_per_gang": round(mean(&|trial| sum(&trial.seen.writes, of_gang)) / gangs),
        // What kinds the server has is asked at the start and then once in a while, whoever comes.
        "api_reads_per_pod":
            round(mean(&|trial| sum(&trial.seen.reads, |what| !what.starts_with("get /api"))) / pods),
        "other_api_writes_per_pod": round(mean(&|trial| f64::from(trial.seen.other_writes)) / pods),
        "slurm_requests_per_gang": {
            "polling": round(mean(&polls) / gangs),
            "others": round(mean(&|trial| trial.slurm.values().sum::<f64>() - polls(trial)) / gangs),
        },
        "bridge": {
            "rss_mb": round(rss), "peak_rss_mb": round(peak),
            "cpu_ms_per_pod": round(mean(&|trial| trial.cpu_s) * 1e3 / pods),
        },
        // By the API server's clock, medians over gangs.
        "gang": {
            "created_ms": phase(|p| p.created), "decided_ms": phase(|p| p.decided), "bound_ms": phase(|p| p.bound),
            "binding_ms": phase(|p| p.binding),
        },
        "calls": { "api": merged(trials), "slurm": slurm(trials) },
    });
    if let Some(whole) = ideal.whole.get(&shape.pods()) {
        line["of_by_hand"] = round(whole / rank(&last, 0.5)).into();
    }
    if let Some(ideal) = ideal.binds.get(&shape.pods()) {
        // A gang cannot be bound before its last pod is there; single pods are bound as they come.
        let own = if shape.grouped() { &after } else { &last };
        line["of_ideal"] = round(ideal / rank(own, 0.5)).into();
    }
    line
}

/// Where the time of one gang went.
struct Phases {
    /// From its first pod's create being received to its last one's being answered.
    created: f64,
    /// From there to the first binding being received: watches, Slurm, placement.
    decided: f64,
    /// From there to the last binding being answered.
    bound: f64,
    /// How long a binding takes inside the API server.
    binding: f64,
}

fn phases(trial: &Trial) -> Vec<Phases> {
    let mut gangs: BTreeMap<&str, (Vec<Span>, Vec<Span>)> = BTreeMap::new();
    for (name, span) in &trial.seen.created {
        let gang = name.split('-').next().unwrap_or_default();
        gangs.entry(gang).or_default().0.push(*span);
    }
    for (name, span) in &trial.seen.bound {
        let gang = name.split('-').next().unwrap_or_default();
        gangs.entry(gang).or_default().1.push(*span);
    }
    let first = |spans: &[Span]| spans.iter().map(|span| span.from).fold(f64::INFINITY, f64::min);
    let last = |spans: &[Span]| spans.iter().map(|span| span.to).fold(0.0, f64::max);
    let whole =
        gangs.into_values().filter(|(created, bound)| !created.is_empty() && !bound.is_empty());
    let of = |(created, bound): (Vec<Span>, Vec<Span>)| Phases {
        created: last(&created) - first(&created),
        decided: first(&bound) - last(&created),
        bound: last(&bound) - first(&bound),
        binding: rank(&bound.iter().map(|span| span.to - span.from).collect::<Vec<_>>(), 0.5),
    };
    whole.map(of).collect()
}

/// The bridge's requests to the API server in all trials, by verb and resource.
fn merged(trials: &[Trial]) -> BTreeMap<&str, u32> {
    let mut out = BTreeMap::new();
    for (what, count) in
        trials.iter().flat_map(|trial| trial.seen.writes.iter().chain(&trial.seen.reads))
    {
        *out.entry(what.as_str()).or_default() += count;
    }
    out
}

/// The same to slurmrestd, by endpoint.
fn slurm(trials: &[Trial]) -> BTreeMap<&str, f64> {
    let mut out = BTreeMap::new();
    for (what, count) in
        trials.iter().flat_map(|trial| &trial.slurm).filter(|(_, count)| **count > 0.0)
    {
        *out.entry(what.as_str()).or_default() += count;
    }
    out
}

/// The value below which a share of the values lies (nearest rank).
fn rank(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// A Gang is one object, however many pods it has.
fn of_gang(what: &str) -> bool {
    what.contains(" gangs")
}
