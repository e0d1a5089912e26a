//! The Slurm half: one placeholder per gang, found or submitted, then followed to its end.
//!
//! Knows Slurm and core, no Kubernetes. Everything it decides comes from `core::placeholder` and
//! `core::place`; everything it remembers can be read again from Slurm (rule 8).

mod board;
mod follow;
mod reach;
mod seal;
mod submit;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use gangway_core::follow::Verdict;
use gangway_core::gang::Gang;
use gangway_core::job::{Job, JobId, Standing};
use gangway_core::placeholder::{JobIds, Stamp};
use gangway_core::policy::Policy;
use gangway_core::translate::ResourceTable;
use gangway_slurm::Client;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use board::{Board, Health};

use crate::atlas::Atlas;
use reach::Reaches;
use seal::Seals;

use crate::chain::explain;
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::nursery::Nursery;

/// Gangs that may be on the immediate path at once: one less than the client has connections, so that
/// somebody else's question is not kept waiting.
const TURNS: usize = 7;

/// Asks Slurm for gangs. Shared by every caller of the door.
pub(crate) struct Queue {
    slurm: Client,
    board: Arc<Board>,
    atlas: Arc<Atlas>,
    policy: Policy,
    table: ResourceTable,
    job_ids: JobIds,
    immediate: bool,
    heterogeneous: bool,
    reaches: Reaches,
    seals: Seals,
    /// For the immediate path.
    turns: Semaphore,
    /// Value of `Board::endings` at the last refused immediate ask, plus one; 0 for none.
    missed_at: AtomicU64,
    entries: DashMap<Key, Arc<Entry>>,
    nursery: Nursery,
    metrics: Metrics,
    stop: CancellationToken,
}

/// Who asks, and for which gang.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) cluster: String,
    pub(crate) gang: String,
}

/// One gang in flight.
struct Entry {
    key: Key,
    /// The gang as last asked for.
    gang: Mutex<Gang>,
    /// The gang has changed, or it is to be released.
    changed: Notify,
    /// Why it is to be released, and since when.
    release: Mutex<Option<(String, Instant)>>,
    verdict: watch::Sender<Option<Verdict>>,
    /// A submit of this gang was in doubt once. slurmctld may still act on it, so from then on only the
    /// queued way is taken, where the chosen id makes a second one impossible.
    doubted: AtomicBool,
    /// Set once the entry is out of the table.
    done: CancellationToken,
}

impl Entry {
    fn new(key: Key, gang: Gang) -> Self {
        Self {
            key,
            gang: Mutex::new(gang),
            changed: Notify::new(),
            release: Mutex::new(None),
            verdict: watch::Sender::new(None),
            doubted: AtomicBool::new(false),
            done: CancellationToken::new(),
        }
    }

    fn gang(&self) -> Gang {
        self.gang.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where its members must not go.
    fn excluded(&self) -> Vec<Arc<str>> {
        self.gang.lock().unwrap_or_else(PoisonError::into_inner).excluded_nodes.clone()
    }

    fn releasing(&self) -> Option<(String, Instant)> {
        self.release.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn say(&self, verdict: Verdict) {
        self.verdict.send_if_modified(|old| {
            if old.as_ref() == Some(&verdict) {
                return false;
            }
            let (word, job) = summary(&verdict);
            tracing::info!(gang = self.key.gang, cluster = self.key.cluster, job, "{word}");
            *old = Some(verdict);
            true
        });
    }
}

/// A verdict in a word, and its job (0 for none): seats and messages would fill the log.
fn summary(verdict: &Verdict) -> (&'static str, u32) {
    match verdict {
        Verdict::Refused(_) => ("refused", 0),
        Verdict::Queued { job, .. } => ("queued", job.map_or(0, |job| job.0)),
        Verdict::Allocated { job, .. } => ("allocated", job.0),
        Verdict::Ended { job, .. } => ("ended", job.0),
    }
}

impl Queue {
    pub(crate) fn new(
        slurm: Client,
        settings: &Settings,
        nursery: Nursery,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            board: Arc::new(Board::new(slurm.clone(), metrics.clone())),
            atlas: Arc::new(Atlas::new(settings.network.clone())),
            slurm,
            policy: settings.policy.clone(),
            table: settings.resources.clone(),
            job_ids: settings.slurm.job_ids,
            immediate: settings.slurm.immediate,
            heterogeneous: settings.slurm.heterogeneous,
            reaches: Reaches::new(),
            seals: Seals::default(),
            turns: Semaphore::new(TURNS),
            missed_at: AtomicU64::new(0),
            entries: DashMap::new(),
            nursery,
            metrics,
            stop,
        })
    }

    /// Where the nodes are.
    pub(crate) fn atlas(&self) -> &Arc<Atlas> {
        &self.atlas
    }

    /// The way to Slurm.
    pub(crate) fn slurm(&self) -> &Client {
        &self.slurm
    }

    /// What is known of Slurm's jobs.
    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Asks for room for a gang. The same gang is one placeholder however often it is asked for; one
    /// that is being released is over first, so that new pods never hear of an old end.
    pub(crate) async fn place(
        self: &Arc<Self>,
        cluster: String,
        mut gang: Gang,
    ) -> watch::Receiver<Option<Verdict>> {
        self.reaches.share(&mut gang);
        let key = Key { cluster, gang: gang.uid.clone() };
        loop {
            match self.enter(&key, &gang) {
                Ok(verdicts) => return verdicts,
                Err(releasing) => releasing.cancelled().await,
            }
        }
    }

    /// Joins the entry of a gang, or makes it. `Err`: it is being released; wait for this.
    fn enter(
        self: &Arc<Self>,
        key: &Key,
        gang: &Gang,
    ) -> Result<watch::Receiver<Option<Verdict>>, CancellationToken> {
        let entry = match self.entries.entry(key.clone()) {
            dashmap::Entry::Occupied(found) if found.get().releasing().is_some() => {
                return Err(found.get().done.clone());
            }
            dashmap::Entry::Occupied(found) => {
                let entry = found.get();
                *entry.gang.lock().unwrap_or_else(PoisonError::into_inner) = gang.clone();
                entry.changed.notify_one();
                return Ok(entry.verdict.subscribe());
            }
            dashmap::Entry::Vacant(vacant) => {
                let entry = Arc::new(Entry::new(key.clone(), gang.clone()));
                vacant.insert(entry.clone());
                entry
            }
        };
        let verdicts = entry.verdict.subscribe();
        let queue = self.clone();
        self.nursery.start("placeholder", async move {
            let last = queue.follow(&entry).await;
            // Out of the table before the last word is said: whoever hears it and asks again begins
            // anew.
            queue.entries.remove_if(&entry.key, |_, e| Arc::ptr_eq(e, &entry));
            if let Some(verdict) = last {
                entry.say(verdict);
            }
            entry.done.cancel();
            Ok(())
        });
        Ok(verdicts)
    }

    /// Ends whatever placeholder a gang has. Returns the jobs that were told to end. `again`: its pods
    /// will be asked for again, so that this is no end of them, which is written down first.
    pub(crate) async fn release(
        &self,
        key: &Key,
        why: &str,
        again: bool,
    ) -> Result<Vec<JobId>, gangway_slurm::Error> {
        let listed = self.board.listed(&key.cluster, &key.gang);
        let live = || listed.iter().filter(|(_, job)| job.standing() != Standing::Over);
        if again {
            // Slurm has just given a node that was not excluded, so it may be new.
            self.reaches.forget().await;
            // Written before anything can end: whoever sees the end knows what it means.
            for (stamp, job) in live() {
                if self.is_still_ours(job).await? {
                    let stamp = stamp.given_back().to_text();
                    self.seal_as(job.id, &stamp).await?;
                }
            }
        }
        let entry = self.entries.get(key).map(|e| e.clone());
        if let Some(entry) = entry {
            *entry.release.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((why.to_owned(), Instant::now()));
            entry.changed.notify_one();
        }
        let mut ended = Vec::new();
        for (_, job) in live() {
            if self.end(job, why).await? {
                ended.push(job.id);
            }
        }
        Ok(ended)
    }

    /// The latest word on a gang, and the placeholders that are known of it.
    pub(crate) fn explain(&self, key: &Key) -> (Option<Verdict>, Vec<(Stamp, Job)>) {
        let verdict = self.entries.get(key).and_then(|e| e.verdict.borrow().clone());
        (verdict, self.board.listed(&key.cluster, &key.gang))
    }

    /// Cancels one placeholder and wakes Slurm's scheduler, which would otherwise leave the freed
    /// nodes idle until its next cycle (live-slurm.md, l). `false`: its id is somebody else's by now.
    async fn end(&self, job: &Job, why: &str) -> Result<bool, gangway_slurm::Error> {
        if !self.is_still_ours(job).await? {
            return Ok(false);
        }
        tracing::info!(job = %job.id, why, "releasing placeholder");
        self.seal_last(job.id).await;
        self.slurm.cancel(job.id).await?;
        match self.slurm.job(job.id).await? {
            Some(seen) => self.board.note(seen),
            None => self.board.forget(job.id),
        }
        let first =
            gangway_core::hostlist::Hostlist::parse(&job.nodes).ok().and_then(|h| h.iter().next());
        if let Some(node) = first.filter(|_| self.board.anything_pending())
            && let Err(error) = self.slurm.kick(&node).await
        {
            // It starts later, not never.
            tracing::debug!(node, error = explain(&error), "could not wake Slurm's scheduler");
        }
        Ok(true)
    }

    /// Whether an id still is that placeholder's. After a crash slurmctld counts on from where it had
    /// saved, and gives ids again (live-slurm.md, d); those that we choose it never counts up to.
    async fn is_still_ours(&self, job: &Job) -> Result<bool, gangway_slurm::Error> {
        if (self.job_ids.first..=self.job_ids.last).contains(&job.id.0) {
            return Ok(true);
        }
        let Some(seen) = self.slurm.job(job.id).await? else { return Ok(true) };
        let same = seen.sluid == job.sluid;
        if !same {
            tracing::warn!(job = %job.id, "Slurm has given the id of a lost placeholder to another job; leaving it alone");
            self.board.note(seen);
        }
        Ok(same)
    }

    /// Whether asking for nodes at once overtakes nobody and has a chance: no job waits in the
    /// partition, and after a refusal some job has ended since. (Slurm itself refuses when a job of
    /// another partition waits for the same nodes.)
    fn immediate_is_fair(&self, partition: &str) -> bool {
        self.immediate
            && !self.board.pending_in(partition)
            && self.missed_at.load(Ordering::Relaxed) != self.board.endings() + 1
    }

    fn note_miss(&self) {
        self.missed_at.store(self.board.endings() + 1, Ordering::Relaxed);
    }
}
