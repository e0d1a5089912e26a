//! `gangway prolog`: called by slurmd before a job starts on a node where pods run too.
//!
//! It holds the job until the pods on its GPUs have ended (docs/reference/prolog.md). Only looks: it ends no
//! pod and changes nothing. Decides nothing either: that is `core::prolog`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use gangway_core::names;
use gangway_core::prolog::{Holder, Pods, Step, decide};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use tokio::time::{Instant, sleep, timeout};

use crate::apiserver::{self, Hand};
use crate::chain::explain;
use crate::failpoint::{self, Point};

/// Between two looks, at first and at most: a node's own few pods are asked for, but many nodes may ask.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flags of `gangway prolog`; what is of the job comes in slurmd's environment.
#[derive(Clone, Debug, Args)]
pub(crate) struct Flags {
    /// Kubeconfig of a user that may list pods and nodes
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How long a job is held at most
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    deadline: u32,
    /// What becomes of the job when that time is up: `fail` drains the node and requeues the job, `start`
    /// lets it start beside whoever holds its GPUs
    #[arg(long, value_name = "WHAT", value_enum, default_value = "fail")]
    at_deadline: AtDeadline,
    /// Kubernetes' name of this node; else the node labelled gangway.dev/slurm-node, or Slurm's own name
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// What to log, such as info or gangway=debug,warn
    #[arg(long, value_name = "FILTER", env = "GANGWAY_LOG_FILTER", default_value = "info")]
    log: String,
    #[command(flatten)]
    job: Job,
}

/// The job, as slurmd tells of it.
#[derive(Clone, Debug, Args)]
struct Job {
    /// The job
    #[arg(long, hide = true, env = "SLURM_JOB_ID", default_value = "")]
    job_id: String,
    /// Slurm's name of this node
    #[arg(long, hide = true, env = "SLURMD_NODENAME")]
    slurm_node: String,
    /// Its GPUs on this node
    #[arg(long, hide = true, env = "SLURM_JOB_GPUS", default_value = "")]
    gpus: String,
}

/// What becomes of a job whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AtDeadline {
    /// Exit code 1.
    Fail,
    /// Exit code 0.
    Start,
}

/// Holds the job for as long as it must be held. The exit code is the word to slurmd.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    crate::log::start(&flags.log, false)?;
    let Job { job_id, slurm_node, gpus } = &flags.job;
    let deadline = i64::from(flags.deadline) * 1_000;
    let began = Instant::now();
    let (mut client, mut pause, mut told) = (None, LOOK.0, String::new());
    loop {
        let seen = if gpus.is_empty() { Ok(Vec::new()) } else { look(flags, &mut client).await };
        let pods = seen.map_or_else(Pods::Unknown, Pods::Seen);
        let waited = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
        match decide(gpus, &pods, waited, deadline) {
            Step::Start => {
                tracing::info!(
                    job = job_id,
                    node = slurm_node,
                    gpus,
                    waited_ms = waited,
                    "may start"
                );
                return Ok(ExitCode::SUCCESS);
            }
            Step::Wait(why) => {
                if told != why {
                    tracing::info!(job = job_id, node = slurm_node, gpus, why, "held");
                    told = why;
                }
            }
            Step::GiveUp(why) => {
                let at_deadline = flags.at_deadline;
                tracing::error!(
                    job = job_id,
                    node = slurm_node,
                    gpus,
                    waited_ms = waited,
                    why,
                    ?at_deadline,
                    "the time is up"
                );
                return Ok(match at_deadline {
                    AtDeadline::Fail => ExitCode::FAILURE,
                    AtDeadline::Start => ExitCode::SUCCESS,
                });
            }
        }
        sleep(pause).await;
        pause = (pause * 5 / 4).min(LOOK.1);
    }
}

/// The pods on this node that we have bound, or why they are not known.
async fn look(flags: &Flags, client: &mut Option<(Client, String)>) -> Result<Vec<Holder>, String> {
    let asked = timeout(PATIENCE, async {
        let (client, node) = match client {
            Some(known) => known.clone(),
            None => client.insert(reach(flags).await?).clone(),
        };
        let ours =
            ListParams::default().labels(names::JOB_LABEL).fields(&format!("spec.nodeName={node}"));
        let pods = Api::<Pod>::all(client).list(&ours).await.map_err(|error| explain(&error));
        failpoint::pass(Point::Held);
        let pods = pods?;
        Ok(pods.items.iter().map(holder).collect())
    });
    asked.await.unwrap_or_else(|_| Err(format!("the API server did not answer in {PATIENCE:?}")))
}

/// A client, and Kubernetes' name of this node.
async fn reach(flags: &Flags) -> Result<(Client, String), String> {
    let slurm_node = &flags.job.slurm_node;
    let hand = Hand::of(&format!("prolog on {slurm_node}"), None);
    let hand = hand.map_err(|error| format!("{error:#}"))?;
    let client = apiserver::client(flags.kubeconfig.as_deref(), hand).await;
    let client = client.map_err(|error| format!("{error:#}"))?;
    if let Some(node) = &flags.node {
        return Ok((client, node.clone()));
    }
    for label in [names::SLURM_NODE_LABEL, names::SLURM_NODE_LABEL_ALIAS] {
        let labelled = ListParams::default().labels(&format!("{label}={slurm_node}"));
        let nodes = Api::<Node>::all(client.clone()).list_metadata(&labelled).await;
        let nodes = nodes.map_err(|error| explain(&error))?;
        if let Some(node) = nodes.items.first() {
            return Ok((client, node.name_any()));
        }
    }
    Ok((client, slurm_node.clone()))
}

fn holder(pod: &Pod) -> Holder {
    let of = |name: &str| pod.annotations().get(name).cloned();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    Holder {
        pod: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
        job: pod.labels().get(names::JOB_LABEL).cloned().unwrap_or_default(),
        gpus: of(&format!("{}gpu", names::INDEX_PREFIX)),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
    }
}
