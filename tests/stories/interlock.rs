//! No device has two owners (rule 4): what Slurm frees is not used before the old pod is gone.

use std::time::Duration;

use gangway_core::job::{BaseState, Standing};
use gangway_tests::{SOON, Story, manifest, stays, wait};
use serde_json::json;

use crate::slurmctld::{answers, daemon};

/// Waits until the old pods are on their way out, which their finalizers hold up.
async fn leaving(story: &Story) {
    wait("the old pods are on their way out", SOON, async || {
        let pods = story.pods("old-").await;
        if pods.len() == 2 && pods.iter().all(|pod| pod.deleting) {
            return Ok(());
        }
        Err(format!("{pods:?}"))
    })
    .await;
}

/// slurmctld goes away before a gang that waits for a device is bound, and may come back without having
/// heard of its start: nobody is bound before it has been asked again (rule 1).
#[tokio::test]
async fn a_young_start_is_looked_at_again_before_anybody_is_bound() {
    let Some(mut story) = Story::prepare("young-start", |_| {}).await else { return };
    // What was before is saved, or it would come back with the crash.
    daemon(&story, &["restart", "slurmctld"]);
    answers(&story).await;
    story.bridge.start().await;
    let template = manifest::template(8, &[("gangway.dev/partition", "spare")]);
    let mut held = template.clone();
    held["metadata"]["finalizers"] = json!(["gangway.dev/story-holds"]);
    story.kube.create(&manifest::pod_group("old", 2)).await;
    for name in ["old-a", "old-b"] {
        story.kube.create(&manifest::pod_of_group(name, "old", &held)).await;
    }
    let first = story.seated(&story.bound("old-", 2).await).await;
    story.slurm.scancel("alice", first.id.0);
    story.slurm.reaches(first.id.0, BaseState::Cancelled).await;
    leaving(&story).await;
    let uid = story.kube.create(&manifest::indexed_job("new", 2, &template)).await;
    story.told("new-", "still holds a device").await;

    daemon(&story, &["kill", "slurmctld"]);
    story.told("new-", "SlurmUnreachable").await;
    let let_go = json!({"metadata": {"finalizers": null}});
    for name in ["old-a", "old-b"] {
        story.kube.patch_pod(name, &let_go).await;
    }
    story.gone("old-").await;
    stays("nobody is bound on the word of one who is gone", Duration::from_secs(2), async || {
        let pods = story.pods("new-").await;
        if pods.iter().all(|pod| pod.node.is_none()) { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    daemon(&story, &["start", "slurmctld"]);
    answers(&story).await;
    story.bridge.wait_ready().await;
    story.seated(&story.bound("new-", 2).await).await;
    let live = story.slurm.live().await;
    assert_eq!(live.iter().filter(|(stamp, _)| stamp.gang == uid).count(), 1, "{live:?}");
    story.end().await;
}

#[tokio::test]
async fn a_freed_device_waits_for_its_old_pod() {
    let Some(story) = Story::begin("interlock").await else { return };
    // Partition spare has two nodes; both are taken, so whoever comes next gets the same devices.
    let template = manifest::template(8, &[("gangway.dev/partition", "spare")]);
    let mut held = template.clone();
    held["metadata"]["finalizers"] = json!(["gangway.dev/story-holds"]);
    story.kube.create(&manifest::pod_group("old", 2)).await;
    for name in ["old-a", "old-b"] {
        story.kube.create(&manifest::pod_of_group(name, "old", &held)).await;
    }
    let old = story.bound("old-", 2).await;
    let first = story.seated(&old).await;
    story.slurm.scancel("alice", first.id.0);
    story.slurm.reaches(first.id.0, BaseState::Cancelled).await;
    leaving(&story).await;

    let uid = story.kube.create(&manifest::indexed_job("new", 2, &template)).await;
    let second = wait("Slurm gives the freed nodes to the new gang", SOON, async || {
        let live = story.slurm.live().await;
        let own = live.into_iter().find(|(stamp, _)| stamp.gang == uid);
        let held = own.filter(|(_, job)| job.state.standing() == Standing::Holding);
        held.map(|(_, job)| job).ok_or_else(|| "no running placeholder".to_owned())
    })
    .await;
    assert_eq!(second.nodes, first.nodes, "the same nodes");
    let pods = story.told("new-", "still holds a device").await;
    assert!(pods[0].why().contains("old-"), "{} names the pod", pods[0].why());
    let nobody_bound = async || {
        let pods = story.pods("new-").await;
        if pods.iter().all(|pod| pod.node.is_none()) { Ok(()) } else { Err(format!("{pods:?}")) }
    };
    stays("nobody is bound while both old pods are there", Duration::from_secs(1), nobody_bound)
        .await;

    let let_go = json!({"metadata": {"finalizers": null}});
    story.kube.patch_pod("old-a", &let_go).await;
    stays("nor while one of them is (rule 3)", Duration::from_secs(1), nobody_bound).await;

    story.kube.patch_pod("old-b", &let_go).await;
    let pods = story.bound("new-", 2).await;
    assert_eq!(story.seated(&pods).await.id, second.id);
    story.end().await;
}
