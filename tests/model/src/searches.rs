//! The searches: each a world that is small enough to be searched to its end, and together every rule with every
//! fault. A search that meets too few states, or misses a good end, fails as well: it would prove nothing.

use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::recovery::Search;
use crate::world::{Faults, Late, Setting, Step};

/// What was met.
struct Met {
    states: usize,
    depth: usize,
    /// The names of rules that do not hold.
    broken: Vec<&'static str>,
}

/// One gang of two on three nodes and one bridge, no faults.
fn small() -> Setting {
    Setting {
        bridges: 1,
        gangs: 1,
        members: 2,
        nodes: 3,
        immediate: false,
        lag: false,
        late: Late::Never,
        unfenced: false,
        faults: Faults::default(),
    }
}

/// Searches to the end, or until what is looked for is found, and tells of the way there. `most`: where the end
/// is too far, no more steps than so many.
fn search(
    setting: Setting,
    ends: &[&'static str],
    until: HasDiscoveries,
    most: Option<usize>,
) -> Met {
    let began = Instant::now();
    let mut checker = Search::new(setting, ends).checker().threads(2).finish_when(until);
    if let Some(most) = most {
        checker = checker.target_max_depth(most);
    }
    let checker = checker.spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{states} states, {} deep, {:.1?}", checker.max_depth(), began.elapsed());
    let found = checker.discoveries();
    let mut broken = Vec::new();
    for property in checker.model().properties() {
        let way = found.get(property.name);
        match (property.expectation, way) {
            (Expectation::Sometimes, None) => println!("never met: {}", property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => {}
            (_, Some(way)) => {
                broken.push(property.name);
                println!("broken: {}", property.name);
                tell(&checker.model().setting, &way.clone().into_actions());
                if let Err((rest, end)) = checker.model().recovers(way.last_state()) {
                    println!("and with no further fault:");
                    rest.iter().for_each(|step| println!("  {step:?}"));
                    println!("{end}");
                }
            }
        }
    }
    if broken.is_empty() {
        let missed = ends.iter().find(|end| !found.contains_key(*end));
        assert_eq!(missed, None, "a good end was never met");
    }
    Met { states, depth: checker.max_depth(), broken }
}

/// The way to a world, step by step, with what there is after each.
fn tell(setting: &Setting, way: &[Step]) {
    let mut world = setting.beginning();
    for step in way {
        let command = match step {
            Step::Call { bridge, gang, .. } => world.half(*bridge, *gang).todo.first(),
            _ => None,
        };
        println!("{step:?} {command:?}");
        world = setting.after(&world, *step);
        print!("{world}");
    }
}

/// Every rule holds, every end is met, and so many states at least were looked at.
fn holds(setting: Setting, ends: &[&'static str], floor: usize) {
    let met = search(setting, ends, HasDiscoveries::AnyFailures, None);
    assert_eq!(met.broken, Vec::<&str>::new(), "a rule does not hold");
    assert!(
        met.states >= floor,
        "{} states are fewer than {floor}: is anything searched?",
        met.states
    );
}

/// A hole that is known: this rule breaks, and whoever mends it turns the search into one that holds.
fn known(setting: Setting, rule: &'static str) {
    let met = search(setting, &[], HasDiscoveries::AnyOf([rule].into()), None);
    assert!(met.broken.contains(&rule), "the hole is closed: let the search hold");
}

#[test]
fn a_bridge_is_killed_anywhere_and_its_calls_are_lost() {
    let faults = Faults { crashes: 1, calls: 1, whiles: 1, kills: 1, ..Faults::default() };
    let ends = [
        "all are bound",
        "bound anew in the same allocation",
        "bound after a bridge was killed in the middle of it",
    ];
    holds(Setting { faults, ..small() }, &ends, 80_000);
}

#[test]
fn a_gang_ends_in_every_way() {
    let faults =
        Faults { crashes: 1, ends: 1, deletions: 1, finishes: 1, whiles: 1, ..Faults::default() };
    let ends = [
        "all are bound",
        "given back after deletion",
        "given back after its pods have finished",
        "bound anew after its job was ended",
    ];
    holds(Setting { faults, ..small() }, &ends, 50_000);
}

#[test]
fn nodes_are_asked_for_at_once() {
    let faults = Faults { crashes: 1, calls: 1, ends: 1, deletions: 1, ..Faults::default() };
    let ends = ["all are bound", "given back after deletion", "bound anew after its job was ended"];
    holds(Setting { immediate: true, faults, ..small() }, &ends, 10_000);
}

#[test]
fn a_bridge_sees_pods_late() {
    let faults = Faults { crashes: 1, ends: 1, kills: 1, ..Faults::default() };
    let ends = ["all are bound", "bound anew after its job was ended"];
    holds(Setting { lag: true, faults, ..small() }, &ends, 160_000);
}

#[test]
fn a_node_is_cordoned_under_a_gang() {
    let faults = Faults { calls: 1, cordons: 1, kills: 1, whiles: 1, ..Faults::default() };
    let ends = ["all are bound", "given back for a node that was shut"];
    holds(Setting { faults, ..small() }, &ends, 180_000);
}

#[test]
fn a_new_bridge_finds_a_gang_that_is_bound_in_part() {
    let faults = Faults { crashes: 2, calls: 1, cordons: 1, whiles: 1, ..Faults::default() };
    let ends = ["bound after a bridge was killed in the middle of it"];
    holds(Setting { faults, ..small() }, &ends, 20_000);
}

#[test]
fn slurmctld_loses_a_placeholder_that_runs() {
    let faults = Faults { crashes: 1, losses: 1, whiles: 1, ..Faults::default() };
    let ends =
        ["bound anew elsewhere after slurmctld forgot", "submitted anew after slurmctld forgot"];
    holds(Setting { faults, ..small() }, &ends, 15_000);
}

#[test]
fn known_two_bridges_at_once_allocate_twice() {
    let setting = Setting { bridges: 2, nodes: 4, immediate: true, ..small() };
    known(setting, "2 one gang, one placeholder");
}

/// Too large to be searched to its end: looked at is all that is no more than a few steps farther than what comes
/// of a release without its fence.
#[test]
fn a_release_of_one_bridge_spares_what_another_has_begun() {
    let faults = Faults { ends: 1, ..Faults::default() };
    let setting = Setting { bridges: 2, late: Late::ByAnother, faults, ..small() };
    let rule = "1 Slurm decides";
    let unfenced = Setting { unfenced: true, ..setting };
    let found = search(unfenced.clone(), &[], HasDiscoveries::AnyOf([rule].into()), None);
    assert!(found.broken.contains(&rule), "the search finds nothing any more");
    let setting = Setting { unfenced: false, ..unfenced };
    let met = search(setting, &[], HasDiscoveries::AnyFailures, Some(found.depth + 6));
    assert_eq!(met.broken, Vec::<&str>::new(), "a rule does not hold");
}

#[test]
fn known_a_release_ends_what_another_bridge_gives_to_successors() {
    let faults = Faults { kills: 1, ..Faults::default() };
    let setting = Setting { bridges: 2, members: 1, late: Late::ByAnother, faults, ..small() };
    known(setting, "1 Slurm decides");
}

#[test]
fn slurmctld_forgets() {
    let faults = Faults { crashes: 1, rollbacks: 1, deletions: 1, whiles: 1, ..Faults::default() };
    let ends = [
        "bound anew elsewhere after slurmctld forgot",
        "submitted anew after slurmctld forgot",
        "given back after deletion",
    ];
    holds(Setting { faults, ..small() }, &ends, 35_000);
}

#[test]
fn two_bridges_believe_that_they_lead() {
    let faults = Faults { crashes: 1, calls: 1, deletions: 1, ..Faults::default() };
    let ends = [
        "all are bound",
        "given back after deletion",
        "two bridges follow one placeholder",
        "bound after a bridge was killed in the middle of it",
    ];
    holds(Setting { bridges: 2, faults, ..small() }, &ends, 60_000);
}

#[test]
fn two_gangs_want_the_same_nodes() {
    let faults = Faults { ends: 1, deletions: 1, ..Faults::default() };
    let ends = ["one runs and the other waits", "the other runs where the first has run"];
    holds(Setting { gangs: 2, faults, ..small() }, &ends, 120_000);
}

#[test]
fn a_binding_is_overtaken_by_the_end_of_its_job() {
    let faults = Faults { ends: 1, calls: 1, ..Faults::default() };
    let ends = ["one runs and the other waits", "the other runs where the first has run"];
    holds(Setting { gangs: 2, late: Late::Ever, faults, ..small() }, &ends, 100_000);
}

#[test]
fn known_bindings_of_two_bridges_meet_on_one_device() {
    let faults = Faults { ends: 1, ..Faults::default() };
    let setting = Setting { bridges: 2, gangs: 2, late: Late::Ever, faults, ..small() };
    known(setting, "4 no device has two owners");
}

#[test]
fn two_bridges_two_gangs_three_members_three_nodes() {
    let faults = Faults { crashes: 1, ..Faults::default() };
    let ends = [
        "one runs and the other waits",
        "two bridges follow one placeholder",
        "bound after a bridge was killed in the middle of it",
    ];
    let setting = Setting { bridges: 2, gangs: 2, members: 3, faults, ..small() };
    holds(setting, &ends, 160_000);
}
