//! One line when a long step starts, one every fifteen seconds while it runs, one when it ends.

use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

const EVERY: Duration = Duration::from_secs(15);

/// When this program started: every line says how long ago that is.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Says one thing, with the time.
pub(crate) fn say(text: &str) {
    println!("[{:>4}s] {text}", start().elapsed().as_secs());
}

/// Does `work` and says so while it lasts.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(what);
    let began = Instant::now();
    let (done, waiting) = channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(move || {
            while waiting.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                say(&format!("{what} ({})", minutes(began.elapsed())));
            }
        });
        let result = work();
        drop(done);
        result
    });
    let end = if result.is_ok() { "done" } else { "FAILED" };
    say(&format!("{what}: {end} in {}", minutes(began.elapsed())));
    result
}

/// `1m10s`, or `7.2s` below a minute.
pub(crate) fn minutes(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1}s", time.as_secs_f32()),
        seconds => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}
