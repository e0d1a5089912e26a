//! Keeps the Lease by which one of several replicas leads: looks, asks core, writes.
//!
//! Decides nothing (that is `core::lease`) and acts on nothing else. Its requests go over a connection of
//! their own: the others may be busy, and are fenced by what is found out here.

use std::time::Duration;

use anyhow::Context as _;
use gangway_core::lease::{Candidate, Seen, Step};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::config::Election as Settings;
use crate::failpoint::{self, Point};
use crate::mandate::{Lapsed, Mandate};
use crate::wall;

/// After a conflict: somebody wrote between our look and our write.
const AGAIN: Duration = Duration::from_millis(100);

/// One replica's part in the election.
pub(crate) struct Election {
    leases: Api<Lease>,
    settings: Settings,
    candidate: Candidate,
    mandate: Mandate,
}

impl Election {
    pub(crate) fn new(client: Client, settings: &Settings, mandate: Mandate) -> Self {
        let length = i64::from(settings.lease_seconds) * 1_000;
        Self {
            leases: Api::namespaced(client, &settings.namespace),
            candidate: Candidate::new(settings.identity.clone(), length),
            settings: settings.clone(),
            mandate,
        }
    }

    /// Takes part until `stop`. An error: the Lease was ours and is not any more.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let pause = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                pause = self.round() => pause?,
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Gives the Lease up, if it is ours: once nothing is done any more, so that the next leader need not
    /// wait for it to run out.
    pub(crate) async fn release(client: Client, settings: &Settings) {
        let leases: Api<Lease> = Api::namespaced(client, &settings.namespace);
        let given_up = async {
            let Some(mut lease) = leases.get_opt(&settings.name).await? else { return Ok(false) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() != Some(&settings.identity) {
                return Ok(false);
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            leases.replace(&settings.name, &PostParams::default(), &lease).await.map(|_| true)
        };
        match timeout(Duration::from_secs(2), given_up).await {
            Ok(Ok(true)) => tracing::info!(lease = settings.name, "gave the Lease up"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                let error: kube::Error = error;
                tracing::warn!(error = explain(&error), "could not give the Lease up; it runs out");
            }
            Err(_) => tracing::warn!("could not give the Lease up in time; it runs out"),
        }
    }

    /// One look and what follows from it. Returns how long to pause.
    async fn round(&mut self) -> anyhow::Result<Duration> {
        let patience = Duration::from_millis(self.settings.lease_seconds.max(1).into()) * 200;
        let pause = Duration::from_millis(self.candidate.pause_ms().unsigned_abs());
        let found = match timeout(patience, self.leases.get_opt(&self.settings.name)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(error = explain(&error), "could not read the Lease");
                return Ok(pause);
            }
            Err(_) => {
                tracing::warn!("the API server does not answer about the Lease");
                return Ok(pause);
            }
        };
        let sent = self.mandate.now();
        let step = self.candidate.observe(found.as_ref().map(seen).as_ref(), sent);
        let (version, transitions) = match step {
            Step::Create => (None, 0),
            Step::Take { version, transitions } | Step::Renew { version, transitions } => {
                (Some(version), transitions)
            }
            Step::Wait { leader, .. } => {
                self.mandate.waits_for(&leader);
                return Ok(pause);
            }
            Step::Lost { leader } => {
                self.mandate.end();
                return Err(Lapsed::NotRenewed).context(format!("{leader:?} holds the Lease"));
            }
        };
        let lease = self.lease(found, version, transitions);
        let written = timeout(patience, self.write(&lease)).await;
        failpoint::pass(Point::LeaseWritten);
        match written {
            Ok(Ok(_)) => self.wrote(sent),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                tracing::debug!("somebody else wrote the Lease; looking again");
                Ok(AGAIN)
            }
            Ok(Err(error)) => {
                tracing::warn!(error = explain(&error), "could not write the Lease");
                Ok(pause)
            }
            Err(_) => {
                tracing::warn!("the API server does not take the Lease");
                Ok(pause)
            }
        }
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        let how = PostParams::default();
        match &lease.metadata.resource_version {
            None => self.leases.create(&how, lease).await,
            // The version makes it a compare-and-swap: 409 when somebody was faster.
            Some(_) => self.leases.replace(&self.settings.name, &how, lease).await,
        }
    }

    fn wrote(&mut self, sent: i64) -> anyhow::Result<Duration> {
        let first = self.candidate.until().is_none();
        self.candidate.wrote(sent);
        let until = self.candidate.until().unwrap_or(sent);
        if !self.mandate.extend(until) {
            self.mandate.end();
            return Err(Lapsed::NotRenewed.into());
        }
        if first {
            let Settings { namespace, name, identity, .. } = &self.settings;
            tracing::info!(namespace, lease = name, identity, "this process leads");
        }
        Ok(Duration::from_millis(self.candidate.pause_ms().unsigned_abs()))
    }

    /// The Lease as ours. Its times are for people; nobody of us reads them.
    fn lease(&self, found: Option<Lease>, version: Option<String>, transitions: i32) -> Lease {
        let before = found.and_then(|lease| lease.spec).unwrap_or_default();
        let now = || Some(MicroTime(wall::now()));
        let ours = before.holder_identity.as_ref() == Some(&self.settings.identity);
        let spec = LeaseSpec {
            holder_identity: Some(self.settings.identity.clone()),
            lease_duration_seconds: i32::try_from(self.settings.lease_seconds).ok(),
            lease_transitions: Some(transitions),
            acquire_time: if ours { before.acquire_time } else { now() },
            renew_time: now(),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta {
            name: Some(self.settings.name.clone()),
            namespace: Some(self.settings.namespace.clone()),
            resource_version: version,
            ..ObjectMeta::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    Seen {
        holder: spec.holder_identity.unwrap_or_default(),
        length_ms: i64::from(spec.lease_duration_seconds.unwrap_or(0)) * 1_000,
        transitions: spec.lease_transitions.unwrap_or(0),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
