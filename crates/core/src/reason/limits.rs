//! Limits on accounts (associations) and qualities of service, by Slurm's names: in each the same is said of
//! another resource.
//!
//! Data, and how a row of it becomes a sentence.

use super::table::Reason;

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Of its account, or its user in that.
    Assoc,
    /// Of its quality of service.
    Qos,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Cpus,
    Memory,
    Nodes,
    Energy,
    Gres,
    Licences,
    Buffer,
    Billing,
    Other,
}

/// How it is limited, with the name of the limit in sacctmgr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// All at once (GrpTRES).
    AtOnce,
    /// Used over time (GrpTRESMins).
    Minutes,
    /// What running jobs may still use (GrpTRESRunMins).
    RunMinutes,
    /// MaxTRES.
    PerJob,
    /// MaxTRESPerNode.
    PerNode,
    /// MaxTRESMins.
    MinutesPerJob,
    /// MaxTRESPerUser.
    PerUser,
    /// MaxTRESPerAccount.
    PerAccount,
    /// MaxTRESRunMinsPerUser.
    RunMinutesPerUser,
    /// MaxTRESRunMinsPerAccount.
    RunMinutesPerAccount,
    /// MinTRES.
    Least,
}

use How::{
    AtOnce, Least, Minutes, MinutesPerJob, PerAccount, PerJob, PerNode, PerUser, RunMinutes,
    RunMinutesPerAccount, RunMinutesPerUser,
};
use What::{Billing, Buffer, Cpus, Energy, Gres, Licences, Memory, Nodes, Other};
use Whose::{Assoc, Qos};

const ROWS: &[(&str, Whose, How, What)] = &[
    ("AssocGrpBB", Assoc, AtOnce, Buffer),
    ("AssocGrpBBMinutes", Assoc, Minutes, Buffer),
    ("AssocGrpBBRunMinutes", Assoc, RunMinutes, Buffer),
    ("AssocGrpBilling", Assoc, AtOnce, Billing),
    ("AssocGrpBillingMinutes", Assoc, Minutes, Billing),
    ("AssocGrpBillingRunMinutes", Assoc, RunMinutes, Billing),
    ("AssocGrpCPUMinutesLimit", Assoc, Minutes, Cpus),
    ("AssocGrpCPURunMinutesLimit", Assoc, RunMinutes, Cpus),
    ("AssocGrpCpuLimit", Assoc, AtOnce, Cpus),
    ("AssocGrpEnergy", Assoc, AtOnce, Energy),
    ("AssocGrpEnergyMinutes", Assoc, Minutes, Energy),
    ("AssocGrpEnergyRunMinutes", Assoc, RunMinutes, Energy),
    ("AssocGrpGRES", Assoc, AtOnce, Gres),
    ("AssocGrpGRESMinutes", Assoc, Minutes, Gres),
    ("AssocGrpGRESRunMinutes", Assoc, RunMinutes, Gres),
    ("AssocGrpLicense", Assoc, AtOnce, Licences),
    ("AssocGrpLicenseMinutes", Assoc, Minutes, Licences),
    ("AssocGrpLicenseRunMinutes", Assoc, RunMinutes, Licences),
    ("AssocGrpMemLimit", Assoc, AtOnce, Memory),
    ("AssocGrpMemMinutes", Assoc, Minutes, Memory),
    ("AssocGrpMemRunMinutes", Assoc, RunMinutes, Memory),
    ("AssocGrpNodeLimit", Assoc, AtOnce, Nodes),
    ("AssocGrpNodeMinutes", Assoc, Minutes, Nodes),
    ("AssocGrpNodeRunMinutes", Assoc, RunMinutes, Nodes),
    ("AssocGrpUnknown", Assoc, AtOnce, Other),
    ("AssocGrpUnknownMinutes", Assoc, Minutes, Other),
    ("AssocGrpUnknownRunMinutes", Assoc, RunMinutes, Other),
    ("AssocMaxBBMinutesPerJob", Assoc, MinutesPerJob, Buffer),
    ("AssocMaxBBPerJob", Assoc, PerJob, Buffer),
    ("AssocMaxBBPerNode", Assoc, PerNode, Buffer),
    ("AssocMaxBillingMinutesPerJob", Assoc, MinutesPerJob, Billing),
    ("AssocMaxBillingPerJob", Assoc, PerJob, Billing),
    ("AssocMaxBillingPerNode", Assoc, PerNode, Billing),
    ("AssocMaxCpuMinutesPerJobLimit", Assoc, MinutesPerJob, Cpus),
    ("AssocMaxCpuPerJobLimit", Assoc, PerJob, Cpus),
    ("AssocMaxCpuPerNode", Assoc, PerNode, Cpus),
    ("AssocMaxEnergyMinutesPerJob", Assoc, MinutesPerJob, Energy),
    ("AssocMaxEnergyPerJob", Assoc, PerJob, Energy),
    ("AssocMaxEnergyPerNode", Assoc, PerNode, Energy),
    ("AssocMaxGRESMinutesPerJob", Assoc, MinutesPerJob, Gres),
    ("AssocMaxGRESPerJob", Assoc, PerJob, Gres),
    ("AssocMaxGRESPerNode", Assoc, PerNode, Gres),
    ("AssocMaxLicenseMinutesPerJob", Assoc, MinutesPerJob, Licences),
    ("AssocMaxLicensePerJob", Assoc, PerJob, Licences),
    ("AssocMaxMemMinutesPerJob", Assoc, MinutesPerJob, Memory),
    ("AssocMaxMemPerJob", Assoc, PerJob, Memory),
    ("AssocMaxMemPerNode", Assoc, PerNode, Memory),
    ("AssocMaxNodeMinutesPerJob", Assoc, MinutesPerJob, Nodes),
    ("AssocMaxNodePerJobLimit", Assoc, PerJob, Nodes),
    ("AssocMaxUnknownMinutesPerJob", Assoc, MinutesPerJob, Other),
    ("AssocMaxUnknownPerJob", Assoc, PerJob, Other),
    ("AssocMaxUnknownPerNode", Assoc, PerNode, Other),
    ("MaxBBPerAccount", Qos, PerAccount, Buffer),
    ("MaxBBRunMinsPerAccount", Qos, RunMinutesPerAccount, Buffer),
    ("MaxBBRunMinsPerUser", Qos, RunMinutesPerUser, Buffer),
    ("MaxBillingPerAccount", Qos, PerAccount, Billing),
    ("MaxBillingRunMinsPerAccount", Qos, RunMinutesPerAccount, Billing),
    ("MaxBillingRunMinsPerUser", Qos, RunMinutesPerUser, Billing),
    ("MaxCpuPerAccount", Qos, PerAccount, Cpus),
    ("MaxCpuRunMinsPerAccount", Qos, RunMinutesPerAccount, Cpus),
    ("MaxCpuRunMinsPerUser", Qos, RunMinutesPerUser, Cpus),
    ("MaxEnergyPerAccount", Qos, PerAccount, Energy),
    ("MaxEnergyRunMinsPerAccount", Qos, RunMinutesPerAccount, Energy),
    ("MaxEnergyRunMinsPerUser", Qos, RunMinutesPerUser, Energy),
    ("MaxGRESPerAccount", Qos, PerAccount, Gres),
    ("MaxGRESRunMinsPerAccount", Qos, RunMinutesPerAccount, Gres),
    ("MaxGRESRunMinsPerUser", Qos, RunMinutesPerUser, Gres),
    ("MaxLicensePerAccount", Qos, PerAccount, Licences),
    ("MaxLicenseRunMinsPerAccount", Qos, RunMinutesPerAccount, Licences),
    ("MaxLicenseRunMinsPerUser", Qos, RunMinutesPerUser, Licences),
    ("MaxMemoryPerAccount", Qos, PerAccount, Memory),
    ("MaxMemoryRunMinsPerAccount", Qos, RunMinutesPerAccount, Memory),
    ("MaxMemoryRunMinsPerUser", Qos, RunMinutesPerUser, Memory),
    ("MaxNodePerAccount", Qos, PerAccount, Nodes),
    ("MaxNodeRunMinsPerAccount", Qos, RunMinutesPerAccount, Nodes),
    ("MaxNodeRunMinsPerUser", Qos, RunMinutesPerUser, Nodes),
    ("MaxUnknownPerAccount", Qos, PerAccount, Other),
    ("MaxUnknownRunMinsPerAccount", Qos, RunMinutesPerAccount, Other),
    ("MaxUnknownRunMinsPerUser", Qos, RunMinutesPerUser, Other),
    ("QOSGrpBB", Qos, AtOnce, Buffer),
    ("QOSGrpBBMinutes", Qos, Minutes, Buffer),
    ("QOSGrpBBRunMinutes", Qos, RunMinutes, Buffer),
    ("QOSGrpBilling", Qos, AtOnce, Billing),
    ("QOSGrpBillingMinutes", Qos, Minutes, Billing),
    ("QOSGrpBillingRunMinutes", Qos, RunMinutes, Billing),
    ("QOSGrpCPUMinutesLimit", Qos, Minutes, Cpus),
    ("QOSGrpCPURunMinutesLimit", Qos, RunMinutes, Cpus),
    ("QOSGrpCpuLimit", Qos, AtOnce, Cpus),
    ("QOSGrpEnergy", Qos, AtOnce, Energy),
    ("QOSGrpEnergyMinutes", Qos, Minutes, Energy),
    ("QOSGrpEnergyRunMinutes", Qos, RunMinutes, Energy),
    ("QOSGrpGRES", Qos, AtOnce, Gres),
    ("QOSGrpGRESMinutes", Qos, Minutes, Gres),
    ("QOSGrpGRESRunMinutes", Qos, RunMinutes, Gres),
    ("QOSGrpLicense", Qos, AtOnce, Licences),
    ("QOSGrpLicenseMinutes", Qos, Minutes, Licences),
    ("QOSGrpLicenseRunMinutes", Qos, RunMinutes, Licences),
    ("QOSGrpMemLimit", Qos, AtOnce, Memory),
    ("QOSGrpMemoryMinutes", Qos, Minutes, Memory),
    ("QOSGrpMemoryRunMinutes", Qos, RunMinutes, Memory),
    ("QOSGrpNodeLimit", Qos, AtOnce, Nodes),
    ("QOSGrpNodeMinutes", Qos, Minutes, Nodes),
    ("QOSGrpNodeRunMinutes", Qos, RunMinutes, Nodes),
    ("QOSGrpUnknown", Qos, AtOnce, Other),
    ("QOSGrpUnknownMinutes", Qos, Minutes, Other),
    ("QOSGrpUnknownRunMinutes", Qos, RunMinutes, Other),
    ("QOSMaxBBPerJob", Qos, PerJob, Buffer),
    ("QOSMaxBBPerNode", Qos, PerNode, Buffer),
    ("QOSMaxBBPerUser", Qos, PerUser, Buffer),
    ("QOSMaxBillingMinutesPerJob", Qos, MinutesPerJob, Billing),
    ("QOSMaxBillingPerJob", Qos, PerJob, Billing),
    ("QOSMaxBillingPerNode", Qos, PerNode, Billing),
    ("QOSMaxBillingPerUser", Qos, PerUser, Billing),
    ("QOSMaxCpuMinutesPerJobLimit", Qos, MinutesPerJob, Cpus),
    ("QOSMaxCpuPerJobLimit", Qos, PerJob, Cpus),
    ("QOSMaxCpuPerNode", Qos, PerNode, Cpus),
    ("QOSMaxCpuPerUserLimit", Qos, PerUser, Cpus),
    ("QOSMaxEnergyMinutesPerJob", Qos, MinutesPerJob, Energy),
    ("QOSMaxEnergyPerJob", Qos, PerJob, Energy),
    ("QOSMaxEnergyPerNode", Qos, PerNode, Energy),
    ("QOSMaxEnergyPerUser", Qos, PerUser, Energy),
    ("QOSMaxGRESMinutesPerJob", Qos, MinutesPerJob, Gres),
    ("QOSMaxGRESPerJob", Qos, PerJob, Gres),
    ("QOSMaxGRESPerNode", Qos, PerNode, Gres),
    ("QOSMaxGRESPerUser", Qos, PerUser, Gres),
    ("QOSMaxLicenseMinutesPerJob", Qos, MinutesPerJob, Licences),
    ("QOSMaxLicensePerJob", Qos, PerJob, Licences),
    ("QOSMaxLicensePerUser", Qos, PerUser, Licences),
    ("QOSMaxMemoryMinutesPerJob", Qos, MinutesPerJob, Memory),
    ("QOSMaxMemoryPerJob", Qos, PerJob, Memory),
    ("QOSMaxMemoryPerNode", Qos, PerNode, Memory),
    ("QOSMaxMemoryPerUser", Qos, PerUser, Memory),
    ("QOSMaxNodeMinutesPerJob", Qos, MinutesPerJob, Nodes),
    ("QOSMaxNodePerJobLimit", Qos, PerJob, Nodes),
    ("QOSMaxNodePerUserLimit", Qos, PerUser, Nodes),
    ("QOSMaxUnknownMinutesPerJob", Qos, MinutesPerJob, Other),
    ("QOSMaxUnknownPerJob", Qos, PerJob, Other),
    ("QOSMaxUnknownPerNode", Qos, PerNode, Other),
    ("QOSMaxUnknownPerUser", Qos, PerUser, Other),
    ("QOSMinBB", Qos, Least, Buffer),
    ("QOSMinBilling", Qos, Least, Billing),
    ("QOSMinCpuNotSatisfied", Qos, Least, Cpus),
    ("QOSMinEnergy", Qos, Least, Energy),
    ("QOSMinGRES", Qos, Least, Gres),
    ("QOSMinLicense", Qos, Least, Licences),
    ("QOSMinMemory", Qos, Least, Memory),
    ("QOSMinNode", Qos, Least, Nodes),
    ("QOSMinUnknown", Qos, Least, Other),
];

/// Limits that count jobs or time: name, whose, meaning, whether somebody has to act.
const COUNTS: &[(&str, Whose, &str, bool)] = &[
    ("AssocGrpJobsLimit", Assoc, "as many jobs run as {who} may have at once (GrpJobs)", false),
    (
        "AssocGrpSubmitJobsLimit",
        Assoc,
        "as many jobs are in the queue as {who} may have (GrpSubmitJobs)",
        false,
    ),
    (
        "AssocGrpWallLimit",
        Assoc,
        "the time that jobs of {who} may run together is used up (GrpWall)",
        false,
    ),
    (
        "AssocMaxJobsLimit",
        Assoc,
        "as many jobs run as its user may have in its account (MaxJobs)",
        false,
    ),
    (
        "AssocMaxSubmitJobLimit",
        Assoc,
        "as many jobs are in the queue as its user may have in its account (MaxSubmitJobs)",
        false,
    ),
    (
        "AssocMaxWallDurationPerJobLimit",
        Assoc,
        "its time limit is longer than {who} allows a job (MaxWall)",
        true,
    ),
    ("QOSGrpJobsLimit", Qos, "as many jobs run as {who} may have at once (GrpJobs)", false),
    (
        "QOSGrpSubmitJobsLimit",
        Qos,
        "as many jobs are in the queue as {who} may have (GrpSubmitJobs)",
        false,
    ),
    (
        "QOSGrpWallLimit",
        Qos,
        "the time that jobs of {who} may run together is used up (GrpWall)",
        false,
    ),
    (
        "QOSMaxJobsPerUserLimit",
        Qos,
        "as many jobs of its user run as {who} allows (MaxJobsPerUser)",
        false,
    ),
    (
        "QOSMaxSubmitJobPerUserLimit",
        Qos,
        "as many jobs of its user are in the queue as {who} allows (MaxSubmitJobsPerUser)",
        false,
    ),
    (
        "QOSMaxWallDurationPerJobLimit",
        Qos,
        "its time limit is longer than {who} allows a job (MaxWall)",
        true,
    ),
    (
        "MaxJobsPerAccount",
        Qos,
        "as many jobs of its account run as {who} allows (MaxJobsPerAccount)",
        false,
    ),
    (
        "MaxSubmitJobsPerAccount",
        Qos,
        "as many jobs of its account are in the queue as {who} allows (MaxSubmitJobsPerAccount)",
        false,
    ),
];

/// All of them.
pub(super) fn all() -> impl Iterator<Item = Reason> {
    those(|_| true)
}

/// Those whose names match.
pub(super) fn those(named: impl Fn(&str) -> bool + Copy) -> impl Iterator<Item = Reason> {
    let rows = ROWS.iter().filter(move |(name, ..)| named(name));
    let rows = rows.map(|&(name, whose, how, what)| of_resource(name, whose, how, what));
    let counts = COUNTS.iter().filter(move |(name, ..)| named(name));
    let counts = counts.map(|&(name, whose, says, stuck)| {
        let remedy = if stuck {
            format!("lower gangway.dev/time-limit, or {}", raised(whose))
        } else {
            format!("wait for other jobs to end, or {}", raised(whose))
        };
        Reason { name, says: says.replace("{who}", who(whose)), remedy, stuck }
    });
    rows.chain(counts)
}

fn of_resource(name: &'static str, whose: Whose, how: How, what: What) -> Reason {
    let (all, who, raised) = (thing(what), who(whose), raised(whose));
    let (says, remedy, stuck) = match how {
        AtOnce => (
            format!(
                "all {all} that {who} may use at once are taken, or fewer are left than it needs (GrpTRES)"
            ),
            format!("wait for other jobs to end, ask for less, or {raised}"),
            false,
        ),
        Minutes => (
            format!("what {who} may use of {all} over time is used up (GrpTRESMins)"),
            format!("wait until usage decays or is reset, or {raised}"),
            false,
        ),
        RunMinutes => (
            format!(
                "running jobs of {who} may still use as much of {all} as is allowed (GrpTRESRunMins)"
            ),
            format!("wait for them, lower gangway.dev/time-limit, or {raised}"),
            false,
        ),
        PerJob => (
            format!("it asks for more {all} than {who} allows a job (MaxTRES)"),
            format!("ask for less, or {raised}"),
            true,
        ),
        PerNode => (
            format!("it asks for more {all} on a node than {who} allows a job (MaxTRESPerNode)"),
            format!("ask for less on each node, or {raised}"),
            true,
        ),
        MinutesPerJob => (
            format!(
                "its {all} times its time limit are more than {who} allows a job (MaxTRESMins)"
            ),
            format!("ask for less, lower gangway.dev/time-limit, or {raised}"),
            true,
        ),
        PerUser => (
            format!("jobs of its user have as many {all} as {who} allows (MaxTRESPerUser)"),
            format!("wait for them to end, ask for less, or {raised}"),
            false,
        ),
        PerAccount => (
            format!("jobs of its account have as many {all} as {who} allows (MaxTRESPerAccount)"),
            format!("wait for them to end, ask for less, or {raised}"),
            false,
        ),
        RunMinutesPerUser => (
            format!(
                "running jobs of its user may still use as much of {all} as {who} allows (MaxTRESRunMinsPerUser)"
            ),
            format!("wait for them, lower gangway.dev/time-limit, or {raised}"),
            false,
        ),
        RunMinutesPerAccount => (
            format!(
                "running jobs of its account may still use as much of {all} as {who} allows (MaxTRESRunMinsPerAccount)"
            ),
            format!("wait for them, lower gangway.dev/time-limit, or {raised}"),
            false,
        ),
        Least => (
            format!("it asks for fewer {all} than {who} demands of a job (MinTRES)"),
            "ask for more, or name another quality of service with gangway.dev/qos".to_owned(),
            true,
        ),
    };
    Reason { name, says, remedy, stuck }
}

fn who(whose: Whose) -> &'static str {
    match whose {
        Assoc => "its account",
        Qos => "its quality of service",
    }
}

fn raised(whose: Whose) -> &'static str {
    match whose {
        Assoc => "have the limit raised (sacctmgr show assoc)",
        Qos => "name another quality of service, or have the limit raised (sacctmgr show qos)",
    }
}

fn thing(what: What) -> &'static str {
    match what {
        Cpus => "CPUs",
        Memory => "megabytes of memory",
        Nodes => "nodes",
        Energy => "units of energy",
        Gres => "GPUs or other GRES",
        Licences => "licences",
        Buffer => "gigabytes of burst buffer",
        Billing => "billing units",
        Other => "units of another resource",
    }
}
