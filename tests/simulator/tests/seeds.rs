//! Many seeds, and that a seed means something.

use gangway_simulator::{play, play_all};

/// How many where nothing else is said. `cargo xtask test` says ten thousand, in `GANGWAY_SEEDS`, and
/// plays them optimised; `GANGWAY_FIRST_SEED` says where to begin.
const SEEDS: u64 = 200;

#[test]
fn no_seed_breaks_a_rule() {
    let number = |key: &str| std::env::var(key).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("GANGWAY_FIRST_SEED").unwrap_or(1);
    let seeds = number("GANGWAY_SEEDS").unwrap_or(SEEDS);
    let report = play_all(first..first + seeds, None).unwrap();
    assert!(report.broken.is_empty(), "{report}");
    assert_eq!(report.seeds, seeds);
}

#[test]
fn a_seed_has_one_history() {
    for seed in 1..60 {
        let (first, second) = (play(seed, None).unwrap(), play(seed, None).unwrap());
        let differ = first.history.iter().zip(&second.history).find(|(a, b)| a != b);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!(first.digest, second.digest, "seed {seed}");
    }
    assert_ne!(play(1, None).unwrap().digest, play(2, None).unwrap().digest);
}
