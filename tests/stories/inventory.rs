//! One pool: the nodes of Kubernetes are in Slurm as they are, and what each side says of a node the other knows.

use std::time::Duration;

use gangway_core::job::BaseState;
use gangway_tests::{POOL, Pool, SOON, Story, manifest, stays, wait};
use serde_json::{Value, json};

use crate::poison::{DEAD, is_silent, readdress};
use crate::slurmctld::{answers, daemon};

const READY: &str = "gangway.dev/SlurmReady";
/// Within this a node that is gone has left Slurm.
const NO_ZOMBIES: Duration = Duration::from_secs(10);

/// Waits until the node's condition has this status and says this.
async fn says(story: &Story, node: &str, status: &str, words: &str) {
    wait(&format!("{node} says {words:?}"), SOON, async || {
        match story.kube.node_condition(node, READY).await {
            Some((now, _, message)) if now == status && message.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn begin(name: &str, more: &str) -> Option<(Story, Pool)> {
    let story = Story::begin(name).await?;
    let mut pool = Pool::of(&story, more);
    pool.controllers.start().await;
    Some((story, pool))
}

async fn end(story: Story, pool: Pool) {
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "the controllers ended with {status:?}");
    story.end().await;
}

/// A gang of so many whole nodes on the nodes of the story.
fn gang(name: &str, members: u32) -> Value {
    let template = manifest::template(8, &[("gangway.dev/partition", "mixed")]);
    manifest::indexed_job(name, members, &template)
}

#[tokio::test]
async fn a_node_joins_runs_a_gang_and_leaves() {
    let Some((story, pool)) = begin("join", "").await else { return };
    let before = pool.everything().await;
    for name in ["join-1", "join-2"] {
        pool.add(name).await;
    }
    let node = pool.in_slurm("join-1", "is registered", |node| node.is("IDLE")).await;
    assert_eq!((node.cpus, node.sockets, node.memory_mib), (190, 2, 2_048_000));
    assert_eq!(
        (node.gres.as_str(), node.address.as_str()),
        ("gpu:h100:8(S:0-1),efa:32(S:0-1)", "127.0.0.1")
    );
    assert_eq!(node.partitions, ["mixed"]);
    for feature in ["mixed", "p5.48xlarge", "NVIDIA-H100-80GB-HBM3"] {
        assert!(node.features.iter().any(|own| own == feature), "{feature} in {:?}", node.features);
    }
    says(&story, "join-1", "True", "in: mixed").await;
    // kubectl and sinfo agree.
    let sinfo = story.world.run_as("root", "sinfo", &["-h", "-N", "-o", "%N", "-p", "mixed"]);
    assert_eq!(sinfo.split_whitespace().collect::<Vec<_>>(), ["join-1", "join-2"]);

    story.kube.create(&gang("pair", 2)).await;
    let pods = story.bound("pair-", 2).await;
    let job = story.seated(&pods).await;
    // Two of a node's GPUs go with the network cards of their socket, because Slurm was told where they are.
    story.kube.delete(&gang("pair", 2)).await;
    story.slurm.reaches(job.id.0, BaseState::Cancelled).await;

    pool.nodes.restore(&["join-1".to_owned()]).await;
    pool.not_in_slurm("join-1", NO_ZOMBIES).await;
    pool.nodes.restore(&["join-2".to_owned()]).await;
    pool.not_in_slurm("join-2", NO_ZOMBIES).await;
    assert_eq!(pool.everything().await, before, "nodes that are not ours are as they were");
    end(story, pool).await;
}

#[tokio::test]
async fn labels_move_a_node_between_partitions() {
    let Some((story, pool)) = begin("labels", "").await else { return };
    pool.add("labels-1").await;
    pool.in_slurm("labels-1", "is in mixed", |node| node.partitions == ["mixed"]).await;
    let one = ["labels-1".to_owned()];
    pool.nodes.label(&one, POOL, "both").await;
    let node = pool
        .in_slurm("labels-1", "is in both", |node| node.partitions.iter().any(|p| p == "spare"))
        .await;
    assert!(node.partitions.iter().any(|p| p == "mixed"), "{:?}", node.partitions);
    says(&story, "labels-1", "True", "spare").await;
    pool.nodes.label(&one, "topology.kubernetes.io/zone", "us-east-1a").await;
    pool.in_slurm("labels-1", "has its zone", |node| {
        node.active_features.iter().any(|feature| feature == "us-east-1a")
    })
    .await;
    // Out of every pool: out of Slurm.
    pool.nodes.label(&one, POOL, "none").await;
    pool.not_in_slurm("labels-1", NO_ZOMBIES).await;
    end(story, pool).await;
}

#[tokio::test]
async fn a_cordon_is_ours_to_lift_and_an_administrators_drain_is_not() {
    let Some((story, pool)) = begin("cordon", "").await else { return };
    pool.add("cordon-1").await;
    pool.in_slurm("cordon-1", "is idle", |node| node.is("IDLE")).await;
    let cordon = |on: bool| {
        let part = json!({"spec": {"unschedulable": on}});
        let kube = story.kube.clone();
        async move { kube.patch_node("cordon-1", &part).await }
    };
    cordon(true).await;
    let node = pool.in_slurm("cordon-1", "is drained", |node| node.is("DRAIN")).await;
    assert_eq!(node.reason, format!("gangway/{}: cordoned in Kubernetes", story.cluster));
    says(&story, "cordon-1", "False", "cordoned in Kubernetes").await;
    cordon(false).await;
    pool.in_slurm("cordon-1", "is idle again", |node| !node.is("DRAIN")).await;

    cordon(true).await;
    pool.in_slurm("cordon-1", "is drained", |node| node.is("DRAIN")).await;
    pool.administrate("cordon-1", "DRAIN", Some("bad NIC")).await;
    cordon(false).await;
    says(&story, "cordon-1", "False", "bad NIC (slurm)").await;
    // Of the cordon nobody needs to be told; of what was done in Slurm somebody does.
    pool.administrate("cordon-1", "UNDRAIN", None).await;
    says(&story, "cordon-1", "True", "mixed").await;
    pool.administrate("cordon-1", "DRAIN", Some("bad NIC")).await;
    wait("an event says who drained it and why", SOON, async || {
        let events = story.kube.node_events("cordon-1").await;
        let told = ("SlurmDrained".to_owned(), "drained in Slurm: bad NIC (slurm)".to_owned());
        if events.contains(&told) { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    stays("the administrator's drain", Duration::from_secs(5), async || {
        match pool.find("cordon-1").await {
            Some(node) if node.is("DRAIN") && node.reason == "bad NIC" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    pool.administrate("cordon-1", "UNDRAIN", None).await;
    says(&story, "cordon-1", "True", "mixed").await;
    end(story, pool).await;
}

#[tokio::test]
async fn a_node_vanishes_under_a_running_gang() {
    let Some((story, pool)) = begin("vanish", "").await else { return };
    for name in ["vanish-1", "vanish-2"] {
        pool.add(name).await;
        pool.in_slurm(name, "is idle", |node| node.is("IDLE")).await;
    }
    story.kube.create(&gang("pair", 2)).await;
    let job = story.seated(&story.bound("pair-", 2).await).await;
    pool.nodes.restore(&["vanish-1".to_owned()]).await;
    pool.not_in_slurm("vanish-1", NO_ZOMBIES).await;
    let over = story.slurm.job(job.id.0).await;
    assert!(over.state.base != BaseState::Running || !over.nodes.contains("vanish-1"), "{over:?}");
    story.kube.delete(&gang("pair", 2)).await;
    // Nobody is there any more to end the pod on the node that is gone.
    story.kube.collect_pods("pair-").await;
    story.gone("pair-").await;
    end(story, pool).await;
}

#[tokio::test]
async fn a_node_vanishes_while_nobody_looks() {
    let Some((story, mut pool)) = begin("away", "").await else { return };
    for name in ["away-1", "away-2"] {
        pool.add(name).await;
        pool.in_slurm(name, "is idle", |node| node.is("IDLE")).await;
    }
    pool.controllers.kill();
    pool.nodes.restore(&["away-1".to_owned()]).await;
    pool.add("away-3").await;
    pool.controllers.start().await;
    pool.not_in_slurm("away-1", NO_ZOMBIES).await;
    pool.in_slurm("away-3", "is idle", |node| node.is("IDLE")).await;
    pool.in_slurm("away-2", "is as it was", |node| node.is("IDLE")).await;
    end(story, pool).await;
}

#[tokio::test]
async fn what_a_node_has_changes_under_a_running_gang() {
    let Some((story, pool)) = begin("capacity", "").await else { return };
    pool.add("capacity-1").await;
    pool.in_slurm("capacity-1", "is idle", |node| node.is("IDLE")).await;
    story.kube.create(&gang("one", 1)).await;
    let job = story.seated(&story.bound("one-", 1).await).await;
    // A GPU has fallen off the bus.
    let less = json!({"status": {"allocatable": {"nvidia.com/gpu": "7"}}});
    story.kube.patch_node_status("capacity-1", &less).await;
    pool.in_slurm("capacity-1", "takes nothing new", |node| {
        node.is("DRAIN") && node.reason.contains("registered anew: gres efa:32,gpu:h100:7")
    })
    .await;
    assert_eq!(story.slurm.job(job.id.0).await.state.base, BaseState::Running, "its gang goes on");
    story.kube.delete(&gang("one", 1)).await;
    pool.in_slurm("capacity-1", "has 7 GPUs", |node| {
        node.gres.contains("gpu:h100:7") && node.is("IDLE") && !node.is("DRAIN")
    })
    .await;
    end(story, pool).await;
}

#[tokio::test]
async fn a_node_that_is_not_ready_is_drained_then_down_then_back() {
    let Some((story, pool)) = begin("unready", "downAfterSeconds: 5").await else { return };
    // Nobody plays this node, so that it is as ready as we say.
    let labels = json!({POOL: "mixed", "type": "nobody"});
    let node = json!({"metadata": {"name": "unready-1", "labels": labels}});
    let ready = |status: &str| {
        json!({"status": {
            "allocatable": {"cpu": "8", "memory": "16Gi"}, "capacity": {"cpu": "8", "memory": "16Gi"},
            "conditions": [{"type": "Ready", "status": status, "reason": "Story", "message": "",
                            "lastHeartbeatTime": null, "lastTransitionTime": null}],
        }})
    };
    pool.nodes.add_as(&node).await;
    story.kube.patch_node_status("unready-1", &ready("True")).await;
    pool.in_slurm("unready-1", "is idle", |node| node.is("IDLE") && node.gres.is_empty()).await;
    story.kube.patch_node_status("unready-1", &ready("False")).await;
    pool.in_slurm("unready-1", "is drained", |node| node.is("DRAIN") && node.is("IDLE")).await;
    pool.in_slurm("unready-1", "is down", |node| node.is("DOWN")).await;
    says(&story, "unready-1", "False", "not ready in Kubernetes").await;
    story.kube.patch_node_status("unready-1", &ready("True")).await;
    pool.in_slurm("unready-1", "is back", |node| node.is("IDLE") && !node.is("DRAIN")).await;
    end(story, pool).await;
}

#[tokio::test]
async fn a_poisoned_node_that_is_empty_is_made_anew() {
    let Some((story, mut pool)) = begin("ill", "").await else { return };
    for name in ["ill-1", "ill-2"] {
        pool.add(name).await;
    }
    story.kube.create(&gang("one", 2)).await;
    let pods = story.bound("one-", 2).await;
    let job = story.seated(&pods).await;
    // Both are poisoned and then empty, one of them drained by an administrator, while nobody looks; and slurmctld
    // begins anew, so that it has nothing to repeat that would be answered.
    pool.controllers.kill();
    for node in ["ill-1", "ill-2"] {
        readdress(&story, node, DEAD).await;
    }
    story.slurm.client.stir(&job).await.expect("a signal is taken");
    for node in ["ill-1", "ill-2"] {
        is_silent(&story, node, true).await;
    }
    pool.administrate("ill-2", "DRAIN", Some("bad NIC")).await;
    story.kube.delete(&gang("one", 2)).await;
    story.gone("one-").await;
    story.nothing_lives(SOON).await;
    daemon(&story, &["restart", "slurmctld"]);
    answers(&story).await;
    is_silent(&story, "ill-1", true).await;
    pool.controllers.start().await;
    pool.in_slurm("ill-1", "is well", |node| node.is("IDLE") && !node.is("NOT_RESPONDING")).await;
    says(&story, "ill-1", "True", "in: mixed").await;
    // The administrator's drain outlives it, and what it holds back waits.
    let kept = pool.find("ill-2").await.expect("it is there");
    assert!(kept.is("DRAIN") && kept.is("NOT_RESPONDING") && kept.reason == "bad NIC", "{kept:?}");
    pool.administrate("ill-2", "UNDRAIN", None).await;
    pool.in_slurm("ill-2", "is well", |node| node.is("IDLE") && !node.is("NOT_RESPONDING")).await;
    end(story, pool).await;
}

#[tokio::test]
async fn slurms_own_nodes_of_the_same_name_are_left_alone() {
    let Some((story, pool)) = begin("foreign", "").await else { return };
    let conf =
        "NodeName=foreign-1 NodeAddr=127.0.0.1 State=EXTERNAL CPUs=4 RealMemory=100 Feature=mixed";
    story.slurm.client.create_node(conf).await.expect("an administrator may");
    pool.add("foreign-1").await;
    says(&story, "foreign-1", "Unknown", "not the bridge's").await;
    story.kube.patch_node("foreign-1", &json!({"spec": {"unschedulable": true}})).await;
    pool.nodes.restore(&["foreign-1".to_owned()]).await;
    stays("somebody else's node", Duration::from_secs(5), async || {
        match pool.find("foreign-1").await {
            Some(node) if !node.is("DRAIN") && node.cpus == 4 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    story.slurm.client.delete_node("foreign-1").await.expect("it is idle");
    end(story, pool).await;
}

#[tokio::test]
async fn a_host_with_slurmd_says_whose_jobs_are_on_it() {
    let Some((story, pool)) = begin("hosts", "").await else { return };
    let h1 = ["h1".to_owned()];
    pool.nodes.label(&h1, POOL, "hosts").await;
    says(&story, "h1", "True", "in: hybrid").await;
    let words = ["-p", "hybrid", "-w", "h1", "--gres=gpu:2", "--wrap", "sleep 300"];
    let id = story.slurm.sbatch("bob", &words);
    story.slurm.reaches(id, BaseState::Running).await;
    let tenants = "gangway.dev/slurm-jobs";
    wait("the node says who is on it", SOON, async || {
        let said = story.kube.node_annotation("h1", tenants).await.unwrap_or_default();
        let fits = said.starts_with(&format!("{id} bob ")) && said.contains("gpu");
        if fits { Ok(()) } else { Err(said) }
    })
    .await;
    // Shut here, shut there; the job that runs goes on.
    let cordon = |on: bool| json!({"spec": {"unschedulable": on}});
    story.kube.patch_node("h1", &cordon(true)).await;
    pool.in_slurm("h1", "takes nothing new", |node| node.is("DRAIN")).await;
    assert_eq!(story.slurm.job(id).await.state.base, BaseState::Running);
    story.kube.patch_node("h1", &cordon(false)).await;
    pool.in_slurm("h1", "is open again", |node| !node.is("DRAIN")).await;
    story.slurm.scancel("bob", id);
    wait("nobody is on it any more", SOON, async || {
        match story.kube.node_annotation("h1", tenants).await {
            None => Ok(()),
            Some(said) => Err(said),
        }
    })
    .await;
    end(story, pool).await;
}

/// A pod that somebody else has put there, with so many GPUs; it really runs where there is a kubelet.
fn stranger(story: &Story, name: &str, node: &str, gpus: u32) -> Value {
    let mut pod = manifest::pod(name, &manifest::template(gpus, &[]));
    pod["spec"]["schedulerName"] = json!("somebody-else");
    pod["spec"]["nodeName"] = json!(node);
    let container = &mut pod["spec"]["containers"][0];
    if story.world.kubelets().contains(&node) {
        container["image"] = json!(story.world.pod_image());
        container["imagePullPolicy"] = json!("Never");
        container["command"] = json!(["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"]);
    }
    pod
}

#[tokio::test]
async fn what_pods_take_of_a_host_beside_slurm_is_not_given_out_there() {
    let Some((story, mut pool)) = begin("beside", "").await else { return };
    pool.nodes.label(&["h1".to_owned()], POOL, "hosts").await;
    story.kube.create(&stranger(&story, "stranger", "h1", 2)).await;
    story.kube.create(&stranger(&story, "small", "h1", 0)).await;
    let own = format!("gangway-outside/{}/h1/", story.cluster);
    let holding = async |count: usize| {
        wait(&format!("{count} jobs hold what pods take"), SOON, async || {
            let jobs = story.slurm.client.jobs().await.expect("jobs can be listed");
            let live = jobs.into_iter().filter(|job| {
                job.admin_comment.starts_with(&own) && job.state.base == BaseState::Running
            });
            let live: Vec<_> = live.collect();
            // Nothing is left of a story that breaks off.
            live.iter().for_each(|job| story.slurm.adopt(job.id));
            if live.len() == count { Ok(live) } else { Err(format!("{live:?}")) }
        })
        .await
    };
    let held = holding(2).await;
    let tres: Vec<_> = held.iter().map(|job| job.tres_per_node.as_str()).collect();
    assert!(tres.contains(&"gres/efa:8,gres/gpu:2") && tres.contains(&""), "{tres:?}");
    let sbatch = |gpus: u32| {
        let gpus = format!("--gres=gpu:{gpus}");
        let words = ["-p", "hybrid", "-n1", "-c1", "--mem=100", "-w", "h1", &gpus];
        let sleep = ["--wrap", "sleep 300"];
        story.slurm.sbatch("bob", &[&words[..], &sleep].concat())
    };
    // Six are there for everybody, and eight are not.
    let six = sbatch(6);
    story.slurm.reaches(six, BaseState::Running).await;
    story.slurm.scancel("bob", six);
    story.slurm.reaches(six, BaseState::Cancelled).await;
    // Ended by hand: held anew.
    story.slurm.scancel("root", held[0].id.0);
    let held = holding(2).await;
    // Who drains the host does not wait for us, and what pods take is held again first of all.
    pool.administrate("h1", "DRAIN", Some("new fan")).await;
    pool.in_slurm("h1", "is empty", |node| node.is("IDLE") && node.is("DRAIN")).await;
    pool.administrate("h1", "RESUME", None).await;
    assert!(holding(2).await.iter().all(|job| held.iter().all(|old| old.id != job.id)));
    let held = holding(2).await;
    let eight = sbatch(8);
    stays("a job for all GPUs of the host waits", Duration::from_secs(3), async || {
        let job = story.slurm.job(eight).await;
        if job.state.base == BaseState::Pending { Ok(()) } else { Err(format!("{:?}", job.state)) }
    })
    .await;
    // A restart takes nothing twice; and the pod goes while nobody looks.
    pool.controllers.kill();
    pool.controllers.start().await;
    says(&story, "h1", "True", "in: hybrid").await;
    let after = holding(2).await;
    assert_eq!(
        after.iter().map(|j| j.id).collect::<Vec<_>>(),
        held.iter().map(|j| j.id).collect::<Vec<_>>()
    );
    pool.controllers.kill();
    story.kube.delete_pod("stranger").await;
    story.gone("stranger").await;
    pool.controllers.start().await;
    story.slurm.reaches(eight, BaseState::Running).await;
    assert_eq!(holding(1).await[0].tres_per_node, "", "the other pod is still there");
    story.kube.delete_pod("small").await;
    story.gone("small").await;
    holding(0).await;
    story.slurm.scancel("bob", eight);
    end(story, pool).await;
}
