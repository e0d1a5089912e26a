//! A member of a running gang is lost, and the workload makes another.

use std::collections::BTreeSet;

use gangway_core::job::BaseState;
use gangway_core::names;
use gangway_core::place::parse_ranges;
use gangway_tests::{Nodes, Pod, SOON, Story, manifest, wait};

const POLICY: &str = "gangway.dev/on-member-failure";

/// Waits until four pods are bound of which so many are of the first hour.
async fn bound_with(story: &Story, before: &[Pod], stayed: usize) -> Vec<Pod> {
    wait(&format!("four pods are bound, {stayed} of them as before"), SOON, async || {
        let pods = story.pods("train-").await;
        let old = |pod: &&Pod| before.iter().any(|old| old.uid == pod.uid);
        let kept = pods.iter().filter(old).count();
        if pods.len() == 4 && kept == stayed && pods.iter().all(|p| p.node.is_some() && !p.deleting)
        {
            return Ok(pods);
        }
        let seen: Vec<_> = pods.iter().map(|p| (&p.name, &p.uid, &p.node, p.why())).collect();
        Err(format!("{kept} are as before: {seen:?}"))
    })
    .await
}

fn seats(pods: &[Pod]) -> Vec<(String, Option<String>, u32)> {
    pods.iter().map(|p| (p.name.clone(), p.node.clone(), p.rank())).collect()
}

async fn says_why(story: &Story, pods: &[Pod]) {
    let events = story.kube.events().await;
    for pod in pods {
        let told = |e: &gangway_tests::Note| {
            e.name == pod.name && e.reason == "Evicted" && e.message.contains(POLICY)
        };
        assert!(events.iter().any(told), "{}: {events:?}", pod.name);
    }
}

#[tokio::test]
async fn the_others_start_anew_with_its_successor() {
    let Some(story) = Story::begin("restarted").await else { return };
    story.kube.create(&manifest::pytorchjob("train", 3, &manifest::template(8, &[]))).await;
    let before = story.bound("train-", 4).await;
    let placeholder = story.seated(&before).await;
    story.kube.delete_pod("train-worker-1").await;
    let after = bound_with(&story, &before, 0).await;
    assert_eq!(story.seated(&after).await.id, placeholder.id, "in the same placeholder");
    assert_eq!(seats(&before), seats(&after));
    let evicted: Vec<Pod> =
        before.iter().filter(|pod| pod.name != "train-worker-1").cloned().collect();
    says_why(&story, &evicted).await;
    let evictions = story.writes().into_iter().filter(|write| write.what == "create eviction");
    assert_eq!(evictions.count(), 3, "each of the others once, and then no more");
    story.end().await;
}

#[tokio::test]
async fn also_when_the_bridge_was_away() {
    let Some(mut story) = Story::begin("restarted-later").await else { return };
    story.kube.create(&manifest::pytorchjob("train", 3, &manifest::template(8, &[]))).await;
    let before = story.bound("train-", 4).await;
    let placeholder = story.seated(&before).await;
    story.bridge.kill();
    story.kube.delete_pod("train-worker-2").await;
    wait("its successor is there", SOON, async || {
        let pods = story.pods("train-worker-2").await;
        let new = pods.iter().any(|pod| pod.node.is_none());
        if new { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    story.bridge.start().await;
    let after = bound_with(&story, &before, 0).await;
    assert_eq!(story.seated(&after).await.id, placeholder.id, "in the same placeholder");
    story.end().await;
}

#[tokio::test]
async fn where_its_successor_is_enough_the_others_stay() {
    let Some(story) = Story::begin("replaced").await else { return };
    let template = manifest::template(8, &[(POLICY, "replace")]);
    story.kube.create(&manifest::pytorchjob("train", 3, &template)).await;
    let before = story.bound("train-", 4).await;
    let placeholder = story.seated(&before).await;
    story.kube.delete_pod("train-worker-1").await;
    let after = bound_with(&story, &before, 3).await;
    assert_eq!(story.seated(&after).await.id, placeholder.id, "the same placeholder");
    assert_eq!(seats(&before), seats(&after), "to its own seat");
    story.end().await;
}

/// Waits until the successor of the lost worker, another than these pods, runs beside its gang, and checks it
/// against Slurm.
async fn stands_in(story: &Story, before: &[Pod], gang: u32, lost: &str) -> Pod {
    let old: Vec<&str> = before.iter().map(|pod| pod.uid.as_str()).collect();
    let pod = wait("the successor runs beside its gang", SOON, async || {
        let pods = story.pods("train-worker-0").await;
        let new = pods.iter().find(|p| p.node.is_some() && !old.contains(&p.uid.as_str()));
        new.cloned().ok_or_else(|| format!("{:?}", pods.iter().map(Pod::why).collect::<Vec<_>>()))
    })
    .await;
    assert_eq!(pod.rank(), 1, "the rank of the one before it");
    assert_ne!(pod.job(), gang, "a placeholder of its own");
    let node = pod.node.as_deref().expect("it is bound");
    assert_ne!(node, lost);
    let mut others = before.iter().filter(|other| other.job() == gang);
    assert!(others.all(|other| other.node.as_deref() != Some(node)), "a node of its own");
    for gres in ["gpu", "efa"] {
        let granted = story.slurm.devices(pod.job(), gres).await;
        let given = pod.annotations.get(&format!("{}{gres}", names::INDEX_PREFIX));
        let given = given.and_then(|text| parse_ranges(text)).unwrap_or_default();
        let own = before.iter().find(|p| p.name == "train-worker-1").expect("a neighbour");
        let same = own.annotations.get(&format!("{}{gres}", names::INDEX_PREFIX));
        assert_eq!(same.and_then(|text| parse_ranges(text)).unwrap_or_default().len(), given.len());
        assert_eq!(granted.get(node), Some(&given).filter(|given| !given.is_empty()), "{gres}");
    }
    pod
}

/// Only Kubernetes has lost a member's node: its successor starts on another one, at the same rank, in a
/// placeholder of its own, and the others stay. Two bridges die over it. It ends with its gang.
#[tokio::test]
async fn where_kubernetes_alone_has_lost_its_node_it_starts_beside_the_others() {
    let Some(mut story) = Story::begin("stands-in").await else { return };
    let nodes = Nodes::of(&story);
    let template = manifest::template(8, &[(POLICY, "replace")]);
    story.kube.create(&manifest::pytorchjob("train", 2, &template)).await;
    let before = story.bound("train-", 3).await;
    let gang = story.seated(&before).await.id.0;
    let worker = before.iter().find(|pod| pod.name == "train-worker-0").expect("a worker");
    let node = worker.node.clone().expect("a bound pod");

    story.bridge.kill();
    story.bridge.arm("standin.written");
    story.bridge.start().await;
    wait("the next bridge has seen the gang run", SOON, async || {
        let running = story.bridge.metric("gangway_gangs{phase=\"running\",reason=\"\"}").await;
        if running > 0.0 { Ok(()) } else { Err(format!("{running} gangs run")) }
    })
    .await;
    nodes.take_away(&node).await;
    story.kube.collect_pods("train-worker-0").await;
    story.bridge.dies("standin.written").await;
    story.bridge.arm("submit.immediate");
    story.bridge.spawn();
    story.bridge.dies("submit.immediate").await;
    let submitted: BTreeSet<u32> = story.slurm.live().await.iter().map(|(_, j)| j.id.0).collect();
    assert_eq!(submitted.len(), 2, "the gang's placeholder and one beside it");
    story.bridge.start().await;
    let first = stands_in(&story, &before, gang, &node).await;
    assert!(submitted.contains(&first.job()), "the one that was submitted before the bridge died");

    // Its own end is nobody else's, and it has a successor in its turn.
    story.bridge.kill();
    story.bridge.start().await;
    story.slurm.scancel("alice", first.job());
    let known: Vec<Pod> = before.iter().chain([&first]).cloned().collect();
    let second = stands_in(&story, &known, gang, &node).await;
    assert_ne!(second.job(), first.job());
    story.slurm.reaches(first.job(), BaseState::Cancelled).await;
    story.slurm.reaches(gang, BaseState::Running).await;
    let now = story.bound("train-", 3).await;
    for old in before.iter().filter(|old| old.uid != worker.uid) {
        let same = |p: &Pod| p.uid == old.uid && p.node == old.node && p.job() == old.job();
        assert!(now.iter().any(same), "{} was left alone", old.name);
    }

    // The gang's end is its end too, and all start anew together.
    nodes.restore(&[node]).await;
    story.slurm.scancel("alice", gang);
    let anew = wait("all have started anew", SOON, async || {
        let pods = story.pods("train-").await;
        let new = |p: &&Pod| p.node.is_some() && now.iter().all(|old| old.uid != p.uid);
        if pods.len() == 3 && pods.iter().filter(new).count() == 3 {
            return Ok(pods);
        }
        Err(format!("{:?}", pods.iter().map(|p| (&p.name, &p.node, p.why())).collect::<Vec<_>>()))
    })
    .await;
    let id = story.seated(&anew).await.id.0;
    story.slurm.reaches(second.job(), BaseState::Cancelled).await;
    let live: Vec<u32> = story.slurm.live().await.iter().map(|(_, job)| job.id.0).collect();
    assert_eq!(live, [id], "nothing else is left");
    story.end().await;
}
