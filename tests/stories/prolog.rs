//! On hybrid nodes an sbatch job waits for the pods that still hold its GPUs (`gangway prolog`).
#![expect(
    clippy::disallowed_methods,
    reason = "all parts of a world share the clock of one machine"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gangway_core::job::{BaseState, JobId};
use gangway_tests::{Bridge, Pod, SOON, Story, manifest, stays, wait};
use serde_json::json;

/// slurmd's Prolog in this world for as long as it lives.
pub(crate) struct Prolog(Vec<PathBuf>);

impl Prolog {
    pub(crate) fn of(story: &Story, options: &str) -> Self {
        Self::with(story, "", options)
    }

    /// `variables`: what stands in its environment, as a shell would write it.
    pub(crate) fn with(story: &Story, variables: &str, options: &str) -> Self {
        let shared = story.world.shared();
        let (binary, script) = (shared.join("gangway-prolog"), shared.join("prolog"));
        fs::copy(Bridge::binary(), &binary).expect("the world can be written");
        let text = format!(
            "#!/bin/sh\n{variables} exec /mnt/world/gangway-prolog prolog \
             --kubeconfig /mnt/world/kubernetes/prolog.kubeconfig {options}\n"
        );
        fs::write(&script, text).expect("the world can be written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self(vec![script, binary])
    }
}

impl Drop for Prolog {
    fn drop(&mut self) {
        for file in &self.0 {
            // One that is left is replaced by the next story.
            let _ = fs::remove_file(file);
        }
    }
}

/// The pods here end when the story says so, by a finalizer, and were never run: to a real kubelet they would have ended.
async fn begin(name: &str) -> Option<Story> {
    Story::begin_where(name, "without kubelets", |world| world.kubelets().is_empty()).await
}

/// Has alice submit a job on h1 that writes down when its script starts.
pub(crate) fn sbatch(story: &Story, gpus: u32) -> u32 {
    let wrap = "--wrap=date +%s%N > /tmp/started-$SLURM_JOB_ID; sleep 600".to_owned();
    let gres = format!("--gres=gpu:{gpus}");
    let words = ["--parsable", "--output=/dev/null", "-p", "hybrid", "-n1", "-c1", "--mem=500"];
    let words = [&words[..], &["--nodelist=h1", "--requeue", &gres, &wrap]].concat();
    let said = story.world.run_as("alice", "sbatch", &words);
    let id = said.split(';').next().and_then(|id| id.parse().ok()).expect("a job id");
    story.slurm.adopt(JobId(id));
    id
}

/// When a job's script started, in nanoseconds since the epoch; `None`: it has not.
pub(crate) fn started(story: &Story, job: u32) -> Option<i128> {
    let file = story.world.slurm_tmp().join(format!("started-{job}"));
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn now() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i128::try_from(since.as_nanos()).expect("it is before the year 9999")
}

/// A pod with GPUs on h1 that ends slowly, and whose placeholder was cancelled.
async fn slow_pod(story: &Story) -> Pod {
    // Batch jobs fill h2 to h4 and one half of h1, so that what is free on h1 is what the pod had.
    for (node, gpus) in [("h2", 8), ("h3", 8), ("h4", 8), ("h1", 4)] {
        let (node, gpus) = (format!("--nodelist={node}"), format!("--gres=gpu:{gpus}"));
        let words = ["-p", "hybrid", "-n1", "-c1", "--mem=500", &node, &gpus];
        let id = story.slurm.sbatch("alice", &words);
        story.slurm.reaches(id, BaseState::Running).await;
    }
    let mut template = manifest::template(4, &[("gangway.dev/partition", "hybrid")]);
    template["metadata"]["finalizers"] = json!(["gangway.dev/story-holds"]);
    story.kube.create(&manifest::pod("slow", &template)).await;
    let pods = story.bound("slow", 1).await;
    assert_eq!(pods[0].node.as_deref(), Some("h1"));
    let placeholder = story.seated(&pods).await;
    story.slurm.scancel("alice", placeholder.id.0);
    story.slurm.reaches(placeholder.id.0, BaseState::Cancelled).await;
    wait("the pod is on its way out", SOON, async || {
        let pods = story.pods("slow").await;
        if pods.iter().all(|pod| pod.deleting) { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    pods[0].clone()
}

/// Lets the pod end; when the API server had it no more, at the latest.
async fn let_go(story: &Story) -> i128 {
    // The answer to this write comes when the pod is out of the store.
    story.kube.patch_pod("slow", &json!({"metadata": {"finalizers": null}})).await;
    let gone = now();
    story.gone("slow").await;
    gone
}

#[tokio::test]
async fn a_batch_job_starts_when_the_pods_on_its_gpus_are_gone() {
    let Some(story) = begin("prolog").await else { return };
    let _prolog = Prolog::of(&story, "--deadline 120");
    let pod = slow_pod(&story).await;
    let id = sbatch(&story, 4);
    // Slurm gives it the pod's GPUs at once, and believes that it runs.
    story.slurm.reaches(id, BaseState::Running).await;
    let theirs = story.slurm.devices(id, "gpu").await["h1"].clone();
    let text = &pod.annotations["gangway.dev/index.gpu"];
    assert_eq!(gangway_core::place::parse_ranges(text), Some(theirs.clone()), "the same GPUs");
    stays("its script does not start beside the pod", Duration::from_secs(3), async || {
        started(&story, id).map_or(Ok(()), |at| Err(format!("it started at {at}")))
    })
    .await;
    let gone = let_go(&story).await;
    let began = wait("its script starts", SOON, async || {
        started(&story, id).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let overlap = (gone - began).max(0) / 1_000_000;
    let after = (began - gone) / 1_000_000;
    story.note(&format!(
        "GPUs {theirs:?} of h1: the script started {after} ms after the pod was gone; overlap {overlap} ms"
    ));
    assert_eq!(overlap, 0);
    story.end().await;
}

#[tokio::test]
async fn at_the_deadline_the_node_is_drained_and_the_job_requeued() {
    let Some(story) = begin("prolog-deadline").await else { return };
    let _prolog = Prolog::of(&story, "--deadline 2");
    slow_pod(&story).await;
    let id = sbatch(&story, 4);
    let node = wait("slurmd drains the node", SOON, async || {
        let node = story.slurm.client.node("h1").await.expect("h1 can be read").expect("h1");
        if node.is("DRAIN") { Ok(node) } else { Err(format!("{:?}", node.state)) }
    })
    .await;
    let job = wait("the job is in the queue again", SOON, async || {
        let job = story.slurm.job(id).await;
        if job.state.base == BaseState::Pending { Ok(job) } else { Err(job.state.to_string()) }
    })
    .await;
    story.note(&format!("h1 is {:?}; the job is {} ({})", node.state, job.state, job.reason));
    assert_eq!(started(&story, id), None, "its script never ran beside the pod");
    let_go(&story).await;
    story.world.run_as("root", "scontrol", &["update", "node=h1", "state=resume"]);
    story.end().await;
}

#[tokio::test]
async fn at_the_deadline_the_job_may_start_where_that_is_wanted() {
    let Some(story) = begin("prolog-start").await else { return };
    let _prolog = Prolog::of(&story, "--deadline 2 --at-deadline start");
    slow_pod(&story).await;
    let id = sbatch(&story, 4);
    wait("its script starts", SOON, async || {
        started(&story, id).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let log = story.world.shared().join("logs/slurm-host/slurm/prolog.h1.log");
    let said = fs::read_to_string(log).expect("what the prolog said");
    assert!(said.contains("the time is up") && said.contains("/slow"), "{said}");
    let_go(&story).await;
    story.end().await;
}
