//! What the user asks beside resources: partition, account, time limit …, read from annotations.
//!
//! Asking is not getting: [`crate::policy`] decides what is granted (rule 7). Every problem is
//! listed at once, and a key nobody knows is a problem, because a typing error that is ignored is a
//! job in the wrong queue. [`TABLE`] is the one list of all there is; the documents and the wire
//! follow it.

mod dependency;
mod requester;
mod table;
mod words;

use std::collections::BTreeMap;
use std::fmt;

pub use dependency::{Dependency, Other, Outcome, Settled};
pub use requester::Requester;
pub use table::{Row, TABLE};
pub(crate) use words::{minutes, word};

use crate::job::{GresRequest, Options};
use crate::names::{ALIAS_PREFIX, PREFIX};

/// The user's choices; `None` means policy or Slurm decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// `gangway.dev/partition`: one, or several separated by commas
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
    /// `gangway.dev/gres`: what each node must give beside what the pods' resources say
    pub gres: Vec<GresRequest>,
    /// `gangway.dev/exclude`, a hostlist
    pub exclude: Option<String>,
    /// `gangway.dev/dependency`, as the user wrote it
    pub dependency: Option<Dependency>,
    /// What Kubernetes shows of the workloads that `dependency` names, by `kind/name`; one that is
    /// not there does not exist. Seen, not asked.
    pub others: BTreeMap<String, Other>,
    /// Who asked for the pods, as admission saw it. Seen, not asked.
    pub requester: Option<Requester>,
    /// `gangway.dev/checkpoint-grace`, seconds
    pub grace_seconds: Option<u32>,
    /// `gangway.dev/checkpoint-hook`
    pub hook: Option<Hook>,
    /// `gangway.dev/on-member-failure`; `None` leaves it to the kind of the workload
    pub on_loss: Option<OnLoss>,
    /// Everything else; its `dependency` is left empty here.
    pub options: Options,
}

/// Where a pod takes warnings: an address on its own IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Port.
    pub port: u16,
    /// Path and query, with its slash.
    pub path: String,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://:{}{}", self.port, self.path)
    }
}

/// What becomes of the others when a member is lost while the gang runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// They leave, and all start anew together.
    Restart,
    /// They stay; its successor takes its rank.
    Replace,
}

impl OnLoss {
    /// As the annotation has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Replace => "replace",
        }
    }
}

/// Annotations that are written by others than the user and mean nothing here.
const NOT_ASKS: &[&str] = &[
    "requester",
    "requester-groups",
    "user",
    "gang",
    "generation",
    "job-id",
    "node",
    "rank",
    "note",
    "leave-by",
    "leave-why",
    "checkpointed",
    "stands-in",
];

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
                    let set =
                        if own { ask.set_own(name, value) } else { ask.set_alias(name, value) };
                    if let Err(problem) = set {
                        problems.push(format!("annotation {key}: {problem}"));
                    }
                }
            }
        }
        if let (Some(least), Some(most)) = (ask.options.time_min_minutes, ask.time_limit_minutes)
            && least > most
        {
            problems.push(format!(
                "annotation {PREFIX}time-min: {least} minutes are more than the time limit of {most}"
            ));
        }
        if problems.is_empty() { Ok(ask) } else { Err(problems) }
    }

    /// Sets one choice by its name in [`TABLE`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match TABLE.iter().find(|row| row.name == name) {
            Some(row) => (row.read)(self, value.trim()),
            None => {
                let known: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
                Err(format!("unknown; known are {}", known.join(", ")))
            }
        }
    }

    /// One choice by its name in [`TABLE`], in the form that [`Ask::set`] reads.
    pub fn text(&self, name: &str) -> Option<String> {
        TABLE.iter().find(|row| row.name == name).and_then(|row| (row.show)(self))
    }

    fn set_own(&mut self, name: &str, value: &str) -> Result<(), String> {
        if NOT_ASKS.contains(&name) || name.starts_with("index.") {
            return Ok(());
        }
        self.set(name, value)
    }

    /// The peer has more annotations than we read; those are not typing errors of ours.
    fn set_alias(&mut self, name: &str, value: &str) -> Result<(), String> {
        match TABLE.iter().find(|row| row.alias == Some(name)) {
            Some(row) => (row.read)(self, value.trim()),
            None => Ok(()),
        }
    }

    /// What each node must give: what the pods need, and what was asked beside it. Where both name a
    /// GRES it is the larger count; a type is taken over by a request that has none.
    pub fn with_gres(&self, mut needed: Vec<GresRequest>) -> Vec<GresRequest> {
        for asked in &self.gres {
            let same = |own: &&mut GresRequest| {
                own.name == asked.name
                    && (own.kind == asked.kind || own.kind.is_none() || asked.kind.is_none())
            };
            match needed.iter_mut().find(same) {
                Some(own) => {
                    own.count = own.count.max(asked.count);
                    own.kind = own.kind.take().or_else(|| asked.kind.clone());
                }
                None => needed.push(asked.clone()),
            }
        }
        needed
    }
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
        for row in TABLE {
            for huge in ["x ".repeat(5_000_000), "9".repeat(10_000_000)] {
                let problem = Ask::default().set(row.name, &huge).expect_err("too long");
                assert!(problem.len() < 400, "{}: {}", row.name, problem.len());
            }
        }
    }

    #[test]
    fn a_shortened_time_must_fit_into_the_limit() {
        let pod = map(&[("gangway.dev/time-limit", "60"), ("gangway.dev/time-min", "2:00:00")]);
        let problems = Ask::read(&BTreeMap::new(), &pod).expect_err("longer than the limit");
        assert!(problems[0].contains("120 minutes are more than the time limit of 60"));
    }

    #[test]
    fn what_is_asked_beside_the_pods_resources_adds_to_them() {
        let with = |needed: &str, asked: &str| {
            let mut ask = Ask::default();
            ask.set("gres", asked).expect("fine");
            let needed = words::gres(needed).expect("fine");
            let all = ask.with_gres(needed);
            all.iter().map(GresRequest::to_tres).collect::<Vec<_>>().join(",")
        };
        assert_eq!(with("gpu:4", "nvme:1"), "gres/gpu=4,gres/nvme=1");
        assert_eq!(with("gpu:4", "gpu:h100:8"), "gres/gpu:h100=8");
        assert_eq!(with("gpu:h100:8", "gpu:2"), "gres/gpu:h100=8");
        assert_eq!(with("gpu:h100:8", "gpu:a100:1"), "gres/gpu:h100=8,gres/gpu:a100=1");
    }
}
