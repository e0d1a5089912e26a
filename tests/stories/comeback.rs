//! What lost its nodes comes back by itself: as the next generation, and not on a node that has failed.

use gangway_core::job::BaseState;
use gangway_core::names;
use gangway_tests::{Pod, SOON, Story, manifest, wait};
use k8s_openapi::api::batch::v1::Job as KubeJob;
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

/// Waits until as many new pods are bound as there were, none of them one of these.
async fn anew(story: &Story, prefix: &str, before: &[Pod]) -> Vec<Pod> {
    wait(&format!("new pods {prefix} are bound"), SOON * 2, async || {
        let pods = story.pods(prefix).await;
        let new = |pod: &Pod| {
            pod.node.is_some() && !pod.deleting && before.iter().all(|old| old.uid != pod.uid)
        };
        if pods.len() == before.len() && pods.iter().all(new) {
            return Ok(pods);
        }
        let seen: Vec<_> = pods.iter().map(|p| (&p.name, &p.phase, &p.node, p.why())).collect();
        Err(format!("{seen:?}"))
    })
    .await
}

/// Ends pods that have been told to: their containers were killed, as a kubelet reports it.
async fn kubelet_ends(story: &Story, uids: &[&str]) -> Vec<KubePod> {
    let api = story.kube.api::<KubePod>();
    wait("the kubelet has ended the pods", SOON, async || {
        let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let mut ended = Vec::new();
        for pod in all.items {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if !uids.contains(&uid.as_str()) || pod.metadata.deletion_timestamp.is_none() {
                continue;
            }
            let name = pod.metadata.name.clone().unwrap_or_default();
            let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
            let patched = api.patch_status(&name, &PatchParams::default(), &failed).await;
            ended.extend(patched.ok());
        }
        if ended.len() == uids.len() { Ok(ended) } else { Err(format!("{} ended", ended.len())) }
    })
    .await
}

#[tokio::test]
async fn a_cancelled_placeholder_is_no_failure_of_its_job() {
    let Some(story) = Story::begin("no-failure").await else { return };
    let mut job = manifest::indexed_job("train", 2, &manifest::template(8, &[]));
    // One failure would be the end of it; a disruption is none.
    job["spec"]["backoffLimit"] = json!(0);
    job["spec"]["podFailurePolicy"] = json!({"rules": [{
        "action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }]});
    job["spec"]["podReplacementPolicy"] = json!("Failed");
    story.kube.create(&job).await;
    let first = story.bound("train-", 2).await;
    let id = story.seated(&first).await.id.0;
    story.slurm.scancel("alice", id);
    let uids: Vec<&str> = first.iter().map(|pod| pod.uid.as_str()).collect();
    for pod in kubelet_ends(&story, &uids).await {
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        let target = conditions.iter().find(|c| c.type_ == "DisruptionTarget");
        let target = target.map(|c| (c.status.as_str(), c.reason.as_deref().unwrap_or_default()));
        assert_eq!(target, Some(("True", "EvictionByEvictionAPI")), "{conditions:?}");
    }
    let second = anew(&story, "train-", &first).await;
    story.seated(&second).await;
    assert!(second.iter().all(|pod| pod.number(names::GENERATION) == Some(2)), "{second:?}");
    let status = story.kube.api::<KubeJob>().get("train").await.expect("the Job is there").status;
    let status = status.expect("a status");
    assert_eq!(status.failed.unwrap_or(0), 0, "{status:?}");
    let over = status.conditions.unwrap_or_default();
    assert!(over.iter().all(|c| c.type_ != "Failed"), "{over:?}");
    story.end().await;
}

/// Puts a node down and up again when the story is over, however it ends.
struct Down<'a> {
    story: &'a Story,
    node: String,
}

impl<'a> Down<'a> {
    fn put(story: &'a Story, node: &str) -> Self {
        let down = Self { story, node: node.to_owned() };
        down.says("DOWN");
        down
    }

    fn says(&self, state: &str) {
        let words = [
            format!("NodeName={}", self.node),
            format!("State={state}"),
            "Reason=story".to_owned(),
        ];
        let words: Vec<&str> =
            ["update"].into_iter().chain(words.iter().map(String::as_str)).collect();
        self.story.world.run_as("root", "scontrol", &words);
    }
}

impl Drop for Down<'_> {
    fn drop(&mut self) {
        self.says("RESUME");
    }
}

#[tokio::test]
async fn a_node_that_failed_is_not_given_again_although_it_is_back() {
    let Some(mut story) = Story::begin("node-failed").await else { return };
    story.kube.create(&manifest::pytorchjob("train", 1, &manifest::template(8, &[]))).await;
    let first = story.bound("train-", 2).await;
    let placeholder = story.seated(&first).await;
    let node = first[0].node.clone().expect("a node");
    // Whoever comes next knows it too: nobody is there to see it fail and come back.
    story.bridge.kill();
    drop(Down::put(&story, &node));
    let over = story.slurm.reaches(placeholder.id.0, BaseState::NodeFail).await;
    assert_eq!(over.failed_nodes, node, "{over:?}");
    story.bridge.start().await;

    let second = anew(&story, "train-", &first).await;
    let next = story.seated(&second).await;
    assert_eq!(second[0].number(names::GENERATION), Some(2));
    assert!(second.iter().all(|pod| pod.node.as_deref() != Some(&node)), "{second:?}");
    assert_eq!(next.excluded_nodes, node);
    let events = story.kube.events().await;
    let told = |e: &gangway_tests::Note| {
        e.kind == "PyTorchJob" && e.reason == "Evicted" && e.message.contains(&node)
    };
    assert!(events.iter().any(told), "{events:?}");

    // Whoever cannot do without it has it.
    story.kube.delete(&manifest::pytorchjob("train", 1, &manifest::template(8, &[]))).await;
    story.gone("train-").await;
    let room = story.room().await;
    story.kube.create(&manifest::indexed_job("all", room, &manifest::template(8, &[]))).await;
    story.bound("all-", room as usize).await;
    story.end().await;
}

/// An index of a Job has succeeded and its pod was taken away: the others, made again, do not wait for it.
#[tokio::test]
async fn those_that_come_again_do_not_wait_for_an_index_that_has_succeeded() {
    let Some(story) = Story::begin("index-done").await else { return };
    story.kube.create(&manifest::indexed_job("gang", 3, &manifest::template(8, &[]))).await;
    let first = story.bound("gang-", 3).await;
    let placeholder = story.seated(&first).await;
    let leader = first.iter().find(|pod| pod.rank() == 0).expect("a rank 0").name.clone();
    let exit = json!({"metadata": {"annotations": {"world.gangway.dev/exit": "0"}}});
    story.kube.patch_pod(&leader, &exit).await;
    let jobs: kube::api::Api<KubeJob> = story.kube.api();
    wait("its controller has counted it", SOON, async || {
        let job = jobs.get("gang").await.map_err(|error| error.to_string())?;
        let status = job.status.unwrap_or_default();
        let done = status.completed_indexes.as_deref() == Some("0");
        if done { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    story.kube.delete_pod(&leader).await;
    story.slurm.scancel("alice", placeholder.id.0);
    let second = wait("the two others are bound anew", SOON * 2, async || {
        let pods = story.pods("gang-").await;
        let new = |pod: &&Pod| {
            pod.node.is_some() && !pod.deleting && first.iter().all(|old| old.uid != pod.uid)
        };
        if pods.len() == 2 && pods.iter().filter(new).count() == 2 {
            return Ok(pods);
        }
        Err(pods.iter().map(|p| format!("{} {:?} {}", p.name, p.node, p.why())).collect::<String>())
    })
    .await;
    let mut ranks: Vec<u32> = second.iter().map(Pod::rank).collect();
    ranks.sort_unstable();
    assert_eq!(ranks, [1, 2], "each at its own rank");
    let again = story.slurm.job(second[0].job()).await;
    assert_ne!(again.id, placeholder.id);
    let nodes = gangway_core::hostlist::Hostlist::parse(&again.nodes).expect("a hostlist").names();
    assert_eq!(nodes.len(), 2, "no node for the one that is done");
    story.end().await;
}
