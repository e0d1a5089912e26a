//! The process itself: refuses a bad configuration, answers its health checks, ends when told.

use std::time::{Duration, Instant};

use gangway_tests::{Bridge, Pod, SOON, Story, http, manifest, wait};

/// Needs no world.
#[test]
fn every_problem_of_the_configuration_is_listed() {
    if gangway_tests::World::find().is_none() {
        return;
    }
    let file = std::env::temp_dir().join(format!("gangway-bad-{}.yaml", std::process::id()));
    let yaml = "
cluster: a b
clutser: x
slurm: { url: 'ftp://x', tokenFile: t, retries: 3, jobIds: { first: 9, last: 3 } }
listen: { grpc: here }
policy: { identities: [ { user: u, role: admin } ] }
";
    std::fs::write(&file, yaml).expect("the temporary directory can be written");
    let ran = Bridge::command(&file).output().expect("the bridge can be started");
    std::fs::remove_file(&file).expect("it is ours");
    assert!(!ran.status.success());
    let said = String::from_utf8_lossy(&ran.stderr);
    for problem in [
        "cluster:",
        "clutser:",
        "slurm.url:",
        "slurm.retries:",
        "slurm.jobIds:",
        "listen.grpc:",
        "policy.identities[0].namespace:",
        "policy.identities[0].role:",
    ] {
        assert!(said.contains(problem), "{problem} in {said}");
    }
}

#[tokio::test]
async fn answers_health_and_metrics_and_ends_on_sigterm() {
    let Some(mut story) = Story::begin("process").await else { return };
    let alive = http::get(story.bridge.health, "/healthz").await;
    assert_eq!(alive, Some((200, "ok".to_owned())));
    story.kube.create(&manifest::indexed_job("gang", 2, &manifest::template(8, &[]))).await;
    let before = story.bound("gang-", 2).await;
    // The answers to the last bindings may still be on their way to the bridge.
    wait("the bindings are counted", SOON, async || {
        let count = story.bridge.metric("gangway_binds_total").await;
        if count >= 2.0 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    let (status, text) = http::get(story.bridge.metrics, "/metrics").await.expect("an answer");
    assert_eq!(status, 200);
    for name in ["gangway_slurm_requests_total", "gangway_placeholders_total", "gangway_slurm_up"] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} in {text}");
    }

    let began = Instant::now();
    let status = story.bridge.stop(Duration::from_secs(10)).await;
    story.note(&format!("ended {:?} after SIGTERM", began.elapsed()));
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    let after = story.pods("gang-").await;
    let places = |pods: &[Pod]| -> Vec<_> {
        pods.iter().map(|p| (p.uid.clone(), p.node.clone(), p.deleting)).collect()
    };
    assert_eq!(places(&before), places(&after), "an end of the bridge is none of the gang's");
    story.bridge.start().await;
    story.end().await;
}
