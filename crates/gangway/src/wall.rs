//! The clock on the wall, for people to read: in conditions, events and metrics.
//!
//! Nothing is decided by it, for it may jump, but for one thing: how much is left of a grace that a bridge
//! before this one has given, which only the pods know (`warn::left`), and never more than the whole of it.
//! Otherwise the bridge counts milliseconds since it started, and compares Slurm's times with Slurm's clock
//! and Kubernetes' with Kubernetes'. Clippy refuses this clock everywhere else (clippy.toml).

use k8s_openapi::jiff::Timestamp;

/// What time it is, for people.
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
