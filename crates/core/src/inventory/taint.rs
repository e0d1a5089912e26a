//! Which taints of ours a node is to have: one that keeps other schedulers' pods off what Slurm gives out, one where
//! Slurm does not give it out.
//!
//! Ours are those of our two keys with our cluster as the value, so that two bridges of one Kubernetes never take each
//! other's away; no other taint is this room's business. Never `NoExecute`: it would end the pods that Slurm has let
//! in.

use super::{Host, Pool, Rules, SlurmNode, mirror};
use crate::eligible::taint::{Taint, own_value};
use crate::names;

/// What a taint of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Keeps off pods that do not tolerate it.
    NoSchedule,
    /// Pods that do not tolerate it go elsewhere if they can.
    PreferNoSchedule,
}

impl Effect {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
        }
    }
}

/// Which taints there are to be at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taints {
    /// On a node that Slurm has drained, or holds for down, failing, or in maintenance.
    pub drained: Option<Effect>,
    /// On every node of a pool.
    pub managed: Option<Effect>,
}

/// A node whose taints are to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tainting {
    /// Kubernetes' name.
    pub host: String,
    /// All of ours that it is to have, ascending; those of others stay as they are.
    pub taints: Vec<Taint>,
}

/// What is to change on a node, which is in a pool, and is what Slurm knows by its name.
pub(super) fn of(
    rules: &Rules,
    host: &Host,
    pool: Option<&Pool>,
    node: Option<(&SlurmNode, bool)>,
) -> Option<Tainting> {
    let ours = node.filter(|(_, ours)| *ours).map(|(node, _)| node);
    let foreign = node.is_some_and(|(node, ours)| node.external() && !ours);
    // Until it has left Slurm it is given out there.
    let managed = (pool.is_some() || ours.is_some()) && !foreign;
    let shut = node.filter(|_| managed).is_some_and(|(node, _)| mirror::withheld(rules, node));
    let wanted = [
        (names::TAINT_MANAGED, rules.taints.managed.filter(|_| managed)),
        (names::TAINT_UNAVAILABLE, rules.taints.drained.filter(|_| shut)),
    ];
    let value = own_value(&rules.cluster);
    let taint = |(key, effect): (&str, Option<Effect>)| {
        let effect = effect?.as_str().to_owned();
        Some(Taint { key: key.to_owned(), value: value.clone(), effect })
    };
    change(rules, host, wanted.into_iter().filter_map(taint).collect())
}

/// A node that nobody may count on has none.
pub(super) fn none(rules: &Rules, host: &Host) -> Option<Tainting> {
    change(rules, host, Vec::new())
}

fn change(rules: &Rules, host: &Host, taints: Vec<Taint>) -> Option<Tainting> {
    let mut have: Vec<&Taint> =
        host.taints.iter().filter(|taint| taint.is_own(&rules.cluster)).collect();
    have.sort();
    let same = have.into_iter().eq(&taints);
    (!same && !host.deleting).then(|| Tainting { host: host.name.clone(), taints })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, registered, rules};
    use super::super::{decide, wanted};
    use super::*;

    fn strict() -> Rules {
        let (drained, managed) = (Some(Effect::NoSchedule), Some(Effect::PreferNoSchedule));
        Rules { taints: Taints { drained, managed }, ..rules() }
    }

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: value.into(), effect: effect.into() }
    }

    fn managed() -> Taint {
        taint("gangway.dev/managed", "c1", "PreferNoSchedule")
    }

    fn unavailable() -> Taint {
        taint("gangway.dev/slurm-unavailable", "c1", "NoSchedule")
    }

    /// The node and its image in Slurm, in this state and for this reason.
    fn pair(states: &[&str], reason: &str) -> (Host, SlurmNode) {
        let host = host("n1");
        let rules = rules();
        let mut node = registered(&wanted::wanted(&rules, &rules.pools[0], &host));
        node.state.extend(states.iter().map(|state| (*state).to_owned()));
        reason.clone_into(&mut node.reason);
        (host, node)
    }

    /// What ours the node is to have; `None` where nothing changes.
    fn told(rules: &Rules, host: &Host, nodes: &[SlurmNode]) -> Option<Vec<Taint>> {
        let plan = decide(rules, std::slice::from_ref(host), nodes, 0);
        plan.taints.into_iter().next().map(|tainting| tainting.taints)
    }

    #[test]
    fn nothing_is_tainted_unless_the_policy_says_so() {
        let (mut host, node) = pair(&["DRAIN"], "bad NIC");
        assert_eq!(told(&rules(), &host, std::slice::from_ref(&node)), None);
        // What an earlier policy has left goes.
        host.taints = vec![managed(), taint("gangway.dev/managed", "c2", "NoSchedule")];
        assert_eq!(told(&rules(), &host, &[node]), Some(vec![]));
    }

    #[test]
    fn what_slurm_withholds_is_tainted_and_what_we_have_shut_is_not() {
        for (states, reason, withheld) in [
            (&[][..], "", false),
            (&["DRAIN"], "bad NIC", true),
            (&["DOWN"], "gone", true),
            (&["FAIL"], "", true),
            (&["MAINTENANCE"], "", true),
            (&["NOT_RESPONDING"], "", true),
            (&["POWERED_DOWN"], "", false),
            (&["DRAIN"], "gangway/c1: cordoned in Kubernetes", false),
            (&["DOWN"], "gangway/c1: not ready in Kubernetes; drained before: bad NIC", true),
            (&["DRAIN"], "gangway/c2: cordoned in Kubernetes", true),
            (&["DRAIN", "MAINTENANCE"], "gangway/c1: cordoned in Kubernetes", true),
        ] {
            let (mut host, node) = pair(states, reason);
            let want = if withheld { vec![managed(), unavailable()] } else { vec![managed()] };
            let nodes = [node];
            assert_eq!(told(&strict(), &host, &nodes), Some(want.clone()), "{states:?} {reason}");
            // Once it is so, nothing is left to do, whoever else has tainted it.
            host.taints = vec![taint("a", "", "NoSchedule")];
            host.taints.extend(want.into_iter().rev());
            assert_eq!(told(&strict(), &host, &nodes), None, "{states:?} {reason}");
        }
    }

    #[test]
    fn a_node_that_leaves_its_pool_is_managed_for_as_long_as_slurm_has_it() {
        let (mut host, mut node) = pair(&[], "");
        host.labels.remove("pool");
        host.taints = vec![managed()];
        node.allocated_cpus = 1;
        assert_eq!(told(&strict(), &host, &[node]), None);
        assert_eq!(told(&strict(), &host, &[]), Some(vec![]));
    }

    #[test]
    fn nodes_that_are_not_given_out_by_us_are_not_managed() {
        let (mut host, mut node) = pair(&["DRAIN"], "bad NIC");
        node.features.remove("gangway-c1");
        assert_eq!(told(&strict(), &host, std::slice::from_ref(&node)), None);
        host.taints = vec![managed(), unavailable()];
        assert_eq!(told(&strict(), &host, &[node]), Some(vec![]));
        host.deleting = true;
        assert_eq!(told(&strict(), &host, &[]), None, "it goes anyway");
        // The second node of one name in Slurm.
        let (first, node) = pair(&[], "");
        let mut second = Host { name: "n2".into(), ..first.clone() };
        second.labels.insert(names::SLURM_NODE_LABEL.into(), "n1".into());
        second.taints = vec![managed()];
        let plan = decide(&strict(), &[second, first], &[node], 0);
        let by_name: Vec<_> = plan.taints.iter().map(|t| (t.host.as_str(), &*t.taints)).collect();
        assert_eq!(by_name, [("n2", &[][..]), ("n1", &[managed()][..])]);
    }
}
