//! What may be typed behind each verb.

use clap::{Args, ValueEnum};
use clap_complete::Shell;
use gangway_api::v1;
use gangway_core::desk::{NodeRow, Row, read_gres, read_minutes};
use gangway_core::quantity;

use super::{Failure, time};
use crate::config::TerminalFlags;

/// Flags of every verb that prints something.
#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) door: TerminalFlags,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub(super) output: Form,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For people
    Table,
    /// For people with wide screens
    Wide,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// `gangway queue`.
#[derive(Debug, Args)]
pub(crate) struct Queue {
    #[command(flatten)]
    pub(super) common: Common,
    /// Only gangs of this namespace
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only jobs of this user of Slurm
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// Only jobs of this partition
    #[arg(short, long, value_name = "NAME")]
    partition: Option<String>,
    /// Only those that wait
    #[arg(long, conflicts_with = "running")]
    waiting: bool,
    /// Only those that hold nodes
    #[arg(long)]
    running: bool,
}

impl Queue {
    pub(super) fn wants(&self, row: &Row) -> bool {
        let same = |wanted: &Option<String>, own: &str| wanted.as_deref().is_none_or(|w| w == own);
        let namespace = row.workload.as_ref().map_or("", |own| own.namespace.as_str());
        let partition = self.partition.as_deref();
        same(&self.namespace, namespace)
            && same(&self.user, &row.user)
            && partition.is_none_or(|wanted| row.partition.split(',').any(|own| own == wanted))
            // Whoever has no job yet waits, too.
            && (!self.waiting || row.waits() || row.job == 0)
            && (!self.running || !row.waits() && row.job > 0)
    }
}

/// `gangway explain`.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(super) common: Common,
    /// A workload, a pod or a job id; with its namespace in front (`team/train`) or as --namespace
    #[arg(value_name = "GANG|POD|JOBID")]
    pub(super) what: String,
    /// Namespace of the workload or pod; all where it is not said
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
}

/// `gangway nodes`.
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    #[command(flatten)]
    pub(super) common: Common,
    /// Only nodes of this partition
    #[arg(short, long, value_name = "NAME")]
    partition: Option<String>,
    /// Only nodes with a GPU that nobody holds
    #[arg(long)]
    free: bool,
    /// Only these nodes
    #[arg(value_name = "NODE")]
    names: Vec<String>,
}

impl Nodes {
    pub(super) fn wants(&self, row: &NodeRow) -> bool {
        self.partition.as_ref().is_none_or(|wanted| row.partitions.contains(wanted))
            && (!self.free || !row.free.is_empty())
            && (self.names.is_empty() || self.names.contains(&row.name))
    }
}

/// `gangway top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    pub(super) door: TerminalFlags,
}

/// `gangway whatif`.
#[derive(Debug, Args)]
pub(crate) struct WhatIf {
    #[command(flatten)]
    pub(super) common: Common,
    /// Nodes
    #[arg(short = 'N', long, value_name = "N", default_value_t = 1)]
    nodes: u32,
    /// Devices on each node, as in gpu:8 or gpu:h100:8,efa:32
    #[arg(long, value_name = "LIST", default_value = "")]
    gres: String,
    /// CPUs on each node
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Memory on each node, as in 64Gi
    #[arg(long, value_name = "SIZE")]
    mem: Option<String>,
    /// Time limit: minutes, HH:MM:SS or D-HH:MM:SS
    #[arg(short, long, value_name = "TIME")]
    time: Option<String>,
    /// Partition, where the namespace's policy lets it choose
    #[arg(short, long, value_name = "NAME", default_value = "")]
    partition: String,
    /// Account, the same
    #[arg(short = 'A', long, value_name = "NAME", default_value = "")]
    account: String,
    /// Quality of service, the same
    #[arg(short, long, value_name = "NAME", default_value = "")]
    qos: String,
    /// Namespace that would ask; that of the kubeconfig's context unless said
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

impl WhatIf {
    pub(super) fn question(&self) -> Result<v1::WhatIfRequest, Failure> {
        read_gres(&self.gres).map_err(|error| Failure::Usage(format!("--gres: {error}")))?;
        let bytes = self.mem.as_deref().map(quantity::units).transpose();
        let bytes = bytes.map_err(|error| Failure::Usage(format!("--mem: {error}")))?;
        let minutes = self.time.as_deref().map(read_minutes).transpose();
        let minutes = minutes.map_err(|error| Failure::Usage(format!("--time: {error}")))?;
        Ok(v1::WhatIfRequest {
            namespace: self.namespace.clone().unwrap_or_else(current_namespace),
            nodes: self.nodes,
            gres: self.gres.clone(),
            cpus: self.cpus,
            memory: bytes.unwrap_or(0).div_ceil(1 << 20),
            partition: self.partition.clone(),
            account: self.account.clone(),
            qos: self.qos.clone(),
            time_limit_minutes: minutes.unwrap_or(0),
        })
    }
}

/// The namespace that kubectl would use.
fn current_namespace() -> String {
    let context = kube::config::Kubeconfig::read().ok().and_then(|file| {
        let current = file.current_context?;
        file.contexts.into_iter().find(|context| context.name == current)?.context?.namespace
    });
    context.unwrap_or_else(|| "default".to_owned())
}

/// `gangway cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    pub(super) common: Common,
    /// Workloads, pods or job ids, as for `explain`
    #[arg(value_name = "GANG|POD|JOBID", required = true)]
    pub(super) what: Vec<String>,
    /// Namespace of the workloads or pods; all where it is not said
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
}

/// `gangway usage`.
#[derive(Debug, Args)]
pub(crate) struct Usage {
    #[command(flatten)]
    pub(super) common: Common,
    /// By what it is summed up; `user` unless said, with --efficiency `job`
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Also how well GPUs and EFA were used, which the scheduler asks Prometheus, and who should look
    #[arg(long)]
    pub(super) efficiency: bool,
    /// From when: a date (UTC), an RFC 3339 time, or so long ago (12h, 7d)
    #[arg(long, value_name = "TIME", default_value = "7d")]
    from: String,
    /// Until when, the same; now unless said
    #[arg(long, value_name = "TIME", default_value = "now")]
    to: String,
}

impl Usage {
    pub(super) fn by(&self) -> By {
        self.by.unwrap_or(if self.efficiency { By::Job } else { By::User })
    }

    pub(super) fn range(&self, now: i64) -> Result<(i64, i64), Failure> {
        let read = |flag: &str, text: &str| {
            time::read(text, now).ok_or_else(|| {
                Failure::Usage(format!(
                    "{flag}: {text:?} is no date (2026-11-01), time (2026-11-01T08:00:00Z) or span before now (12h, 7d)"
                ))
            })
        };
        let (from, to) = (read("--from", &self.from)?, read("--to", &self.to)?);
        if to <= from {
            return Err(Failure::Usage("--to must come after --from".to_owned()));
        }
        Ok((from, to))
    }
}

/// By what usage is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    User,
    Account,
    Namespace,
    Job,
}

/// `gangway completion`.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: Shell,
    /// For the program kubectl-gang
    #[arg(long)]
    pub(super) plugin: bool,
}
