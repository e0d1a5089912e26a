//! One gang, one placeholder (rule 2): the key that ties them, and what to do next in Slurm.
//!
//! Pure: given what Slurm knows of a gang's key, say whether to submit, to follow a job that is
//! there, or that it is over. All memory is in Slurm's job records and on the bound pods.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::eligible;
use crate::gang::{Bound, Gang};
use crate::hostlist::Hostlist;
use crate::job::{BaseState, Job, JobId, Standing};

mod forgotten;
mod lost;

pub use forgotten::{Ended, SAVED_AFTER_MS};
pub use lost::{Fate, Record, Silence, fate, successor_over};

/// First word of every stamp; raised when its form changes.
const FORM: &str = "gangway/1";

/// What rides inside a placeholder (`admin_comment`, or `comment` on the immediate path): whose it
/// is, and which pods it was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Who asked: one bridge's world.
    pub cluster: String,
    /// The gang.
    pub gang: String,
    /// Which attempt of the gang, from 1.
    pub generation: u32,
    /// Fingerprint of the pods it was submitted for.
    pub pods: u64,
    /// In a component of a heterogeneous job: the mark of the members it is for, so that they find
    /// it again also when others of the gang are missing.
    pub part: Option<u64>,
}

impl Stamp {
    /// The same for a placeholder that is given back although its pods wait on: its end is ours, and
    /// no end of any pods.
    pub fn given_back(&self) -> Self {
        Self { pods: 0, ..self.clone() }
    }

    /// Whether its placeholder was given back although its pods wait on: should it live all the same, it is
    /// of no use.
    pub fn is_given_back(&self) -> bool {
        self.pods == 0
    }

    /// Whether it is that of one attempt of one gang, for whichever pods.
    pub fn is_of(&self, cluster: &str, gang: &str, generation: u32) -> bool {
        self.cluster == cluster && self.gang == gang && self.generation == generation
    }

    /// As text without spaces inside its words.
    pub fn to_text(&self) -> String {
        let Self { cluster, gang, generation, pods, part } = self;
        let part = part.map(|mark| format!(" {mark:016x}")).unwrap_or_default();
        format!("{FORM} {cluster} {gang} {generation} {pods:016x}{part}")
    }

    /// Reads a stamp; `None` for anything that is not exactly one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some(FORM) {
            return None;
        }
        let stamp = Self {
            cluster: words.next().filter(|w| is_word(w))?.to_owned(),
            gang: words.next().filter(|w| is_word(w))?.to_owned(),
            generation: words.next()?.parse().ok()?,
            pods: u64::from_str_radix(words.next()?, 16).ok()?,
            part: words.next().map(|mark| u64::from_str_radix(mark, 16)).transpose().ok()?,
        };
        // One stamp has one text: no sign, no leading zero, no other case, nothing after it.
        (stamp.to_text() == text).then_some(stamp)
    }

    /// The stamp of a job: from `admin_comment`, which only we can write, or else from `comment` of
    /// an EXTERNAL job, where the immediate path puts it first.
    pub fn of(job: &Job) -> Option<Self> {
        Self::parse(&job.admin_comment).or_else(|| {
            Self::parse(&job.comment).filter(|_| job.admin_comment.is_empty() && job.external)
        })
    }
}

/// Whether a job that says it is a placeholder of this gang counts as one. `admin_comment` is ours alone to write;
/// `comment` is its owner's, who may have copied it from another job, so there its owner must be who the gang runs as
/// (`user`, as policy says; a number cannot be compared), or a member is bound for it.
pub fn is_believed(job: &Job, gang: &Gang, user: Option<&str>) -> bool {
    let own = |user: &str| {
        let is_number = user.bytes().all(|byte| byte.is_ascii_digit());
        is_number || user.eq_ignore_ascii_case(&job.user)
    };
    let bound = |bound: &Bound| bound.job == job.id;
    !job.admin_comment.is_empty()
        || user.is_some_and(own)
        || gang.members.iter().filter_map(|member| member.bound.as_ref()).any(bound)
}

/// Whether a cluster or gang name can stand in a stamp: nothing that splits words or breaks lines.
pub fn is_word(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    !text.is_empty() && text.len() <= 128 && text.chars().all(fine)
}

/// Fingerprint of a set of pods by uid: the same set gives the same number, in any order.
pub fn fingerprint<'a>(uids: impl IntoIterator<Item = &'a str>) -> u64 {
    let uids: BTreeSet<&str> = uids.into_iter().collect();
    let mut hash = Fnv::new();
    for uid in uids {
        hash.eat(uid.as_bytes());
        hash.eat(b"\n");
    }
    hash.0
}

/// The ids we may choose for queued placeholders, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobIds {
    /// Lowest.
    pub first: u32,
    /// Highest; Slurm's own ids must not grow into the range.
    pub last: u32,
}

impl Default for JobIds {
    /// From 2^25 to just below Slurm's default MaxJobId (0x03ff0000): 33 million ids that Slurm's
    /// own counter reaches only after as many jobs.
    fn default() -> Self {
        Self { first: 0x0200_0000, last: 0x03fe_ffff }
    }
}

impl JobIds {
    /// The id for this key: always the same, so that a repeated submit is refused (error 2011)
    /// instead of making a second job. `attempt` steps over ids that others hold.
    pub fn choose(self, stamp: &Stamp, attempt: u32) -> JobId {
        let mut hash = Fnv::new();
        for part in [stamp.cluster.as_bytes(), b"/", stamp.gang.as_bytes()] {
            hash.eat(part);
        }
        hash.eat(&stamp.generation.to_le_bytes());
        let span = u64::from(self.last.saturating_sub(self.first)) + 1;
        // An odd stride visits different ids for different keys even after a collision.
        let offset = hash.0.wrapping_add(u64::from(attempt).wrapping_mul(hash.0 | 1)) % span;
        JobId(self.first + u32::try_from(offset).unwrap_or(0))
    }
}

/// FNV-1a, 64 bit: stable over builds and machines, which std's hasher does not promise.
pub(crate) struct Fnv(pub(crate) u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn eat(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What to do about a gang's placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing alive and nothing that ended under these pods: submit.
    Submit {
        /// Stamp of the new placeholder.
        stamp: Stamp,
    },
    /// A placeholder is there: follow it.
    Follow {
        /// Its job.
        job: JobId,
        /// Its generation.
        generation: u32,
    },
    /// The placeholder of exactly these pods is over: positive evidence.
    Over {
        /// Its job.
        job: JobId,
        /// Its generation.
        generation: u32,
        /// How it ended.
        state: BaseState,
    },
    /// Pods are bound for a job that Slurm does not list: [`fate`] says what to make of it.
    Lost {
        /// The job the pods were bound for.
        job: JobId,
        /// Their generation.
        generation: u32,
    },
}

/// Decides the next step from what Slurm lists with this gang's stamp.
///
/// Two bridges that both believe they lead may make two placeholders of one gang: the immediate way
/// cannot choose its job id. Which of them is the gang's is said by the API server, which takes a pod's
/// binding only once: the first member to be bound, always the same one, is the vote, and the placeholder
/// it was bound for is the one. Before the vote every live one is left alone, for another bridge may be
/// binding to it at this moment; after it, whoever looks comes to the same answer.
///
/// Returns also the jobs that must not be: live ones beside the one that was voted for, later ones first.
pub fn next(cluster: &str, gang: &Gang, listed: &[(Stamp, Job)]) -> (Step, Vec<JobId>) {
    let mut mine: Vec<&(Stamp, Job)> =
        listed.iter().filter(|(s, _)| s.cluster == cluster && s.gang == gang.uid).collect();
    mine.sort_by_key(|(s, j)| (s.generation, j.submit_time, j.id));

    let mut live: Vec<&(Stamp, Job)> =
        mine.iter().copied().filter(|(_, j)| j.standing() != Standing::Over).collect();
    let bound = gang.members.iter().filter_map(|m| m.bound.as_ref()).max_by_key(|b| b.generation);
    let vote = voted(gang);
    let voted =
        |s: &Stamp, j: &Job| vote.is_some_and(|b| b.job == j.id && b.generation == s.generation);
    if !live.is_empty() {
        // The one that pods are bound for wins, then one that holds nodes, then the oldest. What was
        // given back and lives again, because slurmctld has forgotten its end, comes last.
        live.sort_by_key(|(s, j)| {
            let holds = j.standing() == Standing::Holding;
            (!voted(s, j), s.is_given_back(), !holds, s.generation, j.submit_time, j.id)
        });
        let (stamp, job) = live[0];
        // Whatever was given back was to end already, and needs no vote.
        let decided = voted(stamp, job);
        let others = live[1..].iter().rev().filter(|(s, _)| decided || s.is_given_back());
        let duplicates = others.map(|(_, j)| j.id).collect();
        return (Step::Follow { job: job.id, generation: stamp.generation }, duplicates);
    }

    if let Some(bound) = bound {
        let ended =
            mine.iter().rev().find(|(s, j)| s.generation == bound.generation && j.id == bound.job);
        let step = match ended {
            Some((_, job)) => Step::Over {
                job: job.id,
                generation: bound.generation,
                state: job.ending().clone(),
            },
            None => Step::Lost { job: bound.job, generation: bound.generation },
        };
        return (step, Vec::new());
    }

    let pods = fingerprint(gang.founders().map(|m| m.uid.as_str()));
    let newest = mine.last();
    if let Some((stamp, job)) = newest
        && stamp.pods == pods
        && !is_refused(job)
    {
        let (generation, state) = (stamp.generation, job.ending().clone());
        let step = Step::Over { job: job.id, generation, state };
        return (step, Vec::new());
    }
    let generation = newest.map_or(0, |(s, _)| s.generation).saturating_add(1);
    let (cluster, gang) = (cluster.to_owned(), gang.uid.clone());
    let stamp = Stamp { cluster, gang, generation, pods, part: None };
    (Step::Submit { stamp }, Vec::new())
}

/// The placeholder that the gang's first member was bound for.
fn voted(gang: &Gang) -> Option<&Bound> {
    let bound = gang.members.iter().filter_map(|m| Some((m.rank, m.bound.as_ref()?)));
    let first = bound.min_by_key(|(rank, bound)| (Reverse(bound.generation), *rank));
    first.map(|(_, bound)| bound)
}

/// The stamp of a forgotten attempt that is asked for once more: its own, so that the pods that are bound
/// for it may stay where it gets the same nodes again; unless a later attempt has been made since.
pub fn after_lost(
    cluster: &str,
    gang: &Gang,
    listed: &[(Stamp, Job)],
    lost_generation: u32,
) -> Stamp {
    let mine = listed.iter().filter(|(s, _)| s.cluster == cluster && s.gang == gang.uid);
    let bound = gang.members.iter().filter_map(|m| m.bound.as_ref()).map(|b| b.generation);
    let newest = mine.map(|(s, _)| s.generation).chain(bound).max().unwrap_or(0);
    let later = newest > lost_generation;
    Stamp {
        cluster: cluster.to_owned(),
        gang: gang.uid.clone(),
        generation: if later { newest.saturating_add(1) } else { lost_generation },
        pods: fingerprint(gang.founders().map(|m| m.uid.as_str())),
        part: None,
    }
}

/// Nodes that failed a short while ago under placeholders of one cluster, and how long (s) until the first
/// of them is trusted again. `now` is Slurm's clock, as the ends of its jobs are.
pub fn failed_lately(
    cluster: &str,
    failed: &[(Stamp, Job)],
    now: i64,
    shunned_for: u32,
) -> Option<(String, u32)> {
    let mut names = Vec::new();
    let mut until = None;
    for (_, job) in failed.iter().filter(|(stamp, _)| stamp.cluster == cluster) {
        let left = job.end_time.saturating_add(i64::from(shunned_for)).saturating_sub(now);
        // Slurm's clock may have been set back since: nobody is shunned for longer than was said.
        let Some(left) = u32::try_from(left).ok().filter(|left| *left > 0) else { continue };
        let Ok(nodes) = Hostlist::parse(&job.failed_nodes) else { continue };
        let before = names.len();
        names.extend(nodes.names());
        if names.len() > before {
            let left = left.min(shunned_for);
            until = Some(until.map_or(left, |until: u32| until.min(left)));
        }
    }
    until.map(|until| (eligible::hostlist(names), until))
}

/// An ask that Slurm refuses, at once or as something impossible, may leave a FAILED record that never ran: it
/// is no ending of anything.
pub fn is_refused(job: &Job) -> bool {
    job.state.base == BaseState::Failed && job.nodes.is_empty()
}

#[cfg(test)]
#[path = "placeholder/tests.rs"]
mod tests;
