//! Slurm cannot be asked: nobody is evicted for it (rule 6), and all goes on when it is back.

use std::time::Duration;

use gangway_tests::{Mood, Pod, Proxy, SOON, Story, manifest, stays, wait};

/// Longer than a round of the bridge's poller, by some.
const A_WHILE: Duration = Duration::from_secs(3);

/// Waits until the bridge says it is not ready, and why.
async fn not_ready(story: &mut Story) {
    wait("the bridge is alive and not ready, for Slurm's sake", SOON, async || {
        assert!(story.bridge.alive(), "it has ended:\n{}", story.bridge.tail(20));
        match story.bridge.readyz().await {
            Some((503, why)) if why.contains("Slurm") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let alive = gangway_tests::http::get(story.bridge.health, "/healthz").await;
    assert_eq!(alive.map(|(status, _)| status), Some(200));
}

/// The pods keep their places all the while.
async fn untouched(story: &Story, before: &[Pod], mood: Mood) {
    let what = format!("bound pods are left alone while Slurm says {mood:?}");
    stays(&what, A_WHILE, async || {
        let now = story.pods("running-").await;
        let same = now.len() == before.len()
            && now
                .iter()
                .zip(before)
                .all(|(n, b)| n.uid == b.uid && n.node == b.node && !n.deleting);
        if same { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

#[tokio::test]
async fn evicts_nobody_and_is_got_over() {
    let Some(world) = gangway_tests::World::find() else { return };
    let proxy = Proxy::before(world.slurm_url(), Mood::Pass);
    let story = Story::prepare("slurm-away", |setup| setup.slurm_url = proxy.url()).await;
    let Some(mut story) = story else { return };
    story.bridge.start().await;
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::indexed_job("running", 2, &template)).await;
    let running = story.bound("running-", 2).await;
    story.seated(&running).await;

    for mood in [Mood::Refuse, Mood::NotFound, Mood::NoJobs, Mood::Garbage] {
        proxy.turn(mood);
        // An empty list is a well-formed answer: the bridge cannot know that it is a lie.
        if mood != Mood::NoJobs {
            not_ready(&mut story).await;
        }
        let name = format!("{mood:?}").to_lowercase();
        let gang = manifest::indexed_job(&name, 2, &template);
        story.kube.create(&gang).await;
        if mood != Mood::NoJobs {
            let pods = story.told(&name, "SlurmUnreachable").await;
            story.note(&format!("{mood:?}: {}", pods[0].why()));
        }
        untouched(&story, &running, mood).await;
        proxy.turn(Mood::Pass);
        story.bridge.wait_ready().await;
        story.seated(&story.bound(&name, 2).await).await;
        untouched(&story, &running, Mood::Pass).await;
        story.kube.delete(&gang).await;
        story.gone(&name).await;
    }
    story.end().await;
}

/// A restart into silence, with pods that are bound: the bridge knows nothing and does nothing.
#[tokio::test]
async fn a_restart_while_slurm_is_away_evicts_nobody() {
    let Some(world) = gangway_tests::World::find() else { return };
    let proxy = Proxy::before(world.slurm_url(), Mood::Pass);
    let story = Story::prepare("away-restart", |setup| setup.slurm_url = proxy.url()).await;
    let Some(mut story) = story else { return };
    story.bridge.start().await;
    story.kube.create(&manifest::indexed_job("running", 2, &manifest::template(8, &[]))).await;
    let running = story.bound("running-", 2).await;
    for mood in [Mood::NoJobs, Mood::NotFound, Mood::Silence] {
        story.bridge.kill();
        proxy.turn(mood);
        story.bridge.spawn();
        wait("the new bridge listens", SOON, async || {
            story.bridge.readyz().await.map(drop).ok_or_else(|| "no".to_owned())
        })
        .await;
        untouched(&story, &running, mood).await;
        proxy.turn(Mood::Pass);
        story.bridge.wait_ready().await;
        untouched(&story, &running, Mood::Pass).await;
    }
    assert_eq!(story.slurm.placeholders().await.len(), 1, "one gang, one placeholder");
    story.end().await;
}

#[tokio::test]
async fn a_wrong_token_is_told_and_read_again_when_corrected() {
    let Some(world) = gangway_tests::World::find() else { return };
    let token = std::env::temp_dir().join(format!("gangway-token-{}", std::process::id()));
    std::fs::write(&token, "not.a.token").expect("the temporary directory can be written");
    let file = token.clone();
    let story = Story::prepare("wrong-token", |setup| setup.token_file = file).await;
    let Some(mut story) = story else { return };
    story.bridge.spawn();
    not_ready(&mut story).await;
    story.kube.create(&manifest::indexed_job("gang", 2, &manifest::template(8, &[]))).await;
    let pods = story.told("gang-", "SlurmUnreachable").await;
    story.note(&pods[0].why());
    let right = std::fs::read(world.token_file()).expect("the world's token");
    std::fs::write(&token, right).expect("the token can be corrected");
    story.bridge.wait_ready().await;
    story.seated(&story.bound("gang-", 2).await).await;
    story.end().await;
    std::fs::remove_file(&token).expect("the token is ours");
}

/// The token is replaced while a gang waits: by a new one, by one that is no good, and by a good one.
#[tokio::test]
async fn a_token_is_rotated_in_flight() {
    let Some(world) = gangway_tests::World::find() else { return };
    let token = std::env::temp_dir().join(format!("gangway-rotated-{}", std::process::id()));
    // As a kubelet does it: whoever reads finds the old one or the new one.
    let rotate = |content: &str| {
        let next = token.with_extension("next");
        std::fs::write(&next, content).expect("the temporary directory can be written");
        std::fs::rename(&next, &token).expect("the temporary directory can be written");
    };
    let fresh = || world.run_as("root", "scontrol", &["token", "username=slurm", "lifespan=600"]);
    rotate(&std::fs::read_to_string(world.token_file()).expect("the world's token"));
    let file = token.clone();
    let story = Story::prepare("rotated", |setup| setup.token_file = file).await;
    let Some(mut story) = story else { return };
    story.bridge.start().await;
    let room = story.room().await;
    let template = manifest::template(8, &[]);
    let large = manifest::indexed_job("running", room, &template);
    story.kube.create(&large).await;
    let running = story.bound("running-", room as usize).await;
    story.kube.create(&manifest::indexed_job("gang", 2, &template)).await;
    story.told("gang-", "Slurm job").await;
    let placeholders = story.slurm.live().await.len();

    rotate(&fresh());
    stays("a new token changes nothing", A_WHILE, async || match story.bridge.readyz().await {
        Some((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    rotate("not.a.token");
    not_ready(&mut story).await;
    untouched(&story, &running, Mood::Pass).await;
    rotate(&fresh());
    story.bridge.wait_ready().await;
    untouched(&story, &running, Mood::Pass).await;
    assert_eq!(story.slurm.live().await.len(), placeholders, "nothing was asked twice");
    story.kube.delete(&large).await;
    story.seated(&story.bound("gang-", 2).await).await;
    story.end().await;
    std::fs::remove_file(&token).expect("the token is ours");
}

#[tokio::test]
async fn a_wrong_url_is_told() {
    let story = Story::prepare("wrong-url", |setup| setup.slurm_url.push_str("/nowhere")).await;
    let Some(mut story) = story else { return };
    story.bridge.spawn();
    not_ready(&mut story).await;
    story.kube.create(&manifest::pod("alone", &manifest::template(8, &[]))).await;
    let pods = story.told("alone", "SlurmUnreachable").await;
    story.note(&pods[0].why());
    // The bridge ends in good order although it never reached Slurm.
    let status = story.bridge.stop(Duration::from_secs(10)).await;
    assert!(status.is_some_and(|s| s.success()), "{status:?}");
    story.end().await;
}
