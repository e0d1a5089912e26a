//! What to make of a placeholder that slurmctld does not know any more while pods are bound for it.
//!
//! That slurmctld says "no such job" is no evidence of an end (rule 6): it purges what has ended, and in a
//! crash it forgets what has not. Nobody is evicted here but on accounting's record of an end. A job
//! that is shown to be forgotten is asked for again under the key and id that its pods carry: they stay
//! where they get the same nodes, and until theirs are given to somebody else.

use super::Stamp;
use crate::job::{BaseState, Job, JobId, JobState, Standing};

/// How long slurmctld must have been up, by its own clock, before accounting's silence means anything
/// (s): it tells a start within 5 s, and keeps what it could not tell for later.
const SILENT_FOR_S: i64 = 30;

/// Where there is no accounting, slurmctld has to say so often that it knows no such job.
const DENIALS: u32 = 3;

/// What accounting has on record under the lost job's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its key, which accounting learns of at the end; before it, there is none.
    pub key: String,
    /// Its state.
    pub state: JobState,
    /// When it was submitted, seconds since the epoch, by slurmctld's clock.
    pub submit_time: i64,
    /// When it started; 0 where it never did.
    pub start_time: i64,
}

/// What is known once slurmctld itself has said that it has no such job, and accounting has answered, or
/// there is none.
#[derive(Clone, Copy, Debug)]
pub struct Silence<'a> {
    /// Accounting's records of the job's id, in any order; ids come back, so most may be others'.
    pub records: &'a [Record],
    /// Whether there is accounting: its silence says more than that of nobody.
    pub accounting: bool,
    /// How often slurmctld has said so where there is none, one answer after another.
    pub denials: u32,
    /// When slurmctld began, by its own clock (s).
    pub boot_time: i64,
    /// What that clock says now (s).
    pub now: i64,
    /// When the job was submitted, where this bridge has seen it alive and slurmctld has begun anew
    /// since.
    pub seen_before_boot: Option<i64>,
}

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Accounting has its end.
    Ended(BaseState),
    /// slurmctld has forgotten it: it has begun anew since the job was alive, and accounting has no end.
    Forgotten,
    /// Nobody can say yet.
    Unknown,
}

/// What has become of the placeholder of one attempt of one gang.
pub fn fate(cluster: &str, gang: &str, generation: u32, silence: &Silence<'_>) -> Fate {
    let own = |r: &&Record| {
        let keyed = Stamp::parse(&r.key).is_some_and(|s| s.is_of(cluster, gang, generation));
        // An attempt may have been repeated under its key: what is older than the job is another's.
        keyed && silence.seen_before_boot.is_none_or(|submitted| r.submit_time >= submitted)
    };
    let over = |r: &Record| r.state.standing() == Standing::Over;
    let runaway = |r: &Record| !over(r) && r.start_time > 0 && r.start_time < silence.boot_time;
    let latest = silence.records.iter().filter(own).max_by_key(|r| r.submit_time);
    // Accounting learns of a key at the end, so what has none and is younger is the job itself.
    let younger = |r: &Record| latest.is_none_or(|own| r.submit_time > own.submit_time);
    let keyless = silence.records.iter().any(|r| r.key.is_empty() && younger(r) && runaway(r));
    let silent = silence.now.saturating_sub(silence.boot_time) >= SILENT_FOR_S;
    match latest {
        _ if keyless => Fate::Forgotten,
        Some(own) if over(own) => Fate::Ended(own.state.base.clone()),
        Some(own) if runaway(own) => Fate::Forgotten,
        _ if silence.seen_before_boot.is_some() => Fate::Forgotten,
        // Without accounting nobody will ever say more. It may have ended, and slurmctld have let go of its
        // record: asked for again, its pods stay where they get the same nodes, and leave where those are
        // somebody else's; on an answer that is missing nobody is evicted (rule 6).
        None if silent && (silence.accounting || silence.denials >= DENIALS) => Fate::Forgotten,
        _ => Fate::Unknown,
    }
}

/// The end of what took the place of a forgotten job: another placeholder of the same attempt, asked for since
/// slurmctld has begun anew (`boot`, by its own clock), and over. It is the end of the attempt, and of the pods that
/// are bound for the forgotten one; else they would be asked for again and again, and end as often.
///
/// One that was given back is the end of nobody.
pub fn successor_over(
    listed: &[(Stamp, Job)],
    lost: JobId,
    generation: u32,
    boot: i64,
) -> Option<&Job> {
    let instead = |(stamp, job): &&(Stamp, Job)| {
        stamp.generation == generation
            && !stamp.is_given_back()
            && job.id != lost
            && job.submit_time >= boot
    };
    let latest = listed.iter().filter(instead).max_by_key(|(_, job)| job.submit_time)?;
    Some(&latest.1).filter(|job| job.standing() == Standing::Over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_the_place_of_a_forgotten_job_ends_its_pods_too() {
        let one = |id: u32, generation: u32, pods: u64, state: BaseState, submit_time: i64| {
            let mut job = Job { id: JobId(id), submit_time, ..Job::default() };
            job.state.base = state;
            let (cluster, gang) = ("c".to_owned(), "g".to_owned());
            (Stamp { cluster, gang, generation, pods, part: None }, job)
        };
        let over = |listed: &[(Stamp, Job)]| {
            successor_over(listed, JobId(167), 1, BOOT).map(|job| job.id.0)
        };
        use BaseState::{Cancelled, Running};
        assert_eq!(over(&[one(9, 1, 5, Cancelled, BOOT + 1)]), Some(9));
        assert_eq!(over(&[]), None);
        assert_eq!(over(&[one(9, 1, 5, Running, BOOT + 1)]), None, "it goes on");
        assert_eq!(over(&[one(9, 2, 5, Cancelled, BOOT + 1)]), None, "of another attempt");
        assert_eq!(over(&[one(9, 1, 0, Cancelled, BOOT + 1)]), None, "given back");
        assert_eq!(over(&[one(9, 1, 5, Cancelled, BOOT - 1)]), None, "from before the crash");
        assert_eq!(over(&[one(167, 1, 5, Cancelled, BOOT + 1)]), None, "the job itself");
        let both = [one(9, 1, 5, Cancelled, BOOT + 1), one(10, 1, 5, Running, BOOT + 2)];
        assert_eq!(over(&both), None, "the latest counts");
    }

    const BOOT: i64 = 1_000_000;

    fn record(key: &str, state: &str, start_time: i64) -> Record {
        Record {
            key: key.to_owned(),
            state: JobState::parse(&[state]),
            submit_time: start_time - 1,
            start_time,
        }
    }

    fn key(generation: u32) -> String {
        format!("gangway/1 c g {generation} 0000000000000001")
    }

    fn of(records: &[Record], up: i64, seen: bool) -> Fate {
        let seen_before_boot = seen.then_some(BOOT - 10);
        let (boot_time, now) = (BOOT, BOOT + up);
        let (accounting, denials) = (true, 1);
        fate(
            "c",
            "g",
            2,
            &Silence { records, accounting, denials, boot_time, now, seen_before_boot },
        )
    }

    #[test]
    fn an_end_is_believed_only_under_the_very_key() {
        let ended = Fate::Ended(BaseState::Timeout);
        assert_eq!(of(&[record(&key(2), "TIMEOUT", BOOT - 9)], 1, false), ended);
        for other in [&key(1), "gangway/1 d g 2 0000000000000001", "bob's"] {
            assert_eq!(of(&[record(other, "TIMEOUT", BOOT - 9)], 1, false), Fate::Unknown);
        }
    }

    #[test]
    fn an_end_of_an_earlier_job_under_the_same_key_is_none_of_this_ones() {
        let old = record(&key(2), "CANCELLED", BOOT - 500);
        let new = record(&key(2), "RUNNING", BOOT - 9);
        assert_eq!(of(&[new.clone(), old.clone()], 1, false), Fate::Forgotten);
        // Accounting has not heard of the key before the end.
        let new = Record { key: String::new(), ..new };
        assert_eq!(of(&[old.clone(), new], 1, false), Fate::Forgotten);
        assert_eq!(of(&[old], 1, false), Fate::Ended(BaseState::Cancelled));
    }

    #[test]
    fn what_ran_before_slurmctld_began_anew_is_forgotten() {
        for key in [key(2), String::new()] {
            assert_eq!(of(&[record(&key, "RUNNING", BOOT - 1)], 0, false), Fate::Forgotten);
            // It began under this very slurmctld, which cannot have forgotten it: wait for its end.
            assert_eq!(of(&[record(&key, "RUNNING", BOOT + 1)], 5, false), Fate::Unknown);
        }
    }

    #[test]
    fn silence_means_nothing_at_first_unless_the_job_was_seen_alive() {
        assert_eq!(of(&[], SILENT_FOR_S - 1, false), Fate::Unknown);
        assert_eq!(of(&[], SILENT_FOR_S, false), Fate::Forgotten);
        assert_eq!(of(&[], 0, true), Fate::Forgotten);
        // An end that was told in time is an end.
        let ended = record(&key(2), "CANCELLED", BOOT - 9);
        assert_eq!(of(&[ended], 0, true), Fate::Ended(BaseState::Cancelled));
        // One that is older than the job is another's.
        let older = record(&key(2), "CANCELLED", BOOT - 10);
        assert_eq!(of(&[older], 0, true), Fate::Forgotten);
    }

    #[test]
    fn where_there_is_no_accounting_slurmctld_is_asked_more_than_once() {
        let of = |up, denials| {
            let (boot_time, now) = (BOOT, BOOT + up);
            let silence = Silence {
                records: &[],
                accounting: false,
                denials,
                boot_time,
                now,
                seen_before_boot: None,
            };
            fate("c", "g", 2, &silence)
        };
        assert_eq!(of(SILENT_FOR_S, DENIALS - 1), Fate::Unknown);
        assert_eq!(of(SILENT_FOR_S - 1, DENIALS), Fate::Unknown, "it may still read its state");
        assert_eq!(of(SILENT_FOR_S, DENIALS), Fate::Forgotten);
    }

    #[test]
    fn a_jump_of_the_clock_decides_nothing() {
        for jump in [-600, 600] {
            for records in [
                vec![],
                vec![record(&key(2), "RUNNING", BOOT - 9)],
                vec![record(&key(2), "CANCELLED", BOOT - 9)],
            ] {
                let moved = records.iter().cloned().map(|r| Record {
                    submit_time: r.submit_time + jump,
                    start_time: r.start_time + jump,
                    ..r
                });
                let moved: Vec<Record> = moved.collect();
                let boot_time = BOOT + jump;
                let now = boot_time + 1;
                let silence = Silence {
                    records: &moved,
                    accounting: true,
                    denials: 1,
                    boot_time,
                    now,
                    seen_before_boot: None,
                };
                assert_eq!(fate("c", "g", 2, &silence), of(&records, 1, false), "{jump}");
            }
        }
    }
}
