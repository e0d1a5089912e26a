//! Of several replicas one leads, by a Lease; the others stand by and take over, and whoever has lost the
//! Lease does nothing any more.
#![expect(
    clippy::disallowed_methods,
    reason = "all parts of a world share the clock of one machine"
)]

use std::time::{Duration, Instant};

use gangway_api::v1::WatchRequest;
use gangway_api::v1::extender_client::ExtenderClient;
use gangway_core::job::BaseState;
use gangway_tests::{Bridge, Chronicle, Pod, SOON, Story, audited, manifest, wait};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use serde_json::json;

/// Within this a standby has taken over from a leader that said nothing.
const FAILOVER: Duration = Duration::from_secs(15);

/// Two replicas, neither of them started.
async fn replicas(name: &str) -> Option<(Story, Bridge)> {
    let lease = format!("story-{name}-{}", std::process::id());
    let more = format!("leaderElection: {{ enabled: true, name: {lease} }}\n");
    let story = Story::prepare(name, |setup| setup.more = more.clone()).await?;
    let two = story.another("two", |setup| setup.more = more);
    Some((story, two))
}

/// Whoever leads, as the Lease says; empty for nobody.
async fn leader(story: &Story) -> String {
    let leases: Api<Lease> = Api::namespaced(story.kube.client.clone(), "gangway");
    let name = story.cluster.replacen("t-", "story-", 1);
    let lease = leases.get_opt(&name).await.expect("the Lease can be read");
    lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
}

/// Waits until this replica leads, by its own word.
async fn leads(replica: &Bridge, within: Duration) {
    wait("it leads", within, async || {
        let leads = replica.metric("gangway_leads").await;
        if leads > 0.0 { Ok(()) } else { Err("it stands by".to_owned()) }
    })
    .await;
}

/// What must not change about bound pods.
fn places(pods: &[Pod]) -> Vec<(String, Option<String>, u32, u32)> {
    pods.iter().map(|p| (p.uid.clone(), p.node.clone(), p.job(), p.rank())).collect()
}

#[tokio::test]
async fn the_standby_takes_over_from_a_leader_that_was_killed() {
    let Some((mut story, mut two)) = replicas("failover").await else { return };
    story.bridge.start().await;
    leads(&story.bridge, SOON).await;
    two.start().await;
    assert!(leader(&story).await.starts_with("one_"));
    assert!(two.metric("gangway_leads").await < 0.5, "two at once");

    // Whoever knocks at the standby is told who leads.
    let door = ExtenderClient::connect(format!("http://127.0.0.1:{}", two.grpc)).await;
    let question = WatchRequest { cluster: story.cluster.clone() };
    let answer = door.expect("a door").watch(question).await.expect_err("it stands by");
    assert_eq!(answer.code(), tonic::Code::Unavailable);
    let named = answer.metadata().get("gangway-leader").expect("the leader's name");
    assert!(named.to_str().is_ok_and(|name| name.starts_with("one_")), "{answer:?}");
    assert!(answer.message().contains("one_"), "{answer:?}");

    let room = story.room().await;
    let template = manifest::template(8, &[]);
    let large = manifest::indexed_job("large", room, &template);
    story.kube.create(&large).await;
    let running = story.bound("large-", room as usize).await;
    let waiting = story.kube.create(&manifest::indexed_job("small", 4, &template)).await;
    story.told("small-", "Slurm job").await;

    story.bridge.kill();
    let killed = Instant::now();
    // What comes while nobody leads is served by whoever leads next.
    let share = manifest::template(4, &[("gangway.dev/partition", "hybrid")]);
    let later = story.kube.create(&manifest::pod("later", &share)).await;
    leads(&two, FAILOVER).await;
    let took_over = killed.elapsed();
    story.bound("later", 1).await;
    let served = killed.elapsed();
    story.note(
        &json!({
            "recovery": "standby", "repeats": 1, "leads_ms": 1e3 * took_over.as_secs_f64(),
            "next_bind_ms_p99": 1e3 * served.as_secs_f64(),
        })
        .to_string(),
    );
    assert!(served < FAILOVER, "{served:?}");
    assert!(leader(&story).await.starts_with("two_"));

    assert_eq!(places(&running), places(&story.bound("large-", room as usize).await));
    story.kube.delete(&large).await;
    story.seated(&story.bound("small-", 4).await).await;
    let all = story.slurm.placeholders().await;
    for gang in [&waiting, &later] {
        let own = all.iter().filter(|(stamp, _)| stamp.gang == *gang).count();
        assert_eq!(own, 1, "one placeholder in all: {all:?}");
    }

    // A leader that is told to end gives the Lease up, and nobody has to wait for it to run out.
    story.bridge.start().await;
    let told = Instant::now();
    let ended = two.stop(Duration::from_secs(15)).await;
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    leads(&story.bridge, Duration::from_secs(8)).await;
    story.note(&format!("told to end; the standby leads after {:.1?}", told.elapsed()));
    two.clear();
    story.end().await;
}

#[tokio::test]
async fn a_leader_that_stood_still_does_nothing_any_more() {
    let Some((mut story, mut two)) = replicas("paused").await else { return };
    story.bridge.start().await;
    leads(&story.bridge, SOON).await;
    two.start().await;
    let chronicle = Chronicle::begin(&story.kube).await;
    let template = manifest::template(8, &[]);
    let first = manifest::indexed_job("first", 4, &template);
    story.kube.create(&first).await;
    let before = story.seated(&story.bound("first-", 4).await).await;
    // Something to do for whoever wakes up: a gang that waits, for which there will be room.
    let room = story.room().await;
    story.kube.create(&manifest::indexed_job("second", room, &template)).await;
    story.told("second-", "Slurm job").await;

    story.bridge.freeze(true);
    let frozen = Instant::now();
    // What was on its way already may arrive a moment later.
    let at = (Timestamp::now() + Duration::from_secs(1)).to_string();
    leads(&two, FAILOVER).await;
    story.note(&format!("stopped; the standby leads after {:.1?}", frozen.elapsed()));
    story.kube.delete(&first).await;
    story.gone("first-").await;
    story.slurm.reaches(before.id.0, BaseState::Cancelled).await;
    let second = story.bound("second-", room as usize).await;
    story.seated(&second).await;
    let rest = Duration::from_secs(30).saturating_sub(frozen.elapsed());
    tokio::time::sleep(rest).await;
    let jobs = story.slurm.placeholders().await.len();
    story.bridge.freeze(false);
    let ended = story.bridge.ended(Duration::from_secs(20)).await;
    assert!(!ended.success(), "it says that it lost the Lease");
    assert!(story.bridge.tail(40).contains("Lease"), "{}", story.bridge.tail(40));

    let theirs = |asked: &gangway_tests::Asked| {
        asked.agent.contains("(one_") && asked.writes() && asked.at > at
    };
    let signed =
        audited(story.world, "(one_", |a| a.agent.contains("(one_") && a.what == "pods/binding");
    assert!(!signed.is_empty(), "its requests are recognised");
    let mut late =
        audited(story.world, "(one_", |asked| theirs(asked) && asked.namespace != "gangway");
    late.retain(|asked| asked.namespace == story.cluster || asked.what.starts_with("pods"));
    assert!(late.is_empty(), "after it was stopped it still asked for {late:?}");
    assert_eq!(story.slurm.placeholders().await.len(), jobs, "nor did it ask Slurm");
    assert_eq!(places(&second), places(&story.bound("second-", room as usize).await));
    assert_eq!(chronicle.shared_devices(), [""; 0]);
    // It comes back as the standby.
    story.bridge.start().await;
    assert!(leader(&story).await.starts_with("two_"));
    let ended = two.stop(Duration::from_secs(15)).await;
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    two.clear();
    story.end().await;
}
