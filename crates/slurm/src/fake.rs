//! A Slurm in memory: what of slurmctld and slurmrestd this client and its askers rely on.
//!
//! Its clock is whatever its caller says, so that it can stand in virtual time. It must never be more
//! obliging than the real one: it starts jobs late, forgets what it has not saved, and keeps to the
//! conformance suite. It knows no heterogeneous jobs, and says so by its release.

mod job;
mod queue;
mod rest;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::{Answering, Request, Server};

pub use job::{Granted, Gres, Job, Shape};

/// Milliseconds between two looks at the queue when nothing stirs slurmctld (live-slurm.md, l).
const CYCLE_MS: i64 = 20_000;
/// From something that stirs it to the next look.
const STIRRED_MS: i64 = 400;
/// Live jobs are counted this often (JOB_COUNT_INTERVAL of its source).
const COUNT_MS: i64 = 30_000;
/// State is saved at most this often: what is newer is lost by a crash (live-slurm.md, d).
const SAVE_MS: i64 = 5_000;

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// CPUs it has.
    pub cpus: u32,
    /// MiB it has.
    pub memory_mib: u64,
    /// Devices it has.
    pub gres: Vec<Gres>,
    /// slurmctld has given it up.
    pub down: bool,
    /// It takes no new jobs.
    pub drain: bool,
    /// Whether it is in the partitions.
    pub dynamic: bool,
    pub(crate) address: String,
    pub(crate) comment: String,
    pub(crate) extra: String,
    pub(crate) reason: String,
}

/// One partition: all nodes that were there from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Jobs of a higher tier go first, and preempt those of lower ones.
    pub tier: u32,
}

/// What a fake starts with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Names of its nodes.
    pub nodes: Vec<String>,
    /// GPUs on each.
    pub gpus: u32,
    /// Partitions, of all nodes.
    pub partitions: Vec<Partition>,
    /// Users it knows, and their accounts.
    pub users: Vec<(String, String)>,
    /// The token it takes.
    pub token: String,
    /// Its clock at the start, milliseconds since the epoch.
    pub now_ms: i64,
    /// How long an ended job is remembered by slurmctld.
    pub job_age_ms: i64,
}

/// What has become of a job, as it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// The job as it is now.
    pub job: Job,
}

/// The whole of it.
#[derive(Debug)]
pub struct Fake {
    setup: Setup,
    now_ms: i64,
    boot_ms: i64,
    nodes: BTreeMap<String, Node>,
    jobs: BTreeMap<u32, Job>,
    next_id: u32,
    submissions: u64,
    /// What accounting knows: the latest of each submission, by SLUID.
    accounting: BTreeMap<String, Job>,
    saved: (BTreeMap<u32, Job>, u32),
    saved_ms: i64,
    last_update: i64,
    look_ms: i64,
    changes: Vec<Change>,
    counted: Counted,
    /// Jobs that have come since it began.
    submitted: u64,
}

/// How many jobs waited and ran when they were last counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    at_ms: i64,
    pending: usize,
    running: usize,
}

impl Fake {
    /// A Slurm without jobs.
    pub fn new(setup: Setup) -> Self {
        let gres = |name: &str, kind: &str, count| Gres {
            name: name.to_owned(),
            kind: kind.to_owned(),
            count,
            indexes: BTreeSet::new(),
        };
        let node = Node {
            cpus: 192,
            memory_mib: 2_000_000,
            gres: vec![gres("gpu", "h100", setup.gpus), gres("efa", "", 32)],
            address: "127.0.0.1".to_owned(),
            ..Node::default()
        };
        Self {
            now_ms: setup.now_ms,
            boot_ms: setup.now_ms,
            nodes: setup.nodes.iter().map(|name| (name.clone(), node.clone())).collect(),
            jobs: BTreeMap::new(),
            next_id: 1,
            submissions: 0,
            accounting: BTreeMap::new(),
            saved: (BTreeMap::new(), 1),
            saved_ms: setup.now_ms,
            last_update: setup.now_ms / 1000,
            look_ms: setup.now_ms + CYCLE_MS,
            changes: Vec::new(),
            counted: Counted { at_ms: setup.now_ms, ..Counted::default() },
            submitted: 0,
            setup,
        }
    }

    /// Answers one request, as of now.
    pub fn answer(&mut self, now_ms: i64, request: &Request) -> crate::Response {
        self.pass(now_ms);
        rest::answer(self, request)
    }

    /// Every job slurmctld has in memory.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// One of them.
    pub fn job(&self, id: u32) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// The job that a path names, by its id or by its SLUID.
    pub fn named(&self, name: &str) -> Option<&Job> {
        let by_sluid = self.jobs.values().find(|job| job.sluid == name);
        by_sluid.or_else(|| self.jobs.get(&name.parse().ok()?))
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// What has become of jobs since this was asked last.
    pub fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// A job of somebody else, as sbatch makes it: so many nodes with so many GPUs on each, for so
    /// long.
    pub fn sbatch(&mut self, partition: &str, nodes: u32, gpus: u32, ms: i64) -> u32 {
        let shape = Shape {
            nodes,
            tasks_per_node: 1,
            cpus_per_task: 1,
            memory_mib: 100,
            gres: vec![("gpu".to_owned(), String::new(), gpus)],
        };
        let job = Job {
            name: "sbatch".to_owned(),
            partition: partition.to_owned(),
            user: "somebody".to_owned(),
            shape,
            runs_ms: Some(ms),
            ..Job::default()
        };
        self.enqueue(job, None)
    }

    /// Ends a job as a person does.
    pub fn scancel(&mut self, id: u32) {
        if self.jobs.get(&id).is_some_and(|job| !job.is_over()) {
            self.end(id, "CANCELLED", "");
        }
    }

    /// A node stops to answer: its jobs fail.
    pub fn lose_node(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.down = true;
        let on_it = |job: &&Job| job.is_running() && job.granted.iter().any(|g| g.node == name);
        let lost: Vec<u32> = self.jobs.values().filter(on_it).map(|job| job.id).collect();
        for id in lost {
            self.end(id, "NODE_FAIL", "NodeDown");
        }
    }

    /// It answers again.
    pub fn find_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.down = false;
            self.stir();
        }
    }

    /// slurmctld is killed and starts again: what it had not saved is as it was before, or not at all.
    pub fn crash(&mut self, now_ms: i64) {
        self.pass(now_ms);
        let (jobs, next_id) = self.saved.clone();
        let before = std::mem::replace(&mut self.jobs, jobs);
        self.next_id = next_id;
        self.boot_ms = now_ms;
        self.last_update = now_ms / 1000;
        self.submitted = 0;
        self.count();
        let moved: Vec<Job> =
            self.jobs.values().filter(|job| before.get(&job.id) != Some(job)).cloned().collect();
        for job in moved {
            self.changes.push(Change { at_ms: now_ms, job });
        }
        self.stir();
    }

    /// Lets time pass: jobs reach their ends, others start, state is saved.
    pub fn pass(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.end_what_is_due();
        if self.now_ms >= self.look_ms {
            self.look_ms = self.now_ms + CYCLE_MS;
            self.start_what_fits();
        }
        if self.now_ms >= self.saved_ms + SAVE_MS {
            self.saved_ms = self.now_ms;
            self.saved = (self.jobs.clone(), self.next_id);
        }
        if self.now_ms >= self.counted.at_ms + COUNT_MS {
            self.count();
        }
        let oldest = self.now_ms - self.setup.job_age_ms;
        self.jobs.retain(|_, job| !job.is_over() || job.ended_ms > oldest);
    }

    fn count(&mut self) {
        let count = |wanted: fn(&Job) -> bool| self.jobs.values().filter(|job| wanted(job)).count();
        let (pending, running) = (count(Job::is_pending), count(Job::is_running));
        self.counted = Counted { at_ms: self.now_ms, pending, running };
    }

    /// Something has happened after which slurmctld looks at its queue.
    fn stir(&mut self) {
        self.look_ms = self.look_ms.min(self.now_ms + STIRRED_MS);
    }

    fn changed(&mut self, id: u32) {
        self.last_update = self.now_ms / 1000;
        let Some(job) = self.jobs.get(&id) else { return };
        if !job.granted.is_empty() {
            self.accounting.insert(job.sluid.clone(), job.clone());
        }
        self.changes.push(Change { at_ms: self.now_ms, job: job.clone() });
    }
}

/// A fake whose clock is tokio's, so that it runs in virtual time where that is paused.
pub struct Clocked {
    fake: Arc<Mutex<Fake>>,
    began: Instant,
    base: String,
}

impl Clocked {
    /// Answers at this base URL; at any other nobody is there.
    pub fn new(fake: Fake, base: &str) -> Self {
        let (fake, base) = (Arc::new(Mutex::new(fake)), base.to_owned());
        Self { fake, began: Instant::now(), base }
    }
}

impl Server for Clocked {
    fn answer(&self, request: Request) -> Answering {
        let passed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let Some(below) = request.base.strip_prefix(&self.base) else {
            return Box::pin(std::future::ready(Err(crate::Broken::Unreachable)));
        };
        let request = Request { path: format!("{below}{}", request.path), ..request };
        let mut fake = self.fake.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = fake.setup.now_ms + passed;
        let answer = fake.answer(now_ms, &request);
        Box::pin(std::future::ready(Ok(answer)))
    }
}
