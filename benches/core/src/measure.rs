//! How fast and at what cost in allocations.
//!
//! One line of JSON per figure on standard output, so runs can be kept and compared.
//! It must never judge: limits are for whoever reads the lines.

use std::alloc::System;
use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use crate::Case;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How often each figure is taken, after [`WARM_UP`] runs that do not count.
const RUNS: usize = 101;
const WARM_UP: usize = 5;

/// `cargo bench` says `--bench`; `cargo test --benches` does not, and only wants to see it run.
fn runs() -> usize {
    if std::env::args().any(|arg| arg == "--bench") { RUNS } else { 1 }
}

/// What one run allocates after so many others: calls, new and grown ones alike, and bytes. Nothing else may
/// run in the process meanwhile.
pub fn allocated(case: &mut Case, warm_up: usize) -> (usize, usize) {
    for _ in 0..warm_up {
        black_box((case.run)());
    }
    let region = Region::new(ALLOCATOR);
    black_box((case.run)());
    let seen = region.change();
    (seen.allocations + seen.reallocations, seen.bytes_allocated)
}

/// Runs a case and prints its line.
///
/// `ns_per_UNIT` is the median, `best_ns_per_UNIT` the fastest run (the machine may be busy);
/// allocations are those of one run, new and grown ones alike.
pub fn measure(name: &str, case: &mut Case) {
    let count = runs();
    let (calls, bytes) = allocated(case, WARM_UP.min(count));
    let Case { unit, units, run } = case;

    let mut runs: Vec<f64> = (0..count)
        .map(|_| {
            let start = Instant::now();
            black_box(run());
            start.elapsed().as_secs_f64() * 1e9 / *units as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    let (median, best) = (runs[count / 2], runs[0]);
    let line = format!(
        r#"{{"bench":"{name}","{unit}s":{units},"ns_per_{unit}":{median:.2},"best_ns_per_{unit}":{best:.2},"allocations":{calls},"bytes":{bytes},"runs":{count}}}"#
    );
    writeln!(std::io::stdout(), "{line}").expect("standard output takes a line");
}
