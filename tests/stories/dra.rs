//! What DRA drivers find on a node is what Slurm has of it.

use std::io::Write as _;
use std::process::Stdio;

use gangway_tests::{POOL, Pool, Story};
use serde_json::{Value, json};

/// The slice of one node, taken away when the story ends or breaks off.
struct Slice<'a> {
    story: &'a Story,
    name: &'static str,
}

impl Slice<'_> {
    fn kubectl(&self, words: &[&str], object: &str) -> bool {
        let mut command = self.story.world.command("kubectl");
        command.args(words).env("KUBECONFIG", self.story.world.kubeconfig());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = child.expect("kubectl can be started");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(object.as_bytes()).expect("kubectl reads");
        drop(stdin);
        child.wait().is_ok_and(|status| status.success())
    }

    /// Writes the driver's pool of the node as of this generation.
    fn says(&self, node: &str, generation: u32, devices: &[Value]) {
        let slice = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
            "metadata": {"name": self.name},
            "spec": {
                "driver": "gpu.nvidia.com", "nodeName": node, "devices": devices,
                "pool": {"name": node, "generation": generation, "resourceSliceCount": 1},
            },
        });
        assert!(self.kubectl(&["apply", "-f", "-"], &slice.to_string()), "{slice}");
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        // What cannot be undone shows in the next story.
        self.kubectl(&["delete", "resourceslice", self.name, "--ignore-not-found"], "");
    }
}

fn gpu(number: u32, numa: u32) -> Value {
    json!({"name": format!("gpu-{number}"), "attributes": {
        "type": {"string": "gpu"},
        "productName": {"string": "NVIDIA H200"},
        "resource.kubernetes.io/numaNode": {"int": numa},
    }})
}

#[tokio::test]
async fn devices_of_a_driver_are_registered_with_type_and_socket_and_followed() {
    let Some(story) = Story::begin("dra").await else { return };
    let mut pool = Pool::of(&story, "");
    pool.controllers.start().await;
    let slice = Slice { story: &story, name: "dra-1-gpu.nvidia.com" };
    let four: Vec<Value> = (0..4).map(|n| gpu(n, n / 2)).collect();
    slice.says("dra-1", 1, &four);
    // Nothing but the driver says that it has GPUs, and of which type.
    let resources = json!({"cpu": "16", "memory": "64Gi", "pods": "50"});
    pool.add_with("dra-1", json!({POOL: "mixed"}), &resources).await;
    let node = pool.in_slurm("dra-1", "is registered", |node| node.is("IDLE")).await;
    assert_eq!((node.gres.as_str(), node.sockets, node.cpus), ("gpu:h200:4(S:0-1)", 2, 16));

    // One has failed, and the driver has tainted it.
    let mut fewer = four.clone();
    fewer[3]["taints"] = json!([{"key": "gpu.nvidia.com/unhealthy", "effect": "NoSchedule"}]);
    slice.says("dra-1", 2, &fewer);
    pool.in_slurm("dra-1", "has three", |node| {
        node.is("IDLE") && !node.is("DRAIN") && node.gres.starts_with("gpu:h200:3(")
    })
    .await;
    slice.says("dra-1", 3, &four);
    pool.in_slurm("dra-1", "has four again", |node| node.gres.starts_with("gpu:h200:4(")).await;
    drop(slice);
    pool.in_slurm("dra-1", "has none", |node| node.gres.is_empty()).await;
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "the controllers ended with {status:?}");
    story.end().await;
}
