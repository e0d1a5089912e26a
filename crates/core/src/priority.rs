//! What a job's priority is made of, as far as Slurm tells it: for people.
//!
//! Slurm alone computes priorities. What is said here is its own sum, split up by the weights and factors that its REST
//! shows (`conf`, `shares`, `partitions`); it has no `sprio`, so size, quality of service, account, TRES and nice are one
//! remainder. Nothing may be decided by it.

use std::fmt::Write as _;

use serde::Serialize;

/// How this Slurm computes priorities (slurm.conf).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `PriorityType` is multifactor; else whoever comes first goes first.
    pub multifactor: bool,
    /// `PriorityWeightAge`.
    pub age: u32,
    /// `PriorityMaxAge`, seconds: whoever has waited so long has all of it.
    pub max_age: i64,
    /// `PriorityWeightFairshare`.
    pub fairshare: u32,
    /// `PriorityWeightPartition`.
    pub partition: u32,
    /// Some other weight is set: of size, quality of service, account or TRES.
    pub others: bool,
    /// `PriorityCalcPeriod`, seconds: how old Slurm's sum may be.
    pub period: i64,
}

/// What is known of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Known {
    /// Slurm's sum.
    pub priority: u32,
    /// How long it has gained age, seconds.
    pub waited: i64,
    /// Fairshare of whom it is charged to, 0 to 1.
    pub fairshare: Option<f64>,
    /// Its partition's factor, 0 to 1.
    pub partition: Option<f64>,
}

/// The sum in parts, in points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Factors {
    /// For the time it has waited.
    pub age: u32,
    /// For what its user and account have used less than their share.
    pub fairshare: u32,
    /// For its partition.
    pub partition: u32,
    /// The rest, which may be taken off.
    pub other: i64,
}

impl Rules {
    /// Why priorities say nothing; `None`: they do.
    pub fn silent(&self) -> Option<&'static str> {
        if !self.multifactor {
            return Some(
                "this Slurm gives no priorities (priority/basic): whoever comes first goes first",
            );
        }
        let none = !self.others && self.age == 0 && self.fairshare == 0 && self.partition == 0;
        none.then_some(
            "all of Slurm's priority weights are 0, so age and fairshare count for nothing; of the same priority the lower job id goes first",
        )
    }

    /// The parts of a priority; `None` where they are not known.
    pub fn factors(&self, known: &Known) -> Option<Factors> {
        if self.silent().is_some() || known.priority == 0 {
            return None;
        }
        let part = |weight: u32, factor: Option<f64>| match weight {
            0 => Some(0),
            weight => factor.map(|factor| points(weight, factor)),
        };
        let age = match self.max_age {
            0 => 0.0,
            most => (known.waited.max(0) as f64 / most as f64).min(1.0),
        };
        let age = points(self.age, age);
        let (fairshare, partition) =
            (part(self.fairshare, known.fairshare)?, part(self.partition, known.partition)?);
        let sum = i64::from(age) + i64::from(fairshare) + i64::from(partition);
        let other = i64::from(known.priority) - sum;
        // It was summed up a while ago, when it was younger, and each part was rounded.
        let aged = i64::from(self.age).saturating_mul(self.period) / self.max_age.max(1) + 3;
        let trembles = other <= 0 && -other <= aged || !self.others && other.abs() <= aged;
        Some(Factors { age, fairshare, partition, other: if trembles { 0 } else { other } })
    }
}

fn points(weight: u32, factor: f64) -> u32 {
    // Between 0 and the weight, so nothing is cut off.
    (f64::from(weight) * factor.clamp(0.0, 1.0)).round() as u32
}

impl Factors {
    /// `1000 for its age, 210 for fairshare, 500 for its partition, 20 for the rest (size, QoS, account, TRES, nice)`
    pub fn told(&self) -> String {
        let mut out = String::new();
        let parts = [
            (i64::from(self.age), "for its age"),
            (i64::from(self.fairshare), "for fairshare"),
            (i64::from(self.partition), "for its partition"),
            (self.other, "for the rest (size, QoS, account, TRES, nice)"),
        ];
        for (points, what) in parts.into_iter().filter(|(points, _)| *points != 0) {
            let comma = if out.is_empty() { "" } else { ", " };
            let _ = write!(out, "{comma}{points} {what}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            multifactor: true,
            age: 1000,
            max_age: 1000,
            fairshare: 2000,
            partition: 500,
            others: true,
            period: 10,
        }
    }

    fn known(priority: u32) -> Known {
        Known { priority, waited: 250, fairshare: Some(0.5), partition: Some(1.0) }
    }

    #[test]
    fn a_priority_is_its_parts_and_a_rest() {
        let factors = rules().factors(&known(1770)).expect("it is known");
        assert_eq!(factors, Factors { age: 250, fairshare: 1000, partition: 500, other: 20 });
        assert_eq!(
            factors.told(),
            "250 for its age, 1000 for fairshare, 500 for its partition, 20 for the rest (size, QoS, account, TRES, nice)"
        );
        // Slurm summed it up while it was younger; that is no nice value.
        assert_eq!(rules().factors(&known(1742)).map(|f| f.other), Some(0));
        assert_eq!(rules().factors(&known(1650)).map(|f| f.other), Some(-100));
        let older = Known { waited: 9_999, ..known(2500) };
        assert_eq!(rules().factors(&older).map(|f| f.age), Some(1000), "age has an end");
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        assert_eq!(rules().factors(&Known { fairshare: None, ..known(1770) }), None);
        let unused = Rules { fairshare: 0, ..rules() };
        let factors = unused.factors(&Known { fairshare: None, ..known(770) });
        assert_eq!(factors.map(|f| f.other), Some(20), "a weight of 0 needs no factor");
        assert_eq!(rules().factors(&known(0)), None, "it is held, or Slurm has not looked yet");
    }

    #[test]
    fn where_priorities_say_nothing_that_is_said() {
        let none = Rules { multifactor: true, ..Rules::default() };
        assert!(none.silent().is_some_and(|why| why.contains("weights are 0")));
        assert!(Rules::default().silent().is_some_and(|why| why.contains("priority/basic")));
        assert_eq!((rules().silent(), none.factors(&known(1))), (None, None));
    }
}
