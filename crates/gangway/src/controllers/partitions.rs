//! Looks after the partitions that pools name: makes those that the operator allows, tells of what differs.
//!
//! Slurm's partitions are read at the start, and while a node is not in one that it should be in; so where all is well
//! nothing is asked.

use std::collections::BTreeMap;

use gangway_core::hostlist::Hostlist;
use gangway_core::inventory::{
    Difference, Host, Rules, SlurmNode, SlurmPartition, What, partitions,
};
use gangway_slurm::{Client as SlurmClient, Error};
use prometheus::IntGaugeVec;
use tokio::time::{Duration, Instant};

use crate::chain::explain;
use crate::metrics::Roll;

pub(super) struct Partitions {
    slurm: SlurmClient,
    /// Between two looks while something differs.
    again: Duration,
    /// 1 for each difference.
    gauge: IntGaugeVec,
    /// Which nodes were outside when partitions were last read, and when that was.
    read: Option<(Instant, BTreeMap<String, Vec<String>>)>,
    told: Vec<Difference>,
}

impl Partitions {
    pub(super) fn new(
        slurm: SlurmClient,
        again: Duration,
        roll: &Roll,
    ) -> prometheus::Result<Self> {
        let gauge = Self::gauge(roll)?;
        Ok(Self { slurm, again, gauge, read: None, told: Vec::new() })
    }

    /// What is measured of them.
    pub(super) fn gauge(roll: &Roll) -> prometheus::Result<IntGaugeVec> {
        let what =
            "1 for each partition that is not as the pools want it: missing, shut, lacks_nodes";
        roll.gauges("gangway_partition_differs", what, &["partition", "what"])
    }

    /// Compares, and makes what is missing. Whether Slurm was asked to change something.
    pub(super) async fn look(
        &mut self,
        rules: &Rules,
        hosts: &[Host],
        nodes: &[SlurmNode],
    ) -> bool {
        let outside = partitions::outside(rules, hosts, nodes);
        if !self.is_due(&outside) {
            return false;
        }
        let listed = match self.slurm.partitions().await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(error = explain(&error), "could not read Slurm's partitions");
                return false;
            }
        };
        let known: Vec<SlurmPartition> = listed
            .into_iter()
            .map(|p| SlurmPartition { name: p.name, state: p.state.join(",") })
            .collect();
        let differences = partitions::differences(&outside, &known);
        let mut made = false;
        for new in partitions::to_make(rules, &differences) {
            let sets = new.node_sets.join(",");
            match self.slurm.create_partition(&new.name, &new.node_sets).await {
                Ok(()) => {
                    made = true;
                    tracing::info!(partition = new.name, sets, "made a partition in Slurm");
                }
                Err(error) => self.refused(&new.name, &sets, &error),
            }
        }
        self.tell(differences);
        // What was made is read at the next look.
        self.read = (!made).then(|| (Instant::now(), outside));
        made
    }

    fn is_due(&self, outside: &BTreeMap<String, Vec<String>>) -> bool {
        let Some((at, before)) = &self.read else { return true };
        let well = self.told.is_empty() && outside.values().all(Vec::is_empty);
        !well && (before != outside || at.elapsed() >= self.again)
    }

    fn refused(&self, partition: &str, sets: &str, error: &Error) {
        tracing::warn!(
            partition,
            sets,
            error = explain(error),
            "Slurm did not make a partition; the node sets must be in slurm.conf (NodeSet=... Feature=...)"
        );
    }

    /// Says what is new, and shows all of it.
    fn tell(&mut self, differences: Vec<Difference>) {
        if differences == self.told {
            return;
        }
        self.gauge.reset();
        for Difference { partition, what } in &differences {
            self.gauge.with_label_values(&[partition.as_str(), what.word()]).set(1);
        }
        for Difference { partition, what } in differences.iter().filter(|d| !self.told.contains(d))
        {
            match what {
                What::Missing => {
                    tracing::warn!(partition, "pools name a partition that Slurm does not have");
                }
                What::Shut(state) => {
                    tracing::warn!(
                        partition,
                        state,
                        "Slurm starts no job in a partition of the pools"
                    );
                }
                What::Lacks(nodes) => {
                    let list = Hostlist::from_names(nodes).map(|list| list.sorted().to_string());
                    let nodes = list.unwrap_or_else(|_| nodes.join(","));
                    tracing::warn!(partition, nodes, "nodes are not in a partition of their pool");
                }
            }
        }
        if differences.is_empty() {
            tracing::info!("all partitions are as the pools want them");
        }
        self.told = differences;
    }
}
