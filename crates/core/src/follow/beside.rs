//! Successors whose seat is lost to Kubernetes alone, and those that stand in.

use super::*;
use crate::ask::OnLoss;
use crate::gang::standin::{StandIn, StandsIn};

/// `a` and `c` run on job 7; `b` is a successor, and its node is lost.
fn lost(spot: Spot) -> Scene {
    let mut scene = Scene::new(3).allocated();
    scene.assembled.gang.ask.on_loss = Some(OnLoss::Replace);
    scene.bind("a", 7, 1);
    scene.bind("c", 7, 1);
    scene.progress.all_bound = true;
    scene.progress.lost_since = Some(0);
    scene.spots.insert("b".to_owned(), spot);
    scene.now = LOST_FOR_MS;
    scene
}

fn not_ready(lost: bool) -> Spot {
    let why = "has taint node.kubernetes.io/not-ready:NoSchedule that the pod does not tolerate";
    Spot::Shut { node: "kube-1".to_owned(), why: why.to_owned(), lost }
}

fn stands_in() -> StandsIn {
    StandsIn { gang: "g".to_owned(), rank: 1, job: JobId(7), node: "slurm-1".to_owned() }
}

/// `a` and `c` are the gang; `b` stands in beside a job.
fn beside(job: u32, bound: bool) -> Scene {
    let mut scene = Scene::new(3).allocated();
    scene.bind("b", 9, 1);
    let mut member = scene.assembled.gang.members.remove(1);
    member.bound = member.bound.filter(|_| bound);
    scene.assembled.gang.expected = 2;
    scene.assembled.gang.ask.on_loss = Some(OnLoss::Replace);
    scene.assembled.stand_ins = vec![StandIn { member, job: JobId(job) }];
    scene
}

#[test]
fn a_successor_whose_node_is_lost_stands_in_once_that_has_lasted() {
    let stand_in = [Action::StandIn { pod: "b".to_owned(), stands_in: stands_in() }];
    for spot in [Spot::NoNode, not_ready(true)] {
        let mut scene = lost(spot);
        assert_eq!(scene.actions(), stand_in);
        scene.now = LOST_FOR_MS - 1;
        assert_eq!((scene.actions(), scene.plan().wake), (vec![], Some(LOST_FOR_MS)));
    }
    // Whoever starts anew knows nothing of before, but that nobody is torn.
    let mut scene = lost(Spot::NoNode);
    scene.progress.all_bound = false;
    assert_eq!(scene.actions(), stand_in);
}

#[test]
fn nobody_stands_in_who_may_yet_have_the_seat() {
    let none = |scene: &Scene| assert_eq!(scene.actions(), []);
    none(&lost(not_ready(false)));
    none(&lost(Spot::Taken { by: "team/old".to_owned() }));
    // While its gang is bound for the first time, it is all of it or nobody (rule 3).
    let mut scene = lost(Spot::NoNode);
    scene.progress.all_bound = false;
    scene.progress.began = true;
    none(&scene);
    (scene.progress.began, scene.assembled.torn) = (false, true);
    none(&scene);
    let mut scene = lost(Spot::NoNode);
    scene.assembled.gang.ask.on_loss = Some(OnLoss::Restart);
    none(&scene);
    // Nobody is bound beside whom it could stand in.
    let mut scene = lost(Spot::NoNode);
    for name in ["a", "c"] {
        scene.member(name).bound = None;
    }
    assert!(!scene.actions().iter().any(|a| matches!(a, Action::StandIn { .. })));
}

#[test]
fn a_gang_runs_on_beside_who_stands_in() {
    let mut scene = beside(7, true);
    for name in ["a", "c"] {
        scene.bind(name, 7, 1);
    }
    assert_eq!(scene.plan(), Plan::default(), "nobody leaves and nobody is waited for");
    scene.progress.first_bind = Some(0);
    scene.now = 10 * ALL_BOUND_WITHIN_MS;
    assert_eq!(scene.plan(), Plan::default());
    // Whoever starts anew asks for what is bound.
    scene.verdict = None;
    scene.progress = Progress::default();
    assert_eq!(scene.actions(), [Action::Ask]);
}

#[test]
fn who_stands_in_leaves_with_its_gang() {
    for bound in [true, false] {
        let mut scene = beside(7, bound).with(ended(7, 1));
        for name in ["a", "c"] {
            scene.bind(name, 7, 1);
        }
        assert_eq!(scene.evicted(), ["a", "c", "b"]);
        // Also when the others are gone already, or have finished.
        for name in ["a", "c"] {
            scene.member(name).finished = true;
        }
        assert_eq!(scene.evicted(), ["b"]);
        scene.assembled.gang.members.clear();
        scene.assembled.leaving = BTreeSet::from(["a".to_owned()]);
        assert_eq!(scene.evicted(), ["b"]);
        // What the gang gave back because its pods had finished is no end of it.
        scene.progress.released = true;
        assert_eq!(scene.plan(), Plan::default());
        scene.progress.released = false;
        scene.assembled.leaving.clear();
        scene.assembled.stand_ins[0].member.finished = true;
        assert_eq!(scene.actions(), [Action::Forget]);
    }
}

#[test]
fn it_has_the_same_time_to_checkpoint() {
    let mut scene = beside(7, true).with(ended(7, 1));
    for name in ["a", "c"] {
        scene.bind(name, 7, 1);
    }
    scene.assembled.gang.ask.grace_seconds = Some(60);
    let warned = |scene: &Scene| {
        let pods = scene.actions().into_iter().map(|action| match action {
            Action::Warn { pod, leave: Some((60_000, _)) } => pod,
            other => panic!("{other:?}"),
        });
        pods.collect::<Vec<_>>()
    };
    assert_eq!(warned(&scene), ["a", "c", "b"]);
    // Nor does its own follower, whose placeholder runs on, take the warning back.
    let mut own = Scene::new(1).allocated();
    own.bind("a", 7, 1);
    own.assembled.gang.ask.grace_seconds = Some(60);
    own.member("a").notice = crate::gang::Notice::Warned;
    assert!(matches!(own.actions()[..], [Action::Warn { leave: None, .. }]));
    own.assembled.stands_in = Some(stands_in());
    assert_eq!(own.actions(), []);
}

#[test]
fn nobody_stands_in_beside_another_start_than_its_own() {
    let mut scene = beside(6, true);
    for name in ["a", "c"] {
        scene.bind(name, 7, 1);
    }
    assert_eq!(scene.evicted(), ["b"]);
    // A gang that begins anew waits until whoever stood in beside the round before is gone.
    let mut scene = beside(6, true);
    (scene.verdict, scene.progress) = (None, Progress::default());
    assert_eq!(scene.evicted(), ["b"]);
    // A member of that round which has finished, and kept its pod, is left of it.
    scene.bind("a", 6, 1);
    scene.member("a").finished = true;
    assert_eq!(scene.actions(), [Action::Ask]);
}
