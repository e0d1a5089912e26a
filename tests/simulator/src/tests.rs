//! Fates written by hand: what nobody should have to wait for a seed to find.

use super::*;
use cast::{Kind, Workload};
use fate::Happening;

fn played(fate: Fate, workload: Workload) -> Outcome {
    let outcome = stage(Dice(1), fate, Cast::new(vec![workload], 100), false).expect("a runtime");
    assert_eq!(outcome.violations, Vec::<String>::new(), "{}", outcome.history.join("\n"));
    outcome
}

fn count(outcome: &Outcome, what: &str) -> usize {
    outcome.history.iter().filter(|line| line.contains(what)).count()
}

/// A pod that is given its node a second after slurmctld has saved its state, and slurmctld dies a
/// second later: it knows nothing of the placeholder any more.
fn lost_at_once() -> (Fate, Workload) {
    let mut pod = Workload::new(Kind::Bare, "pod".to_owned(), 1, 8);
    pod.arrives_ms = 6_000;
    let mut fate = Fate::calm();
    fate.happenings.push((7_000, Happening::Crash { away_ms: 300 }));
    (fate, pod)
}

#[test]
fn a_gang_is_bound_and_its_nodes_are_given_back() {
    let outcome = played(Fate::calm(), Workload::new(Kind::PyTorch, "train".to_owned(), 2, 8));
    for (what, times) in [("/binding", 2), ("/job/allocate", 1), ("is CANCELLED", 1)] {
        assert_eq!(count(&outcome, what), times, "{what}: {}", outcome.history.join("\n"));
    }
}

#[test]
fn the_id_of_a_lost_placeholder_may_be_somebodys_job_and_is_left_alone() {
    let (mut fate, pod) = lost_at_once();
    let sbatch = Happening::Sbatch { urgent: false, nodes: 3, gpus: 8, ms: 30_000 };
    fate.happenings.push((7_100, sbatch));
    let outcome = played(fate, pod);
    // Both had the same id.
    let told = outcome.history.join("\n");
    assert!(count(&outcome, "job 1 is RUNNING  on [node-1] \"gangway/1") > 0, "{told}");
    assert_eq!(count(&outcome, "job 1 is CANCELLED"), 0, "{told}");
}

#[test]
fn a_lost_placeholder_is_let_go_of_when_its_pods_leave() {
    let (fate, mut pod) = lost_at_once();
    pod.leaves_ms = Some(7_600);
    let outcome = played(fate, pod);
    assert_eq!(count(&outcome, "/binding"), 1, "{}", outcome.history.join("\n"));
}
