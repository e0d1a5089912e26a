//! Whether a Slurm job may start on a node that it shares with pods, now that Slurm has given it devices.
//!
//! Slurm frees a placeholder's devices at once, while its pods may take their time to end. Whoever gets
//! them next in Slurm's own queue is held here until those pods are gone (rule 4). Pure: it is told what is
//! seen and for how long it has been waited, and says what to do.

use std::collections::BTreeSet;

use crate::place::parse_ranges;

/// A pod on the node, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// `namespace/name`.
    pub pod: String,
    /// The Slurm job it was bound for.
    pub job: String,
    /// Its GPU indexes as the bridge wrote them; `None` where it wrote none.
    pub gpus: Option<String>,
    /// All of its containers have ended for good.
    pub finished: bool,
}

/// What is known of the pods on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// These are there.
    Seen(Vec<Holder>),
    /// They could not be asked for, and why. "Could not ask" is not "gone" (rule 6).
    Unknown(String),
}

/// What to do with the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nobody holds its devices: it may start.
    Start,
    /// Not yet, for this reason; look again.
    Wait(String),
    /// The time is up, and it is still as this says.
    GiveUp(String),
}

/// Decides for a job that was given these GPUs (as slurmd writes them, `0-3` or `0,2`; empty for none).
pub fn decide(gpus: &str, pods: &Pods, waited_ms: i64, deadline_ms: i64) -> Step {
    let Some(wanted) = indexes(gpus) else {
        // Whoever cannot be understood may want any of them.
        let why = format!("SLURM_JOB_GPUS={gpus} cannot be read");
        return held(holders(pods, |_| true), Some(why), waited_ms, deadline_ms);
    };
    if wanted.is_empty() {
        return Step::Start;
    }
    let overlaps = |holder: &Holder| match holder.gpus.as_deref() {
        None => false,
        Some(text) => indexes(text).is_none_or(|held| !held.is_disjoint(&wanted)),
    };
    held(holders(pods, overlaps), None, waited_ms, deadline_ms)
}

fn held(
    why: Result<Vec<String>, String>,
    beside: Option<String>,
    waited_ms: i64,
    deadline_ms: i64,
) -> Step {
    let why = match why {
        Ok(holders) if holders.is_empty() => return Step::Start,
        Ok(holders) => format!("its GPUs are still held by {}", holders.join(", ")),
        Err(unknown) => format!("it is not known which pods are there: {unknown}"),
    };
    let why = match beside {
        Some(beside) => format!("{beside}, and {why}"),
        None => why,
    };
    if waited_ms >= deadline_ms { Step::GiveUp(why) } else { Step::Wait(why) }
}

fn holders(pods: &Pods, holds: impl Fn(&Holder) -> bool) -> Result<Vec<String>, String> {
    match pods {
        Pods::Unknown(why) => Err(why.clone()),
        Pods::Seen(all) => {
            let there = all.iter().filter(|holder| !holder.finished && holds(holder));
            let name = |h: &Holder| format!("pod {} (Slurm job {})", h.pod, h.job);
            Ok(there.map(name).collect())
        }
    }
}

/// `None`: not a list of numbers.
fn indexes(text: &str) -> Option<BTreeSet<u32>> {
    if text.is_empty() {
        return Some(BTreeSet::new());
    }
    Some(parse_ranges(text)?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: i64 = 60_000;

    fn holder(gpus: Option<&str>) -> Holder {
        let gpus = gpus.map(str::to_owned);
        Holder { pod: "team/old".into(), job: "7".into(), gpus, finished: false }
    }

    fn step(gpus: &str, pods: Vec<Holder>, waited: i64) -> Step {
        decide(gpus, &Pods::Seen(pods), waited, DEADLINE)
    }

    #[test]
    fn a_job_waits_for_the_pods_on_its_own_gpus_and_no_others() {
        let why = "its GPUs are still held by pod team/old (Slurm job 7)".to_owned();
        for (gpus, held, waits) in [
            ("0-3", Some("0-3"), true),
            ("0,5", Some("4-7"), true),
            ("3", Some("0,3"), true),
            ("0-3", Some("4-7"), false),
            ("0-3", None, false),
            ("", Some("0-7"), false),
            // What cannot be read may be any of them.
            ("0-3", Some("many"), true),
            ("many", Some("0"), true),
        ] {
            let step = step(gpus, vec![holder(held)], 0);
            assert_eq!(matches!(step, Step::Wait(_)), waits, "{gpus} {held:?} {step:?}");
            assert!(waits || step == Step::Start, "{step:?}");
        }
        assert_eq!(step("0", vec![holder(Some("0")), holder(Some("1"))], 0), Step::Wait(why));
    }

    #[test]
    fn a_pod_that_has_finished_holds_nothing() {
        let finished = Holder { finished: true, ..holder(Some("0-7")) };
        assert_eq!(step("0-7", vec![finished], 0), Step::Start);
    }

    #[test]
    fn the_time_is_up_at_the_deadline_and_not_before() {
        let held = || vec![holder(Some("0"))];
        assert!(matches!(step("0", held(), DEADLINE - 1), Step::Wait(_)));
        assert!(
            matches!(step("0", held(), DEADLINE), Step::GiveUp(why) if why.contains("team/old"))
        );
        assert_eq!(step("0", Vec::new(), DEADLINE), Step::Start, "gone at the last moment");
    }

    #[test]
    fn could_not_ask_is_not_gone() {
        let unknown = Pods::Unknown("no answer".into());
        assert!(
            matches!(decide("0", &unknown, 0, DEADLINE), Step::Wait(why) if why.contains("no answer"))
        );
        assert!(matches!(decide("0", &unknown, DEADLINE, DEADLINE), Step::GiveUp(_)));
        assert_eq!(decide("", &unknown, 0, DEADLINE), Step::Start, "it has no GPU to wait for");
    }
}
