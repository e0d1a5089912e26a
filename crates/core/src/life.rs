//! The life of one gang on the Kubernetes side as a state machine: `step(state, event) -> (state, commands)`.
//!
//! The state is what one bridge remembers. All of it may be lost at any moment (rule 8): a machine that
//! starts anew beside the same pods and the same placeholder comes to the same end. What is to be done is
//! decided in [`crate::follow`] from what is seen now; here it is kept what has been done about it.
//! docs/reference/states.md shows the phases and the ways between them, and a test keeps it true.

mod phase;

use std::collections::{BTreeMap, BTreeSet};

pub use phase::Phase;

use crate::eligible::Reach;
use crate::follow::{Action, Asked, Facts, Plan, Progress, Spot, Verdict, decide, without_a_node};
use crate::gang::Assembled;

/// Pause after a call that failed, before the gang is looked at again (ms).
pub const RETRY_MS: i64 = 500;
/// A binding or eviction that was answered is not sent again for so long (ms), while the watch catches up.
pub const SETTLE_MS: i64 = 5_000;

/// What a bridge remembers of one gang.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Life {
    verdict: Option<Verdict>,
    progress: Progress,
    /// Writes that were answered well lately, and when.
    sent: BTreeMap<(Write, String), i64>,
    /// When nodes were last given back to ask for others.
    gave_back: Option<i64>,
    /// Something failed: look again then.
    retry: Option<i64>,
}

/// A write about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Write {
    /// Its binding.
    Bind,
    /// Its eviction.
    Evict,
    /// The word that it has to leave, or that it may stay.
    Warn,
    /// For whom it stands in.
    StandIn,
}

/// Something that has happened, as far as this bridge knows.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The gang was looked at: its pods, and for each seat of its allocation, by pod uid, where it is.
    /// The only event that is answered with commands.
    Looked {
        /// The gang as its pods are now.
        assembled: &'a Assembled,
        /// Its seats.
        spots: &'a BTreeMap<String, Spot>,
    },
    /// The door has said this of its placeholder.
    Heard(Verdict),
    /// The door has closed. The question has to be put again, unless the last word was said.
    Closed {
        /// It closed because it could not go on.
        broken: bool,
    },
    /// The question was put for these pods; where it could not be, `ok` is false.
    Asked {
        /// The gang that was asked for.
        assembled: &'a Assembled,
        /// Whether the door took it.
        ok: bool,
    },
    /// Bindings are about to be sent.
    Binding {
        /// Whether a member is bound already.
        some_bound: bool,
    },
    /// A write about a pod was answered.
    Wrote {
        /// What it was.
        write: Write,
        /// Pod uid.
        pod: &'a str,
        /// Whether it is as was wanted.
        ok: bool,
    },
    /// The members were told, before this bridge began, that they may stay until then (ms).
    Recalled(i64),
    /// A claim was told its node.
    Told {
        /// Its uid.
        claim: &'a str,
        /// Whether it knows.
        ok: bool,
    },
    /// The latest attempt of the gang that there is in Slurm; 0 for none. Where nobody could say, `None`.
    Learned(Option<u32>),
    /// The placeholder was given back for good.
    Released {
        /// Whether Slurm was told.
        ok: bool,
    },
    /// The placeholder was given back to ask for the same pods again.
    GivenBack {
        /// Whether Slurm was told.
        ok: bool,
    },
}

/// One step: what is remembered from now on, and what to do. `now` is in milliseconds since any fixed
/// point; commands are idempotent and fenced, so one that is lost or comes too late does no harm.
pub fn step(mut life: Life, event: Event<'_>, now: i64) -> (Life, Plan) {
    match event {
        Event::Looked { assembled, spots } => {
            let plan = life.look(assembled, spots, now);
            return (life, plan);
        }
        Event::Heard(verdict) => life.heard(verdict, now),
        Event::Closed { broken } => life.closed(broken),
        Event::Asked { assembled, ok } => life.asked(assembled, ok, now),
        Event::Binding { some_bound } => life.binding(some_bound, now),
        Event::Wrote { write, pod, ok } => {
            if ok {
                life.sent.insert((write, pod.to_owned()), now);
            }
            life.unless(ok, now);
        }
        Event::Recalled(by) => life.progress.recalled = Some(by),
        Event::Told { claim, ok } => {
            if ok {
                let (often, at) = life.progress.claims.entry(claim.to_owned()).or_default();
                (*often, *at) = (*often + 1, now);
            }
            life.unless(ok, now);
        }
        Event::Learned(latest) => {
            life.progress.latest = latest;
            life.unless(latest.is_some(), now);
        }
        Event::Released { ok } => {
            life.progress.released = ok;
            life.unless(ok, now);
        }
        Event::GivenBack { ok } => {
            if ok {
                life.begin_anew();
                life.gave_back = Some(now);
            }
            life.unless(ok, now);
        }
    }
    (life, Plan::default())
}

impl Life {
    /// The latest word on its placeholder.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// What has been done so far.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Everything a decision about the gang is made from.
    pub fn facts<'a>(
        &'a self,
        assembled: &'a Assembled,
        spots: &'a BTreeMap<String, Spot>,
    ) -> Facts<'a> {
        Facts { assembled, verdict: self.verdict.as_ref(), progress: &self.progress, spots }
    }

    /// Something failed: look again then (ms), if nothing happens before.
    pub fn retry(&self) -> Option<i64> {
        self.retry
    }

    /// Where it is in its life.
    pub fn phase(&self, assembled: &Assembled) -> Phase {
        Phase::of(&self.facts(assembled, &BTreeMap::new()))
    }

    fn look(&mut self, assembled: &Assembled, spots: &BTreeMap<String, Spot>, now: i64) -> Plan {
        self.retry = None;
        self.notice(assembled, spots, now);
        self.sent.retain(|_, at| now - *at < SETTLE_MS);
        let mut plan = decide(&self.facts(assembled, spots), now);
        if plan.actions.contains(&Action::NewRound) {
            self.begin_anew();
            self.notice(assembled, spots, now);
            let more = decide(&self.facts(assembled, &BTreeMap::new()), now);
            plan.actions.retain(|action| *action != Action::NewRound);
            plan.actions.extend(more.actions);
            plan = Plan { actions: plan.actions, ..more };
        }
        for action in &plan.actions {
            match action {
                Action::Warn { leave: Some((in_ms, _)), .. } => {
                    let by = Some(now + in_ms);
                    if self.progress.leave_by != by {
                        // What was answered lately said something else.
                        self.sent.retain(|(write, _), _| *write != Write::Warn);
                    }
                    self.progress.leave_by = by;
                }
                Action::Warn { leave: None, .. } => {
                    (self.progress.leave_by, self.progress.recalled) = (None, None);
                }
                _ => {}
            }
        }
        self.hold_back(&mut plan, now);
        plan
    }

    /// What is seen changes what is remembered.
    fn notice(&mut self, assembled: &Assembled, spots: &BTreeMap<String, Spot>, now: i64) {
        let members = &assembled.gang.members;
        let since = |holds: bool, before: Option<i64>| holds.then(|| before.unwrap_or(now));
        let finished = !members.is_empty() && members.iter().all(|m| m.finished);
        self.progress.finished_since = since(finished, self.progress.finished_since);
        if members.iter().any(|m| !m.finished) || !assembled.leaving.is_empty() {
            // What there is may be for these.
            self.progress.latest = None;
        }
        let bound = || members.iter().filter(|m| m.bound.is_some());
        if bound().next().is_none() {
            // Whatever was tried before is over: the next bind is a first one.
            self.progress.all_bound = false;
            self.progress.held.clear();
        } else if bound().count() == members.len() && assembled.gang.complete() {
            self.progress.all_bound = true;
        }
        self.progress.held.extend(bound().map(|m| (m.rank, m.uid.clone())));
        if assembled.torn && !self.progress.all_bound && bound().next().is_some() {
            // Whoever began it has gone (rule 8); its time counts from when it was found so.
            self.progress.first_bind.get_or_insert(now);
        }
        let unmade = spots.values().any(|s| matches!(s, Spot::Volumes { .. }));
        self.progress.volumes_since = since(unmade, self.progress.volumes_since);
        let lost = without_a_node(&self.facts(assembled, spots)).next().is_some();
        self.progress.lost_since = since(lost, self.progress.lost_since);
    }

    /// Takes out of a plan what was answered lately and the watch has yet to show; the gang is looked at
    /// again, in case it never does. Slurm would also give the same nodes again before it has heard which
    /// are shut.
    fn hold_back(&self, plan: &mut Plan, now: i64) {
        let all = plan.actions.len();
        plan.actions.retain(|action| match action {
            Action::Bind { pod, .. } => !self.sent.contains_key(&(Write::Bind, pod.clone())),
            Action::Evict { pod, .. } => !self.sent.contains_key(&(Write::Evict, pod.clone())),
            Action::Warn { pod, .. } => !self.sent.contains_key(&(Write::Warn, pod.clone())),
            Action::StandIn { pod, .. } => !self.sent.contains_key(&(Write::StandIn, pod.clone())),
            Action::GiveBack { .. } => self.gave_back.is_none_or(|at| now - at >= RETRY_MS),
            _ => true,
        });
        if plan.actions.len() < all {
            plan.wake_by(now + RETRY_MS);
        }
    }

    fn heard(&mut self, verdict: Verdict, now: i64) {
        if let Verdict::Allocated { ends, .. } = &verdict {
            self.progress.ends = ends.map(|ends| (now + ends.in_ms, ends.by_time_limit));
        }
        if let Some(asked) = &self.progress.asked {
            self.progress.weighed.clone_from(&asked.bound_for);
        }
        self.verdict = Some(verdict);
    }

    fn closed(&mut self, broken: bool) {
        let told = matches!(self.verdict, Some(Verdict::Refused(_) | Verdict::Ended { .. }));
        if broken || !told {
            self.verdict = None;
            self.progress.asked = None;
        }
    }

    fn asked(&mut self, assembled: &Assembled, ok: bool, now: i64) {
        if ok {
            let gang = &assembled.gang;
            let unfinished = gang.members.iter().filter(|m| !m.finished);
            let bound = unfinished.clone().filter(|m| m.bound.is_some()).count();
            let pods: BTreeSet<String> = unfinished.map(|m| m.uid.clone()).collect();
            let at = self.progress.asked.as_ref().map_or(now, |asked| asked.at);
            let bound_for = gang.members.iter().filter_map(|m| Some(m.bound.as_ref()?.job));
            let bound_for = bound_for.collect();
            let reach = Reach::of(gang);
            let policies = assembled.policies;
            self.progress.asked = Some(Asked { pods, at, reach, bound, bound_for, policies });
            self.progress.others.clone_from(&gang.ask.others);
            self.progress.released = false;
        }
        self.unless(ok, now);
    }

    fn binding(&mut self, some_bound: bool, now: i64) {
        if some_bound {
            self.progress.first_bind.get_or_insert(now);
        } else {
            // Nobody is bound, so whatever was tried before is over: time counts from here.
            self.progress.first_bind = Some(now);
            self.progress.began = true;
        }
    }

    fn unless(&mut self, ok: bool, now: i64) {
        if !ok {
            self.retry = Some(now + RETRY_MS);
        }
    }

    fn begin_anew(&mut self) {
        self.progress = Progress::default();
        self.verdict = None;
    }
}

#[cfg(test)]
#[path = "life/tests.rs"]
mod tests;
