//! What is told of a gang beside its pods: where it is counted, how long it took, its trace, and its job in the log.
//!
//! Decides nothing.

use std::time::Duration;

use gangway_core::follow::Verdict;
use gangway_core::gang::Assembled;
use gangway_core::job::JobId;
use gangway_core::life::Phase;
use tracing::Span;

use super::Follower;
use crate::bind::Binding;
use crate::cluster::View;
use crate::metrics::Place;
use crate::trace::{Bound, Round};

impl Follower {
    /// A word on its placeholder was heard.
    pub(super) fn heard(&mut self, verdict: &Verdict) {
        self.passage.hear(verdict, self.cluster.now());
        if let Some(job) = job_of(verdict) {
            self.is_about(Some(job));
        }
    }

    /// From the next look on this is its job in the log.
    pub(super) fn is_about(&mut self, job: Option<JobId>) {
        if self.job != job {
            self.job = job;
            self.span = span(&self.views.borrow().assembled.gang.uid, job);
        }
    }

    /// All that could be bound is: what that took goes into the figures and the log.
    pub(super) fn all_bound(&mut self, view: &View, binds: &[Binding]) {
        let gang = &view.assembled.gang;
        let (job, members) = (binds.first().map_or(0, |binding| binding.job.0), binds.len());
        let now = self.cluster.now();
        let Some((passed, took)) = self.passage.bound(now) else {
            tracing::info!(name = gang.path(), job, members, "bound");
            return;
        };
        let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let (all, queue) = (ms(took.all), ms(took.queue));
        let mut trace = None;
        if let Some(first) = binds.first() {
            let (cluster, generation) = (self.cluster.id.as_str(), first.generation);
            let round = Round { cluster, gang: &gang.uid, generation };
            let (namespace, name) = (gang.namespace.as_str(), gang.name.as_str());
            let bound = Bound { namespace, name, job, members };
            trace = self.cluster.traces.bound(round, bound, &passed, now);
        }
        self.cluster.metrics.took(took, trace.as_deref());
        tracing::info!(name = gang.path(), job, members, took = ?all, in_queue = ?queue, "bound");
    }

    /// Counts it where it is now.
    pub(super) fn count(&mut self, assembled: &Assembled) {
        let reason = match self.life.verdict() {
            Some(Verdict::Queued { reason, .. }) if reason.is_empty() => "None",
            Some(Verdict::Queued { reason, .. }) => reason,
            Some(Verdict::Refused(refusal)) => refusal.category.name(),
            _ => "",
        };
        let phase = self.life.phase(assembled);
        let reason = if matches!(phase, Phase::Queued | Phase::Refused) { reason } else { "" };
        let place = self.cluster.metrics.place(phase.name(), reason);
        self.is_at(Some(place));
    }

    pub(super) fn is_at(&mut self, place: Option<Place>) {
        if self.place != place {
            self.cluster.metrics.moved(self.place.as_ref(), place.as_ref());
            self.place = place;
        }
    }
}

/// Whatever a follower logs says of which gang it is, and of which job once there is one. An error's span, so that it is
/// there whatever is logged.
pub(super) fn span(gang: &str, job: Option<JobId>) -> Span {
    tracing::error_span!(parent: None, "follower", gang, job = job.map(|job| job.0))
}

fn job_of(verdict: &Verdict) -> Option<JobId> {
    match verdict {
        Verdict::Refused(_) => None,
        Verdict::Queued { job, .. } => *job,
        Verdict::Allocated { job, .. } | Verdict::Ended { job, .. } => Some(*job),
    }
}
