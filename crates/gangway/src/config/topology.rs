//! `topology:` of the configuration: where the order of the nodes comes from, and how instance types
//! are wired.

use gangway_core::topology::Source;
use gangway_core::topology::layout::Layout;

use super::section::{Problems, Section};

/// What EC2 says of its network, coarsest first, below the zone.
const LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.k8s.aws/network-node-layer-1",
    "topology.k8s.aws/network-node-layer-2",
    "topology.k8s.aws/network-node-layer-3",
];

/// How the network is read.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) source: Source,
    /// Node labels that say where a node is, coarsest first.
    pub(crate) labels: Vec<String>,
    pub(crate) instance_type_label: String,
    /// Those of the configuration first: the first of a type counts.
    pub(crate) layouts: Vec<Layout>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            source: Source::Auto,
            labels: LABELS.map(str::to_owned).to_vec(),
            instance_type_label: "node.kubernetes.io/instance-type".to_owned(),
            layouts: Layout::known(),
        }
    }
}

pub(super) fn read(mut topology: Section<'_>, problems: &Problems) -> Network {
    let default = Network::default();
    let source = match topology.text("source").as_deref() {
        None | Some("auto") => Source::Auto,
        Some("slurm") => Source::Slurm,
        Some("labels") => Source::Labels,
        Some(_) => {
            problems.add("topology.source", "must be auto, slurm or labels");
            Source::Auto
        }
    };
    let labels = Some(topology.texts("labels")).filter(|labels| !labels.is_empty());
    let instance_type_label = topology.text("instanceTypeLabel");
    let mut layouts = Vec::new();
    for (i, mut entry) in topology.sections("layouts").into_iter().enumerate() {
        let instance_type = entry.required("instanceType");
        let switches = entry.number("switches").unwrap_or(1);
        let sockets = entry.number("sockets").unwrap_or(1);
        let devices = entry.numbers("devices");
        entry.finish();
        let at = format!("topology.layouts[{i}]");
        if !(1..=128).contains(&switches) || sockets == 0 || switches % sockets != 0 {
            problems.add(&at, "needs 1 to 128 switches, and sockets that divide them evenly");
            continue;
        }
        layouts.push(Layout { instance_type, switches, sockets, devices });
    }
    topology.finish();
    layouts.extend(default.layouts);
    Network {
        source,
        labels: labels.unwrap_or(default.labels),
        instance_type_label: instance_type_label.unwrap_or(default.instance_type_label),
        layouts,
    }
}
