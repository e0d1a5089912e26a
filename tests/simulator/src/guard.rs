//! A limit in real time for each seed: in one whose tasks wake each other without end, virtual time stands
//! still, and nothing in it would ever say so.
//!
//! It must not have a say in any seed that comes to its end.
#![expect(clippy::print_stderr, reason = "the last words of a process that cannot go on")]

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use tokio::sync::oneshot;

/// A seed takes some hundredths of a second, and a few tenths unoptimised.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How long whoever was told to give up may take to hear of it, beside others who want the CPU.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// What comes of a future within so much real time; `None`: it would go on.
///
/// What never awaits anything cannot be stopped so. Then the process ends, with the number of the seed.
pub(crate) async fn in_time<T>(
    seed: u64,
    limit: Duration,
    of: impl Future<Output = T>,
) -> Option<T> {
    // Dropped when this future is.
    let (_here, ended) = channel::<()>();
    let (give_up, given_up) = oneshot::channel();
    std::thread::spawn(move || {
        let late = |limit| ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if !late(limit) {
            return;
        }
        // Nobody listens where it has just come to its end.
        let _ = give_up.send(());
        if late(LAST_WORDS) {
            eprintln!("seed {seed} does not come to its end, and cannot be stopped");
            std::process::abort();
        }
    });
    tokio::select! {
        biased;
        Ok(()) = given_up => None,
        outcome = of => Some(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_spins_is_given_up_and_what_ends_is_not() {
        // One each: what spins goes on until its runtime is dropped.
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().start_paused(true).build().expect("a runtime")
        };
        let spins = async {
            let other = tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
            tokio::time::sleep(Duration::from_secs(1)).await;
            other.abort();
        };
        let limit = Duration::from_millis(50);
        assert_eq!(runtime().block_on(in_time(1, limit, spins)), None);
        // An hour of virtual time is none.
        let ends = async { tokio::time::sleep(Duration::from_secs(3_600)).await };
        assert_eq!(runtime().block_on(in_time(1, LIMIT, ends)), Some(()));
    }
}
