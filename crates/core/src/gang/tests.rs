use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::pod::{Container, Controller, PodSpec, Resources, SchedulingGate, SchedulingGroup};
use crate::workload::Role;

mod beside;
mod kinds;

proptest! {
    #[test]
    fn ranks_do_not_depend_on_the_order_of_pods(
        pods in Just(trainers()).prop_shuffle(),
        there in 0usize..=4,
    ) {
        let refs: Vec<&Pod> = pods.iter().take(there).collect();
        let gang = one(&pytorch(1, 3), &refs).gang;
        let complete = gang.complete();
        prop_assert_eq!(complete, there == 4);
        for member in &gang.members {
            let want = match member.name.as_str() {
                "train-master-0" => 0,
                name => name.trim_start_matches("train-worker-").parse::<u32>().expect("index") + 1,
            };
            prop_assert_eq!(member.rank, want, "{}", &member.name);
        }
        prop_assert!(gang.members.windows(2).all(|w| w[0].rank < w[1].rank));
    }

    #[test]
    fn no_pod_is_in_two_gangs_and_none_is_lost(
        marks in proptest::collection::vec((0u8..5, any::<bool>(), 0u32..3), 0..8),
        least in 1u32..5,
    ) {
        let pods: Vec<Pod> = marks.iter().enumerate().map(|(i, (mark, deleting, rank))| {
            let mut pod = grouped(&format!("p-{i}"));
            pod.deleting = *deleting;
            match mark {
                0 => bind(&mut pod, "group-uid", *rank),
                1 => { let uid = pod.uid.clone(); bind(&mut pod, &uid, 0) }
                2 => pod.status.phase = Some("Failed".to_owned()),
                _ => {}
            }
            pod
        }).collect();
        let refs: Vec<&Pod> = pods.iter().collect();
        let formed = assemble(Some(&pod_group(least)), &refs);
        let mut seen = BTreeSet::new();
        for assembled in &formed {
            let uids = assembled.gang.members.iter().map(|m| &m.uid).chain(&assembled.leaving);
            for uid in uids {
                prop_assert!(seen.insert(uid.clone()), "{uid} twice");
            }
        }
        // Two that claim one rank share it; nobody else may be missing.
        for pod in &pods {
            let rival = |p: &Pod| p.uid != pod.uid && p.node().is_some()
                && p.annotations.get(names::RANK) == pod.annotations.get(names::RANK);
            let shared = pod.node().is_some() && pods.iter().any(rival);
            prop_assert!(seen.contains(&pod.uid) || shared, "{} is lost", pod.name);
        }
    }
}

#[test]
fn a_half_created_gang_is_not_complete() {
    let pods = trainers();
    let gang = one(&pytorch(1, 3), &[&pods[0], &pods[2]]).gang;
    assert_eq!((gang.members.len(), gang.expected, gang.complete()), (2, 4, false));
    let all: Vec<&Pod> = pods.iter().collect();
    assert!(one(&pytorch(1, 3), &all).gang.complete());
}

#[test]
fn increments_come_after_their_gang_and_never_take_its_place() {
    let roles = vec![role("master", 1), Role { elastic: true, ..role("worker", 2) }];
    let elastic = workload(Kind::PyTorchJob, Shape::Roles(roles));
    let mut pods = trainers();
    let told = |pods: &[Pod]| {
        let formed = assemble(Some(&elastic), &pods.iter().collect::<Vec<_>>());
        let [gang, increment] = formed.try_into().expect("the gang and one increment");
        assert_eq!((gang.gang.members.len(), gang.gang.expected), (3, 3));
        assert_eq!((gang.after, increment.gang.name.as_str()), (None, "train-worker-2"));
        assert_eq!(increment.problems, Vec::<String>::new());
        increment.after
    };
    let first = Some("PyTorchJob train".to_owned());
    assert_eq!(told(&pods), first);
    for (rank, pod) in (0..).zip(&mut pods[..2]) {
        bind(pod, "job-uid", rank);
    }
    assert_eq!(told(&pods), first, "a part of the gang is not the gang");
    bind(&mut pods[2], "job-uid", 2);
    assert_eq!(told(&pods), None);
}

#[test]
fn a_gang_runs_no_longer_than_its_longest_pod_and_its_workload() {
    let limit = |of_workload: Option<u64>, of_pods: [Option<u64>; 2], annotation: Option<&str>| {
        let mut job = pytorch(1, 1);
        job.deadline_seconds = of_workload;
        let mut pods = [trainer("master", 0), trainer("worker", 0)];
        for (pod, seconds) in pods.iter_mut().zip(of_pods) {
            pod.spec.active_deadline_seconds = seconds;
            let said = annotation.map(|a| ("gangway.dev/time-limit".to_owned(), a.to_owned()));
            pod.annotations.extend(said);
        }
        one(&job, &[&pods[0], &pods[1]]).gang.ask.time_limit_minutes
    };
    assert_eq!(limit(None, [None, None], None), None);
    assert_eq!(limit(Some(61), [None, None], None), Some(2));
    assert_eq!(limit(None, [Some(60), Some(121)], None), Some(3));
    assert_eq!(limit(None, [Some(60), None], None), None);
    assert_eq!(limit(Some(600), [Some(60), Some(60)], None), Some(1));
    assert_eq!(limit(Some(600), [Some(60), Some(60)], Some("90")), Some(90));
}

#[test]
fn an_ended_pod_leaves_its_rank_to_its_replacement() {
    let mut ended = trainer("worker", 0);
    ended.status.phase = Some("Failed".to_owned());
    bind(&mut ended, "job-uid", 1);
    let mut fresh = trainer("worker", 0);
    fresh.uid = "zzz-replacement".to_owned();
    for pods in [[&ended, &fresh], [&fresh, &ended]] {
        let members = one(&pytorch(1, 1), &pods).gang.members;
        assert_eq!(members.len(), 1);
        assert_eq!((members[0].uid.as_str(), members[0].rank), ("zzz-replacement", 1));
    }
    // Of two that live, the bound one.
    ended.status.phase = Some("Running".to_owned());
    let members = one(&pytorch(1, 1), &[&fresh, &ended]).gang.members;
    assert_eq!((members.len(), &members[0].uid), (1, &ended.uid));
}

#[test]
fn a_deleting_pod_is_leaving_and_no_member() {
    let mut pods = trainers();
    pods[1].deleting = true;
    let refs: Vec<&Pod> = pods.iter().collect();
    let assembled = one(&pytorch(1, 3), &refs);
    assert_eq!(assembled.leaving, BTreeSet::from([pods[1].uid.clone()]));
    assert!(assembled.gang.members.iter().all(|m| m.uid != pods[1].uid));
    assert!(!assembled.gang.complete());

    let mut lone = pod("lone");
    lone.deleting = true;
    let assembled = &assemble(None, &[&lone])[0];
    assert!(assembled.gang.members.is_empty() && assembled.over);
    assert_eq!(assembled.leaving, BTreeSet::from(["lone-uid".to_owned()]));
}

#[test]
fn an_indexed_job_ranks_by_completion_index() {
    let job = workload(Kind::Job, Shape::Roles(vec![role("", 2)]));
    let index = |index: u32| {
        let mut pod = pod(&format!("job-{index}"));
        let key = "batch.kubernetes.io/job-completion-index".to_owned();
        pod.annotations.insert(key, index.to_string());
        pod
    };
    let (first, second, beyond) = (index(0), index(1), index(2));
    // An index that has run to its end is not waited for, whether its pod is still there or not.
    let done = Workload { done: std::iter::once(0..1).collect(), ..job.clone() };
    for (job, pods, complete) in [
        (&job, vec![&second], false),
        (&done, vec![&second], true),
        (&done, vec![&first], false),
        (&done, vec![&first, &second], true),
    ] {
        let formed = one(job, &pods);
        assert_eq!(formed.gang.complete(), complete, "{pods:?}");
        assert_eq!(
            formed.gang.members.last().map(|m| m.rank),
            Some(u32::from(pods.contains(&&second)))
        );
    }
    let formed = assemble(Some(&job), &[&beyond, &second, &first]);
    let gang = &formed[0].gang;
    let ranks: Vec<_> = gang.members.iter().map(|m| (m.name.as_str(), m.rank)).collect();
    assert_eq!(ranks, [("job-0", 0), ("job-1", 1)]);
    assert!(gang.complete());
    assert_eq!(formed[0].problems, ["pod job-2: no role and index that Job train knows"]);
    // It is told so on its own, too: a gang without members tells nobody.
    assert_eq!((&formed[1].gang.uid, &formed[1].problems), (&beyond.uid, &formed[0].problems));
    assert_eq!(formed.len(), 2);
}

#[test]
fn a_bound_pod_that_its_workload_no_longer_counts_stays_a_member() {
    // The PyTorchJob was made smaller; until Kubeflow deletes worker-2 it holds its node.
    let mut last = trainer("worker", 2);
    bind(&mut last, "job-uid", 3);
    let assembled = one(&pytorch(1, 1), &[&last]);
    assert_eq!(assembled.gang.members[0].rank, 3);
    assert_eq!(assembled.problems, [""; 0]);
}

#[test]
fn a_pod_group_takes_its_least_count_in_natural_order_and_the_surplus_stands_alone() {
    let pods: Vec<Pod> = ["p-10", "p-2", "p-1"].map(grouped).into();
    let refs: Vec<&Pod> = pods.iter().collect();
    let formed = assemble(Some(&pod_group(2)), &refs);
    expect![[r"
        group-uid complete=true p-1=0 p-2=1
        p-10-uid complete=true p-10=0
    "]]
    .assert_eq(&shown(&formed));
}

#[test]
fn a_bound_pod_keeps_its_membership_and_rank_whoever_comes_after() {
    let mut pods: Vec<Pod> = ["p-7", "p-8", "p-1", "p-2"].map(grouped).into();
    bind(&mut pods[0], "group-uid", 1);
    bind(&mut pods[1], "group-uid", 0);
    // p-1 was surplus and is bound as a gang of one: it stays one, though the order favours it.
    bind(&mut pods[2], "p-1-uid", 0);
    let refs: Vec<&Pod> = pods.iter().collect();
    expect![[r"
        group-uid complete=true p-8=0 p-7=1
        p-2-uid complete=true p-2=0
        p-1-uid complete=true p-1=0
    "]]
    .assert_eq(&shown(&assemble(Some(&pod_group(2)), &refs)));
    // The replacement of a deleted member takes the rank that has become free.
    pods[1].deleting = true;
    let refs: Vec<&Pod> = pods.iter().collect();
    expect![[r"
        group-uid complete=true p-2=0 p-7=1 leaving=p-8-uid
        p-1-uid complete=true p-1=0
    "]]
    .assert_eq(&shown(&assemble(Some(&pod_group(2)), &refs)));
}

#[test]
fn a_gate_keeps_the_gang_waiting() {
    let mut pods = trainers();
    pods[3].spec.scheduling_gates = vec![SchedulingGate { name: "quota".to_owned() }];
    let refs: Vec<&Pod> = pods.iter().collect();
    assert!(!one(&pytorch(1, 3), &refs).gang.complete());
}

#[test]
fn annotations_that_differ_are_a_problem() {
    let mut pods = trainers();
    pods[1].annotations.insert("gangway.dev/partition".to_owned(), "other".to_owned());
    let refs: Vec<&Pod> = pods.iter().collect();
    expect![[r"pods train-master-0 and train-worker-0 differ in their gangway.dev/ annotations; all pods of one gang are one Slurm job, so write the same on each (or on the PyTorchJob)"]]
        .assert_eq(&one(&pytorch(1, 3), &refs).problems.join("\n"));
}

#[test]
fn the_workloads_annotations_are_defaults_for_its_pods() {
    let mut job = pytorch(1, 0);
    job.annotations.insert("gangway.dev/partition".to_owned(), "gpu".to_owned());
    let assembled = one(&job, &[&trainer("master", 0)]);
    assert_eq!(assembled.gang.ask.partition.as_deref(), Some("gpu"));
}

#[test]
fn a_fault_of_many_pods_is_told_once_and_says_what_to_do() {
    let mut pods = trainers();
    for pod in &mut pods {
        Arc::make_mut(&mut pod.spec.containers)[0].resources = None;
        pod.annotations.insert("gangway.dev/partiton".to_owned(), "gpu".to_owned());
    }
    let refs: Vec<&Pod> = pods.iter().collect();
    expect![[r#"
        annotation gangway.dev/partiton: unknown; known are partition, account, qos, job-name, time-limit, time-min, gpu-type, gres, pods-per-node, constraints, prefer, exclude, licenses, reservation, dependency, begin, deadline, nice, priority, wckey, comment, switches, segment, contiguous, spread, exclusive, checkpoint-grace, checkpoint-hook, on-member-failure
        pod train-master-0 (and 3 others): nothing is requested, so Slurm cannot know what is needed; set resources.requests (cpu, memory) or limits (nvidia.com/gpu) on the containers"#]]
    .assert_eq(&one(&pytorch(1, 3), &refs).problems.join("\n"));
}

#[test]
fn a_quantity_that_cannot_be_read_names_its_pod() {
    let mut pod = trainer("master", 0);
    Arc::make_mut(&mut pod.spec.containers)[0].resources = requests("cpu", "many");
    let problems = one(&pytorch(1, 0), &[&pod]).problems;
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("pod train-master-0: quantity \"many\""), "{problems:?}");
}

#[test]
fn a_pod_group_goes_before_the_controller_and_foreign_kinds_are_alone() {
    let mut pod = trainer("master", 0);
    assert_eq!(claim(&pod), Claim::Workload(Kind::PyTorchJob, "train".to_owned()));
    pod.spec.scheduling_group = Some(SchedulingGroup { pod_group_name: Some("g".to_owned()) });
    assert_eq!(claim(&pod), Claim::Workload(Kind::PodGroup, "g".to_owned()));
    pod.spec.scheduling_group = Some(SchedulingGroup { pod_group_name: Some(String::new()) });
    assert_eq!(claim(&pod), Claim::Workload(Kind::PyTorchJob, "train".to_owned()));
    for (group, kind) in [("apps", "ReplicaSet"), ("apps", "Job"), ("", "PyTorchJob")] {
        pod.controller = Some(controller(group, kind));
        assert_eq!(claim(&pod), Claim::Alone, "{group}/{kind}");
    }
    pod.controller = Some(controller("batch", "Job"));
    assert_eq!(claim(&pod), Claim::Workload(Kind::Job, "train".to_owned()));
    pod.controller = None;
    assert_eq!(claim(&pod), Claim::Alone);
}

#[test]
fn pods_of_a_workload_without_a_gang_are_each_their_own() {
    let (a, b) = (pod("a"), pod("b"));
    let mut job = workload(Kind::Job, Shape::Singles);
    job.over = true;
    let formed = assemble(Some(&job), &[&a, &b]);
    expect![[r"
        a-uid complete=true a=0
        b-uid complete=true b=0
    "]]
    .assert_eq(&shown(&formed));
    assert!(formed.iter().all(|a| a.over && a.gang.kind == "Pod"));
}

#[test]
fn a_binding_is_read_as_slurm_knows_it() {
    let mut pod = trainer("master", 0);
    bind(&mut pod, "job-uid", 0);
    let read = |pod: &Pod| one(&pytorch(1, 0), &[pod]).gang.members[0].bound.clone();
    let bound = Bound {
        generation: 2,
        job: JobId(77),
        node: "slurm-n1".to_owned(),
        indexes: BTreeMap::new(),
    };
    assert_eq!(read(&pod), Some(bound));
    // Somebody else bound it: only the node is known.
    pod.annotations.clear();
    assert_eq!(
        read(&pod),
        Some(Bound {
            generation: 0,
            job: JobId(0),
            node: "kube-n1".to_owned(),
            indexes: BTreeMap::new()
        })
    );
}

#[test]
fn a_gang_is_seated_when_nobody_of_it_waits_for_what_its_job_was_given() {
    let mut pods = trainers();
    let seated = |pods: &[Pod]| {
        one(&pytorch(1, 3), &pods.iter().collect::<Vec<_>>()).gang.is_seated(JobId(77))
    };
    for (pod, rank) in pods.iter_mut().zip(0..).take(3) {
        bind(pod, "job-uid", rank);
    }
    assert!(!seated(&pods), "one has still to be bound");
    assert!(!seated(&pods[..3]), "one has still to come");
    bind(&mut pods[3], "job-uid", 3);
    assert!(seated(&pods));
    pods[3].annotations.insert(names::JOB_ID.to_owned(), "78".to_owned());
    assert!(!seated(&pods), "one is bound for another");
    pods[3].status.phase = Some("Succeeded".to_owned());
    assert!(seated(&pods), "which has finished");
}

#[test]
fn binding_that_was_begun_and_not_finished_is_seen_by_the_clock_of_the_api_server() {
    let mut pods = trainers();
    let made = |text: &str| pod::moment(text);
    for pod in &mut pods {
        pod.created = made("2026-11-27T05:43:09Z");
    }
    let torn = |pods: &[Pod]| one(&pytorch(1, 3), &pods.iter().collect::<Vec<_>>()).torn;
    assert!(!torn(&pods), "nobody is bound");
    for (pod, rank) in pods.iter_mut().zip(0..).take(3) {
        bind(pod, "job-uid", rank);
        pod.status.conditions.scheduled = made("2026-11-27T05:43:09Z");
    }
    assert!(torn(&pods), "the last one was there, in the same second");
    pods[3].created = made("2026-11-27T05:43:10Z");
    assert!(!torn(&pods), "it has come since: a replacement");
    pods[3].created = made("2026-11-27T04:59:59Z");
    pods[3].deleting = true;
    assert!(!torn(&pods), "one that leaves waits for nothing");
    pods[3].deleting = false;
    for pod in &mut pods[..3] {
        pod.status.conditions.scheduled = 0;
    }
    assert!(!torn(&pods), "nobody knows");
}

fn shown(formed: &[Assembled]) -> String {
    let mut out = String::new();
    for assembled in formed {
        let gang = &assembled.gang;
        out.push_str(&format!("{} complete={}", gang.uid, gang.complete()));
        for member in &gang.members {
            out.push_str(&format!(" {}={}", member.name, member.rank));
        }
        for uid in &assembled.leaving {
            out.push_str(&format!(" leaving={uid}"));
        }
        out.push('\n');
    }
    out
}

fn one(workload: &Workload, pods: &[&Pod]) -> Assembled {
    let mut formed = assemble(Some(workload), pods);
    assert_eq!(formed.len(), 1, "{formed:?}");
    formed.remove(0)
}

fn pod(name: &str) -> Pod {
    let container = Container { resources: requests("cpu", "1"), ..Container::default() };
    Pod {
        namespace: "team".to_owned(),
        name: name.to_owned(),
        uid: format!("{name}-uid"),
        spec: PodSpec { containers: vec![container].into(), ..PodSpec::default() },
        ..Pod::default()
    }
}

fn requests(resource: &str, quantity: &str) -> Option<Resources> {
    let requests = BTreeMap::from([(resource.to_owned(), quantity.to_owned())]);
    Some(Resources { requests: Some(requests), limits: None })
}

fn controller(group: &str, kind: &str) -> Controller {
    let [group, kind, name, uid] = [group, kind, "train", "job-uid"].map(str::to_owned);
    Controller { group, kind, name, uid }
}

fn trainer(role: &str, index: u32) -> Pod {
    let mut pod = pod(&format!("train-{role}-{index}"));
    pod.controller = Some(controller("kubeflow.org", "PyTorchJob"));
    pod.labels.insert("training.kubeflow.org/replica-type".to_owned(), role.to_owned());
    pod.labels.insert("training.kubeflow.org/replica-index".to_owned(), index.to_string());
    pod
}

fn trainers() -> Vec<Pod> {
    vec![trainer("master", 0), trainer("worker", 0), trainer("worker", 1), trainer("worker", 2)]
}

fn grouped(name: &str) -> Pod {
    let mut pod = pod(name);
    pod.spec.scheduling_group = Some(SchedulingGroup { pod_group_name: Some("group".to_owned()) });
    pod
}

fn bind(pod: &mut Pod, gang: &str, rank: u32) {
    pod.spec.node_name = Some("kube-n1".to_owned());
    let written = [
        (names::GANG, gang.to_owned()),
        (names::RANK, rank.to_string()),
        (names::GENERATION, "2".to_owned()),
        (names::JOB_ID, "77".to_owned()),
        (names::NODE, "slurm-n1".to_owned()),
    ];
    pod.annotations.extend(written.map(|(k, v)| (k.to_owned(), v)));
}

fn role(name: &str, count: u32) -> Role {
    Role { name: name.to_owned(), count, ..Role::default() }
}

fn workload(kind: Kind, shape: Shape) -> Workload {
    let (name, uid) =
        if kind == Kind::PodGroup { ("group", "group-uid") } else { ("train", "job-uid") };
    Workload {
        kind,
        namespace: "team".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        api_version: "v1".to_owned(),
        annotations: BTreeMap::new(),
        owner: None,
        shape,
        over: false,
        outcome: None,
        deadline_seconds: None,
        replaces: false,
        done: Arc::default(),
    }
}

fn pytorch(masters: u32, workers: u32) -> Workload {
    let roles = vec![role("master", masters), role("worker", workers)];
    workload(Kind::PyTorchJob, Shape::Roles(roles))
}

fn pod_group(least: u32) -> Workload {
    workload(Kind::PodGroup, Shape::AtLeast(least))
}
