//! The shapes slurmrestd sends, only the fields we read, v0.0.44 and v0.0.45 alike.
//!
//! Every field may be missing or null, every unknown one is ignored; nothing here is public. How
//! they become facts is in `wire::job` and `wire::node`.

pub(crate) mod job;
pub(crate) mod node;
pub(crate) mod number;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use number::Number;

/// What every answer may carry beside its own fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Envelope {
    /// Above 0: an accepted job, whatever the HTTP status says.
    #[serde(deserialize_with = "or_default")]
    pub(crate) job_id: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) errors: Vec<Complaint>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) warnings: Vec<Warning>,
}

/// One of `errors`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Complaint {
    #[serde(deserialize_with = "or_default")]
    pub(crate) error_number: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) error: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) description: String,
}

impl Complaint {
    /// Slurm's words: what went wrong, then where.
    pub(crate) fn message(&self) -> String {
        match (self.error.as_str(), self.description.as_str()) {
            (error, "") => error.to_owned(),
            ("", description) => description.to_owned(),
            (error, description) => format!("{error} ({description})"),
        }
    }
}

/// One of `warnings`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Warning {
    #[serde(deserialize_with = "or_default")]
    pub(crate) description: String,
}

/// `GET ping/`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pings {
    #[serde(deserialize_with = "or_default")]
    pub(crate) pings: Vec<WirePing>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) meta: Meta,
}

/// One slurmctld.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WirePing {
    #[serde(deserialize_with = "or_default")]
    pub(crate) hostname: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) responding: bool,
    #[serde(deserialize_with = "or_default")]
    pub(crate) primary: bool,
    #[serde(deserialize_with = "or_default")]
    pub(crate) latency: Number,
}

/// Who answered.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Meta {
    #[serde(deserialize_with = "or_default")]
    pub(crate) slurm: MetaSlurm,
}

/// slurmrestd's own release and the cluster it speaks for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MetaSlurm {
    #[serde(deserialize_with = "or_default")]
    pub(crate) release: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) cluster: String,
}

/// `GET diag/`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Diag {
    #[serde(deserialize_with = "or_default")]
    pub(crate) statistics: Option<Statistics>,
}

/// slurmctld's counters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Statistics {
    #[serde(deserialize_with = "or_default")]
    pub(crate) req_time: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) req_time_start: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) jobs_pending: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) jobs_running: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) job_states_ts: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) jobs_submitted: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) server_thread_count: Number,
    #[serde(deserialize_with = "or_default")]
    pub(crate) agent_queue_size: Number,
}

/// Reads `null` like a missing field.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + DeserializeOwned,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
