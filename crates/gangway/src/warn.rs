//! Telling pods that they have to leave: an annotation that says until when and why, an event, and a post
//! to the pod's own hook where it has one. When the hook says that it has checkpointed, that is written on
//! the pod, where the next bridge finds it.
//!
//! Decides nothing: who is warned, and when it must go, is core's. It must never keep a gang waiting.

use std::time::Duration;

use anyhow::Context as _;
use gangway_core::ask::Hook;
use gangway_core::gang::{Gang, Notice};
use gangway_core::names;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::apiserver::says_gone;
use crate::chain::explain;
use crate::cluster::Cluster;
use crate::failpoint::{self, Point};
use crate::index::Group;
use crate::lean::LeanPod;
use crate::report::{self, Note};

/// Milliseconds until a pod must have left, and why.
pub(crate) type Leave = (i64, String);

/// Pause before a hook that could not be reached is tried again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// Tells the owner of a gang, once, that its pods were warned.
pub(crate) async fn tell_owner(cluster: &Cluster, group: &Group, why: &str) {
    report::owner_event(cluster, group, &note(why)).await;
}

fn note(why: &str) -> Note<'_> {
    Note { reason: "MustLeave", message: why, warning: true, action: "Warning" }
}

/// Warns one pod, or with no `leave` takes the warning back. Returns its uid and whether it is written.
pub(crate) async fn warn(
    cluster: &Cluster,
    uid: &str,
    leave: Option<&Leave>,
    hook: Option<&Hook>,
) -> (String, bool) {
    let annotations = match leave {
        Some((in_ms, why)) => {
            let by = crate::wall::now() + SignedDuration::from_millis(*in_ms);
            json!({names::LEAVE_BY: format!("{by:.0}"), names::LEAVE_WHY: why})
        }
        None => json!({
            names::LEAVE_BY: null, names::LEAVE_WHY: null, names::CHECKPOINTED: null
        }),
    };
    let written = annotate(cluster, uid, &annotations).await;
    failpoint::pass(Point::Warned);
    if let Some((in_ms, why)) = leave.filter(|_| written) {
        let pod = cluster.world.index().pod(uid).cloned();
        if let Some(pod) = &pod {
            tracing::info!(pod = pod.path(), why, in_ms, "warned");
            report::event(cluster, report::pod_reference(pod), &note(why)).await;
        }
        if let Some(hook) = hook {
            let until = Instant::now() + Duration::from_millis(u64::try_from(*in_ms).unwrap_or(0));
            let (cluster, uid, hook) = (cluster.clone(), uid.to_owned(), hook.clone());
            let body = json!({"leaveBy": annotations[names::LEAVE_BY], "why": why});
            cluster.nursery.clone().start("checkpoint hook", async move {
                call(&cluster, &uid, &hook, &body, until).await;
                Ok(())
            });
        }
    }
    (uid.to_owned(), written)
}

/// How long members may stay yet (ms), by what a bridge before this one has written on them; the longest, where
/// only some were told anew.
pub(crate) fn left(cluster: &Cluster, gang: &Gang) -> Option<i64> {
    let index = cluster.world.index();
    let bound = gang.members.iter().filter(|m| m.bound.is_some() && m.notice != Notice::None);
    let until = bound.filter_map(|m| {
        index.pod(&m.uid)?.annotations.get(names::LEAVE_BY)?.parse::<Timestamp>().ok()
    });
    let until = until.max()?.as_millisecond();
    Some(until.saturating_sub(crate::wall::now().as_millisecond()))
}

/// Writes annotations. `true` also where the pod is gone: that is what was wanted in the end. A conflict is
/// tried again: either somebody else has just written, or the pod is another one, as the watch will tell.
///
/// By way of the status, which the bridge writes anyway: the right to patch pods would be one to change
/// their images too.
async fn annotate(cluster: &Cluster, uid: &str, annotations: &Value) -> bool {
    let Some(pod) = cluster.world.index().pod(uid).cloned() else { return true };
    let Ok(_permit) = cluster.writes.acquire().await else { return false };
    // The uid is the fence: a pod of the same name that was made since is another one.
    let patch = Patch::Merge(json!({"metadata": {"uid": uid, "annotations": annotations}}));
    let api = Api::<LeanPod>::namespaced(cluster.client.clone(), &pod.namespace);
    match api.patch_status(&pod.name, &PatchParams::default(), &patch).await {
        Ok(_) => true,
        Err(error) if says_gone(&error) => true,
        Err(error) => {
            tracing::warn!(pod = pod.path(), error = explain(&error), "could not warn");
            false
        }
    }
}

/// Calls a pod's hook until it answers, the pod is gone, or its time is up.
async fn call(cluster: &Cluster, uid: &str, hook: &Hook, body: &Value, until: Instant) {
    let answered = timeout_at(until, async {
        let mut pause = RETRY.0;
        let mut done = false;
        loop {
            if !done {
                match post(cluster, uid, hook, body).await {
                    Ok(Some(200)) => done = true,
                    Ok(other) => return other,
                    Err(error) => {
                        tracing::debug!(uid, %hook, "the hook does not answer: {error:#}");
                    }
                }
            }
            if done {
                let written = annotate(cluster, uid, &json!({names::CHECKPOINTED: "true"})).await;
                failpoint::pass(Point::Checkpointed);
                if written {
                    return Some(200);
                }
            }
            tokio::select! {
                () = sleep(pause) => pause = RETRY.1.min(pause * 2),
                () = cluster.stop.cancelled() => return None,
            }
        }
    });
    match answered.await {
        Ok(Some(status)) => tracing::info!(uid, %hook, status, "the hook has answered"),
        Ok(None) => {}
        Err(_) => tracing::warn!(uid, %hook, "the hook has not answered in time"),
    }
}

/// Posts once. `None`: the pod is gone, or nobody will be there at its address.
async fn post(
    cluster: &Cluster,
    uid: &str,
    hook: &Hook,
    body: &Value,
) -> anyhow::Result<Option<u16>> {
    let Some(pod) = cluster.world.index().pod(uid).cloned() else { return Ok(None) };
    let api = Api::<Pod>::namespaced(cluster.client.clone(), &pod.namespace);
    let seen = api.get(&pod.name).await?;
    if seen.metadata.uid.as_deref() != Some(uid) {
        return Ok(None);
    }
    let ip = seen.status.and_then(|status| status.pod_ip).context("it has no address yet")?;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
    let url = format!("http://{host}:{}{}", hook.port, hook.path);
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let status = client.build()?.post(url).json(body).send().await?.status();
    anyhow::ensure!(status.is_success(), "it answers {status}");
    Ok(Some(status.as_u16()))
}
