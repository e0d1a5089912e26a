//! What cannot run says so on the pod within two seconds, and harms nobody else.

use std::time::{Duration, Instant};

use gangway_tests::{Nodes, SOON, Story, manifest, wait};
use serde_json::{Value, json};

/// Promised.
const PROMISE: Duration = Duration::from_secs(2);
/// Allowed here, where two cores may be busy compiling something else.
const ALLOWED: Duration = Duration::from_secs(4);

/// Creates objects and measures until each pod of the prefix has a condition and an event that tell
/// `words`. Then a good gang must still be bound.
async fn is_told(story: &Story, prefix: &str, objects: &[Value], words: &[&str]) {
    let began = Instant::now();
    for object in objects {
        story.kube.create(object).await;
    }
    let created = began.elapsed();
    wait(&format!("pods {prefix} and their events tell {words:?}"), SOON, async || {
        let pods = story.pods(prefix).await;
        let events = story.kube.events().await;
        let tells = |text: &str| words.iter().all(|word| text.contains(word));
        let well = |pod: &gangway_tests::Pod| {
            let told = pod.told.as_ref().is_some_and(|(_, message)| tells(message));
            told && events
                .iter()
                .any(|e| e.kind == "Pod" && e.name == pod.name && tells(&e.message))
        };
        if !pods.is_empty() && pods.iter().all(well) {
            return Ok(());
        }
        let said: Vec<String> = pods.iter().map(gangway_tests::Pod::why).collect();
        let events: Vec<String> =
            events.into_iter().filter(|e| e.name.starts_with(prefix)).map(|e| e.message).collect();
        Err(format!("conditions {said:?}, events {events:?}"))
    })
    .await;
    let took = began.elapsed() - created;
    let verdict = if took > PROMISE { " (promised: 2 s)" } else { "" };
    let message = story.pods(prefix).await[0].why();
    story.note(&format!("told after {took:?}{verdict}: {message}"));
    assert!(took <= ALLOWED, "{prefix} was told after {took:?}");
    assert!(story.pods(prefix).await.iter().all(|pod| pod.node.is_none()));

    let good = format!("good-{prefix}");
    let gang = manifest::indexed_job(&good, 2, &manifest::template(8, &[]));
    story.kube.create(&gang).await;
    story.seated(&story.bound(&good, 2).await).await;
}

async fn lone_pod_is_told(name: &str, template: &Value, words: &[&str]) {
    let Some(story) = Story::begin(&format!("bad-{name}")).await else { return };
    is_told(&story, name, &[manifest::pod(name, template)], words).await;
    story.end().await;
}

#[tokio::test]
async fn an_unknown_partition() {
    let template = manifest::template(8, &[("gangway.dev/partition", "nowhere")]);
    lone_pod_is_told("partition", &template, &["partition nowhere", "gangway.dev/partition"]).await;
}

#[tokio::test]
async fn more_nodes_than_the_partition_has() {
    let Some(story) = Story::begin("bad-nodes").await else { return };
    let template = manifest::template(8, &[("gangway.dev/partition", "spare")]);
    let mut objects = vec![manifest::pod_group("toomany", 3)];
    objects.extend(
        ["a", "b", "c"]
            .map(|n| manifest::pod_of_group(&format!("toomany-{n}"), "toomany", &template)),
    );
    // Slurm says PartitionConfig at first and PartitionNodeLimit after its next look: either is true.
    is_told(&story, "toomany", &objects, &["more nodes", "spare"]).await;
    story.end().await;
}

#[tokio::test]
async fn a_gpu_type_that_nobody_has() {
    let template = manifest::template(8, &[("gangway.dev/gpu-type", "a100")]);
    lone_pod_is_told("gputype", &template, &["GPU type"]).await;
}

#[tokio::test]
async fn a_malformed_annotation() {
    let template = manifest::template(8, &[("gangway.dev/time-limit", "soon")]);
    lone_pod_is_told("time", &template, &["gangway.dev/time-limit", "soon"]).await;
}

#[tokio::test]
async fn a_misspelt_annotation() {
    let template = manifest::template(8, &[("gangway.dev/partiton", "spare")]);
    lone_pod_is_told("typo", &template, &["gangway.dev/partiton", "known are"]).await;
}

#[tokio::test]
async fn a_pod_without_requests() {
    let mut template = manifest::template(0, &[]);
    template["spec"]["containers"][0]["resources"] = json!({});
    lone_pod_is_told("nothing", &template, &["nothing is requested", "resources.requests"]).await;
}

#[tokio::test]
async fn an_account_that_is_not_open() {
    let template = manifest::template(8, &[("gangway.dev/account", "team2")]);
    lone_pod_is_told("account", &template, &["account team2 is not open"]).await;
}

#[tokio::test]
async fn a_resource_that_slurm_has_no_word_for() {
    let mut template = manifest::template(8, &[]);
    template["spec"]["containers"][0]["resources"]["limits"]["example.com/laser"] = json!("1");
    lone_pod_is_told("laser", &template, &["example.com/laser"]).await;
}

/// With a type of GPU it is refused and leaves a record in Slurm, which is no end of the gang: without one it is
/// asked for again, and refused for good.
#[tokio::test]
async fn more_devices_than_any_node_has_where_the_type_of_gpus_is_known() {
    let Some(story) = Story::begin("bad-greedy").await else { return };
    let nodes = Nodes::of(&story);
    nodes.label(&Nodes::p5(1, 16), "nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3").await;
    let mut template = manifest::template(8, &[]);
    template["spec"]["containers"][0]["resources"]["limits"]["vpc.amazonaws.com/efa"] = json!("33");
    let greedy = manifest::pod("greedy", &template);
    is_told(&story, "greedy", &[greedy], &["can ever give what is asked"]).await;
    let pods = story.pods("greedy").await;
    assert!(pods.len() == 1 && !pods[0].deleting, "it is not evicted: {pods:?}");
    story.end().await;
}
