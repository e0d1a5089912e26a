//! What the user asks beside resources: partition, account, time limit …, read from annotations.
//!
//! Asking is not getting: [`crate::policy`] decides what is granted (rule 7). Every problem is
//! listed at once, and a key nobody knows is a problem, because a typing error that is ignored is a
//! job in the wrong queue.

use std::collections::BTreeMap;

use crate::names::{ALIAS_PREFIX, PREFIX};

/// The user's choices; `None` means policy or Slurm decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// `gangway.dev/partition`
    pub partition: Option<String>,
    /// `gangway.dev/account`
    pub account: Option<String>,
    /// `gangway.dev/qos`
    pub qos: Option<String>,
    /// `gangway.dev/job-name`
    pub job_name: Option<String>,
    /// `gangway.dev/time-limit`, minutes
    pub time_limit_minutes: Option<u32>,
    /// `gangway.dev/gpu-type`, as Slurm names it (`h100`)
    pub gpu_type: Option<String>,
    /// `gangway.dev/pods-per-node`, 1 where not said
    pub pods_per_node: Option<u32>,
}

/// Annotations that are written by others than the user and mean nothing here.
const NOT_ASKS: &[&str] = &["user", "gang", "generation", "job-id", "node", "rank", "note"];

const KNOWN: &[&str] =
    &["partition", "account", "qos", "job-name", "time-limit", "gpu-type", "pods-per-node"];

impl Ask {
    /// Reads annotations, the pod's own over the workload's. All problems come back, not the first.
    pub fn read(
        workload: &BTreeMap<String, String>,
        pod: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<String>> {
        let mut ask = Self::default();
        let mut problems = Vec::new();
        for annotations in [workload, pod] {
            // Aliases first: where both are given, our own name wins.
            for (prefix, own) in [(ALIAS_PREFIX, false), (PREFIX, true)] {
                for (key, value) in annotations {
                    let Some(name) = key.strip_prefix(prefix) else { continue };
                    let name = if own { name } else { alias(name) };
                    if let Err(problem) = ask.set(name, value.trim(), own) {
                        problems.push(format!("annotation {key}: {problem}"));
                    }
                }
            }
        }
        if problems.is_empty() { Ok(ask) } else { Err(problems) }
    }

    fn set(&mut self, name: &str, value: &str, own: bool) -> Result<(), String> {
        match name {
            "partition" => self.partition = Some(word(value)?),
            "account" => self.account = Some(word(value)?),
            "qos" => self.qos = Some(word(value)?),
            "job-name" => self.job_name = Some(word(value)?),
            "gpu-type" => self.gpu_type = Some(word(value)?),
            "time-limit" => self.time_limit_minutes = Some(minutes(value)?),
            "pods-per-node" => {
                let n = value.parse().ok().filter(|n| (1..=1024).contains(n));
                self.pods_per_node =
                    Some(n.ok_or_else(|| {
                        format!("{} is not a number from 1 to 1024", shown(value))
                    })?);
            }
            _ if NOT_ASKS.contains(&name) || name.starts_with("index.") => {}
            // The peer has more annotations than we read; those are not typing errors of ours.
            _ if !own => {}
            _ => return Err(format!("unknown; known are {}", KNOWN.join(", "))),
        }
        Ok(())
    }
}

/// The peer's name for one of ours.
fn alias(name: &str) -> &str {
    match name {
        "timelimit" => "time-limit",
        other => other,
    }
}

/// A value as shown in a message: never longer than a line.
fn shown(value: &str) -> String {
    let mut short: String = value.chars().take(40).collect();
    if short.len() < value.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// A name as Slurm takes it. Anything else could be read by Slurm as a list, an option or a key.
fn word(value: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if value.is_empty() || value.len() > 128 || !value.chars().all(fine) {
        return Err(format!(
            "{} is not a name (letters, digits, '.', '_' and '-', at most 128)",
            shown(value)
        ));
    }
    Ok(value.to_owned())
}

/// Minutes, or Slurm's `[days-]hours:minutes[:seconds]`, seconds rounded up.
fn minutes(value: &str) -> Result<u32, String> {
    parse_minutes(value).filter(|m| *m > 0).ok_or_else(|| {
        format!("{} is not a time limit (minutes, HH:MM:SS or D-HH:MM:SS)", shown(value))
    })
}

fn parse_minutes(value: &str) -> Option<u32> {
    let (days, rest) = match value.split_once('-') {
        Some((days, rest)) => (days.parse::<u64>().ok().filter(|d| *d < 10_000)?, rest),
        None => (0, value),
    };
    let has_days = rest.len() != value.len();
    let parts: Vec<u64> = rest
        .split(':')
        .map(|p| p.parse().ok().filter(|n| *n < 1_000_000_000))
        .collect::<Option<_>>()?;
    // Slurm: with days the first part is hours; without, one part is minutes and two are
    // minutes:seconds (man sbatch, --time).
    let seconds = match (has_days, parts.as_slice()) {
        (true, [h]) => h * 3600,
        (true, [h, m]) => h * 3600 + m * 60,
        (false, [m]) => m * 60,
        (false, [m, s]) => m * 60 + s,
        (_, [h, m, s]) => h * 3600 + m * 60 + s,
        _ => return None,
    };
    u32::try_from((days * 86_400 + seconds).div_ceil(60)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_pod_wins_over_its_workload_and_our_name_over_the_alias() {
        let workload = map(&[("gangway.dev/partition", "a"), ("gangway.dev/account", "team1")]);
        let pod = map(&[
            ("gangway.dev/partition", "b"),
            ("slurmjob.slinky.slurm.net/partition", "c"),
            ("slurmjob.slinky.slurm.net/timelimit", "01:30:00"),
            ("example.com/partition", "d"),
        ]);
        let ask = Ask::read(&workload, &pod).expect("fine");
        assert_eq!(ask.partition.as_deref(), Some("b"));
        assert_eq!(ask.account.as_deref(), Some("team1"));
        assert_eq!(ask.time_limit_minutes, Some(90));
    }

    #[test]
    fn times_are_read_as_slurm_reads_them() {
        for (text, want) in [
            ("90", 90),
            ("90:30", 91),
            ("2:00:00", 120),
            ("1-0", 1440),
            ("1-2:30", 1590),
            ("1-0:0:1", 1441),
        ] {
            assert_eq!(minutes(text), Ok(want), "{text}");
        }
        for text in ["", "0", "-5", "1:2:3:4", "soon", "1-", "99999999999999999999"] {
            assert!(minutes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_problem_is_listed() {
        let pod = map(&[
            ("gangway.dev/partiton", "x"),
            ("gangway.dev/time-limit", "soon"),
            ("gangway.dev/account", "a,b"),
            ("gangway.dev/rank", "3"),
        ]);
        let problems = Ask::read(&BTreeMap::new(), &pod).expect_err("three problems");
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().any(|p| p.contains("partiton: unknown; known are partition")));
    }

    #[test]
    fn a_huge_value_makes_a_short_message() {
        let pod = map(&[("gangway.dev/partition", &"x".repeat(10_000_000))]);
        let problems = Ask::read(&BTreeMap::new(), &pod).expect_err("too long");
        assert!(problems[0].len() < 200);
    }
}
