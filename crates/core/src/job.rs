//! What Slurm says about a placeholder, and what we ask of it, in Slurm's own words.
//!
//! Facts only: no HTTP, no JSON (that is `crates/slurm`), no Kubernetes.
//! Parsing never fails: a state this version does not know is kept by name and waits (rule 5).

use std::fmt;

use serde::{Deserialize, Serialize};

mod options;
pub mod states;

pub use options::{Exclusive, Moment, Options, Switches};

/// A Slurm job id. Slurm re-uses ids after state loss, so an id alone never proves identity.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct JobId(pub u32);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Slurm's base job states (`enum job_states` in slurm.h), one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BaseState {
    /// Waiting in the queue.
    Pending,
    /// Holds its allocation.
    Running,
    /// Holds its allocation, stopped by Slurm.
    Suspended,
    /// Ended with exit code 0.
    Completed,
    /// Ended by a person or by us.
    Cancelled,
    /// Ended with a failure.
    Failed,
    /// Ended by its time limit.
    Timeout,
    /// Ended because a node failed.
    NodeFail,
    /// Ended for a job of higher priority.
    Preempted,
    /// Ended because nodes did not boot.
    BootFail,
    /// Ended by its deadline.
    Deadline,
    /// Ended for lack of memory.
    OutOfMemory,
    /// A state this version does not know: logged, and waits.
    Unknown(String),
}

impl BaseState {
    /// Reads one of slurmrestd's state names; flags (`COMPLETING` …) give `None`.
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "PENDING" => Self::Pending,
            "RUNNING" => Self::Running,
            "SUSPENDED" => Self::Suspended,
            "COMPLETED" => Self::Completed,
            "CANCELLED" => Self::Cancelled,
            "FAILED" => Self::Failed,
            "TIMEOUT" => Self::Timeout,
            "NODE_FAIL" => Self::NodeFail,
            "PREEMPTED" => Self::Preempted,
            "BOOT_FAIL" => Self::BootFail,
            "DEADLINE" => Self::Deadline,
            "OUT_OF_MEMORY" => Self::OutOfMemory,
            _ => return None,
        })
    }

    /// Slurm's own name of the state.
    pub fn name(&self) -> &str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Suspended => "SUSPENDED",
            Self::Completed => "COMPLETED",
            Self::Cancelled => "CANCELLED",
            Self::Failed => "FAILED",
            Self::Timeout => "TIMEOUT",
            Self::NodeFail => "NODE_FAIL",
            Self::Preempted => "PREEMPTED",
            Self::BootFail => "BOOT_FAIL",
            Self::Deadline => "DEADLINE",
            Self::OutOfMemory => "OUT_OF_MEMORY",
            Self::Unknown(name) => name,
        }
    }
}

/// Slurm's job state: one base state and any number of flags.
///
/// slurmrestd sends both in one list, `["RUNNING", "COMPLETING"]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobState {
    /// What the job is.
    pub base: BaseState,
    /// Flags beside it by Slurm's name (`COMPLETING`, `CONFIGURING`, `REQUEUED` …), sorted.
    pub flags: Vec<String>,
}

/// What a state means for the pods of the gang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the queue: nothing may be bound.
    Waiting,
    /// Holds its allocation: pods may be bound and may run.
    Holding,
    /// Over for good: positive evidence that the allocation is gone.
    Over,
    /// Neither: wait for Slurm to say more, do nothing.
    Unclear,
}

impl JobState {
    /// Reads slurmrestd's list of state names; it never fails.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Self {
        let mut base = None;
        let mut flags = Vec::new();
        for name in names.iter().map(AsRef::as_ref) {
            match BaseState::parse(name) {
                Some(state) if base.is_none() => base = Some(state),
                _ => flags.push(name.to_owned()),
            }
        }
        flags.sort();
        let base = base.unwrap_or_else(|| BaseState::Unknown(flags.join(",")));
        Self { base, flags }
    }

    /// What this state means for the gang's pods (rule 5: every state has a written answer).
    pub fn standing(&self) -> Standing {
        let row = states::BASES.iter().find(|row| row.name == self.base.name());
        let base = row.map_or(Standing::Unclear, |row| row.standing);
        let row = |name: &String| states::FLAGS.iter().find(|row| row.name == name);
        self.flags.iter().filter_map(row).fold(base, |standing, row| row.effect.on(standing))
    }

    /// What it says and what becomes of the pods, for people.
    pub fn explain(&self) -> String {
        states::explain(self)
    }

    /// Whether Slurm set this flag.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }
}

/// No state at all, which is unknown, and waits.
impl Default for JobState {
    fn default() -> Self {
        Self::parse::<&str>(&[])
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.name())
    }
}

/// One job as slurmctld describes it; every field it may leave out is empty or `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Slurm's own unique id of the submission (`step_id.sluid`); empty where not sent.
    pub sluid: String,
    /// Its name.
    pub name: String,
    /// State and flags.
    pub state: JobState,
    /// Slurm's reason for waiting or ending (`Resources`, `Priority` …); `None` in Slurm is empty.
    pub reason: String,
    /// Slurm's free text beside the reason.
    pub description: String,
    /// Hostlist of the nodes it holds or held; empty while pending.
    pub nodes: String,
    /// Hostlist of the nodes that backfill has in mind while it waits, of a heterogeneous job the leader's: a plan that
    /// the next look may change; empty for none.
    pub planned_nodes: String,
    /// Partition(s).
    pub partition: String,
    /// Owner's name.
    pub user: String,
    /// Account.
    pub account: String,
    /// Submit time, seconds since the epoch; 0 where unknown.
    pub submit_time: i64,
    /// Since when, or from when on, it may start as far as its begin time and dependencies go, seconds since the
    /// epoch; 0 where unknown.
    pub eligible_time: i64,
    /// Since when it gains priority by its age, seconds since the epoch; 0 where it does not yet.
    pub accrue_time: i64,
    /// How often it was requeued.
    pub restarts: u32,
    /// Start time (an estimate while pending), seconds since the epoch; 0 where unknown.
    pub start_time: i64,
    /// End time (expected while running), seconds since the epoch; 0 where unknown.
    pub end_time: i64,
    /// When Slurm has said that another job will take its nodes, seconds since the epoch; 0 for not.
    pub preempt_time: i64,
    /// Hostlist of the nodes whose failure ended it; empty for none.
    pub failed_nodes: String,
    /// Priority, where Slurm has computed one.
    pub priority: Option<u32>,
    /// Only SlurmUser and operators may write it: where our key is trusted.
    pub admin_comment: String,
    /// The owner may write it: where our key rides on the immediate path.
    pub comment: String,
    /// Whether it is an EXTERNAL job (a placeholder), as far as Slurm says.
    pub external: bool,
    /// Hostlist of nodes it must not get.
    pub excluded_nodes: String,
    /// What each of its nodes must give, as it was asked for: `gres/efa=32,gres/gpu:h100=8`.
    pub tres_per_node: String,
    /// How many nodes it has, or needs at least, of all components; 0 where not sent.
    pub node_count: u32,
    /// GPUs it has or asks for, of all nodes and components.
    pub gpus: u32,
    /// CPUs it has or asks for on all nodes; of a heterogeneous job the leader's. 0 where not sent.
    pub cpus: u32,
    /// Memory that each node must give, MiB; of a heterogeneous job the leader's. 0 where not said.
    pub memory_mib: u64,
    /// Components of a heterogeneous job, its leader first; empty for an ordinary job, and for a
    /// component that was read without its leader.
    pub parts: Vec<Part>,
}

/// One component of a heterogeneous job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its own id; the first one's is the leader's.
    pub id: JobId,
    /// Its own state: components start together, but may end apart.
    pub state: JobState,
    /// Hostlist of the nodes it holds or held.
    pub nodes: String,
    /// Where the key of its members rides.
    pub admin_comment: String,
    /// Hostlist of nodes it must not get.
    pub excluded_nodes: String,
    /// What each of its nodes must give, as it was asked for.
    pub tres_per_node: String,
    /// How many nodes it has, or needs at least; 0 where not sent.
    pub node_count: u32,
    /// As [`Job::cpus`].
    pub cpus: u32,
    /// As [`Job::memory_mib`].
    pub memory_mib: u64,
}

impl Job {
    /// What it means for the gang's pods. A heterogeneous job holds while all of its components do;
    /// once some have ended, nothing may be bound any more, and only the end of all is an end.
    pub fn standing(&self) -> Standing {
        let mut all = self.parts.iter().map(|p| p.state.standing());
        let Some(first) = all.next() else { return self.state.standing() };
        if all.all(|other| other == first) { first } else { Standing::Unclear }
    }

    /// How it ended: of a heterogeneous job what took the others with it, for the rest is cancelled.
    pub fn ending(&self) -> &BaseState {
        let mut all = self.parts.iter().map(|p| &p.state.base);
        all.find(|base| **base != BaseState::Cancelled).unwrap_or(&self.state.base)
    }

    /// Some components have ended and others live on: the rest is of no use to the gang.
    pub fn broken(&self) -> bool {
        let over = |p: &Part| p.state.standing() == Standing::Over;
        self.parts.iter().any(over) && !self.parts.iter().all(over)
    }
}

/// What Slurm granted a RUNNING placeholder (`GET resources/{id}`), nodes in Slurm's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// One entry per node.
    pub nodes: Vec<NodeAllocation>,
}

/// What Slurm granted on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAllocation {
    /// Slurm's name of the node, which may differ from the Kubernetes name.
    pub name: String,
    /// CPUs granted.
    pub cpus: u32,
    /// Memory granted, MiB.
    pub memory_mib: u64,
    /// Generic resources granted.
    pub gres: Vec<GresAllocation>,
}

/// One generic resource on one node of an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GresAllocation {
    /// `gpu`, `efa` …
    pub name: String,
    /// `h100` …; empty where the node declares none.
    pub kind: String,
    /// How many.
    pub count: u32,
    /// Which ones, ascending; empty where Slurm only counts them.
    pub indexes: Vec<u32>,
}

/// What is asked of Slurm for one gang: the placeholder, before it is a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceholderRequest {
    /// Job name people see in squeue.
    pub name: String,
    /// Slurm user the job runs as, a name or a number.
    pub user: String,
    /// Group of that user, a name or a number; without it the job gets SlurmUser's group.
    pub group: String,
    /// Account, or the user's default.
    pub account: Option<String>,
    /// Partition; empty for Slurm's default.
    pub partition: String,
    /// Quality of service, or the default.
    pub qos: Option<String>,
    /// Time limit in minutes, or the partition's default.
    pub time_limit_minutes: Option<u32>,
    /// What else was asked.
    pub options: Options,
    /// What is needed: one entry for members that are alike, more for a heterogeneous job.
    pub components: Vec<Component>,
}

/// What one group of like members needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Component {
    /// The gang's key with the group's own mark, as it rides inside this component.
    pub key: String,
    /// Number of nodes, exactly.
    pub nodes: u32,
    /// Tasks (members) on each node.
    pub tasks_per_node: u32,
    /// CPUs for each task.
    pub cpus_per_task: u32,
    /// Memory on each node, MiB.
    pub memory_per_node_mib: u64,
    /// Generic resources on each node.
    pub gres_per_node: Vec<GresRequest>,
    /// Hostlist of nodes that must not be used; empty for none. Never its opposite (rule 12).
    pub excluded_nodes: String,
}

/// How many of a generic resource each node must give.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GresRequest {
    /// `gpu`, `efa` …
    pub name: String,
    /// `h100` …, or any.
    pub kind: Option<String>,
    /// How many on each node.
    pub count: u32,
}

impl GresRequest {
    /// As in `tres_per_node`: `gres/gpu:h100=8`.
    pub fn to_tres(&self) -> String {
        match &self.kind {
            Some(kind) => format!("gres/{}:{kind}={}", self.name, self.count),
            None => format!("gres/{}={}", self.name, self.count),
        }
    }
}

#[cfg(test)]
impl Job {
    /// An ordinary placeholder on node n1.
    pub(crate) fn sample(id: u32, state: &str) -> Self {
        Self {
            id: JobId(id),
            state: JobState::parse(&[state]),
            nodes: "n1".to_owned(),
            external: true,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_one_base_and_its_flags() {
        let state = JobState::parse(&["COMPLETING", "CANCELLED"]);
        assert_eq!(state.base, BaseState::Cancelled);
        assert!(state.has("COMPLETING"));
        assert_eq!(state.standing(), Standing::Over);
    }

    #[test]
    fn an_unknown_state_waits() {
        for names in [vec!["TELEPORTED"], vec![], vec!["COMPLETING"]] {
            assert_eq!(JobState::parse(&names).standing(), Standing::Unclear, "{names:?}");
        }
    }

    #[test]
    fn only_a_settled_running_job_holds() {
        assert_eq!(JobState::parse(&["RUNNING"]).standing(), Standing::Holding);
        assert_eq!(JobState::parse(&["RUNNING", "CONFIGURING"]).standing(), Standing::Waiting);
        assert_eq!(JobState::parse(&["RUNNING", "COMPLETING"]).standing(), Standing::Unclear);
        assert_eq!(JobState::parse(&["SUSPENDED"]).standing(), Standing::Unclear);
        assert_eq!(JobState::parse(&["PENDING", "REQUEUED"]).standing(), Standing::Waiting);
    }

    #[test]
    fn every_terminal_state_is_over() {
        for name in [
            "COMPLETED",
            "CANCELLED",
            "FAILED",
            "TIMEOUT",
            "NODE_FAIL",
            "PREEMPTED",
            "BOOT_FAIL",
            "DEADLINE",
            "OUT_OF_MEMORY",
        ] {
            let state = JobState::parse(&[name]);
            assert_eq!(state.standing(), Standing::Over, "{name}");
            assert_eq!(state.base.name(), name);
        }
    }

    fn of_parts(states: &[&str]) -> Job {
        let part = |(id, state): (u32, &&str)| Part {
            id: JobId(id),
            state: JobState::parse(&[state]),
            ..Part::default()
        };
        let parts: Vec<Part> = (7..).zip(states).map(part).collect();
        Job { parts, ..Job::sample(7, states[0]) }
    }

    #[test]
    fn components_hold_together_and_are_over_together() {
        for (states, standing, broken) in [
            (["RUNNING", "RUNNING"], Standing::Holding, false),
            (["PENDING", "PENDING"], Standing::Waiting, false),
            (["RUNNING", "PENDING"], Standing::Unclear, false),
            (["RUNNING", "CANCELLED"], Standing::Unclear, true),
            (["NODE_FAIL", "RUNNING"], Standing::Unclear, true),
            (["CANCELLED", "NODE_FAIL"], Standing::Over, false),
        ] {
            let job = of_parts(&states);
            assert_eq!((job.standing(), job.broken()), (standing, broken), "{states:?}");
        }
        assert_eq!(of_parts(&["CANCELLED", "NODE_FAIL"]).ending(), &BaseState::NodeFail);
        assert_eq!(of_parts(&["CANCELLED", "CANCELLED"]).ending(), &BaseState::Cancelled);
        assert_eq!(Job::sample(7, "TIMEOUT").ending(), &BaseState::Timeout);
    }
}
