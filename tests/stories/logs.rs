//! What programs that collect logs read of a bridge with `--log-json`.

use std::collections::BTreeMap;
use std::time::Duration;

use gangway_core::names;
use gangway_tests::{SOON, Setup, Story, manifest};
use serde_json::Value;

/// Whether a value stands somewhere in a line, as the whole text or number of a key that has this in its name.
fn has(said: &Value, key: &str, value: &str) -> bool {
    let is = |(name, own): (&String, &Value)| match own {
        Value::String(own) => name.contains(key) && own == value,
        Value::Number(own) => name.contains(key) && own.to_string() == value,
        other => has(other, key, value),
    };
    match said {
        Value::Array(all) => all.iter().any(|one| has(one, key, value)),
        Value::Object(map) => map.iter().any(is),
        _ => false,
    }
}

#[tokio::test]
async fn every_line_of_a_json_log_is_json_and_a_gang_is_found_in_it() {
    let json = |setup: &mut Setup| setup.flags = vec!["--log-json".to_owned()];
    let Some(mut story) = Story::prepare("logs", json).await else { return };
    story.bridge.start().await;
    let job = manifest::indexed_job("train", 2, &manifest::template(8, &[]));
    story.kube.create(&job).await;
    let pods = story.bound("train-", 2).await;
    let id = story.seated(&pods).await.id.to_string();
    let uid = pods[0].annotations.get(names::GANG).expect("a bound pod names its gang").clone();
    // Another one that is refused.
    let nobody = manifest::template(8, &[("gangway.dev/partition", "nowhere")]);
    story.kube.create(&manifest::pod("refused", &nobody)).await;
    story.told("refused", "nowhere").await;
    story.kube.delete_all().await;
    story.gone("").await;
    story.nothing_lives(SOON).await;
    // To its last word.
    let status = story.bridge.stop(Duration::from_secs(15)).await;
    assert!(status.is_some_and(|status| status.success()), "the bridge ended with {status:?}");

    let log = std::fs::read_to_string(story.bridge.directory().join("gangway.log"));
    let log = log.expect("the bridge has logged");
    let mut levels = BTreeMap::<String, usize>::new();
    let mut lines = Vec::new();
    for line in log.lines() {
        let read: Result<Value, _> = serde_json::from_str(line);
        let Ok(Value::Object(said)) = read else { unreachable!("no JSON object: {line}") };
        let level = said.get("level").and_then(Value::as_str).expect("each line has its level");
        assert!(said.contains_key("timestamp"), "{line}");
        *levels.entry(level.to_owned()).or_default() += 1;
        lines.push(Value::Object(said));
    }
    story.note(&format!("lines of each level: {levels:?}"));
    assert!(levels.contains_key("INFO") && levels.contains_key("DEBUG"), "{levels:?}");
    // Whoever looks for a gang, or for a job, finds the line in which each pod is said to be bound.
    let of = |line: &&Value| has(line, "", &uid) && has(line, "job", &id);
    let own: Vec<&Value> = lines.iter().filter(of).collect();
    let first = own.first().expect("no line names both the gang and the job");
    story.note(&format!("{} lines name gang {uid} and job {id}, such as {first}", own.len()));
    for pod in &pods {
        let bound = |line: &&Value| {
            let text = line.to_string();
            text.contains("bound") && text.contains(&pod.name)
        };
        assert!(own.iter().any(bound), "{}: {own:?}", pod.name);
    }
    story.end().await;
}
