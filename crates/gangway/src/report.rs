//! What a user reads with kubectl: the condition on a waiting pod, and events.
//!
//! Written only when it is worth a write: not for waits that are over in a moment, once per change,
//! and for changes of wording alone at most every half minute.

use std::time::Duration;

use gangway_core::follow::Report;
use gangway_core::names;
use gangway_core::offer::sentence;
use gangway_core::pod::Pod;
use gangway_core::workload::Workload;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::time::Instant;

use crate::chain::explain;
use crate::cluster::Cluster;
use crate::cluster::View;
use crate::failpoint::{self, Point};
use crate::index::Group;
use crate::kubescheduler::offering;
use crate::lean::LeanPod;

/// A report that does not last this long is not written: members and owners arrive out of order.
const SETTLE: Duration = Duration::from_millis(250);
/// A gang that is still being made is left alone until it has not grown for so long: writing to its
/// pods then would cost a write each, just when the API server is busiest.
const GROWN: Duration = Duration::from_secs(1);
/// Pause before what could not be written is written again.
const RETRY: Duration = Duration::from_secs(1);
/// How often an event is tried that meets a conflict.
const EVENT_ATTEMPTS: u32 = 3;
/// A new wording of the same reason is written at most this often.
const REWORD: Duration = Duration::from_secs(10);

/// Writes the reports of one gang.
pub(crate) struct Reporter {
    cluster: Cluster,
    /// The report that is due, and since when.
    pending: Option<(Report, Instant)>,
    /// What was written last, when, and for which pods.
    written: Option<(Report, Instant, Vec<String>)>,
}

impl Reporter {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster, pending: None, written: None }
    }

    /// Takes the gang's present report and writes it if it is due. Returns when to come back.
    pub(crate) async fn report(&mut self, view: &View, report: Option<&Report>) -> Option<Instant> {
        let Some(report) = report else {
            self.pending = None;
            return None;
        };
        let members = &view.assembled.gang.members;
        let unbound: Vec<String> = members
            .iter()
            .filter(|m| m.bound.is_none() && !m.finished)
            .map(|m| m.uid.clone())
            .collect();
        if let Some((old, _, pods)) = &self.written
            && old == report
            && unbound.iter().all(|uid| pods.contains(uid))
        {
            self.pending = None;
            return None;
        }
        let since = match &self.pending {
            Some((pending, since)) if same_news(pending, report) && !growing(pending, report) => {
                *since
            }
            _ => Instant::now(),
        };
        self.pending = Some((report.clone(), since));
        let mut due = since + if report.reason == INCOMPLETE { GROWN } else { SETTLE };
        if let Some((old, at, pods)) = &self.written
            && same_news(old, report)
            && unbound.iter().all(|uid| pods.contains(uid))
        {
            due = due.max(*at + REWORD);
        }
        if Instant::now() < due {
            return Some(due);
        }
        if !self.write(view, &unbound, report).await {
            // It stays pending.
            return Some(Instant::now() + RETRY);
        }
        self.pending = None;
        self.written = Some((report.clone(), Instant::now(), unbound));
        None
    }

    /// What kube-scheduler is to say of the gang's pods: as written last.
    pub(crate) fn told(&self) -> Option<String> {
        self.written.as_ref().map(|(report, _, _)| sentence(report))
    }

    /// Whether everything is written.
    async fn write(&self, view: &View, pods: &[String], report: &Report) -> bool {
        let gang = &view.assembled.gang;
        tracing::info!(
            gang = gang.uid,
            name = gang.path(),
            reason = report.reason,
            message = report.message,
            "report"
        );
        if let Some(terms) = &self.cluster.terms {
            let sentence = sentence(report);
            pods.iter().for_each(|pod| terms.offers.say(pod, &sentence));
        }
        let writes = pods.iter().map(|uid| self.write_one(uid, report));
        let all = futures::future::join_all(writes).await.into_iter().all(|ok| ok);
        owner_event(&self.cluster, &view.group, &Note::of(report)).await;
        all
    }

    /// Whether the pod tells it, or is gone.
    async fn write_one(&self, uid: &str, report: &Report) -> bool {
        let Some(pod) = self.cluster.world.index().pod(uid).cloned() else { return true };
        let Ok(permit) = self.cluster.writes.acquire().await else { return true };
        // Where kube-scheduler owns that condition, ours stands beside it; seeing it change,
        // kube-scheduler asks again and tells the news in its own.
        if self.cluster.terms.is_some() {
            let status = offering::status("False", report.reason, &report.message, None);
            drop(permit);
            offering::touch(&self.cluster, uid, status).await;
            if report.problem {
                event(&self.cluster, pod_reference(&pod), &Note::of(report)).await;
            }
            return true;
        }
        let condition = serde_json::json!({
            "metadata": {"uid": uid},
            "status": {"conditions": [{
                "type": "PodScheduled",
                "status": "False",
                // What kube-scheduler and autoscalers know as "no room yet".
                "reason": if report.reason == "Refused" { "Refused" } else { "Unschedulable" },
                "message": report.message,
                "lastProbeTime": null,
                "lastTransitionTime": crate::wall::now().to_string(),
            }]},
        });
        let api = Api::<LeanPod>::namespaced(self.cluster.client.clone(), &pod.namespace);
        let patch = Patch::Strategic(condition);
        let written = api.patch_status(&pod.name, &PatchParams::default(), &patch).await;
        failpoint::pass(Point::Condition);
        let written = match written {
            Ok(_) => true,
            Err(error) => {
                // A decision of the API server's stands; anything else is tried again.
                let decided = matches!(&error, kube::Error::Api(status)
                    if (400..500).contains(&status.code) && !matches!(status.code, 409 | 429));
                let error = explain(&error);
                tracing::debug!(pod = pod.path(), error, "could not write the condition");
                decided
            }
        };
        if report.problem {
            event(&self.cluster, pod_reference(&pod), &Note::of(report)).await;
        }
        written
    }
}

const INCOMPLETE: &str = "GangIncomplete";

/// Whether members have come since the report that is pending.
fn growing(pending: &Report, report: &Report) -> bool {
    report.reason == INCOMPLETE && pending.message != report.message
}

/// Whether two reports tell the same, in other words.
fn same_news(a: &Report, b: &Report) -> bool {
    (a.reason, &a.topic, a.problem) == (b.reason, &b.topic, b.problem)
}

/// One event.
pub(crate) struct Note<'a> {
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
    pub(crate) warning: bool,
    pub(crate) action: &'a str,
}

impl<'a> Note<'a> {
    fn of(report: &'a Report) -> Self {
        Self {
            reason: report.reason,
            message: &report.message,
            warning: report.problem,
            action: "Scheduling",
        }
    }
}

pub(crate) fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod.name.clone()),
        namespace: Some(pod.namespace.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

fn workload_reference(workload: &Workload) -> ObjectReference {
    ObjectReference {
        api_version: Some(workload.api_version.clone()),
        kind: Some(workload.kind.name().to_owned()),
        name: Some(workload.name.clone()),
        namespace: Some(workload.namespace.clone()),
        uid: Some(workload.uid.clone()),
        ..ObjectReference::default()
    }
}

/// Writes an event about the workload that a gang's pods are of; none where they are of none.
pub(crate) async fn owner_event(cluster: &Cluster, group: &Group, note: &Note<'_>) {
    let workload = cluster.world.index().workload(group).cloned();
    if let Some(workload) = workload {
        event(cluster, workload_reference(&workload), note).await;
    }
}

/// Writes an event. One with the same object, reason and message has the same name, so that
/// repeating it makes no second one.
pub(crate) async fn event(cluster: &Cluster, about: ObjectReference, note: &Note<'_>) {
    let namespace = about.namespace.clone().unwrap_or_default();
    let uid = about.uid.clone().unwrap_or_default();
    let words = [uid.as_str(), note.reason, note.message];
    let name = format!(
        "{}.{:016x}",
        about.name.as_deref().unwrap_or_default(),
        gangway_core::placeholder::fingerprint(words)
    );
    let now = Time(crate::wall::now());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: about,
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.chars().take(1000).collect()),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        action: Some(note.action.to_owned()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        source: Some(EventSource { component: Some(names::SCHEDULER.to_owned()), host: None }),
        reporting_component: Some(names::SCHEDULER.to_owned()),
        ..Event::default()
    };
    let api = Api::<Event>::namespaced(cluster.client.clone(), &namespace);
    for _ in 0..EVENT_ATTEMPTS {
        let written = api.create(&PostParams::default(), &event).await;
        failpoint::pass(Point::Event);
        match written {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.is_already_exists() => return,
            // Somebody was in the way, not a word on the event.
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(error) => {
                tracing::debug!(error = explain(&error), "could not write an event");
                return;
            }
        }
    }
}
