//! `cargo xtask bench nodes`: how long it takes until Slurm has the nodes of Kubernetes, and what that costs. The story
//! `fleet` does it; here it gets its world, and its figures are judged.

use anyhow::{Result, ensure};

use super::faults::{build, in_a_world, story};

/// How many nodes, one fleet after the other.
const SIZES: &str = "256,1000,5000 listed";
/// Seconds in which nothing changes.
const QUIET: &str = "60";
/// Seconds in which twenty nodes join and leave at random.
const CHURN: &str = "120";
/// Milliseconds within which so many nodes are registered. Each of the thousand is a request, for Slurm is told of its
/// devices; each such request costs slurmctld a look at every node, so thousands want a gres.conf that lists them.
const WITHIN_MS: [(&str, f64); 2] =
    [("\"nodes\":1000,", 10_000.0), ("\"nodes\":5000,\"listed\":true,", 60_000.0)];

/// Runs it with these sizes; false when something is left over or a floor is missed.
pub(crate) fn run(sizes: Option<&str>) -> Result<bool> {
    build("building gangway in release", &["--release"])?;
    let mut lines = Vec::new();
    let mut well = true;
    let binary = super::target()?.join("release/gangway").display().to_string();
    in_a_world(None, |env| {
        let words = [
            ("GANGWAY_FLEET", sizes.unwrap_or(SIZES).to_owned()),
            ("GANGWAY_FLEET_QUIET", QUIET.to_owned()),
            ("GANGWAY_CHURN_SECONDS", CHURN.to_owned()),
            ("GANGWAY_BIN", binary),
        ];
        well &= story(env, "fleet::", &words, &mut lines)?;
        Ok(())
    })?;
    ensure!(!lines.is_empty(), "the story fleet told no figures");
    for (which, within) in WITHIN_MS {
        for line in lines.iter().filter(|line| line.contains(which)) {
            let took = super::number(line, "register_ms")?;
            if took > within {
                eprintln!("bench: registering took {took} ms; the floor is {within} ms");
                well = false;
            }
        }
    }
    Ok(well)
}
