//! `gangway certificates`: makes the certificates of our doors and of the webhook, and renews them, where no cert-manager
//! does.
//!
//! When is core's decision ([`gangway_core::certificates`]); here are the keys, the Secrets and the `caBundle` of the
//! webhooks. It knows no Slurm. It must never write a Secret that somebody else has made, and never print a key.

mod paper;
mod shelf;

use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use gangway_core::certificates::{Lengths, Step, authority};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::apiserver::{self, Hand};
use crate::chain::explain;
use crate::config::ProcessFlags;
use crate::nursery::nursery;
use crate::wall;
use shelf::{Found, Shelf};

/// A Secret that was deleted is missed at least so soon, and a webhook that was made anew.
const LOOK: i64 = 30;
/// After a failure, or when somebody else wrote at the same moment.
const AGAIN: Duration = Duration::from_secs(2);

/// Flags of `gangway certificates`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Flags {
    /// Namespace of the Secrets
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "gangway")]
    namespace: String,
    /// Secret of the CA; nobody but this process reads it
    #[arg(long, value_name = "SECRET", default_value = "gangway-ca")]
    ca: String,
    /// A Secret to keep, with tls.crt, tls.key and ca.crt, and the DNS names or addresses in it; may be repeated
    #[arg(long = "issue", value_name = "SECRET=NAME[,NAME]", required = true, value_parser = wanted)]
    issue: Vec<Wanted>,
    /// Webhook configurations of this name, mutating and validating, are told the CA; may be repeated
    #[arg(long = "webhook", value_name = "NAME")]
    webhooks: Vec<String>,
    /// How long a certificate is good for; it is replaced when two thirds of that are over
    #[arg(long, value_name = "SECONDS", default_value_t = 90 * 86_400, value_parser = clap::value_parser!(i64).range(3..))]
    lifetime: i64,
    /// The same of the CA
    #[arg(long, value_name = "SECONDS", default_value_t = 730 * 86_400, value_parser = clap::value_parser!(i64).range(6..))]
    ca_lifetime: i64,
    /// For how long a new CA is only announced before it signs: until every pod has seen its Secret change
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(i64).range(1..))]
    spread: i64,
    #[command(flatten)]
    process: ProcessFlags,
}

/// A Secret, and the names that its certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    secret: String,
    names: Vec<String>,
}

fn wanted(text: &str) -> Result<Wanted, String> {
    let (secret, names) = text.split_once('=').ok_or("there is no = in it")?;
    let names: Vec<String> = names.split(',').map(str::to_owned).collect();
    if secret.is_empty() || names.iter().any(String::is_empty) {
        return Err("a Secret and at least one name are needed: SECRET=NAME".to_owned());
    }
    Ok(Wanted { secret: secret.to_owned(), names })
}

impl Flags {
    fn lengths(&self) -> Lengths {
        Lengths { leaf: self.lifetime, ca: self.ca_lifetime, spread: self.spread }
    }
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<()> {
    flags.process.start_log()?;
    if let Some(problem) = flags.lengths().problem() {
        anyhow::bail!("--lifetime, --ca-lifetime, --spread: {problem}");
    }
    let stop = CancellationToken::new();
    let (nursery, mut parent) = nursery();
    let identity = flags.process.identity.as_deref().unwrap_or("certificates");
    let client =
        apiserver::client(flags.process.kubeconfig.as_deref(), Hand::of(identity, None)?).await?;
    let office = Office { shelf: Shelf::new(client.clone(), flags), client, flags: flags.clone() };
    nursery.start("certificates", office.run(stop.clone()));
    parent.live(&stop).await
}

/// The one who keeps them.
struct Office {
    shelf: Shelf,
    client: Client,
    flags: Flags,
}

impl Office {
    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let now = wall::now().as_second();
            let pause = match self.round(now).await {
                Ok(at) => Duration::from_secs(u64::try_from((at - now).clamp(1, LOOK))?),
                Err(error) => {
                    let error = explain(error.as_ref());
                    tracing::warn!(error, "certificates could not be looked after; trying again");
                    AGAIN
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look at everything, and what follows from it. Returns when to look again.
    async fn round(&self, now: i64) -> anyhow::Result<i64> {
        let lengths = self.flags.lengths();
        let mut wake = now + LOOK;
        let found = self.shelf.authority(now).await?;
        let step = authority(found.as_ref().map(Found::terms), lengths, now);
        let authority = match (step, found) {
            (Step::Keep(at), Some(found)) => {
                wake = wake.min(at);
                found
            }
            (step, found) => {
                wake = now;
                self.shelf.turn(step, found, lengths, now).await?
            }
        };
        // Whoever asks us must believe what is shown next before it is shown.
        for name in &self.flags.webhooks {
            self.tell_webhooks(name, &authority.bundle).await?;
        }
        // One that cannot be written keeps nobody from the rest.
        let mut problem = Ok(());
        for wanted in &self.flags.issue {
            match self.shelf.issue(wanted, &authority, lengths, now).await {
                Ok(at) => wake = wake.min(at),
                Err(error) => problem = Err(error),
            }
        }
        problem.map(|()| wake)
    }

    async fn tell_webhooks(&self, name: &str, bundle: &str) -> anyhow::Result<()> {
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        tell(&mutating, name, bundle).await?;
        tell(&validating, name, bundle).await
    }
}

/// Writes the CAs into every webhook of one configuration that has others. One that is not there is none to tell.
async fn tell<K>(api: &Api<K>, name: &str, bundle: &str) -> anyhow::Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let Some(found) = api.get_opt(name).await.with_context(|| format!("webhooks of {name}"))?
    else {
        return Ok(());
    };
    let patches = told(&serde_json::to_value(found)?, bundle);
    if patches.is_empty() {
        return Ok(());
    }
    let patch: Patch<()> = Patch::Json(serde_json::from_value(Value::Array(patches))?);
    match api.patch(name, &PatchParams::default(), &patch).await {
        Ok(_) => tracing::info!(webhooks = name, "the API server is told whom to believe"),
        // It was changed meanwhile: looked at again soon.
        Err(error) => return Err(error).with_context(|| format!("webhooks of {name}")),
    }
    Ok(())
}

/// The JSON patches that give each webhook these CAs; none where they have them.
fn told(configuration: &Value, bundle: &str) -> Vec<Value> {
    let encoded = json!(STANDARD.encode(bundle));
    let webhooks = configuration["webhooks"].as_array().map_or(&[][..], Vec::as_slice);
    let mut patches = Vec::new();
    for (at, webhook) in webhooks.iter().enumerate() {
        if webhook["clientConfig"]["caBundle"] != encoded {
            patches.push(json!({
                "op": "test", "path": format!("/webhooks/{at}/name"), "value": webhook["name"],
            }));
            patches.push(json!({
                "op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": encoded,
            }));
        }
    }
    patches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_issued_is_read() {
        let read = wanted("door-tls=a.b.svc,127.0.0.1").unwrap();
        assert_eq!((read.secret.as_str(), read.names.len()), ("door-tls", 2));
        for bad in ["door-tls", "=a", "door-tls=", "door-tls=a,,b"] {
            assert!(wanted(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn webhooks_are_told_once() {
        let mut configuration = json!({"webhooks": [
            {"name": "a", "clientConfig": {"url": "x"}},
            {"name": "b", "clientConfig": {"caBundle": STANDARD.encode("CA")}},
        ]});
        let patches = told(&configuration, "CA");
        assert_eq!(patches.len(), 2, "{patches:?}");
        assert_eq!(patches[1]["path"], "/webhooks/0/clientConfig/caBundle");
        configuration["webhooks"][0]["clientConfig"]["caBundle"] = patches[1]["value"].clone();
        assert_eq!(told(&configuration, "CA"), Vec::<Value>::new());
        assert_eq!(told(&json!({}), "CA"), Vec::<Value>::new());
    }
}
