//! A PyTorchJob crosses into Slurm and comes back bound, at the price that was promised.

use std::time::Instant;

use gangway_core::place::parse_ranges;
use gangway_tests::{Story, manifest};

/// One master and three workers through the real training-operator.
#[tokio::test]
async fn is_bound_where_slurm_says() {
    let Some(story) = Story::begin("pytorchjob").await else { return };
    let job = manifest::pytorchjob("train", 3, &manifest::template(8, &[]));
    let began = Instant::now();
    story.kube.create(&job).await;
    let pods = story.bound("train-", 4).await;
    story.note(&format!("4 pods bound {:?} after the PyTorchJob was created", began.elapsed()));

    let placeholder = story.seated(&pods).await;
    assert_eq!(placeholder.partition, "gangway");
    let mut nodes: Vec<_> = pods.iter().filter_map(|pod| pod.node.clone()).collect();
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 4, "four nodes: {nodes:?}");
    let rank_of = |name: &str| pods.iter().find(|pod| pod.name == name).map(|pod| pod.rank());
    assert_eq!(rank_of("train-master-0"), Some(0));
    for worker in 0..3 {
        assert_eq!(rank_of(&format!("train-worker-{worker}")), Some(worker + 1));
    }
    for pod in &pods {
        let gpus = pod.annotations.get("gangway.dev/index.gpu").map(String::as_str);
        assert_eq!(gpus, Some("0-7"), "{}", pod.name);
        let efas = pod.annotations.get("gangway.dev/index.efa").and_then(|v| parse_ranges(v));
        assert_eq!(efas.map(|all| all.len()), Some(32), "{}", pod.name);
    }
    assert_eq!(story.slurm.placeholders().await.len(), 1, "one gang, one placeholder");

    let writes = writes(&story);
    // What people see of the gang is written beside it, once it has lasted half a second.
    let known = |what: &str| what == "create pods/binding" || what.contains(" gangs/");
    let others: Vec<_> = writes.iter().filter(|(_, what)| !known(what)).collect();
    assert!(others.is_empty(), "one write per pod, but also {others:?}");
    for pod in &pods {
        let bindings = writes.iter().filter(|(name, _)| name == &pod.name).count();
        assert_eq!(bindings, 1, "{} was written {bindings} times", pod.name);
    }
    story.end().await;
}

/// What the bridge has written in the story's namespace, events too: name, and verb with resource.
fn writes(story: &Story) -> Vec<(String, String)> {
    let log = std::fs::read_to_string(story.world.audit_log()).expect("the audit log can be read");
    let mut found = Vec::new();
    for line in log.lines().filter(|line| line.contains(&story.cluster)) {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let text = |pointer: &str| event.pointer(pointer).and_then(|v| v.as_str()).unwrap_or("");
        let reads = ["get", "list", "watch"];
        if text("/user/username") == "system:serviceaccount:gangway:gangway-scheduler"
            && text("/objectRef/namespace") == story.cluster
            && !reads.contains(&text("/verb"))
        {
            let [verb, resource] = [text("/verb"), text("/objectRef/resource")];
            let what = format!("{verb} {resource}/{}", text("/objectRef/subresource"));
            found.push((text("/objectRef/name").to_owned(), what));
        }
    }
    found
}

/// What a gang costs at slurmrestd does not depend on how many pods it has.
#[tokio::test]
async fn costs_slurm_the_same_for_one_pod_as_for_eight() {
    let Some(story) = Story::begin("requests").await else { return };
    let mut costs = Vec::new();
    for members in [1, 8] {
        let before = story.bridge.requests().await;
        let name = format!("gang{members}");
        let job = manifest::indexed_job(&name, members, &manifest::template(8, &[]));
        story.kube.create(&job).await;
        story.bound(&name, members as usize).await;
        story.kube.delete(&job).await;
        story.gone(&name).await;
        story.nothing_lives(gangway_tests::SOON).await;
        let cost = story.bridge.requests().await - before;
        story.note(&format!("a gang of {members} took {cost} requests to slurmrestd"));
        costs.push(cost);
    }
    // One refusal of the immediate way, and the reasons of a wait, may fall to either.
    assert!(costs[1] <= costs[0] + 3.0, "requests grow with the gang: {costs:?}");
    assert!(costs[1] <= 12.0, "a gang takes {} requests", costs[1]);
    story.end().await;
}
