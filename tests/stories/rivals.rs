//! Another bridge that believes it leads has made a placeholder of the same gang. Here the story plays that
//! bridge, so that things happen in an order that chance brings about only now and then.

use std::collections::BTreeMap;
use std::time::Duration;

use gangway_core::job::{BaseState, Component, GresRequest, Job, Options, PlaceholderRequest};
use gangway_core::names;
use gangway_core::place::ranges;
use gangway_core::placeholder::{Stamp, fingerprint};
use gangway_tests::{Fault, Faults, SOON, Story, World, audited, manifest, stays, wait};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod as KubePod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::PostParams;

/// Members of the gang, on one node, each with one GPU.
const MEMBERS: u32 = 4;

/// A story whose bridge has a placeholder for a gang, and whose first binding is kept back.
struct Scene {
    story: Story,
    proxy: Faults,
    gang: String,
    /// The bridge's placeholder.
    own: (Stamp, Job),
    /// The story's.
    rival: Job,
}

async fn begin(name: &str) -> Option<Scene> {
    let world = World::find()?;
    let proxy = Faults::before_kubernetes(&world.bridge_kubeconfig()).await;
    let kubeconfig = proxy.kubeconfig();
    let mut story = Story::prepare(name, |setup| setup.kubeconfig = Some(kubeconfig)).await?;
    story.bridge.start().await;
    proxy.hold(true);
    let packed = [("gangway.dev/pods-per-node", "4")];
    let job = manifest::indexed_job("gang", MEMBERS, &manifest::template(1, &packed));
    let gang = story.kube.create(&job).await;
    wait("the bridge is about to bind", SOON, async || {
        if proxy.count(Fault::Hold) > 0 { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    let live = story.slurm.live().await;
    let own = live.into_iter().find(|(stamp, _)| stamp.gang == gang).expect("a placeholder");
    let rival = allocate(&story, &own.0, MEMBERS).await;
    Some(Scene { story, proxy, gang, own, rival })
}

/// A placeholder as another bridge would make it: for so many members with a GPU each, on one node.
async fn allocate(story: &Story, stamp: &Stamp, members: u32) -> Job {
    let request = PlaceholderRequest {
        name: "rival".into(),
        user: "alice".into(),
        group: "alice".into(),
        account: Some("team1".into()),
        partition: "gangway".into(),
        qos: None,
        time_limit_minutes: None,
        components: vec![Component {
            key: stamp.to_text(),
            nodes: 1,
            tasks_per_node: members,
            cpus_per_task: 1,
            memory_per_node_mib: u64::from(256 * members),
            gres_per_node: [("gpu", members), ("efa", 4 * members)]
                .map(|(name, count)| GresRequest { name: name.into(), kind: None, count })
                .to_vec(),
            excluded_nodes: String::new(),
        }],
        options: Options::default(),
    };
    let id = story.slurm.client.allocate(&request).await.expect("there is room");
    let job = story.slurm.job(id.0).await;
    assert_eq!(job.state.base, BaseState::Running);
    job
}

impl Scene {
    /// Binds members for the rival, as another bridge would.
    async fn bind(&self, count: usize) {
        let node = self.rival.nodes.clone();
        let of = |gres: &'static str| self.story.slurm.devices(self.rival.id.0, gres);
        let (gpus, efas) = (of("gpu").await[&node].clone(), of("efa").await[&node].clone());
        for (rank, pod) in self.story.pods("gang-").await.into_iter().take(count).enumerate() {
            let annotations = BTreeMap::from([
                (names::GANG.to_owned(), self.gang.clone()),
                (names::GENERATION.to_owned(), "1".to_owned()),
                (names::JOB_ID.to_owned(), self.rival.id.to_string()),
                (names::NODE.to_owned(), node.clone()),
                (names::RANK.to_owned(), rank.to_string()),
                (format!("{}gpu", names::INDEX_PREFIX), ranges(&gpus[rank..=rank])),
                (format!("{}efa", names::INDEX_PREFIX), ranges(&efas[4 * rank..4 * rank + 4])),
            ]);
            let label = BTreeMap::from([(names::JOB_LABEL.to_owned(), self.rival.id.to_string())]);
            let binding = Binding {
                metadata: ObjectMeta {
                    name: Some(pod.name.clone()),
                    uid: Some(pod.uid.clone()),
                    annotations: Some(annotations),
                    labels: Some(label),
                    ..ObjectMeta::default()
                },
                target: ObjectReference {
                    kind: Some("Node".to_owned()),
                    name: Some(node.clone()),
                    ..ObjectReference::default()
                },
            };
            let (api, how) = (self.story.kube.api::<KubePod>(), PostParams::default());
            let bound: Result<Status, _> =
                api.create_subresource("binding", &pod.name, &how, &binding).await;
            bound.expect("the API server takes the binding");
        }
    }

    /// The gang is where the rival put it, the bridge's own placeholder has ended, and nobody was evicted.
    async fn end(self) {
        let Self { story, proxy: _proxy, gang, own, rival } = self;
        story.slurm.reaches(own.1.id.0, BaseState::Cancelled).await;
        let pods = story.bound("gang-", MEMBERS as usize).await;
        assert_eq!(story.seated(&pods).await.id, rival.id);
        stays("they stay", Duration::from_secs(3), async || {
            let now = story.pods("gang-").await;
            let same = now.iter().map(|p| &p.uid).eq(pods.iter().map(|p| &p.uid));
            let live = story.slurm.live().await;
            let one = live.iter().filter(|(stamp, _)| stamp.gang == gang).count() == 1;
            if same && one && now.iter().all(|p| !p.deleting) {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        })
        .await;
        let evictions = audited(story.world, &story.cluster, |asked| {
            asked.namespace == story.cluster && asked.what == "pods/eviction"
        });
        assert!(evictions.is_empty(), "{evictions:?}");
        // The rival's placeholder is the gang's now, and ends with it.
        story.end().await;
    }
}

#[tokio::test]
async fn whoever_binds_the_first_member_has_decided() {
    let Some(scene) = begin("rival-votes").await else { return };
    scene.bind(1).await;
    // The bridge's bindings come too late, all of them.
    scene.proxy.hold(false);
    scene.end().await;
}

#[tokio::test]
async fn the_end_of_the_one_too_many_is_not_that_of_the_pods() {
    let Some(scene) = begin("rival-ends").await else { return };
    // The bridge does not see that its pods are bound for another placeholder than its own ...
    scene.proxy.stall(true);
    scene.bind(MEMBERS as usize).await;
    // ... when whoever did that ends the bridge's.
    let slurm = &scene.story.slurm;
    slurm.client.cancel(scene.own.1.id).await.expect("Slurm cancels it");
    slurm.reaches(scene.own.1.id.0, BaseState::Cancelled).await;
    scene.proxy.hold(false);
    stays("the pods stay", Duration::from_secs(4), async || {
        let pods = scene.story.pods("gang-").await;
        let all = pods.len() == MEMBERS as usize && pods.iter().all(|pod| !pod.deleting);
        if all { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    scene.proxy.stall(false);
    scene.end().await;
}

/// A bridge whose pod watch is behind takes another's new gang for one without pods.
#[tokio::test]
async fn a_gang_that_is_not_seen_yet_is_not_swept() {
    let Some(world) = World::find() else { return };
    let proxy = Faults::before_kubernetes(&world.bridge_kubeconfig()).await;
    let kubeconfig = proxy.kubeconfig();
    let differ = |setup: &mut gangway_tests::Setup| setup.kubeconfig = Some(kubeconfig);
    let Some(mut story) = Story::prepare("rival-unseen", differ).await else { return };
    story.bridge.start().await;
    let template = manifest::template(1, &[]);
    story.kube.create(&manifest::pod("seen", &template)).await;
    let seen = story.seated(&story.bound("seen", 1).await).await;

    proxy.stall(true);
    let uid = story.kube.create(&manifest::pod("unseen", &template)).await;
    let pods = fingerprint([uid.as_str()]);
    let stamp =
        Stamp { cluster: story.cluster.clone(), gang: uid, generation: 1, pods, part: None };
    let rival = allocate(&story, &stamp, 1).await;
    // An end that the bridge did not bring about has it list all jobs: so it comes to know the rival's. Where it
    // hears of the end from a question of its own, it knows with its next list, which comes within a minute.
    story.slurm.scancel("alice", seen.id.0);
    wait("the bridge finds that its watch is behind", SOON * 2, async || {
        let log = story.bridge.tail(200);
        if log.contains("the pod watch is behind") { Ok(()) } else { Err(story.bridge.tail(3)) }
    })
    .await;
    stays("the rival's placeholder stays", Duration::from_secs(5), async || {
        let state = story.slurm.job(rival.id.0).await.state;
        if state.base == BaseState::Running { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
    proxy.stall(false);
    let pods = story.bound("unseen", 1).await;
    assert_eq!(story.seated(&pods).await.id, rival.id, "the gang has it");
    story.end().await;
}

/// Another bridge gives a placeholder back because its pods have finished; this one's watch is behind, and
/// shows them running.
#[tokio::test]
async fn pods_that_have_finished_are_not_evicted_when_their_placeholder_is_given_back() {
    let Some(world) = World::find() else { return };
    let proxy = Faults::before_kubernetes(&world.bridge_kubeconfig()).await;
    let kubeconfig = proxy.kubeconfig();
    let differ = |setup: &mut gangway_tests::Setup| setup.kubeconfig = Some(kubeconfig);
    let Some(mut story) = Story::prepare("rival-finished", differ).await else { return };
    story.bridge.start().await;
    story.kube.create(&manifest::pod("done", &manifest::template(1, &[]))).await;
    let job = story.seated(&story.bound("done", 1).await).await;
    let phase = async |wanted: &str| {
        wait(&format!("it is {wanted}"), SOON, async || {
            let pod = story.kube.pod("done").await;
            if pod.phase == wanted { Ok(()) } else { Err(pod.phase) }
        })
        .await;
    };
    phase("Running").await;
    proxy.stall(true);
    let exit = serde_json::json!({"metadata": {"annotations": {"world.gangway.dev/exit": "0"}}});
    story.kube.patch_pod("done", &exit).await;
    phase("Succeeded").await;
    story.slurm.client.cancel(job.id).await.expect("Slurm cancels it");
    wait("the bridge sees that it has ended", SOON, async || {
        let log = story.bridge.tail(200);
        if log.contains("has ended by itself") { Ok(()) } else { Err(story.bridge.tail(3)) }
    })
    .await;
    proxy.stall(false);
    stays("it stays", Duration::from_secs(2), async || {
        let pods = story.pods("done").await;
        let there = pods.len() == 1 && pods.iter().all(|p| !p.deleting && p.phase == "Succeeded");
        if there { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    story.end().await;
}
