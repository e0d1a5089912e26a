//! The jobs that carry a stamp, by id and by gang: with thousands of them nobody looks for a gang's
//! own one by one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use gangway_core::job::{Job, JobId};
use gangway_core::placeholder::Stamp;

/// Jobs with their stamps.
#[derive(Default)]
pub(super) struct Stamped {
    jobs: HashMap<JobId, (Stamp, Arc<Job>)>,
    of_gang: HashMap<String, BTreeSet<JobId>>,
    /// Those that a failed node has ended: few, if any.
    failed: BTreeSet<JobId>,
}

impl Stamped {
    pub(super) fn get(&self, job: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&job).map(|(_, job)| job)
    }

    /// The same with its stamp.
    pub(super) fn find(&self, job: JobId) -> Option<&(Stamp, Arc<Job>)> {
        self.jobs.get(&job)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Stamp, Arc<Job>)> {
        self.jobs.values()
    }

    /// The jobs of one gang, lowest id first.
    pub(super) fn of(&self, cluster: &str, gang: &str) -> impl Iterator<Item = &(Stamp, Arc<Job>)> {
        let ids = self.of_gang.get(gang).into_iter().flatten();
        let found = ids.filter_map(|id| self.jobs.get(id));
        found.filter(move |(stamp, _)| stamp.cluster == cluster)
    }

    /// The jobs that a failed node has ended.
    pub(super) fn failed(&self) -> impl Iterator<Item = &(Stamp, Arc<Job>)> {
        self.failed.iter().filter_map(|id| self.jobs.get(id))
    }

    pub(super) fn put(&mut self, stamp: Stamp, job: Arc<Job>) {
        let id = job.id;
        // An id that has come back may be another gang's.
        self.remove(id);
        self.of_gang.entry(stamp.gang.clone()).or_default().insert(id);
        if !job.failed_nodes.is_empty() {
            self.failed.insert(id);
        }
        self.jobs.insert(id, (stamp, job));
    }

    pub(super) fn remove(&mut self, job: JobId) {
        let Some((stamp, _)) = self.jobs.remove(&job) else { return };
        self.failed.remove(&job);
        if let Some(ids) = self.of_gang.get_mut(&stamp.gang) {
            ids.remove(&job);
            if ids.is_empty() {
                self.of_gang.remove(&stamp.gang);
            }
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Job) -> bool) {
        let gone = self.jobs.values().filter(|(_, job)| !keep(job)).map(|(_, job)| job.id);
        for id in gone.collect::<Vec<_>>() {
            self.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(gang: &str) -> Stamp {
        let text = format!("gangway/1 world {gang} 1 0000000000000001");
        Stamp::parse(&text).expect("a stamp")
    }

    fn job(id: u32) -> Arc<Job> {
        Arc::new(Job { id: JobId(id), ..Job::default() })
    }

    #[test]
    fn a_gang_finds_its_own_jobs_whatever_came_and_went() {
        let mut stamped = Stamped::default();
        let of = |stamped: &Stamped, cluster: &str, gang: &str| {
            stamped.of(cluster, gang).map(|(_, job)| job.id.0).collect::<Vec<_>>()
        };
        for (id, gang) in [(7, "a"), (3, "a"), (5, "b")] {
            stamped.put(stamp(gang), job(id));
        }
        assert_eq!(of(&stamped, "world", "a"), [3, 7]);
        assert_eq!(of(&stamped, "other", "a"), [0; 0], "another cluster's gang of the same uid");
        // Slurm gives the id to another gang.
        stamped.put(stamp("b"), job(7));
        assert_eq!((of(&stamped, "world", "a"), of(&stamped, "world", "b")), (vec![3], vec![5, 7]));
        stamped.remove(JobId(3));
        stamped.retain(|job| job.id.0 != 5);
        assert_eq!((of(&stamped, "world", "a"), of(&stamped, "world", "b")), (vec![], vec![7]));
        assert!(stamped.get(JobId(5)).is_none() && stamped.iter().count() == 1);
        assert_eq!(stamped.of_gang.len(), 1, "nothing is left behind");
        let failed = |stamped: &Stamped| stamped.failed().map(|(_, j)| j.id.0).collect::<Vec<_>>();
        assert_eq!(failed(&stamped), [0; 0]);
        let lost_a_node = Job { failed_nodes: "n1".to_owned(), ..Job::clone(&job(7)) };
        stamped.put(stamp("b"), Arc::new(lost_a_node));
        assert_eq!(failed(&stamped), [7]);
        stamped.remove(JobId(7));
        assert_eq!((failed(&stamped), stamped.failed.len()), (vec![], 0));
    }
}
