//! sbatch users and pods share nodes and wait for each other, by Slurm's word alone.

use std::time::Duration;

use gangway_core::job::BaseState;
use gangway_core::names;
use gangway_core::place::parse_ranges;
use gangway_tests::{Pod, Story, manifest, stays};

/// Batch jobs fill h2 to h4, so that h1 is the only hybrid node with room.
fn leave_only_h1(story: &Story) {
    for node in ["h2", "h3", "h4"] {
        sbatch(story, node, 8);
    }
}

fn sbatch(story: &Story, node: &str, gpus: u32) -> u32 {
    let (node, gpus) = (format!("--nodelist={node}"), format!("--gres=gpu:{gpus}"));
    story.slurm.sbatch("alice", &["-p", "hybrid", "-n1", "-c1", "--mem=500", &node, &gpus])
}

#[tokio::test]
async fn a_batch_job_and_a_pod_run_on_one_node_with_different_gpus() {
    let Some(story) = Story::begin("sharing").await else { return };
    leave_only_h1(&story);
    let batch = sbatch(&story, "h1", 3);
    story.slurm.reaches(batch, BaseState::Running).await;
    let template = manifest::template(4, &[("gangway.dev/partition", "hybrid")]);
    story.kube.create(&manifest::pod("beside", &template)).await;
    let pods = story.bound("beside", 1).await;
    let placeholder = story.seated(&pods).await;
    assert_eq!(pods[0].node.as_deref(), Some("h1"));

    let theirs = story.slurm.devices(batch, "gpu").await["h1"].clone();
    let ours = story.slurm.devices(placeholder.id.0, "gpu").await["h1"].clone();
    assert_eq!((theirs.len(), ours.len()), (3, 4));
    assert!(ours.iter().all(|gpu| !theirs.contains(gpu)), "{ours:?} and {theirs:?}");
    story.note(&format!("on h1 the batch job has GPUs {theirs:?}, the pod {ours:?}"));
    story.end().await;
}

/// Three owners on one node: a batch job, a gang of two that share it, and another gang.
#[tokio::test]
async fn a_batch_job_and_two_gangs_run_on_one_node_with_different_gpus() {
    let Some(story) = Story::begin("sharing-three").await else { return };
    leave_only_h1(&story);
    let batch = sbatch(&story, "h1", 2);
    story.slurm.reaches(batch, BaseState::Running).await;
    let hybrid = ("gangway.dev/partition", "hybrid");
    let pair = manifest::template(1, &[hybrid, ("gangway.dev/pods-per-node", "2")]);
    story.kube.create(&manifest::indexed_job("pair", 2, &pair)).await;
    let pair = story.bound("pair-", 2).await;
    story.kube.create(&manifest::indexed_job("other", 1, &manifest::template(2, &[hybrid]))).await;
    let other = story.bound("other-", 1).await;
    // Each pod's indexes are those that Slurm gave to its gang.
    let jobs = [story.seated(&pair).await.id, story.seated(&other).await.id];
    assert_ne!(jobs[0], jobs[1], "two gangs, two placeholders");

    let pods: Vec<&Pod> = pair.iter().chain(&other).collect();
    assert!(pods.iter().all(|pod| pod.node.as_deref() == Some("h1")), "{pods:?}");
    let indexes = |pod: &Pod, gres: &str| {
        let text = pod.annotations.get(&format!("{}{gres}", names::INDEX_PREFIX));
        text.and_then(|text| parse_ranges(text)).unwrap_or_default()
    };
    let theirs = story.slurm.devices(batch, "gpu").await["h1"].clone();
    let ours: Vec<Vec<u32>> = pods.iter().map(|pod| indexes(pod, "gpu")).collect();
    let counts: Vec<usize> = ours.iter().map(Vec::len).collect();
    assert_eq!((theirs.len(), counts), (2, vec![1, 1, 2]));
    story.note(&format!("on h1 the batch job has GPUs {theirs:?}, the pods {ours:?}"));
    let mut all = [ours.concat(), theirs].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 6, "each GPU has one owner: {all:?}");
    let mut cards: Vec<u32> = pods.iter().flat_map(|pod| indexes(pod, "efa")).collect();
    cards.sort_unstable();
    cards.dedup();
    assert_eq!(cards.len(), 16, "each EFA has one owner: {cards:?}");
    story.end().await;
}

#[tokio::test]
async fn a_batch_job_waits_for_pods() {
    let Some(story) = Story::begin("batch-waits").await else { return };
    leave_only_h1(&story);
    let template = manifest::template(4, &[("gangway.dev/partition", "hybrid")]);
    story.kube.create(&manifest::pod("holder", &template)).await;
    story.bound("holder", 1).await;
    let batch = sbatch(&story, "h1", 8);
    stays("the batch job waits", Duration::from_secs(2), async || {
        let state = story.slurm.job(batch).await.state;
        if state.base == BaseState::Pending { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
    story.kube.delete_pod("holder").await;
    story.slurm.reaches(batch, BaseState::Running).await;
    story.end().await;
}

#[tokio::test]
async fn pods_wait_for_a_batch_job() {
    let Some(story) = Story::begin("pods-wait").await else { return };
    leave_only_h1(&story);
    let batch = sbatch(&story, "h1", 6);
    story.slurm.reaches(batch, BaseState::Running).await;
    let template = manifest::template(4, &[("gangway.dev/partition", "hybrid")]);
    story.kube.create(&manifest::pod("waiter", &template)).await;
    let pods = story.told("waiter", "Slurm job").await;
    assert_eq!(pods[0].node, None);
    story.slurm.scancel("alice", batch);
    let pods = story.bound("waiter", 1).await;
    story.seated(&pods).await;
    assert_eq!(pods[0].node.as_deref(), Some("h1"));
    story.end().await;
}
