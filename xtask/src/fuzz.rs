//! `cargo xtask fuzz`: throws random bytes at everything that reads bytes from outside.
//!
//! The targets lie in fuzz/targets; what must hold is in tests/oracles. A run begins with the committed seeds and
//! with what earlier runs have found worth keeping, in the cache. The targets are built as cargo-fuzz builds them
//! without a sanitizer: our code has no `unsafe` for one to look at, and so any stable compiler will do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache;
use crate::process::{ask, cargo, leashed};
use crate::world::repo;

/// Seconds for each target, unless said otherwise.
pub(crate) const SECONDS: u32 = 60;
/// What one input may take: memory in MiB, and seconds.
const MEMORY_MIB: u32 = 1_024;
const INPUT_SECONDS: u32 = 10;
/// Bytes of the longest input.
const LONGEST: u32 = 16_384;
/// What tells the fuzzer where an input has led.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1";

/// Runs one target, or all, for so long each. False when something was found.
pub(crate) fn run(only: Option<&str>, seconds: u32) -> Result<bool> {
    let top = repo()?;
    let all = targets(&top)?;
    let chosen: Vec<&String> = all.iter().filter(|name| only.is_none_or(|o| o == *name)).collect();
    if chosen.is_empty() {
        bail!("there is no target `{}`; there are {}", only.unwrap_or_default(), all.join(", "));
    }
    let programs = build(&top)?;
    let mut found = Vec::new();
    for target in chosen {
        println!("== {target}, {seconds} s");
        if !one(&top, &programs, target, seconds)? {
            found.push(target.as_str());
        }
    }
    if !found.is_empty() {
        eprintln!("something was found: {}; the input lies in target/fuzz/found", found.join(", "));
    }
    Ok(found.is_empty())
}

fn targets(top: &Path) -> Result<Vec<String>> {
    let dir = top.join("fuzz/targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Builds every target. Returns the directory they are in.
fn build(top: &Path) -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = ask(Command::new(rustc).arg("-vV"), "")?;
    // Named, so that build scripts and macros are built without the flags.
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV")?;
    let dir = top.join("target/fuzz");
    let mut cargo = leashed(cargo());
    cargo.current_dir(top).env("RUSTFLAGS", COVERAGE);
    cargo.args(["build", "--release", "--locked", "--bins", "--manifest-path", "fuzz/Cargo.toml"]);
    cargo.args(["--target", host, "--target-dir"]).arg(&dir);
    ensure!(cargo.status().context("cannot start cargo")?.success(), "the targets cannot be built");
    Ok(dir.join(host).join("release"))
}

fn one(top: &Path, programs: &Path, target: &str, seconds: u32) -> Result<bool> {
    let corpus = cache::home()?.with_file_name("fuzz").join(target);
    let found = top.join("target/fuzz/found");
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&found)?;
    let mut fuzz = leashed(programs.join(target));
    // The first directory takes what is worth keeping.
    fuzz.arg(&corpus).arg(top.join("fuzz/seeds").join(target));
    fuzz.arg(format!("-artifact_prefix={}/{target}-", found.display()));
    fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST}"));
    fuzz.arg(format!("-rss_limit_mb={MEMORY_MIB}")).arg(format!("-timeout={INPUT_SECONDS}"));
    fuzz.args(["-print_final_stats=1", "-verbosity=1"]);
    Ok(fuzz.status().with_context(|| format!("cannot start {target}"))?.success())
}
