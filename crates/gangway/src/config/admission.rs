//! Settings of `gangway admission`. No way to Slurm is among them: this process never holds its token.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use gangway_core::admission::House;
use gangway_core::names;
use gangway_core::placeholder::is_word;
use gangway_core::policy::Policy;
use gangway_core::translate::ResourceTable;

use super::section::{Problems, Section};
use super::{ConfigError, ProcessFlags, SlurmPolicies, Tls, policy, read_file};

/// Kubernetes' own controllers that make pods, or what pods are made from.
const MAKERS: [&str; 8] = [
    "system:kube-controller-manager",
    "system:serviceaccount:kube-system:cronjob-controller",
    "system:serviceaccount:kube-system:daemon-set-controller",
    "system:serviceaccount:kube-system:deployment-controller",
    "system:serviceaccount:kube-system:job-controller",
    "system:serviceaccount:kube-system:replicaset-controller",
    "system:serviceaccount:kube-system:replication-controller",
    "system:serviceaccount:kube-system:statefulset-controller",
];
/// The processes of ours that write on pods, as our manifests name them.
const OURS: [&str; 2] = [
    "system:serviceaccount:gangway:gangway-extender",
    "system:serviceaccount:gangway:gangway-scheduler",
];
/// Who binds the pods of other schedulers, and ours where it is our hands.
const BINDERS: [&str; 1] = ["system:kube-scheduler"];

/// Flags of `gangway admission`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AdmissionFlags {
    /// YAML file with the settings; see docs/reference/policy.md
    #[arg(long, value_name = "FILE", env = "GANGWAY_ADMISSION_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Print the guards as admission policies, which need no webhook, and end
    #[arg(long)]
    pub(crate) print_policies: bool,
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
}

/// Everything that admission needs to know, checked.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionSettings {
    pub(crate) house: House,
    pub(crate) policy: Policy,
    pub(crate) slurm_policies: SlurmPolicies,
    pub(crate) listen: Listen,
    /// Shown to the API server. With a CA, whoever asks must show a certificate of it.
    pub(crate) tls: Tls,
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) webhook: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) health: SocketAddr,
}

impl AdmissionSettings {
    /// Reads the file.
    pub(crate) fn load(flags: &AdmissionFlags) -> Result<Self, ConfigError> {
        let file = read_file(flags.config.as_deref())?;
        Self::read(&file, flags).map_err(ConfigError::Problems)
    }

    fn read(file: &serde_json::Value, flags: &AdmissionFlags) -> Result<Self, Vec<String>> {
        let problems = Problems::default();
        let mut root = Section::root(file, &problems);
        let mut word = |key: &str, default: &str| {
            let word = root.text(key).unwrap_or_else(|| default.to_owned());
            if !is_word(&word) {
                problems.add(key, "must be letters, digits, '.', '_', ':' or '-'");
            }
            word
        };
        let cluster = word("cluster", "default");
        let scheduler_name = word("schedulerName", names::SCHEDULER);
        let slurm_user = word("slurmUser", "slurm");
        let (policy, slurm_policies) = policy::read(root.section("policy"), &slurm_user, &problems);
        let mut resources = ResourceTable::default();
        let overrides: BTreeMap<String, String> = root.map("resources");
        resources.0.extend(overrides);
        let mut users = |key: &str, own: &[&str]| {
            let more = root.texts(key);
            own.iter().map(|user| (*user).to_owned()).chain(more).collect::<Vec<_>>()
        };
        let house = House {
            ours: users("ours", &OURS),
            makers: users("makers", &MAKERS),
            binders: users("binders", &BINDERS),
            cluster,
            scheduler_name,
            resources,
        };
        let listen = read_listen(root.section("listen"));
        let tls = read_tls(root.section("tls"), flags, &problems);
        let kubeconfig =
            flags.process.kubeconfig.clone().or_else(|| root.text("kubeconfig").map(Into::into));
        root.finish();
        problems.into_result()?;
        Ok(Self { house, policy, slurm_policies, listen, tls, kubeconfig })
    }
}

fn read_listen(mut listen: Section<'_>) -> Listen {
    let mut address = |key: &str, host: [u8; 4], port: u16| {
        listen.address(key).unwrap_or_else(|| SocketAddr::from((host, port)))
    };
    let here = [127, 0, 0, 1];
    let out = Listen {
        // The API server comes from elsewhere.
        webhook: address("webhook", [0, 0, 0, 0], 9443),
        metrics: address("metrics", here, 9090),
        health: address("health", here, 8081),
    };
    listen.finish();
    out
}

fn read_tls(mut tls: Section<'_>, flags: &AdmissionFlags, problems: &Problems) -> Tls {
    let [certificate, key, client_ca] =
        ["certificate", "key", "clientCA"].map(|k| tls.text(k).map(PathBuf::from));
    tls.finish();
    match (certificate, key) {
        (Some(certificate), Some(key)) => Tls { certificate, key, client_ca, clients: Vec::new() },
        _ => {
            if !flags.print_policies {
                problems
                    .add("tls", "needs certificate and key: the API server asks over HTTPS only");
            }
            Tls::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_yaml;
    use super::*;

    fn read(yaml: &str) -> Result<AdmissionSettings, Vec<String>> {
        AdmissionSettings::read(&parse_yaml(yaml).expect("YAML"), &AdmissionFlags::default())
    }

    #[test]
    fn operators_are_added_to_kubernetes_own_controllers() {
        let yaml = "
cluster: prod
tls: { certificate: c, key: k }
makers: ['system:serviceaccount:kubeflow:training-operator']
policy: { slurmPolicies: required, believeRequester: true }
";
        let settings = read(yaml).expect("usable");
        assert_eq!(settings.house.makers.len(), MAKERS.len() + 1);
        assert_eq!(settings.house.ours, OURS);
        assert_eq!(settings.listen.webhook.port(), 9443);
        assert_eq!(settings.slurm_policies, SlurmPolicies::Required);
    }

    #[test]
    fn every_problem_is_listed() {
        let problems = read("cluster: a b\nslurm: {}\ntls: { key: k }\nlisten: { webhook: here }");
        let problems = problems.expect_err("problems");
        for path in ["cluster:", "slurm:", "tls:", "listen.webhook:"] {
            assert!(problems.iter().any(|p| p.starts_with(path)), "{path} in {problems:#?}");
        }
    }
}
