//! What a stock kube-scheduler is told of a pod, and what becomes of a seat that it does not take.
//!
//! kube-scheduler asks for one pod at a time and may only be answered from what is known already.
//! It never chooses: of its nodes it gets the one that Slurm gave, or none (rule 1).

use crate::follow::{Action, Cause, Facts, Plan, Report, Spot, Verdict};
use crate::gang::Assembled;
use crate::job::JobId;

/// Where a pod stands that is not bound yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No word of Slurm has come yet; one may come at any moment.
    Unheard,
    /// It waits, or was refused; the sentence is for the user.
    Waiting(String),
    /// Slurm gave it this place, and its whole gang can be bound.
    Seat {
        /// Kubernetes' name of the node.
        node: String,
        /// The placeholder.
        job: JobId,
    },
}

/// An answer to `filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This node and no other.
    Node(String),
    /// None of them, and why.
    None(String),
}

/// Chooses among the nodes that kube-scheduler's own plugins have left over.
pub fn choose<'a>(standing: &Standing, nodes: impl IntoIterator<Item = &'a str>) -> Answer {
    match standing {
        Standing::Unheard => Answer::None("Slurm has been asked and has not answered yet".into()),
        Standing::Waiting(why) => Answer::None(why.clone()),
        Standing::Seat { node, job } => {
            if nodes.into_iter().any(|n| n == node) {
                return Answer::Node(node.clone());
            }
            Answer::None(format!(
                "Slurm gave node {node} (job {job}), which is not among the nodes that kube-scheduler's own plugins accept"
            ))
        }
    }
}

/// Volumes that wait for their first consumer are kube-scheduler's to bring about, on the node that
/// it was given: to us such a seat is free.
pub fn leave_volumes(spot: &mut Spot) {
    if let Spot::Volumes { node, .. } = spot {
        *spot = Spot::Free(std::mem::take(node));
    }
}

/// What kube-scheduler says of a pod that waits, after "N nodes are available: N".
pub fn sentence(report: &Report) -> String {
    match report.reason {
        "Queued" => format!("waiting in Slurm: {}", report.message),
        "Refused" => format!("refused: {}", report.message),
        _ => report.message.clone(),
    }
}

/// Where each member that still has to be bound stands, by pod uid. `sentence` is what its user
/// has been told, if that is still so.
pub fn standings<'a>(
    assembled: &'a Assembled,
    verdict: Option<&'a Verdict>,
    plan: &'a Plan,
    sentence: Option<&'a str>,
) -> impl Iterator<Item = (&'a str, Standing)> {
    let members = assembled.gang.members.iter().filter(|m| m.bound.is_none() && !m.finished);
    members.map(move |member| {
        let seat = plan.actions.iter().find_map(|action| match action {
            Action::Bind { pod, node, job, .. } if *pod == member.uid => {
                Some(Standing::Seat { node: node.clone(), job: *job })
            }
            _ => None,
        });
        let standing = seat.unwrap_or_else(|| match (sentence, verdict) {
            (Some(told), _) => Standing::Waiting(told.to_owned()),
            (None, Some(Verdict::Queued { .. })) => {
                Standing::Waiting("waiting in Slurm, which has not said why yet".to_owned())
            }
            (None, _) => Standing::Unheard,
        });
        (member.uid.as_str(), standing)
    })
}

/// Since when (ms) an allocation is on offer that kube-scheduler has yet to take, given what was so
/// before. A gang that was whole once is not counted any more, nor one that this process found
/// partly bound: that its replacement waits is no reason to end it.
pub fn on_offer(
    before: Option<(JobId, i64)>,
    facts: &Facts<'_>,
    plan: &Plan,
    now: i64,
) -> Option<(JobId, i64)> {
    let Some(Verdict::Allocated { job, .. }) = facts.verdict else { return None };
    if facts.progress.all_bound {
        return None;
    }
    if let Some((of, since)) = before.filter(|(of, _)| of == job) {
        return Some((of, since));
    }
    let offered = plan.actions.iter().any(|a| matches!(a, Action::Bind { .. }));
    let found = facts.assembled.gang.members.iter().any(|m| m.bound.is_some())
        && facts.progress.first_bind.is_none();
    (offered && !found).then_some((*job, now))
}

/// How kube-scheduler has taken the offer of a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Taken {
    /// It has not asked about the pod.
    NotAsked,
    /// It has asked, but without that node among those it would take.
    Rejected,
    /// It was given the node and has not come to bind.
    NotBound,
    /// It has come to bind and waits for the rest of the gang.
    Here,
}

/// Why an allocation was not taken: the least advanced member's tale. `seats` are pod, node and how
/// far kube-scheduler got; `seconds` is how long it had.
pub fn untaken<'a>(
    seats: impl IntoIterator<Item = (&'a str, &'a str, Taken)>,
    job: JobId,
    seconds: i64,
) -> String {
    let worst = seats.into_iter().min_by_key(|(_, _, taken)| *taken);
    let Some((pod, node, taken)) = worst else {
        return format!("the nodes of Slurm job {job} were not taken within {seconds} s");
    };
    let cause = match taken {
        Taken::NotAsked => {
            "kube-scheduler has not asked about it; see whether it runs, with a profile of this name and this extender"
        }
        Taken::Rejected => {
            "kube-scheduler's own plugins reject that node for it; its FailedScheduling events name them"
        }
        Taken::NotBound | Taken::Here => {
            "kube-scheduler accepted the node and has not bound the pod; see its volume claims and kube-scheduler's log"
        }
    };
    format!(
        "pod {pod} did not take node {node} of Slurm job {job} within {seconds} s: {cause}. The nodes go back to Slurm"
    )
}

/// Gives an allocation back that was not taken in time: its pods leave, with the reason, so that
/// nobody holds nodes in vain and what their controller makes anew queues again.
pub fn give_back(assembled: &Assembled, generation: u32, released: bool, why: &str) -> Plan {
    let unfinished = assembled.gang.members.iter().filter(|m| !m.finished);
    let evict = |uid: &str| {
        let (pod, why) = (uid.to_owned(), why.to_owned());
        Action::Evict { pod, cause: Cause::NotTaken, why }
    };
    let mut actions: Vec<Action> = unfinished.map(|m| evict(&m.uid)).collect();
    if !released {
        actions.push(Action::Release { why: why.to_owned(), generation });
    }
    Plan { actions, ..Plan::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::ask::Ask;
    use crate::follow::Progress;
    use crate::gang::{Bound, Gang, Member};
    use crate::place::Seat;

    const NODES: [&str; 3] = ["n1", "n2", "n3"];

    fn seat(node: &str) -> Standing {
        Standing::Seat { node: node.to_owned(), job: JobId(7) }
    }

    fn gang(names: &[&str]) -> Assembled {
        let member = |(name, rank): (&&str, u32)| Member {
            uid: (*name).to_owned(),
            name: (*name).to_owned(),
            role: String::new(),
            rank,
            reach: 0,
            demand: std::sync::Arc::default(),
            bound: None,
            finished: false,
            gated: false,
            notice: crate::gang::Notice::None,
        };
        let gang = Gang {
            uid: "g".to_owned(),
            namespace: "team".to_owned(),
            name: "train".to_owned(),
            kind: "Job".to_owned(),
            members: names.iter().zip(0..).map(member).collect(),
            expected: 2,
            later: Vec::new(),
            excluded_nodes: Vec::new(),
            ask: Ask::default(),
        };
        Assembled {
            gang,
            problems: Vec::new(),
            leaving: BTreeSet::new(),
            over: false,
            after: None,
            nowhere: None,
            torn: false,
            stand_ins: Vec::new(),
            stands_in: None,
            policies: 0,
        }
    }

    fn bind(pod: &str, node: &str) -> Action {
        let seat = Seat { rank: 0, node: format!("slurm-{node}"), indexes: Vec::new() };
        let (pod, node) = (pod.to_owned(), node.to_owned());
        Action::Bind { pod, seat, node, job: JobId(7), generation: 1 }
    }

    #[test]
    fn only_slurms_node_is_ever_chosen() {
        assert_eq!(choose(&seat("n2"), NODES), Answer::Node("n2".to_owned()));
        for standing in [Standing::Unheard, Standing::Waiting("why".to_owned()), seat("n9")] {
            assert!(matches!(choose(&standing, NODES), Answer::None(_)), "{standing:?}");
        }
        let Answer::None(why) = choose(&seat("n9"), NODES) else { panic!("n9 is not there") };
        assert!(why.contains("n9") && why.contains("job 7") && why.contains("own plugins"));
    }

    #[test]
    fn a_seat_whose_volumes_are_still_to_be_made_is_free_and_no_other_changes() {
        let (claims, message) = (Vec::new(), String::new());
        let mut spot = Spot::Volumes { node: "n1".to_owned(), claims, message };
        leave_volumes(&mut spot);
        assert_eq!(spot, Spot::Free("n1".to_owned()));
        let taken = Spot::Taken { by: "t/p".to_owned() };
        let mut spot = taken.clone();
        leave_volumes(&mut spot);
        assert_eq!(spot, taken);
    }

    #[test]
    fn a_seat_is_offered_only_where_the_plan_binds() {
        let mut assembled = gang(&["a", "b", "c"]);
        let bound = Bound {
            generation: 1,
            job: JobId(7),
            node: "n3".to_owned(),
            indexes: Default::default(),
        };
        assembled.gang.members[2].bound = Some(bound);
        let verdict = Verdict::Allocated {
            job: JobId(7),
            generation: 1,
            seats: BTreeMap::default(),
            note: String::new(),
            ends: None,
            renewed: false,
        };
        let plan = Plan { actions: vec![bind("a", "n1")], ..Plan::default() };
        let all: Vec<_> =
            standings(&assembled, Some(&verdict), &plan, Some("a GPU is held")).collect();
        let waiting = Standing::Waiting("a GPU is held".to_owned());
        assert_eq!(all, [("a", seat("n1")), ("b", waiting)], "c is bound");
    }

    #[test]
    fn before_the_first_word_nothing_is_said_and_a_queued_gang_waits() {
        let assembled = gang(&["a"]);
        let plan = Plan::default();
        let only = |verdict| standings(&assembled, verdict, &plan, None).next().map(|(_, s)| s);
        assert_eq!(only(None), Some(Standing::Unheard));
        let (reason, message) = (String::new(), String::new());
        let queued = Verdict::Queued { job: None, reason, message, expected_start: 0 };
        assert!(matches!(only(Some(&queued)), Some(Standing::Waiting(_))));
    }

    #[test]
    fn an_offer_counts_from_its_beginning_until_the_gang_was_whole_once() {
        let (seats, note) = (BTreeMap::default(), String::new());
        let verdict = Verdict::Allocated {
            job: JobId(7),
            generation: 1,
            seats,
            note,
            ends: None,
            renewed: false,
        };
        let mut assembled = gang(&["a", "b"]);
        let mut progress = Progress::default();
        let plan = Plan { actions: vec![bind("a", "n1"), bind("b", "n2")], ..Plan::default() };
        let spots = BTreeMap::new();
        let since = |assembled: &Assembled, progress: &Progress, before, plan: &Plan, now| {
            let verdict = Some(&verdict);
            on_offer(before, &Facts { assembled, verdict, progress, spots: &spots }, plan, now)
        };
        let first = since(&assembled, &progress, None, &plan, 100);
        assert_eq!(first, Some((JobId(7), 100)));
        assert_eq!(since(&assembled, &progress, first, &Plan::default(), 200), first, "it goes on");
        let other = Some((JobId(6), 100));
        assert_eq!(since(&assembled, &progress, other, &plan, 200), Some((JobId(7), 200)));
        assert_eq!(since(&assembled, &progress, None, &Plan::default(), 200), None, "nothing yet");

        assembled.gang.members[0].bound = Some(Bound {
            generation: 1,
            job: JobId(7),
            node: "n1".to_owned(),
            indexes: BTreeMap::new(),
        });
        assert_eq!(since(&assembled, &progress, None, &plan, 300), None, "found partly bound");
        progress.first_bind = Some(250);
        assert_eq!(since(&assembled, &progress, first, &plan, 300), first);
        progress.all_bound = true;
        assert_eq!(since(&assembled, &progress, first, &plan, 300), None, "it was whole once");
    }

    #[test]
    fn what_was_not_taken_tells_of_the_pod_that_is_furthest_behind() {
        let seats = [
            ("t/a", "n1", Taken::Here),
            ("t/b", "n2", Taken::Rejected),
            ("t/c", "n3", Taken::NotBound),
        ];
        let why = untaken(seats, JobId(7), 300);
        for part in ["t/b", "n2", "job 7", "300 s", "own plugins reject"] {
            assert!(why.contains(part), "{part} in {why}");
        }
        assert!(untaken([("t/a", "n1", Taken::NotAsked)], JobId(7), 1).contains("not asked"));
    }

    #[test]
    fn an_allocation_in_vain_goes_back_once_and_its_pods_leave() {
        let mut assembled = gang(&["a", "b"]);
        assembled.gang.members[1].finished = true;
        let why = "why".to_owned();
        let evict = Action::Evict { pod: "a".to_owned(), cause: Cause::NotTaken, why: why.clone() };
        let release = Action::Release { why, generation: 2 };
        assert_eq!(give_back(&assembled, 2, false, "why").actions, [evict.clone(), release]);
        assert_eq!(give_back(&assembled, 2, true, "why").actions, [evict]);
    }
}
