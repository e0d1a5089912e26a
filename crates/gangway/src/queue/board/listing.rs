//! Every job as it was last listed, for people to look at: nothing is decided by it.

use std::sync::Arc;

use gangway_core::job::Job;
use tokio::time::Instant;

use super::Board;

/// All jobs at one moment.
#[derive(Clone)]
pub(crate) struct Listing {
    pub(crate) jobs: Arc<Vec<Arc<Job>>>,
    /// When it was asked for: seconds since the epoch, and by a clock that does not jump.
    pub(crate) as_of: i64,
    pub(crate) asked: Instant,
    /// What slurmctld calls that moment.
    pub(crate) last_update: i64,
}

impl Board {
    /// The last one, if there has been any.
    pub(crate) fn listing(&self) -> Option<Listing> {
        self.inner().listing.clone()
    }
}
