//! A placeholder request as the body of `job/submit` and `job/allocate`.
//!
//! It must never name nodes a job has to use (rule 12), and a priority only where core's policy has
//! opened that to the one who asks.

mod options;

use gangway_core::job::{Component, GresRequest, JobId, Moment, Options, PlaceholderRequest};
use options::OptionFields;
use serde::Serialize;

/// `{"job": …}`, or `{"jobs": [ … ]}` for a heterogeneous job.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Body {
    Job(Box<JobFields>),
    Jobs(Vec<JobFields>),
}

impl Body {
    fn of(request: &PlaceholderRequest, fields: impl Fn(u32, &Component) -> JobFields) -> Self {
        match request.components.as_slice() {
            [one] => Self::Job(Box::new(fields(0, one))),
            several => Self::Jobs((0..).zip(several).map(|(i, c)| fields(i, c)).collect()),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct JobFields {
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
/// Components of a heterogeneous job take the ids that follow `job_id`.
pub(crate) fn queued(request: &PlaceholderRequest, job_id: Option<JobId>) -> Body {
    let owner = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
    Body::of(request, |i, component| JobFields {
        job_id: job_id.map(|id| id.0.saturating_add(i)),
        user_id: owner(&request.user),
        group_id: owner(&request.group),
        admin_comment: Some(component.key.clone()),
        comment: request.options.comment.clone(),
        ..shape(request, i, component)
    })
}

/// For the queue, and never to start: a second component may not begin before `begin`.
pub(crate) fn held_back(request: &PlaceholderRequest, ballast: &Component, begin: Moment) -> Body {
    let options = Options { begin: Some(begin), ..Options::default() };
    let heavy =
        PlaceholderRequest { options, components: vec![ballast.clone()], ..request.clone() };
    let all =
        [queued(request, None), queued(&heavy, None)].into_iter().flat_map(|body| match body {
            Body::Job(fields) => vec![*fields],
            Body::Jobs(several) => several,
        });
    Body::Jobs(all.collect())
}

/// At once or not at all, asked as the owner, who may not write `admin_comment`. Slurm refuses it
/// for a heterogeneous job (2078).
pub(crate) fn immediate(request: &PlaceholderRequest) -> Body {
    Body::of(request, |i, component| JobFields {
        comment: Some(component.key.clone()),
        immediate: Some(true),
        ..shape(request, i, component)
    })
}

/// What both ways share, for the component of this number.
fn shape(request: &PlaceholderRequest, i: u32, component: &Component) -> JobFields {
    let tres: Vec<_> = component.gres_per_node.iter().map(GresRequest::to_tres).collect();
    JobFields {
        name: request.name.clone(),
        partition: request.partition.clone(),
        flags: options::flags(&request.options),
        nodes: component.nodes.to_string(),
        tasks: component.nodes.saturating_mul(component.tasks_per_node),
        tasks_per_node: component.tasks_per_node,
        cpus_per_task: component.cpus_per_task.max(1),
        // 0 means "all of the node's memory" to Slurm.
        memory_per_node: component.memory_per_node_mib.max(1).into(),
        tres_per_node: tres.join(","),
        time_limit: request.time_limit_minutes.map(|minutes| u64::from(minutes).into()),
        account: request.account.clone(),
        qos: request.qos.clone(),
        excluded_nodes: component.excluded_nodes.clone(),
        job_id: None,
        user_id: None,
        group_id: None,
        admin_comment: None,
        comment: None,
        immediate: None,
        options: match i {
            0 => OptionFields::of(&request.options),
            _ => OptionFields::of_a_follower(&request.options),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request() -> PlaceholderRequest {
        PlaceholderRequest {
            name: "train".into(),
            user: "alice".into(),
            group: "team".into(),
            account: Some("team1".into()),
            partition: "gangway".into(),
            qos: None,
            time_limit_minutes: Some(60),
            components: vec![Component {
                key: "cluster/uid/1".into(),
                nodes: 4,
                tasks_per_node: 2,
                cpus_per_task: 12,
                memory_per_node_mib: 0,
                gres_per_node: vec![
                    GresRequest { name: "gpu".into(), kind: Some("h100".into()), count: 8 },
                    GresRequest { name: "efa".into(), kind: None, count: 32 },
                ],
                excluded_nodes: "p5-[7-9]".into(),
            }],
            options: Options::default(),
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
        let mut bare = request();
        (bare.time_limit_minutes, bare.account) = (None, None);
        bare.components[0].gres_per_node.clear();
        bare.components[0].excluded_nodes.clear();
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

    #[test]
    fn components_are_a_list_with_ids_that_follow() {
        let mut request = request();
        let leader = Component { key: "leader".into(), nodes: 1, ..request.components[0].clone() };
        request.components.insert(0, leader);
        let body = serde_json::to_value(queued(&request, Some(JobId(40_000_000)))).unwrap();
        let jobs = body["jobs"].as_array().expect("a list");
        let told: Vec<_> = jobs
            .iter()
            .map(|job| (&job["job_id"], &job["nodes"], &job["admin_comment"], &job["user_id"]))
            .collect();
        let alice = &json!("alice");
        assert_eq!(
            told,
            [
                (&json!(40_000_000), &json!("1"), &json!("leader"), alice),
                (&json!(40_000_001), &json!("4"), &json!("cluster/uid/1"), alice)
            ]
        );
        assert!(body.get("job").is_none());
    }
}
