//! The Slurm half: one placeholder per gang, found or submitted, then followed to its end.
//!
//! Knows Slurm and core, no Kubernetes. Everything it decides comes from `core::placeholder` and
//! `core::place`; everything it remembers can be read again from Slurm (rule 8).

mod board;
mod factors;
mod follow;
mod outlook;
mod reach;
mod seal;
mod shown;
mod shun;
mod span;
mod submit;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
use tracing::Instrument as _;

pub(crate) use board::{Board, Health};
pub(crate) use outlook::fact;

use crate::atlas::Atlas;
use factors::{Priorities, Said};
use reach::Reaches;
use seal::Seals;
use shun::Shunning;

use crate::chain::explain;
use crate::config::Settings;
use crate::failpoint::{self, Point};
use crate::metrics::Placeholders;
use crate::nursery::Nursery;
use crate::trace::Traces;

/// Gangs that may be on the immediate path at once: one less than the client has connections, so that
/// somebody else's question is not kept waiting.
const TURNS: usize = 7;

/// Allocations of gangs that run already that are read again at once, as after a start of the bridge: few
/// enough that whoever waits for its nodes is not kept waiting behind a thousand that have theirs.
const REREADS: usize = 2;

/// Pause before Slurm is asked again after it could not be.
const RETRY: Duration = Duration::from_secs(1);

/// Why Slurm is sent no EXTERNAL heterogeneous job; `None`: it takes them. Its release is asked for each time, since an
/// older one could be ended by the attempt.
pub(crate) async fn shuns_heterogeneous(
    slurm: &Client,
    configured: bool,
) -> Result<Option<String>, gangway_slurm::Error> {
    if !configured {
        return Ok(Some("the bridge is configured with slurm.heterogeneous: false".to_owned()));
    }
    let ping = slurm.ping().await?;
    let old = || format!("this Slurm is {}, and it takes 26.05.3 or newer", ping.release);
    Ok((!ping.heterogeneous_external()).then(old))
}

/// Asks Slurm for gangs. Shared by every caller of the door.
pub(crate) struct Queue {
    slurm: Client,
    board: Arc<Board>,
    atlas: Arc<Atlas>,
    policy: watch::Sender<Arc<Policy>>,
    table: ResourceTable,
    job_ids: JobIds,
    immediate: bool,
    heterogeneous: bool,
    reaches: Reaches,
    seals: Seals,
    shunning: Shunning,
    priorities: Priorities,
    /// For the immediate path.
    turns: Semaphore,
    /// For reading again what gangs that run have been given.
    rereads: Semaphore,
    /// Value of `Board::endings` at the last refused immediate ask, plus one; 0 for none.
    missed_at: AtomicU64,
    entries: DashMap<Key, Arc<Entry>>,
    nursery: Nursery,
    metrics: Placeholders,
    traces: Traces,
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
    /// The gang as last asked for, and how often it was.
    gang: Mutex<(Gang, u64)>,
    /// As often as it had been asked for when it was last decided which placeholder is followed.
    weighed: AtomicU64,
    /// The placeholder that is followed, and its generation; 0 for none yet.
    following: Mutex<(JobId, u32)>,
    /// The gang has changed, or it is to be released.
    changed: Notify,
    /// It is to be released.
    release: Mutex<Option<Release>>,
    /// The latest attempt that was submitted here, whatever came of it; 0 for none.
    submitted: AtomicU32,
    verdict: watch::Sender<Option<Verdict>>,
    /// By which policy the placeholder is what was granted, where that is known.
    granted_by: Mutex<Option<Arc<Policy>>>,
    /// A submit of this gang was in doubt once. slurmctld may still act on it, so from then on only the
    /// queued way is taken, where the chosen id makes a second one impossible.
    doubted: AtomicBool,
    /// Set once the entry is out of the table.
    done: CancellationToken,
}

/// That a gang is to be released.
#[derive(Clone)]
struct Release {
    why: String,
    since: Instant,
    /// The latest attempt that this is about.
    generation: u32,
}

impl Entry {
    fn new(key: Key, gang: Gang) -> Self {
        Self {
            key,
            gang: Mutex::new((gang, 0)),
            weighed: AtomicU64::new(0),
            following: Mutex::new((JobId(0), 0)),
            changed: Notify::new(),
            release: Mutex::new(None),
            submitted: AtomicU32::new(0),
            verdict: watch::Sender::new(None),
            granted_by: Mutex::new(None),
            doubted: AtomicBool::new(false),
            done: CancellationToken::new(),
        }
    }

    fn asked(&self) -> MutexGuard<'_, (Gang, u64)> {
        // A panic while the lock is held ends the process anyway (see nursery).
        self.gang.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gang(&self) -> Gang {
        self.asked().0.clone()
    }

    /// The gang as it is asked for now, by which it is decided what to follow.
    fn weigh(&self) -> Gang {
        let asked = self.asked();
        self.weighed.store(asked.1, Ordering::Relaxed);
        asked.0.clone()
    }

    /// The question that this was decided by, with its number; `None` where another has been put since: it may
    /// tell of members that are bound for another placeholder, and has no answer yet.
    fn weighed(&self) -> Option<(Gang, u64)> {
        let asked = self.asked();
        (asked.1 == self.weighed.load(Ordering::Relaxed)).then(|| asked.clone())
    }

    /// The gang is asked for anew. A verdict that did not know for which placeholder its members are
    /// bound is none for this question.
    fn ask_anew(&self, gang: &Gang) {
        let mut asked = self.asked();
        *asked = (gang.clone(), asked.1 + 1);
        self.verdict.send_if_modified(|verdict| {
            let other = |job: JobId| bound_for(gang).any(|bound| bound != job);
            let stale = matches!(verdict, Some(Verdict::Allocated { job, .. }) if other(*job));
            if stale {
                *verdict = None;
            }
            stale
        });
        drop(asked);
        self.changed.notify_one();
    }

    /// Says what was found out for the gang as it was asked for at this time, unless it was asked for
    /// anew since.
    fn say_of(&self, number: u64, verdict: Verdict) -> bool {
        let asked = self.asked();
        let same = asked.1 == number;
        if same {
            self.say(verdict);
        }
        same
    }

    /// Where its members must not go.
    fn excluded(&self) -> Vec<Arc<str>> {
        self.asked().0.excluded_nodes.clone()
    }

    fn following(&self) -> (JobId, u32) {
        *self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follows(&self, job: JobId, generation: u32) {
        *self.following.lock().unwrap_or_else(PoisonError::into_inner) = (job, generation);
    }

    /// What its placeholder asks for is what this policy grants.
    fn is_granted_by(&self, policy: &Arc<Policy>) {
        *self.granted_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(policy.clone());
    }

    fn granted_by(&self) -> Option<Arc<Policy>> {
        self.granted_by.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether that is known of this policy.
    fn was_granted_by(&self, policy: &Arc<Policy>) -> bool {
        self.granted_by().is_some_and(|known| Arc::ptr_eq(&known, policy))
    }

    fn releasing(&self) -> Option<Release> {
        self.release.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a release is about this attempt: one that was begun here is, one that another bridge has
    /// begun since is not.
    fn is_about(&self, release: &Release, generation: u32) -> bool {
        generation <= release.generation || generation == self.submitted.load(Ordering::Relaxed)
    }

    /// In the span of the job that it is about.
    fn say(&self, verdict: Verdict) {
        self.verdict.send_if_modified(|old| {
            if old.as_ref() == Some(&verdict) {
                return false;
            }
            tracing::info!("{}", summary(&verdict).0);
            *old = Some(verdict);
            true
        });
    }
}

/// The placeholders that members are bound for.
fn bound_for(gang: &Gang) -> impl Iterator<Item = JobId> + '_ {
    gang.members.iter().filter_map(|member| Some(member.bound.as_ref()?.job))
}

/// A verdict in a word, and its job: seats and messages would fill the log.
fn summary(verdict: &Verdict) -> (&'static str, Option<JobId>) {
    match verdict {
        Verdict::Refused(_) => ("refused", None),
        Verdict::Queued { job, .. } => ("queued", *job),
        Verdict::Allocated { job, .. } => ("allocated", Some(*job)),
        Verdict::Ended { job, .. } => ("ended", Some(*job)),
    }
}

impl Queue {
    pub(crate) fn new(
        slurm: Client,
        settings: &Settings,
        nursery: Nursery,
        (metrics, traces): (Placeholders, Traces),
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            board: Arc::new(Board::new(slurm.clone(), metrics.clone())),
            atlas: Arc::new(Atlas::new(settings.network.clone(), settings.gpu_types.clone())),
            slurm,
            policy: watch::Sender::new(Arc::new(settings.policy.clone())),
            table: settings.resources.clone(),
            job_ids: settings.slurm.job_ids,
            immediate: settings.slurm.immediate,
            heterogeneous: settings.slurm.heterogeneous,
            reaches: Reaches::new(),
            seals: Seals::default(),
            priorities: Priorities::default(),
            shunning: Shunning::new(settings.slurm.shun_failed_nodes),
            turns: Semaphore::new(TURNS),
            rereads: Semaphore::new(REREADS),
            missed_at: AtomicU64::new(0),
            entries: DashMap::new(),
            nursery,
            metrics,
            traces,
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

    /// What is granted to whom, to be changed as SlurmPolicies are.
    pub(crate) fn policy(&self) -> &watch::Sender<Arc<Policy>> {
        &self.policy
    }

    /// What a job's priority is made of, asked by whoever wants to know; `None` where this Slurm does not say.
    pub(crate) async fn priority(&self, slurm: &Client, job: &Job, now: i64) -> Option<Said> {
        self.priorities.of(slurm, job, now).await
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
                found.get().ask_anew(gang);
                return Ok(found.get().verdict.subscribe());
            }
            dashmap::Entry::Vacant(vacant) => {
                let entry = Arc::new(Entry::new(key.clone(), gang.clone()));
                vacant.insert(entry.clone());
                entry
            }
        };
        let verdicts = entry.verdict.subscribe();
        let queue = self.clone();
        let following = async move {
            let last = queue.follow(&entry).await;
            // Out of the table before the last word is said: whoever hears it and asks again begins
            // anew.
            queue.entries.remove_if(&entry.key, |_, e| Arc::ptr_eq(e, &entry));
            if let Some(verdict) = last {
                let span = entry.key.span(summary(&verdict).1);
                span.in_scope(|| entry.say(verdict));
            }
            entry.done.cancel();
            Ok(())
        };
        self.nursery.start("placeholder", following.instrument(key.span(None)));
        Ok(verdicts)
    }

    /// Ends the placeholders of a gang up to this attempt. Returns the jobs that were told to end. `again`: its
    /// pods will be asked for again, so that this is no end of them, which is written down first.
    pub(crate) async fn release(
        &self,
        key: &Key,
        why: &str,
        again: bool,
        generation: u32,
    ) -> Result<Vec<JobId>, gangway_slurm::Error> {
        let listed = self.board.listed(&key.cluster, &key.gang);
        let entry = self.entries.get(key).map(|e| e.clone());
        let live = || {
            let ours = |stamp: &Stamp| stamp.generation <= generation;
            listed.iter().filter(move |(s, j)| j.standing() != Standing::Over && ours(s))
        };
        if again {
            // Slurm has just given a node that was not excluded, so it may be new.
            self.reaches.forget().await;
            // Written before anything can end: whoever sees the end knows what it means.
            for (stamp, job) in live() {
                let stamp = stamp.given_back().to_text();
                self.seal_as(job.id, &stamp).await?;
            }
        }
        if let Some(entry) = entry {
            *entry.release.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Release { why: why.to_owned(), since: Instant::now(), generation });
            entry.changed.notify_one();
        }
        let mut ended = Vec::new();
        for (_, job) in live() {
            self.end(job, why).await?;
            ended.push(job.id);
        }
        Ok(ended)
    }

    /// The latest word on a gang, and the placeholders that are known of it.
    pub(crate) fn explain(&self, key: &Key) -> (Option<Verdict>, Vec<(Stamp, Job)>) {
        let verdict = self.entries.get(key).and_then(|e| e.verdict.borrow().clone());
        (verdict, self.board.listed(&key.cluster, &key.gang))
    }

    /// Cancels one placeholder and wakes Slurm's scheduler, which would otherwise leave the freed
    /// nodes idle until its next cycle (live-slurm.md, l).
    async fn end(&self, job: &Job, why: &str) -> Result<(), gangway_slurm::Error> {
        self.end_now(job, why).instrument(span::of_job(job)).await
    }

    async fn end_now(&self, job: &Job, why: &str) -> Result<(), gangway_slurm::Error> {
        tracing::info!(why, "releasing placeholder");
        self.seal_last(job.id).await;
        // By its unique id: the number may be somebody else's job by now.
        self.slurm.cancel_submission(job).await?;
        failpoint::pass(Point::Cancelled);
        self.board.ended(job, why);
        let seen = self.board.read(job.id).await?;
        failpoint::pass(Point::CancelSeen);
        if seen.is_none() {
            self.board.forget(job.id, |stamp| Stamp::of(job).is_some_and(|own| own == *stamp));
        }
        let first =
            gangway_core::hostlist::Hostlist::parse(&job.nodes).ok().and_then(|h| h.iter().next());
        if let Some(node) = first.filter(|_| self.board.anything_pending()) {
            let woken = self.slurm.kick(&node).await;
            failpoint::pass(Point::Woken);
            if let Err(error) = woken {
                // It starts later, not never.
                tracing::debug!(node, error = explain(&error), "could not wake Slurm's scheduler");
            }
        }
        Ok(())
    }

    /// Ends again what slurmctld has forgotten that it ended, until the bridge stops.
    pub(crate) async fn keep_ended(self: Arc<Self>) -> anyhow::Result<()> {
        let mut restarts = self.board.restarts();
        loop {
            tokio::select! {
                biased;
                () = restarts.changed() => {}
                () = self.stop.cancelled() => return Ok(()),
            }
            while !self.stop.is_cancelled() {
                let mut again = false;
                for (job, why) in self.board.revived() {
                    again |= !self.end_revived(&job, &why).instrument(span::of_job(&job)).await;
                }
                if !again {
                    break;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Whether it was ended.
    async fn end_revived(&self, job: &Job, why: &str) -> bool {
        self.metrics.surplus.with_label_values(&["revived"]).inc();
        tracing::warn!("slurmctld has forgotten that it ended this placeholder");
        let ended = self.end(job, why).await;
        if let Err(error) = &ended {
            tracing::warn!(error = explain(error), "could not end it; trying again");
        }
        ended.is_ok()
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

#[cfg(test)]
mod tests {
    use gangway_core::pod::Pod;

    use super::*;

    #[test]
    fn a_question_that_is_put_anew_has_no_answer_before_it_is_weighed() {
        let pod = Pod::default();
        let gang = gangway_core::gang::assemble(None, &[&pod]).remove(0).gang;
        let key = Key { cluster: "c".into(), gang: "g".into() };
        let entry = Entry::new(key, gang.clone());
        assert_eq!(entry.weighed().map(|(_, number)| number), Some(0));
        entry.ask_anew(&gang);
        assert!(entry.weighed().is_none(), "nobody has looked which placeholder it is for");
        entry.weigh();
        assert_eq!(entry.weighed().map(|(_, number)| number), Some(1));
    }
}
