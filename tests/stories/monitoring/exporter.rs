//! What NVIDIA's DCGM exporter and the EFA exporter write, for nodes that have neither.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Answers until it is dropped.
pub(super) struct Exporter {
    pub(super) port: u16,
    task: JoinHandle<()>,
}

/// A node, its GPUs, how many percent of each are in use, and bytes per second over each EFA device.
type Node = (String, Vec<u32>, u32, f64);

impl Exporter {
    pub(super) async fn listen(nodes: &[(&str, Vec<u32>, u32, f64)]) -> Self {
        let own = |(name, gpus, percent, efa): &(&str, Vec<u32>, u32, f64)| {
            ((*name).to_owned(), gpus.clone(), *percent, *efa)
        };
        let nodes: Arc<Vec<Node>> = Arc::new(nodes.iter().map(own).collect());
        let began = Instant::now();
        let page = move || {
            let text = page(&nodes, began.elapsed().as_secs_f64());
            async move { ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text) }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let app = Router::new().route("/metrics", get(page));
        let serving = axum::serve(listener, app);
        let task = tokio::spawn(async move {
            // It ends with the story.
            let _ = serving.await;
        });
        Self { port, task }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// With labels as version 4 of DCGM's and the forked node_exporter write them; `node` is by relabelling.
fn page(nodes: &[Node], seconds: f64) -> String {
    let mut out = String::new();
    for (name, help) in [
        ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %)."),
        ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W)."),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (node, gpus, percent, _) in nodes {
            for gpu in gpus {
                let value = if name.ends_with("UTIL") { f64::from(*percent) } else { 650.0 };
                let _ = writeln!(
                    out,
                    "{name}{{gpu=\"{gpu}\",UUID=\"GPU-{node}-{gpu}\",pci_bus_id=\"00000000:{gpu:02}:00.0\",device=\"nvidia{gpu}\",modelName=\"NVIDIA H100 80GB HBM3\",Hostname=\"{node}\",DCGM_FI_DRIVER_VERSION=\"570.172.08\"}} {value}"
                );
            }
        }
    }
    for name in ["node_amazonefa_tx_bytes", "node_amazonefa_rx_bytes"] {
        let _ = writeln!(out, "# HELP {name} Number of bytes\n# TYPE {name} counter");
        for (node, .., efa) in nodes {
            for device in ["rdmap16s27", "rdmap32s27"] {
                // What was sent before anybody looked.
                let bytes = 4096.0 + efa * seconds;
                let _ = writeln!(
                    out,
                    "{name}{{node=\"{node}\",device=\"{device}\",port=\"1\"}} {bytes:e}"
                );
            }
        }
    }
    out
}
