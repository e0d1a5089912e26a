//! SlurmPolicies decide who may ask for what: enforced where the token is, followed by those who wait.

use gangway_core::job::BaseState;
use gangway_core::names::{ALIAS_PREFIX, PREFIX};
use gangway_tests::{Policies, SOON, Story, manifest, wait};
use serde_json::{Value, json};

fn terms(namespace: &str) -> Value {
    json!({
        "namespaces": [namespace], "user": "bob", "group": "bob", "accounts": ["team2"],
        "partitions": ["gangway", "spare"], "maxTimeLimit": "2:00:00", "maxNodes": 2,
    })
}

async fn begin(name: &str) -> Option<(Story, Policies)> {
    let mut story = Story::prepare(name, |setup| setup.slurm_policies = "required").await?;
    let policies = Policies::of(&story).await;
    story.bridge.start().await;
    Some((story, policies))
}

#[tokio::test]
async fn nobody_gets_anything_before_a_policy_says_so_and_those_who_wait_follow_it() {
    let Some((story, policies)) = begin("policies").await else { return };
    let namespace = story.kube.namespace.clone();

    // Default deny; the one who was refused starts as soon as there is a policy.
    let mut template = manifest::template(8, &[]);
    template["metadata"]["annotations"] = json!({ format!("{ALIAS_PREFIX}user-id"): "0" });
    story.kube.create(&manifest::indexed_job("first", 2, &template)).await;
    story.told("first", &format!("no SlurmPolicy lets gangs in namespace {namespace}")).await;
    policies.make("team", &terms(&namespace)).await;
    let pods = story.bound("first", 2).await;
    let job = story.slurm.job(pods[0].job()).await;
    assert_eq!((job.user.as_str(), job.account.as_str()), ("bob", "team2"));
    let shown = story.slurm.shown(pods[0].job());
    assert_eq!((&shown["user_name"], &shown["group_name"]), (&json!("bob"), &json!("bob")));
    assert_eq!(shown["time_limit"]["number"], json!(120));

    // What was applied, and what Slurm does not know, stands on the policy.
    said(&policies, "team", "True", "jobs run as bob of group bob, accounts team2").await;
    let mut strange = terms("elsewhere");
    (strange["accounts"], strange["partitions"]) = (json!(["team2", "team9"]), json!(["nowhere"]));
    policies.make("strange", &strange).await;
    said(&policies, "strange", "False", "user bob has no association with account team9").await;
    said(&policies, "strange", "False", "Slurm has no partition nowhere").await;
    policies.change("strange", &json!({"user": "nobody9"})).await;
    said(&policies, "strange", "False", "Slurm's accounting knows no user nobody9").await;
    policies.change("strange", &json!({"user": "slurm"})).await;
    said(&policies, "strange", "False", "nobody may run as slurm").await;
    policies.drop("strange").await;

    // Inside what is open one may choose; everything beyond is refused in words.
    for (name, value, words) in [
        ("account", "team1", "account team1; to choose from: team2"),
        ("partition", "hybrid", "partition hybrid; to choose from: gangway, spare"),
        ("qos", "normal", "qos normal; to choose from: none"),
        ("priority", "4000000000", "gangway.dev/priority is not open"),
        ("nice", "-1", "gangway.dev/nice below 0 is not open"),
        ("time-limit", "121", "a time limit of 121 minutes, and at most 120"),
        ("licenses", "matlab", "licence matlab, and at most 0"),
        ("user-id", "0", "annotation gangway.dev/user-id: unknown"),
    ] {
        let pod = format!("more-{name}");
        let own = manifest::template(1, &[(&format!("{PREFIX}{name}"), value)]);
        story.kube.create(&manifest::pod(&pod, &own)).await;
        story.told(&pod, words).await;
    }
    story.kube.create(&manifest::indexed_job("wide", 3, &manifest::template(8, &[]))).await;
    story.told("wide", "3 nodes, and at most 2 are open").await;
    story.kube.delete_all().await;
    story.gone("").await;

    // A placeholder that waits goes where the policy goes, and ends with it.
    let asks = [("gangway.dev/begin", "now+1hour"), ("gangway.dev/time-limit", "90")];
    let later = manifest::template(8, &asks);
    story.kube.create(&manifest::pod("later", &later)).await;
    waits_in(&story, "gangway").await;
    policies.change("team", &json!({"partitions": ["spare"]})).await;
    waits_in(&story, "spare").await;
    policies.change("team", &json!({"maxTimeLimit": "1:00:00"})).await;
    story.told("later", "a time limit of 90 minutes, and at most 60 are open").await;
    story.nothing_lives(SOON).await;
    policies.change("team", &json!({"maxTimeLimit": "2:00:00"})).await;
    waits_in(&story, "spare").await;
    policies.drop("team").await;
    story.told("later", "no SlurmPolicy lets gangs").await;
    story.nothing_lives(SOON).await;
    story.end().await;
}

/// Waits until a policy's status says this.
async fn said(policies: &Policies, which: &str, status: &str, words: &str) {
    wait(&format!("policy {which} says {words:?}"), SOON, async || {
        let told = policies.get(which).await["status"]["conditions"][0].clone();
        let message = told["message"].as_str().unwrap_or_default();
        let right = told["status"] == status && message.contains(words);
        if right { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
}

/// The one placeholder that lives waits in this partition.
async fn waits_in(story: &Story, partition: &str) {
    wait(&format!("one placeholder waits in {partition}"), SOON, async || {
        let live = story.slurm.live().await;
        let told: Vec<String> =
            live.iter().map(|(_, job)| format!("{} {}", job.state, job.partition)).collect();
        match live.as_slice() {
            [(_, job)] if job.state.base == BaseState::Pending && job.partition == partition => {
                Ok(())
            }
            _ => Err(told.join(", ")),
        }
    })
    .await;
}

#[tokio::test]
async fn the_api_server_refuses_a_policy_that_would_let_too_much_in() {
    let Some((story, policies)) = begin("policy-kind").await else { return };
    policies.tried(&terms("team")).await.expect("a sound policy");
    for (key, value, words) in [
        ("user", json!("root"), "nobody may run as root"),
        ("group", json!("root"), "nobody may run as root"),
        ("user", json!("0"), "spec.user"),
        ("groups", json!(["research"]), "groups need namespaces by name"),
        ("accounts", json!([]), "spec.accounts"),
        ("maxPriority", json!(0), "spec.maxPriority"),
        ("maxTimeLimit", json!("soon"), "spec.maxTimeLimit"),
        ("sharing", json!("perhaps"), "spec.sharing"),
    ] {
        let mut spec = terms("*");
        spec[key] = value;
        let problem = policies.tried(&spec).await.expect_err(key);
        assert!(problem.contains(words), "{key}: {problem}");
    }
    story.end().await;
}
