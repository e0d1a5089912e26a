//! One gang's placeholder from the first question to its end.

mod depend;
mod given;
mod granted;
mod lost;
mod rivals;
mod seats;
mod words;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lost::Lost;
use seats::seat;
use words::{ended, queued};

use futures::future::join_all;
use gangway_core::follow::{Ends, Verdict};
use gangway_core::gang::Gang;
use gangway_core::job::{Allocation, Job, JobId, Standing};
use gangway_core::place::{PlaceError, Seat};
use gangway_core::placeholder::{SAVED_AFTER_MS, Stamp, Step, fingerprint, next};
use gangway_core::policy::grant;
use gangway_core::translate::Roles;
use gangway_core::{reason, translate};
use gangway_slurm::SlurmCode;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument as _;

use super::board::Seen;
use super::submit::Submitted;
use super::{Entry, Health, Key, Queue, RETRY, Release, bound_for, shuns_heterogeneous};
use crate::chain::explain;
use crate::failpoint::{self, Point};
use crate::planted::{self, Bug};

/// While a gang has another placeholder, its question is closed after so long, to be put again.
const CONTESTED: Duration = Duration::from_secs(2);
/// Slurm's number for a node name that it does not know.
const INVALID_NODE: u32 = SlurmCode::INVALID_NODE_NAME.0.unsigned_abs();

/// What ends the following of a gang.
enum Next {
    /// Look again at what Slurm lists.
    Again,
    /// The same, once everything has been listed anew: what was known may be of another job.
    Doubt,
    /// slurmctld does not know a job that pods are, or may be, bound for.
    Lost(Lost),
    /// It is over, and this is the last word on it, if there is one.
    Done(Option<Verdict>),
}

impl Queue {
    /// Follows a gang until it has been refused, has ended, or the bridge stops. Returns the last word
    /// on it.
    pub(super) async fn follow(&self, entry: &Entry) -> Option<Verdict> {
        let mut looks = !planted::grows(Bug::SubmitsTwice);
        let mut lost: Option<Lost> = None;
        while !self.stop.is_cancelled() {
            if !self.slurm_answers(entry).await {
                continue;
            }
            let gang = entry.weigh();
            if let Err(error) = self.learn(entry, &gang).await {
                entry.say(unreachable(&explain(&error)));
                self.pause(entry).await;
                continue;
            }
            let mut listed = self.placeholders(entry, &gang);
            if !std::mem::replace(&mut looks, true) {
                listed.clear();
            }
            if self.ends_again(&gang, &listed) {
                self.pause(entry).await;
                continue;
            }
            let (step, duplicates) = next(&entry.key.cluster, &gang, &listed);
            for job in duplicates {
                self.end_duplicate(&listed, job).await;
            }
            let step = match (step, &lost) {
                // Pods may be bound for it although the gang, as it was asked for, does not say so.
                (Step::Submit { .. }, Some(Lost { job, generation, .. })) => {
                    Step::Lost { job: *job, generation: *generation }
                }
                (step, _) => step,
            };
            let outcome = match step {
                Step::Submit { .. } if entry.releasing().is_some() => Next::Done(None),
                Step::Submit { stamp } => self.submit_one(entry, &gang, &stamp, None).await,
                Step::Follow { job, generation } => {
                    // Of one that was asked for in its place it may have to be known again.
                    lost = lost.filter(|lost| lost.job != job);
                    let following = self.follow_job(entry, job, generation, None);
                    following.instrument(entry.key.span(Some(job))).await
                }
                Step::Over { job, generation, state } => {
                    let job = listed.iter().find(|(_, j)| j.id == job).map(|(_, j)| j);
                    debug_assert!(job.is_some(), "{state:?} came from this list");
                    Next::Done(job.map(|job| ended(job, generation)))
                }
                Step::Lost { job, generation } => {
                    let known = lost.filter(|l| l.job == job && l.generation == generation);
                    let known = known.unwrap_or(Lost { job, generation, alive: None, denials: 0 });
                    lost = Some(known);
                    self.ask_accounting(entry, &gang, &listed, known).await
                }
            };
            match outcome {
                Next::Again => {}
                Next::Doubt => self.list_in_doubt().await,
                Next::Lost(now) => lost = Some(now),
                Next::Done(last) => return last,
            }
        }
        None
    }

    /// Whether Slurm answers; if not, says so and waits a little.
    async fn slurm_answers(&self, entry: &Entry) -> bool {
        let mut health = self.board.health();
        let now = health.hear();
        match now {
            Health::Up => return true,
            Health::Unknown => {}
            Health::Down(why) => entry.say(unreachable(&why)),
        }
        // Either Slurm is heard of again or the loop looks anew; both are fine.
        let _ = timeout(RETRY, health.changed()).await;
        false
    }

    /// A placeholder of the gang that was ended lives again, for slurmctld has forgotten its end. It is being
    /// ended once more ([`Queue::keep_ended`]), and nobody is bound for it meanwhile (rule 4).
    fn ends_again(&self, gang: &Gang, listed: &[(Stamp, Job)]) -> bool {
        let own = |id: JobId| listed.iter().any(|(_, job)| job.id == id);
        let revived = self.board.revived();
        let mut of_gang = revived.iter().map(|(job, _)| job.id).filter(|id| own(*id));
        of_gang.any(|id| bound_for(gang).all(|bound| bound != id))
    }

    async fn end_duplicate(&self, listed: &[(Stamp, Job)], id: JobId) {
        let Some((stamp, job)) = listed.iter().find(|(_, j)| j.id == id) else { return };
        self.metrics.surplus.with_label_values(&["duplicate"]).inc();
        // Written first: whoever else follows it must not take its end for that of the pods.
        let ended = async {
            self.seal_as(id, &stamp.given_back().to_text()).await?;
            self.end(job, "another placeholder of the same gang was bound for").await
        };
        if let Err(error) = ended.await {
            tracing::warn!(job = id.0, error = explain(&error), "could not end a duplicate");
        }
    }

    /// Whether this gang's roles may be components of their own.
    async fn roles(&self, gang: &Gang) -> Result<Roles, gangway_slurm::Error> {
        let several = translate::groups(gang, &self.table, Roles::Apart).is_ok_and(|g| g.len() > 1);
        if !several || shuns_heterogeneous(&self.slurm, self.heterogeneous).await?.is_none() {
            return Ok(Roles::Apart);
        }
        let cost = translate::cost_of_levelling(gang, &self.table);
        tracing::warn!(?cost, "roles are levelled");
        Ok(Roles::Levelled)
    }

    /// Asks for a placeholder; `id` is the one that its pods carry, where it had been accepted before.
    async fn submit_one(
        &self,
        entry: &Entry,
        gang: &Gang,
        stamp: &Stamp,
        id: Option<JobId>,
    ) -> Next {
        let roles = match self.roles(gang).await {
            Ok(roles) => roles,
            Err(error) => return self.later(entry, &explain(&error)).await,
        };
        let policy = self.policy.borrow().clone();
        let request = grant(&policy, &gang.namespace, &gang.ask).and_then(|grant| {
            let request = translate::placeholder(gang, &grant, stamp, &self.table, roles)?;
            Ok((request, grant.immediate()))
        });
        let (mut request, immediate) = match request {
            Ok(request) => request,
            Err(refusal) => {
                return Next::Done(Some(Verdict::Refused(refusal)));
            }
        };
        let began = Instant::now();
        let cut = async {
            let shunned = self.shunned(&entry.key.cluster).await?;
            let shunned = shunned.map(|shunned| shunned.nodes).unwrap_or_default();
            self.cut(&mut request, gang.ask.exclude.as_deref(), &shunned).await
        };
        match cut.await {
            Ok(None) => {}
            Ok(Some(refusal)) => return Next::Done(Some(Verdict::Refused(refusal))),
            Err(error) => return self.later(entry, &explain(&error)).await,
        }
        match self.settle(entry, gang).await {
            Ok(left) => request.options.dependency = left,
            Err(next) => return next,
        }
        entry.submitted.store(stamp.generation, Ordering::Relaxed);
        entry.is_granted_by(&policy);
        let doubted = entry.doubted.load(Ordering::Relaxed);
        let at_once = immediate && !doubted && !request.options.needs_queue() && id.is_none();
        match self.submit_typed(stamp, &request, at_once, id).await {
            Submitted::As(job, granted) => {
                let following = self.follow_job(entry, job, stamp.generation, granted);
                following.instrument(entry.key.span(Some(job))).await
            }
            // A node that was excluded is gone since its partition was read.
            Submitted::Refused(refusal)
                if refusal.slurm_code == INVALID_NODE && self.reaches.was_stale(began).await =>
            {
                Next::Again
            }
            Submitted::Refused(refusal) => Next::Done(Some(Verdict::Refused(refusal))),
            Submitted::Later(why) => self.later(entry, &why).await,
            Submitted::Doubt(why) => {
                entry.doubted.store(true, Ordering::Relaxed);
                tracing::warn!(why, "a submit is in doubt; looking for its job");
                entry.say(unreachable(&why));
                Next::Doubt
            }
        }
    }

    /// Slurm could not be asked: says so, and the gang is looked at again in a while.
    async fn later(&self, entry: &Entry, why: &str) -> Next {
        entry.say(unreachable(why));
        self.pause(entry).await;
        Next::Again
    }

    async fn pause(&self, entry: &Entry) {
        // Being woken early is the purpose.
        let _ = timeout(RETRY, entry.changed.notified()).await;
    }

    /// Follows one job while it waits and runs, in its span; `granted` is what it has just been given, where
    /// that is known.
    async fn follow_job(
        &self,
        entry: &Entry,
        id: JobId,
        generation: u32,
        mut granted: Option<Allocation>,
    ) -> Next {
        entry.follows(id, generation);
        let mut seen = self.board.track(id);
        let mut gpu_news = self.atlas.gpu_news();
        let mut policy = self.policy.subscribe();
        let mut told = None;
        // The start in which the gang, as it was last asked for, has its seats.
        let start = |job: &Job| {
            let ends = (job.end_time, job.preempt_time);
            (job.nodes.clone(), job.start_time, warns(entry).then_some(ends))
        };
        let mut seated = None;
        let mut alive = None;
        let mut held_since = None;
        let mut restarts = self.board.restarts();
        let mut health = self.board.health();
        loop {
            if self.stop.is_cancelled() {
                return Next::Done(None);
            }
            let now = seen.borrow_and_update().clone();
            // Whoever has waited in between has been told so, and is told of its seats again.
            if matches!(&now, Seen::Job(job) if job.standing() == Standing::Holding) {
                held_since.get_or_insert_with(Instant::now);
            } else {
                (seated, held_since) = (None, None);
            }
            if let Seen::Job(job) = &now
                && job.standing() != Standing::Over
                && is_own(entry, job, generation)
            {
                alive = Some((self.board.boot(), job.submit_time));
            }
            let away = matches!(health.hear(), Health::Down(_));
            let mut retry = None;
            match now {
                // Nobody is bound for a start that Slurm says is over.
                Seen::Nothing => {
                    let told = matches!(&*entry.verdict.borrow(), Some(Verdict::Allocated { .. }));
                    if told {
                        entry.say(unreachable("its state has changed, and is being read"));
                    }
                }
                // State that slurmctld lost, or purged: only its listing and accounting can tell.
                Seen::NoSuchJob => {
                    return self.vanished(entry, Lost { job: id, generation, alive, denials: 0 });
                }
                // So does an id that was given to another job meanwhile.
                Seen::Job(job) if !is_own(entry, &job, generation) => {
                    tracing::warn!("Slurm has given the id of a lost placeholder to another job");
                    return self.vanished(entry, Lost { job: id, generation, alive, denials: 0 });
                }
                Seen::Job(job) => match job.standing() {
                    Standing::Over if self.superseded(entry, &job).await => return Next::Again,
                    Standing::Over => {
                        return Next::Done(Some(ended(&job, generation)));
                    }
                    _ if let Some(release) = entry.releasing() => {
                        if !entry.is_about(&release, generation) {
                            return Next::Done(None);
                        }
                        self.insist(&release, &job).await;
                        retry = Some(RETRY);
                    }
                    Standing::Waiting
                        if self.takes_back(entry, &policy.borrow_and_update().clone(), &job) =>
                    {
                        if let Some(next) = self.take_back(&job).await {
                            return next;
                        }
                        retry = Some(RETRY);
                    }
                    Standing::Waiting => {
                        entry.say(queued(&job, &self.note(&entry.gang(), &job)));
                        let news = gpu_news.hear();
                        retry = self.keep_reach(entry, &job, news, &mut told).await;
                        match self.given_away(entry, &job, generation).await {
                            Ok(Some(next)) => return next,
                            Ok(None) => {}
                            Err(pause) => retry = Some(retry.map_or(pause, |at| at.min(pause))),
                        }
                    }
                    Standing::Unclear if job.broken() => {
                        tracing::warn!(parts = ?job.parts, "a component has ended; ending the others");
                        if let Err(error) = self.end(&job, "a component of it has ended").await {
                            tracing::warn!(
                                error = explain(&error),
                                "could not end the others; trying again"
                            );
                        }
                        retry = Some(RETRY);
                    }
                    Standing::Unclear => {
                        tracing::warn!(state = %job.state, flags = ?job.state.flags, says = job.state.explain(), "unclear state; waiting");
                    }
                    // slurmctld may come back without having heard of it (rule 2).
                    Standing::Holding if away && is_young(held_since, self.board.heard()) => {
                        seated = None;
                        entry.say(unreachable(
                            "a start that Slurm may have forgotten is looked at again first",
                        ));
                    }
                    Standing::Holding if seated == Some(start(&job)) => {}
                    Standing::Holding if self.asked_otherwise(entry, id) => return Next::Again,
                    Standing::Holding => {
                        let granted = granted.take();
                        if self.allocated(entry, &job, generation, granted, &seen).await {
                            seated = Some(start(&job));
                        } else {
                            retry = Some(RETRY);
                        }
                    }
                },
            }
            let contested = entry.releasing().is_none() && self.others(entry, id);
            let again = async {
                match retry {
                    Some(pause) => sleep(pause).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // News of Slurm first: whatever else wakes us is judged by what Slurm says now.
                biased;
                changed = seen.changed() => if changed.is_err() {
                    // The board has forgotten it, for slurmctld has: nothing more will be heard of it.
                    return self.vanished(entry, Lost { job: id, generation, alive, denials: 0 });
                },
                () = health.changed() => {}
                () = restarts.changed() => if self.others(entry, id) { return Next::Again },
                () = gpu_news.changed() => {}
                // It lives as long as the queue.
                _ = policy.changed() => {}
                () = entry.changed.notified() => {
                    if self.reconsiders(entry, id) {
                        return Next::Again;
                    }
                    seated = None;
                }
                // Whoever binds the gang is to ask again: for which of them it was bound decides.
                () = sleep(CONTESTED), if contested => return Next::Done(None),
                () = again => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Whoever released the gang has told Slurm; if the job lives on all the same (it was just being
    /// submitted, or the call failed), it is told again.
    async fn insist(&self, release: &Release, job: &Job) {
        if release.since.elapsed() >= RETRY
            && let Err(error) = self.end(job, &release.why).await
        {
            tracing::warn!(error = explain(&error), "could not release; trying again");
        }
    }

    /// The placeholder holds its nodes: seat the gang. `false`: try again.
    async fn allocated(
        &self,
        entry: &Entry,
        job: &Job,
        generation: u32,
        granted: Option<Allocation>,
        seen: &Receiver<Seen>,
    ) -> bool {
        self.seal(entry, job, generation);
        let Some((mut gang, number)) = entry.weighed() else { return false };
        // Those that are bound for another placeholder hold nothing of this one, and leave.
        for member in &mut gang.members {
            member.bound = member.bound.take().filter(|bound| bound.job == job.id);
        }
        let held = match translate::held_by(&gang, &self.table, job) {
            Ok(Some(held)) => held,
            Ok(None) => {
                return self.misfit(job, "its pods need other things than were asked for").await;
            }
            Err(refusal) => {
                entry.say(Verdict::Refused(refusal));
                return true;
            }
        };
        // A bridge that has just started reads what all gangs have: those that run come last. Whoever gets
        // no turn in time looks first whether something has happened meanwhile.
        let turn = async {
            match gang.is_seated(job.id) {
                true => self.rereads.acquire().await.ok(),
                false => None,
            }
        };
        let Ok(_turn) = timeout(RETRY, turn).await else { return false };
        let boot = self.board.boot();
        let is_news = granted.is_some();
        let answers = match granted {
            Some(granted) if job.parts.is_empty() => vec![Ok(granted)],
            _ => join_all(held.iter().map(|(_, part)| self.slurm.resources(*part))).await,
        };
        // Where slurmctld has begun anew the id may be somebody else's: the job is read again first.
        let same = self.board.was_said_by(boot, Instant::now());
        if !is_news && !same.await.is_ok_and(|same| same) {
            return false;
        }
        failpoint::pass(Point::AllocationRead);
        let mut seats: BTreeMap<String, Seat> = BTreeMap::new();
        for ((group, part), allocation) in held.iter().zip(answers) {
            let allocation = match allocation {
                Ok(allocation) => allocation,
                Err(error) => {
                    tracing::warn!(
                        part = part.0,
                        error = explain(&error),
                        "could not read the allocation"
                    );
                    return false;
                }
            };
            let topology = self.atlas.for_nodes(&self.slurm, &allocation).await;
            match seat(&gang, group, job.id, &allocation, &topology) {
                Ok(seated) => seats.extend(seated),
                // Slurm has taken nodes away or the gang has changed: these pods and this allocation
                // do not belong together.
                Err(
                    error @ (PlaceError::Outside { .. }
                    | PlaceError::Astray { .. }
                    | PlaceError::TooFew { .. }
                    | PlaceError::ShortOf { .. }
                    | PlaceError::TooManyDevices { .. }),
                ) => return self.misfit(job, &error.to_string()).await,
            }
        }
        if planted::grows(Bug::MovesRanks) && gang.members.iter().any(|m| m.bound.is_some()) {
            let ranks: Vec<u32> = seats.values().map(|seat| seat.rank).collect();
            let moved = ranks.iter().cycle().skip(1);
            seats.values_mut().zip(moved).for_each(|(seat, rank)| seat.rank = *rank);
        }
        let ends = match self.ends(&gang, job).await {
            Ok(ends) => ends,
            Err(error) => {
                tracing::warn!(error = explain(&error), "could not ask for Slurm's time");
                return false;
            }
        };
        let note = self.note(&gang, job);
        let pods = fingerprint(gang.founders().map(|m| m.uid.as_str()));
        let renewed = Stamp::of(job).is_some_and(|stamp| stamp.pods != pods);
        let verdict = Verdict::Allocated { job: job.id, generation, seats, note, ends, renewed };
        // Reading all this may have taken long, and Slurm may have said something else meanwhile.
        if seen.has_changed().unwrap_or(true) {
            return false;
        }
        entry.say_of(number, verdict)
    }

    /// When the job will end, by Slurm's own clock, where the gang asked to be warned.
    async fn ends(&self, gang: &Gang, job: &Job) -> Result<Option<Ends>, gangway_slurm::Error> {
        if gang.ask.grace_seconds.is_none() || job.end_time == 0 {
            return Ok(None);
        }
        self.board.heed(job.id);
        let now = self.slurm.diag().await?.now;
        failpoint::pass(Point::TimeRead);
        let in_seconds = job.end_time.saturating_sub(now);
        let by_time_limit = job.preempt_time == 0;
        Ok(Some(Ends { in_ms: in_seconds.saturating_mul(1_000), by_time_limit }))
    }

    /// Ends a placeholder that does not fit its gang: the pods leave, and a new round begins.
    async fn misfit(&self, job: &Job, why: &str) -> bool {
        tracing::error!(why, "the allocation does not fit its gang; ending it");
        if let Err(error) = self.end(job, why).await {
            tracing::warn!(error = explain(&error), "could not end it; trying again");
        }
        false
    }

    /// A placeholder that a bridge before us took at once may have its key in the comment alone.
    fn seal(&self, entry: &Entry, job: &Job, generation: u32) {
        let Key { cluster, gang } = &entry.key;
        if job.admin_comment.is_empty()
            && let Some(stamp) = Stamp::of(job).filter(|s| s.is_of(cluster, gang, generation))
        {
            self.seals.owe(job.id, stamp.to_text(), self.board.boot());
        }
    }

    /// What the user should know of how the gang was asked for; empty for nothing.
    fn note(&self, gang: &Gang, job: &Job) -> String {
        if !job.parts.is_empty() {
            return String::new();
        }
        translate::cost_of_levelling(gang, &self.table).unwrap_or_default()
    }
}

/// Whether the gang asked to be warned of its end.
fn warns(entry: &Entry) -> bool {
    entry.asked().0.ask.grace_seconds.is_some()
}

/// Whether a job carries the key of this attempt of the gang: ids are given again after slurmctld has
/// lost its memory (live-slurm.md, d).
fn is_own(entry: &Entry, job: &Job, generation: u32) -> bool {
    let Key { cluster, gang } = &entry.key;
    Stamp::of(job).is_some_and(|stamp| stamp.is_of(cluster, gang, generation))
}

/// Whether a start was first seen so shortly before slurmctld was last heard from that it may not have
/// been saved.
fn is_young(since: Option<Instant>, heard: Option<Instant>) -> bool {
    let saved = Duration::from_millis(SAVED_AFTER_MS.unsigned_abs());
    since.zip(heard).is_some_and(|(since, heard)| heard.saturating_duration_since(since) < saved)
}

fn unreachable(why: &str) -> Verdict {
    Verdict::Queued {
        job: None,
        reason: reason::UNREACHABLE.to_owned(),
        message: format!(
            "SlurmUnreachable: gangway cannot reach Slurm and goes on trying; nothing is lost ({why})"
        ),
        expected_start: 0,
    }
}
