//! Each rule is broken once, and its check must say so; and a good history passes all of them.

use super::*;

fn at(order: u64) -> Moment {
    Moment { order, ms: i64::try_from(order).expect("small") * 1_000 }
}

/// A pod of gang `g` with one GPU, bound at 10 for job 7.
fn stay(name: &str, rank: u32) -> Stay {
    Stay {
        pod: name.to_owned(),
        uid: name.to_owned(),
        gang: "g".to_owned(),
        generation: 1,
        job: 7,
        rank,
        node: "n1".to_owned(),
        devices: BTreeMap::from([("gpu".to_owned(), vec![rank])]),
        bound: at(10),
        ..Stay::default()
    }
}

/// The run of gang `g` on n1, from 9 s.
fn run(job: u32) -> Run {
    Run {
        job,
        sluid: format!("s{job}"),
        gang: "g".to_owned(),
        generation: 1,
        nodes: vec!["n1".to_owned()],
        started: 9,
        seen: vec![(9_000, 90_000)],
        ..Run::default()
    }
}

fn good() -> History {
    History {
        stays: vec![stay("a", 0), stay("b", 1)],
        runs: vec![run(7)],
        sizes: BTreeMap::from([("g".to_owned(), 2)]),
        grants: Vec::new(),
        rolled_back: false,
    }
}

fn only(found: &[String], words: &str) {
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(words), "{found:?}");
}

#[test]
fn a_good_history_breaks_no_rule() {
    let history = good();
    assert_eq!(history.broken_rules(30_000, 90_000), [""; 0]);
    assert_eq!(history.started_twice(), [""; 0]);
    assert!(history.shared_with_jobs().is_empty());
}

#[test]
fn a_generation_that_starts_twice_is_found() {
    let mut history = good();
    history.runs.push(Run { seen: vec![(95_000, 99_000)], ..run(8) });
    only(&history.started_twice(), "generation 1");
    assert_eq!(history.ran_at_once(0), [""; 0], "one after the other");
    history.runs[1].generation = 2;
    assert_eq!(history.started_twice(), [""; 0], "another generation");
}

#[test]
fn two_that_run_at_once_are_found() {
    let mut history = good();
    history.runs.push(Run { generation: 2, seen: vec![(50_000, 95_000)], ..run(8) });
    only(&history.ran_at_once(1_000), "40000 ms");
    assert_eq!(history.ran_at_once(40_000), [""; 0]);
    // A job that slurmctld has rolled back and started again is the same one.
    history.runs[1] = Run { started: 50, seen: vec![(50_000, 95_000)], ..run(7) };
    assert_eq!(history.ran_at_once(0), [""; 0]);
    // One that ran before another, and again after it, did not run beside it.
    history.runs = vec![run(7), run(8)];
    history.runs[0].seen = vec![(9_000, 20_000), (60_000, 90_000)];
    history.runs[1].seen = vec![(21_000, 59_000)];
    assert_eq!(history.ran_at_once(0), [""; 0]);
    history.runs[1].seen = vec![(21_000, 63_000)];
    only(&history.ran_at_once(1_000), "3000 ms");
    // An end that slurmctld has told and forgotten, and the next attempt.
    history.rolled_back = true;
    only(&history.ran_at_once(1_000), "3000 ms");
    history.runs[1].generation = 2;
    assert_eq!(history.ran_at_once(1_000), [""; 0]);
}

#[test]
fn a_pod_outside_its_allocation_is_found() {
    let mut history = good();
    history.stays[0].node = "n2".to_owned();
    only(&history.astray(), "never had");
    let mut history = good();
    history.runs[0].gang = "other".to_owned();
    assert_eq!(history.astray().len(), 2, "the id was given to somebody else");
    let mut history = good();
    history.runs[0].generation = 2;
    assert_eq!(history.astray().len(), 2, "bound for another attempt");
    // slurmctld forgot it before anybody saw it, but had said so.
    history.grants = vec![Grant { job: 7, nodes: vec!["n2".to_owned()] }];
    assert_eq!(history.astray().len(), 2, "another node");
    history.grants[0].nodes.push("n1".to_owned());
    assert_eq!(history.astray(), [""; 0]);
}

#[test]
fn a_pod_bound_after_the_end_is_found() {
    let mut history = good();
    history.runs[0].ended = Some(8);
    assert_eq!(history.astray(), [""; 0], "it was in flight");
    history.runs[0].ended = Some(1);
    assert_eq!(history.astray().len(), 2);
    only(&history.astray()[..1], "had ended");
}

#[test]
fn a_gang_that_stays_partial_is_found() {
    let mut history = good();
    history.stays[1].bound = at(39);
    assert_eq!(history.partial(30_000, 90_000), [""; 0], "in time");
    history.stays[1].bound = at(45);
    only(&history.partial(30_000, 90_000), "1 of 2 pods bound for 35000 ms");
    history.stays.pop();
    only(&history.partial(30_000, 90_000), "80000 ms");
    assert_eq!(history.partial(30_000, 30_000), [""; 0], "not late yet");
}

#[test]
fn a_gang_that_is_broken_up_is_not_partial_until_it_comes_again() {
    let mut history = good();
    history.stays[0].leaving = Some(at(20));
    history.stays[0].gone = Some(at(21));
    assert_eq!(history.partial(30_000, 90_000), [""; 0]);
    history.stays[1].leaving = Some(at(60));
    history.stays.push(Stay { bound: at(62), ..stay("a2", 0) });
    only(&history.partial(20_000, 90_000), "1 of 2 pods bound for 28000 ms");
}

#[test]
fn a_device_with_two_pods_is_found_by_the_order_of_writes() {
    let mut history = good();
    history.stays[0].gone = Some(at(20));
    history.stays.push(Stay { gang: "h".to_owned(), bound: at(20), ..stay("c", 0) });
    assert_eq!(history.shared(), [""; 0], "gone before");
    history.stays[2].bound = Moment { order: 19, ms: 20_500 };
    only(&history.shared(), "gpu 0 of n1");
    history.stays[2].node = "n2".to_owned();
    assert_eq!(history.shared(), [""; 0], "elsewhere");
    history.stays[2] = Stay { gang: "h".to_owned(), ..stay("d", 1) };
    only(&history.shared(), "b and d both had gpu 1");
}

#[test]
fn a_device_shared_with_a_batch_job_is_found() {
    let mut history = good();
    history.stays[0].gone = Some(at(20));
    let devices = BTreeMap::from([(("n1".to_owned(), "gpu".to_owned()), vec![0])]);
    let batch = |started, ended| Run {
        gang: String::new(),
        started,
        ended: Some(ended),
        devices: devices.clone(),
        ..run(9)
    };
    history.runs.push(batch(19, 30));
    assert!(history.shared_with_jobs().is_empty(), "it may have begun at 19.999");
    history.runs[1] = batch(15, 30);
    assert_eq!(history.shared_with_jobs()[0].0, 4_000);
    history.runs[1] = batch(2, 10);
    assert!(history.shared_with_jobs().is_empty(), "it was before");
}

#[test]
fn a_pod_that_moves_and_a_rank_held_twice_are_found() {
    let mut history = good();
    history.stays[0].changed.push("rank 0 became 1".to_owned());
    only(&history.moved(), "a: rank 0 became 1");
    let mut history = good();
    history.stays[1].rank = 0;
    only(&history.moved(), "both have rank 0");
    history.stays[0].gone = Some(at(10));
    assert_eq!(history.moved(), [""; 0], "its successor");
}
