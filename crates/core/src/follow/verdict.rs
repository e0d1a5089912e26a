//! What the Slurm half says of a gang's placeholder. Words only: what follows from them is decided in
//! [`super::decide`].

use std::collections::BTreeMap;

use crate::job::{BaseState, JobId};
use crate::place::Seat;
use crate::policy::Refusal;

/// The latest word on the gang's placeholder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It cannot run as asked.
    Refused(Refusal),
    /// It waits.
    Queued {
        /// Its job, once Slurm has one.
        job: Option<JobId>,
        /// Slurm's reason.
        reason: String,
        /// For the user.
        message: String,
        /// Slurm's estimate, seconds since the epoch; 0 when it has none.
        expected_start: i64,
    },
    /// It has its nodes.
    Allocated {
        /// The placeholder.
        job: JobId,
        /// Its generation.
        generation: u32,
        /// One seat per member by pod uid.
        seats: BTreeMap<String, Seat>,
        /// For the user: what the way it was asked for costs; empty for nothing.
        note: String,
        /// When it will end, where Slurm has said so and the gang asked for a warning.
        ends: Option<Ends>,
        /// Its pods are not the ones it was submitted for: some have successors.
        renewed: bool,
    },
    /// It is over, on Slurm's own word.
    Ended {
        /// The placeholder.
        job: JobId,
        /// Its generation.
        generation: u32,
        /// How it ended.
        state: BaseState,
        /// For the user.
        message: String,
    },
}

/// When an allocation will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Milliseconds from when it was said.
    pub in_ms: i64,
    /// By its time limit, rather than because another job takes its nodes.
    pub by_time_limit: bool,
}
