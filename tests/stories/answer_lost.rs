//! Slurm accepts a placeholder, but its answer never arrives: still one gang, one placeholder (rule 2).

use gangway_tests::{Mood, Proxy, Story, World, http, manifest};

async fn told_twice_is_asked_once(name: &str, immediate: bool) {
    let Some(world) = World::find() else { return };
    let proxy = Proxy::before(world.slurm_url(), Mood::LosesAnswers);
    let story = Story::prepare(name, |setup| {
        setup.slurm_url = proxy.url();
        setup.immediate = immediate;
    });
    let Some(mut story) = story.await else { return };
    story.bridge.start().await;
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::indexed_job("gang", 4, &template)).await;
    story.kube.create(&manifest::pod("alone", &template)).await;
    story.seated(&story.bound("gang-", 4).await).await;
    story.seated(&story.bound("alone", 1).await).await;
    let all = story.slurm.placeholders().await;
    let seen: Vec<_> = all.iter().map(|(s, j)| (&s.gang, j.id, j.state.to_string())).collect();
    assert_eq!(all.len(), 2, "two gangs: {seen:?}");
    let (_, text) = http::get(story.bridge.metrics, "/metrics").await.expect("an answer");
    let doubts = text.lines().filter(|line| line.starts_with("gangway_placeholders_total"));
    assert!(doubts.into_iter().any(|line| line.contains("doubt")), "no answer was lost: {text}");
    story.end().await;
}

#[tokio::test]
async fn on_the_immediate_way() {
    told_twice_is_asked_once("lost-immediate", true).await;
}

#[tokio::test]
async fn on_the_queued_way() {
    told_twice_is_asked_once("lost-queued", false).await;
}
