//! A list of all jobs that lacks none: what is counted must be listed.
//!
//! Asks nothing but Slurm's two lists, and holds nothing.

use std::collections::HashSet;

use gangway_core::job::{Job, JobId, JobState};

use super::Board;

/// How often a list that lacks jobs is asked for; one may have been purged in between.
const LISTS: u32 = 3;
impl Board {
    /// Every job that is counted. A list that is older than the count, or that somebody on the way has
    /// emptied, would make a job that was accepted look as if it had never come to be (rule 6).
    pub(super) async fn whole_list(&self) -> Result<Vec<Job>, gangway_slurm::Error> {
        let mut attempts = LISTS;
        loop {
            let states = self.slurm.job_states().await?;
            let jobs = self.slurm.jobs().await?;
            attempts -= 1;
            match missing(&states, &jobs) {
                Some(job) if attempts > 0 => {
                    tracing::info!(%job, "Slurm's list lacks a job that it counts; listing again");
                }
                _ => return Ok(jobs),
            }
        }
    }
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
    fn a_list_lacks_what_is_counted_and_not_in_it() {
        let state = |id| (JobId(id), JobState::parse(&["RUNNING"]));
        let job = |id| Job { id: JobId(id), ..Job::default() };
        let part = |id| Part {
            id: JobId(id),
            state: JobState::default(),
            nodes: String::new(),
            admin_comment: String::new(),
            excluded_nodes: String::new(),
            tres_per_node: String::new(),
        };
        let states = [state(7), state(8), state(9)];
        let two = Job { parts: vec![part(8), part(9)], ..job(8) };
        assert_eq!(missing(&states, &[job(7), two.clone()]), None, "components are counted too");
        assert_eq!(missing(&states, std::slice::from_ref(&two)), Some(JobId(7)), "an older list");
        assert_eq!(missing(&states, &[]), Some(JobId(7)), "an emptied list");
        assert_eq!(missing(&[], &[two]), None, "one that has come since");
    }
}
