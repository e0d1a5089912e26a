//! The in-memory core at the size of the largest Slurm cluster: `cargo bench -p gangway-benches`.

use std::hint::black_box;

use gangway_benches::measure;
use gangway_core::hostlist::{Hostlist, MAX_NAMES};

fn main() {
    hostlists();
}

/// Reading what Slurm granted, and folding what we ask of it.
fn hostlists() {
    let dense = format!("node[00000-{:05}]", MAX_NAMES - 1);
    let scattered = scattered();
    measure("hostlist/read/dense", "name", MAX_NAMES, || read(&dense));
    measure("hostlist/read/racks", "name", MAX_NAMES, || read("rack[000-255]node[000-255]"));
    measure("hostlist/read/suffix", "name", MAX_NAMES, || read("node[00000-65535]-ib"));
    measure("hostlist/read/scattered", "name", MAX_NAMES, || read(&scattered));

    let names = |text| Hostlist::parse(text).expect("a valid list").names();
    let (dense, scattered) = (names(&dense), names(&scattered));
    measure("hostlist/fold/dense", "name", MAX_NAMES, || fold(&dense));
    measure("hostlist/fold/scattered", "name", MAX_NAMES, || fold(&scattered));
    measure("hostlist/sort/scattered", "name", MAX_NAMES, || {
        Hostlist::from_names(&scattered).expect("they are names").sorted().len()
    });
}

/// Parses, and looks at every name.
fn read(text: &str) -> usize {
    let mut bytes = 0;
    let list = Hostlist::parse(black_box(text)).expect("a valid list");
    list.for_each_name(|name| bytes += black_box(name).len());
    bytes
}

/// From names to the text we send.
fn fold(names: &[String]) -> String {
    Hostlist::from_names(names).expect("they are names").to_string()
}

/// Every third number, in the same shuffled order on every run.
fn scattered() -> String {
    // The multiplier is odd, so it visits every index below a power of two once.
    let numbers: Vec<String> =
        (0..MAX_NAMES).map(|i| format!("{}", i * 40_503 % MAX_NAMES * 3)).collect();
    format!("node[{}]", numbers.join(","))
}
