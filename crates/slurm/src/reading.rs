//! Reads any bytes as slurmrestd's answers, for tests that throw what they like at the readers.
//!
//! The same readers in the same order as the client's calls have them; it asks nobody and decides nothing.

use gangway_core::job::{Allocation, GresAllocation, Job, JobId, JobState};

use crate::client::{Node, Partition, Reply};
use crate::error::Error;
use crate::transport::Answer;
use crate::wire::job::{self, WireFinished, WireFinishedJob, WireKill, WireResources, WireStates};
use crate::wire::node::{WireNode, WireNodes, WirePartition, WirePartitions};
use crate::wire::{Diag, Pings};
use crate::{FinishedJob, Jobs, Submitted};

/// One answer, whatever it is.
#[derive(Clone, Debug)]
pub struct Bytes<'a> {
    /// HTTP status.
    pub status: u16,
    /// Whether it calls itself JSON.
    pub is_json: bool,
    /// The body.
    pub body: &'a [u8],
}

impl Bytes<'_> {
    fn reply(&self) -> Reply {
        let answer =
            Answer { status: self.status, is_json: self.is_json, body: self.body.to_vec() };
        Reply::of(answer)
    }

    /// As the answer to a submit.
    pub fn submitted(&self) -> Result<Submitted, Error> {
        self.reply().submitted()
    }

    /// As the answer to `jobs/`.
    pub fn jobs(&self) -> Result<Option<Jobs>, Error> {
        self.reply().accepted()?.all_jobs()
    }

    /// As the answer to `job/{id}` with every detail: each job, and what it was granted.
    pub fn in_detail(&self) -> Result<Vec<(Job, Option<Allocation>)>, Error> {
        let reply = self.reply().accepted()?;
        let wire: job::WireJobs = reply.read()?;
        let granted: Vec<_> = wire.ids().map(|id| (id, wire.granted(id))).collect();
        let of =
            |id: JobId| granted.iter().find(|(own, _)| *own == id).and_then(|(_, g)| g.clone());
        Ok(wire.into_jobs().into_iter().map(|job| (job.clone(), of(job.id))).collect())
    }

    /// As the answer to `jobs/state/`.
    pub fn states(&self) -> Result<Vec<(JobId, JobState)>, Error> {
        let wire: WireStates = self.reply().accepted()?.read()?;
        Ok(wire.jobs.into_iter().flatten().filter_map(job::WireState::into_state).collect())
    }

    /// As the answer to `resources/{id}`.
    pub fn resources(&self) -> Result<Allocation, Error> {
        let reply = self.reply().accepted()?;
        let wire: WireResources = reply.read()?;
        wire.into_allocation().map_err(|what| reply.malformed(what))
    }

    /// As the answer of the accounting database.
    pub fn finished(&self) -> Result<Vec<FinishedJob>, Error> {
        let wire: WireFinished = self.reply().accepted()?.read()?;
        Ok(wire.jobs.into_iter().filter_map(WireFinishedJob::into_finished).collect())
    }

    /// As the answers to `nodes/`.
    pub fn nodes(&self) -> Result<Vec<Node>, Error> {
        let wire: WireNodes = self.reply().accepted()?.read()?;
        Ok(wire.nodes.into_iter().filter_map(WireNode::into_node).collect())
    }

    /// As the answers to `partitions/`.
    pub fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let wire: WirePartitions = self.reply().accepted()?.read()?;
        Ok(wire.partitions.into_iter().filter_map(WirePartition::into_partition).collect())
    }

    /// As everything else there is: whether each could be read.
    pub fn others(&self) -> [bool; 3] {
        let kill = self.reply().read::<WireKill>().is_ok();
        [kill, self.reply().read::<Pings>().is_ok(), self.reply().read::<Diag>().is_ok()]
    }
}

/// `0-3,5`: device indexes of one GRES.
pub fn indexes(text: &str) -> Option<Vec<u32>> {
    job::indexes(text)
}

/// `gpu:h100:2(IDX:0,4),efa:8(IDX:0-7)`: the devices of one node.
pub fn gres_detail(text: &str) -> Option<Vec<GresAllocation>> {
    job::gres_detail(text)
}
