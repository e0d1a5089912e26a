//! What else is asked of a job, in the field names of `v0.0.45_job_desc_msg` (the same in v0.0.44).
//!
//! Nothing asked is nothing written: an empty field is not always the same as a missing one to Slurm.

use gangway_core::job::{Exclusive, Moment, Options};
use serde::Serialize;

use super::Set;

/// The fields, to be flattened into the job. `comment` is not here: the immediate path keeps the
/// gang's key in it.
#[derive(Debug, Default, Serialize)]
pub(super) struct OptionFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    licenses: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dependency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    begin_time: Option<Time>,
    /// A plain number, unlike `begin_time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_minimum: Option<Set>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nice: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Set>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wckey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    required_switches: Option<Set>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_for_switch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment_size: Option<Set>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contiguous: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<[&'static str; 1]>,
}

/// A point in time as Slurm's parser takes it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Time {
    Set(Set),
    Number(i64),
    /// `now+SECONDS`, counted by slurmrestd when it reads the request.
    Text(String),
}

impl OptionFields {
    /// For the components behind a leader: what a job as a whole waits for or uses is asked once.
    pub(super) fn of_a_follower(options: &Options) -> Self {
        Self::of(&Options { licenses: None, dependency: None, ..options.clone() })
    }

    pub(super) fn of(options: &Options) -> Self {
        let set = |number: u32| Set::from(u64::from(number));
        Self {
            constraints: options.constraints.clone(),
            prefer: options.prefer.clone(),
            licenses: options.licenses.clone(),
            reservation: options.reservation.clone(),
            dependency: options.dependency.clone(),
            begin_time: options.begin.map(|begin| match begin {
                Moment::At(at) => Time::Set(u64::try_from(at).unwrap_or(0).into()),
                Moment::In(_) => Time::Text(begin.to_string()),
            }),
            deadline: options.deadline.map(|deadline| match deadline {
                Moment::At(at) => Time::Number(at),
                Moment::In(_) => Time::Text(deadline.to_string()),
            }),
            time_minimum: options.time_min_minutes.map(set),
            nice: options.nice,
            priority: options.priority.map(set),
            wckey: options.wckey.clone(),
            required_switches: options.switches.map(|switches| set(switches.count)),
            wait_for_switch: options.switches.and_then(|switches| switches.wait_seconds),
            segment_size: options.segment.map(|segment| set(segment.into())),
            contiguous: options.contiguous.then_some(true),
            shared: options.exclusive.map(|exclusive| [shared(exclusive)]),
        }
    }
}

/// The job's flags: always a placeholder, perhaps spread.
pub(super) fn flags(options: &Options) -> Vec<&'static str> {
    let spread = options.spread.then_some("SPREAD_JOB");
    std::iter::once("EXTERNAL_JOB").chain(spread).collect()
}

fn shared(exclusive: Exclusive) -> &'static str {
    match exclusive {
        Exclusive::Node => "none",
        Exclusive::User => "user",
        Exclusive::Mcs => "mcs",
        Exclusive::Topo => "topo",
    }
}

#[cfg(test)]
mod tests {
    use gangway_core::job::Switches;
    use serde_json::json;

    use super::*;

    fn written(options: &Options) -> serde_json::Value {
        serde_json::to_value(OptionFields::of(options)).unwrap()
    }

    #[test]
    fn nothing_asked_is_nothing_written() {
        assert_eq!(written(&Options::default()), json!({}));
        assert_eq!(flags(&Options::default()), ["EXTERNAL_JOB"]);
    }

    #[test]
    fn everything_asked_is_written_under_slurms_names() {
        let text = |value: &str| Some(value.to_owned());
        let options = Options {
            constraints: text("h100&ib"),
            prefer: text("rack1"),
            licenses: text("matlab:2"),
            reservation: text("monday"),
            dependency: text("afterok:5"),
            begin: Some(Moment::At(1_795_467_600)),
            deadline: Some(Moment::At(1_795_467_601)),
            time_min_minutes: Some(30),
            nice: Some(-5),
            priority: Some(4_294_967_293),
            wckey: text("paper"),
            comment: text("not here"),
            switches: Some(Switches { count: 1, wait_seconds: Some(600) }),
            segment: Some(4),
            contiguous: true,
            spread: true,
            exclusive: Some(Exclusive::Node),
        };
        assert_eq!(
            written(&options),
            json!({
                "constraints": "h100&ib", "prefer": "rack1", "licenses": "matlab:2",
                "reservation": "monday", "dependency": "afterok:5",
                "begin_time": {"set": true, "number": 1_795_467_600}, "deadline": 1_795_467_601,
                "time_minimum": {"set": true, "number": 30}, "nice": -5,
                "priority": {"set": true, "number": 4_294_967_293_u32}, "wckey": "paper",
                "required_switches": {"set": true, "number": 1}, "wait_for_switch": 600,
                "segment_size": {"set": true, "number": 4}, "contiguous": true, "shared": ["none"],
            })
        );
        assert_eq!(flags(&options), ["EXTERNAL_JOB", "SPREAD_JOB"]);
        let later = Options {
            begin: Some(Moment::In(60)),
            deadline: Some(Moment::In(90)),
            ..Options::default()
        };
        assert_eq!(written(&later), json!({"begin_time": "now+60", "deadline": "now+90"}));
    }
}
