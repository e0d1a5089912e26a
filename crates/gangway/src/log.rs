//! The log of this process: to standard error, as text or as one JSON object per line, and what is in it, which can be
//! changed while the process runs.
//!
//! A process has one log, so this is the one thing here that is the process's own and nobody's part.
//!
//! Names are the same everywhere: `gang` is a gang's uid, `job` a Slurm job's id, a number. Tasks that are about one gang
//! run in a span that says both, so that their lines need not; of other lines each says it itself.

mod flat;

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder};
use tracing_subscriber::reload::Handle;

use flat::Flat;

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
    // Starting fails only where a log is there already, which is fine: that one stays.
    if json {
        let log = lines(parsed, std::io::stderr).with_filter_reloading();
        let handle = log.reload_handle();
        if log.try_init().is_ok() {
            remember(filter, handle);
        }
    } else {
        let log = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
        let log = log.with_ansi(false).with_filter_reloading();
        let handle = log.reload_handle();
        if log.try_init().is_ok() {
            remember(filter, handle);
        }
    }
    Ok(())
}

/// A log of JSON lines.
fn lines<W>(filter: EnvFilter, writer: W) -> SubscriberBuilder<JsonFields, Flat, EnvFilter, W>
where
    W: for<'a> MakeWriter<'a> + 'static,
{
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    log.json().flatten_event(true).with_span_list(false).map_event_format(Flat)
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

#[cfg(test)]
mod tests;
