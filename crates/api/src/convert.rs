//! Between the wire and core's types: everything from outside is checked here, once.

mod ask;
mod desk;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use gangway_core::follow::{Ends, Verdict};
use gangway_core::gang::{Bound, Gang, Later, Member};
use gangway_core::hostlist::Hostlist;
use gangway_core::job::{BaseState, JobId, JobState};
use gangway_core::place::Seat;
use gangway_core::placeholder::is_word;
use gangway_core::pod::Demand;
use gangway_core::policy::{Category, Refusal};
use gangway_core::workload::MAX_GANG;

use crate::v1;

/// A message that cannot be understood; the field and what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadMessage {
    /// The field, as a path.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Cow<'static, str>,
}

fn bad(field: &'static str, problem: impl Into<Cow<'static, str>>) -> BadMessage {
    BadMessage { field, problem: problem.into() }
}

const TOO_MANY: &str = "must be at most 65536 with all members";
const WORD: &str = "must be 1 to 128 letters, digits, '.', '_', ':' or '-'";

/// Checks who asks and for which gang.
pub(crate) fn key(cluster: &str, uid: &str) -> Result<(), BadMessage> {
    if !is_word(cluster) {
        return Err(bad("cluster", WORD));
    }
    if !is_word(uid) {
        return Err(bad("uid", WORD));
    }
    Ok(())
}

impl v1::ReleaseRequest {
    /// Checks the gang's key.
    pub fn check(&self) -> Result<(), BadMessage> {
        key(&self.cluster, &self.uid)
    }

    /// The latest attempt that this is about.
    pub fn latest(&self) -> u32 {
        match self.up_to {
            Some(v1::release_request::UpTo::Generation(latest)) => latest,
            None => u32::MAX,
        }
    }
}

impl v1::ExplainRequest {
    /// Checks the gang's key.
    pub fn check(&self) -> Result<(), BadMessage> {
        key(&self.cluster, &self.uid)
    }
}

impl TryFrom<v1::Gang> for Gang {
    type Error = BadMessage;

    fn try_from(gang: v1::Gang) -> Result<Self, BadMessage> {
        key(&gang.cluster, &gang.uid).map_err(|e| match e.field {
            "cluster" => bad("gang.cluster", e.problem),
            _ => bad("gang.uid", e.problem),
        })?;
        if gang.members.is_empty() || gang.members.len() > MAX_GANG as usize {
            return Err(bad("gang.members", "must be 1 to 65536"));
        }
        let printable = |text: &str| text.len() <= 512 && !text.chars().any(char::is_control);
        if ![&gang.namespace, &gang.name, &gang.kind].into_iter().all(|t| printable(t)) {
            return Err(bad("gang.name", "must be at most 512 printable characters"));
        }
        let later =
            gang.later.into_iter().map(later).collect::<Result<Vec<Later>, BadMessage>>()?;
        // Before anybody counts what is still to come.
        let to_come = later.iter().map(|l| u64::from(l.count)).sum::<u64>();
        if to_come > u64::from(MAX_GANG) {
            return Err(bad("gang.later", TOO_MANY));
        }
        let mut last = Arc::default();
        let members = gang.members.into_iter().map(|m| member(m, &mut last));
        let mut members = members.collect::<Result<Vec<Member>, BadMessage>>()?;
        members.sort_by_key(|m| m.rank);
        if members.windows(2).any(|pair| pair[0].rank == pair[1].rank) {
            return Err(bad("gang.members.rank", "must be different for each member"));
        }
        let tables = gang.excluded_nodes.len().max(1);
        if members.iter().any(|m| m.reach as usize >= tables) {
            return Err(bad("gang.members.reach", "must be an index into gang.excluded_nodes"));
        }
        if later.iter().any(|l| l.reach as usize >= tables) {
            return Err(bad("gang.later.reach", "must be an index into gang.excluded_nodes"));
        }
        let readable = |text: &String| text.is_empty() || Hostlist::parse(text).is_ok();
        if !gang.excluded_nodes.iter().all(readable) {
            return Err(bad("gang.excluded_nodes", "must be Slurm hostlists"));
        }
        let mut parsed = Self {
            uid: gang.uid,
            namespace: gang.namespace,
            name: gang.name,
            kind: gang.kind,
            members,
            expected: 0,
            later,
            excluded_nodes: gang.excluded_nodes.into_iter().map(Arc::from).collect(),
            ask: gang.ask.map(ask::read).transpose()?.unwrap_or_default(),
        };
        let size = u32::try_from(parsed.size()).ok().filter(|size| *size <= MAX_GANG);
        parsed.expected = size.ok_or_else(|| bad("gang.later", TOO_MANY))?;
        Ok(parsed)
    }
}

/// Ranks stay below the largest gang, so that counting them ends.
fn later(later: v1::Later) -> Result<Later, BadMessage> {
    if later.first_rank.checked_add(later.count).is_none_or(|end| end > MAX_GANG) {
        return Err(bad("gang.later.first_rank", "must be at most 65536 with count"));
    }
    let other = later.resources.into_iter().filter(|(_, n)| *n > 0).collect();
    Ok(Later {
        role: later.role,
        first: later.first_rank,
        count: later.count,
        demand: Demand { milli_cpu: later.milli_cpu, memory: later.memory, other },
        reach: later.reach,
    })
}

fn member(member: v1::Member, last: &mut Arc<Demand>) -> Result<Member, BadMessage> {
    if !is_word(&member.uid) {
        return Err(bad("gang.members.uid", WORD));
    }
    let other: BTreeMap<String, u64> =
        member.resources.into_iter().filter(|(_, n)| *n > 0).collect();
    let needs = Demand { milli_cpu: member.milli_cpu, memory: member.memory, other };
    // Members mostly need the same: it is kept once.
    if **last != needs {
        *last = Arc::new(needs);
    }
    Ok(Member {
        uid: member.uid,
        name: member.name,
        role: member.role,
        rank: member.rank,
        demand: last.clone(),
        bound: member.bound.map(|b| Bound {
            generation: b.generation,
            job: JobId(b.job_id),
            node: b.node,
            indexes: b.indexes.into_iter().map(|(gres, i)| (gres, i.index)).collect(),
        }),
        finished: false,
        gated: false,
        notice: gangway_core::gang::Notice::None,
        reach: member.reach,
    })
}

impl v1::Gang {
    /// The message for the unfinished members of a gang, asked for by `cluster`.
    pub fn of(cluster: &str, gang: &Gang) -> Self {
        Self {
            cluster: cluster.to_owned(),
            uid: gang.uid.clone(),
            namespace: gang.namespace.clone(),
            name: gang.name.clone(),
            kind: gang.kind.clone(),
            members: gang.members.iter().filter(|m| !m.finished).map(v1::Member::of).collect(),
            ask: Some(v1::Ask::of(&gang.ask)),
            excluded_nodes: gang.excluded_nodes.iter().map(|text| text.to_string()).collect(),
            later: gang.later.iter().map(v1::Later::of).collect(),
        }
    }
}

impl v1::Later {
    fn of(later: &Later) -> Self {
        Self {
            role: later.role.clone(),
            first_rank: later.first,
            count: later.count,
            milli_cpu: later.demand.milli_cpu,
            memory: later.demand.memory,
            resources: later.demand.other.clone(),
            reach: later.reach,
        }
    }
}

impl v1::Member {
    fn of(member: &Member) -> Self {
        Self {
            uid: member.uid.clone(),
            name: member.name.clone(),
            role: member.role.clone(),
            rank: member.rank,
            milli_cpu: member.demand.milli_cpu,
            memory: member.demand.memory,
            resources: member.demand.other.clone(),
            bound: member.bound.as_ref().map(|b| v1::Bound {
                generation: b.generation,
                job_id: b.job.0,
                node: b.node.clone(),
                indexes: indexes_of(&b.indexes),
            }),
            reach: member.reach,
        }
    }
}

impl v1::Verdict {
    /// The verdict as a message.
    pub fn of(verdict: &Verdict) -> Self {
        use v1::verdict::Verdict as Wire;
        let wire = match verdict {
            Verdict::Refused(refusal) => Wire::Refused(v1::Refused {
                category: refusal.category.name().to_owned(),
                message: refusal.message.clone(),
                slurm_code: refusal.slurm_code,
            }),
            Verdict::Queued { job, reason, message, expected_start } => Wire::Queued(v1::Queued {
                job_id: job.map_or(0, |j| j.0),
                reason: reason.clone(),
                message: message.clone(),
                expected_start: *expected_start,
            }),
            Verdict::Allocated { job, generation, seats, note, ends, renewed } => {
                Wire::Allocated(v1::Allocated {
                    job_id: job.0,
                    generation: *generation,
                    seats: seats_of(seats),
                    note: note.clone(),
                    ends: ends
                        .map(|Ends { in_ms, by_time_limit }| v1::Ends { in_ms, by_time_limit }),
                    renewed: *renewed,
                })
            }
            Verdict::Ended { job, generation, state, message } => Wire::Ended(v1::Ended {
                job_id: job.0,
                generation: *generation,
                state: state.name().to_owned(),
                message: message.clone(),
            }),
        };
        Self { verdict: Some(wire) }
    }
}

fn seats_of(seats: &BTreeMap<String, Seat>) -> Vec<v1::Seat> {
    let mut out: Vec<v1::Seat> = seats
        .iter()
        .map(|(uid, seat)| v1::Seat {
            member_uid: uid.clone(),
            rank: seat.rank,
            node: seat.node.clone(),
            indexes: indexes_of(seat.indexes.iter().map(|(gres, index)| (gres, index))),
        })
        .collect();
    out.sort_by_key(|s| s.rank);
    out
}

fn indexes_of<'a>(
    indexes: impl IntoIterator<Item = (&'a String, &'a Vec<u32>)>,
) -> BTreeMap<String, v1::Indexes> {
    let list =
        |(gres, index): (&String, &Vec<u32>)| (gres.clone(), v1::Indexes { index: index.clone() });
    indexes.into_iter().map(list).collect()
}

impl TryFrom<v1::Verdict> for Verdict {
    type Error = BadMessage;

    fn try_from(verdict: v1::Verdict) -> Result<Self, BadMessage> {
        use v1::verdict::Verdict as Wire;
        Ok(match verdict.verdict.ok_or_else(|| bad("verdict", "is missing"))? {
            Wire::Refused(r) => Self::Refused(Refusal {
                category: category(&r.category),
                message: r.message,
                slurm_code: r.slurm_code,
            }),
            Wire::Queued(q) => Self::Queued {
                job: Some(JobId(q.job_id)).filter(|j| j.0 > 0),
                reason: q.reason,
                message: q.message,
                expected_start: q.expected_start,
            },
            Wire::Allocated(a) => Self::Allocated {
                job: JobId(a.job_id),
                generation: a.generation,
                note: a.note,
                ends: a.ends.map(|e| Ends { in_ms: e.in_ms, by_time_limit: e.by_time_limit }),
                renewed: a.renewed,
                seats: a
                    .seats
                    .into_iter()
                    .map(|s| {
                        let indexes = s.indexes.into_iter().map(|(gres, i)| (gres, i.index));
                        let seat = Seat { rank: s.rank, node: s.node, indexes: indexes.collect() };
                        (s.member_uid, seat)
                    })
                    .collect(),
            },
            Wire::Ended(e) => Self::Ended {
                job: JobId(e.job_id),
                generation: e.generation,
                state: base_state(&e.state),
                message: e.message,
            },
        })
    }
}

/// A category this version does not know is Slurm's.
fn category(name: &str) -> Category {
    [
        Category::Policy,
        Category::Shape,
        Category::Partition,
        Category::Account,
        Category::Resources,
        Category::Nodes,
    ]
    .into_iter()
    .find(|c| c.name() == name)
    .unwrap_or(Category::Slurm)
}

fn base_state(name: &str) -> BaseState {
    JobState::parse(&[name]).base
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_come_later_survive_the_wire_and_are_bounded() {
        let later = |first_rank, count| v1::Later {
            role: "worker".into(),
            first_rank,
            count,
            milli_cpu: 500,
            ..v1::Later::default()
        };
        let with = |later: v1::Later| v1::Gang { later: vec![later], ..gang() };
        let mut told = with(v1::Later { reach: 1, ..later(1, 3) });
        assert!(Gang::try_from(told.clone()).is_err(), "there is no such row");
        told.excluded_nodes = vec![String::new(), "n1".into()];
        let parsed = Gang::try_from(told).expect("fine");
        assert_eq!(parsed.later[0].reach, 1);
        assert_eq!((parsed.expected, parsed.absent().count()), (4, 2), "rank 1 is there");
        assert_eq!(Gang::try_from(v1::Gang::of("c", &parsed)), Ok(parsed));
        for (first, count) in [(MAX_GANG, 1), (1, u32::MAX), (2, MAX_GANG - 1)] {
            assert!(Gang::try_from(with(later(first, count))).is_err(), "{first} {count}");
        }
        let mut twice = with(later(2, MAX_GANG - 2));
        twice.later.push(later(2, MAX_GANG - 2));
        assert!(Gang::try_from(twice).is_err());
        // Each of them alone would be fine. Counting them all one by one would take an hour.
        let many = v1::Gang { later: vec![later(1, MAX_GANG - 1); 1_000_000], ..gang() };
        assert!(Gang::try_from(many).is_err());
    }

    fn gang() -> v1::Gang {
        let member = |uid: &str, rank| v1::Member {
            uid: uid.into(),
            rank,
            milli_cpu: 1500,
            resources: BTreeMap::from([("nvidia.com/gpu".to_owned(), 8)]),
            ..v1::Member::default()
        };
        v1::Gang {
            cluster: "c".into(),
            uid: "g".into(),
            members: vec![member("b", 1), member("a", 0)],
            ..v1::Gang::default()
        }
    }

    #[test]
    fn a_gang_survives_the_wire() {
        let mut sent = gang();
        sent.members[0].bound = Some(v1::Bound {
            generation: 1,
            job_id: 7,
            node: "n1".into(),
            indexes: BTreeMap::from([("gpu".to_owned(), v1::Indexes { index: vec![2, 3] })]),
        });
        sent.excluded_nodes = vec![String::new(), "n[1-3]".into()];
        sent.members[0].reach = 1;
        let parsed = Gang::try_from(sent).expect("fine");
        assert_eq!(parsed.members.iter().map(|m| m.uid.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let held = &parsed.members[1].bound.as_ref().expect("bound").indexes;
        assert_eq!(held["gpu"], [2, 3]);
        assert_eq!(Gang::try_from(v1::Gang::of("c", &parsed)), Ok(parsed));
    }

    #[test]
    fn what_could_break_a_stamp_is_refused() {
        for break_it in [
            |g: &mut v1::Gang| g.cluster = "a b".into(),
            |g: &mut v1::Gang| g.uid = "x\ny".into(),
            |g: &mut v1::Gang| g.uid = String::new(),
            |g: &mut v1::Gang| g.members.clear(),
            |g: &mut v1::Gang| g.members[0].rank = 0,
            |g: &mut v1::Gang| g.members[0].uid = "\u{1b}".into(),
            |g: &mut v1::Gang| g.name = "line\nbreak".into(),
            |g: &mut v1::Gang| g.excluded_nodes = vec!["n[1".into()],
            |g: &mut v1::Gang| g.members[0].reach = 1,
        ] {
            let mut gang = gang();
            break_it(&mut gang);
            assert!(Gang::try_from(gang.clone()).is_err(), "{gang:?}");
        }
    }

    #[test]
    fn verdicts_survive_the_wire() {
        let seat = Seat { rank: 0, node: "n1".into(), indexes: vec![("gpu".into(), vec![0, 1])] };
        for verdict in [
            Verdict::Refused(Refusal::new(Category::Account, "no")),
            Verdict::Refused(Refusal::new(Category::Nodes, "no")),
            Verdict::Queued {
                job: None,
                reason: "r".into(),
                message: "m".into(),
                expected_start: 5,
            },
            Verdict::Allocated {
                job: JobId(7),
                generation: 2,
                seats: BTreeMap::from([("a".to_owned(), seat)]),
                note: "n".into(),
                ends: Some(Ends { in_ms: 5, by_time_limit: true }),
                renewed: true,
            },
            Verdict::Ended {
                job: JobId(7),
                generation: 2,
                state: BaseState::NodeFail,
                message: "m".into(),
            },
        ] {
            assert_eq!(Verdict::try_from(v1::Verdict::of(&verdict)), Ok(verdict));
        }
    }
}
