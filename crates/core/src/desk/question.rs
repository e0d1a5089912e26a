//! When would this start: what is asked of Slurm so that it answers and nothing runs.
//!
//! Slurm's REST has no test-only submit. What it has is an estimate for every job that waits in backfill's view. So the
//! question is put as the first component of a heterogeneous job whose second one may not begin for a day: the
//! components start together or not at all, nothing is preempted for one alone, and backfill says of the first when it
//! could start.

use crate::ask::{Ask, minutes, word};
use crate::job::{Component, GresRequest, Moment, Options, PlaceholderRequest};
use crate::placeholder::is_word;
use crate::policy::Grant;

/// First word of what rides inside such a job, by which a forgotten one is known.
pub const WHAT_IF: &str = "gangway-what-if/1";
/// The second component may begin so much later: long after the question is over.
const NEVER_SECONDS: u32 = 86_400;

/// What may be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// Nodes, one or more.
    pub nodes: u32,
    /// Devices on each.
    pub gres: Vec<GresRequest>,
    /// CPUs on each.
    pub cpus: u32,
    /// Memory on each, MiB.
    pub memory_mib: u64,
    /// Time limit, or the partition's.
    pub time_limit_minutes: Option<u32>,
}

/// `gpu:8` or `gpu:h100:8`, several separated by commas, is what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no GRES; write name:count or name:type:count, as in gpu:8 or gpu:h100:8,efa:32")]
pub struct BadGres(String);

/// Reads `gpu:h100:8,efa:32`; a name alone is one of it.
pub fn read_gres(text: &str) -> Result<Vec<GresRequest>, BadGres> {
    let one = |word: &str| {
        let bad = || BadGres(word.to_owned());
        let parts: Vec<&str> = word.split(':').collect();
        let count = |text: &str| text.parse::<u32>().ok().filter(|n| (1..=65_536).contains(n));
        let (name, kind, count) = match parts.as_slice() {
            [name] => (*name, None, Some(1)),
            [name, second] => match count(second) {
                Some(count) => (*name, None, Some(count)),
                None => (*name, Some(*second), Some(1)),
            },
            [name, kind, number] => (*name, Some(*kind), count(number)),
            _ => return Err(bad()),
        };
        let fine = |word: &str| is_word(word) && !word.contains(':');
        let number = |kind: &str| kind.chars().all(|c| c.is_ascii_digit());
        if !fine(name) || kind.is_some_and(|kind| !fine(kind) || number(kind)) {
            return Err(bad());
        }
        let kind = kind.map(str::to_owned);
        Ok(GresRequest { name: name.to_owned(), kind, count: count.ok_or_else(bad)? })
    };
    text.split(',').filter(|word| !word.is_empty()).map(one).collect()
}

/// What a question chooses, as the annotations of a gang would; empty is no choice. The text that is no name, otherwise.
pub fn choice(
    partition: &str,
    account: &str,
    qos: &str,
    time_limit_minutes: Option<u32>,
) -> Result<Ask, String> {
    let name = |text: &str| match text {
        "" => Ok(None),
        text => {
            text.split(',').try_for_each(|one| word(one).map(drop)).map(|()| Some(text.to_owned()))
        }
    };
    Ok(Ask {
        partition: name(partition)?,
        account: name(account)?,
        qos: name(qos)?,
        time_limit_minutes,
        ..Ask::default()
    })
}

/// Minutes of a time limit as Slurm's users write it: `60`, `1:30:00`, `2-00:00:00`.
pub fn read_minutes(text: &str) -> Result<u32, String> {
    minutes(text)
}

/// The mark of this bridge's questions.
pub fn guard(cluster: &str) -> String {
    format!("{WHAT_IF} {cluster}")
}

/// The question as a request: the first component is what is asked, the second keeps it from ever starting.
pub fn trial(what: &WhatIf, grant: &Grant, cluster: &str) -> PlaceholderRequest {
    let asked = Component {
        key: guard(cluster),
        nodes: what.nodes.max(1),
        tasks_per_node: 1,
        cpus_per_task: what.cpus.max(1),
        memory_per_node_mib: what.memory_mib.max(1),
        gres_per_node: what.gres.clone(),
        excluded_nodes: String::new(),
    };
    PlaceholderRequest {
        name: "gangway-what-if".to_owned(),
        user: grant.user.clone(),
        group: grant.group.clone(),
        account: grant.account.clone(),
        partition: grant.partition.clone().unwrap_or_default(),
        qos: grant.qos.clone(),
        time_limit_minutes: what.time_limit_minutes,
        options: Options { constraints: grant.feature.clone(), ..Options::default() },
        components: vec![asked],
    }
}

/// What keeps it from starting: a component of the least there is, that begins much later.
pub fn ballast(trial: &PlaceholderRequest) -> (Component, Moment) {
    let first = trial.components.first();
    let least = Component {
        key: first.map_or_else(String::new, |one| one.key.clone()),
        nodes: 1,
        tasks_per_node: 1,
        cpus_per_task: 1,
        memory_per_node_mib: 1,
        ..Component::default()
    };
    (least, Moment::In(NEVER_SECONDS))
}
