//! Runs one case once, warm, in a function of its own, so that callgrind can count its instructions:
//! `cargo xtask bench gate`. Without a name it lists the cases that are counted.

use std::hint::black_box;
use std::io::Write;

use gangway_bench_core::{Case, cases};

/// One of every kind; the others cost the same in other sizes.
const COUNTED: [&str; 14] = [
    "hostlist/read/dense",
    "hostlist/read/racks",
    "hostlist/read/shuffled",
    "hostlist/write/dense",
    "hostlist/write/shuffled",
    "hostlist/refuse/range",
    "hostlist/refuse/product",
    "topology/draw/5000",
    "nodeset/join-cut-count",
    "nodeset/read",
    "place/1-per-node/65536",
    "place/8-per-node/65536",
    "place/8-per-node/65536/one-hole",
    "place/4-per-node/65536/scattered-devices",
];

fn main() {
    let Some(name) = std::env::args().nth(1) else {
        let mut out = std::io::stdout();
        COUNTED.iter().for_each(|name| writeln!(out, "{name}").expect("standard output takes it"));
        return;
    };
    let made = cases().into_iter().find(|(known, _)| *known == name);
    let (_, make) = made.expect("one of the cases that are listed");
    let mut case = make();
    black_box((case.run)());
    black_box(counted_work(&mut case));
}

/// What is counted. The gate knows it by its name.
#[inline(never)]
fn counted_work(case: &mut Case) -> usize {
    black_box((case.run)())
}
