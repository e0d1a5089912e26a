//! What else a job may be asked for, beside its resources: every field optional, nothing by default.
//!
//! Values only, already checked by [`crate::ask`]; `crates/slurm` writes them out.

use std::fmt;

/// Everything a user may ask of Slurm beside resources, partition, account and QoS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Features a node must have, in Slurm's own grammar (`h100&ib`).
    pub constraints: Option<String>,
    /// Features a node should have.
    pub prefer: Option<String>,
    /// Licences (`matlab:2`).
    pub licenses: Option<String>,
    /// Reservation, or several separated by commas.
    pub reservation: Option<String>,
    /// Dependency in Slurm's own grammar, workloads already resolved to job ids.
    pub dependency: Option<String>,
    /// Not before.
    pub begin: Option<Moment>,
    /// Ended by then, or not at all.
    pub deadline: Option<Moment>,
    /// Slurm may shorten the time limit down to this many minutes to start the job earlier.
    pub time_min_minutes: Option<u32>,
    /// Taken off the priority.
    pub nice: Option<i32>,
    /// Priority, in place of the one Slurm computes.
    pub priority: Option<u32>,
    /// Workload characterization key.
    pub wckey: Option<String>,
    /// Free text.
    pub comment: Option<String>,
    /// At most so many leaf switches.
    pub switches: Option<Switches>,
    /// Nodes per segment of a block topology.
    pub segment: Option<u16>,
    /// Only nodes that follow each other.
    pub contiguous: bool,
    /// As many nodes as can be.
    pub spread: bool,
    /// Whom the nodes may be shared with.
    pub exclusive: Option<Exclusive>,
}

impl Options {
    /// Whether only the queue can take it: asking at once cannot wait for a time or another job, is
    /// made as the owner, who may not raise his priority, and needs `comment` for the gang's key.
    pub fn needs_queue(&self) -> bool {
        self.dependency.is_some()
            || self.begin.is_some()
            || self.deadline.is_some()
            || self.priority.is_some()
            || self.nice.is_some_and(|nice| nice < 0)
            || self.comment.is_some()
    }
}

/// A point in time. There is no clock here, so one that counts from now stays a distance until
/// Slurm reads it, when the job is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Seconds since the epoch.
    At(i64),
    /// Seconds after the job has been submitted.
    In(u32),
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(seconds) => seconds.fmt(f),
            Self::In(seconds) => write!(f, "now+{seconds}"),
        }
    }
}

/// At most so many leaf switches, and how long to wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// How many.
    pub count: u32,
    /// Then any number will do; without it, Slurm waits as long as its configuration says.
    pub wait_seconds: Option<u32>,
}

impl fmt::Display for Switches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wait_seconds {
            None => self.count.fmt(f),
            Some(wait) => write!(f, "{}@{}:{:02}", self.count, wait / 60, wait % 60),
        }
    }
}

/// Whom the nodes of a job may be shared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusive {
    /// Nobody: whole nodes.
    Node,
    /// Jobs of the same user.
    User,
    /// Jobs of the same MCS label.
    Mcs,
    /// Nobody, and nobody else in their segment of the topology.
    Topo,
}

impl Exclusive {
    /// The word of the annotation.
    pub fn word(self) -> &'static str {
        match self {
            Self::Node => "true",
            Self::User => "user",
            Self::Mcs => "mcs",
            Self::Topo => "topo",
        }
    }
}
