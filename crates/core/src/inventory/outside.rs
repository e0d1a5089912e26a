//! What pods take of a host with a slurmd although they did not come through Slurm: jobs of ours hold as much of it, so
//! that Slurm does not give it out a second time.
//!
//! A running job cannot be made larger, so each pod with devices has a job of its own, and what all others take is held
//! by one more, which is replaced when that changes. What a job holds is written in its `admin_comment`, where only
//! SlurmUser writes: jobs without it are never ended here. Slurm is told how many devices, and chooses which by itself:
//! this room must not be taken for one that knows a device plugin's choice.

use std::collections::{BTreeMap, BTreeSet};

use super::{Host, Rules, SlurmNode, differ, fence};
use crate::job::{Job, Standing};

/// How every `admin_comment` of such a job begins.
pub(super) const PREFIX: &str = "gangway-outside/";
/// Memory of all pods without devices is held in steps of so many MiB, so that one of a few MiB changes nothing.
const MEMORY_STEP: u64 = 256;

/// Where the holding jobs go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Whether there are any.
    pub on: bool,
    /// Partition; `None` is the first that the pool names, or that the node is in.
    pub partition: Option<String>,
    /// Account; `None` leaves it to Slurm.
    pub account: Option<String>,
}

/// What a pod takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory: u64,
    /// Other resources by Kubernetes' names.
    pub other: BTreeMap<String, u64>,
}

/// A part of a node that a job is to hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    /// Slurm's name of the node.
    pub node: String,
    /// CPUs.
    pub cpus: u32,
    /// MiB.
    pub memory_mib: u64,
    /// `gres/efa:8,gres/gpu:2`; empty for none.
    pub tres: String,
    /// Partition.
    pub partition: String,
    /// Account.
    pub account: Option<String>,
    /// Somebody has shut the node in Slurm and may wait for it to be empty: a job that runs there gives way to one that
    /// waits, which is the first to start when the node is open again.
    pub gives_way: bool,
    /// What the job is known by: whose it is, for which pod, and how much it holds.
    pub key: String,
}

/// What to do so that exactly what pods take is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settling {
    /// Jobs that hold what nobody takes any more, or somebody else holds already. To be ended first.
    pub release: Vec<Job>,
    /// What is to be held.
    pub take: Vec<Hold>,
}

impl Settling {
    /// Everything is as it should be.
    pub fn is_nothing(&self) -> bool {
        self.release.is_empty() && self.take.is_empty()
    }
}

/// What is to be held on all hosts.
pub fn holds(rules: &Rules, hosts: &[Host], nodes: &[SlurmNode]) -> Vec<Hold> {
    if !rules.holding.on {
        return Vec::new();
    }
    let by_name: BTreeMap<&str, &SlurmNode> =
        nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut out = Vec::new();
    for host in hosts.iter().filter(|host| !host.guests.is_empty()) {
        let Some(pool) = rules.pool(host).filter(|pool| pool.hybrid) else { continue };
        let node = by_name.get(host.slurm_name()).filter(|node| !node.external());
        let Some(node) = node else { continue };
        let own = rules.holding.partition.as_ref();
        let named = own.or_else(|| pool.partitions.first());
        let Some(partition) = named.or_else(|| node.partitions.first()) else { continue };
        let here = Here { rules, node, partition };
        let mut rest = Guest::default();
        for (uid, guest) in &host.guests {
            let devices = here.devices(guest);
            if devices.is_empty() {
                rest.cpu_milli += guest.cpu_milli;
                rest.memory += guest.memory;
            } else {
                out.push(here.hold(uid, guest, &devices, 1));
            }
        }
        if rest != Guest::default() {
            out.push(here.hold("others", &rest, &BTreeMap::new(), MEMORY_STEP));
        }
    }
    out
}

/// Jobs of ours that hold, or wait to hold, something.
pub fn held(rules: &Rules, jobs: &[Job]) -> Vec<Job> {
    let own = format!("{PREFIX}{}/", rules.cluster);
    let ours = |job: &&Job| {
        job.external && job.admin_comment.starts_with(&own) && job.standing() != Standing::Over
    };
    let mut held: Vec<Job> = jobs.iter().filter(ours).cloned().collect();
    held.sort_by_key(|job| job.id);
    held
}

/// Compares what is to be held with what is, by [`held`].
pub fn settle(wanted: &[Hold], held: &[Job]) -> Settling {
    let mut open: BTreeMap<&str, &Hold> =
        wanted.iter().map(|hold| (hold.key.as_str(), hold)).collect();
    let mut surplus = |job: &&Job| {
        let key = job.admin_comment.as_str();
        let gives_way = open.get(key).is_some_and(|hold| hold.gives_way);
        // Of two for the same, the first stays.
        (gives_way && job.standing() == Standing::Holding) || open.remove(key).is_none()
    };
    let release = held.iter().filter(&mut surplus).cloned().collect();
    let missing: BTreeSet<&Hold> = open.into_values().collect();
    Settling { release, take: missing.into_iter().cloned().collect() }
}

struct Here<'a> {
    rules: &'a Rules,
    node: &'a SlurmNode,
    partition: &'a str,
}

impl Here<'_> {
    /// Devices by GRES name and type, as many as Slurm has of them on the node: it takes no job that asks for more.
    fn devices(&self, guest: &Guest) -> BTreeMap<String, u64> {
        let there = differ::counts(&self.node.gres);
        let mut out: BTreeMap<String, u64> = BTreeMap::new();
        for (resource, n) in &guest.other {
            let Some((name, kind)) = self.rules.resources.find(resource) else { continue };
            let of_kind = |own: &str| match &kind {
                Some(kind) => own == format!("{name}:{kind}"),
                None => own == name || own.starts_with(&format!("{name}:")),
            };
            let most: u64 = there.iter().filter(|(own, _)| of_kind(own)).map(|(_, n)| n).sum();
            let label = kind.as_ref().map_or_else(|| name.clone(), |kind| format!("{name}:{kind}"));
            let sum = out.entry(label).or_default();
            *sum = (*sum + n).min(most);
        }
        out.retain(|_, n| *n > 0);
        out
    }

    fn hold(&self, whose: &str, guest: &Guest, devices: &BTreeMap<String, u64>, step: u64) -> Hold {
        let cpus = u32::try_from(guest.cpu_milli.div_ceil(1000)).unwrap_or(u32::MAX);
        let cpus = cpus.clamp(1, self.node.cpus.max(1));
        let memory = guest.memory.div_ceil(1 << 20).div_ceil(step) * step;
        let memory_mib = memory.clamp(1, self.node.memory_mib.max(1));
        let tres = devices.iter().map(|(name, n)| format!("gres/{name}:{n}"));
        let tres = tres.collect::<Vec<_>>().join(",");
        let (cluster, node) = (&self.rules.cluster, &self.node.name);
        let key = format!("{PREFIX}{cluster}/{node}/{whose}/cpu={cpus},mem={memory_mib}M,{tres}");
        let account = self.rules.holding.account.clone();
        let (node, partition) = (node.clone(), self.partition.to_owned());
        let gives_way = fence::is_theirs(self.rules, self.node);
        Hold { node, cpus, memory_mib, tres, partition, account, gives_way, key }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, registered, rules};
    use super::super::wanted;
    use super::*;
    use crate::job::{BaseState, JobId};

    /// A host with a slurmd, and it in Slurm.
    fn hybrid() -> (Rules, Host, SlurmNode) {
        let mut rules = rules();
        rules.pools[0].hybrid = true;
        rules.holding.on = true;
        let host = host("n1");
        let mut node = registered(&wanted::wanted(&rules, &rules.pools[0], &host));
        node.state.remove("EXTERNAL");
        (rules, host, node)
    }

    fn guest(cpu_milli: u64, mib: u64, gpus: u64) -> Guest {
        let gpu = ("nvidia.com/gpu".to_owned(), gpus);
        let pods = ("example.com/unknown".to_owned(), 3);
        let other = [gpu, pods].into_iter().filter(|(_, n)| *n > 0).collect();
        Guest { cpu_milli, memory: mib << 20, other }
    }

    fn job(id: u32, key: &str) -> Job {
        let mut job = Job { id: JobId(id), admin_comment: key.to_owned(), ..Job::default() };
        (job.external, job.state.base) = (true, BaseState::Running);
        job
    }

    #[test]
    fn each_pod_with_devices_is_held_by_itself_and_all_others_together() {
        let (rules, mut host, node) = hybrid();
        host.guests.insert("a".into(), guest(500, 100, 2));
        host.guests.insert("b".into(), guest(100, 10, 0));
        host.guests.insert("c".into(), guest(1100, 250, 0));
        // More than Slurm has of anything.
        host.guests.insert("d".into(), guest(9_999_000, 9_999_999, 99));
        let held = holds(&rules, &[host.clone()], std::slice::from_ref(&node));
        let told: Vec<_> = held.iter().map(|h| (h.cpus, h.memory_mib, h.tres.as_str())).collect();
        let want = [(1, 100, "gres/gpu:2"), (190, 2_048_000, "gres/gpu:8"), (2, 512, "")];
        assert_eq!(told, want);
        assert_eq!(held[0].key, "gangway-outside/c1/n1/a/cpu=1,mem=100M,gres/gpu:2");
        assert!(held.iter().all(|hold| hold.partition == "gpu" && hold.node == "n1"));
        // Not where nothing is said of it, where no slurmd is, or nobody is there.
        let off = Rules { holding: Holding::default(), ..rules.clone() };
        assert_eq!(holds(&off, &[host.clone()], std::slice::from_ref(&node)), []);
        assert_eq!(holds(&rules, &[host.clone()], &[]), []);
        let mut external = node.clone();
        external.state.insert("EXTERNAL".into());
        assert_eq!(holds(&rules, &[host.clone()], &[external]), []);
        host.guests = BTreeMap::from([("e".to_owned(), Guest::default())]);
        assert_eq!(holds(&rules, &[host], &[node]), [], "it takes nothing");
    }

    #[test]
    fn what_is_held_is_what_is_taken_and_nothing_of_others_is_ended() {
        let (rules, mut host, node) = hybrid();
        host.guests.insert("a".into(), guest(500, 100, 2));
        host.guests.insert("b".into(), guest(100, 10, 0));
        let nodes = [node];
        let wanted = holds(&rules, std::slice::from_ref(&host), &nodes);
        let none = settle(&wanted, &[]);
        assert_eq!((none.take.len(), none.release.len()), (2, 0));
        let mut jobs: Vec<Job> = (1..).zip(&wanted).map(|(id, h)| job(id, &h.key)).collect();
        let mut theirs = job(9, "gangway-outside/c1/n1/z");
        theirs.external = false;
        jobs.extend([theirs, job(8, "gangway-outside/c2/n1/z"), job(7, "c1/uid/1/x")]);
        let mut over = job(6, "gangway-outside/c1/n1/z");
        over.state.base = BaseState::Cancelled;
        jobs.push(over);
        assert!(settle(&wanted, &held(&rules, &jobs)).is_nothing());
        // Taken twice by two that were in doubt: the later one goes.
        jobs.push(job(10, &wanted[0].key));
        let twice = settle(&wanted, &held(&rules, &jobs));
        assert_eq!(twice.release.iter().map(|job| job.id.0).collect::<Vec<_>>(), [10]);
        jobs.pop();
        // The rest has grown: another job for it, and the old one goes.
        host.guests.insert("c".into(), guest(2000, 10, 0));
        let more = holds(&rules, std::slice::from_ref(&host), &nodes);
        let grown = settle(&more, &held(&rules, &jobs));
        assert_eq!(grown.release.iter().map(|job| job.id.0).collect::<Vec<_>>(), [2]);
        assert_eq!(grown.take.iter().map(|hold| hold.cpus).collect::<Vec<_>>(), [3]);
        // Who has drained the node waits for it to be empty: what runs gives way to what waits.
        let mut drained = nodes.to_vec();
        drained[0].state.insert("DRAIN".into());
        let wanted = holds(&rules, std::slice::from_ref(&host), &drained);
        let mut jobs: Vec<Job> = (1..).zip(&wanted).map(|(id, h)| job(id, &h.key)).collect();
        let way = settle(&wanted, &held(&rules, &jobs));
        assert_eq!((way.take.len(), way.release.len()), (2, 2));
        jobs.iter_mut().for_each(|job| job.state.base = BaseState::Pending);
        assert!(settle(&wanted, &held(&rules, &jobs)).is_nothing());
        let gone = settle(&[], &held(&rules, &jobs));
        assert_eq!((gone.take.len(), gone.release.len()), (0, 2));
    }
}
