//! What pods need, in whatever form they say it, is what Slurm is asked for and gives.

use gangway_core::job::{BaseState, JobId};
use gangway_tests::{Nodes, Pod, SOON, Story, World, manifest, wait};
use serde_json::{Value, json};

const PRODUCT: &str = "nvidia.com/gpu.product";

/// What the one job of these pods asks of each node.
fn asked(story: &Story, pods: &[Pod]) -> String {
    let record = story.slurm.shown(pods[0].job());
    record["tres_per_node"].as_str().unwrap_or_default().to_owned()
}

/// A pod of one container that asks for so much, as limits.
fn pod(name: &str, partition: &str, limits: &Value) -> Value {
    let mut template = manifest::template(0, &[("gangway.dev/partition", partition)]);
    let own = template["spec"]["containers"][0]["resources"]["limits"].as_object_mut();
    own.expect("limits").extend(limits.as_object().expect("limits").clone());
    manifest::pod(name, &template)
}

#[tokio::test]
async fn a_type_of_gpu_is_that_of_the_nodes_that_are_open() {
    let Some(story) = Story::begin("gpu-type").await else { return };
    let nodes = Nodes::of(&story);
    let ask = async |name: &str, product: Option<&str>| {
        let mut pod = manifest::pod(name, &manifest::template(4, &[]));
        if let Some(product) = product {
            pod["spec"]["nodeSelector"] = json!({PRODUCT: product});
        }
        story.kube.create(&pod).await;
        let pods = story.bound(name, 1).await;
        story.seated(&pods).await;
        let asked = asked(&story, &pods);
        story.note(&format!("{name}: {asked} on {}", pods[0].node.as_deref().unwrap_or_default()));
        (asked, pods[0].node.clone().expect("bound"))
    };
    let (any, typed) = ("gres/efa=16,gres/gpu=4", "gres/efa=16,gres/gpu:h100=4");
    assert_eq!(ask("silent", None).await.0, any, "no label says anything");
    nodes.label(&Nodes::p5(1, 8), PRODUCT, "NVIDIA-H100-80GB-HBM3").await;
    assert_eq!(ask("half", None).await.0, any, "half of the nodes say nothing");
    let (asked, node) = ask("chosen", Some("NVIDIA-H100-80GB-HBM3")).await;
    assert_eq!(asked, typed, "its nodeSelector leaves only nodes that say it");
    assert!(Nodes::p5(1, 8).contains(&node), "{node}");
    // Slurm has h100 there, so that asking for another type would be refused.
    nodes.label(&Nodes::p5(9, 16), PRODUCT, "NVIDIA-A100-SXM4-80GB").await;
    assert_eq!(ask("mixed", None).await.0, any);
    let (asked, node) = ask("unknown", Some("NVIDIA-A100-SXM4-80GB")).await;
    assert_eq!(asked, any, "Slurm does not know this type there");
    assert!(Nodes::p5(9, 16).contains(&node), "{node}");
    nodes.label(&Nodes::p5(9, 16), PRODUCT, "NVIDIA-H100-80GB-HBM3").await;
    assert_eq!(ask("all", None).await.0, typed, "all nodes say the same");

    // While a gang waits, what it is asked for follows the nodes; its place in the queue stays.
    story.kube.create(&manifest::indexed_job("large", 16, &manifest::template(8, &[]))).await;
    let queued = wait("the placeholder waits", SOON, async || {
        let live = story.slurm.live().await;
        let own = live.into_iter().find(|(_, job)| job.state.base == BaseState::Pending);
        own.map(|(_, job)| job).ok_or_else(|| "nothing waits".to_owned())
    })
    .await;
    let follows = async |wanted: &str| {
        wait(&format!("it asks for {wanted}"), SOON, async || {
            let job = story.slurm.job(queued.id.0).await;
            let place = (job.submit_time, job.priority, job.state.base.clone());
            assert_eq!(place, (queued.submit_time, queued.priority, BaseState::Pending));
            if job.tres_per_node == wanted { Ok(()) } else { Err(job.tres_per_node) }
        })
        .await;
    };
    follows("gres/efa=32,gres/gpu:h100=8").await;
    nodes.label(&Nodes::p5(16, 16), PRODUCT, "NVIDIA-A100-SXM4-80GB").await;
    follows("gres/efa=32,gres/gpu=8").await;
    nodes.label(&Nodes::p5(16, 16), PRODUCT, "NVIDIA-H100-80GB-HBM3").await;
    follows("gres/efa=32,gres/gpu:h100=8").await;
    story.end().await;
}

#[tokio::test]
async fn what_slurm_does_not_count_a_node_must_have() {
    // A real kubelet says how much of these its node has.
    let bare = |world: &World| world.kubelets().is_empty();
    let Some(story) = Story::begin_where("disk", "without kubelets", bare).await else { return };
    let nodes = Nodes::of(&story);
    let needs =
        json!({"nvidia.com/gpu": "1", "ephemeral-storage": "100Gi", "hugepages-2Mi": "64Mi"});
    story.kube.create(&pod("scratch", "gangway", &needs)).await;
    let pods = story.told("scratch", "20 have less ephemeral-storage").await;
    story.note(&pods[0].why());
    nodes.equip("p5-0007", "ephemeral-storage", "90Gi").await;
    nodes.equip("p5-0008", "ephemeral-storage", "1Ti").await;
    story.told("scratch", "1 has less hugepages-2Mi in all than the 64Mi it needs").await;
    nodes.equip("p5-0008", "hugepages-2Mi", "1Gi").await;
    let pods = story.bound("scratch", 1).await;
    assert_eq!(pods[0].node.as_deref(), Some("p5-0008"));
    assert_eq!(asked(&story, &pods), "gres/gpu=1", "Slurm is not asked for it");
    story.seated(&pods).await;
    story.end().await;
}

/// The API server completes the pod, and Slurm gives what `kubectl describe node` would count.
#[tokio::test]
async fn init_steps_sidecars_and_pod_level_resources_are_all_asked_for() {
    let Some(story) = Story::begin("pod-needs").await else { return };
    let container = |name: &str, resources: Value| json!({"name": name, "image": "none", "resources": resources});
    let mut sidecar = container("log", json!({"requests": {"cpu": "500m", "memory": "300Mi"}}));
    sidecar["restartPolicy"] = json!("Always");
    let mut stepped = manifest::pod("stepped", &manifest::template(1, &[]));
    // Running: 1 + 0.5 CPUs; before that a step of 3 CPUs and 1000 Mi beside the sidecar.
    stepped["spec"]["initContainers"] = json!([
        container("early", json!({"requests": {"cpu": "2500m"}})),
        sidecar,
        container("fetch", json!({"limits": {"cpu": "3", "memory": "1000Mi"}})),
    ]);
    // The whole pod may have 6 CPUs and 2 GiB; its containers mention only memory, and 1324 MiB of it.
    let mut whole = manifest::pod("whole", &manifest::template(0, &[]));
    whole["spec"]["resources"] = json!({"limits": {"cpu": "6", "memory": "2Gi"}});
    whole["spec"]["containers"] = json!([
        container("a", json!({"requests": {"memory": "1Gi"}})),
        container("b", json!({"limits": {"memory": "300Mi", "nvidia.com/gpu": "2"}})),
    ]);
    for (name, object, cpus, memory, gpus) in
        [("stepped", stepped, 4, 1300, 1), ("whole", whole, 6, 1324, 2)]
    {
        story.kube.create(&object).await;
        let pods = story.bound(name, 1).await;
        let job = story.seated(&pods).await;
        let record = story.slurm.shown(job.id.0);
        assert_eq!(record["cpus"]["number"], json!(cpus), "{name}");
        assert_eq!(record["memory_per_node"]["number"], json!(memory), "{name}");
        let granted = record["tres_alloc_str"].as_str().unwrap_or_default();
        assert!(granted.contains(&format!("gres/gpu={gpus}")), "{name}: {granted}");
        story.note(&format!("{name}: {granted}"));
    }
    story.end().await;
}

/// Slices of a GPU, GPUs of another vendor, and accelerators that are no GPUs, on a node of their own.
#[tokio::test]
async fn devices_of_every_vendor_are_asked_for_and_numbered() {
    const NODE: &str = "mixed-0001";
    let Some(story) = Story::begin("vendors").await else { return };
    let slurm = &story.slurm.client;
    // One that a story left behind which broke off.
    let _ = slurm.delete_node(NODE).await;
    let files = |name: &str, from: u32, count: u32| {
        (from..from + count).map(|i| format!(",file={name}{i}")).collect::<String>()
    };
    let gres = format!(
        "count=7,name=gpu,type=1g.5gb{}+count=8,name=gpu,type=mi300x{}+count=16,name=neuron{}",
        files("mig", 0, 7),
        files("amd", 0, 8),
        files("neuron", 0, 16)
    );
    let other = slurm.node("p5-0001").await.expect("Slurm answers").expect("it is there");
    let conf = format!(
        "NodeName={NODE} NodeAddr=127.0.0.1 Port={} State=EXTERNAL CPUs=64 RealMemory=500000 \
         Feature=mixed Gres=gpu:1g.5gb:7,gpu:mi300x:8,neuron:16 GresConf=\"{gres}\"",
        other.port
    );
    slurm.create_node(&conf).await.expect("Slurm takes the node");
    let nodes = Nodes::of(&story);
    let labels = json!({"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"});
    let resources = json!({
        "cpu": "64", "memory": "500Gi", "pods": "110", "nvidia.com/mig-1g.5gb": "7",
        "amd.com/gpu": "8", "aws.amazon.com/neuron": "16",
    });
    nodes.add(NODE, &labels, &resources).await;

    let mut given: Vec<(JobId, Vec<u32>)> = Vec::new();
    for (name, resource, count, gres, wanted) in [
        ("slices", "nvidia.com/mig-1g.5gb", 2, "gpu", "gres/gpu:1g.5gb=2"),
        ("amd", "amd.com/gpu", 3, "gpu", "gres/gpu:mi300x=3"),
        ("trainium", "aws.amazon.com/neuron", 4, "neuron", "gres/neuron=4"),
    ] {
        let limits = json!({resource: count.to_string()});
        story.kube.create(&pod(name, "mixed", &limits)).await;
        let pods = story.bound(name, 1).await;
        assert_eq!(pods[0].node.as_deref(), Some(NODE));
        assert_eq!(asked(&story, &pods), wanted);
        let indexes = &pods[0].annotations[&format!("gangway.dev/index.{gres}")];
        let own = gangway_core::place::parse_ranges(indexes).expect("a list of numbers");
        let job = JobId(pods[0].job());
        assert_eq!(own, story.slurm.devices(job.0, gres).await[NODE], "{name}: as Slurm says");
        assert_eq!(own.len(), count, "{name}: {indexes}");
        story.note(&format!("{name}: {wanted}, {gres} {indexes}"));
        given.push((job, own));
    }
    let (slices, amd) = (&given[0].1, &given[1].1);
    assert!(amd.iter().all(|index| !slices.contains(index)), "{slices:?} and {amd:?}");
    let slurm = story.slurm.client.clone();
    story.end().await;
    slurm.delete_node(NODE).await.expect("no job is on it");
}
