//! Pods that stand in for lost members.

use super::*;

fn stands_in(pod: &mut Pod, rank: u32) {
    let said =
        StandsIn { gang: "job-uid".to_owned(), rank, job: JobId(77), node: "slurm-n1".to_owned() };
    pod.annotations.insert(names::STANDS_IN.to_owned(), said.to_string());
}

/// The gang, and the stand-in's gang of one.
fn two(workload: &Workload, pods: &[Pod]) -> (Assembled, Assembled) {
    let formed = assemble(Some(workload), &pods.iter().collect::<Vec<_>>());
    let [gang, one] = formed.try_into().expect("the gang and one beside it");
    (gang, one)
}

#[test]
fn it_is_a_gang_of_one_with_the_rank_of_whom_it_stands_in_for() {
    let mut pods = trainers();
    for (rank, pod) in (0..).zip(&mut pods) {
        bind(pod, "job-uid", rank);
    }
    pods[2] = trainer("worker", 1);
    pods[2].created = 900;
    stands_in(&mut pods[2], 2);
    let later = "pod is not waited for, however it stands";
    for mark in ["waits", "bound", "finished"] {
        let uid = pods[2].uid.clone();
        match mark {
            "bound" => bind(&mut pods[2], &uid, 2),
            "finished" => pods[2].status.phase = Some("Succeeded".to_owned()),
            _ => {}
        }
        let (gang, one) = two(&pytorch(1, 3), &pods);
        let ranks: Vec<u32> = gang.gang.members.iter().map(|m| m.rank).collect();
        assert_eq!((ranks, gang.gang.expected, gang.torn), (vec![0, 1, 3], 3, false), "{later}");
        assert!(gang.gang.complete() && gang.problems.is_empty());
        assert_eq!((&one.gang.uid, one.gang.expected, one.after), (&uid, 1, None));
        assert_eq!((one.gang.members[0].rank, one.problems), (2, vec![]));
        assert_eq!(
            gang.stand_ins,
            [StandIn { member: one.gang.members[0].clone(), job: JobId(77) }]
        );
        assert_eq!(one.gang.members[0].bound.is_some(), mark != "waits");
    }
    // On its way out it is waited for again: its successor will come.
    pods[2].status.phase = None;
    pods[2].deleting = true;
    let (gang, one) = two(&pytorch(1, 3), &pods);
    assert_eq!((gang.gang.expected, gang.gang.complete(), gang.stand_ins.len()), (4, false, 0));
    assert_eq!(one.leaving.len(), 1);
    // The successor of one that has failed is a member like others.
    pods[2].deleting = false;
    pods[2].status.phase = Some("Failed".to_owned());
    pods.push(Pod { uid: "next".to_owned(), ..trainer("worker", 1) });
    let (gang, _) = two(&pytorch(1, 3), &pods);
    assert_eq!((gang.gang.members.len(), gang.gang.expected), (4, 4));
}

#[test]
fn what_a_pod_says_is_believed_only_of_its_own_gang_and_rank() {
    let mut pods = trainers();
    stands_in(&mut pods[2], 2);
    let believed =
        |pods: &[Pod]| !one(&pytorch(1, 3), &pods.iter().collect::<Vec<_>>()).stand_ins.is_empty();
    let said = pods[2].annotations[names::STANDS_IN].clone();
    for lie in [
        said.replace("job-uid", "other-uid"),
        said.replace("/2/", "/3/"),
        said.replace("/77/", "//"),
        format!("{said}/more"),
        "job-uid/2".to_owned(),
    ] {
        pods[2].annotations.insert(names::STANDS_IN.to_owned(), lie);
        assert!(!believed(&pods));
    }
    // Somebody else has bound it to its seat meanwhile.
    stands_in(&mut pods[2], 2);
    bind(&mut pods[2], "job-uid", 2);
    assert!(!believed(&pods));
}

#[test]
fn of_pods_that_are_alike_nobody_takes_its_rank_or_its_place() {
    let mut pods: Vec<Pod> = ["p-0", "p-1", "p-2", "p-3"].map(grouped).into();
    bind(&mut pods[0], "group-uid", 0);
    pods[1].annotations.insert(names::STANDS_IN.to_owned(), "group-uid/1/77/slurm-n1".to_owned());
    let formed = assemble(Some(&pod_group(3)), &pods.iter().collect::<Vec<_>>());
    let [gang, beyond, beside] = formed.try_into().expect("three gangs");
    let ranks: Vec<(&str, u32)> =
        gang.gang.members.iter().map(|m| (m.name.as_str(), m.rank)).collect();
    assert_eq!(ranks, [("p-0", 0), ("p-2", 2)]);
    assert_eq!(gang.gang.expected, 2);
    assert_eq!((beyond.gang.name.as_str(), beyond.stands_in), ("p-3", None));
    assert_eq!((beside.gang.name.as_str(), beside.gang.members[0].rank), ("p-1", 1));
    // No rank of it is beyond the group.
    pods[1].annotations.insert(names::STANDS_IN.to_owned(), "group-uid/3/77/slurm-n1".to_owned());
    let formed = assemble(Some(&pod_group(3)), &pods.iter().collect::<Vec<_>>());
    assert!(formed.iter().all(|a| a.stands_in.is_none()));
}

#[test]
fn an_index_that_has_succeeded_is_counted_once() {
    let mut job = workload(Kind::Job, Shape::Roles(vec![role("", 3)]));
    job.done = std::iter::once(1..2).collect();
    let indexed = |index: u32| {
        let mut pod = pod(&format!("train-{index}"));
        pod.controller = Some(controller("batch", "Job"));
        let key = "batch.kubernetes.io/job-completion-index".to_owned();
        pod.annotations.insert(key, index.to_string());
        bind(&mut pod, "job-uid", index);
        pod
    };
    let mut pods = vec![indexed(0), indexed(1), indexed(2)];
    stands_in(&mut pods[1], 1);
    let uid = pods[1].uid.clone();
    bind(&mut pods[1], &uid, 1);
    pods[1].status.phase = Some("Succeeded".to_owned());
    let (gang, _) = two(&job, &pods);
    assert_eq!((gang.gang.members.len(), gang.gang.expected), (2, 2));
}
