//! `cargo xtask demo`: the main job on real parts, shown with what the parts themselves print.
//!
//! Every step waits for what it promises and fails when it does not come; nothing is pretended.

mod stage;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use self::stage::Stage;
use crate::progress::{minutes, say};
use crate::world::{self, Wish, bridge, repo};

/// Nodes in the demo's world: a gang of four fits three times, not four.
const NODES: usize = 12;

/// Brings up a world with the bridge, shows the main job in it, takes it down.
pub(crate) fn run() -> Result<()> {
    let began = Instant::now();
    let dir = repo()?.join("target/demo-world");
    std::thread::scope(|scope| {
        // The first time, the compiler has something to do while the world is being fetched. If it
        // fails, so does the build that starts the bridge, and says why.
        scope.spawn(|| drop(bridge::build()));
        world::up(&Wish { nodes: Some(NODES), bridge: true, ..Wish::of(&dir) })
    })?;
    let shown = Stage::open(&dir).and_then(|stage| play(&stage));
    let down = world::down(&dir);
    shown?;
    down?;
    say(&format!("the demo is over after {}", minutes(began.elapsed())));
    Ok(())
}

fn play(stage: &Stage) -> Result<()> {
    a_gang_is_bound(stage)?;
    a_gang_waits_for_room(stage)?;
    sbatch_shares_the_pool(stage)?;
    both_sides_end_together(stage)?;
    nothing_is_left(stage)
}

fn a_gang_is_bound(stage: &Stage) -> Result<()> {
    stage.title(
        "1. A PyTorchJob of 1 master + 3 workers, each 8 GPU and 32 EFA, crosses into Slurm",
    );
    stage.apply(&stage::pytorchjob("llama", 4, (8, 96), ""))?;
    let llama = "training.kubeflow.org/job-name=llama";
    stage.wait("four pods on four nodes", Duration::from_secs(30), || {
        Ok(stage.nodes_of(llama)?.into_iter().collect::<BTreeSet<_>>().len() == 4)
    })?;
    ensure!(stage.ranks_of(llama)? == ["0", "1", "2", "3"], "the ranks are not in order");
    ensure!(stage.gpus_of(llama)? == ["0-7"; 4], "a pod does not have the eight GPUs of its node");
    let job = stage.job_of(llama)?;
    ensure!(stage.is_running(&job)?, "Slurm does not show job {job} as running");
    stage.show("kubectl", &stage::placement(llama))?;
    stage.show("squeue", &["-o", "%.10i %.10P %.14j %.8u %.2t %.5D %N"])
}

fn a_gang_waits_for_room(stage: &Stage) -> Result<()> {
    stage.title("2. Two more fill the pool; a fourth does not fit yet, and its pods say why");
    for name in ["mistral", "qwen", "gemma"] {
        stage.apply(&stage::pytorchjob(name, 4, (8, 96), ""))?;
        if name != "gemma" {
            let label = format!("training.kubeflow.org/job-name={name}");
            stage.wait("a gang in the pool", Duration::from_secs(30), || {
                Ok(stage.nodes_of(&label)?.len() == 4)
            })?;
        }
    }
    let gemma = "training.kubeflow.org/job-name=gemma";
    stage.wait("Slurm's reason on the waiting pods", Duration::from_secs(30), || {
        Ok(stage.conditions_of(gemma)?.lines().filter(|l| l.contains("Resources")).count() == 4)
    })?;
    ensure!(stage.nodes_of(gemma)?.is_empty(), "a pod was bound without room for its gang");
    stage.show("kubectl", &stage::why(gemma))?;
    stage.show("squeue", &["-o", "%.10i %.10P %.14j %.8u %.2t %.5D %R"])?;
    stage.say("Room appears: mistral is deleted.");
    stage.delete("pytorchjob/mistral")?;
    stage.wait("gemma in the freed nodes", Duration::from_secs(30), || {
        Ok(stage.nodes_of(gemma)?.len() == 4)
    })?;
    stage.show("kubectl", &stage::placement(gemma))
}

fn sbatch_shares_the_pool(stage: &Stage) -> Result<()> {
    stage.title("3. sbatch users and pods share nodes that run slurmd: one queue, different GPUs");
    let sbatch = |name: &str, nodes: &str, gpus: u32| {
        let script = "#!/bin/sh\nwhile [ ! -e /tmp/demo-done ]; do sleep 0.2; done\n";
        let (name, gres) = (format!("--job-name={name}"), format!("--gres=gpu:{gpus}"));
        let words = ["--parsable", "-p", "hybrid", "-c", "2", "--mem=500", "-o", "/dev/null"];
        let words = [&words[..], &[&name, &gres, "-N", nodes]].concat();
        stage.as_alice("sbatch", &words, script)
    };
    let half = sbatch("half", "4", 4)?;
    stage.wait("the sbatch job", Duration::from_secs(30), || stage.is_running(&half))?;
    stage.apply(&stage::pytorchjob("finetune", 4, (4, 2), "hybrid"))?;
    let finetune = "training.kubeflow.org/job-name=finetune";
    stage.wait("pods beside the sbatch job", Duration::from_secs(30), || {
        Ok(stage.nodes_of(finetune)?.len() == 4)
    })?;
    stage.say("Both run at once on h1 to h4: alice's sbatch job has four GPUs of each, the pods the others.");
    stage.show_lines("scontrol", &["show", "job", "-d", &half], "GRES=gpu")?;
    stage.show("kubectl", &stage::placement(finetune))?;
    let whole = sbatch("whole", "4", 8)?;
    // Of the eight CPUs of a node it needs so many that there is no room for it before both are gone: four GPUs that
    // are free for a moment are what backfill may give to whoever comes later.
    stage.apply(&stage::pytorchjob("eval", 4, (4, 7), "hybrid"))?;
    let eval = "training.kubeflow.org/job-name=eval";
    stage.wait("both waiting in one queue", Duration::from_secs(30), || {
        Ok(!stage.is_running(&whole)? && stage.conditions_of(eval)?.contains("Slurm job"))
    })?;
    stage.say("An sbatch job for whole nodes waits for the pods; more pods wait behind it, in the same queue.");
    stage.show("squeue", &["-p", "hybrid", "-o", "%.10i %.14j %.8u %.2t %.5D %R"])?;
    stage.let_sbatch_end()?;
    stage.delete("pytorchjob/finetune")?;
    stage.wait("sbatch first, then the pods", Duration::from_secs(60), || {
        let pods = stage.nodes_of(eval)?.len() == 4;
        ensure!(!pods || stage.has_ended(&whole)?, "the pods overtook the sbatch job before them");
        Ok(pods)
    })?;
    stage.show("kubectl", &stage::placement(eval))?;
    stage.delete("pytorchjob/eval")
}

fn both_sides_end_together(stage: &Stage) -> Result<()> {
    stage.title(
        "4. Both sides end together: scancel evicts the pods, deleting pods ends the placeholder",
    );
    let llama = "training.kubeflow.org/job-name=llama";
    let job = stage.job_of(llama)?;
    let before = stage.uids_of(llama)?;
    stage.run("scancel", &[&job])?;
    stage.wait("the pods evicted", Duration::from_secs(30), || {
        let now = stage.uids_of(llama)?;
        Ok(before.iter().all(|uid| !now.contains(uid)))
    })?;
    stage.show("kubectl", &stage::evictions())?;
    stage.say("The training-operator has made new pods, which are a new gang in the queue. Deleting everything:");
    stage.delete("pytorchjobs --all")?;
    Ok(())
}

fn nothing_is_left(stage: &Stage) -> Result<()> {
    stage.wait("0 pods and 0 jobs left", Duration::from_secs(30), || {
        Ok(stage.count("kubectl", &["get", "pods", "-A", "--no-headers"])? == 0
            && stage.count("squeue", &["-h"])? == 0)
    })?;
    stage.say("0 pods, 0 jobs left.");
    Ok(())
}
