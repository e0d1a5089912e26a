//! The other door: a stock kube-scheduler keeps its plugins and lets Slurm choose the nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gangway_core::job::{BaseState, Standing};
use gangway_core::names;
use gangway_tests::{KubeScheduler, Pod, SOON, Story, Terms, manifest, stays, wait};
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim as Claim, Pod as KubePod,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::door::Trust;

fn template(gpus: u32) -> Value {
    KubeScheduler::template(&manifest::template(gpus, &[]))
}

/// Who wrote what about the story's pods, by user agent's account and verb.
fn writes(story: &Story, prefix: &str) -> BTreeMap<String, usize> {
    let log = std::fs::read_to_string(story.world.audit_log()).expect("the audit log can be read");
    let mut found = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(&story.cluster)) {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        if text("/objectRef/resource") == "pods"
            && text("/objectRef/namespace") == story.cluster
            && text("/objectRef/name").starts_with(prefix)
            && ["create", "patch", "update"].contains(&text("/verb"))
            && !text("/objectRef/subresource").is_empty()
            && !text("/userAgent").starts_with("kwok")
        {
            let who = text("/user/username").rsplit(':').next().unwrap_or_default().to_owned();
            let what = format!("{who} {} {}", text("/verb"), text("/objectRef/subresource"));
            *found.entry(what).or_default() += 1;
        }
    }
    found
}

/// A gang of eight, with names and with whole nodes on the wire.
async fn places_a_gang_of_eight(name: &str, node_cache_capable: bool) {
    let Some(story) = Story::begin(name).await else { return };
    let terms = Terms { node_cache_capable, ..Terms::default() };
    let stock = KubeScheduler::begin(&story, &terms).await;
    let job = manifest::pytorchjob("train", 7, &template(8));
    let began = Instant::now();
    story.kube.create(&job).await;
    let pods = story.bound("train-", 8).await;
    story.note(&format!("8 pods bound {:?} after the PyTorchJob was created", began.elapsed()));

    story.seated(&pods).await;
    let mut nodes: Vec<_> = pods.iter().filter_map(|pod| pod.node.clone()).collect();
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 8, "eight nodes: {nodes:?}");
    for pod in &pods {
        let indexes = |gres: &str| {
            pod.annotations.get(&format!("{}{gres}", names::INDEX_PREFIX)).map(String::as_str)
        };
        assert_eq!(indexes("gpu"), Some("0-7"), "{}", pod.name);
        assert_eq!(indexes("efa"), Some("0-31"), "{}", pod.name);
        let index: Option<u32> =
            pod.name.strip_prefix("train-worker-").and_then(|i| i.parse().ok());
        assert_eq!(pod.rank(), index.map_or(0, |i| i + 1), "{}", pod.name);
    }
    let series = |answer: &str| format!("gangway_extender_answers_total{{answer=\"{answer}\"");
    // A pod is bound before the extender has heard so, and counted after that.
    let counted = series("bound") + ",verb=\"bind\"}";
    wait("eight bindings are counted", SOON, async || {
        let bound = stock.series(&counted).await;
        if (bound - 8.0).abs() < 0.1 { Ok(()) } else { Err(format!("{bound} are")) }
    })
    .await;
    let bindings = writes(&story, "train-");
    story.note(&format!("writes: {bindings:?}"));
    assert_eq!(bindings.get("gangway-extender create binding"), Some(&8), "{bindings:?}");
    assert_eq!(bindings.get("admin create binding"), None, "kube-scheduler itself bound none");

    story.kube.delete(&job).await;
    story.gone("train-").await;
    story.nothing_lives(SOON).await;
    stock.end(story).await;
}

#[tokio::test]
async fn a_gang_goes_where_slurm_says_by_node_names() {
    places_a_gang_of_eight("stock-names", true).await;
}

#[tokio::test]
async fn a_gang_goes_where_slurm_says_by_whole_nodes() {
    places_a_gang_of_eight("stock-nodes", false).await;
}

/// Fills the partition through the bridge's own door; gives the job that does it.
async fn fill(story: &Story) -> Value {
    let room = story.room().await;
    let large = manifest::indexed_job("large", room, &manifest::template(8, &[]));
    story.kube.create(&large).await;
    story.bound("large-", room as usize).await;
    large
}

/// Waits until Slurm runs the placeholder of a gang, and gives its id.
async fn runs(story: &Story, uid: &str) -> u32 {
    wait("Slurm runs the placeholder", SOON, async || {
        let live = story.slurm.live().await;
        let own = live.iter().find(|(stamp, _)| stamp.gang == uid);
        let held = own.filter(|(_, job)| job.state.standing() == Standing::Holding);
        held.map(|(_, job)| job.id.0).ok_or_else(|| format!("{live:?}"))
    })
    .await
}

#[tokio::test]
async fn a_gang_that_waits_tells_slurms_reason_and_is_woken_when_there_is_room() {
    let Some(story) = Story::begin("stock-waits").await else { return };
    let stock = KubeScheduler::begin(&story, &Terms::default()).await;
    let large = fill(&story).await;
    let uid = story.kube.create(&manifest::indexed_job("small", 4, &template(8))).await;
    // All nodes are full for kube-scheduler's own plugins too, so only the condition can tell.
    let pods = wait("the pods tell Slurm's reason", SOON, async || {
        let pods = story.kube.api::<KubePod>().list(&Default::default()).await.expect("pods").items;
        let told = |pod: &KubePod| {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            let own = conditions.iter().find(|c| c.type_ == names::CONDITION)?;
            Some((own.status.clone(), own.reason.clone()?, own.message.clone()?))
        };
        let small = |pod: &&KubePod| {
            pod.metadata.name.as_ref().is_some_and(|name| name.starts_with("small-"))
        };
        let told: Vec<_> = pods.iter().filter(small).filter_map(told).collect();
        let well = |(status, reason, message): &(String, String, String)| {
            status == "False" && reason == "Queued" && message.contains("Slurm job")
        };
        if told.len() == 4 && told.iter().all(well) { Ok(told) } else { Err(format!("{told:?}")) }
    })
    .await;
    story.note(&format!("told: {}", pods[0].2));

    story.kube.delete(&large).await;
    let id = runs(&story, &uid).await;
    let started = Instant::now();
    let bound = story.bound("small-", 4).await;
    story.note(&format!("4 pods bound {:?} after Slurm's start was seen", started.elapsed()));
    assert_eq!(story.seated(&bound).await.id.0, id);
    stock.end(story).await;
}

/// A gang that Slurm does not run yet although Kubernetes has room: its limit is in Slurm alone.
async fn held(story: &Story, name: &str, members: u32) -> String {
    // Two nodes each in partition spare: the second gang waits for the first's placeholder, whose
    // pods ask for nothing that kube-scheduler counts against the second.
    story.kube.create(&manifest::indexed_job(name, members, &template(8))).await
}

#[tokio::test]
async fn kube_schedulers_own_condition_carries_the_reason_and_nothing_is_preempted() {
    let Some(story) = Story::begin("stock-reason").await else { return };
    let stock = KubeScheduler::begin(&story, &Terms::default()).await;
    let room = story.room().await;
    // More nodes than the partition has: kube-scheduler would find a place for every single pod.
    held(&story, "huge", room + 1).await;
    // Those far behind may be told no more than where to look.
    story.told("huge-", "Slurm job ").await;
    let pods = story.told("huge-0-", "in partition gangway: Partition").await;
    let why = pods[0].why();
    story.note(&why);
    assert!(why.contains("Unschedulable") && why.contains("Slurm"), "{why}");
    let settled = wait("kube-scheduler has let go", SOON, async || {
        let before = stock.series(NONE).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = stock.series(NONE).await;
        if (before - after).abs() < 0.1 { Ok(after) } else { Err(format!("{before} {after}")) }
    });
    let asked = settled.await;
    let members = f64::from(room + 1);
    story.note(&format!("{:.1} questions per waiting pod, then none", asked / members));
    let bindings = writes(&story, "huge-");
    story.note(&format!("writes for {members} waiting pods: {bindings:?}"));
    let written = |what: &str| bindings.get(what).copied().unwrap_or(0);
    assert!(written("gangway-extender patch status") <= 2 * (room as usize + 1), "{bindings:?}");
    stock.end(story).await;
}

const NONE: &str = "gangway_extender_answers_total{answer=\"none\",verb=\"filter\"}";

/// What an external provisioner would do, once kube-scheduler has chosen the node.
async fn provision(story: &Story, claim: &str, class: &str) -> String {
    let claims: Api<Claim> = story.kube.api();
    let selected = "volume.kubernetes.io/selected-node";
    let (uid, node) = wait("kube-scheduler selects a node for the claim", SOON, async || {
        let claim = claims.get(claim).await.expect("the claim is there").metadata;
        let node = claim.annotations.as_ref().and_then(|all| all.get(selected)).cloned();
        node.map(|node| (claim.uid.unwrap_or_default(), node)).ok_or_else(|| "none".to_owned())
    })
    .await;
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": format!("{class}-{claim}")},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": class,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim,
                "namespace": story.cluster, "uid": uid,
            },
            "hostPath": {"path": "/none"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
    });
    let volume: PersistentVolume = serde_json::from_value(volume).expect("a volume");
    let volumes: Api<PersistentVolume> = Api::all(story.kube.client.clone());
    volumes.create(&PostParams::default(), &volume).await.expect("the volume is made");
    node
}

#[tokio::test]
async fn a_volume_that_waits_for_its_first_consumer_is_made_on_slurms_node() {
    let Some(story) = Story::begin("stock-volume").await else { return };
    let stock = KubeScheduler::begin(&story, &Terms::default()).await;
    let class = story.cluster.clone();
    let classes: Api<StorageClass> = Api::all(story.kube.client.clone());
    let wait_for_consumer: StorageClass = serde_json::from_value(json!({
        "metadata": {"name": class},
        "provisioner": "stories.gangway.dev/by-hand",
        "volumeBindingMode": "WaitForFirstConsumer",
    }))
    .expect("a class");
    classes.create(&PostParams::default(), &wait_for_consumer).await.expect("the class is made");
    for name in ["data-a", "data-b"] {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        story.kube.create(&claim).await;
    }
    // A gang of two, each with its volume: one volume alone binds nobody.
    story.kube.create(&manifest::pod_group("pair", 2)).await;
    for (pod, claim) in [("pair-a", "data-a"), ("pair-b", "data-b")] {
        let mut pod = manifest::pod_of_group(pod, "pair", &template(8));
        pod["spec"]["volumes"] =
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
        story.kube.create(&pod).await;
    }
    let first = provision(&story, "data-a", &class).await;
    let nobody = async || {
        let pods = story.pods("pair-").await;
        if pods.iter().all(|pod| pod.node.is_none()) { Ok(()) } else { Err(format!("{pods:?}")) }
    };
    stays("nobody is bound before the whole gang can be", Duration::from_secs(2), nobody).await;
    let second = provision(&story, "data-b", &class).await;
    let pods = story.bound("pair-", 2).await;
    story.seated(&pods).await;
    let node = |name: &str| pods.iter().find(|pod| pod.name == name).and_then(|p| p.node.clone());
    assert_eq!((node("pair-a"), node("pair-b")), (Some(first), Some(second)));

    let log = std::fs::read_to_string(story.world.audit_log()).expect("the audit log can be read");
    let ours = log.lines().filter(|line| {
        line.contains(&story.cluster)
            && line.contains("\"resource\":\"persistentvolumeclaims\"")
            && line.contains("gangway-extender")
            && (line.contains("\"verb\":\"patch\"") || line.contains("\"verb\":\"update\""))
    });
    assert_eq!(ours.count(), 0, "the claims are kube-scheduler's");

    let volumes: Api<PersistentVolume> = Api::all(story.kube.client.clone());
    for claim in ["data-a", "data-b"] {
        let name = format!("{class}-{claim}");
        volumes.delete(&name, &DeleteParams::default()).await.expect("the volume is ours");
    }
    classes.delete(&class, &DeleteParams::default()).await.expect("the class is ours");
    stock.end(story).await;
}

/// Pods that keep a port on every node of the partition, put there past every scheduler.
async fn block_the_port(story: &Story) {
    for i in 1..=story.room().await {
        let mut pod = manifest::pod(&format!("port-{i}"), &template(0));
        pod["spec"]["nodeName"] = json!(format!("p5-{i:04}"));
        pod["spec"]["schedulerName"] = json!("default-scheduler");
        pod["spec"]["containers"][0]["ports"] = port();
        story.kube.create(&pod).await;
    }
}

fn port() -> Value {
    json!([{"containerPort": 7777, "hostPort": 7777}])
}

#[tokio::test]
async fn an_allocation_that_kube_scheduler_does_not_take_goes_back_with_the_reason() {
    let Some(story) = Story::begin("stock-untaken").await else { return };
    let terms = Terms { take_up_seconds: 6, ..Terms::default() };
    let stock = KubeScheduler::begin(&story, &terms).await;
    block_the_port(&story).await;
    story.kube.create(&manifest::pod_group("pair", 2)).await;
    let free = manifest::pod_of_group("pair-free", "pair", &template(8));
    let mut blocked = manifest::pod_of_group("pair-blocked", "pair", &template(8));
    blocked["spec"]["containers"][0]["ports"] = port();
    story.kube.create(&free).await;
    story.kube.create(&blocked).await;
    let id = wait("Slurm gives the pair its nodes", SOON, async || {
        let live = story.slurm.live().await;
        let own = live.iter().find(|(_, job)| job.state.base == BaseState::Running);
        own.map(|(_, job)| job.id.0).ok_or_else(|| format!("{live:?}"))
    })
    .await;
    let told = async || {
        let pods = story.pods("pair-").await;
        assert!(pods.iter().all(|pod| pod.node.is_none()), "none or all: {pods:?}");
        let why = pods.iter().find(|pod| pod.name == "pair-blocked").map(Pod::why);
        let why = why.unwrap_or_else(|| "it is gone".to_owned());
        if why.contains("Slurm gave node p5-") { Ok(why) } else { Err(why) }
    };
    let why = wait("the blocked pod tells where it cannot go", SOON, told).await;
    story.note(&why);
    assert!(why.contains("free ports"), "and kube-scheduler's own reason: {why}");

    let gone = async || {
        let pods = story.pods("pair-").await;
        assert!(pods.iter().all(|pod| pod.node.is_none()), "none or all: {pods:?}");
        if pods.is_empty() { Ok(()) } else { Err(format!("{} are there", pods.len())) }
    };
    wait("the pair leaves", SOON, gone).await;
    story.slurm.reaches(id, BaseState::Cancelled).await;
    let events = story.kube.events().await;
    let evicted: Vec<_> = events.iter().filter(|event| event.reason == "Evicted").collect();
    assert!(!evicted.is_empty(), "{events:?}");
    for event in evicted {
        assert!(event.message.contains("pair-blocked did not take node p5-"), "{event:?}");
        assert!(event.message.contains("own plugins reject"), "{event:?}");
    }
    for event in events.iter().filter(|event| event.reason == "Evicted").take(1) {
        story.note(&event.message);
    }
    stock.end(story).await;
}

#[tokio::test]
async fn the_extender_may_die_at_any_time() {
    let Some(story) = Story::begin("stock-restart").await else { return };
    let mut stock = KubeScheduler::begin(&story, &Terms::default()).await;
    let large = fill(&story).await;
    let job = manifest::indexed_job("small", 4, &template(8));
    let uid = story.kube.create(&job).await;
    wait("the gang is in Slurm's queue", SOON, async || {
        let live = story.slurm.live().await;
        if live.iter().any(|(stamp, _)| stamp.gang == uid) { Ok(()) } else { Err(String::new()) }
    })
    .await;
    stock.kill_extender();
    story.kube.delete(&large).await;
    let id = runs(&story, &uid).await;
    stock.start_extender().await;
    let began = Instant::now();
    let pods = story.bound("small-", 4).await;
    story.note(&format!("4 pods bound {:?} after the extender was back", began.elapsed()));
    assert_eq!(story.seated(&pods).await.id.0, id, "the same placeholder");

    stock.kill_extender();
    story.kube.delete(&job).await;
    story.gone("small-").await;
    assert_eq!(story.slurm.job(id).await.state.base, BaseState::Running);
    stock.start_extender().await;
    story.slurm.reaches(id, BaseState::Cancelled).await;

    // kube-scheduler dies too, and what waited is bound by the next one.
    stock.kill_scheduler();
    story.kube.create(&manifest::indexed_job("late", 2, &template(8))).await;
    let late = wait("Slurm gives the late gang its nodes", SOON, async || {
        let live = story.slurm.live().await;
        if live.len() == 1 { Ok(live[0].1.id) } else { Err(format!("{live:?}")) }
    })
    .await;
    stock.start_scheduler();
    let pods = story.bound("late-", 2).await;
    assert_eq!(story.seated(&pods).await.id, late);
    stock.end(story).await;
}

#[tokio::test]
async fn without_the_door_everything_stays_and_says_so() {
    let Some(mut story) = Story::begin("stock-door").await else { return };
    let stock = KubeScheduler::begin(&story, &Terms::default()).await;
    story.kube.create(&manifest::indexed_job("first", 2, &template(8))).await;
    let first = story.bound("first-", 2).await;
    let id = story.seated(&first).await.id;
    story.bridge.kill();
    wait("the extender is not ready", SOON, async || match stock.readyz().await {
        Some((503, text)) if text.contains("door") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    story.kube.create(&manifest::indexed_job("second", 2, &template(8))).await;
    let pods = story.told("second-", "does not answer").await;
    story.note(&pods[0].why());
    let as_it_was = async || {
        let pods = story.pods("first-").await;
        let stays = pods.len() == 2 && pods.iter().all(|p| p.node.is_some() && !p.deleting);
        if stays { Ok(()) } else { Err(format!("{pods:?}")) }
    };
    stays("the first gang is left alone", Duration::from_secs(3), as_it_was).await;
    story.bridge.start().await;
    let second = story.bound("second-", 2).await;
    story.seated(&second).await;
    assert_eq!(story.seated(&story.pods("first-").await).await.id, id);
    stock.end(story).await;
}

#[tokio::test]
async fn both_doors_stand_side_by_side_and_share_no_device() {
    let Some(story) = Story::begin("stock-beside").await else { return };
    let stock = KubeScheduler::begin(&story, &Terms::default()).await;
    // Partition spare has two nodes; both are taken, so whoever comes next gets the same devices.
    let spare = manifest::template(8, &[("gangway.dev/partition", "spare")]);
    let mut held = KubeScheduler::template(&spare);
    held["metadata"]["finalizers"] = json!(["gangway.dev/story-holds"]);
    story.kube.create(&manifest::pod_group("old", 2)).await;
    for name in ["old-a", "old-b"] {
        story.kube.create(&manifest::pod_of_group(name, "old", &held)).await;
    }
    let old = story.seated(&story.bound("old-", 2).await).await;
    story.kube.create(&manifest::indexed_job("other", 2, &manifest::template(8, &[]))).await;
    let other = story.seated(&story.bound("other-", 2).await).await;
    let both = async || {
        let alive = async |id: u32| story.slurm.job(id).await.state.base == BaseState::Running;
        let well = alive(old.id.0).await && alive(other.id.0).await;
        if well { Ok(()) } else { Err("one has ended the other's placeholder".to_owned()) }
    };
    // Either sweeps every two seconds what it does not know, twice seen.
    stays("both placeholders live", Duration::from_secs(6), both).await;

    story.slurm.scancel("alice", old.id.0);
    wait("the old pods are on their way out", SOON, async || {
        let pods = story.pods("old-").await;
        if pods.iter().all(|pod| pod.deleting) { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    // The bridge binds past kube-scheduler, which knows that the devices are held.
    let uid = story.kube.create(&manifest::indexed_job("new", 2, &spare)).await;
    let id = wait("Slurm gives the freed nodes to the new gang", SOON, async || {
        let live = story.slurm.live().await;
        let held = live
            .iter()
            .find(|(stamp, job)| stamp.gang == uid && job.state.standing() == Standing::Holding);
        held.map(|(_, job)| job.id).ok_or_else(|| format!("{live:?}"))
    })
    .await;
    let pods = story.told("new-", "still holds a device").await;
    assert!(pods[0].why().contains("old-"), "{} names the pod", pods[0].why());
    assert!(pods.iter().all(|pod| pod.node.is_none()), "{pods:?}");
    for name in ["old-a", "old-b"] {
        story.kube.patch_pod(name, &json!({"metadata": {"finalizers": null}})).await;
    }
    assert_eq!(story.seated(&story.bound("new-", 2).await).await.id, id);
    stock.end(story).await;
}

#[tokio::test]
async fn with_certificates_only_their_owners_get_in() {
    let trust = Trust::new();
    let files = std::env::temp_dir().join(format!("gangway-stock-tls-{}", std::process::id()));
    std::fs::create_dir_all(&files).expect("the temporary directory can be written");
    let file = |name: &str, text: &str| {
        let path = files.join(name);
        std::fs::write(&path, text).expect("the temporary directory can be written");
        path.display().to_string()
    };
    let ca = file("ca.crt", &trust.pem());
    let pair = |name: &str| {
        let (certificate, key) = trust.sign(&["localhost", "127.0.0.1"]);
        (file(&format!("{name}.crt"), &certificate), file(&format!("{name}.key"), &key))
    };
    let (certificate, key) = pair("server");
    let server =
        format!("tls: {{ certificate: '{certificate}', key: '{key}', clientCA: '{ca}' }}\n");
    let story = Story::prepare("stock-tls", |setup| setup.more.clone_from(&server)).await;
    let Some(mut story) = story else { return };
    story.bridge.start().await;
    let (client, client_key) = pair("client");
    let door = format!(
        "door: {{ url: 'https://localhost:{}', certificate: '{client}', key: '{client_key}', ca: '{ca}' }}\n",
        story.bridge.grpc
    );
    // With an election too, as two replicas would hold it.
    let election = format!("leaderElection: {{ enabled: true, name: {} }}\n", story.cluster);
    let terms = Terms {
        more: door + &server + &election,
        scheme: "https",
        tls: json!({"certFile": client, "keyFile": client_key, "caFile": ca}),
        ..Terms::default()
    };
    let stock = KubeScheduler::begin(&story, &terms).await;
    story.kube.create(&manifest::indexed_job("pair", 2, &template(8))).await;
    story.seated(&story.bound("pair-", 2).await).await;
    assert_eq!(gangway_tests::http::get(stock.http, "/healthz").await, None, "without TLS");
    let mine = knock(stock.http, &ca, Some((&client, &client_key))).await;
    assert!(matches!(&mine, kube::Error::Api(status) if status.code == 404), "ours: {mine:?}");
    let theirs = Trust::new().sign(&["localhost"]);
    let theirs = (file("theirs.crt", &theirs.0), file("theirs.key", &theirs.1));
    for stranger in [None, Some((theirs.0.as_str(), theirs.1.as_str()))] {
        let theirs = knock(stock.http, &ca, stranger).await;
        assert!(!matches!(&theirs, kube::Error::Api(_)), "not of our CA: {theirs:?}");
    }
    stock.end(story).await;
    std::fs::remove_dir_all(&files).expect("it is ours");
}

/// Asks for a page that nobody has: the answer 404 means that one was let in.
async fn knock(port: u16, ca: &str, identity: Option<(&str, &str)>) -> kube::Error {
    let mut user = json!({});
    if let Some((certificate, key)) = identity {
        user = json!({"client-certificate": certificate, "client-key": key});
    }
    let server = format!("https://localhost:{port}");
    let file = json!({
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "c", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    let file = serde_json::from_value(file).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await;
    let client = kube::Client::try_from(config.expect("a configuration")).expect("a client");
    client.apiserver_version().await.expect_err("it is no API server")
}
