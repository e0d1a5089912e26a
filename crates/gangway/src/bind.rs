//! The one write per pod (rule 10): its Binding, which carries node, rank and device indexes; and before
//! it one write for each volume claim that waits for its first user.

use std::collections::BTreeMap;

use gangway_core::gang::Gang;
use gangway_core::job::JobId;
use gangway_core::names;
use gangway_core::place::{Seat, ranges};
use k8s_openapi::api::core::v1::{Binding as KubeBinding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::{Api, Patch, PatchParams, PostParams};

use crate::chain::explain;
use crate::cluster::Cluster;
use crate::failpoint::{self, Point};
use crate::index::Group;
use crate::lean::{LeanClaim, LeanPod};
use crate::planted::{self, Bug};
use crate::report::{self, Note};

/// A claim and the node it is to be told.
pub(crate) struct Told {
    pub(crate) claim: String,
    /// Its uid.
    pub(crate) uid: String,
    /// Kubernetes' name of the node.
    pub(crate) node: String,
}

/// One member's place, ready to be written.
pub(crate) struct Binding {
    /// Pod uid: the fence.
    pub(crate) pod: String,
    pub(crate) seat: Seat,
    /// Kubernetes' name of the node.
    pub(crate) node: String,
    pub(crate) job: JobId,
    pub(crate) generation: u32,
    /// For the pod's owner; empty for nothing.
    pub(crate) note: String,
}

/// Tells a claim that waits for its first user which node its volume is for. Returns the claim's uid and
/// whether it knows.
pub(crate) async fn select_node(cluster: &Cluster, namespace: &str, told: &Told) -> (String, bool) {
    let Ok(_permit) = cluster.writes.acquire().await else { return (told.uid.clone(), false) };
    // The uid is the fence: a claim of the same name that was made since is another one.
    let annotations = BTreeMap::from([(names::SELECTED_NODE, &told.node)]);
    let patch = serde_json::json!({"metadata": {"uid": told.uid, "annotations": annotations}});
    let api = Api::<LeanClaim>::namespaced(cluster.client.clone(), namespace);
    let outcome = api.patch(&told.claim, &PatchParams::default(), &Patch::Merge(patch)).await;
    failpoint::pass(Point::ClaimTold);
    match outcome {
        Ok(_) => {
            tracing::info!(
                claim = told.claim,
                namespace,
                node = told.node,
                "told a claim its node"
            );
            (told.uid.clone(), true)
        }
        Err(error) => {
            tracing::warn!(
                claim = told.claim,
                namespace,
                error = explain(&error),
                "could not tell a claim its node"
            );
            (told.uid.clone(), false)
        }
    }
}

/// Binds one pod. Returns its uid and whether it is now where it should be.
pub(crate) async fn bind(cluster: &Cluster, gang: &Gang, binding: &Binding) -> (String, bool) {
    let uid = binding.pod.clone();
    let Some(member) = gang.members.iter().find(|m| m.uid == uid) else { return (uid, false) };
    if let Err(holder) = cluster.world.promise(&uid, &binding.node, &binding.seat) {
        tracing::info!(
            pod = member.name,
            node = binding.node,
            holder,
            "its seat has just been taken"
        );
        return (uid, false);
    }
    let Ok(_permit) = cluster.writes.acquire().await else { return (uid, false) };
    let body = KubeBinding {
        metadata: ObjectMeta {
            name: Some(member.name.clone()),
            namespace: Some(gang.namespace.clone()),
            uid: Some(uid.clone()).filter(|_| !planted::grows(Bug::NamesInsteadOfUids)),
            annotations: Some(annotations(gang, binding)),
            labels: Some(BTreeMap::from([(names::JOB_LABEL.to_owned(), binding.job.to_string())])),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(binding.node.clone()),
            ..ObjectReference::default()
        },
    };
    let api = Api::<LeanPod>::namespaced(cluster.client.clone(), &gang.namespace);
    let outcome: Result<Status, _> =
        api.create_subresource("binding", &member.name, &PostParams::default(), &body).await;
    failpoint::pass(Point::Bound);
    let label = match &outcome {
        Ok(_) => "bound",
        // Bound already, being deleted, gated, or another pod of that name: the watch tells which.
        Err(kube::Error::Api(status)) if status.code == 409 => "conflict",
        Err(kube::Error::Api(status)) if status.code == 404 => "gone",
        Err(_) => "error",
    };
    cluster.metrics.binds.with_label_values(&[label]).inc();
    match outcome {
        Ok(_) => {
            tracing::debug!(
                pod = member.name,
                node = binding.node,
                rank = binding.seat.rank,
                job = binding.job.0,
                "bound"
            );
            (uid, true)
        }
        Err(error) => {
            // Said no, for certain: it is not there. Bound already is seen soon, and whatever else it is
            // may have been done.
            if matches!(&error, kube::Error::Api(status) if matches!(status.code, 400..=408 | 410..=499))
            {
                cluster.world.withdraw(&uid);
            }
            tracing::warn!(
                job = binding.job.0,
                pod = member.name,
                node = binding.node,
                error = explain(&error),
                "could not bind"
            );
            (uid, false)
        }
    }
}

/// Tells the owner of a gang, once for all of it, what the way it was asked for costs: whoever did not
/// wait has no condition that said so.
pub(crate) async fn tell_owner(cluster: &Cluster, group: &Group, cost: &str) {
    let note = Note { reason: "HoldsMore", message: cost, warning: true, action: "Binding" };
    report::owner_event(cluster, group, &note).await;
}

fn annotations(gang: &Gang, binding: &Binding) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([
        (names::GANG.to_owned(), gang.uid.clone()),
        (names::GENERATION.to_owned(), binding.generation.to_string()),
        (names::JOB_ID.to_owned(), binding.job.to_string()),
        (names::NODE.to_owned(), binding.seat.node.clone()),
        (names::RANK.to_owned(), binding.seat.rank.to_string()),
    ]);
    if !binding.note.is_empty() {
        out.insert(names::NOTE.to_owned(), binding.note.clone());
    }
    for (gres, indexes) in &binding.seat.indexes {
        out.insert(format!("{}{gres}", names::INDEX_PREFIX), ranges(indexes));
    }
    out
}
