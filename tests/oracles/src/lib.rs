//! What must hold for any bytes that come from outside: no panic, no answer without bound, and whatever has a
//! text reads back from it.
//!
//! Each oracle takes any bytes and fails by an assertion. `cargo xtask fuzz` throws millions at each; the tests
//! here throw the committed seeds (fuzz/seeds). Nothing is mended here, and nothing decided.

use std::collections::{BTreeMap, BTreeSet};

use gangway_api::v1;
use gangway_core::ask::{Ask, TABLE};
use gangway_core::gang::Gang;
use gangway_core::hostlist::{Arena, Hostlist, MAX_NAMES};
use gangway_core::place::{parse_ranges, ranges};
use gangway_core::placeholder::{JobIds, Stamp, next};
use gangway_core::policy::Grant;
use gangway_core::translate::{ResourceTable, Roles, cost_of_levelling, placeholder};
use gangway_core::workload::MAX_GANG;
use gangway_slurm::reading::{self, Bytes};
use prost::Message;

/// Takes any bytes, and fails where something does not hold.
pub type Oracle = fn(&[u8]);

/// Every oracle, by the name of its fuzz target.
pub const ORACLES: [(&str, Oracle); 6] = [
    ("annotations", annotations),
    ("answers", answers),
    ("hostlists", hostlists),
    ("indexes", indexes),
    ("place_requests", place_requests),
    ("stamps", stamps),
];

/// Of longer lists only their length is looked at: each would take as long as a thousand short ones.
const FEW_NAMES: usize = 512;
/// More devices than are ever read from one text.
const MOST_DEVICES: usize = 65_536;
/// A problem fits on a pod's condition.
const LONGEST_PROBLEM: usize = 2_000;

/// Slurm hostlists.
pub fn hostlists(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut arena = Arena::default();
    let whole = arena.read(text);
    let list = match Hostlist::parse(text) {
        Ok(list) => list,
        Err(_) => return assert!(whole.is_err(), "two readers differ"),
    };
    assert!(whole.is_ok() && arena.len() == list.len(), "two readers differ");
    assert!(list.len() <= MAX_NAMES, "{} names", list.len());
    if list.len() > FEW_NAMES {
        return;
    }
    let names = list.names();
    assert!(arena.iter().eq(&names), "two readers differ");
    let again = Hostlist::parse(&list.to_string());
    assert_eq!(again.map(|again| again.names()), Ok(names.clone()), "what is printed reads back");
    let folded = Hostlist::from_names(&names).map(|folded| folded.names());
    assert_eq!(folded, Ok(names.clone()), "names fold");
    let sorted = list.sorted();
    let count = |names: Vec<String>| {
        let mut count = BTreeMap::<String, usize>::new();
        names.into_iter().for_each(|name| *count.entry(name).or_default() += 1);
        count
    };
    assert_eq!(count(sorted.names()), count(names), "sorting loses nothing");
    assert_eq!(sorted.sorted().names(), sorted.names(), "sorted is sorted");
}

/// Device indexes: Slurm's, and those of our own annotations.
pub fn indexes(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(all) = parse_ranges(text) {
        assert!(all.len() <= MOST_DEVICES, "{} indexes", all.len());
        assert_eq!(parse_ranges(&ranges(&all)).as_ref(), Some(&all), "ranges read back");
    }
    if let Some(all) = reading::indexes(text) {
        assert!(all.len() <= MOST_DEVICES, "{} indexes", all.len());
        assert!(all.windows(2).all(|two| two[0] < two[1]), "ascending");
        assert_eq!(reading::indexes(&ranges(&all)), Some(all), "ranges read back");
    }
    for gres in reading::gres_detail(text).into_iter().flatten() {
        assert!(!gres.name.is_empty() && gres.indexes.len() <= MOST_DEVICES);
    }
}

/// slurmrestd's answers. The first byte chooses the status and whether it is JSON; the rest is the body.
pub fn answers(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let status = [200, 200, 200, 400, 401, 404, 500, 511][usize::from(kind & 7)];
    let bytes = Bytes { status, is_json: kind & 8 == 0, body };
    if let Ok(submitted) = bytes.submitted() {
        assert!(submitted.job_id.0 > 0, "an accepted job has an id");
    }
    for job in bytes.jobs().into_iter().flatten().flat_map(|jobs| jobs.jobs) {
        let _ = (job.standing(), job.ending(), job.broken());
        if let Some(stamp) = Stamp::of(&job) {
            assert!([&job.admin_comment, &job.comment].contains(&&stamp.to_text()));
        }
    }
    for (job, granted) in bytes.in_detail().into_iter().flatten() {
        assert!(job.id.0 > 0, "a job has an id");
        let nodes = granted.map_or(0, |granted| granted.nodes.len());
        assert!(nodes <= body.len(), "nodes are named");
    }
    for (id, state) in bytes.states().into_iter().flatten() {
        assert!(id.0 > 0 && !state.explain().is_empty());
        let _ = state.standing();
    }
    for node in bytes.resources().into_iter().flat_map(|all| all.nodes) {
        assert!(!node.name.is_empty(), "a node has a name");
        assert!(node.gres.iter().all(|gres| gres.indexes.len() <= MOST_DEVICES));
    }
    let _ = (bytes.finished(), bytes.nodes(), bytes.partitions(), bytes.others());
    for error in [bytes.submitted().err(), bytes.jobs().err()].into_iter().flatten() {
        assert!(!error.category().is_empty() && !error.to_string().is_empty());
        let _ = (error.is_retryable(), error.is_doubtful(), error.code());
    }
}

/// Annotations of a pod: a line each, `key=value`.
pub fn annotations(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    // Kubernetes takes no longer key.
    let pairs = pairs.filter(|(key, _)| key.len() <= 317);
    let pod: BTreeMap<String, String> =
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    match Ask::read(&BTreeMap::new(), &pod) {
        Ok(ask) => reads_back(&ask),
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|p| p.len() < LONGEST_PROBLEM));
        }
    }
}

/// Each choice has a text that is read as the same choice.
fn reads_back(ask: &Ask) {
    for row in TABLE {
        let Some(text) = ask.text(row.name) else { continue };
        let mut again = Ask::default();
        assert_eq!(again.set(row.name, &text), Ok(()), "{}: {text:?} is not read", row.name);
        assert_eq!(again.text(row.name).as_ref(), Some(&text), "{}", row.name);
    }
}

/// The key inside a placeholder.
pub fn stamps(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(stamp) = Stamp::parse(text) else { return };
    assert_eq!(stamp.to_text(), text, "one stamp has one text");
    let back = stamp.given_back();
    assert_eq!(Stamp::parse(&back.to_text()), Some(back));
    let ids = JobIds::default();
    let chosen: BTreeSet<u32> = (0..8).map(|attempt| ids.choose(&stamp, attempt).0).collect();
    assert!(chosen.iter().all(|id| (ids.first..=ids.last).contains(id)));
}

/// A question at the gRPC door, and everything that is made of it before Slurm is asked.
pub fn place_requests(data: &[u8]) {
    let Ok(request) = v1::PlaceRequest::decode(data) else { return };
    let Some(wire) = request.gang else { return };
    let cluster = wire.cluster.clone();
    let Ok(gang) = Gang::try_from(wire) else { return };
    assert!(gang.size() <= MAX_GANG as usize, "a gang of {}", gang.size());
    let again = Gang::try_from(v1::Gang::of(&cluster, &gang));
    assert_eq!(again.as_ref(), Ok(&gang), "a gang survives the wire");
    reads_back(&gang.ask);
    let (step, duplicates) = next(&cluster, &gang, &[]);
    assert!(duplicates.is_empty());
    let gangway_core::placeholder::Step::Submit { stamp } = step else { return };
    assert_eq!(Stamp::parse(&stamp.to_text()).as_ref(), Some(&stamp), "its stamp can be read");
    let table = ResourceTable::default();
    let grant = Grant {
        user: "alice".to_owned(),
        group: "alice".to_owned(),
        account: None,
        partition: None,
        qos: None,
        feature: None,
        terms: None,
    };
    for roles in [Roles::Apart, Roles::Levelled] {
        let Ok(asked) = placeholder(&gang, &grant, &stamp, &table, roles) else { continue };
        let room: u64 =
            asked.components.iter().map(|c| u64::from(c.nodes) * u64::from(c.tasks_per_node)).sum();
        assert!(room >= gang.size() as u64, "room for everybody");
    }
    let _ = cost_of_levelling(&gang, &table);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The committed seeds, each with its target.
    fn seeds() -> Vec<(String, String, Vec<u8>)> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        let list = |dir: &Path| {
            let all = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
            let mut all: Vec<_> = all.map(|entry| entry.expect("an entry").path()).collect();
            all.sort();
            all
        };
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let mut out = Vec::new();
        for target in list(&top) {
            for file in list(&target) {
                out.push((name(&target), name(&file), fs::read(&file).expect("a seed")));
            }
        }
        out
    }

    #[test]
    fn every_seed_passes_its_oracle() {
        let seeds = seeds();
        for (target, file, data) in &seeds {
            let oracle = ORACLES.iter().find(|(name, _)| name == target);
            let (_, oracle) = oracle.unwrap_or_else(|| panic!("no oracle for {target}/{file}"));
            println!("{target}/{file}");
            oracle(data);
        }
        for (target, _) in ORACLES {
            let some = seeds.iter().filter(|(of, ..)| of == target).count();
            assert!(some >= 3, "{target} has {some} seeds");
        }
    }

    #[test]
    fn every_oracle_has_a_fuzz_target() {
        let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/targets");
        for (target, _) in ORACLES {
            let file = targets.join(format!("{target}.rs"));
            let text = fs::read_to_string(&file).unwrap_or_default();
            assert!(text.contains(&format!("gangway_oracles::{target}(")), "{}", file.display());
        }
    }
}
