//! What changes after a gang was asked for: nodes that shut, volumes that are still to be made, workloads that
//! it waits for.

use std::sync::Arc;

use super::*;

#[test]
fn a_gang_that_may_go_nowhere_is_told_so_and_not_asked_for() {
    let mut scene = Scene::new(2);
    let nowhere = |message: &str, problem| Some(Nowhere { message: message.to_owned(), problem });
    scene.assembled.nowhere = nowhere("0 of 16 nodes", true);
    assert_eq!(scene.told("Refused"), "0 of 16 nodes");
    assert!(scene.plan().report.expect("told").problem);
    scene.assembled.nowhere = nowhere("volume claim a/b is not bound yet", false);
    assert_eq!(scene.told("WaitingForVolume"), "volume claim a/b is not bound yet");
    scene.assembled.nowhere = None;
    assert_eq!(scene.actions(), [Action::Ask]);
}

#[test]
fn a_gang_in_the_queue_is_asked_for_anew_when_it_may_go_elsewhere() {
    for verdict in [queued_for("Resources"), refused_for_nodes()] {
        let mut scene = Scene::new(2).with(verdict.clone());
        scene.asked(&["a", "b"]);
        scene.now = QUIET_MS;
        assert!(scene.actions().is_empty());
        scene.assembled.gang.excluded_nodes = vec![Arc::from("n1")];
        let refused = matches!(verdict, Verdict::Refused(_));
        let want = if refused { Action::NewRound } else { Action::Ask };
        assert_eq!(scene.actions(), [want]);
        scene.asked(&["a", "b"]);
        assert!(scene.actions().is_empty(), "once");
        scene.assembled.gang.excluded_nodes = vec![Arc::from(""), Arc::from("n1")];
        scene.asked(&["a", "b"]);
        scene.member("b").reach = 1;
        assert_eq!(scene.actions().len(), 1, "one member alone");
    }
}

#[test]
fn a_queued_gang_that_may_go_nowhere_says_so_and_keeps_its_place() {
    let mut scene = Scene::new(2).with(queued_for("BadConstraints"));
    scene.asked(&["a", "b"]);
    let message = "0 of 16 nodes".to_owned();
    scene.assembled.nowhere = Some(Nowhere { message, problem: true });
    assert_eq!(scene.told("Queued"), "0 of 16 nodes; in the queue");
}

#[test]
fn a_seat_that_has_shut_is_given_back_before_anybody_is_bound() {
    let mut scene = Scene::new(2).allocated();
    scene.spots.insert("b".to_owned(), shut());
    // Whatever else stands in the way, waiting would not help.
    scene.spots.insert("a".to_owned(), Spot::Taken { by: "team/old".to_owned() });
    let [Action::GiveBack { why, generation: 1 }] = &scene.actions()[..] else {
        panic!("{:?}", scene.actions())
    };
    assert!(why.contains("node kube-1 is cordoned, so pod b cannot go there"), "{why}");
    // Bindings that are under way may have been made.
    scene.progress.first_bind = Some(0);
    scene.now = 10;
    assert!(scene.told("WaitingForNode").contains("is cordoned"));
    assert_eq!(scene.plan().wake, Some(ALL_BOUND_WITHIN_MS));
    scene.now = ALL_BOUND_WITHIN_MS;
    assert!(matches!(scene.actions()[..], [Action::GiveBack { .. }]));
}

#[test]
fn a_member_whose_seat_has_shut_waits_while_its_gang_runs() {
    let mut scene = Scene::new(3).allocated();
    scene.bind("a", 7, 1);
    scene.progress.all_bound = true;
    scene.spots.insert("b".to_owned(), shut());
    assert_eq!(scene.actions(), [bind("c", 2)]);
    let report = scene.plan().report.expect("told");
    assert!(report.message.contains("is cordoned"), "{}", report.message);
}

#[test]
fn claims_are_told_their_node_and_nobody_is_bound_before_all_volumes_are_there() {
    let mut scene = Scene::new(2).allocated();
    scene.spots.insert("b".to_owned(), unmade(None));
    assert_eq!(scene.actions(), [tell()]);
    assert_eq!(scene.plan().report.expect("told").reason, "WaitingForVolume");
    // No seat is sure yet: no volume is made.
    scene.spots.insert("a".to_owned(), Spot::Taken { by: "team/old".to_owned() });
    scene.told("WaitingForNode");
    scene.spots.insert("a".to_owned(), Spot::Free("kube-0".to_owned()));
    // Told: wait for the provisioner.
    scene.spots.insert("b".to_owned(), unmade(Some("kube-1")));
    scene.progress.claims.insert("data-uid".to_owned(), (1, 0));
    scene.now = 3 * ALL_BOUND_WITHIN_MS;
    assert_eq!(scene.told("WaitingForVolume"), "a volume");
    // There it is.
    scene.spots.insert("b".to_owned(), Spot::Free("kube-1".to_owned()));
    assert_eq!(scene.actions(), [bind("a", 0), bind("b", 1)]);
}

#[test]
fn a_provisioner_that_fails_is_asked_again_ever_more_slowly() {
    let mut scene = Scene::new(2).allocated();
    scene.spots.insert("b".to_owned(), unmade(None));
    for (told, pause) in [(1, 5_000), (2, 10_000), (3, 20_000), (9, 80_000)] {
        scene.progress.claims.insert("data-uid".to_owned(), (told, 1_000));
        scene.now = 999 + pause;
        scene.told("WaitingForVolume");
        assert_eq!(scene.plan().wake, Some(1_000 + pause), "after {told}");
        scene.now = 1_000 + pause;
        assert_eq!(scene.actions(), [tell()]);
    }
}

#[test]
fn nodes_are_not_held_for_ever_for_a_volume() {
    let mut scene = Scene::new(2).allocated();
    scene.spots.insert("b".to_owned(), unmade(Some("kube-1")));
    scene.progress.volumes_since = Some(0);
    scene.now = VOLUMES_WITHIN_MS - 1;
    scene.told("WaitingForVolume");
    scene.now = VOLUMES_WITHIN_MS;
    assert!(matches!(scene.actions()[..], [Action::GiveBack { .. }]));
}

fn refused_for_nodes() -> Verdict {
    Verdict::Refused(Refusal::new(Category::Nodes, "too few"))
}

fn shut() -> Spot {
    Spot::Shut { node: "kube-1".to_owned(), why: "is cordoned".to_owned(), lost: false }
}

fn unmade(selected: Option<&str>) -> Spot {
    let [claim, uid, node, message] = ["data", "data-uid", "kube-1", "a volume"].map(str::to_owned);
    let claims = vec![ToSelect { claim, uid, selected: selected.map(str::to_owned) }];
    Spot::Volumes { node, claims, message }
}

fn tell() -> Action {
    let [pod, claim, uid, node] = ["b", "data", "data-uid", "kube-1"].map(str::to_owned);
    Action::SelectNode { pod, claim, uid, node }
}

#[test]
fn a_gang_that_waits_for_others_is_asked_again_when_they_have_gone_on() {
    let mut scene = Scene::new(1);
    scene.asked(&["a"]);
    scene.verdict = Some(queued_for("Dependency"));
    scene.now = 2 * QUIET_MS;
    assert_eq!(scene.told("Queued"), "in the queue");
    let other = Other { uid: "u".to_owned(), outcome: None };
    scene.assembled.gang.ask.others = [("job/first".to_owned(), other)].into();
    assert_eq!(scene.actions(), [Action::Ask]);
    // The same question twice would be one too many.
    scene.progress.others = scene.assembled.gang.ask.others.clone();
    assert_eq!(scene.told("Queued"), "in the queue");
    // Another workload to wait for is news, not another wording.
    assert_eq!(scene.plan().report.expect("told").topic, "in the queue");
    // What Slurm itself waits for is Slurm's.
    scene.progress.others.clear();
    scene.verdict = Some(Verdict::Queued {
        job: Some(JobId(7)),
        reason: "Dependency".to_owned(),
        message: "job 6".to_owned(),
        expected_start: 0,
    });
    assert_eq!(scene.told("Queued"), "job 6");
    assert_eq!(scene.plan().report.expect("told").topic, "Dependency");
}
