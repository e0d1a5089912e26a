//! `cargo xtask bench gate`: counts the instructions of the core's cases and compares them with those that are
//! committed.
//!
//! Wall time says little on a busy machine; instructions repeat. valgrind counts those of one function, in which a case
//! runs once, warm. More than two per cent off, in either direction, is a change that somebody has to look at:
//! `cargo xtask bench gate --accept` writes the new counts down. Another compiler counts a little differently, so with
//! another one than was written down the gate is wider, never open.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::debian::installed;
use crate::process::{ask, leashed};
use crate::world::repo;
use anyhow::{Context, Result, ensure};

/// Where the counts are kept, in the repository.
const KEPT: &str = "benches/instructions.txt";
/// How far a count may be off, in per cent.
const SAME_COMPILER: f64 = 2.0;
const OTHER_COMPILER: f64 = 10.0;
/// The function whose instructions are counted: `benches/core/src/bin/instructions.rs`.
const FUNCTION: &str = "*counted_work*";

/// The counts of one run.
#[derive(Debug, PartialEq)]
struct Counts {
    rustc: String,
    of: BTreeMap<String, u64>,
}

/// Counts and compares, or counts and writes down. False when a count is off.
pub(crate) fn run(accept: bool) -> Result<bool> {
    let top = repo()?;
    let now = count(&top)?;
    let file = top.join(KEPT);
    if accept {
        fs::write(&file, now.to_text()).with_context(|| format!("cannot write {KEPT}"))?;
        println!("{} counts are written to {KEPT}", now.of.len());
        return Ok(true);
    }
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {KEPT}"))?;
    let kept = Counts::parse(&text).with_context(|| format!("{KEPT} is not what was written"))?;
    let (lines, well) = compare(&kept, &now);
    lines.iter().for_each(|line| println!("{line}"));
    Ok(well)
}

/// Builds the cases and runs each once under valgrind.
fn count(top: &Path) -> Result<Counts> {
    let mut build = leashed(super::cargo());
    build.args([
        "build",
        "--locked",
        "--release",
        "--quiet",
        "-p",
        "gangway-bench-core",
        "--bin",
        "instructions",
    ]);
    ensure!(
        build.current_dir(top).status().context("cannot start cargo")?.success(),
        "cargo build failed"
    );
    installed("valgrind")?;
    let program = super::target()?.join("release/instructions");
    let cases = ask(&mut Command::new(&program), "")?;
    let of = each(&cases.lines().collect::<Vec<_>>(), |case| instructions(&program, case))?;
    ensure!(!of.is_empty(), "there is nothing to count");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = ask(Command::new(rustc).arg("--version"), "")?.trim().to_owned();
    Ok(Counts { rustc, of })
}

/// Counts all cases, as many at a time as there are cores: they do not disturb each other's counts.
fn each(
    cases: &[&str],
    count: impl Fn(&str) -> Result<u64> + Sync,
) -> Result<BTreeMap<String, u64>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut counted = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            counted.push(((*case).to_owned(), count(case)?));
        }
        Ok(counted)
    };
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut of = BTreeMap::new();
        for worker in workers {
            let counted: Result<Vec<_>> =
                worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
            of.extend(counted?);
        }
        Ok(of)
    })
}

fn instructions(program: &Path, case: &str) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(format!("--toggle-collect={FUNCTION}")).arg(program).arg(case);
    let output = valgrind.output().context("cannot start valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{case} failed under valgrind: {said}");
    let counted =
        said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    let counted: u64 =
        counted.with_context(|| format!("valgrind counted nothing for {case}: {said}"))?;
    ensure!(counted > 0, "valgrind did not find {FUNCTION} in {case}");
    Ok(counted)
}

/// A line for each case, and whether all are where they were.
fn compare(kept: &Counts, now: &Counts) -> (Vec<String>, bool) {
    let allowed = if kept.rustc == now.rustc { SAME_COMPILER } else { OTHER_COMPILER };
    let mut lines =
        vec![format!("{:<44}{:>12}{:>12}{:>9}", "instructions", "kept", "now", "change")];
    let mut well = true;
    let mut names: Vec<&String> = kept.of.keys().chain(now.of.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (before, after) = (kept.of.get(name), now.of.get(name));
        let shown = |n: Option<&u64>| n.map_or_else(|| "none".to_owned(), u64::to_string);
        let change = match (before, after) {
            (Some(before), Some(after)) => (*after as f64 / *before as f64 - 1.0) * 100.0,
            _ => f64::INFINITY,
        };
        let near = |(before, after): (&u64, &u64)| {
            after.abs_diff(*before) as f64 * 100.0 <= allowed * *before as f64
        };
        let fits = before.zip(after).is_some_and(near);
        well &= fits;
        let end = if fits { "" } else { "  FAILED" };
        lines.push(format!(
            "{name:<44}{:>12}{:>12}{change:>+8.2}%{end}",
            shown(before),
            shown(after)
        ));
    }
    if kept.rustc != now.rustc {
        lines.push(format!("kept with {}, now {}: {allowed} % are allowed", kept.rustc, now.rustc));
    }
    if !well {
        lines.push(format!(
            "more than {allowed} % off; if that is as it should be: cargo xtask bench gate --accept"
        ));
    }
    (lines, well)
}

impl Counts {
    /// The compiler on the first line, then a case and its count on each.
    fn to_text(&self) -> String {
        let lines = self.of.iter().map(|(name, n)| format!("{name} {n}\n"));
        format!("{}\n{}", self.rustc, lines.collect::<String>())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let rustc = lines.next()?.to_owned();
        let count = |line: &str| {
            let (name, n) = line.split_once(' ')?;
            Some((name.to_owned(), n.parse().ok()?))
        };
        Some(Self { rustc, of: lines.map(count).collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rustc: &str, of: &[(&str, u64)]) -> Counts {
        let of = of.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        Counts { rustc: rustc.to_owned(), of }
    }

    #[test]
    fn more_than_two_per_cent_in_either_direction_fails() {
        let kept = counts("1.95", &[("place", 1000)]);
        for (now, well) in [(1000, true), (1020, true), (980, true), (1021, false), (979, false)] {
            assert_eq!(compare(&kept, &counts("1.95", &[("place", now)])).1, well, "{now}");
        }
        assert!(compare(&kept, &counts("1.96", &[("place", 1090)])).1, "another compiler");
        assert!(!compare(&kept, &counts("1.96", &[("place", 1110)])).1);
    }

    #[test]
    fn a_case_on_one_side_only_fails() {
        let (one, two) = (counts("", &[("a", 1)]), counts("", &[("a", 1), ("b", 1)]));
        assert!(!compare(&one, &two).1 && !compare(&two, &one).1);
    }

    #[test]
    fn counts_survive_their_file() {
        let kept = counts("rustc 1.95.0", &[("a/b", 7)]);
        assert_eq!(Counts::parse(&kept.to_text()), Some(kept));
    }
}
