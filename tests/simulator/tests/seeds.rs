//! Many seeds, and that a seed means something.

use gangway_simulator::{play, play_all};

/// How many where nothing else is said. `GANGWAY_SEEDS` says another number, as `cargo xtask test` does,
/// and `GANGWAY_FIRST_SEED` where to begin.
const SEEDS: u64 = 200;

/// What the environment says, or something else.
fn number(key: &str, otherwise: u64) -> u64 {
    std::env::var(key).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn no_seed_breaks_a_rule() {
    let (first, seeds) = (number("GANGWAY_FIRST_SEED", 1), number("GANGWAY_SEEDS", SEEDS));
    let report = play_all(first..first + seeds, None, false).unwrap();
    assert!(report.broken.is_empty(), "{report}");
    assert_eq!(report.seeds, seeds);
}

/// A twentieth of them, but not the first, which say the least about those behind them.
#[test]
fn a_seed_has_one_history() {
    let (first, seeds) = (number("GANGWAY_FIRST_SEED", 1), number("GANGWAY_SEEDS", SEEDS));
    let last = first + seeds;
    let report = play_all(last - seeds / 20..last, None, true).unwrap();
    assert!(report.broken.is_empty(), "{report}");
    assert_ne!(play(1, None).unwrap().digest, play(2, None).unwrap().digest);
}
