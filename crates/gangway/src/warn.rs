//! Telling pods that they have to leave: an annotation that says until when and why, an event, and a post
//! to the pod's own hook where it has one; and the operator's command, once for the gang. When the hook says
//! that it has checkpointed, that is written on the pod, where the next bridge finds it.
//!
//! Decides nothing: who is warned, and when it must go, is core's. It must never keep a gang waiting.

use std::time::Duration;

use anyhow::Context as _;
use gangway_core::ask::Hook;
use gangway_core::gang::{Gang, Notice};
use gangway_core::names;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::Api;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::annotate::annotate;
use crate::chain::explain;
use crate::cluster::{Cluster, View};
use crate::failpoint::{self, Point};
use crate::index::Group;
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
    now: Timestamp,
) -> (String, bool) {
    let annotations = match leave {
        Some((in_ms, why)) => {
            let by = now + SignedDuration::from_millis(*in_ms);
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

/// Runs the operator's command for the members that have just been warned, as one. Nobody waits for it; what
/// fails is told to the owner, and changes nothing.
pub(crate) fn run_command(
    cluster: &Cluster,
    view: &View,
    pods: &[(String, Option<Leave>)],
    answers: &[(String, bool)],
    now: Timestamp,
) {
    let Some(caller) = cluster.caller.clone() else { return };
    let written = |uid: &String| answers.iter().any(|(pod, ok)| pod == uid && *ok);
    let warned = pods.iter().filter(|(uid, leave)| leave.is_some() && written(uid));
    let warned: Vec<(&String, &Leave)> =
        warned.filter_map(|(uid, leave)| Some((uid, leave.as_ref()?))).collect();
    let Some((_, (in_ms, why))) = warned.first() else { return };
    let (in_ms, why) = (*in_ms, why.clone());
    let gang = &view.assembled.gang;
    let members = gang.members.iter().filter(|m| warned.iter().any(|(uid, _)| **uid == m.uid));
    let members: Vec<Value> = members
        .map(|m| {
            let bound = m.bound.as_ref();
            json!({
                "name": m.name, "uid": m.uid, "rank": m.rank,
                "node": bound.map(|b| &b.node), "job": bound.map(|b| b.job.0),
            })
        })
        .collect();
    let by = now + SignedDuration::from_millis(in_ms);
    let by = format!("{by:.0}");
    let input = json!({
        "gang": gang.uid, "kind": gang.kind, "namespace": gang.namespace, "name": gang.name,
        "leaveBy": by, "why": why, "pods": members,
    });
    let (cluster, view) = (cluster.clone(), view.clone());
    cluster.nursery.clone().start("warning command", async move {
        let gang = &view.assembled.gang;
        let variables = [
            ("GANGWAY_GANG", gang.uid.as_str()),
            ("GANGWAY_NAMESPACE", gang.namespace.as_str()),
            ("GANGWAY_NAME", gang.name.as_str()),
            ("GANGWAY_LEAVE_BY", by.as_str()),
            ("GANGWAY_WHY", why.as_str()),
        ];
        let called = tokio::select! {
            called = caller.call(&variables, &input) => called,
            () = cluster.stop.cancelled() => return Ok(()),
        };
        match called {
            Ok(()) => {
                tracing::info!(name = gang.path(), "the warning command has run");
            }
            Err(error) => {
                let message = format!("the warning command was of no use: {}", explain(&error));
                tracing::warn!(name = gang.path(), message);
                let note = Note {
                    reason: "WarningCommand",
                    message: &message,
                    warning: true,
                    action: "Warning",
                };
                report::owner_event(&cluster, &view.group, &note).await;
            }
        }
        Ok(())
    });
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
                        tracing::debug!(pod_uid = uid, %hook, "the hook does not answer: {error:#}");
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
                biased;
                () = sleep(pause) => pause = RETRY.1.min(pause * 2),
                () = cluster.stop.cancelled() => return None,
            }
        }
    });
    match answered.await {
        Ok(Some(status)) => tracing::info!(pod_uid = uid, %hook, status, "the hook has answered"),
        Ok(None) => {}
        Err(_) => tracing::warn!(pod_uid = uid, %hook, "the hook has not answered in time"),
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
    let client = client.tls_backend_preconfigured(crate::tls::nobody()?);
    let status = client.build()?.post(url).json(body).send().await?.status();
    anyhow::ensure!(status.is_success(), "it answers {status}");
    Ok(Some(status.as_u16()))
}
