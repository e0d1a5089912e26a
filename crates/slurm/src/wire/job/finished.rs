//! Jobs as the accounting database remembers them.

use gangway_core::job::{JobId, JobState};
use serde::Deserialize;

use crate::client::FinishedJob;
use crate::wire::number::Number;
use crate::wire::or_default;

/// `GET /slurmdb/{v}/job/{id}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireFinished {
    #[serde(deserialize_with = "or_default")]
    pub(crate) jobs: Vec<WireFinishedJob>,
}

/// One job of the accounting database.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WireFinishedJob {
    #[serde(deserialize_with = "or_default")]
    job_id: Number,
    #[serde(deserialize_with = "or_default")]
    sluid: String,
    #[serde(deserialize_with = "or_default")]
    nodes: String,
    #[serde(deserialize_with = "or_default")]
    state: WireFinishedState,
    #[serde(deserialize_with = "or_default")]
    comment: WireComments,
    #[serde(deserialize_with = "or_default")]
    time: WireTimes,
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    account: String,
    #[serde(deserialize_with = "or_default")]
    partition: String,
    #[serde(deserialize_with = "or_default")]
    allocation_nodes: Number,
    #[serde(deserialize_with = "or_default")]
    tres: WireTresOfJob,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireTresOfJob {
    #[serde(deserialize_with = "or_default")]
    allocated: Vec<WireTres>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireTres {
    #[serde(rename = "type", deserialize_with = "or_default")]
    class: String,
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    count: Number,
}

impl WireTresOfJob {
    /// As [`super::gpus`] of a text.
    fn gpus(&self) -> u32 {
        let devices = || self.allocated.iter().filter(|tres| tres.class == "gres");
        let count = |tres: &WireTres| tres.count.count::<u32>();
        let all = devices().find(|tres| tres.name == "gpu").and_then(count);
        let typed = || devices().filter(|t| t.name.starts_with("gpu:")).filter_map(count);
        all.unwrap_or_else(|| typed().fold(0, u32::saturating_add))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireFinishedState {
    #[serde(deserialize_with = "or_default")]
    current: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireComments {
    #[serde(deserialize_with = "or_default")]
    administrator: String,
    #[serde(deserialize_with = "or_default")]
    job: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireTimes {
    #[serde(deserialize_with = "or_default")]
    submission: Number,
    #[serde(deserialize_with = "or_default")]
    start: Number,
    #[serde(deserialize_with = "or_default")]
    end: Number,
}

impl WireFinishedJob {
    /// The job as a fact; `None` where it has no id.
    pub(crate) fn into_finished(self) -> Option<FinishedJob> {
        let reason = self.state.reason;
        Some(FinishedJob {
            id: JobId(self.job_id.count().filter(|&id| id > 0)?),
            sluid: self.sluid,
            name: self.name,
            user: self.user,
            account: self.account,
            partition: self.partition,
            gpus: self.tres.gpus(),
            node_count: self.allocation_nodes.count().unwrap_or(0),
            state: JobState::parse(&self.state.current),
            reason: if reason == "None" { String::new() } else { reason },
            nodes: self.nodes,
            admin_comment: self.comment.administrator,
            comment: self.comment.job,
            submit_time: self.time.submission.seconds(),
            start_time: self.time.start.seconds(),
            end_time: self.time.end.seconds(),
        })
    }
}
