//! Taking a pod off its node: the Eviction API with the pod's uid as fence, never a bare delete
//! (rule 11), and an event on pod and owner that says why.

use gangway_core::follow::Cause;
use gangway_core::names;
use gangway_core::pod::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    DeleteOptions, ObjectMeta, Preconditions, Status,
};
use kube::api::{Api, PostParams};

use crate::apiserver::says_gone;
use crate::chain::explain;
use crate::cluster::Cluster;
use crate::failpoint::{self, Point};
use crate::index::Group;
use crate::lean::LeanPod;
use crate::planted::{self, Bug};
use crate::report::{self, Note};

/// Tells the owner of a gang, once, why its pods are evicted.
pub(crate) async fn tell_owner(cluster: &Cluster, group: &Group, why: &str) {
    report::owner_event(cluster, group, &note(why)).await;
}

fn note(why: &str) -> Note<'_> {
    Note { reason: "Evicted", message: why, warning: true, action: "Evicting" }
}

/// Evicts one pod. Returns its uid and whether its going is under way.
pub(crate) async fn evict(cluster: &Cluster, uid: &str, cause: Cause, why: &str) -> (String, bool) {
    let count = |outcome: &str| {
        cluster.metrics.evictions.with_label_values(&[cause.name(), outcome]).inc();
    };
    let pod = cluster.world.index().pod(uid).cloned();
    // No longer there: that is what was wanted.
    let Some(pod) = pod else { return (uid.to_owned(), true) };
    let Ok(_permit) = cluster.writes.acquire().await else { return (uid.to_owned(), false) };
    let api = Api::<LeanPod>::namespaced(cluster.client.clone(), &pod.namespace);
    match is_over(&api, &pod.name, uid).await {
        Ok(false) => {}
        Ok(true) => {
            count("over");
            tracing::info!(
                pod = pod.path(),
                pod_uid = uid,
                why,
                "it has ended by itself and is not evicted"
            );
            return (uid.to_owned(), true);
        }
        Err(error) => {
            tracing::warn!(
                pod = pod.path(),
                pod_uid = uid,
                error = explain(&error),
                "could not look at it"
            );
            return (uid.to_owned(), false);
        }
    }
    report::event(cluster, report::pod_reference(&pod), &note(why)).await;
    let body = Eviction {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()).filter(|_| !planted::grows(Bug::NamesInsteadOfUids)),
                resource_version: None,
            }),
            ..DeleteOptions::default()
        }),
    };
    let outcome: Result<Status, _> =
        api.create_subresource("eviction", &pod.name, &PostParams::default(), &body).await;
    failpoint::pass(Point::Evicted);
    let (label, ok) = match &outcome {
        Ok(_) => ("evicted", true),
        Err(error) if says_gone(error) => ("gone", true),
        // Another pod has the name by now, or somebody else has just written: the watch tells which.
        Err(kube::Error::Api(status)) if status.code == 409 => ("conflict", false),
        Err(kube::Error::Api(status)) if status.code == 429 => ("budget", false),
        Err(_) => ("error", false),
    };
    count(label);
    match outcome {
        Err(error) if !ok => {
            tracing::warn!(
                pod = pod.path(),
                pod_uid = uid,
                error = explain(&error),
                "could not evict; trying again"
            );
        }
        _ => tracing::info!(pod = pod.path(), pod_uid = uid, why, by = names::SCHEDULER, "evicted"),
    }
    (uid.to_owned(), ok)
}

/// Whether a pod is gone or has finished. The watch may be behind: when another bridge gives a placeholder
/// back because its pods have finished, its end must not take them away.
async fn is_over(api: &Api<LeanPod>, name: &str, uid: &str) -> Result<bool, kube::Error> {
    let Some(now) = api.get_opt(name).await? else { return Ok(true) };
    let same = now.metadata.uid.as_deref() == Some(uid);
    Ok(!same || Pod::from(now).finished())
}
