//! What has happened to gangs on both sides, and the rules that it must not have broken.
//!
//! [`History`] is data and its checks are pure: each gives a sentence for everything that was wrong, and
//! each has a test in which something is. `record` gathers a history from a world, `audit` reads what
//! the API server has written down of it, `grants` what slurmctld has.

mod audit;
mod grants;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use audit::{Audit, audit};
pub use grants::{Grant, grants};
pub use record::Recorder;

/// A point in time: the API server's own order of writes, and milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Resource version: exact among pods, whoever looks and whenever.
    pub order: u64,
    /// The clock of whoever saw it.
    pub ms: i64,
}

/// One pod's time on a node.
#[derive(Clone, Debug, Default)]
pub struct Stay {
    /// Namespace and name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Uid of its gang.
    pub gang: String,
    /// Of the placeholder it was bound for.
    pub generation: u32,
    /// The placeholder.
    pub job: u32,
    /// In its gang.
    pub rank: u32,
    /// The node.
    pub node: String,
    /// Its devices by kind.
    pub devices: BTreeMap<String, Vec<u32>>,
    /// When it came to the node.
    pub bound: Moment,
    /// When it was told to go.
    pub leaving: Option<Moment>,
    /// When it was gone from the API server, or had ended.
    pub gone: Option<Moment>,
    /// What changed about its place while it was there: nothing ever should.
    pub changed: Vec<String>,
}

/// One start of a job that holds nodes.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Its id, which may come again.
    pub job: u32,
    /// Slurm's own id of the submission, which does not.
    pub sluid: String,
    /// Uid of its gang; empty for a job that is nobody's placeholder.
    pub gang: String,
    /// Of the placeholder.
    pub generation: u32,
    /// Its nodes.
    pub nodes: Vec<String>,
    /// Its devices by node and kind, read for jobs that are nobody's placeholder.
    pub devices: BTreeMap<(String, String), Vec<u32>>,
    /// When Slurm started it, in seconds.
    pub started: i64,
    /// When Slurm ended it, in seconds.
    pub ended: Option<i64>,
    /// From when to when it was seen running, in milliseconds; several times where a crash of slurmctld
    /// has brought it back.
    pub seen: Vec<(i64, i64)>,
}

impl Run {
    /// The longest time that both were seen running at once, in milliseconds.
    fn together(&self, other: &Self) -> i64 {
        let both = |a: &(i64, i64)| {
            let overlaps = other.seen.iter().map(move |b| a.1.min(b.1) - a.0.max(b.0));
            overlaps.max().unwrap_or(0)
        };
        self.seen.iter().map(both).max().unwrap_or(0)
    }

    fn last_seen(&self) -> i64 {
        self.seen.last().map_or(self.started * 1000, |(_, last)| *last)
    }
}

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Pods on nodes.
    pub stays: Vec<Stay>,
    /// Jobs on nodes.
    pub runs: Vec<Run>,
    /// How many pods each gang has.
    pub sizes: BTreeMap<String, usize>,
    /// What slurmctld says it has given out; only where it is killed, and may forget what nobody has seen.
    pub grants: Vec<Grant>,
    /// slurmctld was killed, and may have brought back what had ended.
    pub rolled_back: bool,
}

/// A pod whose job ended may have been on its way to be bound: that is no fault before so long.
const IN_FLIGHT_MS: i64 = 5_000;
/// So long two placeholders may run where slurmctld has brought one of them back, in the middle of storms.
const REVIVED_MS: i64 = 10_000;

impl History {
    /// Rule 2: a generation of a gang starts once. Not for a Slurm that has lost its memory.
    pub fn started_twice(&self) -> Vec<String> {
        let mut starts: BTreeMap<(&str, u32), BTreeSet<(u32, &str)>> = BTreeMap::new();
        for run in self.runs.iter().filter(|run| !run.gang.is_empty()) {
            let of = starts.entry((&run.gang, run.generation)).or_default();
            of.insert((run.job, &run.sluid));
        }
        let twice = starts.into_iter().filter(|(_, jobs)| jobs.len() > 1);
        twice
            .map(|((gang, generation), jobs)| {
                format!("gang {gang}, generation {generation}, has started as {jobs:?}")
            })
            .collect()
    }

    /// Rule 2, whatever Slurm forgets: no two placeholders of one gang run at the same time. A moment is
    /// forgiven: it is by looking every so often that runs are seen. More is where slurmctld may have
    /// brought one back whose end it had told, beside the one of the next generation.
    pub fn ran_at_once(&self, forgiven_ms: i64) -> Vec<String> {
        let own: Vec<&Run> = self.runs.iter().filter(|run| !run.gang.is_empty()).collect();
        pairs(&own)
            .filter(|(a, b)| a.gang == b.gang && (a.job, &a.sluid) != (b.job, &b.sluid))
            .filter_map(|(a, b)| {
                let together = a.together(b);
                let back = self.rolled_back && a.generation != b.generation;
                let forgiven_ms = if back { forgiven_ms.max(REVIVED_MS) } else { forgiven_ms };
                (together > forgiven_ms).then(|| {
                    format!(
                        "gang {}: jobs {} and {} ran at once for {together} ms",
                        a.gang, a.job, b.job
                    )
                })
            })
            .collect()
    }

    /// Rule 1: a pod is bound to a node of a run of its own gang's placeholder, and not once that is over.
    pub fn astray(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for stay in &self.stays {
            let own = |run: &&Run| {
                run.job == stay.job && run.gang == stay.gang && run.generation == stay.generation
            };
            let runs: Vec<&Run> =
                self.runs.iter().filter(own).filter(|r| r.nodes.contains(&stay.node)).collect();
            let Stay { pod, node, job, .. } = stay;
            let granted = |g: &Grant| g.job == *job && g.nodes.contains(node);
            if runs.is_empty() && !self.grants.iter().any(granted) {
                wrong.push(format!("{pod} was bound to {node}, which job {job} never had"));
            }
            let over = |run: &&Run| {
                run.ended.is_some_and(|end| (end + 1) * 1000 + IN_FLIGHT_MS < stay.bound.ms)
            };
            if !runs.is_empty() && runs.iter().all(over) {
                wrong.push(format!("{pod} was bound to {node} long after job {job} had ended"));
            }
        }
        wrong
    }

    /// Rule 3: some time after its first bind a gang is bound whole, or not at all. A gang that is being
    /// broken up by whoever deletes or evicts its pods is neither until none is left.
    pub fn partial(&self, within_ms: i64, now_ms: i64) -> Vec<String> {
        let mut wrong = Vec::new();
        for (gang, size) in &self.sizes {
            let mut steps: Vec<(Moment, i32)> = Vec::new();
            for stay in self.stays.iter().filter(|stay| stay.gang == *gang) {
                steps.push((stay.bound, 1));
                steps.extend(stay.leaving.or(stay.gone).map(|end| (end, -1)));
            }
            steps.sort_unstable();
            let (mut bound, mut since, mut breaking) = (0, None, false);
            let mut late = |since: Option<i64>, until: i64, bound: usize| {
                let took = since.map_or(0, |since| until - since);
                if took > within_ms {
                    wrong.push(format!(
                        "gang {gang} had {bound} of {size} pods bound for {took} ms"
                    ));
                }
            };
            for (at, step) in steps {
                late(since, at.ms, bound);
                bound = bound.saturating_add_signed(step as isize);
                breaking = bound > 0 && (breaking || step < 0);
                let part = bound > 0 && bound < *size && !breaking;
                since = if part { since.or(Some(at.ms)) } else { None };
            }
            late(since, now_ms, bound);
        }
        wrong
    }

    /// Rule 4: no device has two pods at once. Decided by the API server's own order.
    pub fn shared(&self) -> Vec<String> {
        let stays: Vec<&Stay> = self.stays.iter().collect();
        pairs(&stays).filter_map(|(a, b)| share(a, b)).collect()
    }

    /// How long jobs that are nobody's placeholder and pods had the same devices for certain: Slurm
    /// counts in seconds. Milliseconds, with a sentence each.
    pub fn shared_with_jobs(&self) -> Vec<(i64, String)> {
        let mut found = Vec::new();
        for run in self.runs.iter().filter(|run| run.gang.is_empty()) {
            for stay in self.stays.iter() {
                let same = stay.devices.iter().any(|(kind, indexes)| {
                    let theirs = run.devices.get(&(stay.node.clone(), kind.clone()));
                    theirs.is_some_and(|theirs| theirs.iter().any(|i| indexes.contains(i)))
                });
                let (from, to) = (
                    (run.started + 1) * 1000,
                    run.ended.map_or_else(|| run.last_seen(), |e| e * 1000),
                );
                let gone = stay.gone.map_or(i64::MAX, |gone| gone.ms);
                let together = to.min(gone) - from.max(stay.bound.ms);
                if same && together > 0 {
                    let words = format!(
                        "{} on {} and job {} had the same devices for {together} ms",
                        stay.pod, stay.node, run.job
                    );
                    found.push((together, words));
                }
            }
        }
        found
    }

    /// Rule 9: node, rank and devices of a bound pod never change, and no two members have one rank.
    pub fn moved(&self) -> Vec<String> {
        let told = |stay: &Stay| {
            let changed = stay.changed.iter();
            changed.map(|what| format!("{}: {what}", stay.pod)).collect::<Vec<_>>()
        };
        let mut wrong: Vec<String> = self.stays.iter().flat_map(told).collect();
        let stays: Vec<&Stay> = self.stays.iter().collect();
        let alike =
            pairs(&stays).filter(|(a, b)| a.gang == b.gang && a.rank == b.rank && together(a, b));
        wrong.extend(
            alike.map(|(a, b)| format!("{} and {} both have rank {}", a.pod, b.pod, a.rank)),
        );
        wrong
    }

    /// Every rule that holds whatever Slurm forgets.
    pub fn broken_rules(&self, whole_within_ms: i64, now_ms: i64) -> Vec<String> {
        let checks = [
            self.ran_at_once(1_000),
            self.astray(),
            self.partial(whole_within_ms, now_ms),
            self.shared(),
            self.moved(),
        ];
        checks.concat()
    }
}

/// Every two of them, once.
fn pairs<'a, T>(all: &'a [&'a T]) -> impl Iterator<Item = (&'a T, &'a T)> {
    let rest = move |i: usize| all[i + 1..].iter().copied();
    all.iter().enumerate().flat_map(move |(i, a)| rest(i).map(move |b| (*a, b)))
}

/// Whether there was a moment at which both were there.
fn together(a: &Stay, b: &Stay) -> bool {
    let before = |gone: Option<Moment>, bound: Moment| gone.is_some_and(|g| g.order <= bound.order);
    !before(a.gone, b.bound) && !before(b.gone, a.bound)
}

fn share(a: &Stay, b: &Stay) -> Option<String> {
    if a.node != b.node || a.uid == b.uid || !together(a, b) {
        return None;
    }
    let same = a.devices.iter().find_map(|(kind, indexes)| {
        let theirs = b.devices.get(kind)?;
        let index = indexes.iter().find(|index| theirs.contains(index))?;
        Some(format!("{kind} {index}"))
    })?;
    let gone = |stay: &Stay| stay.gone.map_or(i64::MAX, |gone| gone.ms);
    let ms = gone(a).min(gone(b)) - a.bound.ms.max(b.bound.ms);
    Some(format!("{} and {} both had {same} of {} for {ms} ms", a.pod, b.pod, a.node))
}
