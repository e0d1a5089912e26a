//! JobSets with their real controller: at once, in order, in stages, and restarting.

use std::time::Duration;

use gangway_core::hostlist::Hostlist;
use gangway_core::job::BaseState;
use gangway_tests::{Nodes, Pod, SOON, Story, manifest, stays, wait};
use serde_json::json;

/// Checks that ranks run through the Jobs in their order, and in each through its pods.
fn in_order_of_jobs(pods: &[Pod]) {
    let number = |pod: &Pod, key: &str| pod.labels.get(key).and_then(|n| n.parse::<u32>().ok());
    let mut by_rank: Vec<&Pod> = pods.iter().collect();
    by_rank.sort_by_key(|pod| pod.rank());
    let place = |pod: &&Pod| {
        let index = number(pod, "batch.kubernetes.io/job-completion-index");
        (number(pod, "jobset.sigs.k8s.io/job-global-index"), index)
    };
    assert!(by_rank.iter().all(|pod| place(pod).0.is_some() && place(pod).1.is_some()));
    assert!(by_rank.is_sorted_by_key(place), "{:?}", by_rank.iter().map(place).collect::<Vec<_>>());
}

#[tokio::test]
async fn of_two_kinds_of_jobs_is_one_gang() {
    let Some(story) = Story::begin("jobset").await else { return };
    let template = manifest::template(8, &[]);
    let jobs = [
        manifest::replicated_job("driver", 1, 1, &template),
        manifest::replicated_job("workers", 2, 2, &template),
    ];
    let uid = story.kube.create(&manifest::jobset("set", &jobs, &json!({}))).await;
    let pods = story.bound("set-", 5).await;
    let job = story.seated(&pods).await;
    in_order_of_jobs(&pods);
    let all = story.slurm.placeholders().await;
    assert_eq!(all.len(), 1, "one gang, one placeholder");
    assert_eq!((all[0].0.gang.as_str(), all[0].1.id), (format!("{uid}:0").as_str(), job.id));
    story.end().await;
}

/// The workers' Job is made when the driver is ready, so whoever waits for all of them waits for
/// ever.
#[tokio::test]
async fn in_order_is_asked_for_as_a_whole_when_its_driver_is_there() {
    let Some(story) = Story::begin("jobset-in-order").await else { return };
    let template = manifest::template(8, &[]);
    let room = story.room().await;
    let large = manifest::indexed_job("large", room - 4, &template);
    story.kube.create(&large).await;
    story.bound("large-", room as usize - 4).await;
    let jobs = [
        manifest::replicated_job("driver", 1, 1, &template),
        manifest::replicated_job("workers", 2, 2, &template),
    ];
    let in_order = json!({"startupPolicy": {"startupPolicyOrder": "InOrder"}});
    let uid = story.kube.create(&manifest::jobset("set", &jobs, &in_order)).await;
    // There is room for the driver, but not for all: nobody starts.
    let waiting = story.told("set-", "Slurm job").await;
    assert_eq!(waiting.len(), 1, "only the driver is there");
    let live = story.slurm.live().await;
    let (_, asked) = live.iter().find(|(stamp, _)| stamp.gang == format!("{uid}:0")).expect("it");
    assert_eq!(asked.state.base, BaseState::Pending);

    story.kube.delete(&large).await;
    let pods = wait("all five are bound", SOON, async || {
        let pods = story.pods("set-").await;
        let bound = pods.iter().filter(|pod| pod.node.is_some()).count();
        if bound == 5 { Ok(pods) } else { Err(format!("{bound} of {}", pods.len())) }
    })
    .await;
    let job = story.seated(&pods).await;
    assert_eq!(job.id, asked.id, "the placeholder that was asked for with the driver alone");
    in_order_of_jobs(&pods);
    story.end().await;
}

/// A driver without devices goes first; the workers' nodes are kept for them, and no others.
#[tokio::test]
async fn in_order_asks_for_each_kind_of_job_apart() {
    let Some(story) = Story::begin("jobset-roles").await else { return };
    let jobs = [
        manifest::replicated_job("driver", 1, 1, &manifest::template(0, &[])),
        manifest::replicated_job("workers", 1, 3, &manifest::template(8, &[])),
    ];
    let in_order = json!({"startupPolicy": {"startupPolicyOrder": "InOrder"}});
    story.kube.create(&manifest::jobset("set", &jobs, &in_order)).await;
    let pods = story.bound("set-", 4).await;
    let placeholder = story.seated(&pods).await;
    assert_eq!(placeholder.parts.len(), 2, "a component for each role: {placeholder:?}");
    in_order_of_jobs(&pods);
    assert_eq!(story.slurm.live().await.len(), 1, "one placeholder");
    story.end().await;
}

/// Where the workers may go is known from their template, before one of them is there.
#[tokio::test]
async fn in_order_keeps_room_where_those_to_come_may_go() {
    let Some(story) = Story::begin("jobset-where").await else { return };
    let nodes = Nodes::of(&story);
    nodes.label(&Nodes::p5(9, 16), "example.com/island", "b").await;
    let mut template = manifest::template(8, &[]);
    let driver = manifest::replicated_job("driver", 1, 1, &template);
    template["spec"]["nodeSelector"] = json!({"example.com/island": "b"});
    let jobs = [driver, manifest::replicated_job("workers", 1, 3, &template)];
    let in_order = json!({"startupPolicy": {"startupPolicyOrder": "InOrder"}});
    story.kube.create(&manifest::jobset("set", &jobs, &in_order)).await;
    let pods = story.bound("set-", 4).await;
    let placeholder = story.seated(&pods).await;
    in_order_of_jobs(&pods);
    let shut: Vec<&str> = placeholder.parts.iter().map(|p| p.excluded_nodes.as_str()).collect();
    assert_eq!(shut, ["", "p5-[0001-0008]"]);
    let all = story.slurm.placeholders().await;
    assert_eq!(all.len(), 1, "nothing was given back: {all:?}");
    story.end().await;
}

/// The bridge dies when the first Job runs, and the second is made before there is another bridge.
#[tokio::test]
async fn in_order_keeps_its_places_over_a_restart_of_the_bridge() {
    let Some(mut story) = Story::begin("jobset-killed").await else { return };
    let template = manifest::template(8, &[]);
    let jobs = [
        manifest::replicated_job("first", 1, 2, &template),
        manifest::replicated_job("second", 1, 2, &template),
    ];
    let in_order = json!({"startupPolicy": {"startupPolicyOrder": "InOrder"}});
    story.kube.create(&manifest::jobset("set", &jobs, &in_order)).await;
    let pods = wait("the first Job is bound", SOON, async || {
        let pods = story.pods("set-first-").await;
        let bound = pods.iter().filter(|pod| pod.node.is_some()).count();
        if bound == 2 { Ok(pods) } else { Err(format!("{bound} bound")) }
    })
    .await;
    story.bridge.kill();
    let job = pods[0].job();
    wait("the second Job has its pods", SOON, async || {
        let pods = story.pods("set-second-").await;
        if pods.len() == 2 { Ok(()) } else { Err(format!("{} pods", pods.len())) }
    })
    .await;
    story.bridge.start().await;
    let all = story.bound("set-", 4).await;
    assert_eq!(story.seated(&all).await.id.0, job);
    assert_eq!(story.slurm.placeholders().await.len(), 1, "one placeholder in all");
    story.end().await;
}

/// A trainer's nodes are not held while data is being loaded.
#[tokio::test]
async fn whose_jobs_wait_for_completion_is_a_gang_per_stage() {
    let Some(story) = Story::begin("jobset-stages").await else { return };
    let template = manifest::template(8, &[]);
    let mut node = manifest::replicated_job("node", 1, 3, &template);
    node["dependsOn"] = json!([{"name": "data", "status": "Complete"}]);
    let jobs = [manifest::replicated_job("data", 1, 1, &template), node];
    // A TrainJob is carried out by a JobSet like this one, of the same name.
    let train = manifest::bare("trainer.kubeflow.org/v1alpha1", "TrainJob", "set", &json!({}));
    let train_uid = story.kube.create(&train).await;
    let set = manifest::owned(&manifest::jobset("set", &jobs, &json!({})), &train, &train_uid, &[]);
    let uid = story.kube.create(&set).await;
    let data = story.bound("set-data-", 1).await;
    story.seated(&data).await;
    let ends = json!({"metadata": {"annotations": {"world.gangway.dev/exit": "0"}}});
    story.kube.patch_pod(&data[0].name, &ends).await;
    let nodes = story.bound("set-node-", 3).await;
    let job = story.seated(&nodes).await;
    assert_ne!(job.id.0, data[0].job(), "a placeholder of its own");
    let mut gangs: Vec<String> =
        story.slurm.placeholders().await.into_iter().map(|(stamp, _)| stamp.gang).collect();
    gangs.sort();
    assert_eq!(gangs, [format!("{uid}:0:0"), format!("{uid}:0:1")]);
    wait("the first stage has given its node back", SOON, async || {
        let job = story.slurm.job(data[0].job()).await;
        if job.state.base == BaseState::Running { Err(job.state.to_string()) } else { Ok(()) }
    })
    .await;
    story.end().await;
}

/// Pods of the old attempt are still going when the first of the new one come.
#[tokio::test]
async fn that_restarts_is_two_gangs_while_generations_overlap() {
    let Some(story) = Story::begin("jobset-restart").await else { return };
    let template = manifest::template(8, &[]);
    let jobs = [
        manifest::replicated_job("driver", 1, 1, &template),
        manifest::replicated_job("workers", 2, 2, &template),
    ];
    let restarts = json!({"failurePolicy": {"maxRestarts": 3}});
    let uid = story.kube.create(&manifest::jobset("set", &jobs, &restarts)).await;
    let before = story.bound("set-", 5).await;
    let first = story.seated(&before).await;

    let driver = before.iter().find(|pod| pod.name.contains("driver")).expect("a driver");
    let held = json!({"metadata": {"finalizers": ["gangway.dev/story"]}});
    story.kube.patch_pod(&driver.name, &held).await;
    let worker = before.iter().find(|pod| pod.name.contains("workers-1-0")).expect("a worker");
    let fails = json!({"metadata": {"annotations": {"world.gangway.dev/exit": "1"}}});
    story.kube.patch_pod(&worker.name, &fails).await;

    let attempt = |pod: &Pod| pod.labels["jobset.sigs.k8s.io/restart-attempt"].clone();
    wait("workers of attempt 1 beside the driver of attempt 0", SOON, async || {
        let pods = story.pods("set-").await;
        let new = pods.iter().filter(|pod| attempt(pod) == "1").count();
        let old = pods.iter().filter(|pod| attempt(pod) == "0" && pod.deleting).count();
        if (new, old) == (4, 1) { Ok(()) } else { Err(format!("{new} new, {old} old")) }
    })
    .await;
    story.told("set-workers-", "4 of 5").await;
    let live = story.slurm.live().await;
    assert_eq!(live.len(), 1, "the new attempt is not whole");
    assert_eq!((live[0].1.id, &live[0].1.state.base), (first.id, &BaseState::Running));

    story.kube.patch_pod(&driver.name, &json!({"metadata": {"finalizers": null}})).await;
    let after = story.bound("set-", 5).await;
    let second = story.seated(&after).await;
    assert_ne!(second.id, first.id, "a placeholder of its own");
    assert!(after.iter().all(|pod| attempt(pod) == "1"));
    let gang = |pods: &[Pod]| pods[0].annotations["gangway.dev/gang"].clone();
    assert_eq!((gang(&before), gang(&after)), (format!("{uid}:0"), format!("{uid}:1")));
    in_order_of_jobs(&after);
    story.end().await;
}

/// In order, the new attempt is asked for with its first pod, while a pod of the old one is still
/// going: both have their nodes then, and neither takes from the other.
#[tokio::test]
async fn in_order_that_restarts_has_the_nodes_of_both_attempts_while_they_overlap() {
    let Some(story) = Story::begin("jobset-overlap").await else { return };
    let template = manifest::template(8, &[]);
    let jobs = [
        manifest::replicated_job("driver", 1, 1, &template),
        manifest::replicated_job("workers", 2, 2, &template),
    ];
    let more = json!({
        "startupPolicy": {"startupPolicyOrder": "InOrder"}, "failurePolicy": {"maxRestarts": 3},
    });
    let uid = story.kube.create(&manifest::jobset("set", &jobs, &more)).await;
    let before = story.bound("set-", 5).await;
    let first = story.seated(&before).await;

    let held = before.iter().find(|pod| pod.name.contains("workers-1-0")).expect("a worker");
    let hold = json!({"metadata": {"finalizers": ["gangway.dev/story"]}});
    story.kube.patch_pod(&held.name, &hold).await;
    let driver = before.iter().find(|pod| pod.name.contains("driver")).expect("a driver");
    let fails = json!({"metadata": {"annotations": {"world.gangway.dev/exit": "1"}}});
    story.kube.patch_pod(&driver.name, &fails).await;

    let attempt = |pod: &Pod| pod.labels["jobset.sigs.k8s.io/restart-attempt"].clone();
    // The second workers' Job is not made while the old one of its name is there.
    let new = wait("attempt 1 is bound beside a worker of attempt 0", SOON, async || {
        let pods = story.pods("set-").await;
        let (old, new): (Vec<Pod>, Vec<Pod>) =
            pods.into_iter().partition(|pod| attempt(pod) == "0");
        let bound = new.iter().filter(|pod| pod.node.is_some()).count();
        if bound == 3 && old.len() == 1 && old[0].uid == held.uid && old[0].deleting {
            Ok(new)
        } else {
            Err(format!("{bound} of {} new, {} old", new.len(), old.len()))
        }
    })
    .await;
    let hosts = Hostlist::parse(&first.nodes).expect("a hostlist").names();
    for pod in &new {
        let node = pod.node.as_ref().expect("bound");
        assert!(!hosts.contains(node), "{node} of {} belongs to attempt 0", pod.name);
        assert_ne!(pod.job(), first.id.0);
    }
    let second = new[0].job();
    let both = [(format!("{uid}:0"), first.id.0), (format!("{uid}:1"), second)];
    stays("both attempts have their nodes", Duration::from_secs(2), async || {
        let live = story.slurm.live().await;
        let running = live.iter().filter(|(_, job)| job.state.base == BaseState::Running);
        let mut seen: Vec<_> = running.map(|(stamp, job)| (stamp.gang.clone(), job.id.0)).collect();
        seen.sort();
        if seen == both && live.len() == 2 { Ok(()) } else { Err(format!("{live:?}")) }
    })
    .await;

    story.kube.patch_pod(&held.name, &json!({"metadata": {"finalizers": null}})).await;
    let after = story.bound("set-", 5).await;
    assert_eq!(story.seated(&after).await.id.0, second, "the placeholder it was asked for with");
    assert!(after.iter().all(|pod| attempt(pod) == "1"));
    in_order_of_jobs(&after);
    story.slurm.reaches(first.id.0, BaseState::Cancelled).await;
    assert_eq!(story.slurm.placeholders().await.len(), 2, "one placeholder for each attempt");
    story.end().await;
}
