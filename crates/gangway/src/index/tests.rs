use gangway_core::eligible::nodes::Node;
use gangway_core::pod::{Container, Controller, PodSpec, Resources, SchedulingGroup};
use gangway_core::workload::Role;

use super::*;

mod elsewhere;

#[test]
fn pods_of_one_workload_are_one_group_and_others_their_own() {
    let mut index = Index::default();
    let (a, b) = (index.put_pod(worker("a", 0)), index.put_pod(worker("b", 1)));
    assert_eq!(a, job_group());
    assert_eq!(a, b);
    let mut elsewhere = worker("c", 0);
    elsewhere.namespace = "other".to_owned();
    assert_ne!(index.put_pod(elsewhere), a, "the same name in another namespace");
    assert_eq!(index.put_pod(pod("lone")), Group::Alone("lone".to_owned()));
    assert_eq!(index.groups().count(), 3);
    assert_eq!(index.drop_pod("lone"), Some(Group::Alone("lone".to_owned())));
    assert_eq!(index.drop_pod("lone"), None);
    assert_eq!(index.groups().count(), 2);
}

#[test]
fn a_pod_that_moves_leaves_its_old_group() {
    let mut index = Index::default();
    index.put_workload(job());
    index.put_pod(worker("a", 0));
    let mut moved = worker("a", 0);
    moved.spec.scheduling_group = Some(SchedulingGroup { pod_group_name: Some("g".to_owned()) });
    let group = index.put_pod(moved);
    assert_eq!(group, Group::Workload(Kind::PodGroup, "team".to_owned(), "g".to_owned()));
    assert_eq!(index.groups().collect::<Vec<_>>(), [&group]);
    assert!(index.assemble(&job_group())[0].gang.members.is_empty());
}

#[test]
fn a_device_that_a_pod_of_another_door_holds_is_taken() {
    let mut index = with_node();
    index.put_stranger(bound("theirs", "0-3"));
    let taken = Spot::Taken { by: "team/theirs".to_owned() };
    assert_eq!(spot(&index, "new", &[3]), taken);
    assert_eq!(index.groups().count(), 0, "it is followed elsewhere");
    assert!(index.known_gangs().is_empty());
    index.put_stranger(bound("theirs", "0-1"));
    let free = Spot::Free("kube-1".to_owned());
    assert_eq!(spot(&index, "new", &[3]), free);
    index.keep_strangers(&HashSet::from(["theirs".to_owned()]));
    assert_eq!(spot(&index, "new", &[1]), taken);
    index.keep_strangers(&HashSet::new());
    assert_eq!(spot(&index, "new", &[1]), free);
}

#[test]
fn a_device_is_held_from_binding_until_the_pod_has_ended() {
    let mut index = with_node();
    index.put_pod(bound("old", "0-3"));
    let taken = |by: &str| Spot::Taken { by: format!("team/{by}") };
    let free = Spot::Free("kube-1".to_owned());
    assert_eq!(spot(&index, "new", &[3, 4]), taken("old"));
    assert_eq!(spot(&index, "new", &[4]), free, "other devices of the node");
    assert_eq!(spot(&index, "old", &[0, 3]), free, "its own do not stand in its way");
    // Deletion has begun, but its containers may still run.
    let mut leaving = bound("old", "0-3");
    leaving.deleting = true;
    index.put_pod(leaving.clone());
    assert_eq!(spot(&index, "new", &[0]), taken("old"));
    leaving.status.phase = Some("Succeeded".to_owned());
    index.put_pod(leaving);
    assert_eq!(spot(&index, "new", &[0]), free);
    index.put_pod(bound("old", "0-3"));
    index.drop_pod("old");
    assert_eq!(spot(&index, "new", &[0]), free);
    assert!(index.devices.is_empty(), "nothing is left behind");
}

#[test]
fn of_two_holders_the_one_that_stays_still_holds() {
    let mut index = with_node();
    index.put_pod(bound("a", "0"));
    index.put_pod(bound("b", "0"));
    index.drop_pod("a");
    assert_eq!(spot(&index, "new", &[0]), Spot::Taken { by: "team/b".to_owned() });
}

#[test]
fn devices_of_another_kind_or_node_do_not_matter() {
    let mut index = with_node();
    index.reach().put_node(&node("kube-2", BTreeMap::new()));
    let mut elsewhere = bound("old", "0");
    elsewhere.spec.node_name = Some("kube-2".to_owned());
    index.put_pod(elsewhere);
    let mut other_kind = bound("nic", "7");
    other_kind.annotations.insert("gangway.dev/index.efa".to_owned(), "0".to_owned());
    index.put_pod(other_kind);
    assert_eq!(spot(&index, "new", &[0]), Spot::Free("kube-1".to_owned()));
    let mut unbound = bound("waiting", "0");
    unbound.spec.node_name = None;
    index.put_pod(unbound);
    assert_eq!(spot(&index, "new", &[0]), Spot::Free("kube-1".to_owned()), "a wish holds nothing");
}

#[test]
fn a_node_is_found_by_slurms_name_for_it() {
    let mut index = Index::default();
    let label = |key: &str, name: &str| BTreeMap::from([(key.to_owned(), name.to_owned())]);
    assert_eq!(spot(&index, "p", &[]), Spot::NoNode);
    index.reach().put_node(&node("slurm-1", BTreeMap::new()));
    assert_eq!(spot(&index, "p", &[]), Spot::Free("slurm-1".to_owned()), "the same name");
    index.reach().put_node(&node("slurm-1", label(names::SLURM_NODE_LABEL, "renamed")));
    assert_eq!(spot(&index, "p", &[]), Spot::NoNode);
    index.reach().put_node(&node("kube-1", label(names::SLURM_NODE_LABEL_ALIAS, "slurm-1")));
    assert_eq!(spot(&index, "p", &[]), Spot::Free("kube-1".to_owned()));
    index.reach().drop_node("kube-1");
    assert_eq!(spot(&index, "p", &[]), Spot::NoNode);
    index.reach().put_node(&node("kube-2", label(names::SLURM_NODE_LABEL, "slurm-1")));
    index.reach().keep_nodes(&HashSet::from(["other".to_owned()]));
    assert_eq!(spot(&index, "p", &[]), Spot::NoNode);
}

#[test]
fn a_node_that_took_over_a_slurm_name_keeps_it_when_the_old_one_goes() {
    let mut index = with_node();
    let label = BTreeMap::from([(names::SLURM_NODE_LABEL.to_owned(), "slurm-1".to_owned())]);
    index.reach().put_node(&node("kube-9", label));
    index.reach().drop_node("kube-1");
    assert_eq!(spot(&index, "p", &[]), Spot::Free("kube-9".to_owned()));
}

#[test]
fn a_gang_whose_workload_is_gone_stays_until_its_pods_are() {
    let mut index = Index::default();
    index.put_workload(job());
    index.put_pod(worker("a", 0));
    index.put_pod(worker("b", 1));
    // Another workload of that name is not this one.
    index.drop_workload(Kind::Job, "team", "train", "earlier-uid");
    assert!(!index.assemble(&job_group())[0].over);
    index.drop_workload(Kind::Job, "team", "train", "job-uid");
    let gang = &index.assemble(&job_group())[0];
    assert_eq!((gang.gang.uid.as_str(), gang.gang.members.len(), gang.over), ("job-uid", 2, true));
    index.drop_pod("a");
    assert_eq!(index.assemble(&job_group())[0].gang.uid, "job-uid");
    index.drop_pod("b");
    assert!(index.workload(&job_group()).is_none(), "nothing is left behind");
    assert!(index.assemble(&job_group()).is_empty());
}

#[test]
fn an_update_of_its_only_pod_does_not_lose_a_workload_that_is_over() {
    let mut index = Index::default();
    let mut finished = job();
    finished.over = true;
    index.put_workload(finished);
    index.put_pod(worker("a", 0));
    index.put_pod(worker("a", 0));
    let gang = &index.assemble(&job_group())[0];
    assert_eq!((gang.gang.uid.as_str(), gang.over), ("job-uid", true));
    assert_eq!(gang.problems, [""; 0]);
}

#[test]
fn a_workload_missing_from_a_full_list_is_gone() {
    let mut index = Index::default();
    index.put_workload(job());
    index.put_pod(worker("a", 0));
    assert_eq!(index.keep_workloads(Kind::PyTorchJob, &HashSet::new()), []);
    assert_eq!(index.keep_workloads(Kind::Job, &HashSet::from(["job-uid".to_owned()])), []);
    assert_eq!(index.keep_workloads(Kind::Job, &HashSet::new()), [job_group()]);
    assert!(index.assemble(&job_group())[0].over);
}

#[test]
fn bound_pods_without_their_workload_keep_the_gang_they_were_bound_for() {
    let mut index = Index::default();
    for (name, rank) in [("a", 0), ("b", 1)] {
        let mut pod = worker(name, rank);
        pod.spec.node_name = Some("kube-1".to_owned());
        pod.annotations.insert(names::GANG.to_owned(), "job-uid".to_owned());
        pod.annotations.insert(names::RANK.to_owned(), rank.to_string());
        index.put_pod(pod);
    }
    let formed = index.assemble(&job_group());
    assert_eq!(formed.len(), 1);
    assert_eq!(formed[0].gang.uid, "job-uid");
    assert_eq!(formed[0].gang.members.len(), 2);
    assert!(formed[0].over && formed[0].problems.is_empty());
}

#[test]
fn a_pod_whose_workload_nobody_knows_is_told_so() {
    let mut index = Index::default();
    index.put_pod(worker("a", 0));
    let formed = index.assemble(&job_group());
    assert_eq!(formed[0].gang.uid, "a", "it is nobody's gang");
    let problem = "its Job team/train does not exist, or gangway may not read it";
    assert_eq!(formed[0].problems, [problem]);
    // The workload appears: they are one gang.
    index.put_workload(job());
    let formed = index.assemble(&job_group());
    assert_eq!((formed.len(), formed[0].gang.uid.as_str()), (1, "job-uid"));
    assert_eq!(formed[0].problems, [""; 0]);
}

#[test]
fn pods_of_an_earlier_workload_of_the_same_name_are_not_of_the_new_one() {
    let mut index = Index::default();
    let mut old = worker("old", 0);
    old.spec.node_name = Some("kube-1".to_owned());
    old.annotations.insert(names::GANG.to_owned(), "earlier-uid".to_owned());
    old.controller = Some(controller("earlier-uid"));
    index.put_pod(old);
    index.put_pod(worker("new", 0));
    index.put_workload(job());
    let formed = index.assemble(&job_group());
    let members = |uid: &str| {
        let gang = formed.iter().find(|a| a.gang.uid == uid).expect("a gang");
        gang.gang.members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((members("job-uid"), members("earlier-uid")), (vec!["new"], vec!["old"]));
}

#[test]
fn the_log_has_a_pods_gang_once_its_workload_is_known() {
    let mut index = Index::default();
    index.put_pod(pod("lone"));
    index.put_pod(worker("a", 0));
    let of = |index: &Index| ["lone", "a", "nobody"].map(|uid| index.gang_of(uid));
    assert_eq!(of(&index), [Some("lone".to_owned()), None, None]);
    index.put_workload(job());
    assert_eq!(of(&index)[1].as_deref(), Some("job-uid"));
}

#[test]
fn every_gang_that_may_have_a_placeholder_is_known() {
    let mut index = Index::default();
    index.put_workload(job());
    assert!(index.known_gangs().is_empty(), "a workload without pods holds nothing");
    index.put_pod(worker("a", 0));
    let mut orphan = bound("b", "0");
    orphan.annotations.insert(names::GANG.to_owned(), "gone-uid".to_owned());
    index.put_pod(orphan);
    let known: BTreeSet<String> = index.known_gangs().into_iter().collect();
    assert_eq!(known, ["a", "b", "gone-uid", "job-uid"].map(str::to_owned).into());
}

#[test]
fn what_is_over_a_pods_controller_is_known_whichever_comes_first() {
    let of_set = |name: &str| {
        let mut pod = worker(name, 0);
        for (key, value) in
            [("jobset-name", "set"), ("restart-attempt", "1"), ("replicatedjob-name", "j")]
        {
            pod.labels.insert(format!("jobset.sigs.k8s.io/{key}"), value.to_owned());
        }
        pod
    };
    let over = |kind: &str, uid: &str| {
        let [group, kind, name, uid] = ["jobset.x-k8s.io", kind, "set", uid].map(str::to_owned);
        Some(Controller { group, kind, name, uid })
    };
    let roles = vec![Role { name: "j".to_owned(), count: 1, ..Role::default() }];
    let shape = Shape::Stages(vec![roles]);
    let set_group = Group::Workload(Kind::JobSet, "team".to_owned(), "set".to_owned());
    let mut index = Index::default();
    index.put_workload(Workload {
        kind: Kind::JobSet,
        name: "set".to_owned(),
        uid: "set-uid".to_owned(),
        shape,
        ..job()
    });
    assert_eq!(index.put_pod(of_set("a")), set_group);
    assert!(index.assemble(&set_group)[0].gang.uid == "a", "nobody confirms it yet");
    let owned = Workload { owner: over("JobSet", "set-uid"), ..job() };
    assert_eq!(index.put_workload(owned.clone()), [job_group(), set_group.clone()]);
    assert_eq!(index.put_workload(owned), [job_group()], "nothing new");
    index.put_pod(of_set("b"));
    for uid in ["a", "b"] {
        assert_eq!(index.pod(uid).expect("there").grandparent, over("JobSet", "set-uid"));
    }
    // A waiting gang is known by the name it is asked for under, not by its workload's uid.
    assert!(index.known_gangs().contains("set-uid:1"));
    // A Job of nobody: its pods are not of the JobSet, whatever they say.
    index.put_workload(job());
    assert_eq!(index.pod("a").expect("there").grandparent, Some(controller("job-uid")));
    let formed = index.assemble(&set_group);
    assert!(formed.iter().all(|a| a.gang.uid != "set-uid:1"), "{formed:?}");
    assert!(formed[0].problems[0].contains("is not what its owners lead to"));
    index.drop_pod("a");
    index.drop_pod("b");
    assert!(index.links.is_empty(), "nothing is left behind");
}

#[test]
fn pods_missing_from_a_full_list_are_found() {
    let mut index = Index::default();
    index.put_pod(pod("a"));
    index.put_pod(pod("b"));
    assert_eq!(index.pods_not_in(&HashSet::from(["a".to_owned()])), ["b"]);
}

#[test]
fn a_dependency_sees_others_of_its_namespace_and_how_they_ended() {
    let mut index = Index::default();
    let mut waits = pod("waits");
    let what = "afterok:job/train,afterok:pod/other,afterok:podgroup/none";
    waits.annotations.insert("gangway.dev/dependency".to_owned(), what.to_owned());
    let group = index.put_pod(waits);
    let others = |index: &Index| {
        let formed = index.assemble(&group);
        assert_eq!(formed[0].problems, [""; 0]);
        let seen = formed[0].gang.ask.others.iter();
        seen.map(|(path, other)| (path.clone(), other.outcome)).collect::<Vec<_>>()
    };
    let mut elsewhere = pod("other");
    elsewhere.uid = "elsewhere".to_owned();
    elsewhere.namespace = "another".to_owned();
    index.put_pod(elsewhere);
    assert_eq!(others(&index), []);
    let mut other = pod("other");
    other.status.phase = Some("Failed".to_owned());
    index.put_pod(other);
    index.put_workload(job());
    let failed = ("pod/other".to_owned(), Some(Outcome::Failed));
    let train = |outcome| ("job/train".to_owned(), outcome);
    assert_eq!(others(&index), [train(None), failed.clone()]);
    // One that has ended is remembered after its last pod, one that is deleted is not.
    let succeeded = Some(Outcome::Succeeded);
    index.put_workload(Workload { over: true, outcome: succeeded, ..job() });
    let mut member = pod("train-0");
    member.controller = Some(controller("job-uid"));
    let uid = member.uid.clone();
    index.put_pod(member);
    index.drop_pod(&uid);
    assert_eq!(others(&index), [train(succeeded), failed.clone()]);
    index.drop_workload(Kind::Job, "team", "train", "job-uid");
    assert_eq!(others(&index), [failed]);
}

#[test]
fn a_pod_group_has_ended_when_all_its_pods_have() {
    let mut index = Index::default();
    let mut waits = pod("waits");
    let what = "afterok:podgroup/two".to_owned();
    waits.annotations.insert("gangway.dev/dependency".to_owned(), what);
    let group = index.put_pod(waits);
    let mut two = job();
    (two.kind, two.name, two.shape) = (Kind::PodGroup, "two".to_owned(), Shape::AtLeast(2));
    index.put_workload(two);
    let mut end = |name: &str, phase: &str| {
        let mut pod = pod(name);
        let pod_group_name = Some("two".to_owned());
        pod.spec.scheduling_group = Some(SchedulingGroup { pod_group_name });
        pod.status.phase = Some(phase.to_owned());
        index.put_pod(pod);
        index.assemble(&group)[0].gang.ask.others["podgroup/two"].outcome
    };
    assert_eq!(end("a", "Succeeded"), None, "one of two");
    assert_eq!(end("b", "Running"), None);
    assert_eq!(end("b", "Succeeded"), Some(Outcome::Succeeded));
    assert_eq!(end("b", "Failed"), Some(Outcome::Failed));
}

#[test]
fn nobody_waits_for_himself() {
    let mut index = Index::default();
    let mut pod = pod("me");
    pod.annotations.insert("gangway.dev/dependency".to_owned(), "afterok:pod/me".to_owned());
    let group = index.put_pod(pod);
    let problems = &index.assemble(&group)[0].problems;
    assert_eq!(problems, &["annotation gangway.dev/dependency: pod/me cannot wait for itself"]);
}

pub(super) fn pod(name: &str) -> Pod {
    let requests = BTreeMap::from([("cpu".to_owned(), "1".to_owned())]);
    let resources = Some(Resources { requests: Some(requests), limits: None });
    let containers = vec![Container { resources, ..Container::default() }];
    Pod {
        namespace: "team".to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        spec: PodSpec { containers: containers.into(), ..PodSpec::default() },
        ..Pod::default()
    }
}

fn controller(uid: &str) -> Controller {
    let [group, kind, name, uid] = ["batch", "Job", "train", uid].map(str::to_owned);
    Controller { group, kind, name, uid }
}

fn worker(name: &str, index: u32) -> Pod {
    let mut pod = pod(name);
    let key = "batch.kubernetes.io/job-completion-index".to_owned();
    pod.annotations.insert(key, index.to_string());
    pod.controller = Some(controller("job-uid"));
    pod
}

/// A lone pod on node kube-1 with these GPUs.
pub(super) fn bound(name: &str, gpus: &str) -> Pod {
    let mut pod = pod(name);
    pod.spec.node_name = Some("kube-1".to_owned());
    pod.annotations.insert("gangway.dev/index.gpu".to_owned(), gpus.to_owned());
    pod
}

/// An Indexed Job of two.
fn job() -> Workload {
    Workload {
        kind: Kind::Job,
        namespace: "team".to_owned(),
        name: "train".to_owned(),
        uid: "job-uid".to_owned(),
        api_version: "batch/v1".to_owned(),
        annotations: BTreeMap::new(),
        owner: None,
        shape: Shape::Roles(vec![Role { count: 2, ..Role::default() }]),
        over: false,
        outcome: None,
        deadline_seconds: None,
        replaces: false,
        done: Arc::default(),
    }
}

fn job_group() -> Group {
    Group::Workload(Kind::Job, "team".to_owned(), "train".to_owned())
}

fn node(name: &str, labels: BTreeMap<String, String>) -> Node {
    Node { name: name.to_owned(), labels, ..Node::default() }
}

/// Slurm's node slurm-1 is Kubernetes' kube-1.
pub(super) fn with_node() -> Index {
    let mut index = Index::default();
    let label = BTreeMap::from([(names::SLURM_NODE_LABEL.to_owned(), "slurm-1".to_owned())]);
    index.reach().put_node(&node("kube-1", label));
    index
}

/// Where the seat of a pod with these GPUs of slurm-1 is.
pub(super) fn spot(index: &Index, pod: &str, gpus: &[u32]) -> Spot {
    index.spots(&BTreeMap::from([(pod.to_owned(), seat(gpus))]))[pod].clone()
}

/// A seat with these GPUs of slurm-1.
pub(super) fn seat(gpus: &[u32]) -> Seat {
    let indexes = vec![("gpu".to_owned(), gpus.to_vec())];
    Seat { rank: 0, node: "slurm-1".to_owned(), indexes }
}
