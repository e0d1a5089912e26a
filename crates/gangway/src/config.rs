//! What an operator says: flags for what differs per process, one YAML file for behaviour.
//!
//! Everything is read into [`Settings`] once, before anything starts; every problem is listed at
//! once with its path, unknown keys among them. A flag or its environment variable goes over the
//! file. Secrets are only ever paths.

mod admission;
mod command;
mod desk;
mod election;
mod gangs;
mod kubescheduler;
mod nodes;
mod policy;
mod section;
mod slurm;
mod terminal;
mod tls;
mod topology;
mod ui;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::Args;
use gangway_core::inventory::Taints;
use gangway_core::names;
use gangway_core::placeholder::is_word;
use gangway_core::policy::Policy;
use gangway_core::translate::ResourceTable;
use gangway_core::translate::gpu::GpuTypes;

pub(crate) use admission::{AdmissionFlags, AdmissionSettings};
pub(crate) use command::Command;
pub(crate) use desk::{Canceller, Desk, Prometheus};
pub(crate) use election::Election;
pub(crate) use gangs::Gangs;
pub(crate) use kubescheduler::{Door, DoorTls, ExtenderFlags, ExtenderSettings};
pub(crate) use nodes::Nodes;
pub(crate) use policy::SlurmPolicies;
use section::Section;
pub(crate) use slurm::Slurm;
use slurm::read_slurm;
pub(crate) use terminal::TerminalFlags;
pub(crate) use tls::Tls;
use tls::read_tls;
pub(crate) use topology::Network;
pub(crate) use ui::{UiFlags, UiSettings};

/// Flags of `gangway scheduler`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Flags {
    /// YAML file with the settings; see docs/reference/config.md
    #[arg(long, value_name = "FILE", env = "GANGWAY_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Address of slurmrestd, such as http://slurmrestd:6820
    #[arg(long, value_name = "URL", env = "SLURM_REST_URL")]
    pub(crate) slurm_url: Option<String>,
    /// File with a JWT of SlurmUser; read again when it changes
    #[arg(long, value_name = "FILE", env = "SLURM_TOKEN_FILE")]
    pub(crate) slurm_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
}

/// Flags of every process that lives.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ProcessFlags {
    /// Kubeconfig; without it $KUBECONFIG, ~/.kube/config or the pod's own service account
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// What to log, such as info or gangway=debug,warn
    #[arg(long, value_name = "FILTER", env = "GANGWAY_LOG_FILTER", default_value = "info")]
    pub(crate) log: String,
    /// Log one JSON object per line
    #[arg(long)]
    pub(crate) log_json: bool,
    /// Send a trace of each gang to this OTLP collector (gRPC), such as http://127.0.0.1:4317
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub(crate) traces: Option<String>,
    /// Take part in an election, so that one of several replicas leads and the others stand by
    #[arg(
        long, value_name = "BOOL", env = "GANGWAY_LEADER_ELECTION",
        num_args = 0..=1, default_missing_value = "true", require_equals = true
    )]
    pub(crate) leader_election: Option<bool>,
    /// Namespace of the election's Lease
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub(crate) leader_election_namespace: Option<String>,
    /// Who this process is in the Lease and the API server's audit log; else the host's name
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub(crate) identity: Option<String>,
}

impl ProcessFlags {
    /// Logs to standard error from now on.
    pub(crate) fn start_log(&self) -> anyhow::Result<()> {
        crate::log::start(&self.log, self.log_json)
    }
}

/// Everything the scheduler needs to know, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Names this bridge's world in every placeholder.
    pub(crate) cluster: String,
    /// `spec.schedulerName` of its pods.
    pub(crate) scheduler_name: String,
    pub(crate) slurm: Slurm,
    pub(crate) listen: Listen,
    pub(crate) tls: Option<Tls>,
    /// Calls a second of each client of the door.
    pub(crate) calls_per_second: NonZeroU32,
    /// What people may do from a terminal.
    pub(crate) desk: Desk,
    pub(crate) policy: Policy,
    /// Where SlurmPolicies are looked for.
    pub(crate) slurm_policies: SlurmPolicies,
    pub(crate) resources: ResourceTable,
    pub(crate) gpu_types: GpuTypes,
    pub(crate) network: Network,
    pub(crate) kubeconfig: Option<PathBuf>,
    /// This process among its replicas.
    pub(crate) identity: String,
    pub(crate) election: Option<Election>,
    /// For `gangway controllers`.
    pub(crate) nodes: Option<Nodes>,
    /// What is run when a gang is warned.
    pub(crate) warning_command: Option<Command>,
    /// What is shown of gangs.
    pub(crate) gangs: Gangs,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) grpc: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) health: SocketAddr,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {path} is not YAML")]
    Yaml { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("the configuration has {} problem(s):\n  {}", .0.len(), .0.join("\n  "))]
    Problems(Vec<String>),
}

impl Settings {
    /// Reads the file, if there is one, and lays the flags over it.
    pub(crate) fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let file = read_file(flags.config.as_deref())?;
        Self::read(&file, flags).map_err(ConfigError::Problems)
    }

    /// Of a rehearsal: what a file would say, beside an address and a token that nobody uses.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn rehearsed(text: &str) -> Result<Self, ConfigError> {
        let path = PathBuf::from("rehearsal");
        let file = parse_yaml(text)
            .map_err(|source| ConfigError::Yaml { path: path.clone(), source: Box::new(source) })?;
        let flags = Flags {
            slurm_url: Some("http://rehearsal.invalid".to_owned()),
            slurm_token_file: Some(path),
            ..Flags::default()
        };
        Self::read(&file, &flags).map_err(ConfigError::Problems)
    }

    fn read(file: &serde_json::Value, flags: &Flags) -> Result<Self, Vec<String>> {
        let problems = section::Problems::default();
        let mut root = Section::root(file, &problems);
        let cluster = root.text("cluster").unwrap_or_else(|| "default".to_owned());
        if !is_word(&cluster) {
            problems.add("cluster", "must be letters, digits, '.', '_', ':' or '-'");
        }
        let scheduler_name =
            root.text("schedulerName").unwrap_or_else(|| names::SCHEDULER.to_owned());
        if !is_word(&scheduler_name) {
            problems.add("schedulerName", "must be letters, digits, '.', '_', ':' or '-'");
        }
        let slurm = read_slurm(root.section("slurm"), flags, &problems);
        let listen = read_listen(root.section("listen"));
        let tls = read_tls(root.section("tls"), &problems);
        let calls_per_second = read_limits(root.section("limits"), &problems);
        let desk = desk::read(root.section("desk"), tls.is_some(), &problems);
        let (policy, slurm_policies) = policy::read(root.section("policy"), &slurm.user, &problems);
        let mut resources = ResourceTable::default();
        let overrides: BTreeMap<String, String> = root.map("resources");
        resources.0.extend(overrides);
        let gpu_types = read_gpu_types(root.section("gpuTypes"));
        let network = topology::read(root.section("topology"), &problems);
        let kubeconfig =
            flags.process.kubeconfig.clone().or_else(|| root.text("kubeconfig").map(Into::into));
        let identity = election::identity(&flags.process);
        let election = root.section("leaderElection");
        let election =
            election::read(election, &flags.process, &identity, "gangway-scheduler", &problems);
        let sink = slurm.sink.as_ref().map(|sink| sink.address.as_str());
        let mut nodes = nodes::read(root.section("nodes"), sink, &problems);
        if nodes.as_ref().is_some_and(|nodes| nodes.rules.taints != Taints::default()) {
            nodes::check_taint_value(&cluster, &problems);
        }
        let warning_command = command::read(root.section("warningCommand"), &problems);
        let gangs = gangs::read(root.section("gangs"));
        root.finish();
        problems.into_result()?;
        if let Some(Nodes { rules, .. }) = &mut nodes {
            rules.cluster.clone_from(&cluster);
            rules.resources.clone_from(&resources);
            rules.gpu_types.clone_from(&gpu_types);
            rules.layouts.clone_from(&network.layouts);
        }
        Ok(Self {
            nodes,
            cluster,
            scheduler_name,
            slurm,
            listen,
            tls,
            calls_per_second,
            desk,
            policy,
            slurm_policies,
            resources,
            gpu_types,
            network,
            kubeconfig,
            identity,
            election,
            warning_command,
            gangs,
        })
    }
}

fn read_file(path: Option<&Path>) -> Result<serde_json::Value, ConfigError> {
    let Some(path) = path else { return Ok(serde_json::Value::Object(serde_json::Map::new())) };
    let path = path.to_owned();
    match std::fs::read_to_string(&path) {
        Err(source) => Err(ConfigError::Read { path, source }),
        Ok(text) => {
            parse_yaml(&text).map_err(|source| ConfigError::Yaml { path, source: Box::new(source) })
        }
    }
}

fn parse_yaml(text: &str) -> Result<serde_json::Value, serde_saphyr::Error> {
    if text.trim().is_empty() {
        return Ok(serde_json::Value::Object(serde_json::Map::new()));
    }
    serde_saphyr::from_str(text)
}

fn read_listen(mut listen: Section<'_>) -> Listen {
    let mut address = |key: &str, port: u16| {
        listen.address(key).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
    };
    let out = Listen {
        grpc: address("grpc", 50051),
        metrics: address("metrics", 9090),
        health: address("health", 8081),
    };
    listen.finish();
    out
}

fn read_limits(mut limits: Section<'_>, problems: &section::Problems) -> NonZeroU32 {
    let calls = limits.number("callsPerSecond").unwrap_or(1_000);
    limits.finish();
    NonZeroU32::new(calls).unwrap_or_else(|| {
        problems.add("limits.callsPerSecond", "must be 1 or more");
        NonZeroU32::MIN
    })
}

fn read_gpu_types(mut section: Section<'_>) -> GpuTypes {
    let labels = Some(section.texts("labels")).filter(|labels| !labels.is_empty());
    let types = section.map("types");
    section.finish();
    GpuTypes { labels: labels.unwrap_or_else(|| GpuTypes::default().labels), types }
}

#[cfg(test)]
mod tests {
    use gangway_core::policy::Source;

    use super::*;

    fn read(yaml: &str) -> Result<Settings, Vec<String>> {
        let flags = Flags {
            slurm_url: Some("http://127.0.0.1:1".into()),
            slurm_token_file: Some("token".into()),
            ..Flags::default()
        };
        Settings::read(&parse_yaml(yaml).expect("YAML"), &flags)
    }

    #[test]
    fn environment_alone_is_enough() {
        let settings = read("").expect("usable");
        assert_eq!(settings.cluster, "default");
        assert_eq!(settings.scheduler_name, "gangway");
        // Nobody runs as the token's own user.
        assert_eq!(settings.policy.identities, []);
        assert_eq!(settings.slurm_policies, SlurmPolicies::Auto);
        assert!(settings.slurm.immediate);
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let yaml = "
cluster: a b
clutser: x
schedulerName: two words
slurm: { immediate: perhaps, retries: 3, jobIds: { first: 9, last: 3 }, sink: { address: a } }
listen: { grpc: here }
tls: { key: k }
policy: { slurmPolicies: perhaps, identities: [ { user: u, role: admin, allow: [prio] }, { namespace: n, user: slurm }, { namespace: n, user: u, group: '0' } ], partitions: gpu, closed: [all], feature: 'a|b' }
gpuTypes: { labels: gpu, types: [h100] }
topology: { source: guess, layouts: [ { switches: 3, sockets: 2, devices: { gpu: many } } ] }
leaderElection: { enabled: perhaps, namespace: A_b, leaseSeconds: 1, renewSeconds: 2 }
nodes: { port: 70000, lookSeconds: 0, taint: x, outside: { hold: maybe }, taints: { managed: NoExecute, drained: perhaps, all: off }, pools: [ { name: a, labels: { b: c }, slurmd: perhaps }, { features: [d] } ] }
warningCommand: { command: [logger, -t], timeoutSeconds: 0, shell: true }
gangs: { show: perhaps, single: true }
desk: { cancel: [ { namespaces: [a] }, { client: 'a b', users: [a] }, { client: c, role: d } ], look: yes }
";
        let problems = read(yaml).expect_err("many problems");
        for path in [
            "cluster:",
            "clutser:",
            "schedulerName:",
            "slurm.immediate:",
            "slurm.retries:",
            "slurm.jobIds:",
            "slurm.sink:",
            "listen.grpc:",
            "tls:",
            "policy.identities[0].namespace:",
            "policy.identities[0].role:",
            "policy.identities[0].allow:",
            "policy.identities[1].user:",
            "policy.identities[2].user:",
            "policy.slurmPolicies:",
            "policy.partitions:",
            "policy.closed:",
            "policy.feature:",
            "gpuTypes.labels:",
            "gpuTypes.types:",
            "desk.look:",
            "desk.cancel: needs tls",
            "desk.cancel[0].client: is missing",
            "desk.cancel[1].client:",
            "desk.cancel[2].client: may cancel nothing",
            "desk.cancel[2].role:",
            "topology.source:",
            "topology.layouts[0]:",
            "topology.layouts[0].instanceType:",
            "topology.layouts[0].devices:",
            "leaderElection.enabled:",
            "leaderElection.namespace:",
            "leaderElection.leaseSeconds:",
            "leaderElection.renewSeconds:",
            "nodes.port:",
            "nodes.address:",
            "nodes.lookSeconds:",
            "nodes.taint:",
            "nodes.outside.hold:",
            "nodes.taints.managed: must not be NoExecute: it would end the pods",
            "nodes.taints.drained:",
            "nodes.taints.all:",
            "nodes.pools[0].slurmd:",
            "nodes.pools[1].name:",
            "nodes.pools[1].labels:",
            "warningCommand.command:",
            "warningCommand.timeoutSeconds:",
            "warningCommand.shell:",
            "gangs.show:",
            "gangs.single:",
        ] {
            assert!(problems.iter().any(|p| p.starts_with(path)), "{path} in {problems:#?}");
        }
    }

    #[test]
    fn an_election_is_asked_for_by_file_or_flag() {
        let election = |yaml: &str, flag: Option<bool>| {
            let mut flags = Flags {
                slurm_url: Some("http://127.0.0.1:1".into()),
                slurm_token_file: Some("token".into()),
                ..Flags::default()
            };
            flags.process.leader_election = flag;
            flags.process.identity = Some("pod-1".into());
            let file = parse_yaml(yaml).expect("YAML");
            Settings::read(&file, &flags).expect("usable").election
        };
        assert!(election("", None).is_none());
        let by_flag = election("", Some(true)).expect("an election");
        let told = (by_flag.namespace.as_str(), by_flag.name.as_str(), by_flag.lease_seconds);
        assert_eq!(told, ("gangway", "gangway-scheduler", 10));
        let yaml = "leaderElection: { enabled: true, namespace: ha, name: one, leaseSeconds: 30 }";
        let by_file = election(yaml, None).expect("an election");
        let told = (by_file.namespace.as_str(), by_file.name.as_str(), by_file.lease_seconds);
        assert_eq!(told, ("ha", "one", 30));
        assert!(election(yaml, Some(false)).is_none(), "the flag goes over the file");
        // Two processes of one name are two candidates.
        assert!(by_flag.identity.starts_with("pod-1_") && by_flag.identity != by_file.identity);
    }

    #[test]
    fn a_full_file_is_read() {
        let yaml = "
cluster: prod
schedulerName: gangway-prod
slurm: { url: 'http://10.0.0.1:6820', tokenFile: /run/token, immediate: false, shunFailedNodes: 60, sink: { address: 10.0.0.9, partitions: [gpu] } }
policy:
  defaultPartition: gpu
  feature: pods
  maxCheckpointGrace: 900
  slurmPolicies: required
  believeRequester: true
  identities:
    - { namespace: team-a, user: alice, group: ml, account: team1, accounts: [team2], allow: [priority] }
  closed: [exclusive]
resources: { example.com/npu: npu }
warningCommand: { command: [/usr/bin/logger, -t, gangway] }
gpuTypes: { labels: [example.com/gpu], types: { ACME-9000: acme } }
nodes:
  pools: [ { name: p5, labels: { pool: p5 }, features: [gangway], partitions: [gpu], weight: 7 } ]
  topology: { tree: [example.com/rack] }
  taints: { drained: PreferNoSchedule, managed: off }
  outside: { partition: all }
  createPartitions: [ { name: gpu, nodeSets: [ALL] } ]
topology:
  source: labels
  labels: [example.com/rack, example.com/slot]
  layouts:
    - { instanceType: box, switches: 2, sockets: 2, devices: { gpu: 4, efa: 2 } }
";
        let settings = read(yaml).expect("usable");
        assert_eq!(settings.slurm.url, "http://127.0.0.1:1", "the flag goes over the file");
        assert_eq!(settings.scheduler_name, "gangway-prod");
        assert_eq!(settings.slurm.sink.map(|sink| sink.partitions), Some(vec!["gpu".to_owned()]));
        assert_eq!(settings.policy.identities[0].group, "ml");
        assert_eq!(settings.policy.identities[0].allow, ["priority"]);
        assert_eq!(settings.slurm_policies, SlurmPolicies::Required);
        assert!(settings.policy.believes_requester && settings.policy.source == Source::Unread);
        assert_eq!(settings.policy.closed, ["exclusive"]);
        assert_eq!(settings.policy.feature.as_deref(), Some("pods"));
        assert_eq!(settings.policy.max_grace_seconds, Some(900));
        assert_eq!(settings.slurm.shun_failed_nodes, 60);
        assert_eq!(settings.resources.0["example.com/npu"], "npu");
        assert_eq!(settings.resources.0["nvidia.com/gpu"], "gpu");
        assert_eq!(settings.gpu_types.labels, ["example.com/gpu"]);
        assert_eq!(settings.gpu_types.types["ACME-9000"], "acme");
        let command = settings.warning_command.expect("a command");
        assert_eq!(command.program, Path::new("/usr/bin/logger"));
        assert_eq!(
            (command.arguments, command.timeout.as_secs()),
            (vec!["-t".into(), "gangway".into()], 30)
        );
        assert_eq!(settings.network.labels, ["example.com/rack", "example.com/slot"]);
        let nodes = settings.nodes.expect("a pool");
        let rules = nodes.rules;
        assert_eq!((rules.cluster.as_str(), rules.address.as_str()), ("prod", "10.0.0.9"));
        assert_eq!(rules.new_partitions[0].node_sets, ["ALL"]);
        assert_eq!((rules.pools[0].weight, nodes.look_seconds), (7, 30));
        assert_eq!(rules.resources.0["example.com/npu"], "npu");
        let drained = Some(gangway_core::inventory::Effect::PreferNoSchedule);
        assert!(rules.holding.on && rules.holding.partition.as_deref() == Some("all"));
        assert_eq!(rules.taints, Taints { drained, managed: None });
        assert_eq!(
            (rules.down_after_ms, rules.network.tree_labels),
            (300_000, vec!["example.com/rack".into()])
        );
        let first = &settings.network.layouts[0];
        assert_eq!((first.instance_type.as_str(), first.devices["gpu"]), ("box", 4));
        assert!(settings.network.layouts.iter().any(|l| l.instance_type == "p5.48xlarge"));
    }
}
