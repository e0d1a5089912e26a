//! What the core is asked to do at the size of the largest Slurm cluster, and beyond it.
//!
//! Each case is made once and run many times: by `benches/wall.rs` for time and allocations, by
//! `src/bin/instructions.rs` for the count that the gate compares. Inputs are the same on every run:
//! nothing here may be random.

pub mod measure;
mod places;

use std::hint::black_box;

use gangway_core::hostlist::{Arena, Hostlist, MAX_NAMES};
use gangway_core::topology::set::NodeSet;
use gangway_core::topology::{NodeFacts, NodeId, Source, Topology};

/// Something to run again and again, on memory it keeps.
pub struct Case {
    /// What it handles: `name`, `member` …
    pub unit: &'static str,
    /// How many of them in one run.
    pub units: usize,
    /// Runs it once.
    pub run: Box<dyn FnMut() -> usize>,
}

impl Case {
    fn new(unit: &'static str, units: usize, run: impl FnMut() -> usize + 'static) -> Self {
        Self { unit, units, run: Box::new(run) }
    }
}

/// A case by name, made when it is wanted.
pub type Maker = Box<dyn Fn() -> Case>;

/// Every case.
pub fn cases() -> Vec<(String, Maker)> {
    let mut all: Vec<(String, Maker)> = Vec::new();
    let mut add = |name: &str, make: Maker| all.push((name.to_owned(), make));
    for shape in SHAPES {
        add(&format!("hostlist/read/{shape}"), Box::new(move || read(list(shape))));
        add(&format!("hostlist/write/{shape}"), Box::new(move || write(&list(shape))));
    }
    add("hostlist/sort/shuffled", Box::new(sort));
    for (what, text) in [
        ("range", "n[0-99999999]"),
        ("product", "a[0-9999][0-9999]"),
        ("nested", "[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]"),
    ] {
        add(&format!("hostlist/refuse/{what}"), Box::new(move || refuse(text)));
    }
    for nodes in [5000, MAX_NAMES] {
        add(&format!("topology/draw/{nodes}"), Box::new(move || draw(nodes)));
    }
    add("nodeset/join-cut-count", Box::new(sets));
    add("nodeset/read", Box::new(members));
    places::add(&mut add);
    all
}

const SHAPES: [&str; 5] = ["dense", "racks", "suffix", "every-third", "shuffled"];

/// A list of as many names as Slurm has nodes.
fn list(shape: &str) -> String {
    let every_third = |of: fn(usize) -> usize| {
        let all: Vec<String> = (0..MAX_NAMES).map(|i| format!("{}", of(i) * 3)).collect();
        format!("node[{}]", all.join(","))
    };
    match shape {
        "dense" => format!("node[00000-{:05}]", MAX_NAMES - 1),
        "racks" => "rack[000-255]node[000-255]".to_owned(),
        "suffix" => "node[00000-65535]-ib".to_owned(),
        "every-third" => every_third(|i| i),
        _ => every_third(shuffled),
    }
}

/// The same disorder of all numbers below [`MAX_NAMES`] on every run: the multiplier is odd, so it
/// visits every number below a power of two once.
fn shuffled(i: usize) -> usize {
    i * 40_503 % MAX_NAMES
}

/// From Slurm's text to names in one arena.
fn read(text: String) -> Case {
    let mut arena = Arena::default();
    Case::new("name", MAX_NAMES, move || {
        arena.read(black_box(&text)).expect("a valid list");
        arena.len()
    })
}

/// From names to the text that is sent.
fn write(text: &str) -> Case {
    let names = Hostlist::parse(text).expect("a valid list").names();
    Case::new("name", MAX_NAMES, move || {
        Hostlist::from_names(black_box(&names)).expect("they are names").to_string().len()
    })
}

fn sort() -> Case {
    let list = Hostlist::parse(&list("shuffled")).expect("a valid list");
    Case::new("name", MAX_NAMES, move || black_box(&list).sorted().len())
}

/// A list that would be too long, refused.
fn refuse(text: &'static str) -> Case {
    Case::new("list", 1, move || usize::from(Hostlist::parse(black_box(text)).is_err()))
}

/// Three levels of switches, 16 of each in the one above.
fn facts(nodes: usize) -> impl Iterator<Item = NodeFacts> {
    (0..nodes).map(move |i| NodeFacts {
        name: format!("p5-{i:05}"),
        // Neighbours by name are not neighbours in the network.
        slurm: slurm_path(i * 40_503 % nodes),
        instance_type: "p5.48xlarge".to_owned(),
        ..NodeFacts::default()
    })
}

fn slurm_path(place: usize) -> Vec<String> {
    vec![format!("spine{}", place >> 8), format!("leaf{}", place >> 4)]
}

fn draw(nodes: usize) -> Case {
    let facts: Vec<NodeFacts> = facts(nodes).collect();
    Case::new("node", nodes, move || {
        Topology::new(Source::Auto, &[], black_box(facts.iter().cloned())).len()
    })
}

/// Every third node, and every fifth.
fn two_sets() -> [NodeSet; 2] {
    [3, 5].map(|step| (0..MAX_NAMES as u32).step_by(step).map(NodeId).collect())
}

fn sets() -> Case {
    let [third, fifth] = two_sets();
    let mut own = NodeSet::default();
    Case::new("node", MAX_NAMES, move || {
        own.clear();
        own.join(black_box(&third));
        own.cut(black_box(&fifth));
        own.len()
    })
}

fn members() -> Case {
    let [third, _] = two_sets();
    Case::new("node", third.len(), move || {
        black_box(&third).iter().fold(0, |sum, node| sum + node.at())
    })
}
