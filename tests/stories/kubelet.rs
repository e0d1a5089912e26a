//! Where a host has a real kubelet beside its slurmd, containers and batch jobs run side by side and are told apart by
//! Slurm's word. These stories want a world brought up with `--kubelets 2`.

use std::time::{Duration, Instant};

use gangway_core::job::{BaseState, JobId};
use gangway_core::names;
use gangway_tests::{Pod, SOON, Story, manifest, stays, wait};
use serde_json::{Value, json};

use crate::prolog::Prolog;

const HYBRID: (&str, &str) = ("gangway.dev/partition", "hybrid");

async fn begin(name: &str) -> Option<Story> {
    Story::begin_where(name, "with --kubelets 2", |world| world.kubelets().len() >= 2).await
}

/// A template whose container runs `script` and knows its rank and GPUs, as a user would tell it: by the annotations
/// that came with the Binding.
fn template(story: &Story, gpus: u32, script: &str) -> Value {
    let mut template = manifest::template(gpus, &[HYBRID]);
    let container = &mut template["spec"]["containers"][0];
    let annotation = |name: &str| {
        let path = format!("metadata.annotations['{name}']");
        json!({"fieldRef": {"fieldPath": path}})
    };
    container["image"] = json!(story.world.pod_image());
    container["imagePullPolicy"] = json!("Never");
    container["command"] = json!(["sh", "-c", script]);
    container["env"] = json!([
        {"name": "RANK", "valueFrom": annotation(names::RANK)},
        {"name": "GPUS", "valueFrom": annotation(&format!("{}gpu", names::INDEX_PREFIX))},
    ]);
    template
}

/// Batch jobs fill the hosts that have no kubelet.
async fn leave_only_kubelets(story: &Story) {
    for node in ["h1", "h2", "h3", "h4"] {
        if !story.world.kubelets().contains(&node) {
            sbatch(story, node, 8).await;
        }
    }
}

/// A batch job that sleeps there.
async fn sbatch(story: &Story, node: &str, gpus: u32) -> u32 {
    let (node, gpus) = (format!("--nodelist={node}"), format!("--gres=gpu:{gpus}"));
    let words = ["-p", "hybrid", "-n1", "-c1", "--mem=500", &node, &gpus];
    let id = story.slurm.sbatch("alice", &words);
    story.slurm.reaches(id, BaseState::Running).await;
    id
}

/// How many processes of the host's have a line like this in a file of /proc: those of a pod in `cgroup`, those of a job
/// in `environ`.
fn processes(story: &Story, file: &str, like: &str) -> usize {
    // One that ends meanwhile is none.
    let script = format!(
        "for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/{file} | grep -q '{like}' && echo $p; done 2>/dev/null; true"
    );
    story.world.run_as("root", "in-slurm", &["sh", "-c", &script]).lines().count()
}

/// The processes in a pod's containers, and in its sandbox.
fn contained(story: &Story, pod: &Pod) -> usize {
    processes(story, "cgroup", &format!("pod{}/", pod.uid))
}

async fn emptied(story: &Story, pod: &Pod) {
    wait(&format!("no process of {} is left", pod.name), SOON, async || {
        match contained(story, pod) {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    })
    .await;
}

async fn running(story: &Story, pod: &Pod) {
    wait(&format!("the container of {} runs", pod.name), SOON, async || {
        let container = story.kube.container(&pod.name).await;
        let state = container.as_ref().and_then(|container| container.state.as_ref());
        let runs = state.is_some_and(|state| state.running.is_some());
        if runs { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
}

/// Waits until it has printed a line.
async fn printed(story: &Story, pod: &Pod) -> String {
    wait(&format!("{} prints a line", pod.name), SOON, async || {
        let said = story.kube.logs(&pod.name).await;
        if said.ends_with('\n') { Ok(said.trim().to_owned()) } else { Err(said) }
    })
    .await
}

#[tokio::test]
async fn a_gang_really_runs_beside_a_batch_job_and_is_really_gone_after_scancel() {
    let Some(story) = begin("kubelet").await else { return };
    leave_only_kubelets(&story).await;
    let batch = sbatch(&story, "h1", 3).await;
    let script = "trap 'exit 0' TERM; echo rank $RANK has $GPUS; sleep infinity & wait";
    let template = template(&story, 4, script);
    story.kube.create(&manifest::pod_group("gang", 2)).await;
    for name in ["gang-0", "gang-1"] {
        story.kube.create(&manifest::pod_of_group(name, "gang", &template)).await;
    }
    let pods = story.bound("gang-", 2).await;
    let bound = Instant::now();
    for pod in &pods {
        running(&story, pod).await;
    }
    story.note(&format!(
        "both containers run {} ms after the Bindings",
        bound.elapsed().as_millis()
    ));
    let placeholder = story.seated(&pods).await;
    for pod in &pods {
        let node = pod.node.as_deref().expect("it is bound");
        assert!(story.world.kubelets().contains(&node), "{node} has a kubelet");
        // What the process knows is what Slurm has given.
        let gpus = &pod.annotations[&format!("{}gpu", names::INDEX_PREFIX)];
        assert_eq!(printed(&story, pod).await, format!("rank {} has {gpus}", pod.rank()));
    }

    // On one host, in one table of processes, and on GPUs of their own.
    let on_h1 = pods.iter().find(|pod| pod.node.as_deref() == Some("h1")).expect("one is on h1");
    let job = format!("^SLURM_JOB_ID={batch}$");
    let (theirs, ours) = (processes(&story, "environ", &job), contained(&story, on_h1));
    assert!(theirs > 0 && ours > 0, "{theirs} processes of the batch job, {ours} of the pod");
    let devices = async |id| story.slurm.devices(id, "gpu").await["h1"].clone();
    let (batch_gpus, gang_gpus) = (devices(batch).await, devices(placeholder.id.0).await);
    assert_eq!((batch_gpus.len(), gang_gpus.len()), (3, 4));
    assert!(gang_gpus.iter().all(|gpu| !batch_gpus.contains(gpu)));
    story.note(&format!(
        "on h1 {theirs} processes of the batch job with GPUs {batch_gpus:?}, {ours} of the pod with {gang_gpus:?}"
    ));

    story.slurm.scancel("alice", placeholder.id.0);
    story.gone("gang-").await;
    for pod in &pods {
        emptied(&story, pod).await;
    }
    assert!(processes(&story, "environ", &job) > 0, "the batch job goes on");
    story.end().await;
}

#[tokio::test]
async fn a_container_that_ends_ends_its_placeholder() {
    let Some(story) = begin("kubelet-ends").await else { return };
    leave_only_kubelets(&story).await;
    for (name, phase, code) in [("well", "Succeeded", 0), ("badly", "Failed", 3)] {
        let template = template(&story, 1, &format!("echo rank $RANK has $GPUS; exit {code}"));
        story.kube.create(&manifest::pod(name, &template)).await;
        let ended = wait(&format!("{name} becomes {phase}"), SOON, async || {
            let pod = story.kube.pod(name).await;
            if pod.phase == phase { Ok(pod) } else { Err(format!("{} {}", pod.phase, pod.why())) }
        })
        .await;
        let state = story.kube.container(name).await.and_then(|container| container.state);
        let end = state.and_then(|state| state.terminated);
        assert_eq!(end.map(|end| end.exit_code), Some(code), "as the process said");
        let gpus = &ended.annotations[&format!("{}gpu", names::INDEX_PREFIX)];
        assert_eq!(printed(&story, &ended).await, format!("rank 0 has {gpus}"));
        story.nothing_lives(Duration::from_secs(20)).await;
        emptied(&story, &ended).await;
    }
    story.end().await;
}

/// What `prolog` shows with pods that are nothing but an entry in the API, with a process that does not want to end. The
/// batch job itself looks who is still there.
#[tokio::test]
async fn a_batch_job_starts_when_the_container_on_its_gpus_has_ended() {
    let Some(story) = begin("kubelet-prolog").await else { return };
    let _prolog = Prolog::of(&story, "--deadline 120");
    for (node, gpus) in [("h1", 4), ("h2", 8), ("h3", 8), ("h4", 8)] {
        sbatch(&story, node, gpus).await;
    }
    let mut template =
        template(&story, 4, "trap '' TERM; echo stubborn; while :; do sleep 1; done");
    template["spec"]["terminationGracePeriodSeconds"] = json!(600);
    story.kube.create(&manifest::pod("stubborn", &template)).await;
    let pods = story.bound("stubborn", 1).await;
    let placeholder = story.seated(&pods).await;
    assert_eq!(printed(&story, &pods[0]).await, "stubborn");
    // What it prints may be there before the kubelet says so.
    let container = wait("the kubelet says that it runs", SOON, async || {
        let container = story.kube.container("stubborn").await;
        container.and_then(|own| own.container_id).ok_or_else(|| "not yet".to_owned())
    })
    .await
    .replace("containerd://", "");
    story.slurm.scancel("alice", placeholder.id.0);
    story.slurm.reaches(placeholder.id.0, BaseState::Cancelled).await;

    let id = sbatch_that_looks(&story, &container);
    // Slurm gives it the container's GPUs at once, and believes that it runs.
    story.slurm.reaches(id, BaseState::Running).await;
    let found = || {
        let file = story.world.slurm_tmp().join(format!("beside-{id}"));
        std::fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'))
    };
    stays("its script does not start beside the container", Duration::from_secs(3), async || {
        assert!(processes(&story, "cgroup", &container) > 0, "the container is there");
        found().map_or(Ok(()), |text| Err(format!("it started and found {text}")))
    })
    .await;
    // One of them may have ended by itself meanwhile.
    let kill = format!("kill -KILL $(grep -l {container} /proc/[0-9]*/cgroup | cut -d/ -f3) || :");
    story.world.run_as("root", "in-slurm", &["sh", "-c", &kill]);
    let beside =
        wait("its script starts", SOON, async || found().ok_or_else(|| "not yet".to_owned())).await;
    assert_eq!(beside.trim(), "0", "processes of the container beside the batch job");
    story.end().await;
}

/// A batch job that wants the other four GPUs of h1 and first of all counts the processes of a container.
fn sbatch_that_looks(story: &Story, container: &str) -> u32 {
    let look = format!("cat /proc/[0-9]*/cgroup 2>/dev/null | grep -c /{container}");
    let wrap = format!("--wrap={look} > /tmp/beside-$SLURM_JOB_ID; sleep 600");
    let words = ["--parsable", "--output=/dev/null", "-p", "hybrid", "-n1", "-c1", "--mem=500"];
    let words = [&words[..], &["--nodelist=h1", "--gres=gpu:4", &wrap]].concat();
    let said = story.world.run_as("alice", "sbatch", &words);
    let id = said.split(';').next().and_then(|id| id.parse().ok()).expect("a job id");
    story.slurm.adopt(JobId(id));
    id
}
