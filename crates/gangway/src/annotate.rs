//! Annotations on pods of ours, beside those that ride on the Binding.

use gangway_core::gang::standin::StandsIn;
use gangway_core::names;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::apiserver::says_gone;
use crate::chain::explain;
use crate::cluster::Cluster;
use crate::failpoint::{self, Point};
use crate::lean::LeanPod;

/// Writes on a pod for whom it stands in. Returns its uid and whether it is written.
pub(crate) async fn stands_in(cluster: &Cluster, uid: &str, said: &StandsIn) -> (String, bool) {
    tracing::info!(
        rank = said.rank,
        job = said.job.0,
        node = said.node,
        pod_uid = uid,
        "its seat is lost to Kubernetes; it starts beside its gang"
    );
    let written = annotate(cluster, uid, &json!({names::STANDS_IN: said.to_string()})).await;
    failpoint::pass(Point::StoodIn);
    (uid.to_owned(), written)
}

/// Writes annotations. `true` also where the pod is gone: that is what was wanted in the end. A conflict is
/// tried again: either somebody else has just written, or the pod is another one, as the watch will tell.
///
/// By way of the status, which the bridge writes anyway: the right to patch pods would be one to change
/// their images too.
pub(crate) async fn annotate(cluster: &Cluster, uid: &str, annotations: &Value) -> bool {
    let Some(pod) = cluster.world.index().pod(uid).cloned() else { return true };
    let Ok(_permit) = cluster.writes.acquire().await else { return false };
    // The uid is the fence: a pod of the same name that was made since is another one.
    let patch = Patch::Merge(json!({"metadata": {"uid": uid, "annotations": annotations}}));
    let api = Api::<LeanPod>::namespaced(cluster.client.clone(), &pod.namespace);
    match api.patch_status(&pod.name, &PatchParams::default(), &patch).await {
        Ok(_) => true,
        Err(error) if says_gone(&error) => true,
        Err(error) => {
            tracing::warn!(pod = pod.path(), error = explain(&error), "could not annotate");
            false
        }
    }
}
