//! The in-memory core at the size of the largest Slurm cluster: `cargo bench -p gangway-benches`.

use std::hint::black_box;

use gangway_benches::measure;
use gangway_core::hostlist::{Hostlist, MAX_NAMES};
use gangway_core::job::{Allocation, GresAllocation, NodeAllocation};
use gangway_core::place::{Seeker, place};

fn main() {
    hostlists();
    placements();
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

/// From what Slurm granted to a seat for every member: 8 GPU and 32 EFA for a member that has its
/// node alone, 1 and 4 where eight share one.
fn placements() {
    for per_node in [1, 8] {
        for members in [64, 1024, 16_384, MAX_NAMES] {
            seats(&format!("place/{per_node}-per-node"), per_node, &granted(members / per_node));
        }
    }
    // Slurm grants nodes in the order of its own table, which need not be that of the names.
    let mut shuffled = granted(MAX_NAMES);
    shuffled.nodes =
        (0..MAX_NAMES).map(|i| shuffled.nodes[i * 40_503 % MAX_NAMES].clone()).collect();
    seats("place/1-per-node/shuffled", 1, &shuffled);
}

fn seats(bench: &str, per_node: usize, granted: &Allocation) {
    let members = granted.nodes.len() * per_node;
    let seekers: Vec<Seeker<'_>> =
        (0..members).map(|i| Seeker { rank: number(i), bound: None }).collect();
    let (gpus, efas) = (number(8 / per_node), number(32 / per_node));
    let each = [("gpu".to_owned(), gpus), ("efa".to_owned(), efas)];
    measure(bench, "member", members, || {
        place(black_box(&seekers), number(per_node), &each, black_box(granted)).expect("it fits")
    });
}

/// An allocation of whole p5 nodes.
fn granted(nodes: usize) -> Allocation {
    let whole = |name: &str, kind: &str, count| GresAllocation {
        name: name.to_owned(),
        kind: kind.to_owned(),
        count,
        indexes: (0..count).collect(),
    };
    let node = |i| NodeAllocation {
        name: format!("p5-{i:05}"),
        cpus: 192,
        memory_mib: 2 << 20,
        gres: vec![whole("gpu", "h100", 8), whole("efa", "", 32)],
    };
    Allocation { nodes: (0..nodes).map(node).collect() }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("no bench is that large")
}
