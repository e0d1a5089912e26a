//! A placeholder request as the body of `job/submit` and `job/allocate`.
//!
//! It must never name nodes a job has to use (rule 12), and a priority only where core's policy has
//! opened that to the one who asks.

mod options;

use gangway_core::job::{GresRequest, JobId, PlaceholderRequest};
use options::OptionFields;
use serde::Serialize;

/// `{"job": …}`.
#[derive(Debug, Serialize)]
pub(crate) struct Body {
    job: JobFields,
}

#[derive(Debug, Serialize)]
struct JobFields {
    name: String,
    /// Empty: Slurm's default partition.
    #[serde(skip_serializing_if = "String::is_empty")]
    partition: String,
    flags: Vec<&'static str>,
    /// Exactly this many: a string, for Slurm also takes ranges here.
    nodes: String,
    tasks: u32,
    tasks_per_node: u32,
    cpus_per_task: u32,
    memory_per_node: Set,
    #[serde(skip_serializing_if = "String::is_empty")]
    tres_per_node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_limit: Option<Set>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    excluded_nodes: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    immediate: Option<bool>,
    #[serde(flatten)]
    options: OptionFields,
}

#[derive(Debug, Serialize)]
struct Set {
    set: bool,
    number: u64,
}

impl From<u64> for Set {
    fn from(number: u64) -> Self {
        Self { set: true, number }
    }
}

/// For the queue, asked by SlurmUser on behalf of the owner: the key is out of the owner's reach.
pub(crate) fn queued(request: &PlaceholderRequest, job_id: Option<JobId>) -> Body {
    let owner = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
    Body {
        job: JobFields {
            job_id: job_id.map(|id| id.0),
            user_id: owner(&request.user),
            group_id: owner(&request.group),
            admin_comment: Some(request.key.clone()),
            comment: request.options.comment.clone(),
            ..shape(request)
        },
    }
}

/// At once or not at all, asked as the owner, who may not write `admin_comment`.
pub(crate) fn immediate(request: &PlaceholderRequest) -> Body {
    Body {
        job: JobFields {
            comment: Some(request.key.clone()),
            immediate: Some(true),
            ..shape(request)
        },
    }
}

/// What both ways share.
fn shape(request: &PlaceholderRequest) -> JobFields {
    let tres: Vec<_> = request.gres_per_node.iter().map(GresRequest::to_tres).collect();
    JobFields {
        name: request.name.clone(),
        partition: request.partition.clone(),
        flags: options::flags(&request.options),
        nodes: request.nodes.to_string(),
        tasks: request.nodes.saturating_mul(request.tasks_per_node),
        tasks_per_node: request.tasks_per_node,
        cpus_per_task: request.cpus_per_task.max(1),
        // 0 means "all of the node's memory" to Slurm.
        memory_per_node: request.memory_per_node_mib.max(1).into(),
        tres_per_node: tres.join(","),
        time_limit: request.time_limit_minutes.map(|minutes| u64::from(minutes).into()),
        account: request.account.clone(),
        qos: request.qos.clone(),
        excluded_nodes: request.excluded_nodes.clone(),
        job_id: None,
        user_id: None,
        group_id: None,
        admin_comment: None,
        comment: None,
        immediate: None,
        options: OptionFields::of(&request.options),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request() -> PlaceholderRequest {
        PlaceholderRequest {
            key: "cluster/uid/1".into(),
            name: "train".into(),
            user: "alice".into(),
            group: "team".into(),
            account: Some("team1".into()),
            partition: "gangway".into(),
            qos: None,
            nodes: 4,
            tasks_per_node: 2,
            cpus_per_task: 12,
            memory_per_node_mib: 0,
            gres_per_node: vec![
                GresRequest { name: "gpu".into(), kind: Some("h100".into()), count: 8 },
                GresRequest { name: "efa".into(), kind: None, count: 32 },
            ],
            time_limit_minutes: Some(60),
            excluded_nodes: "p5-[7-9]".into(),
            options: gangway_core::job::Options::default(),
        }
    }

    #[test]
    fn the_queued_body_names_the_owner_and_hides_the_key_from_him() {
        let body = serde_json::to_value(queued(&request(), Some(JobId(40_000_000)))).unwrap();
        assert_eq!(
            body,
            json!({"job": {
                "job_id": 40_000_000, "name": "train", "partition": "gangway",
                "flags": ["EXTERNAL_JOB"], "nodes": "4", "tasks": 8, "tasks_per_node": 2,
                "cpus_per_task": 12, "memory_per_node": {"set": true, "number": 1},
                "tres_per_node": "gres/gpu:h100=8,gres/efa=32",
                "time_limit": {"set": true, "number": 60}, "account": "team1",
                "excluded_nodes": "p5-[7-9]", "user_id": "alice", "group_id": "team",
                "admin_comment": "cluster/uid/1"
            }})
        );
    }

    #[test]
    fn the_immediate_body_names_nobody_and_carries_the_key_in_the_comment() {
        let bare = PlaceholderRequest {
            gres_per_node: vec![],
            time_limit_minutes: None,
            account: None,
            excluded_nodes: String::new(),
            ..request()
        };
        assert_eq!(
            serde_json::to_value(immediate(&bare)).unwrap(),
            json!({"job": {
                "name": "train", "partition": "gangway", "flags": ["EXTERNAL_JOB"], "nodes": "4",
                "tasks": 8, "tasks_per_node": 2, "cpus_per_task": 12,
                "memory_per_node": {"set": true, "number": 1}, "comment": "cluster/uid/1",
                "immediate": true
            }})
        );
    }
}
