//! What of the gangs in flight is shown to people. Changes nothing.

use gangway_core::desk::{Seated, Workload};
use gangway_core::follow::Verdict;
use gangway_core::job::JobId;
use gangway_core::placeholder::Stamp;

use super::{Key, Queue};

impl Queue {
    /// The workload behind a stamp, as whoever asked for it said; with its pods where they are wanted. `None` for a
    /// gang that is not in flight here.
    pub(crate) fn workload(&self, stamp: &Stamp, pods: bool) -> Option<Workload> {
        let entry = self.entries.get(&key(stamp))?;
        let asked = entry.asked();
        Some(Workload::of(&asked.0, pods))
    }

    /// Whether this job is the one that is followed for the gang of a stamp.
    pub(crate) fn follows(&self, stamp: &Stamp, job: JobId) -> bool {
        self.entries.get(&key(stamp)).is_some_and(|entry| entry.following().0 == job)
    }

    /// Where the pods of a gang sit in this job, as far as it was said.
    pub(crate) fn seats(&self, stamp: &Stamp, own: JobId) -> Vec<Seated> {
        let Some(entry) = self.entries.get(&key(stamp)) else { return Vec::new() };
        let verdict = entry.verdict.borrow().clone();
        let Some(Verdict::Allocated { job, seats, .. }) = verdict else {
            return Vec::new();
        };
        if job != own {
            return Vec::new();
        }
        let asked = entry.asked();
        let seated = asked.0.members.iter().filter_map(|member| {
            let seat = seats.get(&member.uid)?;
            let gpus = seat.indexes.iter().find(|(name, _)| name == "gpu");
            Some(Seated {
                pod: member.name.clone(),
                node: seat.node.clone(),
                gpus: gpus.map(|(_, indexes)| indexes.clone()).unwrap_or_default(),
            })
        });
        seated.collect()
    }
}

fn key(stamp: &Stamp) -> Key {
    Key { cluster: stamp.cluster.clone(), gang: stamp.gang.clone() }
}
