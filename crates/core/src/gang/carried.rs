//! What we have written on a pod, read back (rule 8). Only of a pod that is bound: before, nothing of it is ours.

use std::collections::BTreeMap;

use super::{Bound, Notice};
use crate::job::JobId;
use crate::names;
use crate::place::parse_ranges;
use crate::pod::Pod;

/// What a pod knows of its leaving, as it carries it.
pub(super) fn notice(pod: &Pod) -> Notice {
    match (pod.annotations.get(names::LEAVE_BY), pod.annotations.get(names::CHECKPOINTED)) {
        (None, _) => Notice::None,
        (Some(_), Some(done)) if done == "true" => Notice::Checkpointed,
        (Some(_), _) => Notice::Warned,
    }
}

/// The binding a pod carries.
pub(super) fn bound(pod: &Pod) -> Option<Bound> {
    let node = pod.node()?;
    let number = |key: &str| pod.annotations.get(key).and_then(|v| v.parse().ok()).unwrap_or(0);
    Some(Bound {
        generation: number(names::GENERATION),
        job: JobId(number(names::JOB_ID)),
        node: pod.annotations.get(names::NODE).cloned().unwrap_or_else(|| node.to_owned()),
        indexes: indexes(pod),
    })
}

/// The devices a pod's annotations say it holds.
fn indexes(pod: &Pod) -> BTreeMap<String, Vec<u32>> {
    let named = pod.annotations.iter().filter_map(|(key, value)| {
        let gres = key.strip_prefix(names::INDEX_PREFIX)?;
        Some((gres.to_owned(), parse_ranges(value)?))
    });
    named.collect()
}
