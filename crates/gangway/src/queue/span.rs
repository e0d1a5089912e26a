//! The spans of placeholders: whatever is logged within one says of which gang it is, and of which job.
//!
//! Each stands alone, not inside another, so that a line never names two jobs. An error's spans, so that they are there
//! whatever is logged.

use gangway_core::job::{Job, JobId};
use gangway_core::placeholder::Stamp;
use tracing::{Span, error_span};

use super::Key;

impl Key {
    /// For what is done for this gang; `job`: the placeholder that it is about, where there is one.
    pub(super) fn span(&self, job: Option<JobId>) -> Span {
        span(Some((&self.cluster, &self.gang)), job)
    }
}

/// For what is done with a job, of which gang its own key says.
pub(super) fn of_job(job: &Job) -> Span {
    let stamp = Stamp::of(job);
    span(stamp.as_ref().map(|stamp| (&*stamp.cluster, &*stamp.gang)), Some(job.id))
}

fn span(key: Option<(&str, &str)>, job: Option<JobId>) -> Span {
    let (cluster, gang) = key.unzip();
    error_span!(parent: None, "placeholder", cluster, gang, job = job.map(|job| job.0))
}
