//! Which type of GPU a gang gets that names none, where its nodes leave only one.
//!
//! A node's label says what its GPUs are called, Slurm's node list says by which type they can be asked
//! for. A type is told only where both agree on every node that is open and has GPUs: so it shuts no
//! node, and Slurm, which counts and limits GPUs by type, is asked for what it will give.
//! This room must never choose among types: where there are two, there is none.

use std::collections::BTreeMap;

use crate::job::{Component, GresRequest};

/// The GRES that types are told of.
const GPU: &str = "gpu";

/// Parts of what vendors call their GPUs, and the GRES type by custom. The longest part counts.
const KNOWN: [(&str, &str); 31] = [
    ("A10", "a10"),
    ("A100", "a100"),
    ("A10G", "a10g"),
    ("A16", "a16"),
    ("A30", "a30"),
    ("A40", "a40"),
    ("A800", "a800"),
    ("B100", "b100"),
    ("B200", "b200"),
    ("B300", "b300"),
    ("GB200", "gb200"),
    ("GB300", "gb300"),
    ("GH200", "gh200"),
    ("H100", "h100"),
    ("H20", "h20"),
    ("H200", "h200"),
    ("H800", "h800"),
    ("L4", "l4"),
    ("L40", "l40"),
    ("L40S", "l40s"),
    ("MI100", "mi100"),
    ("MI210", "mi210"),
    ("MI250", "mi250"),
    ("MI250X", "mi250x"),
    ("MI300A", "mi300a"),
    ("MI300X", "mi300x"),
    ("MI325X", "mi325x"),
    ("MI355X", "mi355x"),
    ("P100", "p100"),
    ("T4", "t4"),
    ("V100", "v100"),
];

/// How the GPUs of a node are found in its labels, and what Slurm calls them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuTypes {
    /// Labels that say what a node's GPUs are; the first that it has counts.
    pub labels: Vec<String>,
    /// Part of a label's value → GRES type; goes before what is known here.
    pub types: BTreeMap<String, String>,
}

impl Default for GpuTypes {
    fn default() -> Self {
        let labels = ["nvidia.com/gpu.product", "amd.com/gpu.product-name"];
        Self { labels: labels.map(str::to_owned).to_vec(), types: BTreeMap::new() }
    }
}

/// A node that a gang may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer<'a> {
    /// What its label calls its GPUs; empty without the label, `None` where Kubernetes does not have
    /// the node.
    pub product: Option<&'a str>,
    /// What Slurm says it has: `gpu:h100:8(S:0-1),efa:32`.
    pub gres: &'a str,
}

impl GpuTypes {
    /// What a node's labels call its GPUs; empty where they do not say.
    pub fn product<'a>(&self, labels: &'a BTreeMap<String, String>) -> &'a str {
        self.labels.iter().find_map(|key| labels.get(key)).map_or("", String::as_str)
    }

    /// The one type, in Slurm's spelling, of all GPUs on these nodes; `None` where there are several,
    /// or some node does not say.
    pub fn common<'a>(&self, nodes: impl IntoIterator<Item = Offer<'a>>) -> Option<String> {
        let mut one: Option<&str> = None;
        let mut strangers: Vec<Vec<&str>> = Vec::new();
        for node in nodes {
            let shown = types(node.gres)?;
            match node.product {
                // Whatever is asked, a node without GPUs gives none.
                _ if shown.is_empty() => {}
                None if strangers.last() == Some(&shown) => {}
                None => strangers.push(shown),
                Some(product) => {
                    let its = self.of(product, &shown)?;
                    if *one.get_or_insert(its) != its {
                        return None;
                    }
                }
            }
        }
        one.filter(|one| strangers.iter().all(|shown| shown.contains(one))).map(str::to_owned)
    }

    /// The type that GPUs of a node with these labels get in Slurm; `None` where nobody knows what they are.
    pub fn kind(&self, labels: &BTreeMap<String, String>) -> Option<String> {
        self.called(self.product(labels)).map(|(kind, _)| kind)
    }

    /// The same of GPUs that their driver calls so.
    pub fn kind_of(&self, product: &str) -> Option<String> {
        self.called(product).map(|(kind, _)| kind)
    }

    /// What GPUs of this product are called, and whether they can be called nothing else: by the configuration, or
    /// because every GPU of the node is cut into slices of that profile.
    fn called(&self, product: &str) -> Option<(String, bool)> {
        let product = product.to_ascii_uppercase();
        let has = |part: &str| product.contains(&part.to_ascii_uppercase());
        let longest = |(part, _): &(&str, &str)| part.len();
        let own = self.types.iter().map(|(part, kind)| (part.as_str(), kind.as_str()));
        if let Some((_, kind)) = own.filter(|(part, _)| has(part)).max_by_key(longest) {
            return Some((kind.to_owned(), true));
        }
        if let Some((_, profile)) = product.split_once("-MIG-") {
            return Some((profile.to_ascii_lowercase(), true));
        }
        let known = KNOWN.into_iter().filter(|(part, _)| has(part)).max_by_key(longest);
        known.map(|(_, kind)| (kind.to_owned(), false))
    }

    /// The type of GPUs that are called so, among those that Slurm shows.
    fn of<'a>(&self, product: &str, shown: &[&'a str]) -> Option<&'a str> {
        let shown_as =
            |word: &str| shown.iter().find(|own| own.eq_ignore_ascii_case(word)).copied();
        // Where Slurm finds GPUs by itself, their type is the whole name.
        let whole = || shown.iter().find(|own| plain(own) == plain(product)).copied();
        match self.called(product) {
            Some((kind, true)) => shown_as(&kind),
            guess => guess.and_then(|(kind, _)| shown_as(&kind)).or_else(whole),
        }
    }
}

/// Asks for GPUs of this type where a component names none.
pub fn give(component: &mut Component, kind: &str) {
    let gpus = &mut component.gres_per_node;
    if gpus.iter().any(|g| g.name == GPU && g.kind.as_deref() == Some(kind)) {
        return;
    }
    for gpu in gpus.iter_mut().filter(|g| g.name == GPU && g.kind.is_none()) {
        gpu.kind = Some(kind.to_owned());
    }
}

/// Whether a component asks for GPUs of any type.
pub fn wanted(component: &Component) -> bool {
    component.gres_per_node.iter().any(|g| g.name == GPU && g.kind.is_none())
}

/// What a waiting job must be told where its nodes leave this type of GPU now (`None`: any), given what
/// was asked for it; `None` where it knows. Only for GPUs whose type was left open.
pub fn retold(asked: &str, kind: Option<&str>) -> Option<String> {
    let mut parts: Vec<String> = asked.split(',').map(str::to_owned).collect();
    let is_gpu = |part: &&mut String| {
        let rest = part.strip_prefix("gres/").and_then(|rest| rest.strip_prefix(GPU));
        rest.is_some_and(|rest| rest.starts_with([':', '=']))
    };
    let mut gpus = parts.iter_mut().filter(is_gpu);
    let (gpu, None) = (gpus.next()?, gpus.next()) else { return None };
    let (_, count) = gpu.split_once('=')?;
    *gpu = match kind {
        Some(kind) => format!("gres/{GPU}:{kind}={count}"),
        None => format!("gres/{GPU}={count}"),
    };
    let now = parts.join(",");
    (now != asked).then_some(now)
}

/// Whether it is for us to say the type of these GPUs: there is one request for them, of any type.
pub fn left_open(gres: &[GresRequest]) -> bool {
    let mut gpus = gres.iter().filter(|g| g.name == GPU);
    gpus.next().is_some_and(|g| g.kind.is_none()) && gpus.next().is_none()
}

/// The types of GPU in a node's list of GRES; `None` where some have none.
fn types(gres: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    for one in gres.split(',').filter_map(|one| one.trim().strip_prefix(GPU)) {
        // `gpu:h100:8(S:0-1)`: what is in brackets may hold commas and colons of its own.
        let one = one.split('(').next().unwrap_or_default();
        let Some(rest) = one.strip_prefix(':') else {
            if one.is_empty() {
                return None;
            }
            continue;
        };
        let kind = rest.split(':').next().filter(|_| !is_count(rest))?;
        if !found.contains(&kind) {
            found.push(kind);
        }
    }
    Some(found)
}

/// `8`, or `2K`.
fn is_count(word: &str) -> bool {
    let digits = word.strip_suffix(|c: char| c.is_ascii_alphabetic()).unwrap_or(word);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// A name without what spells it differently.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .collect()
}

#[cfg(test)]
#[path = "gpu/tests.rs"]
mod tests;
