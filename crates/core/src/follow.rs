//! The life of one gang on the Kubernetes side: facts in, a plan out.
//!
//! `decide` is called with what is seen now and says what to do now; it remembers nothing itself.
//! Every action is idempotent and fenced by pod uid, so a plan that comes too late does no harm.
//! Every ending has one owner here: pods gone → release, placeholder over → evict.
//! What can be bound now, and what must come first, is in `seating`.

mod leave;
mod plan;
mod rival;
mod seating;

use crate::eligible::{Nowhere, Reach};
use crate::gang::{Assembled, Bound, Member};
use crate::job::{BaseState, JobId};
use crate::place::Seat;
use crate::policy::Refusal;
use crate::reason::{DEPENDENCY, needs_a_person};

pub use plan::{Action, Asked, Cause, Ends, Facts, Plan, Progress, Report, Spot, Verdict};
pub(crate) use seating::without_a_node;
use seating::{Seating, Start, no_seat, stand_ins};

/// Milliseconds from the first bind of a gang until every member is bound or none stays (rule 3).
pub const ALL_BOUND_WITHIN_MS: i64 = 30_000;
/// A wait shorter than this is not worth a write to the pod.
pub const QUIET_MS: i64 = 1_000;
/// A refused gang is asked again after this long, in case the cause has gone.
pub const ASK_AGAIN_MS: i64 = 30_000;
/// A claim whose provisioner has given up is told its node again after this long, then after twice as
/// long, and so on.
pub const TELL_CLAIM_AGAIN_MS: i64 = 5_000;
/// Volumes that are not there this long after they were asked for: the nodes go back.
pub const VOLUMES_WITHIN_MS: i64 = 600_000;
/// A successor's seat that is lost to Kubernetes for so long is waited for no more under `replace`.
pub const LOST_FOR_MS: i64 = 5_000;
/// Finished pods of a workload that goes on may get successors; its placeholder is kept this long.
pub const LINGER_MS: i64 = 5_000;

/// The same where members are still to come whose pods are made only when others are ready: so
/// long may be between one stage and the next.
pub const STAGE_GAP_MS: i64 = 60_000;

/// Decides what to do for a gang. `now` is in milliseconds since any fixed point.
pub fn decide(facts: &Facts<'_>, now: i64) -> Plan {
    if let Some(plan) = nobody_left(facts, now) {
        return plan;
    }
    match facts.verdict {
        Some(Verdict::Ended { job, generation, state, message }) => {
            placeholder_over(facts, (*job, *generation), state, message, now)
        }
        Some(Verdict::Allocated { job, generation, seats, renewed, .. }) => {
            let start = Start { job: *job, generation: *generation, seats };
            allocated(facts, &start, *renewed, now)
        }
        Some(Verdict::Refused(refusal)) => refused(facts, refusal, now),
        Some(Verdict::Queued { job: None, reason, .. })
            if reason == DEPENDENCY && others_changed(facts) =>
        {
            Plan::act(Action::Ask)
        }
        Some(Verdict::Queued { job, reason, message, .. }) => {
            // Which workload is waited for is news; how Slurm words its reason is not.
            let ours = job.is_none() && reason == DEPENDENCY;
            queued(facts, reason, if ours { message } else { reason }, message, now)
        }
        None => ask(facts, now),
    }
}

/// Members whose containers may still run or start.
fn unfinished<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a Member> {
    facts.assembled.gang.members.iter().filter(|m| !m.finished)
}

/// Pods that stand in for members of the gang beside this placeholder of it, and may still run or start.
fn beside<'a>(facts: &Facts<'a>, job: JobId) -> impl Iterator<Item = &'a Member> {
    let all = facts.assembled.stand_ins.iter().filter(move |s| s.job == job);
    all.map(|s| &s.member).filter(|m| !m.finished)
}

/// No pod is left, or all have ended: the placeholder goes back, but never while a pod is still
/// on its way out (rule 4: a node is given back only when its pod has ended).
fn nobody_left(facts: &Facts<'_>, now: i64) -> Option<Plan> {
    let Assembled { gang, leaving, over, .. } = facts.assembled;
    if unfinished(facts).next().is_some() {
        return None;
    }
    // Whoever stands in leaves with the others, also where these are gone already.
    if let Some(Verdict::Ended { job, .. }) = facts.verdict
        && !facts.progress.released
        && beside(facts, *job).next().is_some()
    {
        return None;
    }
    if !leaving.is_empty() {
        return Some(Plan::default());
    }
    let given_back =
        facts.progress.released || matches!(facts.verdict, Some(Verdict::Ended { .. }));
    if gang.members.is_empty() {
        let mut plan =
            if given_back { Plan::default() } else { release(facts, "its pods are gone") };
        if !plan.actions.contains(&Action::Inquire) {
            plan.actions.push(Action::Forget);
        }
        return Some(plan);
    }
    if given_back {
        return Some(Plan::default());
    }
    // All have ended. After a restart they are found so, and nothing more will come of them.
    let staged = gang.absent().next().is_some();
    let linger = if staged { STAGE_GAP_MS } else { LINGER_MS };
    let until = facts.progress.finished_since.unwrap_or(now) + linger;
    if *over || gang.expected <= 1 || facts.progress.asked.is_none() || now >= until {
        return Some(release(facts, "its pods have finished"));
    }
    Some(Plan { wake: Some(until), ..Plan::default() })
}

/// Gives back what there was before nobody was seen to be left. First it is found out what that is, and then
/// looked again: what another bridge begins after that look is for pods that came after it.
fn release(facts: &Facts<'_>, why: &str) -> Plan {
    Plan::act(match facts.progress.latest {
        None => Action::Inquire,
        Some(generation) => Action::Release { why: why.to_owned(), generation },
    })
}

/// The placeholder is over: its pods leave, and what its controller makes anew is a new round.
fn placeholder_over(
    facts: &Facts<'_>,
    (job, generation): (JobId, u32),
    state: &BaseState,
    message: &str,
    now: i64,
) -> Plan {
    let asked = facts.progress.asked.as_ref();
    let of_this_round = |m: &&Member| match &m.bound {
        // Of one generation there may be another placeholder, which this says nothing of.
        Some(bound) => bound.generation < generation || bound.job == job,
        None => asked.is_some_and(|a| a.pods.contains(&m.uid)),
    };
    let members = unfinished(facts).filter(of_this_round);
    let leaving: Vec<&Member> = members.chain(beside(facts, job)).collect();
    if leaving.is_empty() {
        return Plan::act(Action::NewRound);
    }
    leave::after_its_end(facts, &leaving, state, message, now)
}

/// Asks for room once the gang is there and sound; members that are bound already (this is a
/// restart) are asked for in any case, to find their placeholder.
fn ask(facts: &Facts<'_>, now: i64) -> Plan {
    if facts.progress.asked.is_some() {
        return Plan { wake: Some(now + QUIET_MS), ..Plan::default() };
    }
    let gang = &facts.assembled.gang;
    if unfinished(facts).any(|m| m.bound.is_some()) {
        return Plan::act(Action::Ask);
    }
    if let Some(plan) = leave::left_over(facts) {
        return plan;
    }
    if !facts.assembled.problems.is_empty() {
        return Plan::say("Refused", facts.assembled.problems.join("; "), true);
    }
    if !gang.complete() {
        return Plan::say("GangIncomplete", incomplete(facts), false);
    }
    if let Some(first) = &facts.assembled.after {
        let message = format!(
            "waiting for {first} to have its nodes: this pod is beyond its least number and comes after it"
        );
        return Plan::say("GangFirst", message, false);
    }
    match &facts.assembled.nowhere {
        Some(Nowhere { message, problem: true }) => Plan::say("Refused", message.clone(), true),
        Some(Nowhere { message, problem: false }) => {
            Plan::say("WaitingForVolume", message.clone(), false)
        }
        None => Plan::act(Action::Ask),
    }
}

fn incomplete(facts: &Facts<'_>) -> String {
    let gang = &facts.assembled.gang;
    let gated: Vec<&str> =
        gang.members.iter().filter(|m| m.gated).map(|m| m.name.as_str()).collect();
    if gated.is_empty() {
        format!(
            "waiting for the other pods of {} {}: {} of {} are there",
            gang.kind,
            gang.name,
            gang.members.len(),
            gang.expected
        )
    } else {
        format!("waiting for the scheduling gates of {}", gated.join(", "))
    }
}

fn refused(facts: &Facts<'_>, refusal: &Refusal, now: i64) -> Plan {
    let again = facts.progress.asked.as_ref().map_or(now, |a| a.at) + ASK_AGAIN_MS;
    let policies = facts.progress.asked.as_ref().map_or(0, |a| a.policies);
    let changed = policies != facts.assembled.policies || reach_changed(facts);
    if pods_changed(facts) || others_changed(facts) || changed || now >= again {
        return Plan::act(Action::NewRound);
    }
    Plan { wake: Some(again), ..Plan::say("Refused", refusal.message.clone(), true) }
}

/// The pods are other ones than those that were asked for.
fn pods_changed(facts: &Facts<'_>) -> bool {
    let asked = facts.progress.asked.as_ref();
    unfinished(facts).any(|m| asked.is_none_or(|a| !a.pods.contains(&m.uid)))
}

/// The workloads that the gang waits for have gone on since it was asked for.
fn others_changed(facts: &Facts<'_>) -> bool {
    facts.progress.others != facts.assembled.gang.ask.others
}

/// The pods may go elsewhere than when they were asked for.
fn reach_changed(facts: &Facts<'_>) -> bool {
    let asked = facts.progress.asked.as_ref();
    asked.is_some_and(|asked| asked.reach != Reach::of(&facts.assembled.gang))
}

/// More members are bound than were when room was asked for.
fn more_bound(facts: &Facts<'_>) -> bool {
    let bound = unfinished(facts).filter(|m| m.bound.is_some()).count();
    facts.progress.asked.as_ref().is_some_and(|asked| bound > asked.bound)
}

fn queued(facts: &Facts<'_>, reason: &str, topic: &str, message: &str, now: i64) -> Plan {
    // The placeholder keeps its place; only where it may start is told anew.
    // So does whoever is bound while it waits: Slurm has taken its start back (rule 2).
    if reach_changed(facts) || more_bound(facts) {
        return Plan::act(Action::Ask);
    }
    if let Some(nowhere) = &facts.assembled.nowhere {
        let message = format!("{}; {message}", nowhere.message);
        let topic = "nowhere".to_owned();
        let report = Report { reason: "Queued", topic, message, problem: nowhere.problem };
        return Plan { report: Some(report), ..Plan::default() };
    }
    let problem = needs_a_person(reason);
    // Slurm takes a moment to say why; until then there is nothing to tell.
    let quiet = if reason.is_empty() { 5 * QUIET_MS } else { QUIET_MS };
    let loud = facts.progress.asked.as_ref().map_or(now, |a| a.at) + quiet;
    if now < loud && !problem {
        return Plan { wake: Some(loud), ..Plan::default() };
    }
    let topic = topic.to_owned();
    let report = Report { reason: "Queued", topic, message: message.to_owned(), problem };
    Plan { report: Some(report), ..Plan::default() }
}

/// The gang has its nodes: whoever must not stay leaves, and the others are seated.
fn allocated(facts: &Facts<'_>, start: &Start<'_>, renewed: bool, now: i64) -> Plan {
    let Start { job, seats, .. } = *start;
    if let Some(plan) = rival::weighed(facts, job, now) {
        return plan;
    }
    // A pod from an earlier placeholder holds a node that is no longer ours.
    // The same id may also have started elsewhere, once slurmctld has lost its memory (rule 2).
    let elsewhere = |m: &Member, b: &Bound| seats.get(&m.uid).is_some_and(|s| is_elsewhere(s, b));
    let stray = |m: &&Member| m.bound.as_ref().is_some_and(|b| b.job != job || elsewhere(m, b));
    if unfinished(facts).any(|m| stray(&m)) {
        let why =
            format!("it is bound for an earlier start than the present one of Slurm job {job}");
        let actions = evict(unfinished(facts).filter(stray), Cause::EarlierStart, &why);
        return Plan { actions, ..Plan::default() };
    }
    if let Some(plan) = leave::of_an_earlier_start(facts, job) {
        return plan;
    }
    if let Some(plan) = leave::before_its_end(facts, start, now) {
        return plan;
    }
    if let Some(plan) = leave::for_a_successor(facts, seats, renewed) {
        return plan;
    }
    let mut plan = seat_members(facts, start, now);
    plan.actions.extend(leave::withdrawn(facts));
    if let Some(due) = leave::warning_due(facts, now) {
        plan.wake_by(due);
    }
    plan
}

/// Whether a member is bound to another node or other devices than its seat has. Whoever has what its
/// placeholder was given keeps it, so a seat that differs is of another start.
fn is_elsewhere(seat: &Seat, bound: &Bound) -> bool {
    let differs = |(gres, given): &(String, Vec<u32>)| {
        bound.indexes.get(gres).is_some_and(|held| held != given)
    };
    seat.node != bound.node || seat.indexes.iter().any(differs)
}

/// Binds all, or none.
fn seat_members(facts: &Facts<'_>, start: &Start<'_>, now: i64) -> Plan {
    let Start { job, generation, seats } = *start;
    let mut unbound: Vec<&Member> = unfinished(facts).filter(|m| m.bound.is_none()).collect();
    let some_bound = unfinished(facts).any(|m| m.bound.is_some());
    // Whoever has no seat is no part of what was asked for: a replacement until it is asked for, or
    // one that the workload has grown by.
    let to_bind = unbound.iter().any(|m| seats.contains_key(&m.uid));
    let partial = to_bind || !facts.assembled.gang.complete();
    let late = |first: i64| now >= first + ALL_BOUND_WITHIN_MS;
    // With nobody bound there is no first bind to count from: this is a fresh attempt.
    let first_bind = facts.progress.first_bind.filter(|first| some_bound || !late(*first));
    let first_bind = first_bind.filter(|_| partial && !facts.progress.all_bound);
    if some_bound && first_bind.is_some_and(late) {
        return roll_back(facts);
    }
    let deadline = first_bind.map(|first| first + ALL_BOUND_WITHIN_MS);
    if unbound.is_empty() {
        return Plan { wake: deadline, ..Plan::default() };
    }
    // A replacement that has come since: ask again, once; the placeholder is the same.
    // One that comes after the release is not of this round: the end of the placeholder comes first.
    let last = seats.values().map(|seat| seat.rank).max();
    let later = |rank| facts.assembled.gang.later.iter().any(|l| l.has(rank));
    let grown = unbound.iter().any(|m| Some(m.rank) > last && !later(m.rank));
    let all = unbound.len();
    unbound.retain(|m| seats.contains_key(&m.uid));
    if unbound.len() < all {
        let ask = pods_changed(facts) && !facts.progress.released;
        if ask || !some_bound || facts.progress.released {
            let actions = if ask { vec![Action::Ask] } else { Vec::new() };
            return Plan { actions, wake: deadline, report: None };
        }
        if unbound.is_empty() {
            let told = Plan::say("NoSeat", no_seat(facts, job), false);
            let report = told.report.filter(|_| grown);
            return Plan { actions: Vec::new(), wake: deadline, report };
        }
    }
    if !facts.assembled.gang.complete() && !some_bound {
        return Plan::say("GangIncomplete", incomplete(facts), false);
    }
    let seating = Seating::of(facts, &unbound, &Start { job, generation, seats }, now);
    if !some_bound {
        return whole_gang(facts, seating, generation, deadline, now);
    }
    // Part of the gang runs: whoever can join it does.
    let reason = if seating.for_volumes { "WaitingForVolume" } else { "WaitingForNode" };
    let mut actions = seating.binds;
    actions.extend(seating.tell);
    let (beside, lost) = stand_ins(facts, start, now);
    actions.extend(beside);
    match seating.shut.or(seating.obstacle) {
        Some(message) => {
            let wake = [deadline, seating.wake, lost].into_iter().flatten().min();
            Plan { actions, wake, ..Plan::say(reason, message, false) }
        }
        None => Plan { actions, wake: deadline.or(Some(now + ALL_BOUND_WITHIN_MS)), report: None },
    }
}

/// Nothing is bound before everything can be (rule 3): first every seat must be free and open to its
/// pod, then every volume must be there.
fn whole_gang(
    facts: &Facts<'_>,
    seating: Seating,
    generation: u32,
    deadline: Option<i64>,
    now: i64,
) -> Plan {
    if let Some(why) = seating.shut {
        // Bindings were sent a moment ago: whether they were made is not seen yet.
        if deadline.is_some() {
            return Plan { wake: deadline, ..Plan::say("WaitingForNode", why, false) };
        }
        return Plan::act(Action::GiveBack { why, generation });
    }
    match seating.obstacle {
        None => Plan {
            actions: seating.binds,
            wake: deadline.or(Some(now + ALL_BOUND_WITHIN_MS)),
            report: None,
        },
        Some(message) if !seating.for_volumes => {
            Plan { wake: Some(now + QUIET_MS), ..Plan::say("WaitingForNode", message, false) }
        }
        Some(message) => {
            let since = facts.progress.volumes_since.unwrap_or(now);
            let until = since + VOLUMES_WITHIN_MS;
            if now >= until {
                let minutes = VOLUMES_WITHIN_MS / 60_000;
                let why = format!("after {minutes} minutes still {message}");
                return Plan::act(Action::GiveBack { why, generation });
            }
            let wake = [Some(until), seating.wake].into_iter().flatten().min();
            let said = Plan::say("WaitingForVolume", message, false);
            Plan { actions: seating.tell, wake, ..said }
        }
    }
}

/// Not every member could be bound in time: none stays. The placeholder is kept, and the gang is
/// bound anew, together, when its pods are there again.
fn roll_back(facts: &Facts<'_>) -> Plan {
    let why = "not every pod of the gang could be bound in time, so none stays bound";
    let actions = evict(unfinished(facts).filter(|m| m.bound.is_some()), Cause::NotInTime, why);
    Plan { actions, ..Plan::say("RolledBack", why.to_owned(), true) }
}

fn evict<'a>(members: impl Iterator<Item = &'a Member>, cause: Cause, why: &str) -> Vec<Action> {
    members.map(|m| Action::Evict { pod: m.uid.clone(), cause, why: why.to_owned() }).collect()
}

#[cfg(test)]
#[path = "follow/tests.rs"]
mod tests;
