//! Kill the bridge anywhere (rule 8): the next one finishes the work, and nothing happens twice.

use std::collections::BTreeSet;

use futures::StreamExt;
use gangway_core::job::BaseState;
use gangway_core::place::{parse_ranges, ranges};
use gangway_tests::{Nodes, Pod, SOON, Story, manifest, wait};
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::{WatchEvent, WatchParams};
use serde_json::{Value, json};

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

/// Kills the bridge while it binds 128 pods on 16 nodes: enough that some are bound and some are not.
/// Gives the gang, its uid, how many it has, and those that are bound.
async fn killed_while_binding(story: &mut Story) -> (Value, String, u32, Vec<Pod>) {
    let pods = story.kube.api::<KubePod>();
    let begin = async || pods.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
    let mut watch = begin().await;
    let members = 8 * story.room().await;
    let template = manifest::template(1, &[("gangway.dev/pods-per-node", "8")]);
    let gang = manifest::indexed_job("gang", members, &template);
    let uid = story.kube.create(&gang).await;
    let first = async {
        loop {
            match watch.next().await {
                Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)))
                    if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) =>
                {
                    return;
                }
                Some(_) => {}
                // Under load the API server ends a watch at any time.
                None => watch = begin().await,
            }
        }
    };
    assert!(tokio::time::timeout(SOON, first).await.is_ok(), "no pod was bound");
    story.bridge.kill();
    let mut bound = story.pods("gang-").await;
    bound.retain(|pod| pod.node.is_some());
    story.note(&format!("killed with {} of {members} pods bound", bound.len()));
    (gang, uid, members, bound)
}

#[tokio::test]
async fn in_the_middle_of_binding() {
    let Some(mut story) = Story::begin("killed-binding").await else { return };
    let (_, uid, members, at_death) = killed_while_binding(&mut story).await;

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
    let (gang, _, members, torn) = killed_while_binding(&mut story).await;
    assert!(torn.len() < members as usize, "all are bound: nothing is told");
    // The devices that are left are taken by pods of another scheduler.
    for node in Nodes::p5(1, members / 8) {
        let there = torn.iter().filter(|pod| pod.node.as_ref() == Some(&node));
        let held = there.filter_map(|pod| pod.annotations.get("gangway.dev/index.gpu"));
        let held: Vec<u32> = held.filter_map(|text| parse_ranges(text)).flatten().collect();
        let rest: Vec<u32> = (0..8).filter(|index| !held.contains(index)).collect();
        let mut holder = manifest::pod(&format!("holder-{node}"), &manifest::template(1, &[]));
        holder["spec"]["schedulerName"] = json!("somebody-else");
        holder["spec"]["nodeName"] = json!(node);
        holder["metadata"]["labels"] = json!({"gangway.dev/job": "1"});
        holder["metadata"]["annotations"] = json!({
            "gangway.dev/node": node, "gangway.dev/index.gpu": ranges(&rest),
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
    assert!(story.pods("gang-").await.iter().all(|pod| pod.node.is_none()), "nor anybody else");
    story.kube.delete(&gang).await;
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
