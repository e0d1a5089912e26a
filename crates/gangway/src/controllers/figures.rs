//! What can be measured of the inventory from outside. Bounded labels: never a node's name.

use std::collections::BTreeMap;

use gangway_core::inventory::{Host, REASONS, Rules};
use gangway_slurm::Error;
use prometheus::{Histogram, IntCounterVec, IntGaugeVec};

use crate::metrics::Roll;

/// A node of a pool that is not told anything yet.
const ARRIVING: &str = "Arriving";
/// A reason that we never gave.
const OTHER: &str = "Other";

#[derive(Clone, Debug)]
pub(super) struct Figures {
    nodes: IntGaugeVec,
    steps: IntCounterVec,
    writes: IntCounterVec,
    /// Seconds to compare both inventories.
    pub(super) plan_seconds: Histogram,
    /// Seconds to compare and to do what follows.
    pub(super) round_seconds: Histogram,
}

impl Figures {
    pub(super) fn new(roll: &Roll) -> prometheus::Result<Self> {
        let seconds = |name: &str, help: &str, first: f64| {
            roll.histogram(name, help, &prometheus::exponential_buckets(first, 4.0, 9)?)
        };
        Ok(Self {
            nodes: roll.gauges(
                "gangway_inventory_nodes",
                "Nodes of the pools by the reason of their condition gangway.dev/SlurmReady",
                &["standing"],
            )?,
            steps: roll.counters(
                "gangway_inventory_steps_total",
                "Nodes of Slurm that were to be changed, by what was to be done and what came of it",
                &["step", "outcome"],
            )?,
            writes: roll.counters(
                "gangway_inventory_writes_total",
                "Writes to nodes of Kubernetes, by what was written and what came of it",
                &["write", "outcome"],
            )?,
            plan_seconds: seconds(
                "gangway_inventory_plan_seconds",
                "Seconds to compare both inventories",
                0.0001,
            )?,
            round_seconds: seconds(
                "gangway_inventory_round_seconds",
                "Seconds from reading Slurm's nodes until everything that differs was asked for",
                0.005,
            )?,
        })
    }

    /// So many nodes of Slurm were to be changed.
    pub(super) fn step<T>(&self, step: &str, nodes: usize, answer: &Result<T, Error>) {
        let outcome = match answer {
            Ok(_) => "done",
            Err(Error::Rejected { .. }) => "refused",
            Err(_) => "failed",
        };
        let nodes = u64::try_from(nodes).unwrap_or(u64::MAX);
        self.steps.with_label_values(&[step, outcome]).inc_by(nodes);
    }

    /// Something was to be written on a node, or about it.
    pub(super) fn write<T>(&self, write: &str, answer: &Result<T, kube::Error>) {
        let outcome = match answer {
            Ok(_) => "done",
            Err(kube::Error::Api(status)) if status.is_not_found() => "gone",
            Err(kube::Error::Api(status)) if status.is_conflict() => "conflict",
            Err(_) => "failed",
        };
        self.writes.with_label_values(&[write, outcome]).inc();
    }

    /// Counts the nodes of the pools. Every standing there is has a series, so that none stays where it was.
    pub(super) fn count<'a>(&self, rules: &Rules, hosts: impl Iterator<Item = &'a Host>) {
        for (standing, n) in census(rules, hosts) {
            self.nodes.with_label_values(&[standing]).set(n);
        }
    }
}

fn census<'a>(rules: &Rules, hosts: impl Iterator<Item = &'a Host>) -> BTreeMap<&'static str, i64> {
    let known = REASONS.into_iter().chain([ARRIVING, OTHER]);
    let mut out: BTreeMap<&'static str, i64> = known.map(|standing| (standing, 0)).collect();
    for host in hosts.filter(|host| rules.pool(host).is_some()) {
        let standing = host.told.as_ref().map_or(ARRIVING, |told| {
            let own = told.condition.reason.as_str();
            REASONS.into_iter().find(|reason| *reason == own).unwrap_or(OTHER)
        });
        *out.entry(standing).or_default() += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use gangway_core::inventory::{Condition, Pool, Standing, Told};

    use super::*;

    fn host(pool: &str, reason: Option<&str>) -> Host {
        let told = reason.map(|reason| {
            let (standing, message) = (Standing::True, String::new());
            let condition = Condition { standing, reason: reason.to_owned(), message };
            Told { condition, tenants: String::new() }
        });
        let labels = BTreeMap::from([("pool".to_owned(), pool.to_owned())]);
        Host { labels, told, ..Host::default() }
    }

    #[test]
    fn nodes_of_pools_are_counted_and_whoever_writes_conditions_adds_no_series() {
        let labels = BTreeMap::from([("pool".to_owned(), "a".to_owned())]);
        let rules = Rules { pools: vec![Pool { labels, ..Pool::default() }], ..Rules::default() };
        let hosts = [
            host("a", Some("InPool")),
            host("a", Some("InPool")),
            host("a", Some("Drained")),
            host("a", Some("7f3a")),
            host("a", None),
            host("b", Some("InPool")),
        ];
        let mut counts = census(&rules, hosts.iter());
        let all = counts.len();
        counts.retain(|_, n| *n > 0);
        let want = [(ARRIVING, 1), ("Drained", 1), ("InPool", 2), (OTHER, 1)];
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), want);
        let roll = Roll::new().expect("a roll");
        let figures = Figures::new(&roll).expect("all can be registered");
        figures.count(&rules, hosts.iter());
        figures.count(&rules, hosts[..1].iter());
        assert_eq!(figures.nodes.with_label_values(&["Drained"]).get(), 0, "it does not stay");
        let series = roll
            .registry()
            .gather()
            .iter()
            .find(|f| f.name() == "gangway_inventory_nodes")
            .map(|f| f.get_metric().len());
        assert_eq!(series, Some(all));
    }
}
