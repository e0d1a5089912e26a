//! Partitions that pools name: whether Slurm has them, whether they start jobs, and which nodes are not in them.
//!
//! Never decides about a node: what a node is in, Slurm makes of its features.

use std::collections::{BTreeMap, BTreeSet};

use super::{Host, Rules, SlurmNode};

/// A partition that may be made where Slurm has none of its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewPartition {
    /// Its name.
    pub name: String,
    /// Node sets of slurm.conf that it is made of, or `ALL`.
    pub node_sets: Vec<String>,
}

/// A partition of Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlurmPartition {
    /// Its name.
    pub name: String,
    /// `UP`, `DOWN`, `DRAIN`, `INACTIVE`.
    pub state: String,
}

/// A partition that is not as the pools want it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Its name.
    pub partition: String,
    /// How it differs.
    pub what: What,
}

/// How a partition differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Slurm does not have it.
    Missing,
    /// Slurm starts no job in it: its state.
    Shut(String),
    /// These nodes should be in it and are not, by Slurm's names.
    Lacks(Vec<String>),
}

impl What {
    /// One word of a few.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Shut(_) => "shut",
            Self::Lacks(_) => "lacks_nodes",
        }
    }
}

/// By partition, the nodes that should be in it by their pools and are not. Partitions of pools without nodes are in it
/// too. Asks for nothing that a list of nodes does not say.
pub fn outside(
    rules: &Rules,
    hosts: &[Host],
    nodes: &[SlurmNode],
) -> BTreeMap<String, Vec<String>> {
    let by_name: BTreeMap<&str, &SlurmNode> =
        nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mark = rules.mark();
    let named = rules.pools.iter().flat_map(|pool| &pool.partitions);
    let mut outside: BTreeMap<String, BTreeSet<String>> =
        named.map(|name| (name.clone(), BTreeSet::new())).collect();
    for host in hosts {
        let Some(pool) = rules.pool(host) else { continue };
        let node = by_name.get(host.slurm_name());
        // Of somebody else's EXTERNAL node nothing is wanted, and ours come to a partition once they have its features.
        let settled = |node: &SlurmNode| {
            node.features.contains(&mark) && pool.features.iter().all(|f| node.features.contains(f))
        };
        let counts = |node: &SlurmNode| !node.external() || settled(node);
        let Some(node) = node.filter(|node| counts(node)) else { continue };
        for name in pool.partitions.iter().filter(|name| !node.partitions.contains(*name)) {
            outside.entry(name.clone()).or_default().insert(node.name.clone());
        }
    }
    outside.into_iter().map(|(name, nodes)| (name, nodes.into_iter().collect())).collect()
}

/// What differs, partitions ascending.
pub fn differences(
    outside: &BTreeMap<String, Vec<String>>,
    partitions: &[SlurmPartition],
) -> Vec<Difference> {
    let mut found = Vec::new();
    for (name, nodes) in outside {
        let mut tell = |what| found.push(Difference { partition: name.clone(), what });
        match partitions.iter().find(|partition| partition.name == *name) {
            None => tell(What::Missing),
            Some(partition) => {
                if partition.state != "UP" {
                    tell(What::Shut(partition.state.clone()));
                }
                if !nodes.is_empty() {
                    tell(What::Lacks(nodes.clone()));
                }
            }
        }
    }
    found
}

/// Those to make: missing, and allowed.
pub fn to_make<'a>(rules: &'a Rules, differences: &[Difference]) -> Vec<&'a NewPartition> {
    let missing = |new: &&NewPartition| {
        differences.iter().any(|d| d.partition == new.name && d.what == What::Missing)
    };
    rules.new_partitions.iter().filter(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, node_of, rules};
    use super::*;

    fn partition(name: &str, state: &str) -> SlurmPartition {
        SlurmPartition { name: name.into(), state: state.into() }
    }

    #[test]
    fn what_differs_is_told_once_for_all_nodes() {
        let rules = rules();
        let (hosts, mut nodes) = (vec![host("n1"), host("n2")], vec![node_of(&host("n1"))]);
        nodes.push(SlurmNode { partitions: BTreeSet::new(), ..node_of(&host("n2")) });
        let outside = outside(&rules, &hosts, &nodes);
        assert_eq!(outside["gpu"], ["n2"]);
        let of = |state: &str| differences(&outside, &[partition("gpu", state)]);
        let lacks = What::Lacks(vec!["n2".into()]);
        assert_eq!(of("UP"), [Difference { partition: "gpu".into(), what: lacks.clone() }]);
        assert_eq!(of("DRAIN")[0].what, What::Shut("DRAIN".into()));
        assert_eq!(of("DRAIN")[1].what, lacks);
        assert_eq!(differences(&outside, &[partition("cpu", "UP")])[0].what, What::Missing);
    }

    #[test]
    fn a_partition_is_wanted_before_the_first_node_is() {
        let wanted = outside(&rules(), &[], &[]);
        assert_eq!(differences(&wanted, &[])[0].what, What::Missing);
        assert_eq!(differences(&wanted, &[partition("gpu", "UP")]), []);
    }

    #[test]
    fn of_what_is_not_ours_nothing_is_wanted() {
        let foreign = SlurmNode {
            features: BTreeSet::new(),
            partitions: BTreeSet::new(),
            ..node_of(&host("n1"))
        };
        assert!(outside(&rules(), &[host("n1")], &[foreign])["gpu"].is_empty());
    }

    #[test]
    fn only_what_the_operator_allows_is_made() {
        let mut rules = rules();
        let missing = differences(&outside(&rules, &[], &[]), &[]);
        assert!(to_make(&rules, &missing).is_empty(), "nothing is made unasked");
        let new = NewPartition { name: "gpu".into(), node_sets: vec!["set".into()] };
        rules.new_partitions = vec![new.clone()];
        assert_eq!(to_make(&rules, &missing), [&new]);
        let there = differences(&outside(&rules, &[], &[]), &[partition("gpu", "DOWN")]);
        assert!(to_make(&rules, &there).is_empty(), "an administrator has shut it");
    }
}
