//! The other kinds: those without a gang, and those whose pods are made here as their controllers
//! make them.

use std::collections::BTreeSet;

use gangway_tests::{Pod, SOON, Story, manifest, stays, wait};
use serde_json::{Value, json};

/// Checks pods that start alone: each has a placeholder and rank 0.
async fn alone(story: &Story, pods: &[Pod]) {
    let mut jobs = BTreeSet::new();
    for pod in pods {
        jobs.insert(story.seated(std::slice::from_ref(pod)).await.id);
    }
    assert_eq!(jobs.len(), pods.len(), "each its own placeholder");
}

#[tokio::test]
async fn pods_of_a_plain_job_start_alone() {
    let Some(story) = Story::begin("plain-job").await else { return };
    let mut job = manifest::indexed_job("list", 3, &manifest::template(8, &[]));
    job["spec"]["completionMode"] = json!("NonIndexed");
    job["spec"]["completions"] = json!(6);
    story.kube.create(&job).await;
    alone(&story, &story.bound("list-", 3).await).await;
    story.end().await;
}

#[tokio::test]
async fn pods_of_a_statefulset_and_of_a_deployment_start_alone() {
    let Some(story) = Story::begin("apps").await else { return };
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::apps("StatefulSet", "stateful", 2, &template)).await;
    story.kube.create(&manifest::apps("Deployment", "deployed", 2, &template)).await;
    alone(&story, &story.bound("stateful-", 2).await).await;
    alone(&story, &story.bound("deployed-", 2).await).await;
    story.end().await;
}

/// A native Workload is a plan for PodGroups; what starts together is each of these.
#[tokio::test]
async fn pod_groups_of_a_native_workload_are_gangs() {
    let Some(story) = Story::begin("workload").await else { return };
    let gang = json!({"gang": {"minCount": 2}});
    let spec = json!({"podGroupTemplates": [{"name": "pair", "schedulingPolicy": gang}]});
    let workload = manifest::bare("scheduling.k8s.io/v1alpha2", "Workload", "plan", &spec);
    story.kube.create(&workload).await;
    for group in ["one", "two"] {
        let mut object = manifest::pod_group(group, 2);
        let from = json!({"workloadName": "plan", "podGroupTemplateName": "pair"});
        object["spec"]["podGroupTemplateRef"] = json!({"workload": from});
        story.kube.create(&object).await;
        for member in ["a", "b"] {
            let name = format!("{group}-{member}");
            let template = manifest::template(8, &[]);
            story.kube.create(&manifest::pod_of_group(&name, group, &template)).await;
        }
    }
    let one = story.seated(&story.bound("one-", 2).await).await;
    let two = story.seated(&story.bound("two-", 2).await).await;
    assert_ne!(one.id, two.id);
    story.end().await;
}

#[tokio::test]
async fn a_pod_group_of_scheduler_plugins_waits_until_it_is_whole() {
    let Some(story) = Story::begin("plugin-group").await else { return };
    let group = manifest::bare(
        "scheduling.x-k8s.io/v1alpha1",
        "PodGroup",
        "trio",
        &json!({"minMember": 3}),
    );
    story.kube.create(&group).await;
    let pod = |name: &str| {
        let mut pod = manifest::pod(name, &manifest::template(8, &[]));
        pod["metadata"]["labels"] = json!({"scheduling.x-k8s.io/pod-group": "trio"});
        pod
    };
    story.kube.create(&pod("trio-a")).await;
    story.kube.create(&pod("trio-b")).await;
    story.told("trio-", "2 of 3").await;
    assert!(story.slurm.placeholders().await.is_empty(), "nobody asks Slurm");
    story.kube.create(&pod("trio-c")).await;
    story.seated(&story.bound("trio-", 3).await).await;
    assert_eq!(story.slurm.placeholders().await.len(), 1);
    story.end().await;
}

/// A StatefulSet whose pods name a PodGroup is a gang, and its ordinals are its ranks: `set-2` comes
/// before `set-10`.
#[tokio::test]
async fn ranks_of_a_statefulset_in_a_pod_group_are_its_ordinals() {
    let Some(story) = Story::begin("ordinals").await else { return };
    let least = json!({"minMember": 12});
    let group = manifest::bare("scheduling.x-k8s.io/v1alpha1", "PodGroup", "dozen", &least);
    story.kube.create(&group).await;
    let mut set = manifest::apps("StatefulSet", "set", 12, &manifest::template(8, &[]));
    // Or its controller would wait for the first pod before it makes the second.
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    let labels = &mut set["spec"]["template"]["metadata"]["labels"];
    labels["scheduling.x-k8s.io/pod-group"] = json!("dozen");
    story.kube.create(&set).await;
    let pods = story.bound("set-", 12).await;
    story.seated(&pods).await;
    for pod in &pods {
        assert_eq!(pod.name, format!("set-{}", pod.rank()));
        assert_eq!(pod.labels.get("apps.kubernetes.io/pod-index"), Some(&pod.rank().to_string()));
    }
    assert_eq!(story.slurm.placeholders().await.len(), 1, "one gang");
    story.end().await;
}

/// The mpi-operator makes the launcher when the workers run: its place is kept from the start, and is
/// no larger than what it needs.
#[tokio::test]
async fn the_launcher_of_an_mpijob_comes_to_the_place_kept_for_it() {
    let Some(story) = Story::begin("mpijob").await else { return };
    let (template, without) = (manifest::template(8, &[]), manifest::template(0, &[]));
    let role =
        |replicas: u32, template: &Value| json!({"replicas": replicas, "template": template});
    let spec = json!({
        "launcherCreationPolicy": "WaitForWorkersReady",
        "mpiReplicaSpecs": {"Launcher": role(1, &without), "Worker": role(2, &template)},
    });
    let mpi = manifest::bare("kubeflow.org/v2beta1", "MPIJob", "mpi", &spec);
    let uid = story.kube.create(&mpi).await;
    let operator = ("training.kubeflow.org/operator-name", "mpi-operator");
    let name = ("training.kubeflow.org/job-name", "mpi");
    for index in ["0", "1"] {
        let pod = manifest::pod(&format!("mpi-worker-{index}"), &template);
        let role = ("training.kubeflow.org/job-role", "worker");
        let number = ("training.kubeflow.org/replica-index", index);
        story
            .kube
            .create(&manifest::owned(&pod, &mpi, &uid, &[operator, name, role, number]))
            .await;
    }
    let workers = story.bound("mpi-worker-", 2).await;
    let room = story.seated(&workers).await;
    assert_eq!(room.parts.len(), 2, "a component for the launcher that is still to come: {room:?}");
    let asked: Vec<Value> = room
        .parts
        .iter()
        .map(|part| story.slurm.shown(part.id.0)["tres_per_node"].clone())
        .collect();
    assert_eq!(asked, [json!("gres/efa=32,gres/gpu=8"), json!("")], "no GPU for the launcher");

    let mut launcher = manifest::indexed_job("mpi-launcher", 1, &without);
    launcher["spec"]["completionMode"] = json!("NonIndexed");
    for (key, value) in [operator, name, ("training.kubeflow.org/job-role", "launcher")] {
        launcher["spec"]["template"]["metadata"]["labels"][key] = json!(value);
    }
    story.kube.create(&manifest::owned(&launcher, &mpi, &uid, &[])).await;
    let all = story.bound("mpi-", 3).await;
    assert_eq!(story.seated(&all).await.id, room.id, "one placeholder for all");
    let launcher = all.iter().find(|pod| pod.name.starts_with("mpi-launcher")).expect("it");
    assert_eq!(launcher.rank(), 2, "after the ring of workers");
    assert_eq!(launcher.node.as_deref(), Some(room.parts[1].nodes.as_str()), "its own component");
    assert_eq!(launcher.annotations.get("gangway.dev/index.gpu"), None);
    assert_eq!(story.slurm.placeholders().await.len(), 1);
    story.end().await;
}

#[tokio::test]
async fn a_raycluster_starts_with_its_least_and_grows_pod_by_pod() {
    let Some(story) = Story::begin("raycluster").await else { return };
    let template = manifest::template(8, &[]);
    let group = json!({"groupName": "gpu", "replicas": 2, "minReplicas": 2, "maxReplicas": 5,
        "template": template});
    let spec = json!({"enableInTreeAutoscaling": true,
        "headGroupSpec": {"template": template}, "workerGroupSpecs": [group]});
    let ray = manifest::bare("ray.io/v1", "RayCluster", "ray", &spec);
    let uid = story.kube.create(&ray).await;
    let pod = |name: &str, kind: &str, group: &str| -> Value {
        let labels =
            [("ray.io/cluster", "ray"), ("ray.io/node-type", kind), ("ray.io/group", group)];
        manifest::owned(&manifest::pod(name, &template), &ray, &uid, &labels)
    };
    story.kube.create(&pod("ray-gpu-worker-x7k2p", "worker", "gpu")).await;
    story.kube.create(&pod("ray-gpu-worker-b4xq9", "worker", "gpu")).await;
    story.told("ray-", "2 of 3").await;
    story.kube.create(&pod("ray-head-j9f2d", "head", "headgroup")).await;
    let pods = story.bound("ray-", 3).await;
    let gang = story.seated(&pods).await;
    let head = pods.iter().find(|pod| pod.name.contains("head")).expect("a head");
    assert_eq!(head.rank(), 0);

    story.kube.create(&pod("ray-gpu-worker-added", "worker", "gpu")).await;
    let added = story.bound("ray-gpu-worker-added", 1).await;
    assert_ne!(story.seated(&added).await.id, gang.id, "a gang of one");
    stays("the cluster runs on", std::time::Duration::from_secs(1), async || {
        let job = story.slurm.job(gang.id.0).await;
        if job.state.base.name() == "RUNNING" { Ok(()) } else { Err(job.state.to_string()) }
    })
    .await;
    story.end().await;
}

/// A cluster that is made larger by hand has more pods than its placeholder has nodes: the new ones
/// are told, and nobody else is disturbed.
#[tokio::test]
async fn a_raycluster_that_is_made_larger_keeps_running() {
    let Some(story) = Story::begin("ray-larger").await else { return };
    let template = manifest::template(8, &[]);
    let spec = |replicas: u32| {
        let group = json!({"groupName": "gpu", "replicas": replicas, "template": template});
        json!({"headGroupSpec": {"template": template}, "workerGroupSpecs": [group]})
    };
    let ray = manifest::bare("ray.io/v1", "RayCluster", "ray", &spec(1));
    let uid = story.kube.create(&ray).await;
    let pod = |name: &str, group: &str| {
        manifest::owned(&manifest::pod(name, &template), &ray, &uid, &[("ray.io/group", group)])
    };
    story.kube.create(&pod("ray-head", "headgroup")).await;
    story.kube.create(&pod("ray-worker-1", "gpu")).await;
    let before = story.bound("ray-", 2).await;
    let gang = story.seated(&before).await;

    story.kube.patch(&ray, &json!({"spec": spec(2)})).await;
    story.kube.create(&pod("ray-worker-2", "gpu")).await;
    story.told("ray-worker-2", "was made larger since it started").await;
    let after = story.pods("ray-").await;
    let bound: Vec<Pod> = after.into_iter().filter(|pod| pod.node.is_some()).collect();
    assert_eq!(story.seated(&bound).await.id, gang.id);
    let places = |pods: &[Pod]| -> Vec<_> {
        pods.iter().map(|p| (p.uid.clone(), p.node.clone(), p.rank())).collect()
    };
    assert_eq!(places(&before), places(&bound));
    story.end().await;
}

/// What a pod's labels claim, its owners must not deny (rule 7).
#[tokio::test]
async fn a_label_alone_brings_no_pod_into_another_gang() {
    let Some(story) = Story::begin("impostor").await else { return };
    let template = manifest::template(8, &[]);
    let jobs = [manifest::replicated_job("workers", 1, 2, &template)];
    let uid = story.kube.create(&manifest::jobset("set", &jobs, &json!({}))).await;
    let pods = story.bound("set-", 2).await;
    let gang = story.seated(&pods).await;
    // A Job of its own whose pods say that they are of the JobSet's Job.
    let mut job = manifest::indexed_job("impostor", 1, &template);
    for (key, value) in [
        ("jobset-name", "set"),
        ("jobset-uid", uid.as_str()),
        ("restart-attempt", "0"),
        ("replicatedjob-name", "workers"),
        ("replicatedjob-replicas", "1"),
        ("job-index", "0"),
    ] {
        let key = format!("jobset.sigs.k8s.io/{key}");
        job["spec"]["template"]["metadata"]["labels"][key] = json!(value);
    }
    story.kube.create(&job).await;
    wait("the impostor is told", SOON, async || {
        let pods = story.pods("impostor-").await;
        let why = pods.first().map(Pod::why).unwrap_or_default();
        if why.contains("JobSet") && pods[0].node.is_none() { Ok(()) } else { Err(why) }
    })
    .await;
    let after = story.bound("set-", 2).await;
    assert_eq!(story.seated(&after).await.id, gang.id);
    story.end().await;
}
