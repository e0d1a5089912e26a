//! `cargo xtask bench sights`: how soon people see what is going on, and what their looking costs. Tests and a story do
//! it; here they get a release build and a world, and their figures are judged.

use anyhow::{Context, Result};

use super::faults::{build, figures, in_a_world, story};
use crate::process::leashed;
use crate::world::repo;

/// The line a figure stands in, its key there, and the most it may be.
const FLOORS: [(&str, &str, f64); 9] = [
    // `gangway queue` as a process of its own, from its start to its end, by a door over a Slurm in memory.
    ("queue", "first_ms", 300.0),
    ("queue", "next_ms_max", 300.0),
    // What the bridge serves with every value that a label can have.
    ("metrics scheduler", "series", 2000.0),
    ("metrics scheduler", "gather_ms", 10.0),
    ("metrics controllers", "series", 2000.0),
    ("metrics controllers", "gather_ms", 10.0),
    // On the real stack.
    ("reason", "told_ms_p50", 2000.0),
    ("quiet", "writes", 0.0),
    ("pace", "writes_per_hour", 120.0),
];

/// Runs it; false when a floor is missed.
pub(crate) fn run() -> Result<bool> {
    build("building gangway in release", &["--release"])?;
    let binary = super::target()?.join("release/gangway").display().to_string();
    let mut lines = Vec::new();
    let unit = |package: &str, words: &[&str], lines: &mut Vec<String>| -> Result<bool> {
        let mut cargo = leashed(super::cargo());
        cargo.args(["test", "--locked", "--quiet", "--lib", "-p", package]).args(words);
        cargo.current_dir(repo()?).env("GANGWAY_QUEUE_BIN", &binary);
        figures(&mut cargo, lines)
    };
    let ours = ["--release", "--", "--nocapture", "--test-threads=1"];
    let mut well = true;
    for test in ["ten_thousand_jobs", "it_stays_small_and_quick"] {
        well &= unit("gangway", &[&ours[..], &[test]].concat(), &mut lines)?;
    }
    well &= unit("gangway-core", &["--", "--nocapture", "all_lines_of_a_gang"], &mut lines)?;
    in_a_world(None, |env| {
        well &= story(env, "gangs::kubectl", &[("GANGWAY_BIN", binary.clone())], &mut lines)?;
        Ok(())
    })?;
    let missed = missed(&lines)?;
    for sentence in &missed {
        eprintln!("bench: {sentence}");
    }
    Ok(well && missed.is_empty())
}

/// A sentence for every floor that was missed.
fn missed(lines: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (sight, key, most) in FLOORS {
        let of = |line: &&String| line.contains(&format!("\"sight\":\"{sight}\""));
        let line = lines.iter().find(of);
        let line = line.with_context(|| format!("nothing was said of {sight}"))?;
        let value = super::number(line, key)?;
        if value > most {
            out.push(format!("{sight}: {key} is {value}; the floor is {most}"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(more: f64) -> Vec<String> {
        let line = |(sight, key, most): &(&str, &str, f64)| {
            let value = most + more;
            format!("{{\"sight\":\"{sight}\",\"{key}\":{value}}}")
        };
        // Those of one line together, as they are told.
        let mut all: Vec<String> = Vec::new();
        for floor in &FLOORS {
            let begin = format!("{{\"sight\":\"{}\",", floor.0);
            match all.iter_mut().find(|line| line.starts_with(&begin)) {
                Some(known) => {
                    *known = known.replace('}', &format!(",{}", &line(floor)[begin.len()..]));
                }
                None => all.push(line(floor)),
            }
        }
        all
    }

    #[test]
    fn every_floor_that_is_missed_is_said_and_none_may_be_left_out() {
        assert_eq!(missed(&lines(0.0)).expect("read"), [""; 0]);
        assert_eq!(missed(&lines(1.0)).expect("read").len(), FLOORS.len());
        let mut few = lines(0.0);
        few.pop();
        assert!(missed(&few).is_err());
    }
}
