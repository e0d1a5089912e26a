//! Carries out a plan of the inventory. Decides nothing.
//!
//! What is the same for several nodes goes as one request; a node whose devices Slurm must be told as one each. Steps go
//! in this order: what shuts nodes, what takes them away, what brings them, what changes them. A step that fails is
//! told, and the next comparison brings it again.

use std::collections::{BTreeMap, HashMap};

use futures::StreamExt;
use futures::stream;
use gangway_core::eligible::taint::Taint;
use gangway_core::hostlist::Hostlist;
use gangway_core::inventory::{
    Change, News, Plan, Registration, Standing, Step, Wanted, deletions, registrations,
};
use gangway_core::names;
use gangway_slurm::{Client as SlurmClient, Error, NodeUpdate, SlurmCode};
use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::{Duration, Instant};

use super::figures::Figures;
use super::taint::{self, Hand};
use crate::chain::explain;
use crate::wall;

/// Requests to slurmrestd under way at once: creating takes slurmctld's write lock, so more would only wait there.
const AT_ONCE: usize = 4;
/// So often a registration of many that Slurm has refused is cut in two before the next look.
const HALVES: usize = 64;
/// Writes to the API server under way at once.
pub(super) const WRITES: usize = 32;
/// What Slurm has refused is asked again after so long.
pub(super) const AGAIN: Duration = Duration::from_secs(30);

pub(super) struct Carrier {
    slurm: SlurmClient,
    nodes: Api<Node>,
    events: Api<Event>,
    /// This bridge's, which its taints carry.
    cluster: String,
    figures: Figures,
    /// What Slurm said when these nodes were last to be registered, and when.
    refused: HashMap<String, (Instant, String)>,
    /// EXTERNAL nodes that nobody backs, as they were last told of.
    strangers: Vec<String>,
}

/// What came of a plan.
pub(super) struct Carried {
    /// Slurm was asked to change something.
    pub(super) asked: bool,
    /// What Kubernetes was told.
    pub(super) told: Vec<News>,
    /// The taints that nodes have now, where any were to change.
    pub(super) tainted: Vec<(String, Vec<Taint>)>,
}

impl Carrier {
    pub(super) fn new(
        slurm: SlurmClient,
        client: Client,
        cluster: String,
        figures: Figures,
    ) -> Self {
        let (nodes, events) = (Api::all(client.clone()), Api::namespaced(client, "default"));
        let (refused, strangers) = (HashMap::new(), Vec::new());
        Self { slurm, nodes, events, cluster, figures, refused, strangers }
    }

    /// What Slurm has said against a node, by its name of it.
    pub(super) fn refusal(&self, node: &str) -> Option<String> {
        self.refused.get(node).map(|(_, said)| said.clone())
    }

    /// Does what the plan says.
    pub(super) async fn carry(&mut self, plan: Plan) -> Carried {
        if plan.strangers != self.strangers {
            self.strangers = plan.strangers;
            let (nodes, count) =
                (self.strangers.iter().take(20).collect::<Vec<_>>(), self.strangers.len());
            tracing::info!(
                count,
                ?nodes,
                "EXTERNAL nodes in Slurm that nobody backs; they are not ours, and stay"
            );
        }
        let mut steps = Sorted::of(plan.steps);
        let lately = |(at, _): &(Instant, String)| at.elapsed() < AGAIN;
        steps.new.retain(|wanted| !self.refused.get(&wanted.name).is_some_and(lately));
        let asked = !steps.is_empty();
        for (update, nodes) in std::mem::take(&mut steps.fences) {
            let step = update.state;
            self.update(step, &nodes, &update.into()).await;
        }
        self.delete(steps.gone).await;
        self.register(&steps.new).await;
        let moved = steps.changes.keys().any(|change| change.features.is_some());
        for (change, nodes) in steps.changes {
            self.update("CHANGE", &nodes, &changed(change)).await;
        }
        if moved {
            self.restate().await;
        }
        let answers = self.tell(plan.news).await;
        let (told, fresh): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        let fresh: HashMap<String, Node> =
            fresh.into_iter().map(|node| (node.name_any(), node)).collect();
        let tainted = taint::write(self.hand(), plan.taints, &fresh).await;
        Carried { asked, told, tainted }
    }

    fn hand(&self) -> Hand<'_> {
        Hand { nodes: &self.nodes, cluster: &self.cluster, figures: &self.figures }
    }

    async fn update(&self, step: &str, nodes: &[String], update: &NodeUpdate) {
        let Ok(list) = Hostlist::from_names(nodes) else { return };
        tracing::info!(nodes = %list, ?update, "changing nodes in Slurm");
        let answer = self.slurm.update_nodes(&list.to_string(), update).await;
        self.figures.step(&step.to_lowercase(), nodes.len(), &answer);
        if let Err(error) = answer {
            tracing::warn!(nodes = %list, error = explain(&error), "Slurm did not change nodes");
        }
    }

    async fn delete(&self, nodes: Vec<String>) {
        if !nodes.is_empty() {
            tracing::info!(nodes = listed(&nodes), "deleting nodes in Slurm");
        }
        let delete = |(nodes, count): (String, usize)| async move {
            let answer = self.slurm.delete_nodes(&nodes).await;
            self.figures.step("delete", count, &answer);
            match answer {
                Ok(()) => tracing::debug!(nodes, "deleted in Slurm"),
                // Somebody's job came in between, or somebody else has deleted one; the others are gone.
                Err(Error::Rejected {
                    code: SlurmCode::NODES_BUSY | SlurmCode::INVALID_NODE_NAME,
                    ..
                }) => {
                    tracing::info!(nodes, "not all deleted in Slurm: in use, or gone already");
                }
                Err(error) => {
                    tracing::warn!(nodes, error = explain(&error), "Slurm did not delete nodes");
                }
            }
        };
        stream::iter(deletions(&nodes)).for_each_concurrent(AT_ONCE, delete).await;
    }

    async fn register(&mut self, nodes: &[Wanted]) {
        let mut registered = Vec::new();
        for (one, answer) in self.ask(registrations(nodes)).await {
            self.figures.step("register", one.nodes.len(), &answer);
            match answer {
                Ok(()) => registered.extend(one.nodes),
                Err(Error::Rejected { code: SlurmCode::NODE_EXISTS, .. }) => {}
                Err(error) => {
                    let said = explain(&error);
                    tracing::warn!(nodes = ?one.nodes, conf = one.conf, error = said, "Slurm did not register nodes");
                    let refused = matches!(error, Error::Rejected { .. });
                    for node in one.nodes.into_iter().filter(|_| refused) {
                        self.refused.insert(node, (Instant::now(), said.clone()));
                    }
                }
            }
        }
        for node in &registered {
            self.refused.remove(node);
        }
        if !registered.is_empty() {
            tracing::info!(nodes = listed(&registered), "registered in Slurm");
        }
    }

    /// Asks for all of them, and what comes of each. Of many that are refused the halves are asked for, so that one of
    /// which Slurm will not hear keeps no other out; where most are refused, not more than [`HALVES`] times.
    async fn ask(&self, mut waiting: Vec<Registration>) -> Vec<(Registration, Result<(), Error>)> {
        let ask = |one: Registration| async {
            let answer = self.slurm.create_node(&one.conf).await;
            (one, answer)
        };
        let (mut answers, mut left) = (Vec::new(), HALVES);
        while !waiting.is_empty() {
            let asked = stream::iter(std::mem::take(&mut waiting)).map(ask);
            let mut asked = std::pin::pin!(asked.buffer_unordered(AT_ONCE));
            while let Some((one, answer)) = asked.next().await {
                let refused = matches!(answer, Err(Error::Rejected { .. }));
                match one.halves().filter(|_| refused && left > 0) {
                    Some(halves) => {
                        left -= 1;
                        waiting.extend(halves);
                    }
                    None => answers.push((one, answer)),
                }
            }
        }
        answers
    }

    /// Nodes whose features have changed stay in their partitions until these are told to look.
    async fn restate(&self) {
        let partitions = match self.slurm.partitions().await {
            Ok(partitions) => partitions,
            Err(error) => {
                tracing::warn!(error = explain(&error), "could not read Slurm's partitions");
                return;
            }
        };
        for partition in partitions.iter().filter(|partition| !partition.node_sets.is_empty()) {
            if let Err(error) = self.slurm.restate_partition(partition).await {
                let name = &partition.name;
                tracing::warn!(
                    partition = name,
                    error = explain(&error),
                    "could not have it look at its nodes"
                );
            }
        }
    }

    /// Writes what is new on nodes: one write for each. Returns what was written.
    async fn tell(&self, news: Vec<News>) -> Vec<(News, Node)> {
        let write = |news: News| async move {
            let host = &news.host;
            let status = Patch::Strategic(written(&news));
            let answer = self.nodes.patch_status(host, &PatchParams::default(), &status).await;
            self.figures.write("condition", &answer);
            match answer {
                Ok(node) => {
                    if news.event {
                        let written =
                            self.events.create(&PostParams::default(), &event(&news)).await;
                        self.figures.write("event", &written);
                        if let Err(error) = written {
                            tracing::debug!(error = explain(&error), "could not write an event");
                        }
                    }
                    Some((news, node))
                }
                // It has just gone.
                Err(kube::Error::Api(status)) if status.is_not_found() => None,
                Err(error) => {
                    tracing::warn!(
                        node = host,
                        error = explain(&error),
                        "could not write a condition"
                    );
                    None
                }
            }
        };
        let writes = stream::iter(news).map(write).buffer_unordered(WRITES);
        let told: Vec<(News, Node)> = writes.filter_map(|told| async { told }).collect().await;
        let mut alike: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
        for (News { host, told, .. }, _) in &told {
            let said = (told.condition.reason.as_str(), told.condition.message.as_str());
            alike.entry(said).or_default().push(host.clone());
        }
        for ((reason, message), nodes) in alike {
            tracing::info!(
                nodes = listed(&nodes),
                reason,
                says = message,
                "nodes say where they stand in Slurm"
            );
        }
        told
    }
}

/// Names for the log: a line for many.
fn listed(nodes: &[String]) -> String {
    Hostlist::from_names(nodes).map_or_else(|_| nodes.join(","), |list| list.sorted().to_string())
}

/// Condition and annotation go in one write: the status subresource takes metadata too.
fn written(News { told, turned, .. }: &News) -> serde_json::Value {
    let mut condition = json!({
        "type": names::SLURM_READY,
        "status": told.condition.standing.as_str(),
        "reason": told.condition.reason,
        "message": told.condition.message,
    });
    if *turned {
        let now = wall::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        condition["lastTransitionTime"] = json!(now.to_string());
    }
    // Null takes it away.
    let tenants = Some(&told.tenants).filter(|tenants| !tenants.is_empty());
    json!({
        "metadata": { "annotations": { names::TENANTS: tenants } },
        "status": { "conditions": [condition] },
    })
}

/// What somebody did in Slurm, as an event on the node.
fn event(News { host, told, .. }: &News) -> Event {
    let words = [host.as_str(), &told.condition.reason, &told.condition.message];
    let now = wall::now();
    let stamp = now.as_second().to_string();
    let once = gangway_core::placeholder::fingerprint(words.into_iter().chain([stamp.as_str()]));
    let well = told.condition.standing == Standing::True;
    Event {
        metadata: ObjectMeta { name: Some(format!("{host}.{once:016x}")), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            kind: Some("Node".to_owned()),
            api_version: Some("v1".to_owned()),
            name: Some(host.clone()),
            // As the kubelet writes it, by which `kubectl describe node` finds events.
            uid: Some(host.clone()),
            ..ObjectReference::default()
        },
        reason: Some(format!("Slurm{}", told.condition.reason)),
        message: Some(told.condition.message.clone()),
        type_: Some(if well { "Normal" } else { "Warning" }.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(EventSource { component: Some("gangway-controllers".to_owned()), host: None }),
        ..Event::default()
    }
}

fn changed(change: Change) -> NodeUpdate {
    let Change { features, weight, topology, address } = change;
    NodeUpdate { features, weight, topology, address, ..NodeUpdate::default() }
}

/// A state and its reason, for as many nodes as share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fence {
    state: &'static str,
    reason: Option<String>,
}

impl From<Fence> for NodeUpdate {
    fn from(fence: Fence) -> Self {
        let Fence { state, reason } = fence;
        Self { state: Some(vec![state.to_owned()]), reason, ..Self::default() }
    }
}

/// Steps by what they are, those that are alike together.
#[derive(Default)]
struct Sorted {
    fences: BTreeMap<Fence, Vec<String>>,
    gone: Vec<String>,
    new: Vec<Wanted>,
    changes: BTreeMap<Change, Vec<String>>,
}

impl Sorted {
    fn of(steps: Vec<Step>) -> Self {
        let mut out = Self::default();
        let mut fence = |state, reason, node| {
            out.fences.entry(Fence { state, reason }).or_default().push(node);
        };
        for step in steps {
            match step {
                Step::Drain { node, reason } => fence("DRAIN", Some(reason), node),
                Step::Down { node, reason } => fence("DOWN", Some(reason), node),
                Step::Resume { node } => fence("RESUME", None, node),
                Step::Delete { node } => out.gone.push(node),
                Step::Register(wanted) => out.new.push(wanted),
                Step::Change { node, change } => out.changes.entry(change).or_default().push(node),
            }
        }
        out
    }

    fn is_empty(&self) -> bool {
        self.fences.is_empty()
            && self.gone.is_empty()
            && self.new.is_empty()
            && self.changes.is_empty()
    }
}
