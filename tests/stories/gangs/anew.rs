//! Gangs of one where they are wanted, and gangs that begin anew: how often, and how often for others.

use gangway_tests::{Story, manifest};
use serde_json::Value;

use super::{gangs, shown};

#[tokio::test]
async fn a_lone_pod_is_a_gang_where_that_is_wanted() {
    let singles =
        |setup: &mut gangway_tests::Setup| setup.more = "gangs: { singles: true }\n".into();
    let Some(mut story) = Story::prepare("gangs-singles", singles).await else { return };
    story.bridge.start().await;
    story.kube.create(&manifest::pod("alone", &manifest::template(8, &[]))).await;
    let job = story.seated(&story.bound("alone", 1).await).await.id.to_string();
    let runs = [("PHASE", "Running"), ("PODS", "1/1"), ("JOB", &job), ("KIND", "Pod")];
    shown(&story, "alone-", &runs).await;
    story.kube.delete_pod("alone").await;
    story.gone("alone").await;
    gangway_tests::wait("its Gang goes with it", gangway_tests::SOON, async || {
        let all = gangs(&story, false);
        if all.is_empty() { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
    story.end().await;
}

#[tokio::test]
async fn how_often_a_gang_began_anew_is_shown_and_how_often_others_took_its_nodes() {
    let Some(story) = Story::begin("gangs-anew").await else { return };
    let spot = manifest::template(8, &[("gangway.dev/partition", "spot")]);
    story.kube.create(&manifest::pytorchjob("low", 1, &spot)).await;
    let low = story.seated(&story.bound("low-", 2).await).await.id;
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::pytorchjob("train", 1, &template)).await;
    let first = story.seated(&story.bound("train-", 2).await).await.id;
    for (prefix, job) in [("low-", low), ("train-", first)] {
        let job = job.to_string();
        let runs = [("PHASE", "Running"), ("JOB", &job), ("REQUEUES", "0"), ("PREEMPTIONS", "")];
        shown(&story, prefix, &runs).await;
    }

    story.slurm.scancel("alice", first.0);
    let anew = [("PHASE", "Running"), ("PODS", "2/2"), ("REQUEUES", "1"), ("PREEMPTIONS", "")];
    let anew = shown(&story, "train-", &anew).await;
    assert_ne!(anew["JOB"], first.to_string(), "{anew:?}");

    // Somebody else's job takes the nodes: it waits for them, and it was not its own fault.
    let urgent = manifest::template(8, &[("gangway.dev/partition", "urgent")]);
    story.kube.create(&manifest::indexed_job("high", 2, &urgent)).await;
    let waits = [("PHASE", "Queued"), ("PODS", "0/2"), ("REQUEUES", "1"), ("PREEMPTIONS", "1")];
    let waits = shown(&story, "low-", &waits).await;
    assert_ne!(waits["JOB"], low.to_string(), "{waits:?}");
    story.note(&format!("began anew: {anew:?}, {waits:?}"));
    shown(&story, "high-", &[("PHASE", "Running"), ("REQUEUES", "0"), ("PREEMPTIONS", "")]).await;

    // The other gang's preemption is none of this one's, and programs read the same numbers.
    let namespace = format!("--namespace={}", story.kube.namespace);
    let text = story.kubectl(&["get", "gangs", &namespace, "-o", "json"]);
    let all: Value = serde_json::from_str(&text).expect("kubectl writes JSON");
    let status = |prefix: &str| {
        let all = all["items"].as_array().into_iter().flatten();
        let named = |gang: &&Value| {
            gang["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(prefix))
        };
        all.clone().find(named).expect("a Gang")["status"].clone()
    };
    for (prefix, preemptions) in [("train-", Value::Null), ("low-", 1.into())] {
        let status = status(prefix);
        assert_eq!(
            (&status["generation"], &status["requeues"]),
            (&2.into(), &1.into()),
            "{status}"
        );
        assert_eq!(status["preemptions"], preemptions, "{status}");
    }
    story.end().await;
}
