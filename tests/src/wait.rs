//! Waiting for a state, and seeing that a state stays.

use std::time::{Duration, Instant};

/// Generous: two cores may be busy compiling something else.
pub const SOON: Duration = Duration::from_secs(60);

/// Between two looks where a state is to stay.
const STEP: Duration = Duration::from_millis(25);

/// Looks until `probe` finds what is wanted; what it says instead is shown when time is up.
pub async fn wait<T>(
    what: &str,
    within: Duration,
    probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    look(&pause, what, within, probe).await
}

/// The same, with a pause of its own between two looks: where looking costs those who are waited for.
pub async fn wait_calmly<T>(
    pause: Duration,
    what: &str,
    within: Duration,
    probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    look(&|_| pause, what, within, probe).await
}

/// Between two looks after so long: what comes at once is seen at once, and what takes seconds is not made slower by
/// those who ask for it.
fn pause(waited: Duration) -> Duration {
    (waited / 10).clamp(Duration::from_millis(10), Duration::from_millis(100))
}

async fn look<T>(
    pause: &dyn Fn(Duration) -> Duration,
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let began = Instant::now();
    loop {
        let seen = match probe().await {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        let waited = began.elapsed();
        assert!(waited < within, "not within {within:?}: {what}; last seen: {seen}");
        tokio::time::sleep(pause(waited)).await;
    }
}

/// Looks for the whole `span`: what `probe` asserts must hold every time.
pub async fn stays(what: &str, span: Duration, mut probe: impl AsyncFnMut() -> Result<(), String>) {
    let began = Instant::now();
    while began.elapsed() < span {
        let seen = probe().await;
        assert!(seen.is_ok(), "{what}: no longer after {:?}: {seen:?}", began.elapsed());
        tokio::time::sleep(STEP).await;
    }
}
