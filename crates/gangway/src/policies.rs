//! SlurmPolicies as the API server has them, kept in the one [`Policy`] that everyone asks.
//!
//! Watches and puts together; what is granted is core's to say. Until it is known whether there are any nothing is
//! granted, and what was read last holds for as long as the API server does not answer.

pub(crate) mod status;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use gangway_core::policy::{Policy, Rule, Source};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher;
use kube::{Client, ResourceExt, discovery};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::config::SlurmPolicies;
use crate::source::{Telling, until};

/// How often it is asked whether SlurmPolicies are served, and how soon after no answer.
const DISCOVER: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);

/// What the API server says of SlurmPolicies.
#[derive(Debug)]
enum Event {
    Rule(Box<Rule>),
    Gone(String),
    Listed(HashSet<String>),
}

/// Keeps `policy` as SlurmPolicies say, until `stop`.
pub(crate) async fn run(
    client: Client,
    mode: SlurmPolicies,
    policy: watch::Sender<Arc<Policy>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if mode == SlurmPolicies::Off {
        stop.cancelled().await;
        return Ok(());
    }
    let resource = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        resource = served(&client, mode, &policy) => resource,
    };
    tracing::info!(version = resource.api_version, "SlurmPolicies say who may ask for what");
    let (sender, events) = mpsc::channel(64);
    let watching =
        telling().watch(Api::all_with(client, &resource), watcher::Config::default(), sender);
    tokio::select! {
        biased;
        watched = until(stop, watching) => watched,
        () = keep(events, &policy) => Ok(()),
    }
}

/// Waits until it is known what is granted, by whomever.
pub(crate) async fn read(mut policy: watch::Receiver<Arc<Policy>>) {
    // The sender lives as long as the queue.
    let _ = policy.wait_for(|policy| policy.source != Source::Unread).await;
}

/// Waits until SlurmPolicies are served; meanwhile the configuration decides, or nobody gets anything.
async fn served(
    client: &Client,
    mode: SlurmPolicies,
    policy: &watch::Sender<Arc<Policy>>,
) -> ApiResource {
    loop {
        let pause = match find(client).await {
            Ok(Some(resource)) => return resource,
            Ok(None) => {
                let source = match mode {
                    SlurmPolicies::Required => Source::Rules(Vec::new()),
                    SlurmPolicies::Auto | SlurmPolicies::Off => Source::Identities,
                };
                put(policy, source);
                DISCOVER
            }
            Err(error) => {
                tracing::warn!(
                    error = explain(&error),
                    "could not ask whether SlurmPolicies are served"
                );
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn find(client: &Client) -> Result<Option<ApiResource>, kube::Error> {
    let groups = client.list_api_groups().await?;
    let Some(group) = groups.groups.into_iter().find(|group| group.name == "gangway.dev") else {
        return Ok(None);
    };
    for version in &group.versions {
        let gvk = GroupVersionKind::gvk("gangway.dev", &version.version, "SlurmPolicy");
        match discovery::pinned_kind(client, &gvk).await {
            Ok((resource, _)) => return Ok(Some(resource)),
            Err(kube::Error::Discovery(_)) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn telling() -> Telling<DynamicObject, String, Event> {
    Telling {
        what: "SlurmPolicy watch".to_owned(),
        key: DynamicObject::name_any,
        apply: Box::new(|object| {
            // Names are unique: SlurmPolicies belong to no namespace.
            let name = object.name_any();
            let value = serde_json::to_value(&object).unwrap_or_default();
            Some(Event::Rule(Box::new(Rule { name, ..Rule::read(&value) })))
        }),
        gone: Box::new(|object| Event::Gone(object.name_any())),
        listed: Box::new(Event::Listed),
        heard: Box::new(|_| {}),
    }
}

async fn keep(mut events: mpsc::Receiver<Event>, policy: &watch::Sender<Arc<Policy>>) {
    let mut rules: BTreeMap<String, Rule> = BTreeMap::new();
    let mut listed = false;
    while let Some(event) = events.recv().await {
        match event {
            Event::Rule(rule) => {
                if let Err(problem) = &rule.terms {
                    tracing::warn!(
                        policy = rule.name,
                        problem,
                        "this SlurmPolicy cannot be used, and denies"
                    );
                }
                rules.insert(rule.name.clone(), *rule);
            }
            Event::Gone(name) => drop(rules.remove(&name)),
            Event::Listed(names) => {
                rules.retain(|name, _| names.contains(name));
                listed = true;
            }
        }
        // A part of them could let a wider one in.
        if listed {
            put(policy, Source::Rules(rules.values().cloned().collect()));
        }
    }
}

fn put(policy: &watch::Sender<Arc<Policy>>, source: Source) {
    policy.send_if_modified(|policy| {
        let changed = policy.source != source;
        if changed {
            *policy = Arc::new(Policy { source, ..(**policy).clone() });
        }
        changed
    });
}
