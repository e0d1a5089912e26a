//! What is known of Slurm's jobs: one poller writes, everyone reads.
//!
//! One cheap request (`jobs/state`, 46 KB for 550 jobs) tells all states; details are fetched only
//! for jobs that changed. Nothing here is per pod. An empty or missing answer is never taken for
//! "gone": a tracked job that is not listed is asked for by its id.

mod boot;
mod listing;
mod news;
mod outlook;
mod stamped;
mod whole;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gangway_core::job::{BaseState, Job, JobId, JobState, Standing};
use gangway_core::placeholder::{Ended, Stamp};
use gangway_core::reason;
use gangway_slurm::Client;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::bell::{Bell, Listener};
use crate::chain::explain;
use crate::failpoint::{self, Point};
use crate::metrics::Placeholders;
pub(super) use boot::A_MOMENT;
use listing::Listing;
pub(crate) use outlook::Outlook;
use stamped::Stamped;
use whole::Emptiness;

/// Poll interval while something of ours waits.
const FAST: Duration = Duration::from_millis(100);
/// The same where a poll takes long, as with many jobs in slurmctld's memory: so many times as long.
const SLOWLY: u32 = 4;
/// Poll interval otherwise, and the longest where something waits: an answer that took seconds has mostly waited for
/// slurmctld's backfill, which is just what starts a job.
const SLOW: Duration = Duration::from_secs(1);
/// How often reasons of waiting placeholders are read.
const REASONS: Duration = Duration::from_secs(1);
/// How often the ends of running placeholders are read whose gangs want to be warned: while any job
/// waits, for that may be the one to preempt them, and otherwise, for a time limit may be changed.
const ENDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How often every job is listed, to find what should not be there; less often where that takes long.
const FULL: Duration = Duration::from_secs(60);
/// Up to this many waiting placeholders are asked one by one; beyond, one list is cheaper.
const ONE_BY_ONE: usize = 16;
/// A list of all jobs (9 KB each, those that ended lately too) is not asked for again by itself until
/// so many times its own duration have passed: it must not keep slurmctld and us busy.
const BREATHERS: u32 = 60;

/// What was last seen of one tracked job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    /// Not looked at yet, or not since its nodes were taken away.
    Nothing,
    /// This.
    Job(Arc<Job>),
    /// slurmctld says there is no such job (error 2017).
    NoSuchJob,
}

/// Whether Slurm answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Health {
    /// Not asked yet.
    Unknown,
    /// It answers, and every job has been listed once.
    Up,
    /// It does not, and why, for people.
    Down(String),
}

/// The shared view of Slurm's jobs.
pub(crate) struct Board {
    slurm: Client,
    metrics: Placeholders,
    inner: Mutex<Inner>,
    nudge: Notify,
    refresh: Notify,
    health: Bell<Health>,
    /// Counts full lists as they begin.
    begun: AtomicU64,
    /// The last full list that was taken in, by its number, so that one can be waited for.
    lists: Bell<u64>,
    /// Counts how often slurmctld has begun anew and everything has been read again since.
    restarts: Bell<u64>,
    /// When slurmctld began, as it said a moment ago.
    said: tokio::sync::Mutex<Option<(Instant, i64)>>,
    /// What times are counted from.
    origin: Instant,
    changes: broadcast::Sender<(Stamp, Arc<Job>)>,
}

#[derive(Default)]
struct Inner {
    states: HashMap<JobId, JobState>,
    stamped: Stamped,
    tracked: BTreeMap<JobId, watch::Sender<Seen>>,
    /// Tracked jobs whose end must be known in advance: it moves without a change of their state.
    heeded: HashSet<JobId>,
    /// Where the jobs of the last list are (a job may name several partitions), whether they wait for
    /// something else than nodes, and their priority; a component of a heterogeneous job has none.
    partitions: HashMap<JobId, (String, bool, Option<u32>)>,
    /// What is told of those that wait.
    outlooks: HashMap<JobId, Outlook>,
    /// When the question was put by which a job was last read by itself: a list that was asked for before
    /// is older news.
    noted: HashMap<JobId, Instant>,
    /// When the question was put that was answered with these states.
    states_asked: Option<Instant>,
    /// When slurmctld was last found to have begun anew.
    anew: Option<Instant>,
    /// Counts jobs that stopped holding nodes: room may have appeared.
    endings: u64,
    /// When the slurmctld began that everything was last read from, as it says itself; 0 before that.
    boot: i64,
    /// When all was last read well.
    heard: Option<Instant>,
    /// Messages of slurmctld that nobody took when it was last asked.
    undelivered: u64,
    /// What we ended lately.
    ended: Ended,
    /// Whether a list that names no job at all is believed.
    emptiness: Emptiness,
    /// What was listed last, for people to look at.
    listing: Option<Listing>,
}

impl Inner {
    /// Shows a job to whoever follows it, if that is news.
    fn show(&self, job: JobId, seen: Seen) {
        let Some(tracked) = self.tracked.get(&job) else { return };
        tracked.send_if_modified(|old| {
            *old != seen && {
                *old = seen;
                true
            }
        });
    }
}

impl Board {
    pub(crate) fn new(slurm: Client, metrics: Placeholders) -> Self {
        Self {
            slurm,
            metrics,
            inner: Mutex::default(),
            nudge: Notify::new(),
            refresh: Notify::new(),
            health: Bell::new(Health::Unknown),
            begun: AtomicU64::new(0),
            lists: Bell::new(0),
            restarts: Bell::new(0),
            said: tokio::sync::Mutex::default(),
            origin: Instant::now(),
            changes: broadcast::Sender::new(4096),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock is held ends the process anyway (see nursery).
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether Slurm answers, as it changes.
    pub(crate) fn health(&self) -> Listener<Health> {
        self.health.listen()
    }

    /// Changes when slurmctld has begun anew and everything has been read again since.
    pub(crate) fn restarts(&self) -> Listener<u64> {
        self.restarts.listen()
    }

    /// When the slurmctld began that everything was last read from, by its own clock; 0 before it was
    /// asked.
    pub(crate) fn boot(&self) -> i64 {
        self.inner().boot
    }

    /// How many messages of slurmctld nobody took, when it was last asked: something is poisoned.
    pub(crate) fn undelivered(&self) -> u64 {
        self.inner().undelivered
    }

    /// A job of ours was ended.
    pub(crate) fn ended(&self, job: &Job, why: &str) {
        let now = self.now();
        if let Some(stamp) = Stamp::of(job) {
            self.inner().ended.note(stamp, job, why, now);
        }
    }

    /// The jobs that were ended and live all the same, for slurmctld has forgotten it; and why.
    pub(crate) fn revived(&self) -> Vec<(Job, String)> {
        let inner = self.inner();
        let revived = inner.ended.revived(|id| inner.stamped.find(id));
        revived.into_iter().map(|(job, why)| (job.clone(), why.to_owned())).collect()
    }

    /// When slurmctld was last heard from.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.inner().heard
    }

    /// Milliseconds, by a clock that does not jump.
    fn now(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Changes of stamped jobs, from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<(Stamp, Arc<Job>)> {
        self.changes.subscribe()
    }

    /// Every stamped job that is known.
    pub(crate) fn stamped(&self) -> Vec<(Stamp, Arc<Job>)> {
        self.inner().stamped.iter().cloned().collect()
    }

    /// What is known of one gang's placeholders.
    pub(crate) fn listed(&self, cluster: &str, gang: &str) -> Vec<(Stamp, Job)> {
        let inner = self.inner();
        let mine = inner.stamped.of(cluster, gang);
        mine.map(|(s, j)| (s.clone(), Job::clone(j))).collect()
    }

    /// Whether any job at all waits in Slurm, as far as the last poll saw.
    pub(crate) fn anything_pending(&self) -> bool {
        self.inner().states.values().any(|s| s.base == BaseState::Pending)
    }

    /// Whether a job waits for nodes in this partition, or in one of several separated by commas; one
    /// whose partition is not known counts.
    pub(crate) fn pending_in(&self, partition: &str) -> bool {
        let inner = self.inner();
        let mut pending = inner.states.iter().filter(|(_, s)| s.base == BaseState::Pending);
        pending.any(|(id, _)| {
            let known = inner.partitions.get(id);
            partition.is_empty()
                || known.is_none_or(|(names, aside, _)| {
                    let same = |name| partition.split(',').any(|own| name == own);
                    !aside && names.split(',').any(same)
                })
        })
    }

    /// How many jobs have stopped holding nodes since the start.
    pub(crate) fn endings(&self) -> u64 {
        self.inner().endings
    }

    /// Follows one job from now on, beginning with what is known of it.
    pub(crate) fn track(&self, job: JobId) -> watch::Receiver<Seen> {
        let mut inner = self.inner();
        let known = inner.stamped.get(job).map(|job| Seen::Job(job.clone()));
        if known.is_none() {
            self.nudge.notify_one();
        }
        let seen = known.unwrap_or(Seen::Nothing);
        inner.tracked.entry(job).or_insert_with(|| watch::Sender::new(seen)).subscribe()
    }

    /// From now on the end of this job is looked at, as long as it is followed.
    pub(crate) fn heed(&self, job: JobId) {
        self.inner().heeded.insert(job);
    }

    /// Placeholders that a failed node has ended.
    pub(crate) fn failed(&self) -> Vec<(Stamp, Job)> {
        let inner = self.inner();
        inner.stamped.failed().map(|(s, j)| (s.clone(), Job::clone(j))).collect()
    }

    /// Takes in that a job's key stands where only we can write it.
    pub(crate) fn sealed(&self, job: JobId, key: &str) {
        let mut inner = self.inner();
        let Some(known) = inner.stamped.get(job).map(|job| Job::clone(job)) else { return };
        self.take(&mut inner, &Arc::new(Job { admin_comment: key.to_owned(), ..known }));
    }

    fn take(&self, inner: &mut Inner, job: &Arc<Job>) {
        let aside = reason::stands_aside(&job.reason);
        for id in job.parts.iter().map(|part| part.id).chain([job.id]) {
            let priority = (id == job.id).then(|| job.priority.unwrap_or(0));
            inner.partitions.insert(id, (job.partition.clone(), aside, priority));
        }
        if let Some(stamp) = Stamp::of(job) {
            let changed = inner.stamped.get(job.id).is_none_or(|old| old != job);
            if changed {
                inner.stamped.put(stamp.clone(), job.clone());
                // Nobody listening is fine.
                let _ = self.changes.send((stamp, job.clone()));
            }
        } else {
            // An id that has come back: it is nobody's of ours any more.
            inner.stamped.remove(job.id);
        }
        inner.show(job.id, Seen::Job(job.clone()));
    }

    /// Drops a job that slurmctld does not know; where its id is another's by now, that one stays.
    pub(crate) fn forget(&self, job: JobId, own: impl FnOnce(&Stamp) -> bool) {
        let mut inner = self.inner();
        let stamp = inner.stamped.get(job).and_then(|job| Stamp::of(job));
        if stamp.is_none_or(|stamp| own(&stamp)) {
            inner.stamped.remove(job);
            inner.tracked.remove(&job);
        }
    }

    /// A job may have come to be that nobody knows the id of: lists every job and waits for it. One that
    /// names none has to be proven, for the job would be made again.
    pub(crate) async fn list_in_doubt(&self) {
        let asked = self.begun.load(Ordering::SeqCst);
        self.inner().emptiness = Emptiness::Unproven { asked };
        self.list_again().await;
    }

    /// Lists every job now and waits for it: after any doubt.
    pub(crate) async fn list_again(&self) {
        let mut lists = self.lists.listen();
        // A list that is under way may have been answered before the doubt arose.
        let next = self.begun.load(Ordering::SeqCst) + 1;
        self.refresh.notify_one();
        lists.until(|n| *n >= next).await;
    }

    /// Lists every job now and waits for it, or for Slurm not to answer: once it does again, the list
    /// comes before anything else.
    pub(crate) async fn catch_up(&self) {
        let mut health = self.health();
        tokio::select! {
            biased;
            () = self.list_again() => {}
            () = health.until(|health| matches!(health, Health::Down(_))) => {}
        }
    }

    /// Polls until `stop`.
    pub(crate) async fn poll(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut next_full: Option<Instant> = None;
        let mut reasons = Instant::now();
        let mut ends = Instant::now();
        let mut next_list = Instant::now();
        let mut next_boot = Instant::now();
        // slurmctld has begun anew, then, and not everything has been read again.
        let mut doubt = None;
        while !stop.is_cancelled() {
            let asked_again = timeout(Duration::ZERO, self.refresh.notified()).await.is_ok();
            let due = asked_again || next_full.is_none_or(|at| Instant::now() >= at);
            let result = async {
                let asked = self.now();
                let ask_boot = self.health.now() != Health::Up || Instant::now() >= next_boot;
                if ask_boot {
                    doubt = self.has_begun_anew().await?.or(doubt);
                    next_boot = Instant::now() + SLOW;
                }
                if due || doubt.is_some() {
                    let began = Instant::now();
                    self.list().await?;
                    next_full = Some(Instant::now() + FULL.max(began.elapsed() * BREATHERS));
                }
                let (waiting, took) = self.states().await?;
                if let Some(boot) = doubt.take() {
                    self.inner().boot = boot;
                    self.restarts.ring(|count| *count += 1);
                } else if ask_boot {
                    self.inner().ended.saved(asked);
                }
                if !waiting.is_empty() && reasons.elapsed() >= REASONS {
                    reasons = Instant::now();
                    self.reasons(&waiting, &mut next_list).await?;
                }
                let often = if self.anything_pending() { ENDS.0 } else { ENDS.1 };
                if ends.elapsed() >= often {
                    ends = Instant::now();
                    self.fetch(&self.whose_end_was_read_longest_ago()).await?;
                }
                let pause = if waiting.is_empty() { SLOW } else { patience(took) };
                Ok::<Duration, gangway_slurm::Error>(pause)
            };
            let pause = match result.await {
                Ok(pause) => {
                    self.inner().heard = Some(Instant::now());
                    self.set_health(Health::Up);
                    pause
                }
                Err(error) => {
                    self.set_health(Health::Down(explain(&error)));
                    if asked_again {
                        self.refresh.notify_one();
                    }
                    SLOW
                }
            };
            let wait = async {
                tokio::select! {
                    biased;
                    () = self.nudge.notified() => {}
                    () = self.refresh.notified() => self.refresh.notify_one(),
                    () = stop.cancelled() => {}
                }
            };
            // Running out of time is the ordinary case.
            let _ = timeout(pause, wait).await;
        }
        Ok(())
    }

    fn set_health(&self, health: Health) {
        self.metrics.slurm_up.set(i64::from(health == Health::Up));
        self.health.ring_if(|old| {
            if *old == health {
                return false;
            }
            match &health {
                Health::Down(why) => tracing::warn!(why, "Slurm does not answer"),
                _ => tracing::info!("Slurm answers"),
            }
            *old = health;
            true
        });
    }

    /// Lists all jobs and keeps the stamped ones.
    async fn list(&self) -> Result<(), gangway_slurm::Error> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let (asked, as_of) = (Instant::now(), crate::wall::now().as_second());
        let whole = self.whole_list(number).await?;
        let jobs: Vec<Arc<Job>> = whole.jobs.into_iter().map(Arc::new).collect();
        failpoint::pass(Point::JobsListed);
        {
            let mut inner = self.inner();
            inner.partitions.clear();
            let present: HashSet<JobId> = jobs.iter().map(|j| j.id).collect();
            // An ended job that Slurm has purged is forgotten; a live one that is missing is asked for
            // by its id (rule 6). Nobody is forgotten for a list that names no job at all.
            let (none, over) = (present.is_empty(), Standing::Over);
            inner.stamped.retain(|job| none || present.contains(&job.id) || job.standing() != over);
            inner.noted.retain(|_, at| *at >= asked);
            for job in &jobs {
                if !inner.noted.contains_key(&job.id) {
                    self.take(&mut inner, job);
                }
            }
            let last_update = whole.last_update;
            inner.listing = Some(Listing { jobs: Arc::new(jobs), as_of, last_update, asked });
        }
        self.lists.ring(|last| *last = number);
        Ok(())
    }

    /// Reads all states and fetches the tracked jobs that changed. Returns the tracked jobs that wait,
    /// and how long reading the states took.
    async fn states(&self) -> Result<(Vec<JobId>, Duration), gangway_slurm::Error> {
        let asked = Instant::now();
        let states: HashMap<JobId, JobState> = self.slurm.job_states().await?.into_iter().collect();
        let took = asked.elapsed();
        self.metrics.last_poll.set(crate::wall::now().as_second());
        let mut changed = Vec::new();
        let mut waiting = Vec::new();
        {
            let mut inner = self.inner();
            let inner = &mut *inner;
            inner.tracked.retain(|_, sender| sender.receiver_count() > 0);
            inner.heeded.retain(|id| inner.tracked.contains_key(id));
            let endings = inner.states.iter().filter(|(id, old)| {
                old.standing() == Standing::Holding
                    && states.get(id).is_none_or(|new| new.standing() != Standing::Holding)
            });
            inner.endings += u64::try_from(endings.count()).unwrap_or(0);
            for (id, sender) in &inner.tracked {
                let state = states.get(id);
                if state.is_some_and(|s| s.standing() == Standing::Waiting) {
                    waiting.push(*id);
                }
                // Read by itself since: the list is older news.
                let newer = inner.noted.get(id).is_some_and(|at| *at >= asked);
                let known = match &*sender.borrow() {
                    Seen::Job(job) => newer || is_as_seen(job, &states),
                    Seen::NoSuchJob => state.is_none(),
                    Seen::Nothing => false,
                };
                if !known {
                    changed.push(*id);
                    // Nobody is bound for what it was before, however long reading it anew may take.
                    let ends = state.is_some_and(|s| s.standing() != Standing::Holding);
                    sender.send_if_modified(|seen| ends && seen.unread());
                }
            }
            // A live stamped job that nobody follows yet still has to be seen changing.
            let untracked = inner.stamped.iter().map(|(_, job)| job).filter(|job| {
                !inner.tracked.contains_key(&job.id)
                    && states.contains_key(&job.id)
                    && !is_as_seen(job, &states)
            });
            changed.extend(untracked.map(|job| job.id));
            inner.states = states;
            inner.states_asked = Some(asked);
        }
        self.fetch(&changed).await?;
        Ok((waiting, took))
    }

    /// Running jobs whose end has to be known, a few at a time.
    fn whose_end_was_read_longest_ago(&self) -> Vec<JobId> {
        let inner = self.inner();
        let holds = |id: &&JobId| {
            inner.states.get(id).is_some_and(|state| state.standing() == Standing::Holding)
        };
        let mut heeded: Vec<JobId> = inner.heeded.iter().filter(holds).copied().collect();
        heeded.sort_by_key(|id| (inner.noted.get(id).copied(), *id));
        heeded.truncate(ONE_BY_ONE);
        heeded
    }

    async fn fetch(&self, jobs: &[JobId]) -> Result<(), gangway_slurm::Error> {
        // In one order: which of them are looked at must not hang on how a map lies in memory.
        let jobs: BTreeSet<JobId> = jobs.iter().copied().collect();
        let asked = Instant::now();
        let fetched = futures::future::join_all(jobs.iter().map(|id| self.slurm.job(*id))).await;
        for (id, job) in jobs.iter().zip(fetched) {
            match job? {
                // Old news is asked for again with the next states.
                Some(job) => {
                    self.note(job, asked);
                }
                None => self.inner().show(*id, Seen::NoSuchJob),
            }
        }
        Ok(())
    }

    /// Reads why the waiting placeholders wait: of a few all, of many those that were never told, and
    /// the others as often as it is cheap.
    async fn reasons(
        &self,
        waiting: &[JobId],
        next_list: &mut Instant,
    ) -> Result<(), gangway_slurm::Error> {
        if waiting.len() <= ONE_BY_ONE {
            return self.fetch(waiting).await;
        }
        let began = Instant::now();
        if began >= *next_list {
            self.list().await?;
            *next_list = Instant::now() + REASONS.max(began.elapsed() * BREATHERS);
            return Ok(());
        }
        let untold = {
            let inner = self.inner();
            let told = |id: &&JobId| {
                let seen = inner.tracked.get(id).map(|sender| sender.borrow());
                matches!(seen.as_deref(), Some(Seen::Job(job)) if !job.reason.is_empty())
            };
            let mut untold: Vec<_> = waiting.iter().filter(|id| !told(id)).copied().collect();
            untold.sort_unstable();
            untold.truncate(ONE_BY_ONE);
            untold
        };
        self.fetch(&untold).await
    }
}

/// Between two polls while something waits, where one took so long.
fn patience(took: Duration) -> Duration {
    (took * SLOWLY).clamp(FAST, SLOW).max(took / 2)
}

/// Whether a job and all of its components are still in the state they were last seen in.
fn is_as_seen(job: &Job, states: &HashMap<JobId, JobState>) -> bool {
    states.get(&job.id) == Some(&job.state)
        && job.parts.iter().all(|part| states.get(&part.id) == Some(&part.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_seen_soon_also_where_slurmctld_is_slow_to_answer() {
        let after = |ms: u64| patience(Duration::from_millis(ms)).as_millis();
        assert_eq!([after(1), after(90), after(600), after(1900)], [100, 360, 1000, 1000]);
        assert_eq!(
            after(8000),
            4000,
            "a poll that costs as much must not be most of what Slurm does"
        );
    }
}
