//! A member of a running gang is lost, and the workload makes another.

use gangway_tests::{Pod, SOON, Story, manifest, wait};

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
