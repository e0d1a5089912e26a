//! A list of all jobs that lacks none: what is counted must be listed.
//!
//! Asks nothing but Slurm's two lists, and its counters where both are empty.

use std::collections::HashSet;

use gangway_core::job::{Job, JobId, JobState};
use gangway_slurm::{Diagnostics, Jobs};

use super::Board;

/// How often a list that lacks jobs is asked for; one may have been purged in between.
const LISTS: u32 = 3;

/// What is thought of a list that names no job at all. Somebody on the way may have emptied it, and then a
/// job that nobody knows the id of would be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Emptiness {
    /// Nothing: there may be a job that we do not know of. So many lists had been asked for by then, and
    /// say nothing of it.
    Unproven { asked: u64 },
    /// It is proven by a count made after this moment, by Slurm's clock.
    After(i64),
    /// Jobs were listed since, or there were none: no job of ours can have come to be unseen.
    Fine,
}

impl Default for Emptiness {
    fn default() -> Self {
        Self::Unproven { asked: 0 }
    }
}

impl Emptiness {
    /// The list of this number has been believed.
    fn settle(&mut self, number: u64) {
        if !matches!(self, Self::Unproven { asked } if number <= *asked) {
            *self = Self::Fine;
        }
    }
}

impl Board {
    /// Every job that is counted. A list that is older than the count, or that somebody on the way has
    /// emptied, would make a job that was accepted look as if it had never come to be (rule 6).
    pub(super) async fn whole_list(&self, number: u64) -> Result<Jobs, gangway_slurm::Error> {
        let mut attempts = LISTS;
        loop {
            let states = self.slurm.job_states().await?;
            let all = self.slurm.list().await?;
            attempts -= 1;
            match missing(&states, &all.jobs) {
                Some(job) if attempts > 0 => {
                    tracing::info!(
                        job = job.0,
                        "Slurm's list lacks a job that it counts; listing again"
                    );
                }
                _ => {
                    if all.jobs.is_empty() {
                        self.prove_emptiness().await?;
                    }
                    self.inner().emptiness.settle(number);
                    return Ok(all);
                }
            }
        }
    }

    /// slurmctld counts its live jobs every 30 s, and those that come at once.
    async fn prove_emptiness(&self) -> Result<(), gangway_slurm::Error> {
        let unproven = self.inner().emptiness;
        if unproven == Emptiness::Fine {
            return Ok(());
        }
        let says = self.slurm.diag().await?;
        let after = if let Emptiness::After(moment) = unproven { moment } else { says.now };
        if is_proven(&says, after) {
            return Ok(());
        }
        let mut inner = self.inner();
        // There may be a new doubt since.
        if inner.emptiness == unproven {
            inner.emptiness = Emptiness::After(after);
        }
        drop(inner);
        Err(gangway_slurm::Error::Malformed {
            path: "jobs/".to_owned(),
            what: "it names no job at all, which slurmctld's own count does not confirm yet"
                .to_owned(),
            source: None,
        })
    }
}

/// Whether slurmctld has no job that may have come before this moment.
fn is_proven(says: &Diagnostics, after: i64) -> bool {
    let none = says.jobs_pending == 0 && says.jobs_running == 0;
    none && (says.jobs_submitted == 0 || says.counted > after)
}

/// A job that is counted and not listed.
fn missing(states: &[(JobId, JobState)], jobs: &[Job]) -> Option<JobId> {
    let parts = |job: &Job| job.parts.iter().map(|part| part.id).collect::<Vec<_>>();
    let listed: HashSet<JobId> =
        jobs.iter().flat_map(|job| parts(job).into_iter().chain([job.id])).collect();
    states.iter().map(|(id, _)| *id).find(|id| !listed.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gangway_core::job::Part;

    #[test]
    fn no_job_at_all_is_believed_once_slurm_has_counted_so() {
        let says = |[running, submitted]: [u64; 2], counted| {
            let mut says = Diagnostics::default();
            (says.jobs_running, says.jobs_submitted, says.counted) = (running, submitted, counted);
            is_proven(&says, 100)
        };
        assert!(says([0, 0], 0), "none has come since slurmctld began");
        assert!(!says([0, 1], 100), "it may have been counted just before one came");
        assert!(says([0, 1], 101));
        assert!(!says([1, 1], 101));
        assert!(!says([1, 0], 0), "midnight");
    }

    #[test]
    fn a_list_lacks_what_is_counted_and_not_in_it() {
        let state = |id| (JobId(id), JobState::parse(&["RUNNING"]));
        let job = |id| Job { id: JobId(id), ..Job::default() };
        let part = |id| Part { id: JobId(id), state: JobState::default(), ..Part::default() };
        let states = [state(7), state(8), state(9)];
        let two = Job { parts: vec![part(8), part(9)], ..job(8) };
        assert_eq!(missing(&states, &[job(7), two.clone()]), None, "components are counted too");
        assert_eq!(missing(&states, std::slice::from_ref(&two)), Some(JobId(7)), "an older list");
        assert_eq!(missing(&states, &[]), Some(JobId(7)), "an emptied list");
        assert_eq!(missing(&[], &[two]), None, "one that has come since");
    }
}
