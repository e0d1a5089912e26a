//! Whatever both sides look like: the plans lead to where nothing is left to do, and on the way nothing is touched that
//! is not ours or in use.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{host, registered, rules};
use super::*;

/// How one node begins on each side.
#[derive(Clone, Debug)]
struct Start {
    there: bool,
    ready: bool,
    cordoned: bool,
    pool: bool,
    gpus: u32,
    /// In Slurm: nothing, ours, ours but of 8 GPUs whatever there is now, somebody else's.
    slurm: u8,
    busy: bool,
    /// Drained by: nobody, us, an administrator.
    drained: u8,
}

fn start() -> impl Strategy<Value = Start> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (flags, 7_u32..9, 0_u8..4, any::<bool>(), 0_u8..3).prop_map(
        |((there, ready, cordoned, pool), gpus, slurm, busy, drained)| Start {
            there,
            ready,
            cordoned,
            pool,
            gpus,
            slurm,
            busy,
            drained,
        },
    )
}

fn begin(name: &str, start: &Start) -> (Option<Host>, Option<SlurmNode>) {
    let mut of = host(name);
    of.unschedulable = start.cordoned;
    of.unready_since = (!start.ready).then_some(0);
    of.allocatable.insert("nvidia.com/gpu".into(), start.gpus.to_string());
    let mut full = of.clone();
    full.allocatable.insert("nvidia.com/gpu".into(), "8".into());
    let rules = rules();
    let like = if start.slurm == 2 { &full } else { &of };
    let mut node = registered(&wanted::wanted(&rules, &rules.pools[0], like));
    if start.slurm == 3 {
        node.features.remove(&rules.mark());
    }
    node.allocated_cpus = u32::from(start.busy);
    if start.drained > 0 {
        node.state.insert("DRAIN".into());
        let reasons = ["gangway/c1: cordoned in Kubernetes", "bad NIC"];
        reasons[usize::from(start.drained) - 1].clone_into(&mut node.reason);
    }
    if !start.pool {
        of.labels.remove("pool");
    }
    (start.there.then_some(of), (start.slurm > 0).then_some(node))
}

/// What Slurm does with a step. Jobs end on a node that goes down, and nowhere else.
fn carry(nodes: &mut BTreeMap<String, SlurmNode>, step: &Step) {
    if let Step::Register(wanted) = step {
        assert!(!nodes.contains_key(&wanted.name), "{} is there already", wanted.name);
        nodes.insert(wanted.name.clone(), registered(wanted));
        return;
    }
    let node = nodes.get_mut(step.node()).expect("steps are about nodes that are there");
    let ours = node.features.contains(&rules().mark());
    assert!(ours, "{step:?} touches what is not ours");
    match step {
        Step::Drain { reason, .. } => {
            node.state.insert("DRAIN".into());
            reason.clone_into(&mut node.reason);
        }
        Step::Down { reason, .. } => {
            node.state.insert("DOWN".into());
            node.allocated_cpus = 0;
            reason.clone_into(&mut node.reason);
        }
        Step::Resume { .. } => {
            assert!(node.reason.starts_with(&rules().signature()), "{step:?}: {}", node.reason);
            node.state.remove("DRAIN");
            node.state.remove("DOWN");
            node.reason.clear();
        }
        Step::Delete { node: name } => {
            assert!(node.allocated_cpus == 0, "{name} is in use");
            nodes.remove(name);
        }
        Step::Change { change, .. } => {
            if let Some(features) = &change.features {
                node.features = features.iter().cloned().collect();
            }
            node.weight = change.weight.unwrap_or(node.weight);
            node.topology = change.topology.clone().unwrap_or_else(|| node.topology.clone());
        }
        Step::Register(_) => {}
    }
}

proptest! {
    #[test]
    fn both_sides_come_to_agree(starts in prop::collection::vec(start(), 1..6)) {
        let rules = rules();
        let mut hosts = Vec::new();
        let mut nodes = BTreeMap::new();
        for (place, start) in starts.iter().enumerate() {
            let (host, node) = begin(&format!("n{place}"), start);
            hosts.extend(host);
            nodes.extend(node.map(|node| (node.name.clone(), node)));
        }
        let foreign: Vec<SlurmNode> =
            nodes.values().filter(|n| !n.features.contains(&rules.mark())).cloned().collect();
        // Long enough after the beginning for whoever is not ready to be down.
        let look = |hosts: &[Host], nodes: &BTreeMap<String, SlurmNode>| {
            decide(&rules, hosts, &nodes.values().cloned().collect::<Vec<_>>(), 1_000_000)
        };
        for round in 0.. {
            let plan = look(&hosts, &nodes);
            for news in &plan.news {
                let host = hosts.iter_mut().find(|host| host.name == news.host);
                host.expect("news are of nodes that are there").told = Some(news.told.clone());
            }
            if plan.steps.is_empty() {
                break;
            }
            prop_assert!(round < 8, "no end: {:?}", plan.steps);
            plan.steps.iter().for_each(|step| carry(&mut nodes, step));
        }
        prop_assert_eq!(look(&hosts, &nodes), Plan { strangers: look(&hosts, &nodes).strangers, ..Plan::default() });
        for host in &hosts {
            let open = host.unready_since.is_none() && !host.unschedulable;
            let node = nodes.get(&host.name);
            let own = node.filter(|node| node.features.contains(&rules.mark()));
            match (rules.pool(host), own) {
                (Some(_), None) => prop_assert!(!open || node.is_some(), "{} is missing", host.name),
                (None, Some(node)) => prop_assert!(node.busy(), "{} should have left", node.name),
                (Some(_), Some(node)) if open && node.reason != "bad NIC" => {
                    let shut = node.is("DRAIN") || node.is("DOWN");
                    prop_assert!(!shut || node.busy(), "{} stays shut: {}", node.name, node.reason);
                }
                (Some(_), Some(node)) => {
                    prop_assert!(open || node.is("DRAIN") || node.is("DOWN"), "{} is open", node.name);
                }
                (None, None) => {}
            }
        }
        for before in foreign {
            prop_assert_eq!(nodes.get(&before.name), Some(&before));
        }
    }
}
