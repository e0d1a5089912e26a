//! Where the configuration says so, a node's taints tell other schedulers what Slurm gives out, and what it does not.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gangway_tests::{
    KubeScheduler, Nodes, POOL, Pool, SOON, Story, Terms, audited, manifest, stays, wait,
};
use serde_json::json;

const HYBRID: (&str, &str) = ("gangway.dev/partition", "hybrid");

fn managed(story: &Story) -> String {
    format!("gangway.dev/managed={}:NoSchedule", story.cluster)
}

fn unavailable(story: &Story) -> String {
    format!("gangway.dev/slurm-unavailable={}:NoSchedule", story.cluster)
}

async fn tainted(story: &Story, node: &str, taints: &[&str]) {
    wait(&format!("{node} has the taints {taints:?}"), SOON, async || {
        let now = story.kube.node_taints(node).await;
        if now == taints { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

/// A stock kube-scheduler that knows nothing of any bridge.
struct Stock {
    name: String,
    child: Child,
}

impl Stock {
    fn start(story: &Story) -> Self {
        let directory = story.bridge.directory().join("stock");
        fs::create_dir_all(&directory).expect("the temporary directory can be written");
        let name = format!("stock-{}", story.cluster);
        let config = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": story.world.kubeconfig()},
            "leaderElection": {"leaderElect": false},
            "profiles": [{"schedulerName": name}],
        });
        let file = directory.join("config.yaml");
        fs::write(&file, config.to_string()).expect("the temporary directory can be written");
        let log = File::create(directory.join("log")).expect("a log");
        let mut command = Command::new(story.world.binary("kube-scheduler"));
        command.arg("--config").arg(file).args(["--secure-port=0"]);
        command.arg("--authentication-skip-lookup=true").env_remove("KUBECONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { name, child: command.spawn().expect("kube-scheduler can be started") }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // Either fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_node_that_slurm_drains_is_tainted_until_it_is_given_out_again() {
    let Some(story) = Story::begin("taint").await else { return };
    let mut pool = Pool::of(&story, "taints: { drained: NoSchedule, managed: NoSchedule }");
    pool.controllers.start().await;
    // The audit log is of the whole world, and of every run in it.
    let node = format!("taint-{}", std::process::id());
    pool.add(&node).await;
    let (managed, unavailable) = (managed(&story), unavailable(&story));
    tainted(&story, &node, &[&managed]).await;
    pool.in_slurm(&node, "is idle", |node| node.is("IDLE")).await;
    // Somebody else's stays, whatever we do.
    let taints = json!([
        {"key": "a.example/yes", "value": "b", "effect": "NoSchedule"},
        {"key": "gangway.dev/managed", "value": story.cluster, "effect": "NoSchedule"},
        {"key": "gangway.dev/slurm-unavailable", "value": "other", "effect": "PreferNoSchedule"},
    ]);
    story.kube.patch_node(&node, &json!({"spec": {"taints": taints}})).await;
    let theirs = ["a.example/yes=b:NoSchedule"];
    let other = "gangway.dev/slurm-unavailable=other:PreferNoSchedule";
    let all = [theirs[0], &managed, other, &unavailable];
    pool.administrate(&node, "DRAIN", Some("bad NIC")).await;
    tainted(&story, &node, &all).await;
    // Given out again while nobody looks.
    pool.controllers.kill();
    pool.administrate(&node, "RESUME", None).await;
    pool.controllers.start().await;
    tainted(&story, &node, &[theirs[0], &managed, other]).await;
    // What we shut ourselves, everybody knows already.
    pool.nodes.cordon(std::slice::from_ref(&node)).await;
    pool.in_slurm(&node, "is drained", |node| node.is("DRAIN")).await;
    // The pod is shut out by the cordon alone, though it tolerates none of our taints.
    pod_that_tolerates_theirs(&story).await;
    story.told("kept", "1 is cordoned").await;
    story.kube.patch_node(&node, &json!({"spec": {"unschedulable": false}})).await;
    story.bound("kept", 1).await;
    story.kube.delete_pod("kept").await;
    story.gone("kept").await;
    tainted(&story, &node, &[theirs[0], &managed, other]).await;
    let writes = audited(story.world, &node, |asked| {
        let ours = asked.agent.starts_with("gangway/") && asked.what == "nodes";
        ours && asked.writes() && asked.name == node && asked.code == 200
    });
    assert_eq!(writes.len(), 3, "one write for each change: {writes:?}");
    // By the controllers that run now: one taint taken away.
    for (series, value) in [
        ("gangway_inventory_writes_total{outcome=\"done\",write=\"taint\"}", 1.0),
        ("gangway_inventory_steps_total{outcome=\"done\",step=\"drain\"}", 1.0),
        ("gangway_inventory_nodes{standing=\"InPool\"}", 1.0),
        ("gangway_inventory_nodes{standing=\"Drained\"}", 0.0),
    ] {
        wait(series, SOON, async || match pool.controllers.metric(series).await {
            now if (now - value).abs() < 0.5 => Ok(()),
            now => Err(now.to_string()),
        })
        .await;
    }
    let rounds = pool.controllers.metric("gangway_inventory_plan_seconds_count").await;
    assert!(rounds > 2.0, "{rounds} comparisons");
    end(story, pool).await;
}

/// A pod that may go to the story's node alone, and tolerates the taint of others.
async fn pod_that_tolerates_theirs(story: &Story) {
    let mut template = manifest::template(8, &[("gangway.dev/partition", "mixed")]);
    template["spec"]["nodeSelector"] = json!({POOL: "mixed"});
    template["spec"]["tolerations"] = json!([{"key": "a.example/yes", "operator": "Exists"}]);
    story.kube.create(&manifest::pod("kept", &template)).await;
}

#[tokio::test]
async fn a_pod_that_tolerates_nothing_runs_where_others_are_kept_off() {
    let will_do = "with --kubelets 2 --kube-scheduler";
    let story = Story::begin_where("taint-kubelet", will_do, |world| {
        world.kubelets().len() >= 2 && world.binary("kube-scheduler").exists()
    });
    let Some(story) = story.await else { return };
    let mut pool = Pool::of(&story, "taints: { managed: NoSchedule }");
    pool.controllers.start().await;
    let hosts = ["h1", "h2"].map(str::to_owned);
    let left = Nodes::of(&story);
    left.leave_untainted(&hosts);
    pool.nodes.label(&hosts, POOL, "hosts").await;
    for host in &hosts {
        tainted(&story, host, &[&managed(&story)]).await;
    }
    let stock = Stock::start(&story);
    let mut template = manifest::template(0, &[HYBRID]);
    let spec = &mut template["spec"];
    spec["containers"][0]["image"] = json!(story.world.pod_image());
    spec["containers"][0]["imagePullPolicy"] = json!("Never");
    spec["containers"][0]["command"] =
        json!(["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"]);
    let mut plain = template.clone();
    plain["spec"]["schedulerName"] = json!(stock.name);
    plain["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "h1"});
    story.kube.create(&manifest::pod("plain", &plain)).await;
    story.told("plain", "untolerated taint").await;
    template["spec"]["nodeSelector"] = json!({POOL: "hosts"});
    for name in ["ours-0", "ours-1"] {
        template["metadata"]["annotations"]["gangway.dev/pods-per-node"] = json!("1");
        story.kube.create(&manifest::pod_of_group(name, "ours", &template)).await;
    }
    story.kube.create(&manifest::pod_group("ours", 2)).await;
    let pods = story.bound("ours-", 2).await;
    for pod in &pods {
        runs(&story, &pod.name).await;
    }
    stays("the pod of the other scheduler is kept off", Duration::from_secs(2), async || {
        let plain = story.kube.pod("plain").await;
        plain.node.map_or(Ok(()), |node| Err(format!("it is on {node}")))
    })
    .await;
    // Out of the pool: everybody's.
    pool.nodes.restore(&hosts[..1]).await;
    tainted(&story, "h1", &[]).await;
    runs(&story, "plain").await;
    pool.nodes.restore(&hosts[1..]).await;
    tainted(&story, "h2", &[]).await;
    drop(stock);
    end(story, pool).await;
}

#[tokio::test]
async fn a_pod_that_a_stock_kube_scheduler_binds_needs_a_toleration_and_is_told_so() {
    let Some(story) = Story::begin("taint-stock").await else { return };
    let mut pool = Pool::of(&story, "taints: { managed: NoSchedule }");
    pool.controllers.start().await;
    let node = format!("taint-stock-{}", std::process::id());
    pool.add(&node).await;
    tainted(&story, &node, &[&managed(&story)]).await;
    pool.in_slurm(&node, "is idle", |node| node.is("IDLE")).await;
    let stock = KubeScheduler::begin(&story, &Terms::default()).await;
    let template = manifest::template(8, &[("gangway.dev/partition", "mixed")]);
    let mut template = KubeScheduler::template(&template);
    template["spec"]["nodeSelector"] = json!({POOL: "mixed"});
    story.kube.create(&manifest::pod("strict", &template)).await;
    story.told("strict", "1 node(s) had untolerated taint").await;
    template["spec"]["tolerations"] = json!([{"key": "gangway.dev/managed", "operator": "Exists"}]);
    story.kube.create(&manifest::pod("tolerant", &template)).await;
    story.bound("tolerant", 1).await;
    story.kube.delete_pods("").await;
    story.gone("").await;
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "the controllers ended with {status:?}");
    stock.end(story).await;
}

async fn runs(story: &Story, pod: &str) {
    wait(&format!("the container of {pod} runs"), SOON, async || {
        let container = story.kube.container(pod).await;
        let state = container.and_then(|container| container.state);
        let runs = state.as_ref().is_some_and(|state| state.running.is_some());
        if runs { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
}

async fn end(story: Story, pool: Pool) {
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "the controllers ended with {status:?}");
    story.end().await;
}
