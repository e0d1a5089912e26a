//! What a user reads with kubectl: the condition on a waiting pod, and events.
//!
//! Written only when it is worth a write: not for waits that are over in a moment, once per change, for changes
//! of wording alone at most every half minute, and never much in an hour (`core::gangview::pace`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gangway_core::follow::Report;
use gangway_core::gangview::pace::{Line, Pace, TOLD, Weight};
use gangway_core::gangview::{Sight, beside, known};
use gangway_core::job::JobId;
use gangway_core::names;
use gangway_core::offer::sentence;
use gangway_core::pod::{Pod, told};
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
/// What a pod tells of an earlier bridge stands for so long: until then this one has heard what it would say of the
/// same, its place and what would help among it.
const HEARD: Duration = Duration::from_secs(4);
/// Pause before what could not be written is written again.
const RETRY: Duration = Duration::from_secs(1);
/// How often an event is tried that meets a conflict.
const EVENT_ATTEMPTS: u32 = 3;

/// Writes the reports of one gang.
pub(crate) struct Reporter {
    cluster: Cluster,
    began: Instant,
    /// The report that is due, and since when.
    pending: Option<(Report, Instant)>,
    /// What each pod tells, by its uid, and what may still be written on it.
    told: BTreeMap<String, Told>,
    /// What was told last.
    last: Option<Report>,
    /// What there are events of, and what may be spent on more.
    noted: BTreeSet<String>,
    events: Pace,
}

/// What one pod tells.
struct Told {
    report: Report,
    pace: Pace,
}

impl Told {
    fn new(report: Report, place: usize) -> Self {
        let line = if place == 0 { Line::First } else { Line::Other };
        Self { report, pace: Pace::new(line) }
    }
}

impl Reporter {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let (pending, told, last) = (None, BTreeMap::new(), None);
        let events = Pace::new(Line::Event);
        let (began, noted) = (Instant::now(), BTreeSet::new());
        Self { cluster, began, pending, told, last, noted, events }
    }

    /// Takes the gang's present report and writes it where it is due. Returns when to come back.
    pub(crate) async fn report(
        &mut self,
        view: &View,
        report: Option<&Report>,
        (job, sight): (Option<JobId>, Option<&Sight>),
    ) -> Option<Instant> {
        let Some(report) = report else {
            self.pending = None;
            return None;
        };
        let texts = Texts::of(view, report, job, sight);
        let members = &view.assembled.gang.members;
        let unbound = || members.iter().filter(|m| m.bound.is_none() && !m.finished);
        if !self.told.is_empty() {
            let there: BTreeSet<&str> = unbound().map(|m| m.uid.as_str()).collect();
            self.told.retain(|uid, _| there.contains(uid.as_str()));
        }
        let since = match &self.pending {
            Some((pending, since)) if same_news(pending, report) && !growing(pending, report) => {
                *since
            }
            _ => Instant::now(),
        };
        self.pending = Some((report.clone(), since));
        let settled = since + if report.reason == INCOMPLETE { GROWN } else { SETTLE };
        let now = Instant::now();
        self.recognise(unbound().map(|m| m.uid.as_str()), &texts);
        let mut ready = Vec::new();
        let mut later: Option<Instant> = None;
        for (place, member) in unbound().enumerate() {
            let Some(due) = self.due(&member.uid, texts.at(place), now) else { continue };
            let due = due.max(settled);
            if due <= now {
                ready.push((place, member.uid.clone()));
            } else {
                later = Some(later.map_or(due, |at| at.min(due)));
            }
        }
        if ready.is_empty() {
            return later;
        }
        if !self.write(view, ready, &texts, report).await {
            // It stays to be done.
            return Some(Instant::now() + RETRY);
        }
        later
    }

    /// Pods that tell this already, as an earlier bridge has written it, need not be told again.
    fn recognise<'a>(&mut self, unbound: impl Iterator<Item = &'a str>, texts: &Texts) {
        if self.cluster.terms.is_some() {
            return;
        }
        let index = self.cluster.world.index();
        for (place, uid) in unbound.enumerate() {
            if self.told.contains_key(uid) {
                continue;
            }
            let text = texts.at(place);
            let says = index.pod(uid).map_or(0, |pod| pod.status.conditions.told);
            if says != 0 && says == told(condition_reason(text), &text.message) {
                self.told.insert(uid.to_owned(), Told::new(text.clone(), place));
            }
        }
    }

    /// From when on a pod may be told this; `None` where it tells it.
    fn due(&self, uid: &str, text: &Report, now: Instant) -> Option<Instant> {
        let Some(told) = self.told.get(uid) else {
            let speaks = self.cluster.world.index().pod(uid).is_some_and(Pod::tells_why_it_waits);
            let speaks = speaks && self.cluster.terms.is_none();
            return Some(if speaks { now.max(self.began + HEARD) } else { now });
        };
        let weight = if same_news(&told.report, text) { Weight::Moved } else { Weight::News };
        if told.report == *text {
            return None;
        }
        let due = told.pace.due(weight, self.cluster.now());
        Some(self.cluster.started + Duration::from_millis(u64::try_from(due).unwrap_or(0)))
    }

    /// What kube-scheduler is to say of the gang's pods: as written last.
    pub(crate) fn told(&self) -> Option<String> {
        self.last.as_ref().map(sentence)
    }

    /// Whether everything is written.
    async fn write(
        &mut self,
        view: &View,
        pods: Vec<(usize, String)>,
        texts: &Texts,
        report: &Report,
    ) -> bool {
        let gang = &view.assembled.gang;
        if self.last.as_ref().is_none_or(|last| !same_news(last, report)) {
            tracing::info!(
                name = gang.path(),
                reason = report.reason,
                says = report.message,
                "report"
            );
        }
        if let Some(terms) = &self.cluster.terms {
            pods.iter().for_each(|(place, pod)| terms.offers.say(pod, &sentence(texts.at(*place))));
        }
        let note = self.is_noted_now(report);
        let writes = pods.iter().map(|(place, uid)| self.write_one(uid, texts.at(*place), note));
        let written = futures::future::join_all(writes).await;
        if note {
            owner_event(&self.cluster, &view.group, &Note::of(report)).await;
        }
        let now = self.cluster.now();
        let all = written.iter().all(|ok| *ok);
        for ((place, uid), _) in pods.into_iter().zip(&written).filter(|(_, ok)| **ok) {
            let report = texts.at(place).clone();
            match self.told.get_mut(&uid) {
                Some(told) => {
                    told.report = report;
                    told.pace.wrote(now);
                }
                // What it is told first is not counted.
                None => drop(self.told.insert(uid, Told::new(report, place))),
            }
        }
        self.last = Some(report.clone());
        all
    }

    /// Whether there is to be an event of this. The same is told once, also where it comes back; where Slurm has ever
    /// another reason, what is left out is on the pods.
    fn is_noted_now(&mut self, report: &Report) -> bool {
        let (now, key) = (self.cluster.now(), key(report));
        let may = report.problem || self.events.due(Weight::News, now) <= now;
        if !may || !self.noted.insert(key) {
            return false;
        }
        self.events.wrote(now);
        true
    }

    /// Whether the pod tells it, or is gone.
    async fn write_one(&self, uid: &str, report: &Report, note: bool) -> bool {
        let Some(pod) = self.cluster.world.index().pod(uid).cloned() else { return true };
        let Ok(permit) = self.cluster.writes.acquire().await else { return true };
        let note = note && report.problem;
        // Where kube-scheduler owns that condition, ours stands beside it; seeing it change,
        // kube-scheduler asks again and tells the news in its own.
        if self.cluster.terms.is_some() {
            let status = offering::status("False", report.reason, &report.message, None);
            drop(permit);
            offering::touch(&self.cluster, uid, status).await;
            if note {
                event(&self.cluster, pod_reference(&pod), &Note::of(report)).await;
            }
            return true;
        }
        let condition = serde_json::json!({
            "metadata": {"uid": uid},
            "status": {"conditions": [{
                "type": "PodScheduled",
                "status": "False",
                "reason": condition_reason(report),
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
        if note {
            event(&self.cluster, pod_reference(&pod), &Note::of(report)).await;
        }
        written
    }
}

fn condition_reason(report: &Report) -> &'static str {
    // What kube-scheduler and autoscalers know as "no room yet".
    if report.reason == "Refused" { "Refused" } else { "Unschedulable" }
}

const INCOMPLETE: &str = "GangIncomplete";
const QUEUED: &str = "Queued";

/// What the pods of a gang are to tell that are not bound.
struct Texts {
    /// The first one hears at once that there is a place or an estimate at all; the text is the same.
    first: Report,
    /// Those that wait in Slurm tell also what would help, the place in the queue and the estimate.
    near: Report,
    /// Of a large gang the others say where to look: whatever changes would be a write for each.
    far: Option<Report>,
}

impl Texts {
    fn of(view: &View, report: &Report, job: Option<JobId>, sight: Option<&Sight>) -> Self {
        if report.reason != QUEUED {
            return Self { first: report.clone(), near: report.clone(), far: None };
        }
        let message = format!("{}{}", report.message, beside(sight));
        let near = Report { message, ..report.clone() };
        let topic = format!("{}{:?}", report.topic, known(sight));
        let first = Report { topic, ..near.clone() };
        let gang = &view.assembled.gang;
        let leader = gang.members.iter().find(|m| m.bound.is_none() && !m.finished);
        let far = job.zip(leader).map(|(job, leader)| {
            let message = format!(
                "Slurm job {job} waits for the pods of {} {}; why, and until when: pod {}, or kubectl get gangs -o wide",
                gang.kind, gang.name, leader.name
            );
            Report { topic: job.to_string(), message, problem: false, ..report.clone() }
        });
        Self { first, near, far }
    }

    /// What is told at this place in the order of ranks.
    fn at(&self, place: usize) -> &Report {
        match &self.far {
            _ if place == 0 => &self.first,
            Some(far) if place >= TOLD => far,
            _ => &self.near,
        }
    }
}

/// Whether members have come since the report that is pending.
fn growing(pending: &Report, report: &Report) -> bool {
    report.reason == INCOMPLETE && pending.message != report.message
}

/// Whether two reports tell the same, in other words.
fn same_news(a: &Report, b: &Report) -> bool {
    (a.reason, &a.topic, a.problem) == (b.reason, &b.topic, b.problem)
}

/// What makes an event of it another one: its topic, or its words where it has none.
fn key(report: &Report) -> String {
    let what = if report.topic.is_empty() { &report.message } else { &report.topic };
    format!("{}/{what}", report.reason)
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

pub(crate) fn workload_reference(workload: &Workload) -> ObjectReference {
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

#[cfg(test)]
mod tests {
    use gangway_core::gang::assemble;

    use super::*;

    fn view(members: u32) -> View {
        let pod = Pod { uid: "p".to_owned(), name: "p".to_owned(), ..Pod::default() };
        let mut assembled = assemble(None, &[&pod]).remove(0);
        let one = assembled.gang.members[0].clone();
        let name = |rank| format!("train-{rank}");
        assembled.gang.members = (0..members)
            .map(|rank| gangway_core::gang::Member { rank, name: name(rank), ..one.clone() })
            .collect();
        View { assembled, group: Group::Alone("p".to_owned()), ready: 0 }
    }

    fn report(reason: &'static str, message: &str) -> Report {
        let (topic, message) = ("Priority".to_owned(), message.to_owned());
        Report { reason, topic, message, problem: false }
    }

    #[test]
    fn of_a_large_gang_only_the_first_pods_are_told_what_changes_all_the_time() {
        let sight = Sight { position: 3, partition: "gpu".to_owned(), ..Sight::default() };
        let sight = Sight { state: "PENDING".to_owned(), ..sight };
        let queued = report(QUEUED, "Slurm job 7: Priority");
        let texts = Texts::of(&view(6), &queued, Some(JobId(7)), Some(&sight));
        for place in 0..TOLD {
            assert_eq!(
                texts.at(place).message,
                "Slurm job 7: Priority; number 3 in the queue of gpu"
            );
        }
        let far = texts.at(TOLD);
        assert!(
            far.message.contains("Slurm job 7") && far.message.contains("pod train-0"),
            "{far:?}"
        );
        // That there is a place at all is news, another one is not.
        let moved = Sight { position: 2, ..sight };
        let [moved, none] =
            [Some(&moved), None].map(|sight| Texts::of(&view(6), &queued, Some(JobId(7)), sight));
        assert!(same_news(moved.at(0), texts.at(0)) && !same_news(none.at(0), texts.at(0)));
        // Another reason is no news there, another job is.
        let resources = Report { topic: "Resources".to_owned(), ..queued };
        let other = |report, job| Texts::of(&view(6), report, Some(JobId(job)), None);
        assert_eq!(other(&resources, 7).at(TOLD), far);
        assert!(!same_news(other(&resources, 8).at(TOLD), far));
    }

    #[test]
    fn what_is_not_of_slurms_queue_is_told_to_all() {
        let refused = report("Refused", "no");
        assert_eq!(*Texts::of(&view(6), &refused, None, None).at(5), refused);
        // Slurm does not answer: there is no job to wait for.
        let queued = report(QUEUED, "SlurmUnreachable");
        assert_eq!(*Texts::of(&view(6), &queued, None, None).at(5), queued);
    }

    #[test]
    fn an_event_is_another_one_for_another_reason_and_not_for_other_words() {
        let queued = report(QUEUED, "1 of 2");
        assert_eq!(key(&queued), key(&report(QUEUED, "2 of 2")));
        let without = |message: &str| Report { topic: String::new(), ..report("Refused", message) };
        assert_ne!(key(&without("a")), key(&without("b")));
    }
}
