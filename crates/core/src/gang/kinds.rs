//! Kinds with several gangs, members that come later, pods that are alike.

use serde_json::json;

use super::*;

#[test]
fn each_kind_is_known_by_its_owner_and_labels() {
    let (job, set) = (("batch", "Job"), ("apps", "StatefulSet"));
    for ((group, kind), labels, want) in [
        (("kubeflow.org", "MPIJob"), vec![], (Kind::MpiJob, "train")),
        (("ray.io", "RayCluster"), vec![], (Kind::RayCluster, "train")),
        (job, vec![("jobset.sigs.k8s.io/jobset-name", "s")], (Kind::JobSet, "s")),
        (set, vec![("leaderworkerset.sigs.k8s.io/name", "s")], (Kind::LeaderWorkerSet, "s")),
        (job, vec![("scheduling.x-k8s.io/pod-group", "g")], (Kind::PluginPodGroup, "g")),
        (
            job,
            vec![
                ("training.kubeflow.org/operator-name", "mpi-operator"),
                ("training.kubeflow.org/job-name", "mpi"),
                // The mpi-operator can make a PodGroup too.
                ("scheduling.x-k8s.io/pod-group", "mpi"),
            ],
            (Kind::MpiJob, "mpi"),
        ),
        // What users name goes before a JobSet, what operators make does not.
        (
            job,
            vec![("jobset.sigs.k8s.io/jobset-name", "s"), ("scheduling.x-k8s.io/pod-group", "g")],
            (Kind::PluginPodGroup, "g"),
        ),
        (
            ("kubeflow.org", "PyTorchJob"),
            vec![("scheduling.x-k8s.io/pod-group", "g")],
            (Kind::PyTorchJob, "train"),
        ),
    ] {
        let mut pod = labelled("p", &labels);
        pod.controller = Some(controller(group, kind));
        let claimed = claim(&pod);
        assert_eq!(
            claimed,
            Claim::Workload(want.0, want.1.to_owned()),
            "{group}/{kind} {labels:?}"
        );
    }
    // Labels without the owner that goes with them say nothing.
    let labels =
        [("jobset.sigs.k8s.io/jobset-name", "s"), ("leaderworkerset.sigs.k8s.io/name", "s")];
    let mut pod = labelled("p", &labels);
    assert_eq!(claim(&pod), Claim::Alone);
    pod.controller = Some(controller("apps", "ReplicaSet"));
    assert_eq!(claim(&pod), Claim::Alone);
}

#[test]
fn restart_attempts_of_a_jobset_are_gangs_of_their_own() {
    let set = jobset(&json!([job("driver", 1, 1), job("workers", 2, 2)]), false);
    let mut old = member("driver", 0, 0, 0);
    old.deleting = true;
    let new = [
        member("workers", 1, 0, 1),
        member("workers", 0, 1, 1),
        member("workers", 0, 0, 1),
        member("driver", 0, 0, 1),
    ];
    let refs: Vec<&Pod> = [&old].into_iter().chain(&new).collect();
    let formed = assemble(Some(&set), &refs);
    expect![[r"
        set-uid:0 complete=false leaving=driver-0-0-attempt-0-uid
        set-uid:1 complete=false driver-0-0-attempt-1=0 workers-0-0-attempt-1=1 workers-0-1-attempt-1=2 workers-1-0-attempt-1=3
    "]]
    .assert_eq(&shown(&formed));
    assert!(formed[0].over && !formed[1].over, "nothing more comes of the old attempt");
    assert_eq!(gang_uid(&set, &new[0]).as_deref(), Some("set-uid:1"));
}

#[test]
fn a_gang_in_order_is_complete_with_its_first_members_and_knows_who_is_to_come() {
    let set = jobset(&json!([job("driver", 1, 2), job("workers", 2, 2)]), true);
    let (first, second) = (member("driver", 0, 0, 0), member("driver", 0, 1, 0));
    let half = assemble(Some(&set), &[&first]).remove(0).gang;
    assert!(!half.complete(), "the driver itself is not whole");
    let gang = assemble(Some(&set), &[&first, &second]).remove(0).gang;
    assert!(gang.complete());
    let to_come: Vec<u32> = gang.absent().map(|(rank, _)| rank).collect();
    assert_eq!((to_come, gang.size(), gang.expected), (vec![2, 3, 4, 5], 6, 6));
    assert_eq!(gang.largest_demand().other.get("nvidia.com/gpu"), Some(&8), "from the template");

    // Whoever comes takes its own rank; the founders stay the same.
    let late = member("workers", 1, 0, 0);
    let grown = assemble(Some(&set), &[&first, &late, &second]).remove(0).gang;
    let to_come: Vec<u32> = grown.absent().map(|(rank, _)| rank).collect();
    assert_eq!((to_come, grown.complete(), grown.size()), (vec![2, 3, 5], true, 6));
    let names = |gang: &Gang| gang.founders().map(|m| m.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&grown), names(&gang));
    // With the founders gone, those that are left stand for it.
    let left = assemble(Some(&set), &[&late]).remove(0).gang;
    assert_eq!(names(&left), ["workers-1-0-attempt-0"]);
}

#[test]
fn a_template_that_requests_nothing_is_told_before_its_pods_come() {
    let mut workers = job("workers", 1, 2);
    workers["template"]["spec"]["template"]["spec"]["containers"] = json!([{"name": "c"}]);
    let set = jobset(&json!([job("driver", 1, 1), workers]), true);
    let problems = assemble(Some(&set), &[&member("driver", 0, 0, 0)]).remove(0).problems;
    assert_eq!(problems.len(), 1);
    let said = "template workers of JobSet set: nothing is requested";
    assert!(problems[0].starts_with(said), "{problems:?}");
}

#[test]
fn stages_of_a_jobset_are_gangs_of_their_own() {
    let mut node = job("node", 1, 2);
    node["dependsOn"] = json!([{"name": "data", "status": "Complete"}]);
    let mut set = jobset(&json!([job("data", 1, 1), node]), false);
    let (data, first, second) =
        (member("data", 0, 0, 0), member("node", 0, 0, 0), member("node", 0, 1, 0));
    let formed = assemble(Some(&set), &[&second, &data, &first]);
    expect![[r"
        set-uid:0:0 complete=true data-0-0-attempt-0=0
        set-uid:0:1 complete=true node-0-0-attempt-0=0 node-0-1-attempt-0=1
    "]]
    .assert_eq(&shown(&formed));
    assert_eq!(
        (formed[1].gang.name.as_str(), formed[1].gang.kind.as_str()),
        ("set-node", "JobSet")
    );
    set.owner = Some(controller("trainer.kubeflow.org", "TrainJob"));
    assert_eq!(assemble(Some(&set), &[&data]).remove(0).gang.kind, "TrainJob");
}

#[test]
fn a_pod_that_no_job_of_the_jobset_made_stands_alone_with_its_problem() {
    let set = jobset(&json!([job("driver", 1, 1)]), false);
    let formed = assemble(Some(&set), &[&member("other", 0, 0, 0)]);
    assert_eq!(formed.len(), 1);
    assert!(formed[0].problems[0].contains("no role and index that JobSet set knows"));
    // An index beyond what the Job has would be somebody else's rank.
    let beyond = member("driver", 0, 1, 0);
    assert!(!assemble(Some(&set), &[&beyond])[1].problems.is_empty());
}

#[test]
fn owners_must_confirm_what_labels_claim() {
    let set = jobset(&json!([job("driver", 1, 2)]), false);
    let mine = member("driver", 0, 0, 0);
    let mut unknown = member("driver", 0, 1, 0);
    unknown.grandparent = None;
    let mut impostor = unknown.clone();
    impostor.grandparent = Some(controller("batch", "Job"));
    let mut earlier = mine.clone();
    earlier.labels.insert("jobset.sigs.k8s.io/jobset-uid".to_owned(), "earlier".to_owned());
    let (own_pods, others) = own(&set, &[&mine, &unknown, &impostor, &earlier]);
    assert_eq!((own_pods, others), (vec![&mine], vec![&unknown, &impostor, &earlier]));
    // A bound pod is not taken from its gang because its Job has not been heard of yet.
    unknown.spec.node_name = Some("n1".to_owned());
    assert_eq!(own(&set, &[&unknown]).0, [&unknown]);
}

#[test]
fn groups_of_a_leaderworkerset_are_known_by_their_leader() {
    let set = leader_worker_set();
    let mut old = worker("set-0-1", "old-leader");
    old.deleting = true;
    let pods =
        [leader("set-0"), worker("set-0-2", "set-0-uid"), worker("set-0-1", "set-0-uid"), old];
    let refs: Vec<&Pod> = pods.iter().collect();
    expect![[r"
        old-leader complete=false leaving=set-0-1-uid
        set-0-uid complete=true set-0=0 set-0-1=1 set-0-2=2
    "]]
    .assert_eq(&shown(&assemble(Some(&set), &refs)));
    // Its own uid on the leader's binding names the group, not a gang of one.
    let mut bound = leader("set-0");
    bind(&mut bound, "set-0-uid", 0);
    let formed = assemble(Some(&set), &[&bound, &pods[1]]);
    assert_eq!((formed.len(), formed[0].gang.members.len()), (1, 2));
    // A worker whose StatefulSet is not known says so.
    let mut lost = worker("set-0-1", "set-0-uid");
    lost.grandparent = None;
    let formed = assemble(Some(&set), &[&lost]);
    assert!(formed[0].problems[0].contains("its StatefulSet set-0"), "{:?}", formed[0].problems);
}

#[test]
fn a_group_is_as_large_as_its_own_pods_say() {
    let mut pod = leader("set-0");
    let size = "leaderworkerset.sigs.k8s.io/size".to_owned();
    pod.annotations.insert(size, "5".to_owned());
    assert_eq!(assemble(Some(&leader_worker_set()), &[&pod])[0].gang.expected, 5);
}

#[test]
fn pods_of_a_ray_group_take_the_next_free_rank_and_any_beyond_stand_alone() {
    let template = json!({"spec": {"containers": []}});
    let spec = json!({"headGroupSpec": {"template": template}, "workerGroupSpecs": [
        {"groupName": "gpu", "replicas": 2, "template": template}]});
    let ray = read(Kind::RayCluster, "ray", &spec);
    let pod = |name: &str, group: &str| labelled(name, &[("ray.io/group", group)]);
    let mut pods =
        [pod("w-3", "gpu"), pod("head", "headgroup"), pod("w-1", "gpu"), pod("w-2", "gpu")];
    bind(&mut pods[0], "ray-uid", 1);
    let refs: Vec<&Pod> = pods.iter().collect();
    let formed = assemble(Some(&ray), &refs);
    expect![[r"
        ray-uid complete=true head=0 w-3=1 w-1=2
        w-2-uid complete=true w-2=0
    "]]
    .assert_eq(&shown(&formed));
    assert!(formed[1].problems.is_empty(), "nothing is wrong with one that was added");
    assert_eq!(formed[0].gang.members[1].role, "gpu");
}

#[test]
fn an_mpi_worker_counts_by_its_name_and_the_launcher_comes_last() {
    let spec = json!({"mpiReplicaSpecs": {"Launcher": {}, "Worker": {"replicas": 2}}});
    let mpi = read(Kind::MpiJob, "mpi", &spec);
    let role = |name: &str, role: &str| labelled(name, &[("training.kubeflow.org/job-role", role)]);
    let pods = [
        role("mpi-launcher-x2x4q", "launcher"),
        role("mpi-worker-1", "worker"),
        role("mpi-worker-0", "worker"),
    ];
    let refs: Vec<&Pod> = pods.iter().collect();
    expect![[r"
        mpi-uid complete=true mpi-worker-0=0 mpi-worker-1=1 mpi-launcher-x2x4q=2
    "]]
    .assert_eq(&shown(&assemble(Some(&mpi), &refs)));
}

fn read(kind: Kind, name: &str, spec: &serde_json::Value) -> Workload {
    let meta = json!({"name": name, "uid": format!("{name}-uid"), "namespace": "team"});
    Workload::read(kind, &json!({"metadata": meta, "spec": spec}), names::SCHEDULER)
        .expect("an object")
}

fn job(name: &str, replicas: u32, pods: u32) -> serde_json::Value {
    let limits = json!({"limits": {"nvidia.com/gpu": "8"}});
    let spec =
        json!({"schedulerName": "gangway", "containers": [{"name": "c", "resources": limits}]});
    json!({"name": name, "replicas": replicas,
        "template": {"spec": {"parallelism": pods, "template": {"spec": spec}}}})
}

fn jobset(jobs: &serde_json::Value, in_order: bool) -> Workload {
    let order = if in_order { "InOrder" } else { "AnyOrder" };
    let spec = json!({"replicatedJobs": jobs, "startupPolicy": {"startupPolicyOrder": order}});
    read(Kind::JobSet, "set", &spec)
}

/// A pod of a JobSet's Job: which Job of how many is known from its labels.
fn member(name: &str, job: u32, index: u32, attempt: u32) -> Pod {
    let replicas = if name == "workers" { "2" } else { "1" };
    let labels = [
        ("jobset-uid", "set-uid"),
        ("restart-attempt", &attempt.to_string()),
        ("replicatedjob-name", name),
        ("replicatedjob-replicas", replicas),
        ("job-index", &job.to_string()),
    ]
    .map(|(key, value)| (format!("jobset.sigs.k8s.io/{key}"), value.to_owned()));
    let mut pod = pod(&format!("{name}-{job}-{index}-attempt-{attempt}"));
    pod.labels.extend(labels);
    let index_key = "batch.kubernetes.io/job-completion-index".to_owned();
    pod.annotations.insert(index_key, index.to_string());
    pod.controller = Some(controller("batch", "Job"));
    let [group, kind, name, uid] =
        ["jobset.x-k8s.io", "JobSet", "set", "set-uid"].map(str::to_owned);
    pod.grandparent = Some(Controller { group, kind, name, uid });
    pod
}

fn labelled(name: &str, labels: &[(&str, &str)]) -> Pod {
    let mut pod = pod(name);
    pod.labels.extend(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    pod
}

fn leader_worker_set() -> Workload {
    let template = json!({"spec": {"containers": []}});
    let spec = json!({"leaderWorkerTemplate": {"size": 3, "workerTemplate": template}});
    read(Kind::LeaderWorkerSet, "set", &spec)
}

fn leader(name: &str) -> Pod {
    labelled(name, &[("leaderworkerset.sigs.k8s.io/worker-index", "0")])
}

fn worker(name: &str, leader: &str) -> Pod {
    let index = name.rsplit_once('-').expect("a name").1;
    let mut pod = labelled(name, &[("leaderworkerset.sigs.k8s.io/worker-index", index)]);
    pod.controller = Some(Controller { name: "set-0".to_owned(), ..Controller::default() });
    let (kind, uid) = ("Pod".to_owned(), leader.to_owned());
    pod.grandparent = Some(Controller { kind, uid, ..Controller::default() });
    pod
}
