//! What was ended and slurmctld may have forgotten that it did (rule 2).
//!
//! slurmctld saves its state every five seconds. After a crash a job that was ended before may run
//! again, with nobody behind it; whoever ended it has to do so again. Times are milliseconds since any
//! fixed point, of a clock that does not jump.

use std::collections::BTreeMap;

use super::Stamp;
use crate::job::{Job, JobId, Standing};

/// What slurmctld did so long ago is saved (ms): twice its five seconds.
pub const SAVED_AFTER_MS: i64 = 10_000;

/// The jobs that were ended lately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended(BTreeMap<JobId, One>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct One {
    /// Whose it was: the id alone may be somebody else's by now.
    stamp: Stamp,
    sluid: String,
    why: String,
    at: i64,
}

impl Ended {
    /// This job was ended now, and why.
    pub fn note(&mut self, stamp: Stamp, job: &Job, why: &str, now: i64) {
        let (sluid, why) = (job.sluid.clone(), why.to_owned());
        self.0.insert(job.id, One { stamp, sluid, why, at: now });
    }

    /// slurmctld has answered all the while, and is the one that it was: what is old enough is saved.
    pub fn saved(&mut self, now: i64) {
        self.0.retain(|_, one| now - one.at < SAVED_AFTER_MS);
    }

    /// Of the jobs there are now, those that were ended and live all the same, and why they were ended.
    pub fn revived<'a>(
        &'a self,
        there: impl Fn(JobId) -> Option<&'a (Stamp, std::sync::Arc<Job>)>,
    ) -> Vec<(&'a Job, &'a str)> {
        let lives = |(id, one): (&JobId, &'a One)| {
            let (stamp, job) = there(*id)?;
            let same = stamp.is_of(&one.stamp.cluster, &one.stamp.gang, one.stamp.generation)
                && job.sluid == one.sluid;
            (same && job.standing() != Standing::Over).then_some((&**job, one.why.as_str()))
        };
        self.0.iter().filter_map(lives).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn stamp(generation: u32) -> Stamp {
        let text = format!("gangway/1 c g {generation} 0000000000000001");
        Stamp::parse(&text).expect("a stamp")
    }

    fn job(state: &str, sluid: &str) -> Job {
        Job { sluid: sluid.to_owned(), ..Job::sample(7, state) }
    }

    fn revived(ended: &Ended, there: (Stamp, Job)) -> usize {
        let there = (there.0, Arc::new(there.1));
        ended.revived(|id| Some(&there).filter(|(_, job)| job.id == id)).len()
    }

    #[test]
    fn only_the_very_job_is_ended_again_and_only_while_it_lives() {
        let mut ended = Ended::default();
        ended.note(stamp(1), &job("RUNNING", "a"), "its pods are gone", 0);
        assert_eq!(revived(&ended, (stamp(1), job("RUNNING", "a"))), 1);
        assert_eq!(revived(&ended, (stamp(1), job("PENDING", "a"))), 1);
        assert_eq!(revived(&ended, (stamp(1), job("CANCELLED", "a"))), 0);
        // The id has come back, for another attempt or another submit.
        assert_eq!(revived(&ended, (stamp(2), job("RUNNING", "a"))), 0);
        assert_eq!(revived(&ended, (stamp(1), job("RUNNING", "b"))), 0);
    }

    #[test]
    fn what_is_saved_is_not_remembered() {
        let mut ended = Ended::default();
        ended.note(stamp(1), &job("RUNNING", "a"), "", 500);
        ended.saved(500 + SAVED_AFTER_MS - 1);
        assert_eq!(revived(&ended, (stamp(1), job("RUNNING", "a"))), 1);
        ended.saved(500 + SAVED_AFTER_MS);
        assert_eq!(ended, Ended::default());
    }
}
