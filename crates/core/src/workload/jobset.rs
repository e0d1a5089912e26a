//! A JobSet: which of its pods start together, and which only after others.
//!
//! One gang for the whole JobSet, asked for at once, where its Jobs start at once or each when the
//! one before is *ready*: they run together in the end. Where a Job waits for another to
//! *complete*, they never run together: one gang per stage, so that a trainer's GPUs do not stand
//! idle while an initializer loads data.

use serde_json::Value;

use super::template::{Template, ours};
use super::{Role, Shape, count};

/// One of `spec.replicatedJobs` that is ours.
struct Part<'a> {
    template: Template<'a>,
    stage: usize,
    /// Names of those that must be ready first.
    ready: Vec<&'a str>,
}

/// Reads `spec` for the pods of `scheduler`.
pub(super) fn shape(spec: &Value, scheduler: &str) -> Shape {
    let jobs = spec.get("replicatedJobs").and_then(Value::as_array);
    let jobs: Vec<&Value> = jobs.into_iter().flatten().collect();
    let Some(templates) = jobs.iter().map(|job| template(job)).collect::<Option<Vec<_>>>() else {
        return Shape::Singles;
    };
    let stages = stages(&jobs);
    let parts = ours(templates, scheduler).into_iter().map(|template| {
        let (stage, ready) = jobs
            .iter()
            .zip(&stages)
            .find(|(job, _)| name(job) == template.name)
            .map_or((0, vec![]), |(job, stage)| (*stage, waits_for(job, "Ready").collect()));
        Part { template, stage, ready }
    });
    let in_order = spec.pointer("/startupPolicy/startupPolicyOrder").and_then(Value::as_str)
        == Some("InOrder");
    Shape::Stages(roles(&parts.collect::<Vec<_>>(), in_order))
}

fn name(job: &Value) -> &str {
    job.get("name").and_then(Value::as_str).unwrap_or("")
}

/// `None` for a Job that works through a list of completions: its pods come one after another, and
/// no gang can be made of them.
fn template(job: &Value) -> Option<Template<'_>> {
    let replicas = job.get("replicas").map_or(Some(1), count)?;
    let own = job.pointer("/template/spec").unwrap_or(&Value::Null);
    let number = |key: &str| own.get(key).filter(|v| !v.is_null()).map(count);
    let parallelism = number("parallelism").unwrap_or(Some(1))?;
    let completions = number("completions").unwrap_or(Some(parallelism))?;
    let indexed = own.get("completionMode").and_then(Value::as_str) != Some("NonIndexed");
    if completions > parallelism || !(indexed || parallelism <= 1) {
        return None;
    }
    let pods = replicas.saturating_mul(completions);
    Some(Template::at(name(job), pods, job, "/template/spec/template"))
}

/// Which stage each Job is of: one more than the latest that must complete before it.
fn stages(jobs: &[&Value]) -> Vec<usize> {
    let mut stages: Vec<usize> = Vec::with_capacity(jobs.len());
    for job in jobs {
        let stage_of = |wanted: &str| {
            jobs.iter().zip(&stages).find(|(job, _)| name(job) == wanted).map(|(_, stage)| *stage)
        };
        let completed = waits_for(job, "Complete").filter_map(stage_of).map(|stage| stage + 1);
        let ready = waits_for(job, "Ready").filter_map(stage_of);
        stages.push(completed.chain(ready).max().unwrap_or(0));
    }
    stages
}

/// The Jobs that must reach `status` before this one is made.
fn waits_for<'a>(job: &'a Value, status: &'a str) -> impl Iterator<Item = &'a str> {
    let all = job.get("dependsOn").and_then(Value::as_array).into_iter().flatten();
    all.filter(move |d| d.get("status").and_then(Value::as_str) == Some(status)).map(name)
}

/// The roles of each stage that has any.
fn roles(parts: &[Part<'_>], in_order: bool) -> Vec<Vec<Role>> {
    let last = parts.iter().map(|p| p.stage).max().unwrap_or(0);
    let stage = |stage: usize| {
        let own: Vec<&Part<'_>> = parts.iter().filter(|p| p.stage == stage).collect();
        let waits = |p: &Part<'_>| own.iter().any(|o| p.ready.contains(&o.template.name));
        let role = |(i, part): (usize, &&Part<'_>)| {
            let later = (in_order && i > 0) || waits(part);
            if later { part.template.later() } else { part.template.role() }
        };
        own.iter().enumerate().map(role).collect::<Vec<Role>>()
    };
    (0..=last).map(stage).filter(|roles| !roles.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::names::SCHEDULER;

    fn job(name: &str, replicas: u32, parallelism: u32) -> Value {
        let limits = json!({"limits": {"nvidia.com/gpu": "8"}});
        let spec =
            json!({"schedulerName": "gangway", "containers": [{"name": "c", "resources": limits}]});
        json!({"name": name, "replicas": replicas,
            "template": {"spec": {"parallelism": parallelism, "template": {"spec": spec}}}})
    }

    /// Stages as text: `driver 1, workers 4 later | …`.
    fn shown(spec: &Value) -> String {
        let Shape::Stages(stages) = shape(spec, SCHEDULER) else { return "singles".to_owned() };
        let role = |r: &Role| {
            format!("{} {}{}", r.name, r.count, if r.later.is_some() { " later" } else { "" })
        };
        let stage = |roles: &Vec<Role>| roles.iter().map(role).collect::<Vec<_>>().join(", ");
        stages.iter().map(stage).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn all_jobs_at_once_are_one_gang() {
        let spec = json!({"replicatedJobs": [job("driver", 1, 1), job("workers", 2, 3)]});
        assert_eq!(shown(&spec), "driver 1, workers 6");
    }

    #[test]
    fn in_order_all_but_the_first_come_later_with_what_their_template_needs() {
        let spec = json!({"startupPolicy": {"startupPolicyOrder": "InOrder"},
            "replicatedJobs": [job("driver", 1, 1), job("workers", 2, 2)]});
        assert_eq!(shown(&spec), "driver 1, workers 4 later");
        let Shape::Stages(stages) = shape(&spec, SCHEDULER) else { unreachable!() };
        let spec = stages[0][1].later.as_ref().expect("later");
        let demand = crate::pod::demand(spec).expect("quantities");
        assert_eq!(demand.other.get("nvidia.com/gpu"), Some(&8));
    }

    #[test]
    fn what_waits_for_completion_is_a_gang_of_its_own() {
        let mut trainer = job("node", 1, 4);
        trainer["dependsOn"] = json!([{"name": "data", "status": "Complete"},
            {"name": "model", "status": "Complete"}]);
        let mut monitor = job("monitor", 1, 1);
        monitor["dependsOn"] = json!([{"name": "node", "status": "Ready"}]);
        let spec =
            json!({"replicatedJobs": [job("data", 1, 1), job("model", 1, 1), trainer, monitor]});
        assert_eq!(shown(&spec), "data 1, model 1 | node 4, monitor 1 later");
    }

    #[test]
    fn jobs_of_another_scheduler_do_not_count() {
        let mut driver = job("driver", 1, 1);
        let set = |job: &mut Value, name: Value| {
            job["template"]["spec"]["template"]["spec"]["schedulerName"] = name;
        };
        set(&mut driver, Value::Null);
        let spec = json!({"startupPolicy": {"startupPolicyOrder": "InOrder"},
            "replicatedJobs": [driver, job("workers", 1, 4)]});
        assert_eq!(shown(&spec), "workers 4", "the first of ours waits for nobody of ours");
        // Where no template says so, a policy does.
        let mut workers = job("workers", 1, 4);
        set(&mut workers, Value::Null);
        let spec = json!({"replicatedJobs": [driver, workers]});
        assert_eq!(shown(&spec), "driver 1, workers 4");
        set(&mut driver, json!("default-scheduler"));
        let spec = json!({"replicatedJobs": [driver, workers]});
        assert_eq!(shown(&spec), "workers 4");
    }

    #[test]
    fn a_job_that_works_through_a_list_makes_no_gang() {
        let mut list = job("list", 1, 2);
        list["template"]["spec"]["completions"] = json!(10);
        assert_eq!(shown(&json!({"replicatedJobs": [job("a", 1, 1), list]})), "singles");
    }
}
