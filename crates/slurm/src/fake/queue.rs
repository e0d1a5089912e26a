//! The fake's queue: what may start where, who is preempted, and how jobs end.
//!
//! Strictly in order: what waits for nodes keeps everybody behind it waiting. That is less than
//! backfill can do, and never more.

use std::collections::{BTreeMap, BTreeSet};

use super::job::{Granted, Gres, GresAsked, Job, Shape};
use super::{Fake, Node};

/// What is taken on one node.
#[derive(Default)]
struct Taken {
    cpus: u32,
    memory_mib: u64,
    gres: BTreeMap<String, BTreeSet<u32>>,
}

/// Whether a job fits, and where.
pub(super) enum Fit {
    Now(Vec<Granted>),
    Later,
    /// On no set of nodes, also if all were free and up.
    Never,
}

impl Fake {
    /// Puts a job into the queue; its id, or the one chosen for it.
    pub(super) fn enqueue(&mut self, job: Job, id: Option<u32>) -> u32 {
        let id = self.admit(job, id);
        self.changed(id);
        self.stir();
        id
    }

    /// Starts a job at once where nobody waits before it and it fits; else it leaves a FAILED record.
    pub(super) fn start_at_once(&mut self, job: Job) -> Option<u32> {
        let waited = self.jobs.values().any(|other| other.is_pending() && other.reason != "Held");
        let fit = if waited { Fit::Later } else { self.fit(&job, &self.taken(|_| true)) };
        let id = self.admit(job, None);
        let now = self.now_ms;
        let job = self.jobs.get_mut(&id)?;
        let Fit::Now(granted) = fit else {
            (job.state, job.reason, job.ended_ms) = ("FAILED", "BadConstraints", now);
            self.changed(id);
            return None;
        };
        (job.state, job.granted, job.started_ms) = ("RUNNING", granted, now);
        self.changed(id);
        Some(id)
    }

    fn admit(&mut self, job: Job, id: Option<u32>) -> u32 {
        let id = id.unwrap_or_else(|| {
            while self.jobs.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        });
        self.submissions += 1;
        self.submitted += 1;
        let sluid = format!("s{:012}00", self.submissions);
        let job = Job { id, sluid, state: "PENDING", submitted_ms: self.now_ms, ..job };
        self.jobs.insert(id, job);
        id
    }

    /// Whether any nodes of the partition could ever hold this job.
    pub(super) fn fits_ever(&self, job: &Job) -> bool {
        !matches!(self.fit(job, &BTreeMap::new()), Fit::Never)
    }

    /// Looks at the queue, highest tier first, then in order.
    pub(super) fn start_what_fits(&mut self) {
        let tier = |job: &Job| self.tier(&job.partition);
        let waits = |job: &&Job| job.is_pending();
        let mut queue: Vec<(u32, i64, u32)> = self
            .jobs
            .values()
            .filter(waits)
            .map(|job| (u32::MAX - tier(job), job.submitted_ms, job.id))
            .collect();
        queue.sort_unstable();
        let mut blocked = false;
        for (_, _, id) in queue {
            let Some(job) = self.jobs.get(&id).cloned() else { continue };
            let reason = match self.fit(&job, &self.taken(|_| true)) {
                Fit::Now(granted) if !blocked => {
                    self.start(id, granted);
                    continue;
                }
                Fit::Never => "BadConstraints",
                _ if blocked => "Priority",
                _ if self.preempt_for(&job) => continue,
                _ => {
                    blocked = true;
                    "Resources"
                }
            };
            if job.reason != reason
                && let Some(job) = self.jobs.get_mut(&id)
            {
                job.reason = reason;
                self.changed(id);
            }
        }
    }

    /// Ends jobs of lower tiers where that makes room, and starts the job.
    fn preempt_for(&mut self, job: &Job) -> bool {
        let tier = self.tier(&job.partition);
        let stays = |other: &Job| self.tier(&other.partition) >= tier;
        let Fit::Now(granted) = self.fit(job, &self.taken(stays)) else { return false };
        let nodes: BTreeSet<&str> = granted.iter().map(|g| g.node.as_str()).collect();
        let goes = |other: &&Job| {
            other.is_running() && !stays(other) && other.nodes().any(|node| nodes.contains(node))
        };
        let victims: Vec<u32> = self.jobs.values().filter(goes).map(|other| other.id).collect();
        for victim in victims {
            self.end(victim, "PREEMPTED", "");
        }
        self.start(job.id, granted);
        true
    }

    fn start(&mut self, id: u32, granted: Vec<Granted>) {
        let now = self.now_ms;
        if let Some(job) = self.jobs.get_mut(&id) {
            (job.state, job.reason, job.granted, job.started_ms) = ("RUNNING", "", granted, now);
            self.changed(id);
        }
    }

    /// Ends a job. What it held is free at once, and nobody looks who could have it.
    pub(super) fn end(&mut self, id: u32, state: &'static str, reason: &'static str) {
        let now = self.now_ms;
        if let Some(job) = self.jobs.get_mut(&id) {
            (job.state, job.reason, job.ended_ms) = (state, reason, now);
            self.changed(id);
        }
    }

    pub(super) fn end_what_is_due(&mut self) {
        let now = self.now_ms;
        let due = |from: Option<i64>, job: &Job| from.is_some_and(|ms| now >= job.started_ms + ms);
        let running = || self.jobs.values().filter(|job| job.is_running());
        let done: Vec<u32> = running().filter(|j| due(j.runs_ms, j)).map(|j| j.id).collect();
        let late: Vec<u32> = running().filter(|j| due(j.limit_ms, j)).map(|j| j.id).collect();
        for id in done {
            // Its own jobs' ends are what slurmctld is stirred by.
            self.end(id, "COMPLETED", "");
            self.stir();
        }
        for id in late {
            if self.jobs.get(&id).is_some_and(Job::is_running) {
                self.end(id, "TIMEOUT", "TimeLimit");
            }
        }
    }

    fn tier(&self, partition: &str) -> u32 {
        self.setup.partitions.iter().find(|p| p.name == partition).map_or(0, |p| p.tier)
    }

    fn taken(&self, counts: impl Fn(&Job) -> bool) -> BTreeMap<&str, Taken> {
        let mut taken: BTreeMap<&str, Taken> = BTreeMap::new();
        for job in self.jobs.values().filter(|job| job.is_running() && counts(job)) {
            for granted in &job.granted {
                let node = taken.entry(&granted.node).or_default();
                node.cpus += job.shape.cpus();
                node.memory_mib += job.shape.memory_mib;
                for gres in &granted.gres {
                    node.gres.entry(gres.name.clone()).or_default().extend(&gres.indexes);
                }
            }
        }
        taken
    }

    fn fit(&self, job: &Job, taken: &BTreeMap<&str, Taken>) -> Fit {
        let nothing = Taken::default();
        let members = || {
            let of_partition = self.nodes.iter().filter(|(_, node)| !node.dynamic);
            of_partition.filter(|(name, _)| !job.excluded.contains(*name))
        };
        let wanted = job.shape.nodes as usize;
        let free =
            members().filter(|(_, node)| !node.down && !node.drain).filter_map(|(name, node)| {
                let gres = room(node, taken.get(name.as_str()).unwrap_or(&nothing), &job.shape)?;
                Some(Granted { node: name.clone(), gres })
            });
        let granted: Vec<Granted> = free.take(wanted).collect();
        if granted.len() == wanted {
            return Fit::Now(granted);
        }
        let ever = members().filter(|(_, node)| room(node, &nothing, &job.shape).is_some());
        if ever.count() >= wanted { Fit::Later } else { Fit::Never }
    }
}

/// The devices a job would get on a node, if it has room for it.
fn room(node: &Node, taken: &Taken, shape: &Shape) -> Option<Vec<Gres>> {
    if taken.cpus + shape.cpus() > node.cpus
        || taken.memory_mib + shape.memory_mib > node.memory_mib
    {
        return None;
    }
    let none = BTreeSet::new();
    let give = |(name, kind, count): &GresAsked| {
        let has =
            node.gres.iter().find(|g| g.name == *name && (kind.is_empty() || g.kind == *kind))?;
        let used = taken.gres.get(name).unwrap_or(&none);
        let free = (0..has.count).filter(|index| !used.contains(index));
        let indexes: BTreeSet<u32> = free.take(*count as usize).collect();
        let enough = indexes.len() == *count as usize;
        enough.then(|| Gres { count: *count, indexes, ..has.clone() })
    };
    shape.gres.iter().filter(|(_, _, count)| *count > 0).map(give).collect()
}
