//! The bridge was away for so long that Slurm has forgotten what ended meanwhile: neither jobs without pods
//! nor pods without a job are left, and nobody else's jobs are touched.

use std::time::Duration;

use gangway_core::job::{BaseState, JobId};
use gangway_tests::{SOON, Story, World, manifest, stays, wait};

use crate::slurmctld::{answers, bobs};

/// Slurm forgets ended jobs soon, until this is dropped.
struct ShortMemory(&'static World);

impl ShortMemory {
    fn begin(story: &Story) -> Self {
        set_memory(story.world, "5");
        Self(story.world)
    }
}

impl Drop for ShortMemory {
    fn drop(&mut self) {
        set_memory(self.0, "300");
    }
}

fn set_memory(world: &World, seconds: &str) {
    let edit = format!("s/^MinJobAge=.*/MinJobAge={seconds}/");
    world.run_as("root", "in-slurm", &["sed", "-i", &edit, "/etc/slurm/slurm.conf"]);
    world.run_as("root", "scontrol", &["reconfigure"]);
}

#[tokio::test]
async fn an_hour_without_a_bridge_leaves_neither_jobs_nor_pods_behind() {
    let Some(mut story) = Story::begin("orphans").await else { return };
    let memory = ShortMemory::begin(&story);
    answers(&story).await;
    story.bridge.wait_ready().await;
    let template = manifest::template(8, &[]);
    // Pods whose placeholder will end, and which nobody makes anew.
    story.kube.create(&manifest::pod_group("pair", 2)).await;
    for name in ["pair-a", "pair-b"] {
        story.kube.create(&manifest::pod_of_group(name, "pair", &template)).await;
    }
    let ended = story.bound("pair-", 2).await[0].job();
    // A gang whose pods will go.
    let gang = manifest::indexed_job("gang", 2, &template);
    story.kube.create(&gang).await;
    let left = story.bound("gang-", 2).await[0].job();
    for id in [ended, left] {
        story.slurm.sealed(id).await;
    }
    // Another bridge's placeholder, and a job like ours without any key.
    let mut theirs = Vec::new();
    for key in ["gangway/1 another-world a-gang 1 00000000000000aa", "no key of ours"] {
        let mut request = bobs(1);
        key.clone_into(&mut request.components[0].key);
        let job = story.slurm.client.submit(&request, None).await.expect("it is accepted").job_id;
        story.slurm.adopt(job);
        theirs.push(story.slurm.reaches(job.0, BaseState::Running).await.id);
    }

    story.bridge.kill();
    story.slurm.scancel("alice", ended);
    story.kube.delete(&gang).await;
    story.gone("gang-").await;
    wait("Slurm has forgotten the ended job", 3 * SOON, async || {
        match story.slurm.client.job(JobId(ended)).await.expect("Slurm answers") {
            None => Ok(()),
            Some(job) => Err(format!("{}", job.state)),
        }
    })
    .await;
    assert_eq!(story.slurm.job(left).await.state.base, BaseState::Running);
    assert_eq!(story.pods("pair-").await.len(), 2);

    story.bridge.start().await;
    story.gone("pair-").await;
    let events = story.kube.events().await;
    let why = events.iter().find(|e| e.kind == "Pod" && e.message.contains(&ended.to_string()));
    story.note(&why.unwrap_or_else(|| unreachable!("{events:?}")).message);
    story.nothing_lives(SOON).await;
    stays("nobody else's jobs are touched", Duration::from_secs(5), async || {
        for id in &theirs {
            let job = story.slurm.job(id.0).await;
            if job.state.base != BaseState::Running {
                return Err(format!("{id} {}", job.state));
            }
        }
        Ok(())
    })
    .await;
    drop(memory);
    answers(&story).await;
    story.end().await;
}
