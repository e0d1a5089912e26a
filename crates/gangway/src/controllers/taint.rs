//! Writes our taints on nodes, and leaves those of others as they are.
//!
//! The list of taints can only be written as a whole. So it is written upon the node as it was last read, and the API
//! server refuses it where somebody else was faster: then the next comparison brings it again.

use std::collections::HashMap;

use futures::StreamExt;
use futures::stream;
use gangway_core::eligible::taint::Taint;
use gangway_core::inventory::Tainting;
use k8s_openapi::api::core::v1::{Node, Taint as Written};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::carry::WRITES;
use super::figures::Figures;
use crate::chain::explain;

/// With what taints are written.
#[derive(Clone, Copy)]
pub(super) struct Hand<'a> {
    pub(super) nodes: &'a Api<Node>,
    pub(super) cluster: &'a str,
    pub(super) figures: &'a Figures,
}

/// Brings these nodes' taints about; `fresh` are nodes that have been read a moment ago. Returns each node's taints as
/// they are now, where that is known.
pub(super) async fn write(
    hand: Hand<'_>,
    plan: Vec<Tainting>,
    fresh: &HashMap<String, Node>,
) -> Vec<(String, Vec<Taint>)> {
    let one = |Tainting { host, taints }: Tainting| async move {
        match hand.bring(&host, &taints, fresh.get(&host)).await {
            Ok(now) => Some((host, now)),
            Err(kube::Error::Api(status)) if status.is_not_found() => None,
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                tracing::debug!(node = host, "changed by somebody else meanwhile; its taints wait");
                None
            }
            Err(error) => {
                tracing::warn!(node = host, error = explain(&error), "could not write taints");
                None
            }
        }
    };
    let written = stream::iter(plan).map(one).buffer_unordered(WRITES);
    written.filter_map(|now| async { now }).collect().await
}

impl Hand<'_> {
    async fn bring(
        self,
        host: &str,
        ours: &[Taint],
        fresh: Option<&Node>,
    ) -> Result<Vec<Taint>, kube::Error> {
        let read = match fresh {
            Some(node) => node.clone(),
            None => self.nodes.get(host).await?,
        };
        let have = read.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let want = merged(self.cluster, &have, ours);
        if want != have {
            let version = read.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": want}});
            let answer =
                self.nodes.patch(host, &PatchParams::default(), &Patch::Merge(patch)).await;
            self.figures.write("taint", &answer);
            answer?;
            let said: Vec<String> = ours.iter().map(ToString::to_string).collect();
            tracing::info!(node = host, taints = said.join(" "), "wrote our taints");
        }
        Ok(want.into_iter().map(seen).collect())
    }
}

/// The list with ours as they are to be; those of others stay, and where they are.
fn merged(cluster: &str, have: &[Written], ours: &[Taint]) -> Vec<Written> {
    let stays = |taint: &&Written| {
        let seen = seen((*taint).clone());
        !seen.is_own(cluster) || ours.contains(&seen)
    };
    let mut out: Vec<Written> = have.iter().filter(stays).cloned().collect();
    for taint in ours {
        if !out.iter().any(|own| seen(own.clone()) == *taint) {
            out.push(Written {
                key: taint.key.clone(),
                value: Some(taint.value.clone()),
                effect: taint.effect.clone(),
                time_added: None,
            });
        }
    }
    out
}

fn seen(taint: Written) -> Taint {
    Taint { key: taint.key, value: taint.value.unwrap_or_default(), effect: taint.effect }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: value.into(), effect: effect.into() }
    }

    fn written(key: &str, value: Option<&str>, effect: &str) -> Written {
        let (key, effect) = (key.to_owned(), effect.to_owned());
        Written { key, value: value.map(str::to_owned), effect, time_added: None }
    }

    #[test]
    fn others_taints_stay_to_the_letter_and_ours_are_as_wanted() {
        let (managed, gone) = ("gangway.dev/managed", "gangway.dev/slurm-unavailable");
        let theirs = [
            written("node.kubernetes.io/unreachable", None, "NoExecute"),
            written("a", Some(""), "NoSchedule"),
            // Of another bridge, and with our key but not our name.
            written(managed, Some("other"), "NoSchedule"),
            written(gone, None, "NoSchedule"),
        ];
        let ours = [taint(managed, "c1", "PreferNoSchedule")];
        let mut have = theirs.to_vec();
        have.insert(1, written(gone, Some("c1"), "NoSchedule"));
        have.insert(3, written(managed, Some("c1"), "NoExecute"));
        let want = merged("c1", &have, &ours);
        assert_eq!(want[..4], theirs);
        assert_eq!(want[4..], [written(managed, Some("c1"), "PreferNoSchedule")]);
        assert_eq!(merged("c1", &want, &ours), want, "nothing is left to write");
        assert_eq!(merged("c1", &want, &[]), theirs);
    }
}
