//! `cargo xtask bench faults`: everything that is broken on purpose on the real stack, and how soon it is
//! got over. The stories do it; here they get their worlds, and their figures are judged.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::leashed;
use crate::progress::step;
use crate::world::{self, Wish, repo};

/// How long the nemesis goes on unless asked.
const SECONDS: u32 = 600;
/// Gangs that run while the bridge crashes, one GPU each, and the nodes they need.
const GANGS: usize = 1000;
const GPUS_PER_NODE: usize = 8;
/// How often each recovery is measured.
const REPEATS: &str = "20";
/// p99 after slurmrestd is back, after a crash of the bridge, and until a standby binds in its place.
const WITHIN_MS: [(&str, f64); 3] =
    [("slurmrestd", 2000.0), ("bridge", 5000.0), ("standby", 15_000.0)];
/// Histories that the simulator plays.
const SEEDS: &str = "10000";

/// What `bench faults` is asked for.
#[derive(Default)]
pub(crate) struct Ask {
    pub(crate) seconds: Option<u32>,
    pub(crate) seed: Option<u64>,
    pub(crate) gangs: Option<usize>,
}

/// Runs all of it; false when a rule was broken or a floor is missed.
pub(crate) fn run(ask: &Ask) -> Result<bool> {
    let seed = ask.seed.unwrap_or_else(any_seed);
    let seconds = ask.seconds.unwrap_or(SECONDS);
    let gangs = ask.gangs.unwrap_or(GANGS);
    let armed = ["--features", "fail-points"];
    build("building gangway with its fail points", &armed)?;
    let mut well = true;
    let mut lines = Vec::new();
    in_a_world(None, |env| {
        well &= story(env, "crash_points::", &[], &mut lines)?;
        // Where the one point is that has nothing to do with a gang's size and much with its members.
        well &= story(env, "loss::", &[], &mut lines)?;
        let words = [
            ("GANGWAY_NEMESIS_SECONDS", seconds.to_string()),
            ("GANGWAY_NEMESIS_SEED", seed.to_string()),
        ];
        well &= story(env, "nemesis::", &words, &mut lines)?;
        Ok(())
    })?;
    // Times are measured as they would be in production.
    build("building gangway in release", &["--release"])?;
    let nodes = gangs / GPUS_PER_NODE + 8;
    in_a_world(Some(nodes), |env| {
        let words = [
            ("GANGWAY_RECOVERY_GANGS", gangs.to_string()),
            ("GANGWAY_RECOVERY_REPEATS", REPEATS.to_owned()),
            ("GANGWAY_BIN", super::target()?.join("release/gangway").display().to_string()),
        ];
        well &= story(env, "recovery::", &words, &mut lines)?;
        well &= story(env, "election::the_standby", &words, &mut lines)?;
        Ok(())
    })?;
    well &= seeds()?;
    let missed = missed(&lines)?;
    for sentence in &missed {
        eprintln!("bench: {sentence}");
    }
    Ok(well && missed.is_empty())
}

/// Plays many histories in memory; false when one of them breaks a rule.
fn seeds() -> Result<bool> {
    let mut cargo = leashed(super::cargo());
    cargo.args(["run", "--locked", "--quiet", "--profile", "simulator", "-p", "gangway-simulator"]);
    cargo.args(["--", "--seeds", SEEDS]).current_dir(repo()?);
    Ok(cargo.status().context("cannot start cargo")?.success())
}

/// A seed that nobody has chosen.
fn any_seed() -> u64 {
    RandomState::new().build_hasher().finish() % 1_000_000
}

pub(super) fn build(what: &str, words: &[&str]) -> Result<()> {
    step(what, || {
        let mut cargo = leashed(super::cargo());
        cargo
            .args(["build", "--locked", "--quiet", "-p", "gangway"])
            .args(words)
            .current_dir(repo()?);
        ensure!(cargo.status().context("cannot start cargo")?.success(), "cargo build failed");
        Ok(())
    })
}

pub(super) fn in_a_world(
    nodes: Option<usize>,
    work: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let dir = repo()?.join("target/faults-world");
    world::down(&dir)?;
    // Where the bridge dies at every point, one of them is in `gangway extender`.
    let kube_scheduler = nodes.is_none();
    world::up(&Wish { nodes, kube_scheduler, ..Wish::of(&dir) })?;
    let worked = work(&dir.join("env"));
    let down = world::down(&dir);
    worked?;
    down
}

/// Tells one story, shows its figures as they come, and keeps them. False when it failed.
pub(super) fn story(
    env: &Path,
    name: &str,
    variables: &[(&str, String)],
    lines: &mut Vec<String>,
) -> Result<bool> {
    let mut cargo = leashed(super::cargo());
    cargo.args(["test", "--locked", "--quiet", "-p", "gangway-tests", "--test", "stories", name]);
    cargo.args(["--", "--nocapture"]).current_dir(repo()?).env("GANGWAY_WORLD_ENV", env);
    cargo.envs(variables.iter().map(|(name, value)| (*name, value)));
    figures(&mut cargo, lines)
}

/// Runs tests, shows their figures as they come, and keeps them. False when one failed.
pub(super) fn figures(cargo: &mut Command, lines: &mut Vec<String>) -> Result<bool> {
    let mut running = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = running.stdout.take().context("the tests have no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        match line.split_once(": {") {
            Some((_, figures)) => {
                println!("{{{figures}");
                lines.push(format!("{{{figures}"));
            }
            None => eprintln!("{line}"),
        }
    }
    Ok(running.wait()?.success())
}

/// A sentence for every floor that was missed.
fn missed(lines: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (after, within) in WITHIN_MS {
        let of = |line: &&String| line.contains(&format!("\"recovery\":\"{after}\""));
        let line = lines.iter().find(of);
        let line = line.with_context(|| format!("nothing was said of recovery after {after}"))?;
        let took = super::number(line, "next_bind_ms_p99")?;
        if took > within {
            out.push(format!(
                "after {after}, the next bind took {took} ms (p99); the floor is {within} ms"
            ));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(after: &str, took: f64) -> String {
        format!("{{\"next_bind_ms_p99\":{took},\"recovery\":\"{after}\"}}")
    }

    #[test]
    fn a_recovery_that_is_too_slow_is_a_missed_floor() {
        let by = |late: f64| WITHIN_MS.map(|(after, within)| line(after, within + late));
        assert!(missed(&by(0.0)).expect("read").is_empty());
        let slow = missed(&by(1.0)).expect("read");
        assert_eq!(slow.len(), WITHIN_MS.len(), "{slow:?}");
        for (after, _) in WITHIN_MS {
            let told = WITHIN_MS.into_iter().filter(|(other, _)| *other != after);
            let told: Vec<_> = told.map(|(after, within)| line(after, within)).collect();
            assert!(missed(&told).is_err(), "nothing was measured after {after}");
        }
    }
}
