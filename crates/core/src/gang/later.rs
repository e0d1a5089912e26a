//! Members whose pods are made only when others are ready, by the templates of their roles.

use super::{Later, shown_kind};
use crate::pod;
use crate::workload::{Role, Shape, Workload};

/// The roles whose members come later, and what is wrong with their templates.
pub(super) fn later(workload: &Workload, problems: &mut Vec<String>) -> Vec<Later> {
    let Shape::Roles(roles) = &workload.shape else { return Vec::new() };
    let mut first = 0;
    let mut out = Vec::new();
    for Role { name, count, later, .. } in roles {
        if let Some(spec) = later {
            let problem = match pod::demand(spec) {
                Ok(demand) if !demand.is_empty() => {
                    out.push(Later {
                        role: name.clone(),
                        first,
                        count: *count,
                        demand,
                        reach: 0,
                    });
                    None
                }
                Ok(_) => Some("nothing is requested, so Slurm cannot know what its pods will need; set resources.requests or limits in it".to_owned()),
                Err(bad) => Some(bad.to_string()),
            };
            let of = format!("template {name} of {} {}", shown_kind(workload), workload.name);
            problems.extend(problem.map(|problem| format!("{of}: {problem}")));
        }
        first += count;
    }
    out
}
