//! `cargo xtask bench`: what it costs, in lines of JSON, and the floors below which it must not fall.

pub(crate) mod admission;
pub(crate) mod faults;
pub(crate) mod gate;
pub(crate) mod nodes;
pub(crate) mod sights;
mod table;
pub(crate) mod ui;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Process, cargo, leashed, tail, wait_for};
use crate::progress::{say, step};
use crate::world::daemons::Daemons;
use crate::world::ports::Ports;
use crate::world::{self, Wish, bridge, doors, repo};

/// Nodes unless asked: room for the largest shape twice.
const NODES: usize = 256;

/// One pod per node and 128 pods: from the first create until the last bind is seen, in every trial.
const LARGE: &str = "1x128";
const LARGE_WITHIN_MS: f64 = 3000.0;
/// Writes to the API server per pod, in every shape: its binding and nothing else.
const WRITES_PER_POD: f64 = 1.0;
/// Writes to a Gang, in every shape: it comes, and each of its phases is told.
const WRITES_PER_GANG: f64 = 3.0;
/// Reads per pod: only what a watch that fell behind asks again.
const READS_PER_POD: f64 = 0.1;

/// Nodes of the world in which many pods wait.
const MANY_NODES: usize = 5000;

/// Everything, as one table with the figures of the last release beside it; `accept` makes these the
/// last release's. False when a floor is missed.
pub(crate) fn all(accept: bool) -> Result<bool> {
    let mut lines = core_lines()?;
    let (shapes, well) = shapes(NODES, None)?;
    lines.extend(shapes);
    lines.extend(many()?);
    table::show(&repo()?.join("benches/BASELINE.md"), &lines, accept)?;
    Ok(well)
}

/// The core in memory; no world is needed.
pub(crate) fn core() -> Result<bool> {
    core_lines().map(|_| true)
}

fn core_lines() -> Result<Vec<String>> {
    let mut cargo = leashed(cargo());
    cargo.args(["bench", "--locked", "--quiet", "-p", "gangway-bench-core", "--bench", "wall"]);
    cargo.current_dir(repo()?);
    lines_of(&mut cargo)
}

/// The bridge on a real stack of its own. False when a floor is missed.
pub(crate) fn e2e(nodes: Option<usize>, repeats: Option<usize>) -> Result<bool> {
    shapes(nodes.unwrap_or(NODES), repeats).map(|(_, well)| well)
}

/// Twenty thousand pods that wait, in a world of five thousand nodes.
pub(crate) fn many() -> Result<Vec<String>> {
    in_a_world(MANY_NODES, |dir, _| measure(dir, &["pending"]))
}

fn shapes(nodes: usize, repeats: Option<usize>) -> Result<(Vec<String>, bool)> {
    let repeats = repeats.map(|n| vec!["--repeats".to_owned(), n.to_string()]).unwrap_or_default();
    let repeats: Vec<&str> = repeats.iter().map(String::as_str).collect();
    let lines = in_a_world(nodes, |dir, bridge| {
        let mut lines = measure(dir, &repeats)?;
        lines.extend(measure(dir, &["blocked"])?);
        bridge.stop(Duration::from_secs(30))?;
        start_bridge(dir, &through_the_queue(dir)?)?;
        lines.extend(measure(dir, &[&["queued"], repeats.as_slice()].concat())?);
        Ok(lines)
    })?;
    let kept = target()?.join("bench-e2e.jsonl");
    fs::write(&kept, lines.join("\n") + "\n")?;
    say(&format!("the lines are kept in {}", kept.display()));
    let missed = missed(&lines)?;
    for sentence in &missed {
        eprintln!("bench: {sentence}");
    }
    Ok((lines, missed.is_empty()))
}

/// Measures with a bridge in a world of its own.
fn in_a_world(
    nodes: usize,
    measure: impl FnOnce(&Path, Process) -> Result<Vec<String>>,
) -> Result<Vec<String>> {
    let dir = repo()?.join("target/bench-world");
    build()?;
    // One that an interrupted run has left would bring its old bridge along.
    world::down(&dir)?;
    world::up(&Wish { nodes: Some(nodes), ..Wish::of(&dir) })?;
    let bridge = start_bridge(&dir, &dir.join("gangway.yaml"));
    let measured = bridge.and_then(|bridge| measure(&dir, bridge));
    let down = world::down(&dir);
    let lines = measured?;
    down?;
    Ok(lines)
}

/// Builds the bridge and its bench the way they are measured.
fn build() -> Result<()> {
    let mut cargo = leashed(cargo());
    // In one go: apart, their dependencies would be built twice with different features.
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--quiet",
        "-p",
        "gangway",
        "-p",
        "gangway-benches",
    ]);
    cargo.current_dir(repo()?);
    step("building gangway and its bench in release", || {
        ensure!(cargo.status().context("cannot start cargo")?.success(), "cargo build failed");
        Ok(())
    })
}

/// The world's own configuration of the bridge, but every gang goes through Slurm's queue.
fn through_the_queue(dir: &Path) -> Result<PathBuf> {
    let usual = fs::read_to_string(dir.join("gangway.yaml"))?;
    let queued = usual.replace("slurm: { ", "slurm: { immediate: false, ");
    ensure!(queued != usual, "gangway.yaml has no section slurm");
    let file = dir.join("gangway-queued.yaml");
    fs::write(&file, queued).context("cannot write the configuration without immediate path")?;
    Ok(file)
}

/// Starts the release build as a daemon of the world and waits until it is ready.
fn start_bridge(dir: &Path, config: &Path) -> Result<Process> {
    let dir = dir.canonicalize()?;
    let daemons = Daemons::of(&dir);
    let mut command = Command::new(target()?.join("release/gangway"));
    command.arg("scheduler").arg("--config").arg(config.canonicalize()?);
    command.env("KUBECONFIG", dir.join("kubernetes/gangway.kubeconfig"));
    let process = daemons.start("gangway", &mut command)?;
    let (log, health) = (daemons.log("gangway"), Ports::of(&dir)?.port("health"));
    let ready = wait_for(Duration::from_secs(60), || {
        ensure!(process.alive(), "gangway ended; {}", tail(&log));
        Ok(bridge::status(health, "/readyz") == Some(200))
    })?;
    ensure!(ready, "gangway is not ready after 60 s; {}", tail(&log));
    doors::add(&dir, &[("GANGWAY_PID", &process.pid.to_string())])?;
    Ok(process)
}

/// Runs the bench with these words, shows its lines as they come, and gives them back.
fn measure(dir: &Path, words: &[&str]) -> Result<Vec<String>> {
    say("measuring");
    let mut bench = leashed("sh");
    bench.args(["-c", ". \"$0\"; exec \"$@\""]).arg(dir.join("env"));
    bench.arg(target()?.join("release/e2e")).args(words);
    lines_of(&mut bench)
}

/// The lines of a command, shown as they come.
fn lines_of(command: &mut Command) -> Result<Vec<String>> {
    let running = command.stdout(Stdio::piped()).spawn();
    let mut running = running.context("cannot start the bench")?;
    let output = running.stdout.take().context("the bench has no output")?;
    let mut lines = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        lines.push(line);
    }
    ensure!(running.wait()?.success(), "the bench failed; see above");
    Ok(lines)
}

/// A sentence for every floor that was missed.
fn missed(lines: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut seen_large = false;
    for line in lines.iter().filter(|line| line.contains("\"api_writes_per_pod\"")) {
        let shape = text(line, "shape")?;
        for (what, floor) in [("pod", WRITES_PER_POD), ("gang", WRITES_PER_GANG)] {
            let writes = number(line, &format!("api_writes_per_{what}"))?;
            if writes > floor {
                out.push(format!(
                    "shape {shape} took {writes} writes per {what}; the floor is {floor}"
                ));
            }
        }
        let reads = number(line, "api_reads_per_pod")?;
        if reads > READS_PER_POD {
            out.push(format!(
                "shape {shape} took {reads} reads per pod; the floor is {READS_PER_POD}"
            ));
        }
        if shape == LARGE {
            seen_large = true;
            let slowest = number(line, "last_bound_ms_max")?;
            if slowest >= LARGE_WITHIN_MS {
                out.push(format!(
                    "the last pod of {LARGE} was bound after {slowest} ms; the floor is {LARGE_WITHIN_MS} ms"
                ));
            }
        }
    }
    if !seen_large {
        bail!("the bench said nothing of shape {LARGE}");
    }
    Ok(out)
}

/// The value of a key in a line of JSON without spaces, as the bench writes it.
fn value<'a>(line: &'a str, key: &str) -> Result<&'a str> {
    let found = line.split_once(&format!("\"{key}\":")).map(|(_, rest)| rest);
    let end = |rest: &'a str| rest.split([',', '}']).next();
    found.and_then(end).with_context(|| format!("the bench says no {key}: {line}"))
}

fn text<'a>(line: &'a str, key: &str) -> Result<&'a str> {
    let found =
        line.split_once(&format!("\"{key}\":\"")).and_then(|(_, rest)| rest.split_once('"'));
    found.map(|(text, _)| text).with_context(|| format!("the bench says no {key}: {line}"))
}

fn number(line: &str, key: &str) -> Result<f64> {
    value(line, key)?.parse().with_context(|| format!("{key} is not a number"))
}

fn target() -> Result<PathBuf> {
    let top = repo()?;
    Ok(top.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(shape: &str, writes: f64, last: f64) -> String {
        format!(
            "{{\"api_reads_per_pod\":0,\"api_writes_per_gang\":2,\"api_writes_per_pod\":{writes},\"last_bound_ms_max\":{last},\"shape\":\"{shape}\"}}"
        )
    }

    #[test]
    fn a_missed_floor_is_one_sentence() {
        let good = [line("1", 1.0, 20.0), line(LARGE, 1.0, 900.0)];
        assert!(missed(&good).is_ok_and(|sentences| sentences.is_empty()));
        let bad = [line("1", 1.3, 20.0), line(LARGE, 1.0, 3100.5)];
        let sentences = missed(&bad).unwrap();
        assert_eq!(sentences.len(), 2);
        assert!(sentences[1].contains("3100.5 ms"));
        assert!(missed(&[line("1", 1.0, 20.0)]).is_err());
    }
}
