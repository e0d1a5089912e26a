//! Members that have to leave: warned where they asked for it, given their time, and then let go.
//!
//! The time is ours to give, not Slurm's: while pods that were warned stay on, their devices are held,
//! and nobody else is bound to them (rule 4). A pod leaves early once it has checkpointed.

use std::collections::BTreeMap;

use super::seating::Start;
use super::{ALL_BOUND_WITHIN_MS, Action, Cause, Facts, Plan, beside, evict, unfinished};
use crate::ask::OnLoss;
use crate::gang::{Member, Notice};
use crate::job::{BaseState, JobId};
use crate::place::Seat;

/// An end that differs by more than this from what members were told has been moved (ms).
const MOVED_MS: i64 = 5_000;

/// Whether pods may stay on for their grace after an end of this kind. A gang that has lost a node has
/// nothing left to checkpoint together.
fn is_foreseen(state: &BaseState) -> bool {
    matches!(
        state,
        BaseState::Preempted | BaseState::Timeout | BaseState::Cancelled | BaseState::Deadline
    )
}

/// The allocation will end soon, on Slurm's word: members are warned, and leave when they have
/// checkpointed or their time is up. `None`: it goes on.
pub(super) fn before_its_end(facts: &Facts<'_>, start: &Start<'_>, now: i64) -> Option<Plan> {
    let Start { job, generation, .. } = *start;
    let grace = grace_ms(facts)?;
    let (at, by_time_limit) = facts.progress.ends?;
    if by_time_limit && now < at - grace {
        return None;
    }
    let (cause, what) = if by_time_limit {
        (Cause::TimeLimit, "reaches its time limit")
    } else {
        (Cause::Preempted, "is preempted by a job of higher priority")
    };
    let why = format!("Slurm job {job}, which holds the nodes of this gang, {what}");
    let all = unfinished(facts).chain(beside(facts, job));
    let bound: Vec<&Member> = all.filter(|m| m.bound.is_some()).collect();
    if !bound.is_empty() {
        let until = if by_time_limit {
            until_its_limit(facts, &bound, at, now)
        } else {
            told(facts, now).unwrap_or(now + grace)
        };
        return Some(warned_or_gone(facts, &bound, until, (cause, &why), now));
    }
    // Its pods have left, and others wait: they go to another allocation than this one.
    if !facts.assembled.leaving.is_empty() {
        return Some(Plan::default());
    }
    if facts.progress.leave_by.is_some() {
        return Some(Plan::act(Action::GiveBack { why, generation }));
    }
    // Bindings were sent a moment ago: whether they were made is not seen yet.
    let first = facts.progress.first_bind.filter(|_| !facts.progress.all_bound);
    let seen = first.map(|first| first + ALL_BOUND_WITHIN_MS).filter(|seen| now < *seen);
    match seen {
        _ if by_time_limit => None,
        Some(seen) => Some(Plan { wake: Some(seen), ..Plan::default() }),
        None => Some(Plan::act(Action::GiveBack { why, generation })),
    }
}

/// A limit is a limit: nobody stays beyond it by asking for a long warning. Only who could not be warned
/// before it, because no bridge was there, has its time after it.
fn until_its_limit(facts: &Facts<'_>, bound: &[&Member], at: i64, now: i64) -> i64 {
    let told = told(facts, now);
    if now < at {
        // Slurm counts in seconds; only a limit that was moved is news.
        return told.filter(|told| (told - at).abs() <= MOVED_MS).unwrap_or(at);
    }
    let warned = bound.iter().any(|m| m.notice != Notice::None);
    told.unwrap_or_else(|| if warned { at } else { now + grace_ms(facts).unwrap_or(0) })
}

/// Until when members were told that they may stay. What a bridge before this one has told them is known by a
/// clock that may have jumped since: nobody has more than the whole grace for it.
fn told(facts: &Facts<'_>, now: i64) -> Option<i64> {
    let longest = now + grace_ms(facts)?;
    facts.progress.leave_by.or_else(|| Some(facts.progress.recalled?.min(longest)))
}

/// When [`before_its_end`] will have something to say.
pub(super) fn warning_due(facts: &Facts<'_>, now: i64) -> Option<i64> {
    let (at, _) = facts.progress.ends?;
    // Where it is due already, nobody is bound who could be warned.
    Some(at - grace_ms(facts)?).filter(|due| *due > now)
}

/// The time limit was extended after members were warned: they are told that they may stay.
pub(super) fn withdrawn(facts: &Facts<'_>) -> Vec<Action> {
    // Who stands in may have been warned for the end of its gang.
    if grace_ms(facts).is_none() || facts.assembled.stands_in.is_some() {
        return Vec::new();
    }
    let told = unfinished(facts).filter(|m| m.bound.is_some() && m.notice != Notice::None);
    told.map(|m| Action::Warn { pod: m.uid.clone(), leave: None }).collect()
}

/// The placeholder is over: these members leave, at once or when their time is up.
pub(super) fn after_its_end(
    facts: &Facts<'_>,
    leaving: &[&Member],
    state: &BaseState,
    why: &str,
    now: i64,
) -> Plan {
    let bound: Vec<&Member> = leaving.iter().copied().filter(|m| m.bound.is_some()).collect();
    let Some(grace) = grace_ms(facts).filter(|_| is_foreseen(state) && !bound.is_empty()) else {
        let actions = evict(leaving.iter().copied(), Cause::of(state), why);
        return Plan { actions, ..Plan::default() };
    };
    let until = if matches!(state, BaseState::Timeout | BaseState::Deadline) {
        until_its_limit(facts, &bound, now, now)
    } else {
        told(facts, now).unwrap_or(now + grace)
    };
    warned_or_gone(facts, leaving, until, (Cause::of(state), why), now)
}

fn grace_ms(facts: &Facts<'_>) -> Option<i64> {
    facts.assembled.gang.ask.grace_seconds.map(|seconds| i64::from(seconds) * 1_000)
}

/// Members go together: when their time is up or all of them have checkpointed, and before that those
/// who have not been told until when they may stay are told.
fn warned_or_gone(
    facts: &Facts<'_>,
    leaving: &[&Member],
    until: i64,
    (cause, why): (Cause, &str),
    now: i64,
) -> Plan {
    let bound = || leaving.iter().filter(|m| m.bound.is_some());
    if now >= until || bound().all(|m| m.notice == Notice::Checkpointed) {
        let how = if now >= until { "its time is up" } else { "all have checkpointed" };
        let actions = evict(leaving.iter().copied(), cause, &format!("{why}; {how}"));
        return Plan { actions, ..Plan::default() };
    }
    // A bridge that has just started tells them anew: their hooks may not have been heard.
    let anew = facts.progress.leave_by != Some(until);
    let unwarned = bound().filter(|m| m.notice == Notice::None || anew);
    let warn = |m: &&Member| Action::Warn {
        pod: m.uid.clone(),
        leave: Some((until - now, why.to_owned())),
    };
    Plan { actions: unwarned.map(warn).collect(), wake: Some(until), report: None }
}

/// A member of a gang that ran was lost and has a successor: where the gang cannot go on with it, the
/// others leave too, and all start anew together in the same allocation.
pub(super) fn for_a_successor(
    facts: &Facts<'_>,
    seats: &BTreeMap<String, Seat>,
    renewed: bool,
) -> Option<Plan> {
    let progress = facts.progress;
    if facts.assembled.gang.on_loss() == OnLoss::Replace {
        return None;
    }
    let later = |rank| facts.assembled.gang.later.iter().any(|l| l.has(rank));
    let took_over = |m: &&Member| match progress.held.get(&m.rank) {
        Some(uid) => *uid != m.uid,
        // What was before this bridge is known from the placeholder alone: it says nothing of members
        // that come later, and has no seat for one by whom the workload was made larger.
        None => renewed && !progress.began && seats.contains_key(&m.uid) && !later(m.rank),
    };
    let successor = unfinished(facts).find(|m| m.bound.is_none() && took_over(m))?;
    let others = || unfinished(facts).filter(|m| m.bound.is_some());
    others().next()?;
    let why = format!(
        "pod {} is a successor: the one before it was lost while its gang ran, so all of the gang start anew together (gangway.dev/on-member-failure: restart)",
        successor.name
    );
    Some(Plan { actions: evict(others(), Cause::MemberLost, &why), ..Plan::default() })
}

/// Whoever stands in beside another start of the gang than this one leaves: it ended with that.
pub(super) fn of_an_earlier_start(facts: &Facts<'_>, job: JobId) -> Option<Plan> {
    let why = format!("it stands in beside an earlier start of its gang than Slurm job {job}");
    without(facts, |of| of == job, &why)
}

/// The gang begins anew. Whoever stood in for one of its members while nobody of that round is left leaves
/// first, or its rank would be missing in the round to come.
pub(super) fn left_over(facts: &Facts<'_>) -> Option<Plan> {
    let members = &facts.assembled.gang.members;
    let goes_on = |of| members.iter().any(|m| m.bound.as_ref().is_some_and(|b| b.job == of));
    without(facts, goes_on, "the gang beside which it stands in starts anew")
}

/// Evicts whoever stands in beside a placeholder that does not go on.
fn without(facts: &Facts<'_>, goes_on: impl Fn(JobId) -> bool, why: &str) -> Option<Plan> {
    let all = facts.assembled.stand_ins.iter().filter(|s| !s.member.finished && !goes_on(s.job));
    let actions = evict(all.map(|s| &s.member), Cause::StoodIn, why);
    (!actions.is_empty()).then(|| Plan { actions, ..Plan::default() })
}
