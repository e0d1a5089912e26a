//! Points that have nothing to do with the size of a gang: of the Lease, of poisoned nodes, of `gangway extender`
//! and of `gangway prolog`. Told of one gang of one.

use gangway_core::job::BaseState;
use gangway_tests::{KubeScheduler, SOON, Terms, wait};
use k8s_openapi::api::core::v1::Pod as KubePod;
use serde_json::json;

use super::lane::Lane;
use super::{block, unblock};
use crate::poison::{DEAD, is_silent, readdress};
use crate::prolog::{Prolog, sbatch, started};

/// Whether a point is told here.
pub(super) fn is_told(point: &str) -> bool {
    ["lease.", "heal.", "extender.", "prolog."].iter().any(|of| point.starts_with(of))
}

pub(super) async fn all(lane: &mut Lane<'_>) {
    lease(lane).await;
    healing(lane).await;
    lane.set_up(|_| {});
    extender(lane).await;
    prolog(lane).await;
}

/// The Lease is ours, and nobody is there to act on it: it runs out.
async fn lease(lane: &mut Lane<'_>) {
    let name = format!("story-{}", lane.story.cluster);
    let more = format!("leaderElection: {{ enabled: true, name: {name}, leaseSeconds: 3 }}\n");
    lane.set_up(|setup| setup.more.push_str(&more));
    let gang = lane.gang(&[], |_| {}).await;
    lane.die("lease.written").await;
    lane.start();
    lane.bound(&gang).await;
    lane.over(&gang).await;
}

/// A node is poisoned under a gang, and whoever is about to heal it dies twice.
async fn healing(lane: &mut Lane<'_>) {
    let sink = "sink: { address: 127.0.0.1, partitions: [gangway] }";
    lane.set_up(|setup| setup.slurm = sink.to_owned());
    let gang = lane.gang(&[], |_| {}).await;
    lane.start();
    let id = lane.bound(&gang).await;
    lane.story.bridge.kill();
    let job = lane.story.slurm.job(id.0).await;
    let node = lane.story.pods(&gang.name).await[0].node.clone().expect("it is bound");
    readdress(&lane.story, &node, DEAD).await;
    lane.story.slurm.client.stir(&job).await.expect("a signal is taken");
    is_silent(&lane.story, &node, true).await;
    lane.die("heal.readdressed").await;
    lane.die("heal.stirred").await;
    lane.start();
    is_silent(&lane.story, &node, false).await;
    lane.bound(&gang).await;
    lane.over(&gang).await;
}

/// The extender has told kube-scheduler to look again, and is not there when it does.
async fn extender(lane: &mut Lane<'_>) {
    lane.start();
    lane.story.bridge.wait_ready().await;
    let mut stock = KubeScheduler::begin(&lane.story, &Terms::default()).await;
    stock.kill_extender();
    stock.arm_extender("extender.touched");
    stock.start_extender().await;
    let stocks = KubeScheduler::template(&json!({"spec": {}}));
    let profile = stocks["spec"]["schedulerName"].clone();
    // It waits, so that kube-scheduler has been told to wait before there is room.
    let blocker = block(&lane.story, 16).await;
    let gang = lane.gang(&[], |pod| pod["spec"]["schedulerName"] = profile.clone()).await;
    let pods = lane.story.kube.api::<KubePod>();
    wait("kube-scheduler has no node for it", SOON, async || {
        let pod = pods.get(&format!("{}0", gang.name)).await.map_err(|error| error.to_string())?;
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        let waits = conditions.iter().any(|c| c.type_ == "PodScheduled" && c.status == "False");
        if waits { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
    unblock(&lane.story, blocker).await;
    stock.extender_dies("extender.touched").await;
    lane.died.insert("extender.touched".to_owned());
    stock.start_extender().await;
    lane.bound(&gang).await;
    lane.over(&gang).await;
}

/// A prolog that dies lets nobody start: slurmd drains the node, and the job waits for a better one.
async fn prolog(lane: &mut Lane<'_>) {
    let story = &lane.story;
    let at = "prolog.looked";
    let armed = Prolog::with(story, &format!("GANGWAY_CRASH_AT={at}"), "--deadline 120");
    let id = sbatch(story, 4);
    wait("slurmd drains the node", SOON, async || {
        let node = story.slurm.client.node("h1").await.expect("h1 can be read").expect("h1");
        if node.is("DRAIN") { Ok(()) } else { Err(format!("{:?}", node.state)) }
    })
    .await;
    let log = story.world.shared().join("logs/slurm-host/slurm/prolog.h1.log");
    assert_eq!(started(story, id), None, "its script never ran; see {}", log.display());
    drop(armed);
    let _well = Prolog::with(story, "", "--deadline 120");
    story.slurm.reaches(id, BaseState::Pending).await;
    story.world.run_as("root", "scontrol", &["update", "node=h1", "state=resume"]);
    // Slurm lets a job that was requeued so wait for two minutes; the next one is as good.
    let next = sbatch(story, 4);
    wait("the script of the next one starts", SOON, async || {
        started(story, next).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    for id in [id, next] {
        story.slurm.scancel("alice", id);
        story.slurm.reaches(id, BaseState::Cancelled).await;
    }
    lane.died.insert(at.to_owned());
}
