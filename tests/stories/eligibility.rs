//! Pods go only where Kubernetes lets them, Slurm chooses among those nodes, and a full node is no
//! obstacle to being in the queue.

use std::time::{Duration, Instant};

use gangway_core::hostlist::Hostlist;
use gangway_core::job::{BaseState, Job};
use gangway_tests::{Nodes, Pod, SOON, Story, manifest, stays, wait};
use serde_json::{Value, json};

fn with(gpus: u32, spec: &Value) -> Value {
    let mut template = manifest::template(gpus, &[]);
    for (key, value) in spec.as_object().expect("a part of a spec") {
        template["spec"][key] = value.clone();
    }
    template
}

fn affinity(expression: &Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [expression]}]
    }}}})
}

fn nodes_of(pods: &[Pod]) -> Vec<String> {
    let mut nodes: Vec<String> = pods.iter().filter_map(|pod| pod.node.clone()).collect();
    nodes.sort();
    nodes.dedup();
    nodes
}

fn excluded(job: &Job) -> Vec<String> {
    let mut names = Hostlist::parse(&job.excluded_nodes).expect("Slurm writes hostlists").names();
    names.sort();
    names
}

/// The one placeholder that is not over.
async fn waiting(story: &Story) -> Job {
    wait("one placeholder waits", SOON, async || {
        let mut live = story.slurm.live().await;
        live.retain(|(_, job)| job.state.base == BaseState::Pending);
        match live.pop() {
            Some((_, job)) if live.is_empty() => Ok(job),
            other => Err(format!("{other:?} and {} more", live.len())),
        }
    })
    .await
}

#[tokio::test]
async fn a_node_selector_and_an_affinity_choose_the_nodes() {
    let Some(story) = Story::begin("selector").await else { return };
    let nodes = Nodes::of(&story);
    nodes.label(&Nodes::p5(5, 8), "disk", "fast").await;
    let fast = with(8, &json!({"nodeSelector": {"disk": "fast"}}));
    story.kube.create(&manifest::indexed_job("fast", 4, &fast)).await;
    let pods = story.bound("fast-", 4).await;
    let job = story.seated(&pods).await;
    assert_eq!(nodes_of(&pods), Nodes::p5(5, 8));
    story.note(&format!("with a nodeSelector: {} excluding {}", job.nodes, job.excluded_nodes));

    let slow = affinity(&json!({"key": "disk", "operator": "NotIn", "values": ["fast"]}));
    story.kube.create(&manifest::indexed_job("slow", 12, &with(8, &slow))).await;
    let pods = story.bound("slow-", 12).await;
    story.seated(&pods).await;
    assert_eq!(nodes_of(&pods), [Nodes::p5(1, 4), Nodes::p5(9, 16)].concat());
    // Four for each gang, and the partitions once in ten seconds.
    let requests = story.bridge.requests().await;
    story.note(&format!("two gangs with constraints took {requests} requests to slurmrestd"));
    assert!(requests <= 14.0, "{requests} requests");
    story.end().await;
}

#[tokio::test]
async fn a_taint_is_for_those_who_tolerate_it() {
    let Some(story) = Story::begin("taint").await else { return };
    let nodes = Nodes::of(&story);
    nodes.taint(&Nodes::p5(1, 15), "team", "NoSchedule").await;
    // Slurm refuses a list with a name it does not know.
    nodes.add_stranger("control-plane-1").await;
    story.kube.create(&manifest::pod("plain", &manifest::template(8, &[]))).await;
    let pods = story.bound("plain", 1).await;
    assert_eq!(nodes_of(&pods), Nodes::p5(16, 16));
    let tolerant = with(8, &json!({"tolerations": [{"key": "team", "operator": "Exists"}]}));
    story.kube.create(&manifest::indexed_job("tolerant", 15, &tolerant)).await;
    let pods = story.bound("tolerant-", 15).await;
    let job = story.seated(&pods).await;
    assert_eq!(job.excluded_nodes, "", "no node of Slurm's is shut to it");
    story.end().await;
}

#[tokio::test]
async fn cordons_are_followed_while_a_gang_waits() {
    let Some(mut story) = Story::begin("cordon").await else { return };
    let nodes = Nodes::of(&story);
    let large = manifest::indexed_job("large", 16, &manifest::template(8, &[]));
    story.kube.create(&large).await;
    story.bound("large-", 16).await;

    // Full is not shut: it is in the queue at once, and ages there.
    nodes.cordon(&Nodes::p5(1, 2)).await;
    story.kube.create(&manifest::indexed_job("small", 4, &manifest::template(8, &[]))).await;
    let first = waiting(&story).await;
    assert_eq!(excluded(&first), Nodes::p5(1, 2), "cordoned before it was asked for");
    let told = Instant::now();
    nodes.cordon(&Nodes::p5(3, 5)).await;
    let second = wait("the placeholder is told", SOON, async || {
        let job = waiting(&story).await;
        if excluded(&job) == Nodes::p5(1, 5) { Ok(job) } else { Err(job.excluded_nodes) }
    })
    .await;
    story.note(&format!("cordons reached Slurm within {:?}", told.elapsed()));
    let place = |job: &Job| (job.id, job.submit_time, job.priority);
    assert_eq!(place(&second), place(&first), "its place in the queue");
    nodes.restore(&Nodes::p5(1, 2)).await;
    wait("the placeholder is told", SOON, async || {
        let job = waiting(&story).await;
        if excluded(&job) == Nodes::p5(3, 5) { Ok(()) } else { Err(job.excluded_nodes) }
    })
    .await;

    // What happens while no bridge runs is told by the next one.
    story.bridge.kill();
    nodes.cordon(&Nodes::p5(2, 2)).await;
    story.bridge.start().await;
    wait("the placeholder is told", SOON, async || {
        let job = waiting(&story).await;
        if excluded(&job) == Nodes::p5(2, 5) { Ok(()) } else { Err(job.excluded_nodes) }
    })
    .await;

    // No node is left: it says so, keeps its place, and goes on when nodes open.
    nodes.cordon(&[Nodes::p5(1, 1), Nodes::p5(6, 16)].concat()).await;
    nodes.cordon(&["h1", "h2", "h3", "h4"].map(str::to_owned)).await;
    story.told("small-", "0 of 20 nodes may take pod").await;
    story.told("small-", "20 are cordoned").await;
    assert_eq!(waiting(&story).await.id, first.id);
    let all = [Nodes::p5(1, 16), ["h1", "h2", "h3", "h4"].map(str::to_owned).to_vec()].concat();
    nodes.restore(&all).await;
    story.kube.delete(&large).await;
    let pods = story.bound("small-", 4).await;
    assert_eq!(story.seated(&pods).await.id, first.id, "the same placeholder");
    story.end().await;
}

#[tokio::test]
async fn a_gang_that_no_node_may_take_is_told_what_shuts_each_and_goes_on_when_one_opens() {
    let Some(story) = Story::begin("nowhere").await else { return };
    let nodes = Nodes::of(&story);
    nodes.label(&Nodes::p5(1, 4), "gpu", "h200").await;
    nodes.taint(&Nodes::p5(1, 4), "team", "NoSchedule").await;
    let template = with(8, &json!({"nodeSelector": {"gpu": "h200"}}));
    story.kube.create(&manifest::indexed_job("picky", 2, &template)).await;
    let began = Instant::now();
    let pods = story.told("picky-", "0 of 20 nodes may take pod").await;
    story.note(&format!("told after {:?}: {}", began.elapsed(), pods[0].why()));
    let why = pods[0].why();
    assert!(why.contains("16 do not match nodeSelector gpu=h200"), "{why}");
    assert!(
        why.contains("4 have taint team=yes:NoSchedule that the pod does not tolerate"),
        "{why}"
    );
    assert!(story.slurm.placeholders().await.is_empty(), "Slurm is not asked in vain");
    nodes.taint(&Nodes::p5(3, 3), "team", "PreferNoSchedule").await;
    story.told("picky-", "only 1 of 20 nodes").await;
    let opened = Instant::now();
    nodes.taint(&Nodes::p5(4, 4), "team", "PreferNoSchedule").await;
    let pods = story.bound("picky-", 2).await;
    story.note(&format!("bound {:?} after the second node opened", opened.elapsed()));
    story.seated(&pods).await;
    assert_eq!(nodes_of(&pods), Nodes::p5(3, 4));
    story.end().await;
}

#[tokio::test]
async fn too_few_open_nodes_in_the_partition_are_told_and_asked_for_when_they_open() {
    let Some(story) = Story::begin("too-few").await else { return };
    let nodes = Nodes::of(&story);
    // Enough nodes are open in Kubernetes, but not in the partition `spare` (p5-0015 and p5-0016).
    nodes.cordon(&Nodes::p5(16, 16)).await;
    let template = manifest::template(8, &[("gangway.dev/partition", "spare")]);
    story.kube.create(&manifest::indexed_job("pair", 2, &template)).await;
    let pods = story.told("pair-", "1 of the 2 nodes of partition spare").await;
    // Where the pods were seen before the cordon was, it was asked for once, and given back.
    story.nothing_lives(SOON).await;
    story.note(&pods[0].why());
    nodes.restore(&Nodes::p5(16, 16)).await;
    story.seated(&story.bound("pair-", 2).await).await;
    story.end().await;
}

#[tokio::test]
async fn members_that_differ_each_go_where_they_may() {
    let Some(story) = Story::begin("differ").await else { return };
    let nodes = Nodes::of(&story);
    nodes.label(&Nodes::p5(9, 16), "disk", "fast").await;
    let mut job = manifest::pytorchjob("train", 3, &manifest::template(8, &[]));
    let spec = &mut job["spec"]["pytorchReplicaSpecs"];
    spec["Master"]["template"]["spec"]["nodeSelector"] = json!({"disk": "fast"});
    story.kube.create(&job).await;
    let pods = story.bound("train-", 4).await;
    story.seated(&pods).await;
    let master = pods.iter().find(|pod| pod.name.contains("master")).expect("a master");
    let node = master.node.clone().expect("bound");
    assert!(Nodes::p5(9, 16).contains(&node), "{node}");
    story.end().await;
}

#[tokio::test]
async fn a_node_that_shuts_after_slurm_gave_it_is_given_back() {
    let Some(story) = Story::begin("shuts-late").await else { return };
    let nodes = Nodes::of(&story);
    // A pod that still holds the GPUs of the node keeps the next one between Slurm's word and its bind.
    nodes.label(&Nodes::p5(1, 2), "here", "yes").await;
    let template = with(8, &json!({"nodeSelector": {"here": "yes"}}));
    // Nobody makes these pods again: whoever came anew could be given the nodes before `next`.
    story.kube.create(&manifest::pod_group("held", 2)).await;
    for name in ["held-0", "held-1"] {
        story.kube.create(&manifest::pod_of_group(name, "held", &template)).await;
    }
    let held = story.bound("held-", 2).await;
    let placeholder = story.seated(&held).await;
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    for pod in &held {
        story.kube.patch_pod(&pod.name, &hold).await;
    }
    let uid = story.kube.create(&manifest::pod("next", &template)).await;
    let first = waiting(&story).await;
    // The job is cancelled in Slurm, while the pods stay on their way out.
    story.slurm.scancel("alice", placeholder.id.0);
    story.slurm.reaches(first.id.0, BaseState::Running).await;
    story.told("next", "still holds a device there").await;
    let given = Hostlist::parse(&story.slurm.job(first.id.0).await.nodes).expect("a list").names();

    nodes.cordon(&given).await;
    let other: Vec<String> = Nodes::p5(1, 2).into_iter().filter(|n| !given.contains(n)).collect();
    let anew = wait("another placeholder has the other node", SOON, async || {
        let live = story.slurm.live().await;
        let seen = format!("{live:?}");
        let mut own = live.into_iter().filter(|(stamp, _)| stamp.gang == uid);
        let job = own.find(|(_, job)| job.id != first.id).map(|(_, job)| job);
        job.filter(|job| job.nodes == other[0]).ok_or(seen)
    })
    .await;
    story.slurm.reaches(first.id.0, BaseState::Cancelled).await;
    stays("nobody is bound to a held or shut node", Duration::from_secs(1), async || {
        let next = story.kube.pod("next").await;
        if next.node.is_none() && !next.deleting { Ok(()) } else { Err(format!("{next:?}")) }
    })
    .await;
    for pod in &held {
        story.kube.patch_pod(&pod.name, &json!({"metadata": {"finalizers": null}})).await;
    }
    let pods = wait("next is bound", SOON, async || {
        let next = story.kube.pod("next").await;
        if next.node.is_some() { Ok(vec![next]) } else { Err(next.why()) }
    })
    .await;
    assert_eq!(pods[0].job(), anew.id.0);
    assert_eq!(nodes_of(&pods), other);
    story.end().await;
}
