//! The demo's hands: runs the world's own commands and shows what they print.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{ask, wait_for};
use crate::progress::say;

/// A world that is up, with its commands.
pub(super) struct Stage {
    dir: PathBuf,
}

impl Stage {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("no world in {}", dir.display()))?;
        Ok(Self { dir })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.dir.join("bin").join(program));
        command.env("KUBECONFIG", self.dir.join("kubernetes/kubeconfig"));
        command
    }

    pub(super) fn title(&self, text: &str) {
        println!();
        say(text);
    }

    pub(super) fn say(&self, text: &str) {
        say(text);
    }

    /// Runs one of the world's commands and gives back what it printed.
    pub(super) fn run(&self, program: &str, words: &[&str]) -> Result<String> {
        ask(self.command(program).args(words), "")
    }

    /// Shows a command and what it prints.
    pub(super) fn show(&self, program: &str, words: &[impl AsRef<str>]) -> Result<()> {
        self.show_lines(program, words, "")
    }

    /// Shows a command and those lines of what it prints that hold `word`.
    pub(super) fn show_lines(
        &self,
        program: &str,
        words: &[impl AsRef<str>],
        word: &str,
    ) -> Result<()> {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let shown: Vec<&str> = words.iter().map(|w| w.split('=').next().unwrap_or(w)).collect();
        println!("  $ {program} {}", shown.join(" "));
        for line in self.run(program, &words)?.lines().filter(|line| line.contains(word)) {
            println!("    {}", line.trim_end());
        }
        Ok(())
    }

    pub(super) fn apply(&self, yaml: &str) -> Result<()> {
        ask(self.command("kubectl").args(["apply", "-f", "-"]), yaml).map(drop)
    }

    pub(super) fn delete(&self, what: &str) -> Result<()> {
        let words: Vec<&str> =
            ["delete", "--wait=false"].into_iter().chain(what.split(' ')).collect();
        self.run("kubectl", &words).map(drop)
    }

    pub(super) fn as_alice(&self, program: &str, words: &[&str], input: &str) -> Result<String> {
        let out = ask(self.command(program).args(words).env("SLURM_AS", "alice"), input)?;
        Ok(out.trim().to_owned())
    }

    /// Waits for a promise; one that is not kept fails the demo.
    pub(super) fn wait(
        &self,
        what: &str,
        limit: Duration,
        condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        if wait_for(limit, condition)? {
            return Ok(());
        }
        let log = self.dir.join("gangway.log");
        bail!("{what}: not within {limit:?}; {}", crate::process::tail(&log));
    }

    /// The nodes of the bound pods with a label.
    pub(super) fn nodes_of(&self, label: &str) -> Result<Vec<String>> {
        self.field(label, "{.spec.nodeName}")
    }

    pub(super) fn uids_of(&self, label: &str) -> Result<Vec<String>> {
        self.field(label, "{.metadata.uid}")
    }

    /// In the order of the pods' names.
    pub(super) fn ranks_of(&self, label: &str) -> Result<Vec<String>> {
        self.field(label, r"{.metadata.annotations.gangway\.dev/rank}")
    }

    pub(super) fn gpus_of(&self, label: &str) -> Result<Vec<String>> {
        self.field(label, r"{.metadata.annotations.gangway\.dev/index\.gpu}")
    }

    /// The Slurm job that the pods with a label are bound for.
    pub(super) fn job_of(&self, label: &str) -> Result<String> {
        let jobs = self.field(label, r"{.metadata.annotations.gangway\.dev/job-id}")?;
        jobs.into_iter().next().context("the pods have no job")
    }

    pub(super) fn conditions_of(&self, label: &str) -> Result<String> {
        let lines =
            self.field(label, r#"{.status.conditions[?(@.type=="PodScheduled")].message}"#)?;
        Ok(lines.join("\n"))
    }

    /// One field of every pod with a label, where it is not empty.
    fn field(&self, label: &str, path: &str) -> Result<Vec<String>> {
        let path = format!(r#"jsonpath={{range .items[*]}}{path}{{"\n"}}{{end}}"#);
        let out = self.run("kubectl", &["get", "pods", "-l", label, "-o", &path])?;
        Ok(out.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    pub(super) fn is_running(&self, job: &str) -> Result<bool> {
        Ok(self.run("squeue", &["-h", "-j", job, "-o", "%t"])?.trim() == "R")
    }

    pub(super) fn has_ended(&self, job: &str) -> Result<bool> {
        // A job that ended a moment ago is still listed, with its last state.
        let state = self.run("squeue", &["-h", "-t", "all", "-j", job, "-o", "%t"])?;
        Ok(["CG", "CD"].contains(&state.trim()))
    }

    /// Lets the demo's sbatch jobs end.
    pub(super) fn let_sbatch_end(&self) -> Result<()> {
        self.run("in-slurm", &["touch", "/tmp/demo-done"]).map(drop)
    }

    pub(super) fn count(&self, program: &str, words: &[&str]) -> Result<usize> {
        Ok(self.run(program, words)?.lines().count())
    }
}

/// A PyTorchJob of one master and `pods - 1` workers, each with that many GPUs.
pub(super) fn pytorchjob(
    name: &str,
    pods: u32,
    (gpus, cpu): (u32, u32),
    partition: &str,
) -> String {
    // The hybrid nodes are small; the p5 nodes are taken whole.
    let (memory, efa) = if gpus == 8 { ("512Gi", 32) } else { ("500Mi", 0) };
    let annotations = match partition {
        "" => String::new(),
        partition => format!("  annotations: {{gangway.dev/partition: {partition}}}\n"),
    };
    let efa = if efa == 0 { String::new() } else { format!(", vpc.amazonaws.com/efa: {efa}") };
    let template = format!(
        "      template:
        spec:
          schedulerName: gangway
          containers:
          - name: pytorch
            image: example.com/train
            resources:
              requests: {{cpu: {cpu}, memory: {memory}}}
              limits: {{nvidia.com/gpu: {gpus}{efa}}}
"
    );
    let workers = pods - 1;
    format!(
        "apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: {name}
{annotations}spec:
  pytorchReplicaSpecs:
    Master:
      replicas: 1
{template}    Worker:
      replicas: {workers}
{template}"
    )
}

/// The words for kubectl to print who sits where.
pub(super) fn placement(label: &str) -> Vec<String> {
    let columns = [
        r"POD:.metadata.name",
        r"NODE:.spec.nodeName",
        r"RANK:.metadata.annotations.gangway\.dev/rank",
        r"GPU:.metadata.annotations.gangway\.dev/index\.gpu",
        r"EFA:.metadata.annotations.gangway\.dev/index\.efa",
        r"JOB:.metadata.annotations.gangway\.dev/job-id",
    ];
    columns_of(label, &columns)
}

/// The words for kubectl to print why pods wait.
pub(super) fn why(label: &str) -> Vec<String> {
    columns_of(
        label,
        &["POD:.metadata.name", r#"WHY:.status.conditions[?(@.type=="PodScheduled")].message"#],
    )
}

fn columns_of(label: &str, columns: &[&str]) -> Vec<String> {
    let columns = format!("custom-columns={}", columns.join(","));
    ["get", "pods", "-l", label, "-o", &columns].map(str::to_owned).to_vec()
}

/// The words for kubectl to print why pods were evicted.
pub(super) fn evictions() -> Vec<String> {
    let only = "reason=Evicted,involvedObject.kind=PyTorchJob";
    let columns = "custom-columns=OWNER:.involvedObject.name,MESSAGE:.message";
    ["get", "events", "--field-selector", only, "-o", columns].map(str::to_owned).to_vec()
}
