//! A member that was bound for another placeholder than the gang's, since Slurm was asked: by another
//! bridge, for nobody here does that. Which of the two is the gang's is found out before anything is done.

use super::{Action, Facts, Plan, QUIET_MS, unfinished};
use crate::gang::Member;
use crate::job::JobId;

/// What to do until whoever said that `job` holds the gang's nodes has weighed what else it is bound for.
/// `None`: it has.
pub(super) fn weighed(facts: &Facts<'_>, job: JobId, now: i64) -> Option<Plan> {
    let theirs = |m: &Member| m.bound.as_ref().map(|b| b.job).filter(|of| *of != job);
    let unweighed = |of: &JobId| !facts.progress.weighed.contains(of);
    let of = unfinished(facts).filter_map(theirs).find(unweighed)?;
    let told = facts.progress.asked.as_ref().is_some_and(|asked| asked.bound_for.contains(&of));
    if told {
        return Some(Plan { wake: Some(now + QUIET_MS), ..Plan::default() });
    }
    Some(Plan::act(Action::Ask))
}
