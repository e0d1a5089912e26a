//! A gang in Slurm's terms: what the placeholder asks for.
//!
//! Never asks for nodes by name (rule 12), and rounds up only: what Slurm grants is enough for the
//! pods. All members are asked for alike, by the largest of them.

use std::collections::BTreeMap;

use crate::eligible;
use crate::gang::Gang;
use crate::job::{GresRequest, PlaceholderRequest};
use crate::placeholder::Stamp;
use crate::pod::Demand;
use crate::policy::{Category, Grant, Refusal};

/// Kubernetes resource name → Slurm GRES name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceTable(pub BTreeMap<String, String>);

impl Default for ResourceTable {
    fn default() -> Self {
        let pairs = [
            ("nvidia.com/gpu", "gpu"),
            ("amd.com/gpu", "gpu"),
            ("aws.amazon.com/neuron", "neuron"),
            ("vpc.amazonaws.com/efa", "efa"),
        ];
        Self(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    }
}

/// Resources that Kubernetes accounts for and Slurm has no word for: left to the kubelet.
fn left_to_kubelet(resource: &str) -> bool {
    resource == "ephemeral-storage" || resource.starts_with("hugepages-")
}

impl ResourceTable {
    /// How many of each GRES a pod needs. A resource nobody maps is refused by name: silently
    /// dropped, it would be a pod without its device.
    pub fn gres(&self, demand: &Demand) -> Result<BTreeMap<String, u64>, Refusal> {
        let mut out = BTreeMap::new();
        for (resource, n) in demand.other.iter().filter(|(r, _)| !left_to_kubelet(r)) {
            let gres = self.0.get(resource).ok_or_else(|| {
                let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
                Refusal::new(
                    Category::Resources,
                    format!("resource {resource} is not mapped to a Slurm GRES; mapped are {} (config: resources)", known.join(", ")),
                )
            })?;
            *out.entry(gres.clone()).or_insert(0) += n;
        }
        Ok(out)
    }
}

/// Turns a complete gang into the request for its placeholder.
pub fn placeholder(
    gang: &Gang,
    grant: &Grant,
    stamp: &Stamp,
    table: &ResourceTable,
) -> Result<PlaceholderRequest, Refusal> {
    let largest = gang.largest_demand();
    let too_much = |what: &str| {
        Refusal::new(
            Category::Shape,
            format!("the pods ask for more {what} than any node can have"),
        )
    };
    let members = u32::try_from(gang.members.len()).map_err(|_| too_much("pods"))?.max(1);
    let per_node = gang.ask.pods_per_node.unwrap_or(1).min(members);
    let cpus = u32::try_from(largest.milli_cpu.div_ceil(1000)).map_err(|_| too_much("cpu"))?.max(1);
    let mib = largest.memory.div_ceil(1 << 20).max(1);
    let mut gres = Vec::new();
    for (name, n) in table.gres(&largest)? {
        let count = n.checked_mul(u64::from(per_node)).and_then(|n| u32::try_from(n).ok());
        let kind = gang.ask.gpu_type.clone().filter(|_| name == "gpu");
        gres.push(GresRequest { kind, count: count.ok_or_else(|| too_much(&name))?, name });
    }
    if gang.ask.gpu_type.is_some() && !gres.iter().any(|g| g.name == "gpu") {
        return Err(Refusal::new(
            Category::Shape,
            "gangway.dev/gpu-type is set, but no container asks for a GPU; add limits nvidia.com/gpu or remove the annotation",
        ));
    }
    Ok(PlaceholderRequest {
        key: stamp.to_text(),
        name: gang.ask.job_name.clone().unwrap_or_else(|| gang.path()),
        user: grant.user.clone(),
        group: grant.group.clone(),
        account: grant.account.clone(),
        partition: grant.partition.clone().unwrap_or_default(),
        qos: grant.qos.clone(),
        nodes: members.div_ceil(per_node),
        tasks_per_node: per_node,
        cpus_per_task: cpus,
        memory_per_node_mib: mib
            .checked_mul(u64::from(per_node))
            .ok_or_else(|| too_much("memory"))?,
        gres_per_node: gres,
        time_limit_minutes: gang.ask.time_limit_minutes,
        excluded_nodes: excluded(gang),
    })
}

/// The nodes that the placeholder must not get: any that is shut to one of the members, because all
/// are asked for alike. Slurm takes no name it does not know, so the list is cut to its own first.
pub fn excluded(gang: &Gang) -> String {
    eligible::union(&gang.excluded_nodes)
}

#[cfg(test)]
#[path = "translate/tests.rs"]
mod tests;
