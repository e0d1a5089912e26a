//! Workload kinds beyond those that a world always has: JobSet and LeaderWorkerSet with their real controllers, and
//! the bare kinds whose pods a story makes as their controllers would.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::kubernetes::Kubernetes;
use super::{repo, slurm};
use crate::process::{Process, ask};

const WEBHOOKS: &str = include_str!("../../../manifests/world/webhooks.yaml");

/// The controllers, and what the port of each one's webhooks is called.
const CONTROLLERS: [(&str, &str, &str); 2] = [
    ("jobset", "jobset-webhook", "config.jobset.x-k8s.io/v1alpha1"),
    ("lws", "lws-webhook", "config.lws.x-k8s.io/v1alpha1"),
];

impl Kubernetes<'_> {
    /// The files of the kinds that are wanted beyond the usual ones.
    pub(super) fn further_kinds(&self) -> Result<Vec<PathBuf>> {
        let Some(place) = &self.controllers else { return Ok(Vec::new()) };
        let bare = repo()?.join("manifests/world/kinds.yaml");
        Ok(vec![place.join("jobsets.yaml"), place.join("leaderworkersets.yaml"), bare])
    }

    /// Starts the controllers, where they are wanted.
    pub(super) fn start_controllers(&self) -> Result<Vec<(&'static str, &'static str, Process)>> {
        let Some(place) = &self.controllers else { return Ok(Vec::new()) };
        // The API server made itself a certificate for this address, which serves for its webhooks too.
        let certificates = self.directory().join("webhook-certs");
        fs::create_dir_all(&certificates)?;
        for (from, to) in [("apiserver.crt", "tls.crt"), ("apiserver.key", "tls.key")] {
            fs::copy(self.directory().join("pki").join(from), certificates.join(to))
                .with_context(|| format!("the API server has no {from}"))?;
        }
        let mut started = Vec::new();
        for (name, port, version) in CONTROLLERS {
            let config = self.file(&format!("{name}.yaml"));
            let text = format!(
                "apiVersion: {version}\nkind: Configuration\ninternalCertManagement: {{enable: false}}\n\
                 leaderElection: {{leaderElect: false}}\nmetrics: {{bindAddress: '0'}}\nhealth: {{healthProbeBindAddress: '0'}}\n\
                 webhook: {{host: 127.0.0.1, port: {}, certDir: '{}'}}\n",
                self.ports.port(port),
                certificates.display(),
            );
            fs::write(&config, text)?;
            let kubeconfig = format!("--kubeconfig={}", self.file("kubeconfig"));
            let words = [kubeconfig, format!("--config={config}")];
            started.push((name, port, self.start(name, &place.join(name), &words)?));
        }
        Ok(started)
    }

    /// Waits until they answer the API server's questions, and lets it ask.
    pub(super) fn wait_for_controllers(
        &self,
        started: &[(&'static str, &'static str, Process)],
    ) -> Result<()> {
        for (name, port, process) in started {
            self.wait(name, *process, 60, || slurm::open(self.ports.port(port)))?;
        }
        if started.is_empty() {
            return Ok(());
        }
        let certificate = self.file("webhook-certs/tls.crt");
        let bundle = ask(std::process::Command::new("base64").args(["-w0", &certificate]), "")?;
        let webhooks = self.ports.fill(WEBHOOKS).replace("{ca}", bundle.trim());
        self.create(&webhooks)
    }
}
