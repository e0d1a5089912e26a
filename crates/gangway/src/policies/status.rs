//! What is said on each SlurmPolicy: that it is applied, or what Slurm does not know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gangway_core::policy::{Known, Policy, Rule, Source, unknown};
use gangway_slurm::{Client as SlurmClient, Error};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chain::explain;

/// How often Slurm is asked again, and how soon after something went wrong.
const LOOK: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

/// Status, reason and message of the condition `Applied`.
type Word = (&'static str, &'static str, String);

/// Keeps saying so, from `begin` until `stop`.
pub(crate) async fn run(
    client: Client,
    slurm: SlurmClient,
    mut policy: watch::Receiver<Arc<Policy>>,
    begin: impl Future<Output = ()>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let gvk = GroupVersionKind::gvk("gangway.dev", "v1alpha1", "SlurmPolicy");
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::from_gvk(&gvk));
    let mut said: BTreeMap<String, (i64, Word)> = BTreeMap::new();
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        () = begin => {}
    }
    loop {
        let now = policy.borrow_and_update().clone();
        let mut pause = LOOK;
        if let Source::Rules(rules) = &now.source {
            said.retain(|name, _| rules.iter().any(|rule| rule.name == *name));
            for rule in rules {
                let word = word(&slurm, &now, rule).await;
                if word.0 == "Unknown" {
                    pause = RETRY;
                }
                if said.get(&rule.name) == Some(&(rule.generation, word.clone())) {
                    continue;
                }
                match say(&api, rule, &word).await {
                    Ok(()) => drop(said.insert(rule.name.clone(), (rule.generation, word))),
                    Err(error) => {
                        tracing::warn!(
                            policy = rule.name,
                            error = explain(&error),
                            "could not write its status"
                        );
                        pause = RETRY;
                    }
                }
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = policy.changed() => changed?,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn word(slurm: &SlurmClient, policy: &Policy, rule: &Rule) -> Word {
    let denies =
        |problem: &str| ("False", "Unusable", format!("it denies those it names: {problem}"));
    let terms = match &rule.terms {
        Ok(terms) => terms,
        Err(problem) => return denies(problem),
    };
    if [&terms.user, &terms.group].contains(&&policy.slurm_user) {
        return denies(&format!("nobody may run as {}", policy.slurm_user));
    }
    if !rule.groups.is_empty() && !policy.believes_requester {
        let message =
            "groups count only with policy.believeRequester: true in the scheduler's configuration";
        return ("False", "RequesterNotBelieved", message.to_owned());
    }
    match known(slurm, &terms.user).await {
        Ok(known) => match unknown(terms, &known).as_slice() {
            [] => {
                let (accounts, partitions) =
                    (terms.accounts.join(", "), terms.partitions.join(", "));
                let message = format!(
                    "jobs run as {} of group {}, accounts {accounts}, partitions {partitions}",
                    terms.user, terms.group
                );
                ("True", "Applied", message)
            }
            problems => ("False", "UnknownToSlurm", problems.join("; ")),
        },
        Err(error) => ("Unknown", "SlurmUnreachable", explain(&error)),
    }
}

/// What Slurm knows of this user, and of partitions.
async fn known(slurm: &SlurmClient, user: &str) -> Result<Known, Error> {
    let partitions = slurm.partitions().await?.into_iter().map(|one| one.name).collect();
    let own = slurm.ping().await?.cluster;
    let associations = match slurm.associations(user).await {
        Ok(associations) => associations,
        // There is no accounting database to ask.
        Err(Error::NoSuchEndpoint { .. } | Error::Rejected { .. }) => {
            return Ok(Known { accounts: None, partitions });
        }
        Err(error) => return Err(error),
    };
    let mut accounts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for one in associations.into_iter().filter(|one| own.is_empty() || one.cluster == own) {
        accounts.entry(one.account).or_default().extend(one.qos);
    }
    Ok(Known { accounts: Some(accounts), partitions })
}

async fn say(
    api: &Api<DynamicObject>,
    rule: &Rule,
    (status, reason, message): &Word,
) -> Result<(), kube::Error> {
    let condition = json!({
        "type": "Applied", "status": status, "reason": reason, "message": message,
        "observedGeneration": rule.generation,
    });
    let part =
        json!({"status": {"observedGeneration": rule.generation, "conditions": [condition]}});
    match api.patch_status(&rule.name, &PatchParams::default(), &Patch::Merge(&part)).await {
        // It is gone by now.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}
