//! The clock on the wall, for people to read: in conditions, events and metrics; and for the dates in tokens.
//!
//! Nothing is decided by it, for it may jump, but for one thing: how much is left of a grace that a bridge
//! before this one has given, which only the pods know (`warn::left`), and never more than the whole of it.
//! Otherwise the bridge counts milliseconds since it started, and compares Slurm's times with Slurm's clock
//! and Kubernetes' with Kubernetes'. Clippy refuses this clock everywhere else (clippy.toml).

use k8s_openapi::jiff::Timestamp;

#[cfg(feature = "testing")]
std::thread_local! {
    // Of one thread: each rehearses on its own.
    static STOPPED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Stops this clock in this thread, so that what is written does not hang on when it is rehearsed.
#[cfg(feature = "testing")]
pub(crate) fn stop() {
    STOPPED.set(true);
}

/// What time it is, for people.
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub(crate) fn now() -> Timestamp {
    #[cfg(feature = "testing")]
    if STOPPED.get() {
        return Timestamp::UNIX_EPOCH;
    }
    Timestamp::now()
}
