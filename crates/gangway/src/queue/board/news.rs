//! Jobs that are read by themselves, and when what was read is old news.
//!
//! An answer may take as long as a request may: by then a poll may have told something else, or slurmctld
//! may have begun anew and given the id to somebody else. Nobody may be bound for what was true before.

use std::sync::Arc;

use gangway_core::job::{Job, JobId, Standing};
use tokio::time::Instant;

use super::{Board, Inner, Seen};

impl Board {
    /// Reads one job, and takes it in.
    pub(crate) async fn read(&self, job: JobId) -> Result<Option<Job>, gangway_slurm::Error> {
        let asked = Instant::now();
        let seen = self.slurm.job(job).await?;
        if let Some(seen) = &seen {
            self.note(seen.clone(), asked);
        }
        Ok(seen)
    }

    /// Takes in a job that was asked for by itself then. `false`: the answer took so long that something
    /// else is known by now, and it is old news.
    pub(crate) fn note(&self, job: Job, asked: Instant) -> bool {
        let job = Arc::new(job);
        let mut inner = self.inner();
        if inner.knows_better(&job, asked) {
            return false;
        }
        inner.states.insert(job.id, job.state.clone());
        inner.noted.insert(job.id, asked);
        self.take(&mut inner, &job);
        true
    }
}

impl Inner {
    /// Whether more is known of a job than the answer to a question that was put then. An id may be another
    /// job's since slurmctld has begun anew.
    fn knows_better(&self, job: &Job, asked: Instant) -> bool {
        let states = self.states_asked.filter(|at| *at > asked);
        let otherwise = states.is_some() && self.states.get(&job.id) != Some(&job.state);
        let later = self.noted.get(&job.id).is_some_and(|at| *at > asked);
        otherwise || later || self.anew.is_some_and(|at| at > asked)
    }
}

impl Seen {
    /// A job that held its nodes does not any more, and has yet to be read. Whether that is news.
    pub(super) fn unread(&mut self) -> bool {
        let held = matches!(self, Self::Job(job) if job.standing() == Standing::Holding);
        if held {
            *self = Self::Nothing;
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use gangway_core::job::JobState;

    use super::*;

    fn job(id: u32, state: &str) -> Job {
        Job { id: JobId(id), state: JobState::parse(&[state]), ..Job::default() }
    }

    #[test]
    fn an_answer_that_took_too_long_is_old_news() {
        let asked = Instant::now();
        let later = asked + std::time::Duration::from_secs(8);
        let running = job(7, "RUNNING");
        let mut inner = Inner::default();
        assert!(!inner.knows_better(&running, asked), "nothing is known");
        inner.states_asked = Some(later);
        inner.states.insert(JobId(7), running.state.clone());
        assert!(!inner.knows_better(&running, asked), "it says the same");
        inner.states.insert(JobId(7), job(7, "CANCELLED").state);
        assert!(inner.knows_better(&running, asked));
        assert!(!inner.knows_better(&running, later), "it was asked since");
        // The same id and state, and another's job.
        inner.states.insert(JobId(7), running.state.clone());
        inner.anew = Some(later);
        assert!(inner.knows_better(&running, asked));
    }

    #[test]
    fn a_job_that_does_not_hold_its_nodes_any_more_has_to_be_read() {
        let mut seen = Seen::Job(Arc::new(job(7, "RUNNING")));
        assert!(seen.unread());
        assert_eq!(seen, Seen::Nothing);
        assert!(!seen.unread());
        let mut waits = Seen::Job(Arc::new(job(7, "PENDING")));
        assert!(!waits.unread(), "nobody is bound for it");
    }
}
