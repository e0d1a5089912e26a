//! The hooks: one for metrics, called once per exchange with labels that are bounded by construction, and
//! one that may hold back whatever changes something.
//!
//! Neither must ever carry a job id, a node name or any text of an answer.

use std::time::Duration;

use crate::code::SlurmCode;

/// Told about every exchange with slurmrestd, also the failed ones.
pub trait Observer: Send + Sync {
    /// Called once an exchange is over, on the task that asked: it must not block.
    fn request(&self, exchange: &Exchange);

    /// Called beside it for an answer that says no, with Slurm's number for that where it gave one. It must not block
    /// either.
    fn refused(&self, _endpoint: &'static str, _code: Option<SlurmCode>) {}
}

/// Whether its owner may change anything at all at this moment; reading is always open.
pub trait Gate: Send + Sync {
    /// Asked right before a request that changes something is sent, on the task that asks: it must not
    /// block. `false`: it is not sent, and fails with [`Error::Shut`](crate::Error::Shut).
    fn is_open(&self) -> bool;
}

/// One exchange with slurmrestd.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exchange {
    /// What was asked, without ids: `job/submit`, `jobs/state` …
    pub endpoint: &'static str,
    /// HTTP status, where an answer came.
    pub status: Option<u16>,
    /// `answered`, or the [category](crate::Error::category) of what broke on the way. An answer
    /// that says no is `answered`; its status tells.
    pub outcome: &'static str,
    /// From taking a connection to the last byte; waiting for a free connection included.
    pub elapsed: Duration,
    /// Size of the answer's body.
    pub bytes: u64,
}
