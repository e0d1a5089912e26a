//! How slurmctld computes priorities, and the fairshare of whom a job is charged to.

use gangway_core::priority::Rules;
use serde::Deserialize;

use super::{Call, Client, Version, segment};
use crate::error::Error;
use crate::wire::number::Number;
use crate::wire::or_default;

/// `GET conf`, of which almost all is passed over. Numbers come as numbers and as texts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireConf {
    #[serde(deserialize_with = "or_default")]
    slurm_conf: Conf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Conf {
    #[serde(deserialize_with = "or_default")]
    priority_type: String,
    #[serde(deserialize_with = "or_default")]
    priority_max_age: String,
    #[serde(deserialize_with = "or_default")]
    priority_calc_period: String,
    #[serde(deserialize_with = "or_default")]
    priority_weight_age: Number,
    #[serde(deserialize_with = "or_default")]
    priority_weight_fairshare: Number,
    #[serde(deserialize_with = "or_default")]
    priority_weight_partition: Number,
    #[serde(deserialize_with = "or_default")]
    priority_weight_assoc: Number,
    #[serde(deserialize_with = "or_default")]
    priority_weight_job_size: Number,
    #[serde(rename = "PriorityWeightQOS", deserialize_with = "or_default")]
    priority_weight_qos: Number,
    #[serde(rename = "PriorityWeightTRES", deserialize_with = "or_default")]
    priority_weight_tres: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireShares {
    #[serde(deserialize_with = "or_default")]
    shares: Shares,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Shares {
    #[serde(deserialize_with = "or_default")]
    shares: Vec<Share>,
}

/// One association.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Share {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    parent: String,
    #[serde(deserialize_with = "or_default")]
    partition: String,
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    fairshare: Fairshare,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fairshare {
    #[serde(deserialize_with = "or_default")]
    factor: Fraction,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fraction {
    #[serde(deserialize_with = "or_default")]
    set: bool,
    #[serde(deserialize_with = "or_default")]
    number: f64,
}

impl Client {
    /// How priorities are computed (`GET conf`, which v0.0.44 does not serve); `None`: this Slurm does not say.
    pub async fn priority_rules(&self) -> Result<Option<Rules>, Error> {
        if self.version().await? < Version::V0_0_45 {
            return Ok(None);
        }
        let answer: WireConf = match self.read(&Call::get("conf", "conf".to_owned())).await {
            Ok(answer) => answer,
            Err(Error::NoSuchEndpoint { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let conf = answer.slurm_conf;
        if conf.priority_type.is_empty() {
            return Ok(None);
        }
        let weight = |number: Number| number.count().unwrap_or(0);
        let others =
            [conf.priority_weight_assoc, conf.priority_weight_job_size, conf.priority_weight_qos];
        Ok(Some(Rules {
            multifactor: conf.priority_type.contains("multifactor"),
            age: weight(conf.priority_weight_age),
            max_age: seconds(&conf.priority_max_age).unwrap_or(0),
            fairshare: weight(conf.priority_weight_fairshare),
            partition: weight(conf.priority_weight_partition),
            others: others.into_iter().any(|number| weight(number) > 0)
                || !conf.priority_weight_tres.is_empty(),
            period: seconds(&conf.priority_calc_period).unwrap_or(300),
        }))
    }

    /// The fairshare factor of a user in an account, 0 to 1 (`GET shares`); `None` where Slurm has none.
    pub async fn fairshare(&self, user: &str, account: &str) -> Result<Option<f64>, Error> {
        let path = format!("shares?users={}&accounts={}", segment(user), segment(account));
        let answer: WireShares = match self.read(&Call::get("shares", path)).await {
            Ok(answer) => answer,
            Err(Error::NoSuchEndpoint { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let own = |share: &&Share| {
            let is_user = share.kind.iter().any(|kind| kind == "USER");
            is_user && share.name == user && share.parent == account && share.partition.is_empty()
        };
        let share = answer.shares.shares.iter().find(own);
        let factor = share.map(|share| &share.fairshare.factor).filter(|factor| factor.set);
        Ok(factor.map(|factor| factor.number))
    }
}

/// `7-00:00:00`, `00:05:00`; `None` for what is no time, as `UNLIMITED`.
fn seconds(text: &str) -> Option<i64> {
    let (days, rest) = text.split_once('-').unwrap_or(("0", text));
    let mut sum = 0_i64;
    for part in rest.split(':') {
        sum = sum.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    days.parse::<i64>().ok()?.checked_mul(86_400)?.checked_add(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_slurm_conf_are_read() {
        let read = ["7-00:00:00", "00:05:00", "1-02:03:04", "UNLIMITED", ""].map(seconds);
        assert_eq!(read, [Some(604_800), Some(300), Some(93_784), None, None]);
    }

    #[test]
    fn weights_are_numbers_or_texts() {
        let conf = r#"{"slurm_conf": {"PriorityType": "priority/multifactor", "PriorityWeightAge": "1000",
            "PriorityWeightQOS": 5, "PriorityMaxAge": "7-00:00:00", "SchedulerType": "sched/backfill"}}"#;
        let conf = serde_json::from_str::<WireConf>(conf).expect("it can be read").slurm_conf;
        assert_eq!(conf.priority_weight_age.count::<u32>(), Some(1000));
        assert_eq!(conf.priority_weight_qos.count::<u32>(), Some(5));
    }
}
