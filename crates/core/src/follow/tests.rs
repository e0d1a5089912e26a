use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ask::{Ask, Other};
use crate::eligible::volume::ToSelect;
use crate::gang::{Bound, Gang, Later};
use crate::pod::Demand;
use crate::policy::Category;

mod beside;
mod elsewhere;
mod never;
mod staged;
mod warning;

#[test]
fn room_is_asked_for_once_the_gang_is_complete_and_sound() {
    let mut scene = Scene::new(2);
    assert_eq!(scene.actions(), [Action::Ask]);
    // The question is open: it is not asked again.
    scene.asked(&["a", "b"]);
    let plan = scene.plan();
    assert_eq!((plan.actions, plan.report), (vec![], None));
}

#[test]
fn a_half_created_or_gated_gang_waits_and_says_for_what() {
    let mut scene = Scene::new(2);
    scene.assembled.gang.expected = 4;
    assert_eq!(
        scene.told("GangIncomplete"),
        "waiting for the other pods of PyTorchJob train: 2 of 4 are there"
    );
    scene.assembled.gang.expected = 2;
    scene.member("b").gated = true;
    assert_eq!(scene.told("GangIncomplete"), "waiting for the scheduling gates of b");
}

#[test]
fn problems_are_told_as_such_and_nothing_is_asked() {
    let mut scene = Scene::new(2);
    scene.assembled.problems = vec!["one".to_owned(), "two".to_owned()];
    assert_eq!(scene.told("Refused"), "one; two");
    assert!(scene.plan().report.expect("told").problem);
}

#[test]
fn bound_pods_find_their_placeholder_after_a_restart_whatever_else_is_wrong() {
    let mut scene = Scene::new(2);
    scene.bind("a", 7, 1);
    scene.assembled.gang.expected = 4;
    scene.assembled.problems = vec!["a typing error".to_owned()];
    assert_eq!(scene.actions(), [Action::Ask]);
}

#[test]
fn a_short_wait_is_not_told_and_a_longer_one_is() {
    let mut scene = Scene::new(2).with(queued_for("Priority"));
    scene.asked(&["a", "b"]);
    scene.now = QUIET_MS - 1;
    assert_eq!(scene.plan(), Plan { wake: Some(QUIET_MS), ..Plan::default() });
    scene.now = QUIET_MS;
    assert_eq!(scene.told("Queued"), "in the queue");
    // Slurm has not said why: a little longer. Waiting in vain: at once, as a problem.
    scene.verdict = Some(queued_for(""));
    assert_eq!(scene.plan(), Plan { wake: Some(5 * QUIET_MS), ..Plan::default() });
    scene.verdict = Some(queued_for("BadConstraints"));
    scene.now = 0;
    assert!(scene.plan().report.expect("told").problem);
}

#[test]
fn a_refusal_is_asked_again_at_once_when_policies_have_changed() {
    let refusal = Refusal::new(Category::Policy, "no");
    let mut scene = Scene::new(2).with(Verdict::Refused(refusal));
    scene.asked(&["a", "b"]);
    assert_eq!(scene.told("Refused"), "no");
    scene.assembled.policies = 1;
    assert_eq!(scene.actions(), [Action::NewRound]);
}

#[test]
fn a_refusal_is_told_and_asked_again_later_or_for_other_pods() {
    let refusal = Refusal::new(Category::Partition, "no such partition");
    let mut scene = Scene::new(2).with(Verdict::Refused(refusal));
    scene.asked(&["a", "b"]);
    scene.now = ASK_AGAIN_MS - 1;
    assert_eq!(scene.told("Refused"), "no such partition");
    assert_eq!(scene.plan().wake, Some(ASK_AGAIN_MS));
    scene.now = ASK_AGAIN_MS;
    assert_eq!(scene.actions(), [Action::NewRound]);
    scene.now = 0;
    scene.asked(&["a", "before"]);
    assert_eq!(scene.actions(), [Action::NewRound]);
}

#[test]
fn a_gang_with_its_nodes_is_bound_all_at_once() {
    let scene = Scene::new(2).allocated();
    assert_eq!(scene.actions(), [bind("a", 0), bind("b", 1)]);
    assert_eq!(scene.plan().wake, Some(ALL_BOUND_WITHIN_MS), "to see that all are bound");
}

#[test]
fn nobody_is_bound_while_one_seat_is_held_or_has_no_node() {
    let mut scene = Scene::new(2).allocated();
    scene.spots.insert("b".to_owned(), Spot::Taken { by: "team/old".to_owned() });
    assert!(scene.told("WaitingForNode").contains("pod team/old still holds a device there"));
    scene.spots.insert("b".to_owned(), Spot::NoNode);
    assert!(scene.told("WaitingForNode").contains("gangway.dev/slurm-node=slurm-1"));
    scene.spots.clear();
    assert!(scene.told("WaitingForNode").contains("Kubernetes does not have"));
}

#[test]
fn nobody_is_bound_before_the_gang_is_complete_again() {
    let mut scene = Scene::new(2).allocated();
    scene.assembled.gang.members.remove(1);
    scene.told("GangIncomplete");
}

#[test]
fn the_rest_of_a_gang_follows_its_first_bound_member() {
    let mut scene = Scene::new(3).allocated();
    scene.bind("a", 7, 1);
    scene.progress.first_bind = Some(500);
    scene.spots.insert("c".to_owned(), Spot::NoNode);
    let plan = scene.plan();
    assert_eq!(plan.actions, [bind("b", 1)]);
    assert_eq!(plan.wake, Some(500 + ALL_BOUND_WITHIN_MS));
    assert_eq!(plan.report.expect("told").reason, "WaitingForNode");
}

#[test]
fn a_gang_that_is_bound_needs_nothing() {
    let mut scene = Scene::new(2).allocated();
    scene.bind("a", 7, 1);
    scene.bind("b", 7, 1);
    scene.now = 10 * ALL_BOUND_WITHIN_MS;
    assert_eq!(scene.plan(), Plan::default());
}

#[test]
fn a_gang_that_could_not_be_bound_in_time_leaves_its_nodes() {
    let mut scene = Scene::new(2).allocated();
    scene.bind("a", 7, 1);
    scene.progress.first_bind = Some(0);
    scene.now = ALL_BOUND_WITHIN_MS - 1;
    assert_eq!(scene.actions(), [bind("b", 1)]);
    scene.now = ALL_BOUND_WITHIN_MS;
    assert_eq!(scene.evicted(), ["a"]);
    assert!(scene.plan().report.expect("told").problem);
    // It was bound as a whole once: the latecomer is a replacement, and nobody leaves for it.
    scene.progress.all_bound = true;
    assert_eq!(scene.actions(), [bind("b", 1)]);
}

#[test]
fn a_member_lost_before_all_were_bound_counts_as_not_bound() {
    let mut scene = Scene::new(2).allocated();
    scene.bind("a", 7, 1);
    scene.assembled.gang.members.remove(1);
    scene.progress.first_bind = Some(0);
    assert_eq!(scene.plan(), Plan { wake: Some(ALL_BOUND_WITHIN_MS), ..Plan::default() });
    scene.now = ALL_BOUND_WITHIN_MS;
    assert_eq!(scene.evicted(), ["a"]);
    // Lost after all were bound, its replacement is awaited instead.
    scene.progress.all_bound = true;
    assert_eq!(scene.plan(), Plan::default());
}

#[test]
fn after_a_roll_back_the_gang_is_bound_afresh() {
    let mut scene = Scene::new(2).allocated();
    scene.progress.first_bind = Some(0);
    scene.now = 2 * ALL_BOUND_WITHIN_MS;
    assert_eq!(scene.actions(), [bind("a", 0), bind("b", 1)]);
    assert_eq!(scene.plan().wake, Some(3 * ALL_BOUND_WITHIN_MS));
}

#[test]
fn a_pod_bound_for_another_job_leaves_before_anybody_is_bound() {
    let mut scene = Scene::new(2).allocated();
    scene.bind("b", 6, 1);
    scene.progress.weighed.insert(JobId(6));
    assert_eq!(scene.evicted(), ["b"]);
}

#[test]
fn a_pod_that_another_bridge_has_bound_is_weighed_before_anything_is_done() {
    let mut scene = Scene::new(2).allocated();
    scene.asked(&["a", "b"]);
    scene.bind("b", 6, 1);
    // Job 7 may be the one too many: Slurm's half has to know that job 6 was bound for.
    assert_eq!(scene.actions(), [Action::Ask]);
    scene.progress.asked.as_mut().expect("asked").bound_for.insert(JobId(6));
    let waits = Plan { wake: Some(scene.now + QUIET_MS), ..Plan::default() };
    assert_eq!(scene.plan(), waits, "nobody is bound or evicted until the answer is there");
}

#[test]
fn the_end_of_one_placeholder_is_not_that_of_another_of_the_same_generation() {
    let mut scene = Scene::new(2).with(ended(7, 1));
    scene.bind("a", 6, 1);
    scene.bind("b", 6, 1);
    assert_eq!(scene.actions(), [Action::NewRound], "it is asked for anew, and stays");
    scene.bind("b", 7, 1);
    assert_eq!(scene.evicted(), ["b"]);
}

#[test]
fn a_pod_whose_job_has_started_anew_elsewhere_leaves() {
    // slurmctld lost its memory: the same id again, on other nodes.
    let mut scene = Scene::new(2).allocated();
    scene.bind("a", 7, 1);
    scene.bind("b", 7, 1);
    assert_eq!(scene.evicted(), [""; 0]);
    scene.member("b").bound.as_mut().expect("bound").node = "given-away".to_owned();
    assert_eq!(scene.evicted(), ["b"]);
}

#[test]
fn a_pod_whose_job_has_started_anew_with_other_devices_leaves() {
    let mut scene = Scene::new(2).allocated();
    scene.bind("a", 7, 1);
    scene.bind("b", 7, 1);
    let held = |index| BTreeMap::from([("gpu".to_owned(), vec![index])]);
    scene.member("a").bound.as_mut().expect("bound").indexes = held(0);
    assert_eq!(scene.evicted(), [""; 0], "of b nobody knows");
    scene.member("b").bound.as_mut().expect("bound").indexes = held(7);
    assert_eq!(scene.evicted(), ["b"]);
}

#[test]
fn pods_stay_while_their_placeholder_is_in_the_queue_again_and_slurms_half_hears_of_them() {
    // slurmctld has forgotten the start.
    let mut scene = Scene::new(2).with(queued_for("Resources"));
    scene.asked(&["a", "b"]);
    scene.now = QUIET_MS;
    assert_eq!(scene.told("Queued"), "in the queue");
    scene.bind("a", 7, 1);
    scene.bind("b", 7, 1);
    assert_eq!(scene.actions(), [Action::Ask]);
    scene.asked(&["a", "b"]);
    assert!(scene.actions().is_empty(), "once");
}

#[test]
fn a_replacement_is_asked_for_once() {
    let mut scene = Scene::new(2).allocated();
    scene.bind("a", 7, 1);
    scene.asked(&["a", "before"]);
    scene.seats_for(&["a", "before"]);
    assert_eq!(scene.actions(), [Action::Ask]);
    scene.asked(&["a", "b"]);
    assert_eq!(scene.plan(), Plan::default());
    scene.seats_for(&["a", "b"]);
    assert_eq!(scene.actions(), [bind("b", 1)]);
}

#[test]
fn a_pod_that_comes_after_the_release_waits_for_the_next_round() {
    // All had finished, the placeholder was given back, and then the Job made another pod.
    let mut scene = Scene::new(2).allocated();
    scene.member("a").finished = true;
    scene.progress.released = true;
    scene.asked(&["a", "before"]);
    scene.seats_for(&["a", "before"]);
    assert_eq!(scene.plan(), Plan::default());
    scene.verdict = Some(ended(7, 1));
    assert_eq!(scene.actions(), [Action::NewRound]);
}

#[test]
fn the_end_of_the_placeholder_takes_this_rounds_pods_and_no_others() {
    let mut scene = Scene::new(5).with(ended(7, 2));
    scene.asked(&["a", "b"]);
    scene.bind("a", 7, 2);
    // b waits unbound; c is of an earlier round; d of a later one; e was made anew.
    scene.bind("c", 6, 1);
    scene.bind("d", 8, 3);
    assert_eq!(scene.evicted(), ["a", "b", "c"]);
    assert_eq!(
        scene.actions()[0],
        Action::Evict { pod: "a".to_owned(), cause: Cause::Cancelled, why: "cancelled".to_owned() }
    );
    // Those that have ended by themselves stay, for their logs.
    for name in ["a", "b", "c"] {
        scene.member(name).finished = true;
    }
    assert_eq!(scene.actions(), [Action::NewRound]);
}

#[test]
fn the_placeholder_goes_back_only_when_the_last_pod_has_gone() {
    let mut scene = Scene::new(1).allocated();
    scene.assembled.gang.members.clear();
    scene.assembled.leaving = BTreeSet::from(["a".to_owned()]);
    assert_eq!(scene.plan(), Plan::default());
    scene.assembled.leaving.clear();
    // What was there before they were seen to be gone: what comes later is for others.
    assert_eq!(scene.actions(), [Action::Inquire]);
    scene.progress.latest = Some(3);
    let release = Action::Release { why: "its pods are gone".to_owned(), generation: 3 };
    assert_eq!(scene.actions(), [release.clone(), Action::Forget]);
    // Also after a restart, when nothing is known of it.
    scene.verdict = None;
    assert_eq!(scene.actions(), [release, Action::Forget]);
    scene.progress.released = true;
    assert_eq!(scene.actions(), [Action::Forget]);
    scene.progress.released = false;
    scene.verdict = Some(ended(7, 1));
    assert_eq!(scene.actions(), [Action::Forget]);
}

#[test]
fn the_placeholder_of_finished_pods_lingers_for_their_successors() {
    let mut scene = Scene::new(2).finished();
    scene.now = LINGER_MS + 99;
    assert_eq!(scene.plan(), Plan { wake: Some(LINGER_MS + 100), ..Plan::default() });
    scene.now = LINGER_MS + 100;
    assert_eq!(scene.actions(), [Action::Inquire]);
    scene.progress.latest = Some(1);
    let release = Action::Release { why: "its pods have finished".to_owned(), generation: 1 };
    assert_eq!(scene.actions(), [release]);
    // Never while one is still on its way out.
    scene.assembled.leaving = BTreeSet::from(["old".to_owned()]);
    assert_eq!(scene.plan(), Plan::default());
    // And once.
    scene.assembled.leaving.clear();
    scene.progress.released = true;
    assert_eq!(scene.plan(), Plan::default());
}

#[test]
fn finished_pods_without_successors_give_it_back_at_once() {
    let release = [Action::Inquire];
    let mut over = Scene::new(2).finished();
    over.assembled.over = true;
    assert_eq!(over.actions(), release);
    assert_eq!(Scene::new(1).finished().actions(), release);
    let mut found_so = Scene::new(2).finished();
    found_so.progress.asked = None;
    assert_eq!(found_so.actions(), release);
}

/// Facts as they can be; members are `a`, `b`, `c` …, on job 7 of generation 1.
#[derive(Clone, Debug)]
struct Scene {
    assembled: Assembled,
    verdict: Option<Verdict>,
    progress: Progress,
    spots: BTreeMap<String, Spot>,
    now: i64,
}

impl Scene {
    /// A complete gang of so many members, before anything was done.
    fn new(members: u32) -> Self {
        let members = ["a", "b", "c", "d", "e"].iter().zip(0..members).map(member).collect();
        let gang = Gang {
            uid: "g".to_owned(),
            namespace: "team".to_owned(),
            name: "train".to_owned(),
            kind: "PyTorchJob".to_owned(),
            members,
            expected: 0,
            later: Vec::new(),
            ask: Ask::default(),
            excluded_nodes: Vec::new(),
        };
        let expected = u32::try_from(gang.members.len()).expect("few");
        let gang = Gang { expected, ..gang };
        let (problems, leaving) = (Vec::new(), BTreeSet::new());
        Self {
            assembled: Assembled {
                gang,
                problems,
                leaving,
                over: false,
                after: None,
                nowhere: None,
                torn: false,
                stand_ins: Vec::new(),
                stands_in: None,
                policies: 0,
            },
            verdict: None,
            progress: Progress::default(),
            spots: BTreeMap::new(),
            now: 0,
        }
    }

    fn with(self, verdict: Verdict) -> Self {
        Self { verdict: Some(verdict), ..self }
    }

    /// Asked for and allocated, with every seat free.
    fn allocated(mut self) -> Self {
        let names = self.names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.asked(&names);
        self.seats_for(&names);
        self
    }

    /// Every member has run and ended; 100 ms.
    fn finished(self) -> Self {
        let mut scene = self.allocated();
        for name in scene.names() {
            scene.bind(&name, 7, 1);
            scene.member(&name).finished = true;
        }
        scene.progress.finished_since = Some(100);
        scene
    }

    /// So many members more, from this rank, that are made when the others are ready.
    fn awaits(&mut self, first: u32, count: u32) {
        let gang = &mut self.assembled.gang;
        let (role, demand) = ("worker".to_owned(), Demand::default());
        gang.later = vec![Later { role, first, count, demand, reach: 0 }];
        gang.expected += count;
    }

    fn names(&self) -> Vec<String> {
        self.assembled.gang.members.iter().map(|m| m.name.clone()).collect()
    }

    fn member(&mut self, name: &str) -> &mut Member {
        self.assembled.gang.members.iter_mut().find(|m| m.name == name).expect("a member")
    }

    fn bind(&mut self, name: &str, job: u32, generation: u32) {
        let node = seat(self.member(name).rank).node;
        self.member(name).bound =
            Some(Bound { generation, job: JobId(job), node, indexes: BTreeMap::new() });
    }

    fn asked(&mut self, pods: &[&str]) {
        let pods = pods.iter().map(|p| (*p).to_owned()).collect();
        let gang = &self.assembled.gang;
        let bound = gang.members.iter().filter(|m| m.bound.is_some()).count();
        self.progress.asked = Some(Asked {
            pods,
            at: 0,
            reach: Reach::of(gang),
            bound,
            bound_for: BTreeSet::new(),
            policies: self.assembled.policies,
        });
    }

    fn seats_for(&mut self, pods: &[&str]) {
        let uids = || pods.iter().map(|p| (*p).to_owned());
        let seats = uids().zip((0..).map(seat)).collect();
        self.verdict = Some(Verdict::Allocated {
            job: JobId(7),
            generation: 1,
            seats,
            note: String::new(),
            ends: None,
            renewed: false,
        });
        self.spots = uids().zip((0..).map(|rank| Spot::Free(format!("kube-{rank}")))).collect();
    }

    fn plan(&self) -> Plan {
        let facts = Facts {
            assembled: &self.assembled,
            verdict: self.verdict.as_ref(),
            progress: &self.progress,
            spots: &self.spots,
        };
        decide(&facts, self.now)
    }

    fn actions(&self) -> Vec<Action> {
        self.plan().actions
    }

    /// The sentence of a plan that only tells something, for this reason.
    fn told(&self, reason: &str) -> String {
        let plan = self.plan();
        assert_eq!(plan.actions, []);
        let report = plan.report.expect("something is told");
        assert_eq!(report.reason, reason);
        report.message
    }

    /// The pods of a plan that only evicts.
    fn evicted(&self) -> Vec<String> {
        let pod = |action: Action| match action {
            Action::Evict { pod, .. } => pod,
            other => panic!("{other:?}"),
        };
        self.actions().into_iter().map(pod).collect()
    }
}

fn member((name, rank): (&&str, u32)) -> Member {
    Member {
        uid: (*name).to_owned(),
        name: (*name).to_owned(),
        role: String::new(),
        rank,
        demand: std::sync::Arc::default(),
        bound: None,
        finished: false,
        gated: false,
        notice: crate::gang::Notice::None,
        reach: 0,
    }
}

fn seat(rank: u32) -> Seat {
    Seat { rank, node: format!("slurm-{rank}"), indexes: vec![("gpu".to_owned(), vec![rank])] }
}

fn bind(pod: &str, rank: u32) -> Action {
    Action::Bind {
        pod: pod.to_owned(),
        seat: seat(rank),
        node: format!("kube-{rank}"),
        job: JobId(7),
        generation: 1,
    }
}

fn queued_for(reason: &str) -> Verdict {
    let (reason, message) = (reason.to_owned(), "in the queue".to_owned());
    Verdict::Queued { job: None, reason, message, expected_start: 0 }
}

fn ended(job: u32, generation: u32) -> Verdict {
    let message = "cancelled".to_owned();
    Verdict::Ended { job: JobId(job), generation, state: BaseState::Cancelled, message }
}
