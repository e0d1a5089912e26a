//! Members that come later, and workloads that grow.

use super::*;

#[test]
fn members_that_are_there_are_bound_and_those_to_come_are_waited_for() {
    let mut scene = Scene::new(2);
    scene.awaits(2, 2);
    assert_eq!(scene.actions(), [Action::Ask]);
    let mut scene = scene.allocated();
    assert_eq!(scene.actions(), [bind("a", 0), bind("b", 1)]);
    for name in ["a", "b"] {
        scene.bind(name, 7, 1);
    }
    // However long it takes, nobody leaves for those who have not been made.
    scene.progress.first_bind = Some(0);
    scene.now = 10 * ALL_BOUND_WITHIN_MS;
    assert_eq!(scene.plan(), Plan::default());
    // One of them comes: a seat is asked for it in the same placeholder, then it is bound.
    scene.progress.all_bound = true;
    scene.assembled.gang.members.push(member((&"d", 3)));
    assert_eq!(scene.actions(), [Action::Ask]);
    let mut seats: BTreeMap<String, Seat> =
        [("a", 0), ("b", 1)].map(|(n, r)| (n.to_owned(), seat(r))).into();
    seats.insert("d".to_owned(), seat(3));
    let note = String::new();
    scene.verdict = Some(Verdict::Allocated {
        job: JobId(7),
        generation: 1,
        seats,
        note,
        ends: None,
        renewed: false,
    });
    scene.spots.insert("d".to_owned(), Spot::Free("kube-3".to_owned()));
    scene.asked(&["a", "b", "d"]);
    assert_eq!(scene.actions(), [bind("d", 3)]);
}

#[test]
fn a_gang_that_was_made_larger_keeps_its_members_and_the_new_ones_are_told() {
    let mut scene = Scene::new(2).allocated();
    for name in ["a", "b"] {
        scene.bind(name, 7, 1);
    }
    scene.progress.all_bound = true;
    scene.assembled.gang.members.push(member((&"c", 2)));
    scene.assembled.gang.expected = 3;
    // It is asked for once; the answer has no seat for it.
    assert_eq!(scene.actions(), [Action::Ask]);
    scene.asked(&["a", "b", "c"]);
    assert!(scene.told("NoSeat").contains("it was made larger since it started"));
    // A replacement of one that has its seat is bound all the same.
    scene.member("b").bound = None;
    assert_eq!(scene.actions(), [bind("b", 1)]);
}

#[test]
fn between_two_stages_the_placeholder_is_kept_for_a_while() {
    let mut scene = Scene::new(2).finished();
    scene.awaits(2, 2);
    scene.now = 100 + STAGE_GAP_MS - 1;
    assert_eq!(scene.plan(), Plan { wake: Some(100 + STAGE_GAP_MS), ..Plan::default() });
    scene.now += 1;
    scene.progress.latest = Some(1);
    let release = Action::Release { why: "its pods have finished".to_owned(), generation: 1 };
    assert_eq!(scene.actions(), std::slice::from_ref(&release));
    // Nothing more will come of a workload that is over.
    scene.now = 100;
    scene.assembled.over = true;
    assert_eq!(scene.actions(), [release]);
}
