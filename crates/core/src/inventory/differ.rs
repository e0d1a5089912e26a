//! What of a node's registration differs from what Kubernetes says now, and what can be done about it.
//!
//! Slurm changes features, weight, topology and address of a node that is there; CPUs, memory and devices only with a
//! new registration, for which no job may be on the node. So that a daemonset's new limit does not empty a node, what
//! was registered may be less than what there is; never more.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Rules, SlurmNode, Wanted};

/// Why a node must be registered anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anew {
    /// What differs.
    pub(super) why: String,
    /// Slurm gives out what is not there: nothing new may start. Else it can wait until the node is empty.
    pub(super) urgent: bool,
}

/// So much less than there is may be registered for good: a hundredth part each.
const SLACK: u64 = 5;

pub(super) fn must_be_registered_anew(wanted: &Wanted, node: &SlurmNode) -> Option<Anew> {
    if node.is("NOT_RESPONDING") {
        // Something that Slurm once sent was not answered, and it gives the node to nobody any more. While it has that
        // to repeat, the sink will answer; after a restart it has nothing, and only a new node is a healthy one.
        return Some(Anew { why: "Slurm holds it for dead".to_owned(), urgent: false });
    }
    let have = counts(&node.gres);
    let want = wanted.counts();
    if have != want {
        let urgent = have.iter().any(|(kind, n)| want.get(kind).is_none_or(|w| w < n));
        let why = format!("gres {} instead of {}", wanted.gres(), node.gres);
        return Some(Anew { why, urgent });
    }
    let amounts = [
        ("CPUs", u64::from(wanted.cpus()), u64::from(node.cpus)),
        ("MiB of memory", wanted.memory_mib, node.memory_mib),
    ];
    amounts.into_iter().find_map(|(what, want, have)| {
        let urgent = have > want;
        let lasting = want - want * SLACK / 100 > have;
        let why = format!("{want} {what} instead of {have}");
        (urgent || lasting).then_some(Anew { why, urgent })
    })
}

pub(super) fn change(rules: &Rules, wanted: &Wanted, node: &SlurmNode) -> Change {
    let features =
        (wanted.features != node.features).then(|| wanted.features.iter().cloned().collect());
    let same = |topology: &String| places(topology) == places(&node.topology);
    let topology = wanted.topology.clone().filter(|topology| !same(topology));
    Change {
        features,
        weight: (wanted.weight != node.weight).then_some(wanted.weight),
        topology,
        address: (rules.address != node.address).then(|| rules.address.clone()),
    }
}

/// A node's place in each topology, whichever is named first.
fn places(topology: &str) -> BTreeSet<&str> {
    topology.split(',').map(str::trim).filter(|place| !place.is_empty()).collect()
}

/// `gpu:h100:8(S:0-1),efa:32` → how many of each name and type. What has no number counts once.
pub(super) fn counts(gres: &str) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    let mut depth = 0_u32;
    let parts = gres.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    for part in parts {
        let part = part.split('(').next().unwrap_or_default().trim();
        if part.is_empty() || part == "null" {
            continue;
        }
        let (kind, count) = part.rsplit_once(':').unwrap_or((part, "1"));
        let (kind, count) = match number(count) {
            Some(n) => (kind, n),
            None => (part, 1),
        };
        *out.entry(kind.to_owned()).or_default() += count;
    }
    out
}

/// `8`, or `2K`: Slurm writes large counts so.
fn number(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gres_are_counted_as_slurm_writes_them() {
        let told = |text| counts(text).into_iter().collect::<Vec<_>>();
        let of = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
            pairs.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect()
        };
        assert_eq!(told("gpu:h100:8(S:0-1),efa:32"), of(&[("efa", 32), ("gpu:h100", 8)]));
        assert_eq!(
            told("gpu:1g.5gb:7,gpu:3g.20gb:1"),
            of(&[("gpu:1g.5gb", 7), ("gpu:3g.20gb", 1)])
        );
        assert_eq!(told("shard:2K,gpu"), of(&[("gpu", 1), ("shard", 2048)]));
        assert!(told("").is_empty() && told("(null)").is_empty());
    }
}
