//! Slurm's reasons why a job waits or has ended, by its own names (`job_state_reason` in slurm.h): what each
//! means for whoever made the pods, and what helps. Limits are in `reason::limits`.
//!
//! Data. `docs/reference/reasons.md` shows it, and a test keeps both the same; another test has the names that
//! Slurm's library knows (`names-26.05.txt`), so that none is missing.

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Slurm's name of it.
    pub name: &'static str,
    /// What it means.
    pub says: String,
    /// What helps; empty where only waiting does.
    pub remedy: String,
    /// The job waits in vain until somebody changes something.
    pub stuck: bool,
}

/// Slurm goes on by itself.
const PATIENCE: bool = false;
/// Somebody has to act.
const STUCK: bool = true;

const CORRECT_ACCOUNT: &str =
    "name another account with gangway.dev/account, or have it added with sacctmgr";
const CORRECT_QOS: &str = "name another with gangway.dev/qos, or have it allowed with sacctmgr";
const LESS_TIME: &str = "lower gangway.dev/time-limit";

/// Name, meaning, remedy, and whether somebody has to act.
pub(super) const ROWS: &[(&str, &str, &str, bool)] = &[
    ("None", "Slurm has not looked at it yet", "", PATIENCE),
    // The queue.
    ("Priority", "jobs of higher priority wait for the same nodes", "", PATIENCE),
    ("Resources", "waiting for enough free nodes; it is next in line", "", PATIENCE),
    ("Dependency", "waiting for another job", "", PATIENCE),
    (
        "DependencyNeverSatisfied",
        "the job it waits for has ended otherwise than it must",
        "correct gangway.dev/dependency",
        STUCK,
    ),
    ("BeginTime", "its begin time has not come", "", PATIENCE),
    ("DeadLine", "its deadline has passed", "correct gangway.dev/deadline", STUCK),
    ("Cleaning", "its last run is still being cleaned up", "", PATIENCE),
    (
        "Prolog",
        "the programs that ready its nodes (Prolog, PrologSlurmctld) still run",
        "",
        PATIENCE,
    ),
    ("SchedDefer", "asked to start at once, and Slurm is set to defer such jobs", "", PATIENCE),
    ("FedJobLock", "clusters of its federation agree on who starts it", "", PATIENCE),
    (
        "JobArrayTaskLimit",
        "as many tasks of its array run as it allows itself",
        "raise the limit with scontrol update ArrayTaskThrottle",
        PATIENCE,
    ),
    // Held.
    (
        "JobHeldAdmin",
        "held by an administrator",
        "ask who held it; scontrol release lets it go",
        STUCK,
    ),
    ("JobHeldUser", "held by its owner", "release it with scontrol release", STUCK),
    (
        "JobHoldMaxRequeue",
        "held, for it has failed to start too often (MaxBatchRequeue)",
        "look why in slurmctld's log, then scontrol release",
        STUCK,
    ),
    // Partitions.
    (
        "PartitionDown",
        "its partition is down",
        "ask its administrator, or name another partition",
        PATIENCE,
    ),
    (
        "PartitionInactive",
        "its partition is inactive",
        "ask its administrator, or name another partition",
        PATIENCE,
    ),
    (
        "PartitionNodeLimit",
        "it needs more nodes than its partition allows",
        "ask for fewer pods or name another partition",
        STUCK,
    ),
    (
        "PartitionTimeLimit",
        "its time limit is longer than its partition allows",
        "lower gangway.dev/time-limit or name another partition",
        STUCK,
    ),
    (
        "PartitionConfig",
        "it asks for more nodes, CPUs or memory than its partition has or allows",
        "ask for less or name another partition",
        STUCK,
    ),
    // Nodes.
    (
        "ReqNodeNotAvail",
        "nodes it needs are down, drained or reserved",
        "sinfo -R says why",
        PATIENCE,
    ),
    ("NodeDown", "a node it needs is down", "sinfo -R says why", PATIENCE),
    (
        "BadConstraints",
        "no node can satisfy it as nodes are now; Slurm looks again every half minute",
        "ask for less, or correct gangway.dev/constraints and gangway.dev/gpu-type",
        STUCK,
    ),
    (
        "Constraints",
        "no node has the features it asks for",
        "correct gangway.dev/constraints (sinfo -o %f lists features)",
        STUCK,
    ),
    (
        "MaxPoweredUpNodes",
        "as many nodes are powered up as Slurm allows (MaxPoweredUpNodes)",
        "",
        PATIENCE,
    ),
    ("FrontEndDown", "no front end node is up", "ask an administrator", PATIENCE),
    ("PowerNotAvail", "there is not enough power for its nodes", "", PATIENCE),
    ("PowerReserved", "the power that it needs is reserved", "", PATIENCE),
    // What nodes need beside themselves.
    ("Licenses", "waiting for licences", "scontrol show licenses says how many are free", PATIENCE),
    ("NvidiaImexChannels", "waiting for a free IMEX channel of NVLink", "", PATIENCE),
    ("MpiPortsBusy", "the ports reserved for MPI are in use on its nodes", "", PATIENCE),
    ("BurstBufferResources", "waiting for room in the burst buffer", "", PATIENCE),
    ("BurstBufferStageIn", "its data is being brought into the burst buffer", "", PATIENCE),
    (
        "BurstBufferOperation",
        "an operation on its burst buffer has failed",
        "scontrol show burst says which; correct it and release the job",
        STUCK,
    ),
    // Reservations.
    (
        "Reservation",
        "waiting for its reservation",
        "scontrol show reservation says when it begins",
        PATIENCE,
    ),
    (
        "ReservationDeleted",
        "its reservation has been deleted",
        "name another one with gangway.dev/reservation",
        STUCK,
    ),
    (
        "ReservationInvalid",
        "it may not use its reservation, or that is over",
        "name another one with gangway.dev/reservation",
        STUCK,
    ),
    // Who it is.
    (
        "InvalidAccount",
        "its account is not known to Slurm, or not for its user",
        CORRECT_ACCOUNT,
        STUCK,
    ),
    (
        "AccountNotAllowed",
        "its partition does not take jobs of its account",
        CORRECT_ACCOUNT,
        STUCK,
    ),
    (
        "InvalidQOS",
        "its quality of service is not known to Slurm, or not for its account",
        CORRECT_QOS,
        STUCK,
    ),
    ("QOSNotAllowed", "its partition does not take its quality of service", CORRECT_QOS, STUCK),
    (
        "QOSUsageThreshold",
        "its account has used so much that its quality of service lets it wait (UsageThreshold)",
        "wait until usage decays, or name another account or quality of service",
        PATIENCE,
    ),
    (
        "AccountingPolicy",
        "a limit of its account or quality of service is used up",
        "sacctmgr show assoc and sacctmgr show qos list the limits",
        PATIENCE,
    ),
    // Limits of earlier releases, without saying which.
    ("AssociationJobLimit", "a limit of its account on jobs is used up", "", PATIENCE),
    ("AssociationResourceLimit", "a limit of its account on resources is used up", "", PATIENCE),
    ("AssociationTimeLimit", "a limit of its account on time is used up", LESS_TIME, PATIENCE),
    ("QOSJobLimit", "a limit of its quality of service on jobs is used up", "", PATIENCE),
    ("QOSResourceLimit", "a limit of its quality of service on resources is used up", "", PATIENCE),
    ("QOSTimeLimit", "a limit of its quality of service on time is used up", LESS_TIME, PATIENCE),
    (
        "MaxMemPerLimit",
        "it asks for more memory on a node or CPU than its partition allows",
        "lower the memory that its pods request",
        STUCK,
    ),
    // Why a job has ended; a placeholder that waits never says so.
    ("SystemFailure", "Slurm itself failed", "look at slurmctld's log", PATIENCE),
    (
        "JobLaunchFailure",
        "it could not be started",
        "look at the logs of slurmctld and slurmd",
        STUCK,
    ),
    ("NonZeroExitCode", "it ended with a failure", "", PATIENCE),
    ("RaisedSignal", "it was ended by a signal", "", PATIENCE),
    ("TimeLimit", "it reached its time limit", "raise gangway.dev/time-limit", PATIENCE),
    ("InactiveLimit", "it was idle for longer than Slurm allows (InactiveLimit)", "", PATIENCE),
    ("OutOfMemory", "it ran out of memory", "raise the memory that its pods request", PATIENCE),
];

/// Every reason that is known.
pub fn all() -> impl Iterator<Item = Reason> {
    ROWS.iter().map(reason).chain(super::limits::all())
}

/// What is known of one reason; the empty one is Slurm's `None`.
pub fn find(name: &str) -> Option<Reason> {
    let name = if name.is_empty() { "None" } else { name };
    let row = ROWS.iter().find(|(known, ..)| *known == name);
    row.map(reason).or_else(|| super::limits::those(|known| known == name).next())
}

fn reason(&(name, says, remedy, stuck): &(&'static str, &str, &str, bool)) -> Reason {
    Reason { name, says: says.to_owned(), remedy: remedy.to_owned(), stuck }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::reason::{LOST, UNREACHABLE, needs_a_person};

    /// What the library of Slurm 26.05.5 names (`slurm_job_state_reason_string`), one on each line.
    const OF_26_05: &str = include_str!("names-26.05.txt");
    /// Of 25.11 the same: its header has 26.05's 221 numbers (`enum job_state_reason`, read in pyslurm 25.11.2), of which
    /// 34, 76 and 77 are marked as defunct in both. These are what older releases call those.
    const ONLY_BEFORE: [&str; 3] = ["FrontEndDown", "PowerNotAvail", "PowerReserved"];
    const ALERTS: &str = include_str!("../../../../manifests/monitoring/alerts.yaml");
    const PAGE: &str = include_str!("../../../../docs/reference/reasons.md");

    #[test]
    fn no_reason_of_a_supported_slurm_is_missing() {
        let known: BTreeSet<&str> = all().map(|reason| reason.name).collect();
        let names: BTreeSet<&str> = OF_26_05.lines().chain(ONLY_BEFORE).collect();
        assert!(names.len() > 210, "{}", names.len());
        let missing: Vec<_> = names.difference(&known).collect();
        assert!(missing.is_empty(), "no words for {missing:?}");
        let strange: Vec<_> = known.difference(&names).collect();
        assert!(strange.is_empty(), "Slurm does not know {strange:?}");
        assert_eq!(all().count(), known.len(), "each once");
    }

    #[test]
    fn every_reason_is_a_sentence_that_can_go_on() {
        for Reason { name, says, remedy, stuck } in all() {
            for text in [&says, &remedy] {
                assert!(
                    !text.ends_with('.') && text.trim() == text && !text.contains("  "),
                    "{name}: {text}"
                );
            }
            assert!(
                !says.is_empty() && (!stuck || !remedy.is_empty()),
                "{name}: who is stuck is told what helps"
            );
        }
    }

    #[test]
    fn the_alert_names_all_for_which_somebody_must_act() {
        let alert = ALERTS.split("- alert: GangwayGangsNeedSomebody").nth(1).unwrap();
        let names = alert.split("reason=~\"").nth(1).unwrap().split('"').next().unwrap();
        let named: BTreeSet<&str> = names.split('|').collect();
        let known = all().map(|reason| reason.name).chain([UNREACHABLE, LOST]);
        let stuck: BTreeSet<&str> = known.filter(|name| needs_a_person(name)).collect();
        assert_eq!(named, stuck);
    }

    #[test]
    fn the_page_shows_the_table() {
        let row = |r: Reason| {
            let who = if r.stuck { "somebody must act" } else { "" };
            format!("| {} | {} | {} | {who} |", r.name, r.says, r.remedy)
        };
        let rows: Vec<String> = all().map(row).collect();
        let shown: Vec<&str> = PAGE
            .lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| reason"))
            .collect();
        assert_eq!(shown, rows, "docs/reference/reasons.md should have:\n{}", rows.join("\n"));
    }
}
