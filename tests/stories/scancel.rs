//! A user of Slurm cancels the placeholder: the pods leave, and their owners read why.

use gangway_core::names;
use gangway_tests::{SOON, Story, manifest, wait};

#[tokio::test]
async fn evicts_the_pods_and_the_operator_brings_them_back() {
    let Some(story) = Story::begin("scancel").await else { return };
    let job = manifest::pytorchjob("train", 3, &manifest::template(8, &[]));
    story.kube.create(&job).await;
    let first = story.bound("train-", 4).await;
    let placeholder = story.seated(&first).await;

    story.slurm.scancel("alice", placeholder.id.0);

    // The operator makes pods of the same names, which are placed anew.
    let second = wait("four new pods are bound", SOON, async || {
        let pods = story.pods("train-").await;
        let new = pods
            .iter()
            .filter(|pod| pod.node.is_some() && first.iter().all(|old| old.uid != pod.uid));
        if pods.len() == 4 && new.count() == 4 {
            return Ok(pods);
        }
        let seen: Vec<_> = pods.iter().map(|p| (&p.name, &p.uid, &p.node, p.why())).collect();
        Err(format!("{seen:?}"))
    })
    .await;
    let again = story.seated(&second).await;
    assert_ne!(again.id, placeholder.id, "a new placeholder");
    let generation = |pod: &gangway_tests::Pod| pod.number(names::GENERATION).unwrap_or(0);
    assert!(second.iter().all(|pod| generation(pod) == generation(&first[0]) + 1));

    let events = story.kube.events().await;
    let id = placeholder.id.to_string();
    let tells = |kind: &str, name: &str| {
        events.iter().any(|note| {
            note.kind == kind
                && note.name == name
                && note.reason == "Evicted"
                && note.message.contains(&id)
                && note.message.contains("CANCELLED")
        })
    };
    assert!(tells("PyTorchJob", "train"), "{events:?}");
    for pod in &first {
        assert!(tells("Pod", &pod.name), "{}: {events:?}", pod.name);
    }

    story.kube.delete(&job).await;
    story.gone("train-").await;
    story.nothing_lives(SOON).await;
    story.end().await;
}
