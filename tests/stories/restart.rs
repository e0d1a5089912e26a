//! Kill the bridge anywhere (rule 8): the next one finishes the work, and nothing happens twice.

use std::collections::BTreeSet;

use futures::StreamExt;
use gangway_core::job::BaseState;
use gangway_tests::{Nodes, Pod, SOON, Story, manifest, wait};
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::{WatchEvent, WatchParams};
use serde_json::json;

/// What must not change about bound pods.
fn places(pods: &[Pod]) -> BTreeSet<(String, String, Option<String>, u32, u32)> {
    let place = |p: &Pod| (p.name.clone(), p.uid.clone(), p.node.clone(), p.job(), p.rank());
    pods.iter().map(place).collect()
}

/// How many placeholders a gang has ever had.
async fn ever(story: &Story, gang: &str) -> usize {
    story.slurm.placeholders().await.iter().filter(|(stamp, _)| stamp.gang == gang).count()
}

#[tokio::test]
async fn while_a_gang_runs() {
    let Some(mut story) = Story::begin("killed-running").await else { return };
    let uid =
        story.kube.create(&manifest::indexed_job("gang", 4, &manifest::template(8, &[]))).await;
    let before = story.bound("gang-", 4).await;
    story.bridge.kill();
    story.bridge.start().await;
    // A pod that comes now is served by a bridge that has seen everything before it.
    story.kube.create(&manifest::pod("later", &manifest::template(1, &[]))).await;
    story.bound("later", 1).await;
    let after = story.bound("gang-", 4).await;
    assert_eq!(places(&before), places(&after));
    let job = story.seated(&after).await;
    assert_eq!(ever(&story, &uid).await, 1);
    // The bridge that took it at once may have died before it wrote the key.
    story.slurm.sealed(job.id.0).await;
    story.end().await;
}

#[tokio::test]
async fn while_a_gang_waits() {
    let Some(mut story) = Story::begin("killed-waiting").await else { return };
    let room = story.room().await;
    let template = manifest::template(8, &[]);
    let large = manifest::indexed_job("large", room, &template);
    story.kube.create(&large).await;
    let large_pods = story.bound("large-", room as usize).await;
    let uid = story.kube.create(&manifest::indexed_job("small", 4, &template)).await;
    story.told("small-", "Slurm job").await;

    story.bridge.kill();
    story.bridge.start().await;
    assert_eq!(places(&large_pods), places(&story.bound("large-", room as usize).await));
    assert!(story.pods("small-").await.iter().all(|pod| pod.node.is_none()));

    story.kube.delete(&large).await;
    story.seated(&story.bound("small-", 4).await).await;
    assert_eq!(ever(&story, &uid).await, 1, "one placeholder in all");
    story.end().await;
}

#[tokio::test]
async fn right_after_slurm_accepted() {
    let Some(mut story) = Story::begin("killed-accepted").await else { return };
    for round in 0..3 {
        let name = format!("round{round}");
        let job = manifest::indexed_job(&name, 4, &manifest::template(8, &[]));
        let uid = story.kube.create(&job).await;
        wait("Slurm has it", SOON, async || {
            let all = story.slurm.placeholders().await;
            let there = all.iter().any(|(stamp, _)| stamp.gang == uid);
            if there { Ok(()) } else { Err("no placeholder".to_owned()) }
        })
        .await;
        story.bridge.kill();
        let bound = story.pods(&name).await.iter().filter(|pod| pod.node.is_some()).count();
        story.note(&format!("killed with {bound} of 4 pods bound"));
        story.bridge.start().await;
        story.seated(&story.bound(&name, 4).await).await;
        assert_eq!(ever(&story, &uid).await, 1, "one placeholder in all");
        story.kube.delete(&job).await;
        story.gone(&name).await;
    }
    story.end().await;
}

/// 128 pods on 16 nodes: enough that some are bound and some are not when the bridge dies.
#[tokio::test]
async fn in_the_middle_of_binding() {
    let Some(mut story) = Story::begin("killed-binding").await else { return };
    let pods = story.kube.api::<KubePod>();
    let mut watch = pods.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
    let members = 8 * story.room().await;
    let template = manifest::template(1, &[("gangway.dev/pods-per-node", "8")]);
    let uid = story.kube.create(&manifest::indexed_job("gang", members, &template)).await;
    let first = async {
        while let Some(event) = watch.next().await {
            if let Ok(WatchEvent::Modified(pod)) = event
                && pod.spec.is_some_and(|spec| spec.node_name.is_some())
            {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(SOON, first).await.is_ok(), "no pod was bound");
    story.bridge.kill();
    let at_death = story.pods("gang-").await;
    let at_death: Vec<Pod> = at_death.into_iter().filter(|pod| pod.node.is_some()).collect();
    story.note(&format!("killed with {} of {members} pods bound", at_death.len()));

    story.bridge.start().await;
    let after = story.bound("gang-", members as usize).await;
    story.seated(&after).await;
    assert!(places(&at_death).is_subset(&places(&after)), "bound pods keep their places");
    assert_eq!(ever(&story, &uid).await, 1, "one placeholder in all");
    story.end().await;
}

/// The same with one pod on each of 16 nodes, several times.
#[tokio::test]
async fn in_the_middle_of_binding_whole_nodes() {
    let Some(mut story) = Story::begin("killed-nodes").await else { return };
    let members = story.room().await;
    let template = manifest::template(8, &[]);
    for round in 0..3 {
        let name = format!("round{round}");
        let job = manifest::indexed_job(&name, members, &template);
        story.kube.create(&job).await;
        wait("a pod is bound", SOON, async || {
            let pods = story.pods(&name).await;
            let bound = pods.iter().filter(|pod| pod.node.is_some()).count();
            if bound > 0 { Ok(()) } else { Err(format!("{} pods", pods.len())) }
        })
        .await;
        story.bridge.kill();
        story.bridge.start().await;
        story.seated(&story.bound(&name, members as usize).await).await;
        story.kube.delete(&job).await;
        story.gone(&name).await;
    }
    story.end().await;
}

/// Binding was begun by a bridge that is gone, and cannot be finished: none stays bound (rule 3).
#[tokio::test]
async fn a_gang_that_cannot_be_bound_to_its_end_is_rolled_back_by_the_next_bridge() {
    let Some(mut story) = Story::begin("killed-torn").await else { return };
    let members = story.room().await;
    let gang = manifest::pytorchjob("gang", members - 1, &manifest::template(8, &[]));
    let mut torn = Vec::new();
    for _ in 0..5 {
        story.kube.create(&gang).await;
        wait("a pod is bound", SOON, async || {
            let pods = story.pods("gang-").await;
            let bound = pods.iter().any(|pod| pod.node.is_some());
            if bound { Ok(()) } else { Err(format!("{} pods", pods.len())) }
        })
        .await;
        story.bridge.kill();
        torn = story.pods("gang-").await;
        torn.retain(|pod| pod.node.is_some());
        if torn.len() < members as usize {
            break;
        }
        story.bridge.start().await;
        story.kube.delete(&gang).await;
        story.gone("gang-").await;
        story.nothing_lives(SOON).await;
    }
    assert!(torn.len() < members as usize, "binding was never interrupted: nothing is told");
    story.note(&format!("killed with {} of {members} pods bound", torn.len()));
    // The seats that are left are taken by pods of another scheduler.
    let taken: Vec<&str> = torn.iter().filter_map(|pod| pod.node.as_deref()).collect();
    let nodes = Nodes::p5(1, members);
    for node in nodes.iter().filter(|node| !taken.contains(&node.as_str())) {
        let mut holder = manifest::pod(&format!("holder-{node}"), &manifest::template(8, &[]));
        holder["spec"]["schedulerName"] = json!("somebody-else");
        holder["spec"]["nodeName"] = json!(node);
        holder["metadata"]["labels"] = json!({"gangway.dev/job": "1"});
        holder["metadata"]["annotations"] = json!({
            "gangway.dev/node": node, "gangway.dev/index.gpu": "0-7",
        });
        story.kube.create(&holder).await;
    }
    story.bridge.start().await;
    wait("none of those that were bound stays", SOON, async || {
        let pods = story.pods("gang-").await;
        let left = pods.iter().filter(|pod| torn.iter().any(|old| old.uid == pod.uid)).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} of {}", torn.len())) }
    })
    .await;
    let events = story.kube.events().await;
    assert!(events.iter().any(|e| e.message.contains("so none stays bound")), "{events:?}");
    for pod in story.pods("holder-").await {
        story.kube.delete_pod(&pod.name).await;
    }
    story.seated(&story.bound("gang-", members as usize).await).await;
    story.end().await;
}

#[tokio::test]
async fn pods_deleted_meanwhile_end_their_placeholder() {
    let Some(mut story) = Story::begin("killed-deleted").await else { return };
    let job = manifest::indexed_job("gang", 2, &manifest::template(8, &[]));
    story.kube.create(&job).await;
    let id = story.seated(&story.bound("gang-", 2).await).await.id.0;
    story.kube.create(&manifest::pod("alone", &manifest::template(8, &[]))).await;
    story.bound("alone", 1).await;
    story.bridge.kill();
    story.kube.delete(&job).await;
    story.kube.delete_pod("alone").await;
    story.gone("").await;
    assert_eq!(story.slurm.job(id).await.state.base, BaseState::Running, "nobody ended it");
    story.bridge.start().await;
    story.nothing_lives(SOON).await;
    story.end().await;
}

#[tokio::test]
async fn a_placeholder_cancelled_meanwhile_evicts_its_pods() {
    let Some(mut story) = Story::begin("killed-cancelled").await else { return };
    story.kube.create(&manifest::pod_group("pair", 2)).await;
    let template = manifest::template(8, &[]);
    for name in ["pair-a", "pair-b"] {
        story.kube.create(&manifest::pod_of_group(name, "pair", &template)).await;
    }
    let id = story.seated(&story.bound("pair-", 2).await).await.id.0;
    story.bridge.kill();
    story.slurm.scancel("alice", id);
    story.slurm.reaches(id, BaseState::Cancelled).await;
    assert_eq!(story.pods("pair-").await.len(), 2, "nobody evicts them");
    story.bridge.start().await;
    story.gone("pair-").await;
    let events = story.kube.events().await;
    let told = events.iter().any(|n| n.kind == "Pod" && n.message.contains(&id.to_string()));
    assert!(told, "{events:?}");
    story.end().await;
}
