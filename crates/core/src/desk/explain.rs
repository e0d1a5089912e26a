//! Why one job waits, who is ahead, what would help.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Partition, Row, lasting, share};
use crate::job::Job;
use crate::outlook::{Ask, Node, counted, outlook};
use crate::reason;

/// So many of those ahead are named.
const NAMED: usize = 10;
/// So many of the jobs that end next.
const FEW: usize = 3;

/// Everything that can be said of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The job.
    pub row: Row,
    /// Why it is where it is, in a sentence.
    pub why: String,
    /// The first of those ahead of it for the same partition, in Slurm's order.
    pub ahead: Vec<Row>,
    /// How many they are.
    pub ahead_count: u32,
    /// What would help, and what it waits for, a sentence each.
    pub help: Vec<String>,
    /// What its priority is made of, or why that says nothing; empty where Slurm does not tell.
    pub priority: String,
}

/// The job that a word means: a job id, `namespace/name` of a workload or of one of its pods, or the name alone where
/// a namespace is given or only one namespace has it. All it may mean, where that is not one.
pub fn find<'a>(rows: &'a [Row], word: &str, namespace: &str) -> Result<&'a Row, Vec<&'a Row>> {
    let word =
        ["gang/", "pod/", "job/"].iter().find_map(|kind| word.strip_prefix(kind)).unwrap_or(word);
    if let Ok(id) = word.parse::<u32>()
        && let Some(row) = rows.iter().find(|row| row.job == id && id > 0)
    {
        return Ok(row);
    }
    let (namespace, name) = word.split_once('/').unwrap_or((namespace, word));
    let meant = |row: &&Row| {
        let Some(workload) = &row.workload else { return false };
        (namespace.is_empty() || workload.namespace == namespace)
            && (workload.name == name
                || workload.gang == name
                || workload.pods.iter().any(|pod| pod == name))
    };
    let mut found: Vec<&Row> = rows.iter().filter(meant).collect();
    // A generation that waits beside one that is ending is the one that is meant.
    let same = |row: &&Row| row.gang() == found[0].gang();
    if found.len() > 1 && found.iter().all(same) {
        found.sort_by_key(|row| (!row.waits(), row.job));
        found.truncate(1);
    }
    match found.as_slice() {
        [one] => Ok(one),
        _ => Err(found),
    }
}

/// Explains one row of these; `job` is what Slurm says of it.
pub fn explain(
    row: &Row,
    (rows, job): (&[Row], Option<&Job>),
    (nodes, partitions): (&[Node], &[Partition]),
    now: i64,
) -> Explanation {
    if !row.waits() {
        let why = running(row, now);
        return Explanation { row: row.clone(), why, ..Explanation::default() };
    }
    let before = rows.iter().take_while(|other| other.job != row.job);
    let ahead: Vec<&Row> = before
        .filter(|other| other.waits() && share(&other.partition, &row.partition))
        .filter(|other| !reason::stands_aside(&other.reason))
        .collect();
    let ask = job.and_then(Ask::of);
    let mut help: Vec<String> = ask.iter().map(|ask| outlook(ask, nodes)).collect();
    help.extend(partitions.iter().filter(|one| !one.up && share(&one.name, &row.partition)).map(
        |one| {
            format!(
                "partition {} is not up: it starts nobody until an administrator opens it",
                one.name
            )
        },
    ));
    if waits_for_room(&row.reason) {
        help.extend(next_ends(row, rows, now));
        help.extend(advice(row, &ahead));
    }
    Explanation {
        row: row.clone(),
        why: reason::waiting(&row.reason, &row.description),
        ahead_count: u32::try_from(ahead.len()).unwrap_or(u32::MAX),
        ahead: ahead.into_iter().take(NAMED).cloned().collect(),
        help,
        priority: String::new(),
    }
}

/// Explains a gang that Slurm has no job for: its pods are told all there is to say.
pub fn explain_outside(row: &Row) -> Explanation {
    Explanation { row: row.clone(), why: row.description.clone(), ..Explanation::default() }
}

/// Free nodes would let it start.
fn waits_for_room(reason: &str) -> bool {
    matches!(reason, "" | "None" | "Resources" | "Priority" | "ReqNodeNotAvail" | "BadConstraints")
}

fn running(row: &Row, now: i64) -> String {
    let mut said = match row.state.as_str() {
        "RUNNING" => format!("it does not wait: it runs on {}", row.hosts),
        state => format!("it does not wait: Slurm says {state}"),
    };
    if row.start > 0 {
        let _ = write!(said, ", since {}", lasting(now.saturating_sub(row.start)));
    }
    if row.end > now {
        let _ = write!(said, "; it ends in {} at the latest", lasting(row.end.saturating_sub(now)));
    }
    said
}

/// Which jobs of the partition end next, at the latest.
fn next_ends(row: &Row, rows: &[Row], now: i64) -> Option<String> {
    let holds = |other: &&Row| !other.waits() && share(&other.partition, &row.partition);
    let mut ends: Vec<&Row> = rows.iter().filter(holds).filter(|other| other.end > now).collect();
    ends.sort_by_key(|other| (other.end, other.job));
    let told = ends.iter().take(FEW).map(|other| {
        let nodes = counted(other.nodes as usize, "node");
        format!(
            "job {} of {} ({nodes}) in {}",
            other.job,
            other.user,
            lasting(other.end.saturating_sub(now))
        )
    });
    let told = told.collect::<Vec<_>>().join(", ");
    (!told.is_empty()).then(|| format!("those that hold its nodes end at the latest: {told}"))
}

fn advice(row: &Row, ahead: &[&Row]) -> Option<String> {
    let advice = match (row.reason.as_str(), ahead.len()) {
        ("Priority", _) => {
            "a shorter time limit lets Slurm start it in a gap before those ahead need their nodes; fewer nodes or GPUs find a gap sooner"
        }
        ("Resources", _) if row.nodes > 1 => "fewer nodes would start sooner",
        ("ReqNodeNotAvail", _) => {
            "an administrator has to bring the nodes back that are out of service"
        }
        ("BadConstraints", _) => {
            "no node has what it asks for as nodes are now: ask for less on each node, or for another partition"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}
