//! The rules of design.md, held against everything that is written and everything that happens.
//!
//! It knows the truth on both sides, which no bridge does, and allows a bridge only what it could not
//! have known: what has changed since Slurm last answered it.

use std::collections::{BTreeMap, BTreeSet};

use gangway_core::names;
use gangway_core::placeholder::Stamp;
use gangway_slurm::fake::{Change, Fake, Gres, Job};
use serde_json::Value;

use crate::cast::{Cast, Workload, pods_of};
use crate::kubernetes::{Effect, Resource, Store, annotation, deleting, finished, node, path, uid};

/// A bridge may act on what Slurm said so long before its last answer.
const STALE_MS: u64 = 500;
/// From the first bind of a gang until all are bound or none: what core promises, and time to evict.
const PARTIAL_MS: u64 = 30_000 + 15_000;
/// Less than this after a first bind nobody is rolled back.
const ROLL_BACK_MS: u64 = 29_000;

/// A gang's attempt.
type Attempt = (String, u32);
/// A start of one: the SLUID of its job, when it began, and its nodes.
type Start = (String, i64, Vec<String>);

/// What has been seen of one attempt.
#[derive(Debug, Default)]
struct Seen {
    /// The submissions of it that have held nodes: id and SLUID.
    started: BTreeSet<(u32, String)>,
    /// The devices that each of its starts gave.
    starts: BTreeSet<Devices>,
    /// Slurm has said that it is over.
    ended: bool,
    /// Rank to index in the workload.
    ranks: BTreeMap<String, u32>,
}

/// As of when Slurm has told the bridge its states.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    before_ms: u64,
    /// The latest answer: when it came, and as of when it is.
    latest: (u64, u64),
}

impl Heard {
    /// An answer comes, of an earlier moment.
    pub(crate) fn tell(&mut self, now: u64, as_of: u64) {
        self.before_ms = self.known(now);
        self.latest = (now, self.latest.1.max(as_of));
    }

    /// As of when the bridge knows them; what comes this very millisecond may be read after.
    pub(crate) fn known(&self, now: u64) -> u64 {
        if self.latest.0 < now { self.latest.1 } else { self.before_ms }
    }
}

/// The rules and what they remember.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) violations: Vec<String>,
    attempts: BTreeMap<Attempt, Seen>,
    /// When a gang last held a node.
    held_ms: BTreeMap<(String, String), u64>,
    /// Gangs of which a bound member was lost, by whatever.
    bereft: BTreeSet<String>,
    /// Gangs that are bound in part, and since when.
    partial_ms: BTreeMap<String, u64>,
    /// Gangs that have been bound as a whole, by attempt.
    whole: BTreeSet<Attempt>,
    bound_pods: BTreeMap<String, String>,
    /// The start that a pod was bound for, by its uid.
    starts_of: BTreeMap<String, Start>,
    /// Partial gangs are told of once.
    told: BTreeSet<String>,
    /// What Slurm has told the bridge.
    pub(crate) heard: Heard,
    /// Since when this bridge has lived.
    pub(crate) born_ms: u64,
}

/// The whole world, for a rule to look at.
pub(crate) struct Scene<'a> {
    pub(crate) now: u64,
    pub(crate) store: &'a Store,
    pub(crate) slurm: &'a Fake,
    pub(crate) cast: &'a Cast,
}

impl Scene<'_> {
    fn workload(&self, pod: &Value) -> Option<&Workload> {
        let name = pod["metadata"]["labels"]["workload"].as_str()?;
        self.cast.workloads.iter().find(|workload| workload.name == name)
    }

    /// The gang a pod belongs to.
    fn gang(&self, pod: &Value) -> String {
        let workload = self.workload(pod).map(|w| w.uid.clone()).filter(|uid| !uid.is_empty());
        workload.unwrap_or_else(|| uid(pod).to_owned())
    }
}

/// The attempt a bound pod was bound for.
fn attempt(pod: &Value) -> Option<Attempt> {
    let generation = annotation(pod, names::GENERATION)?.parse().ok()?;
    Some((annotation(pod, names::GANG)?.to_owned(), generation))
}

/// The attempt a job stands for.
fn stands_for(job: &Job) -> Option<Attempt> {
    let stamp = Stamp::parse(job.key())?;
    Some((stamp.gang, stamp.generation))
}

/// The present start of the job that a pod was bound for.
fn start(scene: &Scene<'_>, pod: &Value) -> Option<Start> {
    let id = annotation(pod, names::JOB_ID)?.parse().ok()?;
    let job = scene.slurm.job(id)?;
    Some((job.sluid.clone(), job.started_ms, held_nodes(job)))
}

fn held_nodes(job: &Job) -> Vec<String> {
    job.nodes().map(str::to_owned).collect()
}

/// Devices by node, name and index.
type Devices = BTreeSet<(String, String, u32)>;

/// What a job holds or held.
fn granted(job: &Job) -> Devices {
    let gres = job.granted.iter().flat_map(|on| on.gres.iter().map(move |gres| (&on.node, gres)));
    let each = |(node, gres): (&String, &Gres)| {
        let (node, name) = (node.clone(), gres.name.clone());
        let indexes = gres.indexes.clone();
        indexes.into_iter().map(move |index| (node.clone(), name.clone(), index))
    };
    gres.flat_map(each).collect()
}

/// What a pod holds: its node, and its devices by name and index.
fn devices(pod: &Value) -> Devices {
    let mut held = BTreeSet::new();
    let Some(node) = node(pod) else { return held };
    let Some(annotations) = pod["metadata"]["annotations"].as_object() else { return held };
    for (key, indexes) in annotations {
        let Some(gres) = key.strip_prefix(names::INDEX_PREFIX) else { continue };
        for part in indexes.as_str().unwrap_or_default().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse()) {
                held.extend((first..=last).map(|i| (node.to_owned(), gres.to_owned(), i)));
            }
        }
    }
    held
}

impl Rules {
    fn broken(&mut self, scene: &Scene<'_>, rule: &str, what: &str) {
        self.violations.push(format!("{:>7} rule {rule}: {what}", scene.now));
    }

    /// Jobs have changed in Slurm.
    pub(crate) fn jobs(&mut self, scene: &Scene<'_>, changes: &[Change]) {
        for Change { at_ms, job } in changes {
            let Some(attempt) = stands_for(job) else { continue };
            // It holds them now, or has until now: also what lives for less than a tick.
            let holds = job.is_running() || job.ended_ms == *at_ms;
            for node in job.nodes().filter(|_| holds) {
                self.held_ms.insert((attempt.0.clone(), node.to_owned()), scene.now);
            }
            let seen = self.attempts.entry(attempt.clone()).or_default();
            // A refusal at once leaves a record too, and is no end of anything.
            if job.is_over() && (job.state != "FAILED" || !job.granted.is_empty()) {
                seen.ended = true;
            }
            if !job.is_running() {
                continue;
            }
            seen.starts.insert(granted(job));
            if !seen.started.insert((job.id, job.sluid.clone())) {
                continue;
            }
            let again = scene.slurm.jobs().find(|other| {
                other.id != job.id
                    && !other.granted.is_empty()
                    && stands_for(other).as_ref() == Some(&attempt)
            });
            if let Some(other) = again {
                let what = format!(
                    "jobs {} and {} have both started for generation {} of {}",
                    other.id, job.id, attempt.1, attempt.0
                );
                self.broken(scene, "2", &what);
            }
        }
    }

    /// The bridge has changed a job: as it was before.
    pub(crate) fn changed(&mut self, scene: &Scene<'_>, job: &Job) {
        if stands_for(job).is_none() {
            let what = format!("job {} of somebody else was changed", job.id);
            self.broken(scene, "5", &what);
        }
    }

    /// The bridge has ended a job: as it was before.
    pub(crate) fn cancelled(&mut self, scene: &Scene<'_>, job: &Job) {
        let Some((gang, generation)) = stands_for(job) else {
            let what = format!("job {} of somebody else was cancelled", job.id);
            return self.broken(scene, "5", &what);
        };
        let id = job.id.to_string();
        let held = scene.store.of(Resource::Pods).find(|pod| {
            !finished(pod)
                && annotation(pod, names::JOB_ID) == Some(&id)
                && attempt(pod).as_ref() == Some(&(gang.clone(), generation))
                // One that has started again has given its pods' nodes back already, where it has others.
                && job.nodes().any(|name| Some(name) == node(pod))
        });
        if let Some(pod) = held.filter(|_| job.is_running()) {
            let what = format!("job {id} was given back while pod {} is there", path(pod));
            self.broken(scene, "4", &what);
        }
    }

    /// The bridge has written to Kubernetes.
    pub(crate) fn effect(&mut self, scene: &Scene<'_>, effect: &Effect, heard_ms: u64) {
        match effect {
            Effect::Bound { pod, fenced } => {
                if !fenced {
                    self.broken(scene, "10", &format!("pod {} was bound by its name", path(pod)));
                }
                self.bound(scene, pod, heard_ms);
            }
            Effect::Evicted { pod, fenced } => {
                if !fenced {
                    self.broken(scene, "11", &format!("pod {} was evicted by its name", path(pod)));
                }
                self.evicted(scene, pod);
            }
            Effect::Deleted { pod } => {
                self.broken(scene, "11", &format!("pod {} was deleted", path(pod)));
            }
        }
    }

    fn bound(&mut self, scene: &Scene<'_>, pod: &Value, heard_ms: u64) {
        self.hold(scene);
        let (at, gang) = (path(pod), scene.gang(pod));
        let Some(attempt) = attempt(pod).filter(|(named, _)| *named == gang) else {
            return self.broken(scene, "1", &format!("pod {at} was bound for another gang"));
        };
        let on = node(pod).unwrap_or_default().to_owned();
        // What had changed since the last answer when it was sent is more than a bridge can know.
        let known = heard_ms.saturating_sub(STALE_MS);
        let held = self.held_ms.get(&(gang.clone(), on.clone()));
        if held.is_none_or(|held| *held < known) {
            let what = format!(
                "pod {at} was bound to {on}, which its gang has last held at {held:?}; Slurm had answered at {heard_ms}"
            );
            self.broken(scene, "1", &what);
        }
        let mine = devices(pod);
        let others =
            || scene.store.of(Resource::Pods).filter(|o| uid(o) != uid(pod) && !finished(o));
        let taken = others().find(|other| !devices(other).is_disjoint(&mine));
        if let Some(other) = taken {
            let what = format!("pod {at} was bound to a device of {} on {on}", path(other));
            self.broken(scene, "4", &what);
        }
        let rank = annotation(pod, names::RANK).unwrap_or_default().to_owned();
        // One on its way out may have the rank in an earlier start: its devices are others.
        let start = start(scene, pod);
        let twin = others()
            .filter(|other| self::attempt(other).as_ref() == Some(&attempt))
            .filter(|other| !deleting(other) || self.starts_of.get(uid(other)) == start.as_ref())
            .find(|other| annotation(other, names::RANK) == Some(&rank));
        if let Some(twin) = twin {
            self.broken(scene, "9", &format!("pods {at} and {} have rank {rank}", path(twin)));
        }
        let index = scene.workload(pod).and_then(|w| w.index_of(pod)).unwrap_or(0);
        let seen = self.attempts.entry(attempt).or_default();
        let before = *seen.ranks.entry(rank.clone()).or_insert(index);
        if before != index {
            let what = format!("rank {rank} of {gang} has moved from member {before} to {index}");
            self.broken(scene, "9", &what);
        }
        self.bound_pods.insert(uid(pod).to_owned(), gang);
        self.starts_of.extend(start.map(|start| (uid(pod).to_owned(), start)));
    }

    fn evicted(&mut self, scene: &Scene<'_>, pod: &Value) {
        let gang = scene.gang(pod);
        let over = |attempt: &Attempt| self.attempts.get(attempt).is_some_and(|seen| seen.ended);
        let of_gang = |attempt: &Attempt| attempt.0 == gang;
        let evidence = match attempt(pod) {
            // Bound: its own placeholder is over, or has started elsewhere, or another is there.
            Some(attempt) => {
                let held = devices(pod);
                let elsewhere = |seen: &Seen| {
                    seen.started.len() > 1 || seen.starts.iter().any(|given| !held.is_subset(given))
                };
                let newer = self.attempts.keys().any(|a| of_gang(a) && a.1 > attempt.1);
                over(&attempt) || newer || self.attempts.get(&attempt).is_some_and(elsewhere)
            }
            // It waits: the placeholder that it waited for is over.
            None => self.attempts.keys().any(|a| of_gang(a) && over(a)),
        };
        let rolled_back =
            self.partial_ms.get(&gang).is_some_and(|since| scene.now >= since + ROLL_BACK_MS);
        if !evidence && !rolled_back && !self.bereft.contains(&gang) {
            let what = format!("pod {} {} was evicted without evidence", path(pod), uid(pod));
            self.broken(scene, "6", &what);
        }
    }

    /// Who holds which node now.
    fn hold(&mut self, scene: &Scene<'_>) {
        for job in scene.slurm.jobs().filter(|job| job.is_running()) {
            let Some((gang, _)) = stands_for(job) else { continue };
            for node in job.nodes() {
                self.held_ms.insert((gang.clone(), node.to_owned()), scene.now);
            }
        }
    }

    /// Time has passed.
    pub(crate) fn look(&mut self, scene: &Scene<'_>) {
        self.hold(scene);
        let present: BTreeSet<&str> =
            scene.store.of(Resource::Pods).filter(|pod| !deleting(pod)).map(uid).collect();
        let lost = self.bound_pods.iter().filter(|(uid, _)| !present.contains(uid.as_str()));
        self.bereft.extend(lost.map(|(_, gang)| gang.clone()));
        for workload in scene.cast.workloads.iter().filter(|w| !w.uid.is_empty()) {
            self.all_or_none(scene, workload);
        }
    }

    fn all_or_none(&mut self, scene: &Scene<'_>, workload: &Workload) {
        let gang = workload.uid.clone();
        let live: Vec<&Value> =
            pods_of(workload, scene.store).filter(|pod| !finished(pod) && !deleting(pod)).collect();
        let bound: Vec<&Value> = live.iter().copied().filter(|pod| node(pod).is_some()).collect();
        let done = workload.done.iter().filter(|done| **done).count();
        let all = bound.len() + done >= workload.size as usize;
        let newest = bound.iter().filter_map(|pod| attempt(pod)).max();
        if let Some(newest) = newest.clone().filter(|_| all) {
            self.whole.insert(newest);
        }
        // Once bound as a whole a gang may lose members one by one.
        let was_whole = newest.is_none_or(|newest| self.whole.contains(&newest));
        if all || bound.is_empty() || was_whole || workload.removed {
            self.partial_ms.remove(&gang);
            return;
        }
        let since = (*self.partial_ms.entry(gang).or_insert(scene.now)).max(self.born_ms);
        if scene.now >= since + PARTIAL_MS && self.told.insert(workload.uid.clone()) {
            let what = format!(
                "{} of {} members of {} stay bound",
                bound.len(),
                live.len(),
                workload.name
            );
            self.broken(scene, "3", &what);
        }
    }

    /// Whether nothing is left to do: every workload has run or was taken away, and nothing leaks.
    pub(crate) fn leftovers(&self, scene: &Scene<'_>) -> Vec<String> {
        let waiting = scene.cast.workloads.iter().filter(|w| !w.is_settled());
        let mut left: Vec<String> =
            waiting.map(|w| format!("{:?} {} has not run to its end", w.kind, w.name)).collect();
        let leaked = scene.slurm.jobs().filter(|job| !job.is_over() && stands_for(job).is_some());
        left.extend(
            leaked.map(|job| format!("job {} {} is left ({})", job.id, job.state, job.key())),
        );
        let pods = scene.store.of(Resource::Pods);
        left.extend(pods.map(|pod| format!("pod {} {} is left", path(pod), uid(pod))));
        left
    }
}
