//! How soon the webhook answers: by its own clock, and by that of the API server, which waits for it with every pod.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::StreamExt as _;
use gangway_tests::{Admission, Policies, SOON, Story, http, manifest, wait};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::json;

use crate::door::Trust;

/// Seconds below which an answer is counted as soon: the smallest limit that the API server's own figures have.
const SOON_ENOUGH: &str = "0.005";
/// Questions at once in the second half.
const AT_ONCE: usize = 16;

/// Answers by verb and by the limit they were below.
#[derive(Default)]
struct Answers(BTreeMap<String, BTreeMap<String, f64>>);

impl Answers {
    /// From metrics in text: of each verb that `verb` finds in a line.
    fn read(text: &str, name: &str, verb: impl Fn(&str) -> Option<&'static str>) -> Self {
        let mut answers = Self::default();
        for line in text.lines().filter(|line| line.starts_with(&format!("{name}_bucket"))) {
            let Some(verb) = verb(line) else { continue };
            let limit = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            let count = line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok());
            let (Some(limit), Some(count)) = (limit, count) else { continue };
            *answers.0.entry(verb.to_owned()).or_default().entry(limit.to_owned()).or_default() +=
                count;
        }
        answers
    }

    /// How many there were since, and which part of them came as soon as is promised.
    fn since(&self, before: &Self, verb: &str) -> (f64, f64) {
        let of = |all: &Self, limit: &str| {
            all.0.get(verb).and_then(|by| by.get(limit)).copied().unwrap_or_default()
        };
        let new = |limit: &str| of(self, limit) - of(before, limit);
        (new("+Inf"), new(SOON_ENOUGH) / new("+Inf").max(1.0))
    }
}

async fn by_itself(webhook: &Admission) -> Answers {
    let (_, text) = http::get(webhook.metrics, "/metrics").await.expect("/metrics answers");
    Answers::read(&text, "gangway_admission_seconds", verb_of)
}

async fn by_the_api_server(story: &Story) -> Answers {
    let request = ::http::Request::get("/metrics").body(Vec::new()).expect("a request");
    let text = story.kube.client.request_text(request).await.expect("the API server's figures");
    let ours = |line: &str| line.contains("gangway.dev").then(|| verb_of(line)).flatten();
    Answers::read(&text, "apiserver_admission_webhook_admission_duration_seconds", ours)
}

fn verb_of(line: &str) -> Option<&'static str> {
    ["mutate", "validate"].into_iter().find(|verb| line.contains(verb))
}

/// How many come so soon is judged by `cargo xtask bench admission`; here, where two cores are busy and nothing is
/// optimised, only that all are answered.
#[tokio::test]
async fn the_api_server_hardly_waits_for_it() {
    // More with `cargo xtask bench admission`.
    let asked = std::env::var("GANGWAY_WEBHOOK_QUESTIONS").unwrap_or_else(|_| "100".to_owned());
    let questions: usize = asked.parse().expect("GANGWAY_WEBHOOK_QUESTIONS is a number");
    let story = Story::prepare("webhook", |setup| setup.slurm_policies = "required").await;
    let Some(story) = story else { return };
    let policies = Policies::of(&story).await;
    let namespace = story.kube.namespace.clone();
    let team = json!({
        "namespaces": [namespace], "user": "bob", "accounts": ["team2"], "partitions": ["gangway"],
    });
    policies.make("team", &team).await;
    story.kubectl(&["label", "namespace", &namespace, "gangway.dev/managed=true"]);
    let trust = Trust::new();
    let config = "makers: [admin]\npolicy: { slurmPolicies: required }\n";
    let mut webhook = Admission::start(&story, &trust.sign(&["127.0.0.1"]), config).await;
    webhook.install_webhook(&story, &trust.pem());

    let template = manifest::template(8, &[]);
    let pod: Pod = serde_json::from_value(manifest::pod("soon", &template)).expect("a pod");
    let job: Job =
        serde_json::from_value(manifest::indexed_job("soon", 64, &template)).expect("a Job");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    wait("the API server asks it", SOON, async || {
        let made = story.kube.api().create(&dry, &pod).await.map_err(|error| error.to_string())?;
        let stamped = made.metadata.annotations.is_some_and(|all| !all.is_empty());
        if stamped { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;

    for at_once in [1, AT_ONCE] {
        let before = (by_itself(&webhook).await, by_the_api_server(&story).await);
        let began = Instant::now();
        let ask = |n: usize| {
            let (story, dry, pod, job) = (&story, &dry, &pod, &job);
            async move {
                // Every tenth is a workload.
                let taken = match n % 10 {
                    0 => story.kube.api().create(dry, job).await.map(drop),
                    _ => story.kube.api().create(dry, pod).await.map(drop),
                };
                taken.expect("the API server takes it");
            }
        };
        futures::stream::iter(0..questions)
            .map(ask)
            .buffer_unordered(at_once)
            .collect::<()>()
            .await;
        let seconds = began.elapsed().as_secs_f64();
        let after = (by_itself(&webhook).await, by_the_api_server(&story).await);
        for verb in ["mutate", "validate"] {
            let (own, soon) = after.0.since(&before.0, verb);
            let (theirs, seen) = after.1.since(&before.1, verb);
            let wanted = questions as f64;
            assert!(own >= wanted && theirs >= wanted, "{verb}: {own} and {theirs} of {wanted}");
            story.note(
                &json!({
                    "webhook": verb, "at_once": at_once, "answers": own, "seconds": seconds,
                    "within_5ms": soon, "within_5ms_as_the_api_server_sees": seen,
                })
                .to_string(),
            );
        }
    }
    webhook.remove();
    policies.drop("team").await;
    story.end().await;
}
