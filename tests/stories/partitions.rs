//! The partitions that pools name, and that both sides agree on every node.

use std::collections::{BTreeMap, BTreeSet};

use gangway_slurm::Client;
use gangway_tests::{POOL, Pool, SOON, Story, http, manifest, wait};
use serde_json::json;

const MADE: &str = "made";

/// Takes the partition away that the controllers have made, also when the story breaks off.
struct Unmake(Option<Client>);

impl Drop for Unmake {
    fn drop(&mut self) {
        let Some(slurm) = self.0.take() else { return };
        let undo = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // What cannot be undone shows in the next story.
            runtime.map(|runtime| runtime.block_on(slurm.delete_partition(MADE)))
        };
        let _ = std::thread::spawn(undo).join();
    }
}

async fn ends_well(pool: Pool) {
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "the controllers ended with {status:?}");
}

#[tokio::test]
async fn a_partition_is_made_where_that_is_allowed_and_what_differs_is_told() {
    let Some(story) = Story::begin("partitions").await else { return };
    let third = format!(
        "name: made, labels: {{ {POOL}: made }}, features: [mixed], partitions: [{MADE}, nowhere]"
    );
    let allowed = format!("createPartitions: [ {{ name: {MADE}, nodeSets: [set_mixed] }} ]");
    let mut pool = Pool::with(&story, &third, &allowed);
    let unmake = Unmake(Some(story.slurm.client_again()));
    pool.controllers.start().await;
    let partition = wait("the partition is made", SOON, async || {
        let found = story.slurm.client.partition(MADE).await.expect("partitions can be read");
        found.ok_or_else(|| "none".to_owned())
    })
    .await;
    assert_eq!((partition.node_sets.as_str(), partition.is_up()), ("set_mixed", true));

    pool.add_with("made-1", json!({POOL: "made"}), &json!({"cpu": "8", "memory": "16Gi"})).await;
    let in_made = |node: &gangway_slurm::Node| node.partitions.iter().any(|name| name == MADE);
    pool.in_slurm("made-1", "is in it", in_made).await;
    wait("the node says which partition it misses", SOON, async || {
        let said = story.kube.node_condition("made-1", "gangway.dev/SlurmReady").await;
        let fits = said.as_ref().is_some_and(|(status, reason, message)| {
            status == "False"
                && reason == "NotInPartition"
                && message.starts_with("not in partition nowhere, as")
        });
        if fits { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
    let port = pool.controllers.metrics;
    let shown = async |line: &str| {
        let (_, text) = http::get(port, "/metrics").await.expect("metrics");
        let told: Vec<&str> =
            text.lines().filter(|l| l.starts_with("gangway_partition_differs{")).collect();
        if told == [line] { Ok(()) } else { Err(format!("{told:?}")) }
    };
    // What was made differs no more; an administrator's partition is never made.
    let missing = "gangway_partition_differs{partition=\"nowhere\",what=\"missing\"} 1";
    wait("the metric names what differs", SOON, async || shown(missing).await).await;
    assert!(story.slurm.client.partition("nowhere").await.expect("partitions").is_none());
    ends_well(pool).await;
    drop(unmake);
    story.end().await;
}

/// What either side says of a node.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    open: bool,
    partitions: BTreeSet<String>,
    gpus: u32,
    /// Instance type, product, zone.
    features: BTreeSet<String>,
}

/// `kubectl get nodes -L …`.
fn by_kubectl(story: &Story) -> BTreeMap<String, Said> {
    let kubectl = |more: &[&str]| -> String {
        let mut command = story.world.command("kubectl");
        command.args(["get", "nodes", "--no-headers", "-l", POOL]).args(more);
        let ran = command.env("KUBECONFIG", story.world.kubeconfig()).output().expect("kubectl");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    let gpus =
        kubectl(&["-o", r"custom-columns=N:.metadata.name,G:.status.allocatable.nvidia\.com/gpu"]);
    let gpus: BTreeMap<&str, u32> = gpus
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(name, count)| (name, count.trim().parse().unwrap_or(0)))
        .collect();
    let labels =
        "node.kubernetes.io/instance-type,nvidia.com/gpu.product,topology.kubernetes.io/zone";
    let table = kubectl(&["-L", &format!("{labels},{POOL}")]);
    let read = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [features @ .., pool] = &words[words.len() - 4..] else { unreachable!("{line}") };
        let partitions: &[&str] = if *pool == "both" { &["mixed", "spare"] } else { &["mixed"] };
        let said = Said {
            open: words[1] == "Ready",
            partitions: partitions.iter().map(|name| (*name).to_owned()).collect(),
            gpus: gpus[words[0]],
            features: features.iter().map(|feature| (*feature).to_owned()).collect(),
        };
        (words[0].to_owned(), said)
    };
    table.lines().map(read).collect()
}

/// `sinfo` of the nodes that carry the story's mark.
fn by_sinfo(story: &Story) -> BTreeMap<String, Said> {
    let words = ["-h", "-a", "-N", "-o", "%N|%P|%T|%f|%G"];
    let mark = format!("gangway-{}", story.cluster);
    let mut all: BTreeMap<String, Said> = BTreeMap::new();
    for line in story.world.run_as("root", "sinfo", &words).lines() {
        let [name, partition, state, features, gres] =
            line.split('|').collect::<Vec<_>>().try_into().expect("five words");
        let own: BTreeSet<String> = features.split(',').map(str::to_owned).collect();
        if !own.contains(&mark) {
            continue;
        }
        let gpus = gres.split(',').find_map(|part| part.strip_prefix("gpu:"));
        let gpus = gpus.and_then(|part| part.split('(').next()?.rsplit(':').next()?.parse().ok());
        let besides =
            |feature: &String| *feature != mark && feature != "mixed" && feature != "spare";
        let said = all.entry(name.trim().to_owned()).or_insert_with(|| Said {
            open: ["idle", "mixed", "allocated"].contains(&state.trim()),
            partitions: BTreeSet::new(),
            gpus: gpus.unwrap_or(0),
            features: own.into_iter().filter(besides).collect(),
        });
        said.partitions.insert(partition.trim_end_matches('*').to_owned());
    }
    for said in all.values_mut() {
        // Partitions of the node set `spare` beside the one that the pool names.
        said.partitions.retain(|name| !["urgent", "scavenge", "spot"].contains(&name.as_str()));
    }
    all
}

#[tokio::test]
async fn kubectl_and_sinfo_agree_on_every_node() {
    let Some(story) = Story::begin("agree").await else { return };
    let mut pool = Pool::of(&story, "");
    pool.controllers.start().await;
    let labels = |pool: &str, product: &str, zone: &str, by: &str| {
        json!({
            POOL: pool, "type": by, "node.kubernetes.io/instance-type": "p5.48xlarge",
            "nvidia.com/gpu.product": product, "topology.kubernetes.io/zone": zone,
        })
    };
    let resources = |gpus: u32| {
        json!({
            "cpu": "32", "memory": "256Gi", "pods": "100",
            "nvidia.com/gpu": gpus.to_string(), "vpc.amazonaws.com/efa": "32",
        })
    };
    let (h100, h200) = ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H200");
    pool.add_with("agree-1", labels("mixed", h100, "us-east-1a", "kwok"), &resources(8)).await;
    pool.add_with("agree-2", labels("both", h200, "us-east-1b", "kwok"), &resources(8)).await;
    pool.add_with("agree-3", labels("mixed", h100, "us-east-1b", "kwok"), &resources(4)).await;
    pool.add_with("agree-4", labels("mixed", h200, "us-east-1a", "kwok"), &resources(8)).await;
    // As ready as we say.
    let mut lost = json!({
        "metadata": {"name": "agree-5", "labels": labels("both", h100, "us-east-1c", "nobody")},
    });
    lost["status"] = json!({"allocatable": resources(2), "capacity": resources(2)});
    pool.nodes.add_as(&lost).await;
    let ready = |status: &str| {
        json!({"status": {"conditions": [{
            "type": "Ready", "status": status, "reason": "Story", "message": "",
            "lastHeartbeatTime": null, "lastTransitionTime": null,
        }]}})
    };
    story.kube.patch_node_status("agree-5", &ready("True")).await;

    let agree = |what: &str| {
        let what = format!("both sides say the same: {what}");
        let story = &story;
        async move {
            wait(&what, SOON, async || {
                let (kubectl, sinfo) = (by_kubectl(story), by_sinfo(story));
                if kubectl == sinfo { Ok(kubectl) } else { Err(format!("{kubectl:?}\n{sinfo:?}")) }
            })
            .await
        }
    };
    let all = agree("all are open").await;
    assert_eq!(all.len(), 5);
    assert!(all.values().all(|said| said.open), "{all:?}");

    // One in use, one cordoned, one lost, one moved, one of fewer devices.
    let template = manifest::template(4, &[("gangway.dev/partition", "mixed")]);
    story.kube.create(&manifest::indexed_job("one", 1, &template)).await;
    story.seated(&story.bound("one-", 1).await).await;
    let name = |name: &str| [name.to_owned()];
    pool.nodes.cordon(&name("agree-3")).await;
    story.kube.patch_node_status("agree-5", &ready("False")).await;
    pool.nodes.label(&name("agree-2"), POOL, "mixed").await;
    pool.nodes.label(&name("agree-1"), "topology.kubernetes.io/zone", "us-east-1d").await;
    let fewer = json!({"status": {"allocatable": resources(6)}});
    story.kube.patch_node_status("agree-4", &fewer).await;
    story.kube.delete(&manifest::indexed_job("one", 1, &template)).await;
    story.gone("one-").await;
    let all = agree("each is another").await;
    let open: Vec<&str> = all.iter().filter(|(_, s)| s.open).map(|(n, _)| n.as_str()).collect();
    assert_eq!(open, ["agree-1", "agree-2", "agree-4"]);
    assert_eq!(all["agree-4"].gpus, 6);
    assert!(all["agree-1"].features.contains("us-east-1d"), "{:?}", all["agree-1"]);
    assert_eq!(all["agree-2"].partitions.len(), 1);
    ends_well(pool).await;
    story.end().await;
}
