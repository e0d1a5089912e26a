//! Slurm's error numbers: kept as numbers, the known ones named.
//!
//! It must never look at the text that comes with them. The numbers are `slurm_errno.h` of 26.05;
//! where a comment says "seen", a live 26.05.5 answered it.

use std::fmt;

/// A Slurm error number (`error_number` in an answer of slurmrestd).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlurmCode(pub i32);

impl SlurmCode {
    /// `SLURM_ERROR`: slurmctld is down, or a node line it cannot parse (both seen).
    pub const UNSPECIFIED: Self = Self(-1);
    /// `EPERM`, which is what a cancel is told while slurmctld is down (seen, with HTTP 403).
    pub const NOT_PERMITTED: Self = Self(1);
    /// The token is not accepted (seen, with HTTP 511).
    pub const AUTHENTICATION: Self = Self(1007);
    /// No answer from slurmctld (seen, with HTTP 502).
    pub const CONTROLLER_UNREACHABLE: Self = Self(1800);
    /// No such partition (seen).
    pub const INVALID_PARTITION: Self = Self(2000);
    /// The caller may not do this (seen).
    pub const ACCESS_DENIED: Self = Self(2002);
    /// The chosen job id is taken, also by an ended job still in memory (seen).
    pub const DUPLICATE_JOB_ID: Self = Self(2011);
    /// Immediate allocation refused: an earlier job waits for these nodes (seen).
    pub const NOT_TOP_PRIORITY: Self = Self(2013);
    /// No node can ever satisfy this: GPU type, GPU count, memory, all nodes excluded (seen).
    pub const NODE_CONFIG_UNAVAILABLE: Self = Self(2014);
    /// More than the partition has: nodes or CPUs; a queued job only warns of it (seen).
    pub const PARTITION_CONFIG_UNAVAILABLE: Self = Self(2015);
    /// The nodes are in use: immediate allocation, or deleting a node with a job (seen).
    pub const NODES_BUSY: Self = Self(2016);
    /// No such job, or purged (seen).
    pub const INVALID_JOB_ID: Self = Self(2017);
    /// No such node (seen).
    pub const INVALID_NODE_NAME: Self = Self(2018);
    /// The job has already ended or is about to (seen).
    pub const ALREADY_DONE: Self = Self(2021);
    /// Fewer tasks than nodes and the like (seen).
    pub const INVALID_TASK_COUNT: Self = Self(2025);
    /// A dependency that immediate allocation cannot wait for (seen).
    pub const DEPENDENCY: Self = Self(2038);
    /// The user may not use this account, or it does not exist.
    pub const INVALID_ACCOUNT: Self = Self(2045);
    /// No such quality of service, or not for this user.
    pub const INVALID_QOS: Self = Self(2066);
    /// No such generic resource (seen).
    pub const INVALID_GRES: Self = Self(2072);
    /// Immediate allocation refused for a heterogeneous job (seen).
    pub const NOT_NOW: Self = Self(2078);
    /// Resources of a job that is not running were asked for (seen).
    pub const JOB_NOT_RUNNING: Self = Self(2085);
    /// No such user on slurmrestd's host (seen).
    pub const UNKNOWN_USER: Self = Self(2166);
    /// A node of this name exists (seen).
    pub const NODE_EXISTS: Self = Self(2168);
    /// slurmctld answered too late (seen, with HTTP 504).
    pub const CONTROLLER_STALLED: Self = Self(5004);

    /// Whether slurmrestd itself refused the request before asking slurmctld: it certainly had no
    /// effect (its own REST and parser numbers, 9000 to 9299).
    pub(crate) fn is_before_slurmctld(self) -> bool {
        (9000..9300).contains(&self.0)
    }

    /// Whether it says "slurmctld could not be asked", not "slurmctld refused".
    pub(crate) fn is_communication(self) -> bool {
        matches!(self, Self::CONTROLLER_STALLED | Self::NOT_PERMITTED)
            || (1800..1900).contains(&self.0)
            || (5000..5100).contains(&self.0)
    }

    /// Whether it refuses an immediate allocation only for now: the queue may take the same request.
    pub(crate) fn is_not_now(self) -> bool {
        matches!(self, Self::NOT_TOP_PRIORITY | Self::NODES_BUSY | Self::DEPENDENCY | Self::NOT_NOW)
    }
}

impl fmt::Display for SlurmCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
