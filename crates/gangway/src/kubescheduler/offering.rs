//! A follower's hands where a stock kube-scheduler binds: it offers seats instead of taking them.
//!
//! The follower decides as ever; a Binding is carried out only when every pod of the plan has been
//! brought to its node by kube-scheduler, so a gang is bound together or not at all (rule 3).

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use gangway_core::follow::{Facts, Plan, Report, Verdict};
use gangway_core::gang::Assembled;
use gangway_core::job::JobId;
use gangway_core::names;
use gangway_core::offer::{give_back, on_offer, standings, untaken};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::offers::{Offers, Wake};
use crate::apiserver::says_gone;
use crate::bind::Binding;
use crate::chain::explain;
use crate::cluster::Cluster;
use crate::failpoint::{self, Point};
use crate::lean::LeanPod;

/// What all followers share where kube-scheduler binds.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) offers: Offers,
    /// How long kube-scheduler may leave an allocation untaken, in milliseconds.
    pub(crate) take_up_ms: i64,
}

/// One gang's offers.
pub(crate) struct Offering {
    terms: Terms,
    /// kube-scheduler has come to bind one of the gang's pods, or has turned a seat down.
    called: Arc<Notify>,
    /// The pods that are in the table for this gang.
    pods: BTreeSet<String>,
    /// The allocation on offer, and since when (ms).
    since: Option<(JobId, i64)>,
    /// What the pods' user was told last.
    sentence: Option<String>,
    /// Why the door could not be asked.
    door_away: Option<String>,
}

impl Offering {
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            called: Arc::default(),
            pods: BTreeSet::new(),
            since: None,
            sentence: None,
            door_away: None,
        }
    }

    /// Lets kube-scheduler's own limits into a plan: an allocation that it does not take goes back,
    /// and a door that does not answer is told to the user.
    pub(crate) fn review(&mut self, facts: &Facts<'_>, mut plan: Plan, now: i64) -> Plan {
        self.since = on_offer(self.since, facts, &plan, now);
        if let (Some((job, since)), Some(Verdict::Allocated { generation, .. })) =
            (self.since, facts.verdict)
        {
            let due = since + self.terms.take_up_ms;
            if now >= due {
                let why = self.untaken(facts.assembled, job);
                return give_back(facts.assembled, *generation, facts.progress.released, &why);
            }
            plan.wake = Some(plan.wake.map_or(due, |wake| wake.min(due)));
        }
        if facts.verdict.is_none() && plan.report.is_none() {
            plan.report = self.door_away.clone().map(|message| Report {
                reason: "DoorAway",
                topic: String::new(),
                message,
                problem: true,
            });
        }
        plan
    }

    fn untaken(&self, assembled: &Assembled, job: JobId) -> String {
        let unbound = assembled.gang.members.iter().filter(|m| m.bound.is_none() && !m.finished);
        let seats: Vec<_> = unbound
            .filter_map(|m| {
                let (node, taken) = self.terms.offers.taken(&m.uid)?;
                Some((format!("{}/{}", assembled.gang.namespace, m.name), node, taken))
            })
            .collect();
        let seats = seats.iter().map(|(pod, node, taken)| (pod.as_str(), node.as_str(), *taken));
        untaken(seats, job, self.terms.take_up_ms / 1000)
    }

    /// The door has answered, or why it could not be asked.
    pub(crate) fn door(&mut self, away: Option<String>) {
        self.door_away = away;
    }

    /// Puts the gang's pods into the table as the plan has them, and wakes kube-scheduler for those
    /// whose answer has turned. Returns when to look again.
    pub(crate) async fn publish(
        &mut self,
        cluster: &Cluster,
        assembled: &Assembled,
        verdict: Option<&Verdict>,
        plan: &Plan,
    ) -> Option<Instant> {
        let sentence = self.sentence.as_deref();
        let mut now = BTreeSet::new();
        for (pod, standing) in standings(assembled, verdict, plan, sentence) {
            self.terms.offers.stand(pod, standing, &self.called);
            now.insert(pod.to_owned());
        }
        for gone in self.pods.difference(&now) {
            self.terms.offers.forget(gone);
        }
        self.pods = now;
        let (wakes, later) = self.terms.offers.to_wake(Instant::now(), &self.pods);
        let job = self.since.map(|(job, _)| job);
        join_all(wakes.iter().map(|wake| self.wake(cluster, wake, job))).await;
        later
    }

    /// Touches a pod, so that kube-scheduler looks at it again, and at this node first.
    async fn wake(&self, cluster: &Cluster, wake: &Wake, job: Option<JobId>) {
        let job = job.map_or_else(String::new, |job| format!("job {job}: "));
        let message = format!("{job}node {}", wake.node);
        let status = status("True", "Allocated", &message, Some(&wake.node));
        let touched = touch(cluster, &wake.pod, status).await;
        failpoint::pass(Point::Touched);
        if !touched {
            self.terms.offers.not_woken(&wake.pod);
        }
    }

    /// What its user has just been told.
    pub(crate) fn told(&mut self, sentence: Option<String>) {
        self.sentence = sentence;
    }

    /// Whether kube-scheduler has brought every one of these pods to its node.
    pub(crate) fn all_here(&self, binds: &[Binding]) -> bool {
        self.terms.offers.all_here(binds.iter().map(|b| (b.pod.as_str(), b.node.as_str())))
    }

    /// Tells kube-scheduler what became of the bindings.
    pub(crate) fn bound(&self, answers: &[(String, bool)]) {
        for (pod, ok) in answers {
            let why = "the API server did not take the binding; it is tried again";
            self.terms.offers.bound(pod, if *ok { Ok(()) } else { Err(why.to_owned()) });
        }
    }

    /// Waits until kube-scheduler calls for one of the gang's pods.
    pub(crate) async fn called(&self) {
        self.called.notified().await;
    }
}

impl Drop for Offering {
    fn drop(&mut self) {
        for pod in &self.pods {
            self.terms.offers.forget(pod);
        }
    }
}

/// A pod's status as far as we write it where kube-scheduler owns `PodScheduled`: a condition of our
/// own, and the node that Slurm gave. Any change of it makes kube-scheduler look again.
pub(crate) fn status(status: &str, reason: &str, message: &str, node: Option<&str>) -> Value {
    json!({
        "nominatedNodeName": node,
        "conditions": [{
            "type": names::CONDITION,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": crate::wall::now().to_string(),
        }],
    })
}

/// Writes a pod's status. Whether it was written, or the pod is gone.
pub(crate) async fn touch(cluster: &Cluster, uid: &str, status: Value) -> bool {
    let Some(pod) = cluster.world.index().pod(uid).cloned() else { return true };
    let Ok(_permit) = cluster.writes.acquire().await else { return false };
    let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
    let api = Api::<LeanPod>::namespaced(cluster.client.clone(), &pod.namespace);
    match api.patch_status(&pod.name, &PatchParams::default(), &patch).await {
        Ok(_) => true,
        // Gone, or another pod has the name by now.
        Err(error) if says_gone(&error) => true,
        Err(error) => {
            tracing::debug!(pod = pod.path(), error = explain(&error), "could not touch the pod");
            false
        }
    }
}
