//! The clock on the wall, for people to read: in conditions, events and metrics.
//!
//! Nothing is ever decided by it, for it may jump: the bridge counts milliseconds since it started, and
//! compares Slurm's times with Slurm's clock and Kubernetes' with Kubernetes'. Clippy refuses this clock
//! everywhere else (clippy.toml).

use k8s_openapi::jiff::Timestamp;

/// What time it is, for people.
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
