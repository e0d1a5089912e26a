//! The process itself: refuses a bad configuration, answers its health checks, ends when told.

use std::time::{Duration, Instant};

use gangway_core::job::Standing;
use gangway_tests::{Bridge, Pod, Policies, SOON, Story, http, manifest, wait};

/// Needs the binary, which is only built where there is a world.
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
    let ran = Bridge::command("scheduler", &file).output().expect("the bridge can be started");
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

/// SIGTERM in the middle of binding: what is on its way is finished, and the next bridge does the rest.
#[tokio::test]
async fn an_end_in_the_middle_of_binding_is_a_good_one() {
    let Some(mut story) = Story::begin("drain").await else { return };
    let members = 8 * story.room().await;
    let template = manifest::template(1, &[("gangway.dev/pods-per-node", "8")]);
    story.kube.create(&manifest::indexed_job("gang", members, &template)).await;
    wait("a pod is bound", SOON, async || {
        let bound = story.pods("gang-").await.iter().filter(|pod| pod.node.is_some()).count();
        if bound > 0 { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    let status = story.bridge.stop(Duration::from_secs(10)).await;
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", story.bridge.tail(20));
    let log = story.bridge.tail(usize::MAX);
    assert!(!log.contains("could not bind"), "a binding was cut off:\n{}", story.bridge.tail(20));
    let bound = story.pods("gang-").await.iter().filter(|pod| pod.node.is_some()).count();
    story.note(&format!("ended with {bound} of {members} pods bound"));
    story.bridge.start().await;
    story.seated(&story.bound("gang-", members as usize).await).await;
    story.end().await;
}

/// A world that is not ours: the environment says where Slurm and Kubernetes are, and a SlurmPolicy who may ask;
/// nothing else is known. Without one nobody runs, least of all as the token's own user.
#[tokio::test]
async fn the_environment_is_enough_to_run() {
    let Some(story) = Story::prepare("environment", |_| {}).await else { return };
    let policies = Policies::of(&story).await;
    // Other bridges may hold the usual ports, so only these are said by file.
    let file = story.bridge.directory().join("ports.yaml");
    let [grpc, metrics, health] = [(); 3].map(|()| http::free_port());
    let listen = format!(
        "listen: {{ grpc: '127.0.0.1:{grpc}', metrics: '127.0.0.1:{metrics}', health: '127.0.0.1:{health}' }}\n"
    );
    std::fs::write(&file, listen).expect("the story's directory can be written");
    let mut bridge = Bridge::command("scheduler", &file)
        .env("KUBECONFIG", story.world.bridge_kubeconfig())
        .env("SLURM_REST_URL", story.world.slurm_url())
        .env("SLURM_TOKEN_FILE", story.world.token_file())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the bridge can be started");
    let pod =
        manifest::pod("alone", &manifest::template(8, &[("gangway.dev/partition", "gangway")]));
    story.kube.create(&pod).await;
    story.told("alone", "no SlurmPolicy lets gangs").await;
    let team = serde_json::json!({
        "namespaces": [story.kube.namespace], "user": "bob", "accounts": ["team2"], "partitions": ["gangway"],
    });
    policies.make("team", &team).await;
    let pods = story.bound("alone", 1).await;
    let job = story.slurm.job(pods[0].job()).await;
    assert_eq!((job.user.as_str(), job.account.as_str()), ("bob", "team2"));
    story.kube.delete_pod("alone").await;
    wait("the placeholder ends", SOON, async || {
        let state = story.slurm.job(job.id.0).await.state;
        if state.standing() == Standing::Over { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
    bridge.kill().expect("it runs");
    bridge.wait().expect("it is ours");
    policies.drop("team").await;
    story.end().await;
}

/// The role of the bridge is what holds it back: without RBAC this would succeed.
#[tokio::test]
async fn the_bridge_may_not_do_more_than_it_must() {
    let Some(world) = gangway_tests::World::find() else { return };
    let story = Story::prepare("role", |_| {}).await.expect("there is a world");
    let may = |verb: &str, what: &str| {
        let said = std::process::Command::new(world.binary("kubectl"))
            .arg("--kubeconfig")
            .arg(world.bridge_kubeconfig())
            .args(["auth", "can-i", verb, "-n", &story.cluster])
            .args(what.split(' '))
            .output()
            .expect("kubectl can be started");
        String::from_utf8_lossy(&said.stdout).trim() == "yes"
    };
    for what in ["pods --subresource=binding", "pods --subresource=eviction"] {
        assert!(may("create", what), "the bridge may not create {what}");
    }
    for (verb, what) in
        [("delete", "pods"), ("list", "secrets"), ("create", "pods"), ("update", "nodes")]
    {
        assert!(!may(verb, what), "the bridge may {verb} {what}");
    }
    story.end().await;
}
