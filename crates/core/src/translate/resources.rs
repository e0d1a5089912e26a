//! Which Slurm GRES a Kubernetes resource is.
//!
//! It must never drop a resource silently: that would be a pod without its device.

use std::collections::BTreeMap;

use crate::eligible::left_to_kubelet;
use crate::job::GresRequest;
use crate::pod::Demand;
use crate::policy::{Category, Refusal};

/// Kubernetes resource → Slurm GRES, `name` or `name:type`.
///
/// A resource that ends in `*` stands for all that begin so; a `*` in the GRES is what it stands
/// for: `nvidia.com/mig-*` → `gpu:*` makes `nvidia.com/mig-1g.5gb` the GRES `gpu` of type `1g.5gb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceTable(pub BTreeMap<String, String>);

impl Default for ResourceTable {
    fn default() -> Self {
        let pairs = [
            ("nvidia.com/gpu", "gpu"),
            ("nvidia.com/mig-*", "gpu:*"),
            ("amd.com/gpu", "gpu"),
            ("aws.amazon.com/neuron", "neuron"),
            ("vpc.amazonaws.com/efa", "efa"),
        ];
        Self(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    }
}

impl ResourceTable {
    /// The GRES of one resource: its name and type. The exact entry goes before the longest pattern.
    pub(crate) fn find(&self, resource: &str) -> Option<(String, Option<String>)> {
        let (gres, rest) = match self.0.get(resource) {
            Some(gres) => (gres, ""),
            None => self
                .0
                .iter()
                .filter_map(|(k, gres)| Some((gres, resource.strip_prefix(k.strip_suffix('*')?)?)))
                .min_by_key(|(_, rest)| rest.len())?,
        };
        let (name, kind) = gres.split_once(':').unwrap_or((gres, ""));
        let kind = kind.replace('*', rest);
        Some((name.to_owned(), Some(kind).filter(|k| !k.is_empty())))
    }

    /// How many of each GRES a pod needs, by name and type. A resource nobody maps is refused by name.
    pub fn gres(&self, demand: &Demand) -> Result<Vec<GresRequest>, Refusal> {
        let mut sums: BTreeMap<(String, Option<String>), u64> = BTreeMap::new();
        for (resource, n) in demand.other.iter().filter(|(r, _)| !left_to_kubelet(r)) {
            let gres = self.find(resource).ok_or_else(|| self.unmapped(resource))?;
            let sum = sums.entry(gres).or_default();
            *sum = sum.saturating_add(*n);
        }
        let request = |((name, kind), n): ((String, Option<String>), u64)| {
            let count = u32::try_from(n).map_err(|_| super::too_much(&name))?;
            Ok(GresRequest { name, kind, count })
        };
        sums.into_iter().map(request).collect()
    }

    fn unmapped(&self, resource: &str) -> Refusal {
        let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
        Refusal::new(
            Category::Resources,
            format!(
                "resource {resource} is not mapped to a Slurm GRES; mapped are {} (config: resources)",
                known.join(", ")
            ),
        )
    }
}
