//! Members that differ: each role asks Slurm for what its own members need, as one placeholder.

use std::collections::BTreeMap;

use gangway_core::hostlist::Hostlist;
use gangway_core::job::BaseState;
use gangway_core::names;
use gangway_tests::{Pod, SOON, Story, manifest, wait};
use serde_json::Value;

fn master_and_workers(workers: u32) -> Value {
    let (master, worker) = (manifest::template(0, &[]), manifest::template(8, &[]));
    manifest::pytorchjob_of_roles("train", &master, workers, &worker)
}

/// A master without devices and three workers with eight GPUs: one heterogeneous job.
#[tokio::test]
async fn a_leader_without_devices_takes_none_from_slurm() {
    let Some(story) = Story::begin("roles").await else { return };
    story.kube.create(&master_and_workers(3)).await;
    let pods = story.bound("train-", 4).await;
    let placeholder = story.seated(&pods).await;
    assert_eq!(placeholder.parts.len(), 2, "a component for each role: {placeholder:?}");

    let component = |offset: u32| {
        let id = format!("{}+{offset}", placeholder.id);
        story.world.run_as("alice", "scontrol", &["show", "job", &id])
    };
    let (own, workers) = (component(0), component(1));
    assert!(!own.contains("gres/gpu"), "the master's component holds no GPU: {own}");
    assert!(workers.contains("gres/gpu=24"), "three workers hold 8 GPUs each: {workers}");
    let by_name: BTreeMap<&str, &Pod> = pods.iter().map(|p| (p.name.as_str(), p)).collect();
    let gpus = |name: &str| by_name[name].annotations.get("gangway.dev/index.gpu");
    assert_eq!(gpus("train-master-0"), None);
    let hosts = Hostlist::parse(&placeholder.parts[1].nodes).expect("a hostlist").names();
    for (worker, host) in (0..3).zip(&hosts) {
        let pod = by_name[format!("train-worker-{worker}").as_str()];
        assert_eq!(pod.node.as_ref(), Some(host), "workers in rank order on their own nodes");
        assert_eq!(pod.annotations["gangway.dev/index.gpu"], "0-7");
    }
    story.end().await;
}

/// A bridge that starts anew finds every member's component again, also with a member missing.
#[tokio::test]
async fn a_restart_finds_every_component_again() {
    let Some(mut story) = Story::begin("roles-restart").await else { return };
    let replace = [("gangway.dev/on-member-failure", "replace")];
    let (master, worker) = (manifest::template(0, &replace), manifest::template(8, &replace));
    story.kube.create(&manifest::pytorchjob_of_roles("train", &master, 2, &worker)).await;
    let before = story.bound("train-", 3).await;
    let placeholder = story.seated(&before).await;
    story.bridge.kill();
    story.kube.delete_pod("train-master-0").await;
    story.bridge.start().await;
    let after = wait("the master is there again and bound", SOON, async || {
        let pods = story.pods("train-").await;
        let bound = pods.iter().filter(|pod| pod.node.is_some() && !pod.deleting).count();
        let other = pods
            .iter()
            .any(|p| p.name == "train-master-0" && !before.iter().any(|b| b.uid == p.uid));
        if bound == 3 && other {
            Ok(pods)
        } else {
            Err(format!("{bound} bound, new master: {other}"))
        }
    })
    .await;
    let same = story.seated(&after).await;
    assert_eq!(same.id, placeholder.id, "the same placeholder");
    for worker in ["train-worker-0", "train-worker-1"] {
        let uid = |pods: &[Pod]| pods.iter().find(|p| p.name == worker).map(|p| p.uid.clone());
        assert_eq!(uid(&before), uid(&after), "{worker} was left alone");
    }
    story.end().await;
}

/// Whoever ends one component ends the gang: nothing of it stays, and its next round is whole.
#[tokio::test]
async fn a_component_that_ends_takes_the_gang_with_it() {
    let Some(story) = Story::begin("roles-broken").await else { return };
    story.kube.create(&master_and_workers(2)).await;
    let before = story.bound("train-", 3).await;
    let placeholder = story.seated(&before).await;
    story.slurm.scancel("alice", placeholder.id.0 + 1);
    let leader = story.slurm.reaches(placeholder.id.0, BaseState::Cancelled).await;
    assert!(!leader.broken(), "no component is left: {leader:?}");
    wait("the gang is whole again in another placeholder", SOON, async || {
        let pods = story.pods("train-").await;
        let anew =
            pods.iter().filter(|p| p.node.is_some() && !p.deleting && p.job() != placeholder.id.0);
        let count = anew.count();
        if count == 3 && pods.len() == 3 {
            Ok(())
        } else {
            Err(format!("{count} of {}", pods.len()))
        }
    })
    .await;
    story.seated(&story.pods("train-").await).await;
    story.end().await;
}

/// Where heterogeneous jobs cannot be had, all get what the largest needs, and the pods say so.
#[tokio::test]
async fn levelled_roles_say_what_it_costs() {
    let Some(mut story) = Story::prepare("roles-level", |setup| setup.heterogeneous = false).await
    else {
        return;
    };
    story.bridge.start().await;
    story.kube.create(&master_and_workers(2)).await;
    let pods = story.bound("train-", 3).await;
    let placeholder = story.seated(&pods).await;
    assert!(placeholder.parts.is_empty(), "one plain job: {placeholder:?}");
    for pod in &pods {
        assert_eq!(pod.annotations["gangway.dev/index.gpu"], "0-7", "{}", pod.name);
        let note = pod.annotations.get(names::NOTE).map_or("", String::as_str);
        assert!(note.contains(MORE), "{note:?}");
    }
    told_once(&story).await;
    story.end().await;
}

/// Where they have to wait, their condition says it, too: it may be why they wait.
#[tokio::test]
async fn levelled_roles_say_what_it_costs_while_they_wait() {
    let Some(mut story) = Story::prepare("roles-wait", |setup| setup.heterogeneous = false).await
    else {
        return;
    };
    story.bridge.start().await;
    let room = story.room().await;
    let large = manifest::indexed_job("large", room - 2, &manifest::template(8, &[]));
    story.kube.create(&large).await;
    story.bound("large-", room as usize - 2).await;
    // The workers alone would find room; their master holds a third node.
    story.kube.create(&master_and_workers(2)).await;
    for pod in story.told("train-", MORE).await {
        let why = pod.why();
        assert!(why.contains("Slurm job"), "{why}");
        assert!(why.contains("Slurm 26.05.3 or newer gives each role its own"), "{why}");
        assert_eq!(pod.node, None);
    }
    story.kube.delete(&large).await;
    let pods = story.bound("train-", 3).await;
    story.seated(&pods).await;
    told_once(&story).await;
    story.end().await;
}

const MORE: &str = "1 of 3 pods hold more than they need";

/// Waits for the event that tells the cost: one for the whole gang, at its owner.
async fn told_once(story: &Story) {
    let told = wait("the owner is told what it costs", SOON, async || {
        let mut events = story.kube.events().await;
        events.retain(|event| event.reason == "HoldsMore");
        if events.is_empty() { Err("no event".to_owned()) } else { Ok(events) }
    })
    .await;
    let [told] = told.as_slice() else { unreachable!("more than one: {told:?}") };
    assert_eq!((told.kind.as_str(), told.name.as_str()), ("PyTorchJob", "train"));
    assert!(told.message.contains(MORE), "{}", told.message);
}

/// Sixteen pods of four GPUs on eight nodes, two on each, when their owner lets them share.
#[tokio::test]
async fn pods_pack_when_they_may_share() {
    let Some(story) = Story::begin("packing").await else { return };
    let room = usize::try_from(story.room().await).expect("a number");
    assert!(room >= 8, "the world has {room} nodes, this story needs 8");
    let template = manifest::template(4, &[("gangway.dev/pods-per-node", "2")]);
    story.kube.create(&manifest::indexed_job("pack", 16, &template)).await;
    let pods = story.bound("pack-", 16).await;
    story.seated(&pods).await;
    let mut on: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for pod in &pods {
        on.entry(pod.node.as_deref().expect("bound")).or_default().push(pod.rank());
    }
    assert_eq!(on.len(), 8, "8 nodes: {on:?}");
    for ranks in on.values_mut() {
        ranks.sort_unstable();
        assert!(ranks.len() == 2 && ranks[1] == ranks[0] + 1, "neighbours share a node: {ranks:?}");
    }
    story.end().await;
}
