//! Warnings, and time to leave.

use super::*;
use crate::ask::OnLoss;
use crate::gang::Notice;

const GRACE_MS: i64 = 20_000;
/// When the allocation ends.
const AT: i64 = 100_000;

/// Two members that run and asked for twenty seconds.
fn running() -> Scene {
    let mut scene = Scene::new(2).allocated();
    scene.assembled.gang.ask.grace_seconds = Some(20);
    scene.bind("a", 7, 1);
    scene.bind("b", 7, 1);
    scene.progress.all_bound = true;
    scene
}

fn both(in_ms: i64) -> Vec<(String, i64)> {
    vec![("a".to_owned(), in_ms), ("b".to_owned(), in_ms)]
}

fn over(state: BaseState) -> Verdict {
    Verdict::Ended { job: JobId(7), generation: 1, state, message: "it is over".to_owned() }
}

#[test]
fn a_time_limit_is_told_before_it_comes_and_nobody_stays_beyond_it() {
    let mut scene = running();
    scene.progress.ends = Some((AT, true));
    scene.now = AT - GRACE_MS - 1;
    assert_eq!(scene.plan(), Plan { wake: Some(AT - GRACE_MS), ..Plan::default() });
    scene.now = AT - GRACE_MS;
    assert_eq!(scene.warned(), both(GRACE_MS));
    assert!(scene.why().contains("time limit"), "{}", scene.why());
    scene.told_to_leave(AT);
    assert_eq!(scene.plan(), Plan { wake: Some(AT), ..Plan::default() }, "told once");
    scene.now = AT;
    assert_eq!(scene.evicted(), ["a", "b"]);
    // Slurm may have been quicker.
    scene.verdict = Some(over(BaseState::Timeout));
    assert_eq!(scene.evicted(), ["a", "b"]);
    // Whoever asks for longer than the whole limit is told at once, and has the limit.
    scene = running();
    scene.progress.ends = Some((GRACE_MS / 2, true));
    assert_eq!(scene.warned(), both(GRACE_MS / 2));
}

#[test]
fn a_limit_that_is_moved_is_told_anew_and_one_that_is_gone_is_taken_back() {
    let mut scene = running();
    scene.told_to_leave(AT);
    // Slurm's clock has no parts of a second.
    scene.progress.ends = Some((AT + 1_000, true));
    scene.now = AT - GRACE_MS + 1_000;
    assert_eq!(scene.plan(), Plan { wake: Some(AT), ..Plan::default() });
    scene.progress.ends = Some((AT + 10_000, true));
    scene.now = AT - 1_000;
    assert_eq!(scene.warned(), both(11_000));
    scene.progress.ends = Some((AT * 10, true));
    let stay = |pod: &str| Action::Warn { pod: pod.to_owned(), leave: None };
    assert_eq!(scene.actions(), [stay("a"), stay("b")]);
}

#[test]
fn a_limit_of_which_nobody_could_be_warned_leaves_them_their_time() {
    let mut scene = running();
    scene.verdict = Some(over(BaseState::Timeout));
    assert_eq!(scene.warned(), both(GRACE_MS), "no bridge was there before");
    // A bridge that was there has told them, and this one has forgotten.
    scene.member("a").notice = Notice::Warned;
    assert_eq!(scene.evicted(), ["a", "b"]);
}

#[test]
fn preemption_is_told_when_it_is_known_and_they_leave_together() {
    let mut scene = running();
    // Slurm's own grace is longer than what they asked for.
    scene.progress.ends = Some((AT, false));
    scene.now = 1_000;
    assert_eq!(scene.warned(), both(GRACE_MS));
    assert!(scene.why().contains("preempted"), "{}", scene.why());
    scene.told_to_leave(1_000 + GRACE_MS);
    scene.now = GRACE_MS;
    scene.member("a").notice = Notice::Checkpointed;
    assert_eq!(scene.actions(), [], "the other has not");
    scene.member("b").notice = Notice::Checkpointed;
    assert_eq!(scene.evicted(), ["a", "b"]);
    scene.member("b").notice = Notice::Warned;
    scene.now = 1_000 + GRACE_MS;
    assert_eq!(scene.evicted(), ["a", "b"]);
    assert!(scene.why().ends_with("its time is up"), "{}", scene.why());
}

#[test]
fn nodes_that_are_promised_to_another_go_back_when_they_have_left() {
    let mut scene = running();
    scene.progress.ends = Some((AT, false));
    scene.told_to_leave(GRACE_MS);
    // Their successors are there before they are gone.
    scene.assembled.gang.members.iter_mut().for_each(|m| m.bound = None);
    scene.assembled.leaving = BTreeSet::from(["old".to_owned()]);
    assert_eq!(scene.plan(), Plan::default());
    scene.assembled.leaving.clear();
    assert!(matches!(scene.actions()[..], [Action::GiveBack { .. }]));
    // Nobody is bound on them in the first place, either.
    scene.progress.leave_by = None;
    assert!(matches!(scene.actions()[..], [Action::GiveBack { .. }]));
    // Unless they may just have been.
    scene.progress.all_bound = false;
    scene.progress.first_bind = Some(0);
    assert_eq!(scene.plan(), Plan { wake: Some(ALL_BOUND_WITHIN_MS), ..Plan::default() });
    // A limit alone takes nodes from nobody.
    scene.progress.ends = Some((AT, true));
    scene.now = AT - 1_000;
    assert_eq!(scene.actions(), [bind("a", 0), bind("b", 1)]);
    // And one whose warning is due is no reason to look again and again.
    scene.spots.insert("b".to_owned(), Spot::Taken { by: "team/old".to_owned() });
    assert!(scene.plan().wake.is_none_or(|wake| wake > scene.now));
}

#[test]
fn an_end_without_warning_leaves_them_their_time_unless_a_node_has_failed() {
    let mut scene = running();
    for state in [BaseState::Cancelled, BaseState::Preempted] {
        scene.verdict = Some(over(state));
        assert_eq!(scene.warned(), both(GRACE_MS));
    }
    scene.told_to_leave(GRACE_MS);
    scene.now = GRACE_MS - 1;
    assert_eq!(scene.plan(), Plan { wake: Some(GRACE_MS), ..Plan::default() });
    scene.now = GRACE_MS;
    assert_eq!(scene.evicted(), ["a", "b"]);
    scene.now = 0;
    scene.verdict = Some(over(BaseState::NodeFail));
    assert_eq!(scene.evicted(), ["a", "b"]);
    // Who asked for nothing has nothing.
    scene.verdict = Some(over(BaseState::Cancelled));
    scene.assembled.gang.ask.grace_seconds = None;
    assert_eq!(scene.evicted(), ["a", "b"]);
}

#[test]
fn a_bridge_that_has_just_started_neither_shortens_nor_lengthens_their_time() {
    let mut scene = running();
    for name in ["a", "b"] {
        scene.member(name).notice = Notice::Warned;
    }
    scene.now = 50_000;
    scene.progress.recalled = Some(50_000 + 7_000);
    for state in [BaseState::Cancelled, BaseState::Preempted, BaseState::Timeout] {
        scene.verdict = Some(over(state));
        assert_eq!(
            scene.warned(),
            both(7_000),
            "told anew, for their hooks may not have been heard"
        );
    }
    // The clock by which it is known has jumped: nobody has more than the whole.
    scene.progress.recalled = Some(700_000);
    assert_eq!(scene.warned(), both(GRACE_MS));
    scene.progress.recalled = Some(49_999);
    assert_eq!(scene.evicted(), ["a", "b"]);
    // Announced, and not over yet.
    let mut scene = running();
    scene.progress.ends = Some((AT, false));
    scene.progress.recalled = Some(7_000);
    assert_eq!(scene.warned(), both(7_000));
    // What this bridge has said itself goes before.
    scene.told_to_leave(9_000);
    assert_eq!(scene.plan(), Plan { wake: Some(9_000), ..Plan::default() });
}

#[test]
fn a_successor_makes_the_others_start_anew_unless_it_alone_is_enough() {
    let mut scene = running();
    scene.progress.held = BTreeMap::from([(0, "a".to_owned()), (1, "before".to_owned())]);
    scene.member("b").bound = None;
    assert_eq!(scene.evicted(), ["a"]);
    assert!(scene.why().contains("pod b is a successor"), "{}", scene.why());
    scene.assembled.gang.ask.on_loss = Some(OnLoss::Replace);
    assert_eq!(scene.actions(), [bind("b", 1)]);
}

#[test]
fn a_bridge_that_has_just_started_knows_a_successor_by_its_placeholder() {
    let mut scene = running();
    scene.member("b").bound = None;
    scene.progress.held = BTreeMap::from([(0, "a".to_owned())]);
    assert_eq!(scene.actions(), [bind("b", 1)], "it was being bound");
    scene.renewed();
    assert_eq!(scene.evicted(), ["a"]);
    // Also where the binding was begun so lately that it might have been cut off.
    scene.progress.all_bound = false;
    scene.progress.first_bind = Some(0);
    assert_eq!(scene.evicted(), ["a"]);
    // But not in the middle of its own binding.
    scene.progress.began = true;
    assert_eq!(scene.actions(), [bind("b", 1)]);
    scene.progress.began = false;
    // One by whom the workload was made larger has no seat, and nobody leaves for it.
    scene.seats_for(&["a"]);
    scene.renewed();
    assert_eq!(scene.evicted(), [""; 0]);
}

impl Scene {
    /// The pods of a plan that only warns, with the time they have.
    fn warned(&self) -> Vec<(String, i64)> {
        let warned = |action: Action| match action {
            Action::Warn { pod, leave: Some((in_ms, _)) } => (pod, in_ms),
            other => panic!("{other:?}"),
        };
        self.actions().into_iter().map(warned).collect()
    }

    /// Members were told until when they may stay.
    fn told_to_leave(&mut self, by: i64) {
        self.progress.leave_by = Some(by);
        for name in self.names() {
            self.member(&name).notice = Notice::Warned;
        }
    }

    /// Why the first pod of a plan is warned or evicted.
    fn why(&self) -> String {
        match self.actions().swap_remove(0) {
            Action::Evict { why, .. } | Action::Warn { leave: Some((_, why)), .. } => why,
            other => panic!("{other:?}"),
        }
    }

    fn renewed(&mut self) {
        if let Some(Verdict::Allocated { renewed, .. }) = &mut self.verdict {
            *renewed = true;
        }
    }
}
