//! Who holds which device, and for how long: for metrics and for people who ask what their GPUs do.
//!
//! Counts what was granted; it must never guess a holder that Slurm has not named.

use std::collections::{BTreeMap, BTreeSet};

use super::SlurmNode;
use super::differ::counts;
use super::outside::PREFIX;
use crate::job::{Allocation, Job, JobId};
use crate::placeholder::Stamp;

/// What a node is to whoever counts nodes: every word there is, in the order in which they go before each other.
pub const NODE_STATES: [&str; 10] = [
    "down",
    "powered_down",
    "draining",
    "drained",
    "reserved",
    "allocated",
    "mixed",
    "idle",
    "unknown",
    "other",
];

/// What a device is to whoever counts devices.
pub const DEVICE_STANDINGS: [&str; 5] = ["pod", "sbatch", "outside", "idle", "unavailable"];

/// What kind of job holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// A placeholder: pods of a gang.
    Pod,
    /// A job of sbatch, srun or salloc.
    Sbatch,
    /// A job of ours for pods that no bridge places.
    Outside,
}

impl Holder {
    /// What a job is.
    pub fn of(job: &Job) -> Self {
        if !job.external {
            Self::Sbatch
        } else if job.admin_comment.starts_with(PREFIX) {
            Self::Outside
        } else {
            Self::Pod
        }
    }

    /// Its word, as metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Sbatch => "sbatch",
            Self::Outside => "outside",
        }
    }
}

/// A device of a node and the job that holds it; or several that Slurm only counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Slurm's name of the node.
    pub node: String,
    /// GRES name: `gpu`, `efa` …
    pub resource: String,
    /// GRES type; empty where the node declares none.
    pub kind: String,
    /// Which one, where Slurm says so.
    pub index: Option<u32>,
    /// How many: 1, or more where they are only counted.
    pub count: u64,
    /// The job.
    pub job: JobId,
    /// What kind of job it is.
    pub holder: Holder,
    /// Whose account it is on.
    pub account: String,
    /// Its owner.
    pub user: String,
    /// Where it runs.
    pub partition: String,
    /// The gang that it stands for; empty for none.
    pub gang: String,
}

/// Every device that these jobs hold, in one order.
pub fn devices_held<'a>(jobs: impl IntoIterator<Item = (&'a Job, &'a Allocation)>) -> Vec<Held> {
    let mut out = Vec::new();
    for (job, granted) in jobs {
        let gang = Stamp::of(job).map(|stamp| stamp.gang).unwrap_or_default();
        for node in &granted.nodes {
            for gres in node.gres.iter().filter(|gres| gres.count > 0) {
                let held = |index, count| Held {
                    node: node.name.clone(),
                    resource: gres.name.clone(),
                    kind: gres.kind.clone(),
                    index,
                    count,
                    job: job.id,
                    holder: Holder::of(job),
                    account: job.account.clone(),
                    user: job.user.clone(),
                    partition: job.partition.clone(),
                    gang: gang.clone(),
                };
                if gres.indexes.is_empty() {
                    out.push(held(None, u64::from(gres.count)));
                }
                out.extend(gres.indexes.iter().map(|index| held(Some(*index), 1)));
            }
        }
    }
    out.sort();
    out
}

/// How many nodes and devices there are, by what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Nodes by state; every one of [`NODE_STATES`] is there.
    pub nodes: BTreeMap<&'static str, u64>,
    /// Devices by GRES name, type and standing; of each name and type every one of [`DEVICE_STANDINGS`] is there.
    pub devices: BTreeMap<(String, String), BTreeMap<&'static str, u64>>,
}

/// Counts nodes and devices. What nobody holds is idle, or unavailable where its node takes no job.
pub fn census(nodes: &[SlurmNode], held: &[Held]) -> Census {
    let mut out = Census::default();
    out.nodes.extend(NODE_STATES.map(|state| (state, 0)));
    // By node, GRES name and type; a grant may leave the type out.
    let mut taken: BTreeMap<(&str, &str), BTreeMap<&str, u64>> = BTreeMap::new();
    for one in held {
        let on = taken.entry((&one.node, &one.resource)).or_default();
        *on.entry(&one.kind).or_default() += one.count;
        let standings = standings(&mut out, &one.resource, &one.kind);
        *standings.entry(one.holder.name()).or_default() += one.count;
    }
    for node in nodes {
        let state = node_state(&node.state);
        *out.nodes.entry(state).or_default() += 1;
        let free =
            if matches!(state, "idle" | "mixed" | "allocated") { "idle" } else { "unavailable" };
        for (label, there) in counts(&node.gres) {
            let (name, kind) = label.split_once(':').unwrap_or((&label, ""));
            let on = taken.get(&(node.name.as_str(), name));
            let of = |kind| on.and_then(|on| on.get(kind)).copied().unwrap_or(0);
            let left = there.saturating_sub(of(kind));
            *standings(&mut out, name, kind).entry(free).or_default() += left;
        }
    }
    out
}

fn standings<'a>(
    out: &'a mut Census,
    name: &str,
    kind: &str,
) -> &'a mut BTreeMap<&'static str, u64> {
    let none = || DEVICE_STANDINGS.map(|standing| (standing, 0)).into();
    out.devices.entry((name.to_owned(), kind.to_owned())).or_insert_with(none)
}

/// What a node is, by Slurm's words for it.
fn node_state(words: &BTreeSet<String>) -> &'static str {
    let is = |word: &str| words.contains(word);
    let busy = is("ALLOCATED") || is("MIXED") || is("COMPLETING");
    if is("DOWN") || is("ERROR") || is("NOT_RESPONDING") || is("FAIL") {
        "down"
    } else if is("POWERED_DOWN") || is("POWERING_DOWN") {
        "powered_down"
    } else if is("DRAIN") && busy {
        "draining"
    } else if is("DRAIN") {
        "drained"
    } else if (is("RESERVED") || is("MAINTENANCE")) && !busy {
        "reserved"
    } else if is("ALLOCATED") {
        "allocated"
    } else if is("MIXED") || is("COMPLETING") {
        "mixed"
    } else if is("IDLE") {
        "idle"
    } else if is("UNKNOWN") || words.is_empty() {
        "unknown"
    } else {
        "other"
    }
}

/// Seconds of devices.
pub type Spent = BTreeMap<(String, String, Holder), u64>;

/// Device-seconds by GRES name, account and holder that these jobs have taken after `since` and up to `until` (seconds
/// of Slurm's clock): of those that have ended, up to their end.
pub fn spent<'a>(
    jobs: impl IntoIterator<Item = (&'a Job, &'a Allocation)>,
    since: i64,
    until: i64,
) -> Spent {
    let mut out = Spent::new();
    for (job, granted) in jobs {
        let over = job.standing() == crate::job::Standing::Over;
        let end = if over { job.end_time.min(until) } else { until };
        let Ok(seconds @ 1..) = u64::try_from(end - since.max(job.start_time)) else { continue };
        for gres in granted.nodes.iter().flat_map(|node| &node.gres) {
            let key = (gres.name.clone(), job.account.clone(), Holder::of(job));
            *out.entry(key).or_default() += u64::from(gres.count) * seconds;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{BaseState, GresAllocation, NodeAllocation};

    fn gres(name: &str, kind: &str, indexes: &[u32], count: u32) -> GresAllocation {
        let (name, kind, indexes) = (name.to_owned(), kind.to_owned(), indexes.to_vec());
        GresAllocation { name, kind, count, indexes }
    }

    fn on(node: &str, gres: Vec<GresAllocation>) -> Allocation {
        Allocation {
            nodes: vec![NodeAllocation {
                name: node.to_owned(),
                gres,
                ..NodeAllocation::default()
            }],
        }
    }

    fn job(id: u32, comment: &str, external: bool) -> Job {
        let mut job = Job { id: JobId(id), account: "team1".into(), external, ..Job::default() };
        job.admin_comment = comment.to_owned();
        job.state.base = BaseState::Running;
        (job.start_time, job.end_time) = (100, 900);
        job
    }

    fn node(name: &str, state: &[&str]) -> SlurmNode {
        let state = state.iter().map(|&word| word.to_owned()).collect();
        let gres = "gpu:h100:8(S:0-1),efa:32".to_owned();
        SlurmNode { name: name.to_owned(), state, gres, ..SlurmNode::default() }
    }

    #[test]
    fn each_device_has_its_job_and_what_is_counted_only_has_one_entry() {
        let stamp =
            Stamp { cluster: "c".into(), gang: "g-1".into(), generation: 1, pods: 7, part: None };
        let job = job(7, &stamp.to_text(), true);
        let granted = on(
            "n1",
            vec![
                gres("gpu", "h100", &[0, 5], 2),
                gres("efa", "", &[], 16),
                gres("npu", "", &[], 0),
            ],
        );
        let held = devices_held([(&job, &granted)]);
        let told: Vec<_> = held.iter().map(|h| (h.resource.as_str(), h.index, h.count)).collect();
        assert_eq!(told, [("efa", None, 16), ("gpu", Some(0), 1), ("gpu", Some(5), 1)]);
        assert!(held.iter().all(|h| h.gang == "g-1" && h.holder == Holder::Pod && h.node == "n1"));
    }

    #[test]
    fn what_nobody_holds_is_idle_or_of_no_use_and_the_sum_is_what_there_is() {
        let jobs = [job(1, "", true), job(2, "", false), job(3, &format!("{PREFIX}c/n2/x"), true)];
        let grants = [
            on("n1", vec![gres("gpu", "h100", &[0, 1], 2), gres("efa", "", &[], 8)]),
            on("n1", vec![gres("gpu", "h100", &[2, 3, 4], 3)]),
            on("n2", vec![gres("gpu", "h100", &[7], 1)]),
        ];
        let held = devices_held(jobs.iter().zip(&grants));
        let nodes = [
            node("n1", &["MIXED", "EXTERNAL"]),
            node("n2", &["IDLE", "DRAIN"]),
            node("n3", &["IDLE"]),
        ];
        let census = census(&nodes, &held);
        let gpus = &census.devices[&("gpu".to_owned(), "h100".to_owned())];
        let want = [("idle", 3 + 8), ("outside", 1), ("pod", 2), ("sbatch", 3), ("unavailable", 7)];
        assert_eq!(*gpus, BTreeMap::from(want));
        assert_eq!(gpus.values().sum::<u64>(), 24);
        let efa = &census.devices[&("efa".to_owned(), String::new())];
        assert_eq!((efa["pod"], efa["idle"], efa["unavailable"]), (8, 56, 32));
        let there: Vec<_> = census.nodes.into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(there, [("drained", 1), ("idle", 1), ("mixed", 1)]);
    }

    #[test]
    fn every_node_has_one_state_and_a_word_of_tomorrow_is_other() {
        for (words, want) in [
            (&["DOWN", "DRAIN"][..], "down"),
            (&["IDLE", "POWERED_DOWN"], "powered_down"),
            (&["ALLOCATED", "DRAIN"], "draining"),
            (&["IDLE", "RESERVED"], "reserved"),
            (&["MIXED", "RESERVED"], "mixed"),
            (&["ALLOCATED", "COMPLETING"], "allocated"),
            (&["SPARKLING"], "other"),
            (&[], "unknown"),
        ] {
            let words: BTreeSet<String> = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(node_state(&words), want, "{words:?}");
            assert!(NODE_STATES.contains(&want));
        }
    }

    #[test]
    fn seconds_are_counted_once_from_the_start_to_the_end() {
        let running = job(1, "", true);
        let mut ended = job(2, "", false);
        ended.state.base = BaseState::Completed;
        ended.end_time = 130;
        let granted = on("n1", vec![gres("gpu", "h100", &[0, 1], 2)]);
        let both = [(&running, &granted), (&ended, &granted)];
        let sum = |since, until| -> u64 { spent(both, since, until).values().sum() };
        // From the start of each, however long before it we looked.
        assert_eq!(
            spent(both, 0, 160).into_iter().map(|(key, n)| (key.2, n)).collect::<Vec<_>>(),
            [(Holder::Pod, 120), (Holder::Sbatch, 60)]
        );
        assert_eq!(sum(0, 110) + sum(110, 140) + sum(140, 160), sum(0, 160), "in pieces as in one");
        assert_eq!(sum(160, 160) + sum(170, 160) + sum(0, 90), 0);
    }
}
