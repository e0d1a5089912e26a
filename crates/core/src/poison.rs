//! Poisoned nodes: EXTERNAL nodes that Slurm gives to nobody any more, because something it once sent to
//! their address was not answered, and how they are cured.
//!
//! Nothing heals such a node by itself: not RESUME, not a restart of slurmctld. What does (live-slurm.md,
//! a) is an answer: its address is set to the **sink**, a real slurmd that answers for every EXTERNAL node, and
//! a harmless signal is sent to a job on it. Only nodes that the configuration says are ours are touched, and
//! only our own placeholders are signalled, once each of their nodes is at an address that answers: sent
//! anywhere else, the signal would poison more nodes (rule 12).

use std::collections::{BTreeMap, BTreeSet};

use crate::hostlist::Hostlist;
use crate::job::JobId;

/// Whose EXTERNAL nodes are ours, and who answers for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// `NodeAddr` of the sink.
    pub address: String,
    /// The partitions whose EXTERNAL nodes are ours.
    pub partitions: Vec<String>,
}

/// A node of Slurm as far as a cure needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// Slurm's name of it.
    pub name: String,
    /// `NodeAddr`.
    pub address: String,
    /// Nobody runs a slurmd there: flag EXTERNAL.
    pub external: bool,
    /// Slurm believes that it does not answer: flag NOT_RESPONDING.
    pub silent: bool,
    /// Its partitions.
    pub partitions: Vec<String>,
}

/// One step of a cure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cure {
    /// Set the node's address to the sink's.
    Readdress {
        /// The node.
        node: String,
    },
    /// Send a signal that does nothing to a placeholder that runs on poisoned nodes; the answer cures them.
    Stir {
        /// The placeholder.
        job: JobId,
    },
}

impl Sink {
    fn answers_for(&self, node: &NodeSeen) -> bool {
        node.external && node.partitions.iter().any(|name| self.partitions.contains(name))
    }
}

/// Our nodes that are poisoned.
pub fn poisoned<'a>(sink: &Sink, nodes: &'a [NodeSeen]) -> impl Iterator<Item = &'a NodeSeen> {
    nodes.iter().filter(|node| node.silent && sink.answers_for(node))
}

/// What to do about poisoned nodes, in this order. `running` are our own placeholders that run, with the
/// hostlists of their nodes.
///
/// A poisoned node that no job is on gets the sink's address, so that what slurmctld sends to it next,
/// which it does of its own about once a minute while it has something to repeat, is answered. Where
/// slurmctld has begun anew since it has nothing to repeat, and only creating the node anew helps (tried
/// live).
pub fn cures(sink: &Sink, nodes: &[NodeSeen], running: &[(JobId, &str)]) -> Vec<Cure> {
    if poisoned(sink, nodes).next().is_none() {
        return Vec::new();
    }
    let ours = nodes.iter().filter(|n| sink.answers_for(n));
    let external: BTreeMap<&str, &NodeSeen> = ours.map(|n| (n.name.as_str(), n)).collect();
    let mut readdress: BTreeSet<&str> = BTreeSet::new();
    let mut stir = BTreeSet::new();
    let elsewhere = |n: &NodeSeen| n.address != sink.address;
    for (job, hosts) in running {
        let Ok(hosts) = Hostlist::parse(hosts).map(|list| list.names()) else { continue };
        let on: Vec<&NodeSeen> =
            hosts.iter().filter_map(|name| external.get(name.as_str()).copied()).collect();
        if !on.iter().any(|n| n.silent) {
            continue;
        }
        // A node of somebody else's, for which we may not answer: the signal would go there too.
        let strange = |n: &NodeSeen| n.external && !external.contains_key(n.name.as_str());
        if nodes.iter().any(|n| strange(n) && hosts.contains(&n.name)) {
            continue;
        }
        readdress.extend(on.iter().filter(|n| elsewhere(n)).map(|n| n.name.as_str()));
        stir.insert(*job);
    }
    readdress.extend(poisoned(sink, nodes).filter(|n| elsewhere(n)).map(|n| n.name.as_str()));
    let readdress = readdress.into_iter().map(|node| Cure::Readdress { node: node.to_owned() });
    readdress.chain(stir.into_iter().map(|job| Cure::Stir { job })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink() -> Sink {
        Sink { address: "10.0.0.9".to_owned(), partitions: vec!["gpu".to_owned()] }
    }

    fn node(name: &str, address: &str, silent: bool) -> NodeSeen {
        NodeSeen {
            name: name.to_owned(),
            address: address.to_owned(),
            external: true,
            silent,
            partitions: vec!["all".to_owned(), "gpu".to_owned()],
        }
    }

    fn readdress(node: &str) -> Cure {
        Cure::Readdress { node: node.to_owned() }
    }

    #[test]
    fn nothing_is_done_to_nodes_that_are_well() {
        let nodes = [node("n1", "dead", false), node("n2", "10.0.0.9", false)];
        assert_eq!(cures(&sink(), &nodes, &[(JobId(7), "n[1-2]")]), []);
    }

    #[test]
    fn a_placeholder_is_stirred_once_all_of_its_nodes_are_at_the_sink() {
        let nodes = [node("n1", "dead", true), node("n2", "dead", false), node("n3", "x", false)];
        let want = [readdress("n1"), readdress("n2"), Cure::Stir { job: JobId(7) }];
        assert_eq!(cures(&sink(), &nodes, &[(JobId(7), "n[1-2]"), (JobId(8), "n3")]), want);
        // At the sink already, which was away for a while.
        let nodes = [node("n1", "10.0.0.9", true), node("n2", "10.0.0.9", false)];
        let want = [Cure::Stir { job: JobId(7) }];
        assert_eq!(cures(&sink(), &nodes, &[(JobId(7), "n[1-2]")]), want);
    }

    #[test]
    fn a_node_without_a_placeholder_is_only_readdressed() {
        let nodes = [node("n1", "dead", true), node("n2", "10.0.0.9", true)];
        assert_eq!(cures(&sink(), &nodes, &[]), [readdress("n1")]);
    }

    #[test]
    fn nodes_that_are_not_ours_are_left_alone_and_nothing_is_sent_to_them() {
        let mut theirs = node("n1", "dead", true);
        theirs.partitions = vec!["other".to_owned()];
        let mut real = node("h1", "host", true);
        real.external = false;
        let nodes = [theirs, real.clone(), node("n2", "dead", true)];
        // A placeholder on ours and theirs cannot be stirred without sending to theirs.
        let both = [(JobId(7), "n[1-2]"), (JobId(8), "h1")];
        assert_eq!(cures(&sink(), &nodes, &both), [readdress("n2")]);
        // A real slurmd answers for itself.
        let want = [readdress("n2"), Cure::Stir { job: JobId(7) }];
        assert_eq!(cures(&sink(), &[real, node("n2", "dead", true)], &[(JobId(7), "n2,h1")]), want);
    }
}
