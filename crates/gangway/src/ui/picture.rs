//! What everybody who looks at the page sees: the queue and the pool at one moment, and the frames that tell a browser
//! of it.
//!
//! Rows that have not changed are the same in one picture and the next, so a browser that is slow keeps little alive.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use gangway_api::v1;
use gangway_core::placeholder::fingerprint;
use gangway_core::reason;
use serde::Serialize;

use super::delta::{Changes, Keyed, changes};

/// The whole of it.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// Counts the looks; 0 before the first.
    pub(super) number: u64,
    pub(super) head: Head,
    /// What is known of Slurm's reasons.
    pub(super) words: Arc<Words>,
    /// In Slurm's order.
    pub(super) jobs: Vec<Arc<Job>>,
    /// In the order people expect.
    pub(super) nodes: Vec<Arc<Node>>,
}

/// Slurm's reasons for which jobs wait now.
pub(super) type Words = BTreeMap<String, Word>;

/// What is known of one of Slurm's reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Word {
    /// What it means, in a sentence.
    said: String,
    /// Whoever waits for it has no place in the queue.
    #[serde(skip_serializing_if = "is_false")]
    aside: bool,
}

/// The jobs as they were `age` seconds ago.
pub(super) struct Queue {
    age: i64,
    jobs: Vec<Arc<Job>>,
}

/// What is said above queue and pool. Times are seconds since the epoch by the clock of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    pub(super) cluster: Arc<str>,
    /// When the desk last answered; 0: it has not yet.
    pub(super) looked: i64,
    /// How old Slurm's word was then.
    pub(super) age: i64,
    /// Why the desk does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

/// Whose a job is, as far as the page shows it apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Pods.
    #[default]
    Gang,
    /// sbatch.
    Batch,
}

/// From here on an id is none of Slurm's: the gang has no job. (`MaxJobId` is at most 67,043,328.)
const OUTSIDE: u32 = 0xf000_0000;

/// One job of the queue, or a gang that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Job {
    /// Slurm's, or from [`OUTSIDE`] on one that is made of the gang's uid.
    pub(super) id: u32,
    /// The gang's uid, where it has no job.
    #[serde(skip)]
    pub(super) gang: String,
    pub(super) kind: Kind,
    /// `namespace/name` of the workload, or the job's name.
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) workload: String,
    pub(super) partition: String,
    pub(super) user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) account: String,
    pub(super) state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    /// Slurm's free text beside it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) note: String,
    pub(super) nodes: u32,
    pub(super) gpus: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) hosts: String,
    pub(super) priority: u32,
    pub(super) submitted: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) eligible: i64,
    /// How often it was requeued.
    #[serde(skip_serializing_if = "is_none")]
    pub(super) restarts: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) start: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) end: i64,
}

/// One node of the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    pub(super) partitions: Vec<String>,
    pub(super) cpus: u32,
    pub(super) cpus_taken: u32,
    pub(super) gpus: u32,
    /// Indexes that no job has.
    pub(super) free: Vec<u32>,
    pub(super) holders: Vec<Holder>,
}

/// Who holds a part of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Holder {
    pub(super) job: u32,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) user: String,
    /// The pod that sits there; of a gang without one, its pods are not seated yet.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) pod: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) gpus: Vec<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_none(n: &u32) -> bool {
    *n == 0
}

impl Keyed for Job {
    type Key<'a> = u32;

    fn key(&self) -> u32 {
        self.id
    }
}

impl Keyed for Node {
    type Key<'a> = &'a str;

    fn key(&self) -> &str {
        &self.name
    }
}

fn path(workload: Option<&v1::Workload>, name: String) -> (Kind, String) {
    match workload {
        None => (Kind::Batch, name),
        Some(own) if own.namespace.is_empty() => (Kind::Gang, own.name.clone()),
        Some(own) => (Kind::Gang, format!("{}/{}", own.namespace, own.name)),
    }
}

impl From<v1::QueueRow> for Job {
    fn from(row: v1::QueueRow) -> Self {
        let workload = row.workload.as_ref().map(|own| own.kind.clone()).unwrap_or_default();
        let gang = row.workload.as_ref().filter(|_| row.job == 0).map(|own| own.gang.clone());
        let gang = gang.unwrap_or_default();
        let outside = || OUTSIDE | (fingerprint([gang.as_str()]) & 0x0fff_ffff) as u32;
        let (kind, name) = path(row.workload.as_ref(), row.name);
        Self {
            id: if row.job > 0 { row.job } else { outside() },
            gang,
            kind,
            name,
            workload,
            partition: row.partition,
            user: row.user,
            account: row.account,
            state: row.state,
            reason: row.reason,
            note: row.description,
            nodes: row.nodes,
            gpus: row.gpus,
            hosts: row.hosts,
            priority: row.priority,
            submitted: row.submitted,
            eligible: row.eligible,
            restarts: row.restarts,
            start: row.start,
            end: row.end,
        }
    }
}

impl From<v1::NodeRow> for Node {
    fn from(row: v1::NodeRow) -> Self {
        let holder = |one: v1::Holder| {
            let (kind, name) = path(one.workload.as_ref(), one.name);
            Holder { job: one.job, kind, name, user: one.user, pod: one.pod, gpus: one.gpus }
        };
        Self {
            name: row.name,
            state: row.state,
            reason: row.reason,
            partitions: row.partitions,
            cpus: row.cpus,
            cpus_taken: row.cpus_taken,
            gpus: row.gpus,
            free: row.free,
            holders: row.holders.into_iter().map(holder).collect(),
        }
    }
}

impl Job {
    /// The word that means it at the desk.
    pub(super) fn word(&self) -> String {
        if self.gang.is_empty() { self.id.to_string() } else { self.gang.clone() }
    }
}

impl Picture {
    /// The next one, after the desk has answered.
    pub(super) fn next(&self, now: i64, Queue { age, jobs }: Queue, nodes: Vec<Arc<Node>>) -> Self {
        let word = |reason: &String| Word {
            said: reason::waiting(reason, ""),
            aside: reason::stands_aside(reason),
        };
        let reasons: Words = jobs
            .iter()
            .filter(|job| job.state == "PENDING" && !job.reason.is_empty())
            .map(|job| (job.reason.clone(), word(&job.reason)))
            .collect();
        let words = if *self.words == reasons { self.words.clone() } else { Arc::new(reasons) };
        let cluster = self.head.cluster.clone();
        let head = Head { cluster, looked: now, age, problem: None };
        Self { number: self.number + 1, head, words, jobs, nodes }
    }

    /// The queue of the next one.
    pub(super) fn queue(&self, said: v1::QueueResponse) -> Queue {
        let age = (said.now - said.as_of).max(0);
        Queue { age, jobs: kept(&self.jobs, said.rows.into_iter().map(Job::from)) }
    }

    /// The pool of the next one.
    pub(super) fn pool(&self, said: v1::NodesResponse) -> Vec<Arc<Node>> {
        kept(&self.nodes, said.rows.into_iter().map(Node::from))
    }

    /// The next one, where the desk does not answer: what was seen last, and why it is not newer.
    pub(super) fn stale(&self, problem: String) -> Self {
        Self {
            number: self.number + 1,
            head: Head { problem: Some(problem), ..self.head.clone() },
            words: self.words.clone(),
            jobs: self.jobs.clone(),
            nodes: self.nodes.clone(),
        }
    }

    /// All of it, for a browser that has nothing yet.
    pub(super) fn whole(&self) -> serde_json::Result<Vec<u8>> {
        let Self { number, head, words, jobs, nodes } = self;
        event("whole", *number, &Whole { head, words, jobs, nodes })
    }

    /// What has changed since an earlier one.
    pub(super) fn since(&self, old: &Self) -> serde_json::Result<Vec<u8>> {
        let some = |words: &Arc<_>| (*old.words != **words).then(|| words.clone());
        let (jobs, nodes) = (changes(&old.jobs, &self.jobs), changes(&old.nodes, &self.nodes));
        let news = News {
            head: &self.head,
            words: some(&self.words),
            jobs: Some(jobs).filter(|all| !all.is_empty()),
            nodes: Some(nodes).filter(|all| !all.is_empty()),
        };
        event("news", self.number, &news)
    }
}

/// Rows as they are now; those that have not changed are the old ones. A key that comes twice counts once.
///
/// Taken in one by one, so that what has not changed is never here twice.
fn kept<T: Keyed + PartialEq>(old: &[Arc<T>], new: impl Iterator<Item = T>) -> Vec<Arc<T>> {
    let hashes = RandomState::new();
    let known: HashMap<u64, &Arc<T>> =
        old.iter().map(|row| (hashes.hash_one(row.key()), row)).collect();
    let keep = |row: T| match known.get(&hashes.hash_one(row.key())) {
        Some(same) if ***same == row => Arc::clone(same),
        _ => Arc::new(row),
    };
    let mut rows: Vec<Arc<T>> = new.map(keep).collect();
    let mut seen = HashSet::new();
    let first: Vec<bool> = rows.iter().map(|row| seen.insert(row.key())).collect();
    drop(seen);
    let mut first = first.into_iter();
    rows.retain(|_| first.next().unwrap_or(true));
    rows
}

#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    head: &'a Head,
    words: &'a Words,
    jobs: &'a [Arc<Job>],
    nodes: &'a [Arc<Node>],
}

#[derive(Serialize)]
struct News<'a> {
    #[serde(flatten)]
    head: &'a Head,
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Arc<Words>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<Changes<'a, Job>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<Changes<'a, Node>>,
}

/// One server-sent event. JSON has no line breaks of its own.
fn event(name: &str, number: u64, data: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = format!("event: {name}\nid: {number}\ndata: ").into_bytes();
    serde_json::to_writer(&mut out, data)?;
    out.extend(b"\n\n");
    out.shrink_to_fit();
    Ok(out)
}
