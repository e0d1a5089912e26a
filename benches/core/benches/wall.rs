//! Time and allocations of every case: `cargo xtask bench core [WORD]`, where only cases with the
//! word in their name are run.

use gangway_bench_core::cases;
use gangway_bench_core::measure::measure;

fn main() {
    let word = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    for (name, make) in cases().into_iter().filter(|(name, _)| name.contains(&word)) {
        measure(&name, &mut make());
    }
}
