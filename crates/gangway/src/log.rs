//! The log of this process: to standard error, as text or as one JSON object per line, and what is in it, which can be
//! changed while the process runs.
//!
//! A process has one log, so this is the one thing here that is the process's own and nobody's part.

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

/// A filter that changes what is logged: `info`, `gangway=debug,warn`.
struct Level {
    now: Mutex<String>,
    change: Box<dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync>,
}

static LEVEL: OnceLock<Level> = OnceLock::new();

/// Why what is logged was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("not a filter such as info or gangway=debug,warn: {0}")]
    NoFilter(#[from] tracing_subscriber::filter::ParseError),
    #[error("this process does not log, or its log is gone")]
    NoLog,
}

/// Logs to standard error from now on.
pub(crate) fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    let parsed = EnvFilter::try_new(filter).context("--log is not a filter")?;
    let log = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    // Starting fails only where a log is there already, which is fine: that one stays.
    if json {
        let log = log.json().with_span_list(false).with_filter_reloading();
        let handle = log.reload_handle();
        if log.try_init().is_ok() {
            remember(filter, handle);
        }
    } else {
        let log = log.with_ansi(false).with_filter_reloading();
        let handle = log.reload_handle();
        if log.try_init().is_ok() {
            remember(filter, handle);
        }
    }
    Ok(())
}

fn remember<S: 'static>(filter: &str, handle: Handle<EnvFilter, S>) {
    let change = Box::new(move |filter| handle.reload(filter));
    // Nothing else sets it: the log was started just now, once.
    let _ = LEVEL.set(Level { now: Mutex::new(filter.to_owned()), change });
}

/// What is logged now; `None` where nothing is.
pub(crate) fn filter() -> Option<String> {
    LEVEL.get().map(|level| level.now.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// From now on this is logged, until it is changed again or the process ends.
pub(crate) fn change(filter: &str) -> Result<(), LogError> {
    let filter = filter.trim();
    let parsed = EnvFilter::try_new(filter)?;
    let level = LEVEL.get().ok_or(LogError::NoLog)?;
    let mut now = level.now.lock().unwrap_or_else(PoisonError::into_inner);
    (level.change)(parsed).map_err(|_gone| LogError::NoLog)?;
    let before = std::mem::replace(&mut *now, filter.to_owned());
    drop(now);
    tracing::warn!(before, now = filter, "what is logged was changed");
    Ok(())
}
