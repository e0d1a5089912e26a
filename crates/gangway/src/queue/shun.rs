//! Nodes that have failed a short while ago: the next placeholders do without them, although Slurm may
//! have taken them back.
//!
//! All that is known is in Slurm's records of the placeholders they ended, so a bridge that starts anew
//! knows it too, and nothing is known any more once Slurm has purged these (MinJobAge).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gangway_core::placeholder::failed_lately;
use gangway_slurm::Error;
use tokio::time::Instant;

use super::Queue;

/// How long Slurm's clock is believed to go on as it was read.
const BELIEVED: Duration = Duration::from_secs(60);

/// For how long failed nodes are shunned (s), and Slurm's clock when it was last read.
pub(super) struct Shunning {
    seconds: u32,
    clock: Mutex<Option<(i64, Instant)>>,
}

/// Nodes to do without.
pub(super) struct Shunned {
    /// Hostlist.
    pub(super) nodes: String,
    /// Until the first of them is trusted again.
    pub(super) left: Duration,
}

impl Shunning {
    pub(super) fn new(seconds: u32) -> Self {
        Self { seconds, clock: Mutex::default() }
    }

    fn clock(&self) -> Option<i64> {
        let clock = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let (then, read) = clock.filter(|(_, read)| read.elapsed() < BELIEVED)?;
        Some(then.saturating_add(i64::try_from(read.elapsed().as_secs()).unwrap_or(i64::MAX)))
    }
}

impl Queue {
    /// The nodes that a cluster's placeholders do without now. Slurm is asked for nothing but its clock,
    /// and only while it remembers a failure.
    pub(super) async fn shunned(&self, cluster: &str) -> Result<Option<Shunned>, Error> {
        let failed = self.board.failed();
        if failed.is_empty() || self.shunning.seconds == 0 {
            return Ok(None);
        }
        let now = match self.shunning.clock() {
            Some(now) => now,
            None => {
                let now = self.slurm.diag().await?.now;
                let mut clock = self.shunning.clock.lock().unwrap_or_else(PoisonError::into_inner);
                *clock = Some((now, Instant::now()));
                now
            }
        };
        let shunned = failed_lately(cluster, &failed, now, self.shunning.seconds);
        Ok(shunned.map(|(nodes, left)| Shunned { nodes, left: Duration::from_secs(left.into()) }))
    }
}
