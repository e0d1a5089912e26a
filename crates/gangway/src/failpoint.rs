//! Fail points: named places right after something outside has answered, where a test lets the bridge
//! die (docs/faults.md).
//!
//! Without the feature `fail-points` a point is nothing at all, and no release is built with it. It must
//! never change what the bridge does, other than by ending it.

/// Declares the points, and with them the one table of all there are.
macro_rules! points {
    ($($point:ident, $name:literal, $says:literal;)*) => {
        /// A place where the bridge may be made to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Point {
            $(#[doc = $says] $point,)*
        }

        /// Every point, with its name and what has just been answered there.
        #[cfg(feature = "fail-points")]
        const TABLE: &[(Point, &str, &str)] = &[$((Point::$point, $name, $says),)*];
    };
}

points! {
    JobsListed, "jobs.listed", "all of Slurm's jobs were listed";
    Missed, "submit.missed", "Slurm has no nodes for the gang at once";
    Immediate, "submit.immediate", "Slurm has given the gang its nodes at once";
    Looked, "submit.looked", "what was given at once has been read";
    Queued, "submit.queued", "Slurm has put the placeholder into its queue";
    Taken, "submit.taken", "the chosen job id is taken, and by whom was read";
    PartitionsRead, "partitions.read", "Slurm's partitions were read, to cut a list to their nodes";
    AllocationRead, "allocation.read", "the allocation of a placeholder that runs was read";
    TimeRead, "time.read", "Slurm's clock was read, for a gang that wants to be warned";
    Sealed, "key.sealed", "the key stands where only we can write it";
    SealedLast, "key.sealed-last", "the same, of a placeholder that is about to be ended";
    Marked, "key.marked", "a placeholder is marked as given back";
    Excluded, "nodes.excluded", "a waiting placeholder was told which nodes are shut";
    Cancelled, "cancel.sent", "a placeholder was cancelled";
    CancelSeen, "cancel.seen", "a cancelled placeholder was read";
    Woken, "scheduler.woken", "Slurm's scheduler was woken for those that wait";
    Swept, "sweep.released", "a placeholder without pods was released";
    ClaimTold, "claim.told", "a volume claim was told its node";
    Bound, "pod.bound", "a pod's Binding was answered";
    Evicted, "pod.evicted", "a pod's Eviction was answered";
    Warned, "pod.warned", "a pod was told that it has to leave";
    StoodIn, "standin.written", "a successor whose seat is lost was told that it stands in for a member";
    Checkpointed, "pod.checkpointed", "a pod whose hook has said so was marked as checkpointed";
    Inquired, "release.inquired", "what there is of a gang that nobody is left of was found out";
    LeaseWritten, "lease.written", "the Lease was taken, or renewed";
    Readdressed, "heal.readdressed", "a poisoned node was given the sink's address";
    Stirred, "heal.stirred", "a placeholder on poisoned nodes was stirred";
    Touched, "extender.touched", "a pod was touched, so that kube-scheduler looks at it again";
    Held, "prolog.looked", "the pods on a hybrid node were listed, for a job that is about to start";
    Condition, "condition.written", "a pod was told why it waits";
    Event, "event.written", "an event was written";
}

/// Passes a point.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub(crate) const fn pass(_point: Point) {}

#[cfg(feature = "fail-points")]
pub(crate) use armed::{arm, pass, table};

#[cfg(feature = "fail-points")]
mod armed {
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::Context as _;

    use super::{Point, TABLE};

    /// Where to die: `pod.bound`, or `pod.bound:3` for the third time it is passed.
    const AT: &str = "GANGWAY_CRASH_AT";
    /// A file that gets the name of every point when it is first passed.
    const LOG: &str = "GANGWAY_CRASH_LOG";

    static ARMED: OnceLock<Armed> = OnceLock::new();

    #[derive(Debug)]
    struct Armed {
        at: Option<(usize, u32)>,
        log: Option<File>,
        passed: [AtomicU32; TABLE.len()],
    }

    /// Reads what the environment wants, before anything is done. Whoever misspells a point hears of it.
    pub(crate) fn arm() -> anyhow::Result<()> {
        let at = std::env::var(AT).ok().map(|text| parse(&text)).transpose()?;
        let log = std::env::var_os(LOG).map(|path| {
            let log = File::options().create(true).append(true).open(&path);
            log.with_context(|| format!("cannot write {}", path.display()))
        });
        let passed = std::array::from_fn(|_| AtomicU32::new(0));
        let armed = Armed { at, log: log.transpose()?, passed };
        ARMED.set(armed).map_err(|_| anyhow::anyhow!("the fail points are armed already"))
    }

    fn parse(text: &str) -> anyhow::Result<(usize, u32)> {
        let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
        let place = TABLE.iter().position(|(_, known, _)| *known == name);
        let place = place.with_context(|| format!("{AT}: there is no fail point {name:?}"))?;
        let nth = nth.parse().ok().filter(|nth| *nth > 0);
        Ok((place, nth.with_context(|| format!("{AT}: {text:?} has no number above 0"))?))
    }

    /// Passes a point; dies there if this is where to.
    pub(crate) fn pass(point: Point) {
        let Some(armed) = ARMED.get() else { return };
        let Some(place) = TABLE.iter().position(|(known, _, _)| *known == point) else { return };
        let passed = armed.passed[place].fetch_add(1, Ordering::SeqCst) + 1;
        if passed == 1
            && let Some(mut log) = armed.log.as_ref()
        {
            // One write, so that lines stay whole; whoever reads the file misses what it lacks.
            let _ = log.write_all(format!("{}\n", TABLE[place].1).as_bytes());
        }
        if armed.at == Some((place, passed)) {
            // No destructor runs and nothing is flushed, as with SIGKILL.
            std::process::abort();
        }
    }

    /// Every point with what it says, a line each.
    pub(crate) fn table() -> String {
        TABLE.iter().map(|(_, name, says)| format!("{name}\t{says}\n")).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn names_are_their_points_and_no_two_are_alike() {
            for (place, (_, name, _)) in TABLE.iter().enumerate() {
                assert_eq!(parse(name).expect("a known name"), (place, 1), "{name} is taken twice");
            }
            assert_eq!(parse("pod.bound:16").expect("a number").1, 16);
            for wrong in ["", "pod", "pod.bound:", "pod.bound:0", "pod.bound:two"] {
                assert!(parse(wrong).is_err(), "{wrong:?}");
            }
        }
    }
}
