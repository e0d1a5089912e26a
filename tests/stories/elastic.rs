//! Elastic workloads: they start with their least number, and grow by what Slurm gives them later.

use std::time::Duration;

use gangway_core::job::BaseState;
use gangway_tests::{Pod, SOON, Story, manifest, stays, wait};
use serde_json::{Value, json};

/// Workers of eight GPUs on the hybrid nodes h1 to h4, at least two of them.
fn elastic(workers: u32) -> Value {
    let template = manifest::template(8, &[("gangway.dev/partition", "hybrid")]);
    let mut job = manifest::pytorchjob("grow", workers, &template);
    let specs = job["spec"]["pytorchReplicaSpecs"].as_object_mut().expect("roles");
    specs.remove("Master");
    job["spec"]["elasticPolicy"] = json!({"minReplicas": 2, "maxReplicas": 8});
    job
}

fn take(story: &Story, node: &str) -> u32 {
    let node = format!("--nodelist={node}");
    story.slurm.sbatch("alice", &["-p", "hybrid", "-n1", "-c1", "--mem=500", &node, "--gres=gpu:8"])
}

async fn grown_to(story: &Story, count: usize) -> Vec<Pod> {
    wait(&format!("{count} workers are bound"), SOON, async || {
        let pods = story.pods("grow-").await;
        let bound = pods.iter().filter(|pod| pod.node.is_some()).count();
        if bound == count { Ok(pods) } else { Err(format!("{bound} of {}", pods.len())) }
    })
    .await
}

/// Four workers of which two are enough, and room for three: three run, the fourth comes with room.
#[tokio::test]
async fn it_starts_with_what_there_is_and_grows() {
    let Some(story) = Story::begin("elastic").await else { return };
    let batch = take(&story, "h4");
    story.slurm.reaches(batch, BaseState::Running).await;
    story.kube.create(&elastic(4)).await;
    let pods = grown_to(&story, 3).await;
    let jobs = |pods: &[Pod]| {
        let mut jobs: Vec<u32> = pods.iter().filter(|p| p.node.is_some()).map(Pod::job).collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs.len()
    };
    assert_eq!(jobs(&pods), 2, "the gang of two, and one increment");
    // Whoever finds no room says why, and disturbs nobody.
    let fourth = wait("the fourth says what it waits for", SOON, async || {
        let pods = story.pods("grow-").await;
        let waits = pods.into_iter().find(|pod| pod.node.is_none()).expect("one waits");
        let why = waits.why();
        if why.contains("Slurm job") && why.contains("partition hybrid") {
            Ok(waits)
        } else {
            Err(why)
        }
    })
    .await;
    let before: Vec<Pod> = pods.into_iter().filter(|pod| pod.node.is_some()).collect();
    stays("the three run on and the fourth waits", Duration::from_secs(2), async || {
        let pods = story.pods("grow-").await;
        let same = |old: &Pod| pods.iter().any(|p| p.uid == old.uid && p.node == old.node);
        let run = before.iter().all(same) && pods.len() == 4 && same(&fourth);
        if run { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    for pod in &before {
        story.slurm.reaches(pod.job(), BaseState::Running).await;
    }
    story.slurm.scancel("alice", batch);
    let pods = grown_to(&story, 4).await;
    assert_eq!(jobs(&pods), 3, "each increment is a job of its own");
    let joined = pods.iter().find(|pod| pod.uid == fourth.uid).expect("the pod that waited");
    assert_eq!(joined.node.as_deref(), Some("h4"), "it has the room that appeared");
    for old in &before {
        let same =
            pods.iter().any(|p| p.uid == old.uid && p.node == old.node && p.job() == old.job());
        assert!(same, "{} was left alone", old.name);
    }
    story.end().await;
}

/// Less room than the least number: no increment may take what the gang waits for.
#[tokio::test]
async fn increments_never_overtake_their_gang() {
    let Some(story) = Story::begin("elastic-wait").await else { return };
    let mut batch = Vec::new();
    for node in ["h2", "h3", "h4"] {
        batch.push(take(&story, node));
    }
    for job in &batch {
        story.slurm.reaches(*job, BaseState::Running).await;
    }
    story.kube.create(&elastic(4)).await;
    wait("the increments say what they wait for", SOON, async || {
        let pods = story.pods("grow-").await;
        let told = pods.iter().filter(|p| p.why().contains("comes after it")).count();
        if told == 2 { Ok(()) } else { Err(format!("{told} of {}", pods.len())) }
    })
    .await;
    stays("nobody is bound", Duration::from_secs(2), async || {
        let bound = story.pods("grow-").await.iter().filter(|p| p.node.is_some()).count();
        if bound == 0 { Ok(()) } else { Err(format!("{bound} are bound")) }
    })
    .await;
    for job in batch {
        story.slurm.scancel("alice", job);
    }
    grown_to(&story, 4).await;
    story.end().await;
}
