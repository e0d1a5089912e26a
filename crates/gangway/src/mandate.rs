//! Whether this process may act now.
//!
//! One mandate per process: granted at the start, or with an election when the Lease is ours. It runs out
//! by itself unless it is extended in time, and never comes back: then the process ends, because a restart
//! is clean and what was known before a long stop is not. Every request that changes something asks at the
//! last moment ([`crate::apiserver`], and the gate of the Slurm client), so that nothing that was decided
//! before the process stood still is done after it. It must never be asked about reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gangway_slurm::Gate;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Without an election: a process that has stood still for so long knows nothing for certain any more.
const STOOD_STILL: Duration = Duration::from_secs(10);
/// Without an election, how often it is seen that the process goes on.
const BEAT: Duration = Duration::from_secs(1);
/// Not granted yet.
const NOT_YET: i64 = i64::MIN;

/// The mandate; cheap to clone.
#[derive(Clone)]
pub(crate) struct Mandate(Arc<Inner>);

struct Inner {
    began: Instant,
    /// Until when it holds, in milliseconds since `began`.
    until: AtomicI64,
    standing: watch::Sender<Standing>,
}

/// Where this process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Somebody else leads: whoever this names, where that is known.
    Waits(String),
    /// It may act, as long as the mandate holds.
    Leads,
    /// It may not act any more, and is ending.
    Over,
}

/// The mandate has run out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lapsed {
    /// The Lease was not renewed in time.
    #[error(
        "the Lease could not be renewed in time: another process may lead now, so this one ends"
    )]
    NotRenewed,
    /// The process, or the whole machine, was stopped.
    #[error(
        "this process stood still for more than {:?}: what it knows may be old, so it ends",
        STOOD_STILL
    )]
    StoodStill,
}

impl Mandate {
    /// One that is still to be granted.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            until: AtomicI64::new(NOT_YET),
            standing: watch::Sender::new(Standing::Waits(String::new())),
        }))
    }

    /// Milliseconds since it was made: the clock by which it runs out.
    pub(crate) fn now(&self) -> i64 {
        i64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Whether this process may act at this very moment.
    pub(crate) fn holds(&self) -> bool {
        self.holds_at(self.now())
    }

    fn holds_at(&self, now: i64) -> bool {
        now < self.0.until.load(Ordering::SeqCst)
    }

    /// Where this process stands.
    pub(crate) fn standing(&self) -> Standing {
        self.0.standing.borrow().clone()
    }

    /// Waits until it is granted.
    pub(crate) async fn granted(&self) {
        // The sender lives in self.
        let _ = self.0.standing.subscribe().wait_for(|s| *s == Standing::Leads).await;
    }

    /// Somebody else leads.
    pub(crate) fn waits_for(&self, leader: &str) {
        self.0.standing.send_if_modified(|old| {
            let new = Standing::Waits(leader.to_owned());
            let news = matches!(old, Standing::Waits(_)) && *old != new;
            if news {
                tracing::info!(leader, "another process leads");
                *old = new;
            }
            news
        });
    }

    /// Grants it, or extends it, until then. `false`: it has run out already, and stays so.
    pub(crate) fn extend(&self, until: i64) -> bool {
        self.extend_at(self.now(), until)
    }

    fn extend_at(&self, now: i64, until: i64) -> bool {
        let extended = self.0.until.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
            (old == NOT_YET || now < old).then_some(until)
        });
        if extended == Ok(NOT_YET) {
            self.0.standing.send_replace(Standing::Leads);
        }
        extended.is_ok()
    }

    /// Takes it away at once and for good.
    pub(crate) fn end(&self) {
        self.0.until.store(0, Ordering::SeqCst);
        self.0.standing.send_replace(Standing::Over);
    }

    /// Grants it from the start, and extends it for as long as the process goes on.
    pub(crate) async fn without_election(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.unless_it_stands_still(STOOD_STILL, stop).await
    }

    async fn unless_it_stands_still(
        self,
        length: Duration,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = beat.tick() => {}
            }
            if !self.extend(self.now() + length) {
                self.end();
                return Err(Lapsed::StoodStill.into());
            }
        }
    }

    /// Ends the process when the mandate of an election has run out.
    pub(crate) async fn with_election(self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = self.granted() => {}
        }
        loop {
            let until = self.0.until.load(Ordering::SeqCst);
            let left = until.saturating_sub(self.now());
            let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else {
                self.end();
                return Err(Lapsed::NotRenewed.into());
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_millis(left)) => {}
            }
        }
    }
}

impl Gate for Mandate {
    fn is_open(&self) -> bool {
        self.holds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_granted_extended_and_runs_out_for_good() {
        let mandate = Mandate::new();
        assert!(!mandate.holds_at(0) && mandate.standing() == Standing::Waits(String::new()));
        mandate.waits_for("other");
        assert_eq!(mandate.standing(), Standing::Waits("other".into()));
        assert!(mandate.extend_at(0, 1_000) && mandate.holds_at(0));
        assert_eq!(mandate.standing(), Standing::Leads);
        mandate.waits_for("other");
        assert_eq!(mandate.standing(), Standing::Leads, "who leads waits for nobody");
        assert!(mandate.holds_at(999) && mandate.extend_at(999, 2_000));
        assert!(mandate.holds_at(1_999) && !mandate.holds_at(2_000), "nobody extended it");
        assert!(
            !mandate.extend_at(2_000, 9_000) && !mandate.holds_at(2_001),
            "it never comes back"
        );
        mandate.end();
        assert!(!mandate.extend_at(0, 9_000) && mandate.standing() == Standing::Over);
    }

    #[tokio::test]
    async fn a_process_that_stood_still_may_not_act_any_more() {
        let (mandate, stop) = (Mandate::new(), CancellationToken::new());
        let length = Duration::from_secs(2);
        let beating = tokio::spawn(mandate.clone().unless_it_stands_still(length, stop.clone()));
        mandate.granted().await;
        assert!(mandate.holds());
        // This runtime has one thread: while it waits for nothing, nothing else goes on.
        let (_nobody, nothing) = std::sync::mpsc::channel::<()>();
        assert!(nothing.recv_timeout(Duration::from_secs(3)).is_err());
        assert!(!mandate.holds(), "asked before the beat could notice");
        assert!(beating.await.expect("no panic").is_err());
        assert_eq!(mandate.standing(), Standing::Over);
    }

    #[tokio::test]
    async fn with_an_election_the_process_ends_when_nobody_extends_it() {
        let (mandate, stop) = (Mandate::new(), CancellationToken::new());
        let keeping = tokio::spawn(mandate.clone().with_election(stop.clone()));
        tokio::task::yield_now().await;
        assert!(!keeping.is_finished(), "a standby waits as long as it takes");
        assert!(mandate.extend(mandate.now() + 50));
        assert!(keeping.await.expect("no panic").is_err());
        assert!(!mandate.holds() && mandate.standing() == Standing::Over);
    }
}
