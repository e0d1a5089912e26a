//! The stamp: who asked, written where nobody else may.
//!
//! A pod carries who made it. What a controller makes carries who made the workload: the stamp is put into the pod
//! templates of every guarded kind, and a controller's pod keeps it.

use serde_json::{Value, json};

use super::patch::step;
use super::{House, Operation, Patch, Review, STAMPS, texts};

/// User and groups, as the two annotations say them; `None` for one that is not there.
pub(super) type Stamp = [Option<String>; 2];

/// How deep templates are looked for.
const DEPTH: usize = 12;

/// The pod templates of a workload, each with its place as a JSON pointer: whatever has containers.
pub(super) fn templates(object: &Value) -> Vec<(String, &Value)> {
    let mut out = Vec::new();
    if let Some(parts) = object.as_object() {
        // A PodTemplate has its template beside its metadata; all others have it in their specification.
        for (key, part) in
            parts.iter().filter(|(key, _)| matches!(key.as_str(), "spec" | "template"))
        {
            look(part, format!("/{}", step(key)), DEPTH, &mut out);
        }
    }
    out
}

fn look<'a>(value: &'a Value, place: String, depth: usize, out: &mut Vec<(String, &'a Value)>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Object(_) if value["spec"]["containers"].is_array() => out.push((place, value)),
        Value::Object(parts) => {
            for (key, part) in parts {
                look(part, format!("{place}/{}", step(key)), depth - 1, out);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                look(item, format!("{place}/{i}"), depth - 1, out);
            }
        }
        _ => {}
    }
}

fn carried(pod: &Value) -> Stamp {
    let annotations = texts(&pod["metadata"]["annotations"]);
    STAMPS.map(|key| annotations.get(key).cloned())
}

/// Whoever asks this question.
fn asker(review: &Review) -> Stamp {
    let mut groups: Vec<&str> = review.groups.iter().map(String::as_str).collect();
    // Groups are separated by commas: one with a comma in its name could pass for two.
    groups.retain(|group| !group.contains(','));
    groups.sort_unstable();
    [Some(review.user.clone()), Some(groups.join(","))]
}

/// The stamp that a new pod must carry.
pub(super) fn of_pod(house: &House, review: &Review) -> Stamp {
    let own = carried(&review.object);
    if house.makers.contains(&review.user) && own[0].is_some() { own } else { asker(review) }
}

/// The stamp that the pod template at this place must carry. Whoever changes a template asks for what comes of it.
pub(super) fn of_template(house: &House, review: &Review, place: &str) -> Stamp {
    let template = review.object.pointer(place).unwrap_or(&Value::Null);
    if house.makers.contains(&review.user) && carried(template)[0].is_some() {
        return carried(template);
    }
    match review.old_object.pointer(place) {
        Some(old) if review.operation == Operation::Update && bare(old) == bare(template) => {
            carried(old)
        }
        _ => asker(review),
    }
}

/// A template without its stamp.
fn bare(template: &Value) -> Value {
    let mut bare = template.clone();
    if let Some(metadata) = bare.get_mut("metadata").and_then(Value::as_object_mut) {
        // The API server writes it, or not.
        metadata.retain(|key, value| key != "creationTimestamp" || !value.is_null());
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| !STAMPS.contains(&key.as_str()));
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
        if metadata.is_empty()
            && let Some(template) = bare.as_object_mut()
        {
            template.remove("metadata");
        }
    }
    bare
}

/// What gives the pod, or template, at this place the stamp it must carry.
pub(super) fn patches(place: &str, pod: &Value, stamp: &Stamp) -> Vec<Patch> {
    if carried(pod) == *stamp {
        return Vec::new();
    }
    // The whole map: where it is missing nothing can be put into it.
    let mut annotations = pod["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    for (key, value) in STAMPS.iter().zip(stamp) {
        match value {
            Some(value) => drop(annotations.insert((*key).to_owned(), json!(value))),
            None => drop(annotations.remove(*key)),
        }
    }
    match pod["metadata"].is_object() {
        true => vec![Patch::set(format!("{place}/metadata/annotations"), annotations.into())],
        false => vec![Patch::set(format!("{place}/metadata"), json!({"annotations": annotations}))],
    }
}

fn check(carried: &Stamp, wanted: &Stamp, whose: &str) -> Result<(), String> {
    let wrong =
        STAMPS.iter().zip(carried.iter().zip(wanted)).find(|(_, (is, wanted))| is != wanted);
    match wrong {
        None => Ok(()),
        Some((key, _)) => Err(format!(
            "annotation {key}{whose} is written by gangway's admission alone, from who asks the API server; remove it from what you apply"
        )),
    }
}

/// Whether a pod carries the stamp it must: for ever the one it came with.
pub(super) fn check_pod(house: &House, review: &Review) -> Result<(), String> {
    let wanted = match review.operation {
        Operation::Create => of_pod(house, review),
        _ => carried(&review.old_object),
    };
    check(&carried(&review.object), &wanted, "")
}

/// Whether the template at this place carries the stamp it must.
pub(super) fn check_template(house: &House, review: &Review, place: &str) -> Result<(), String> {
    let template = review.object.pointer(place).unwrap_or(&Value::Null);
    check(&carried(template), &of_template(house, review, place), " of its pod template")
}
