//! What `kubectl get gangs` shows of a gang, and when it is worth a write: facts in, a status out.
//!
//! A read model, for people and dashboards: it must never be read back, and nothing hangs on whether it could
//! be written. What it costs the API server is bounded in [`pace`].

mod moment;
pub mod pace;

use serde::Serialize;

pub use moment::rfc3339;

use crate::follow::{Facts, Report, Verdict};
use crate::gang::{Assembled, Gang, Member};
use crate::job::JobId;
use crate::life::Phase;
use pace::Weight;

/// An estimate that moves by less than this is the same one (s): Slurm counts in steps of its backfill.
const SAME_START: i64 = 60;
/// The longest message and hostlist that are shown, in characters.
const LONGEST: usize = 1024;

/// What the door tells of a gang's latest placeholder; nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Its job.
    pub job: JobId,
    /// Which attempt of the gang it is.
    pub generation: u32,
    /// Slurm's name of its state.
    pub state: String,
    /// Slurm's reason.
    pub reason: String,
    /// Hostlist of what it holds.
    pub nodes: String,
    /// Partition, or several with commas.
    pub partition: String,
    /// Slurm's user.
    pub user: String,
    /// Account.
    pub account: String,
    /// Priority; 0 where Slurm has computed none.
    pub priority: u32,
    /// What that is made of; empty where it is not known.
    pub factors: String,
    /// Place among those that wait in its partition, from 1; 0 where that is not known.
    pub position: u32,
    /// Slurm's estimate, seconds since the epoch; 0 for none.
    pub expected_start: i64,
    /// How many placeholders of the gang Slurm remembers to have preempted.
    pub preemptions: u32,
    /// What would help, as nodes are now; empty where nothing can be said.
    pub outlook: String,
}

impl Sight {
    /// The same with the estimate of the one before, where that has only trembled.
    #[must_use]
    pub fn steadied(self, before: Option<&Self>) -> Self {
        let same = |before: &&Self| {
            let (old, new) = (before.expected_start, self.expected_start);
            before.job == self.job && old > 0 && new > 0 && (old - new).abs() < SAME_START
        };
        match before.filter(same) {
            Some(before) => Self { expected_start: before.expected_start, ..self },
            None => self,
        }
    }
}

/// Members, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Members {
    /// How many there must be.
    pub wanted: u32,
    /// How many have a node.
    pub bound: u32,
    /// How many run and say that they are ready.
    pub ready: u32,
    /// `bound/wanted`, for a column.
    pub summary: String,
}

/// The status of a `Gang`, field by field as its CRD has it. What is not known is `null`, which takes it away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Where it is in its life.
    pub phase: String,
    /// Slurm's job.
    pub job_id: Option<u32>,
    /// Slurm's name of its state.
    pub job_state: Option<String>,
    /// Partition.
    pub partition: Option<String>,
    /// Account.
    pub account: Option<String>,
    /// Slurm's user.
    pub user: Option<String>,
    /// Its members.
    pub members: Members,
    /// Hostlist of the nodes it holds.
    pub nodes: Option<String>,
    /// One word: why it waits.
    pub reason: Option<String>,
    /// The same in a sentence, with what would help.
    pub message: Option<String>,
    /// Place in its partition's queue, from 1.
    pub position: Option<u32>,
    /// Slurm's priority of it.
    pub priority: Option<u32>,
    /// What that is made of, in points.
    pub priority_factors: Option<String>,
    /// When Slurm expects it to start.
    pub estimated_start: Option<String>,
    /// When that estimate was heard first.
    pub estimated_at: Option<String>,
    /// Since when it is in its phase, as far as this bridge knows.
    pub last_transition_time: String,
    /// Which attempt this is.
    pub generation: Option<u32>,
    /// How often it had to begin anew.
    pub requeues: Option<u32>,
    /// How often it lost its nodes to others, as far as is known.
    pub preemptions: Option<u32>,
    /// The estimate in seconds, to compare.
    #[serde(skip)]
    start: i64,
    /// It says what would help.
    #[serde(skip)]
    helps: bool,
}

/// Everything a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The gang and what is known of it on the Kubernetes side.
    pub facts: Facts<'a>,
    /// What its pods are told.
    pub report: Option<&'a Report>,
    /// What is seen of its placeholder.
    pub sight: Option<&'a Sight>,
    /// How many of its pods are ready.
    pub ready: u32,
}

/// Whether a gang is shown: two or more pods that start together.
pub fn is_shown(gang: &Gang, singles: bool) -> bool {
    singles || gang.expected > 1 || gang.size() > 1
}

/// Nothing more is to be shown of a gang: its pods have ended and what it held is given back.
pub fn is_over(facts: &Facts<'_>) -> bool {
    let Assembled { gang, leaving, .. } = facts.assembled;
    let ended = matches!(facts.verdict, Some(Verdict::Ended { .. }));
    gang.members.iter().all(|m| m.finished)
        && leaving.is_empty()
        && (facts.progress.released || ended || gang.members.is_empty())
}

/// The status of a gang. `now` is seconds since the epoch, for people; what is unchanged keeps its times from
/// the status before.
pub fn status(seen: &Seen<'_>, before: Option<&Status>, now: i64) -> Status {
    let Seen { facts, report, sight, ready } = *seen;
    let gang = &facts.assembled.gang;
    let phase = title(Phase::of(&facts).name());
    let same_phase = before.filter(|before| before.phase == phase);
    let job = job_of(facts.verdict).or_else(|| sight.map(|s| s.job)).filter(|job| job.0 > 0);
    // What is seen of another job says nothing of this one.
    let sight = sight.filter(|sight| Some(sight.job) == job);
    let told = |text: fn(&Sight) -> &str| {
        sight.map(text).filter(|text| !text.is_empty()).map(|text| short(text).to_owned())
    };
    let waits = sight.filter(|sight| sight.state == "PENDING");
    let number = |count: fn(&Sight) -> u32| waits.map(count).filter(|count| *count > 0);
    let start = waits.map_or(0, |sight| sight.expected_start);
    let estimated = before.filter(|before| start > 0 && before.start == start);
    let generation = generation_of(facts.verdict)
        .or_else(|| sight.map(|s| s.generation))
        .filter(|generation| *generation > 0);
    let preemptions = sight.map_or(0, |sight| sight.preemptions);
    let preemptions = preemptions.max(before.and_then(|b| b.preemptions).unwrap_or(0));
    let (reason, message) = why(facts.verdict, report, waits);
    Status {
        job_id: job.map(|job| job.0),
        job_state: told(|s| &s.state),
        partition: told(|s| &s.partition),
        account: told(|s| &s.account),
        user: told(|s| &s.user),
        members: count(gang, ready),
        nodes: told(|s| &s.nodes),
        reason,
        message,
        position: number(|s| s.position),
        priority: number(|s| s.priority),
        priority_factors: waits
            .map(|sight| sight.factors.clone())
            .filter(|factors| !factors.is_empty()),
        estimated_start: (start > 0).then(|| rfc3339(start)),
        estimated_at: (start > 0).then(|| {
            estimated.and_then(|b| b.estimated_at.clone()).unwrap_or_else(|| rfc3339(now))
        }),
        last_transition_time: same_phase
            .map_or_else(|| rfc3339(now), |before| before.last_transition_time.clone()),
        generation,
        requeues: generation.map(|generation| generation - 1),
        preemptions: (preemptions > 0).then_some(preemptions),
        phase,
        start,
        helps: waits.is_some_and(|sight| !sight.outlook.is_empty()),
    }
}

/// What of a status is news since the one that was written; `None`: nothing that is worth a write.
pub fn worth(written: &Status, now: &Status) -> Option<Weight> {
    let waits = now.phase == "Queued";
    let all_ready = |s: &Status| s.members.wanted > 0 && s.members.ready >= s.members.wanted;
    let news = |s: &Status| {
        let words = (!waits).then(|| s.message.clone());
        (
            (s.phase.clone(), s.job_id, s.job_state.clone(), s.generation, s.preemptions),
            (s.partition.clone(), s.account.clone(), s.user.clone(), s.nodes.clone()),
            (s.members.wanted, s.members.bound, all_ready(s), s.reason.clone(), words),
            // That a place, an estimate or what would help is known at all is what one waits for.
            (s.position.is_some(), s.estimated_start.is_some(), s.helps),
        )
    };
    if news(written) != news(now) {
        return Some(Weight::News);
    }
    // A priority grows with age, and is written along with what else there is.
    let moved = written.start != now.start
        || written.position != now.position
        || written.message != now.message
        || written.members != now.members;
    moved.then_some(Weight::Moved)
}

/// What is said beside Slurm's reason on a pod that waits: what would help, its place, and when it may start;
/// empty where nothing of it is known.
pub fn beside(sight: Option<&Sight>) -> String {
    let Some(sight) = sight.filter(|sight| sight.state == "PENDING") else { return String::new() };
    let mut out = String::new();
    let mut add = |text: &str| {
        out.push_str("; ");
        out.push_str(text);
    };
    if !sight.outlook.is_empty() {
        add(&sight.outlook);
    }
    if sight.position > 0 {
        add(&format!("number {} in the queue of {}", sight.position, sight.partition));
    }
    if sight.expected_start > 0 {
        add(&format!("Slurm expects it to start at {}", rfc3339(sight.expected_start)));
    }
    out
}

/// Which of that is known at all: whoever is told of a place or an estimate for the first time hears news.
pub fn known(sight: Option<&Sight>) -> (bool, bool, bool) {
    let sight = sight.filter(|sight| sight.state == "PENDING");
    sight.map_or_else(Default::default, |sight| {
        (!sight.outlook.is_empty(), sight.position > 0, sight.expected_start > 0)
    })
}

fn job_of(verdict: Option<&Verdict>) -> Option<JobId> {
    match verdict? {
        Verdict::Refused(_) => None,
        Verdict::Queued { job, .. } => *job,
        Verdict::Allocated { job, .. } | Verdict::Ended { job, .. } => Some(*job),
    }
}

fn generation_of(verdict: Option<&Verdict>) -> Option<u32> {
    match verdict? {
        Verdict::Allocated { generation, .. } | Verdict::Ended { generation, .. } => {
            Some(*generation)
        }
        Verdict::Refused(_) | Verdict::Queued { .. } => None,
    }
}

/// Why it is where it is: in a word, and in a sentence.
fn why(
    verdict: Option<&Verdict>,
    report: Option<&Report>,
    waits: Option<&Sight>,
) -> (Option<String>, Option<String>) {
    let (reason, message) = match (verdict, report) {
        (Some(Verdict::Queued { reason, message, .. }), _) => {
            (reason.clone(), format!("{message}{}", beside(waits)))
        }
        (Some(Verdict::Refused(refusal)), _) => ("Refused".to_owned(), refusal.message.clone()),
        (Some(Verdict::Ended { state, message, .. }), _) => {
            (state.name().to_owned(), message.clone())
        }
        (_, Some(report)) => (report.reason.to_owned(), report.message.clone()),
        (Some(Verdict::Allocated { note, .. }), None) => (String::new(), note.clone()),
        (None, None) => Default::default(),
    };
    let said = |text: String| (!text.is_empty()).then(|| short(&text).to_owned());
    (said(reason), said(message))
}

fn count(gang: &Gang, ready: u32) -> Members {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let wanted = gang.expected.max(number(gang.size()));
    let has_node = |m: &&Member| m.bound.is_some();
    let bound = number(gang.members.iter().filter(has_node).count());
    Members { wanted, bound, ready, summary: format!("{bound}/{wanted}") }
}

fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn short(text: &str) -> &str {
    text.char_indices().nth(LONGEST).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
#[path = "gangview/tests.rs"]
mod tests;
