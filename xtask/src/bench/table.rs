//! One table of what was measured, with its targets and the last release's figures beside it.
//!
//! The last release's figures are in `benches/BASELINE.md`, which is such a table itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{number, text};
use crate::progress::say;

/// A figure: what a person calls it, the line it stands in (its `shape` or `bench`), its key there,
/// and the target.
type Figure = (&'static str, &'static str, &'static str, Target);

/// What a figure should be.
#[derive(Clone, Copy)]
enum Target {
    /// Nothing was promised.
    None,
    Most(f64),
    Least(f64),
}
use Target::{Least, Most};

impl Target {
    fn text(self) -> String {
        match self {
            Self::None => String::new(),
            Most(most) => format!("≤ {most}"),
            Least(least) => format!("≥ {least}"),
        }
    }

    /// Empty where nothing was promised.
    fn verdict(self, value: f64) -> &'static str {
        let met = match self {
            Self::None => return "",
            Most(most) => value <= most,
            Least(least) => value >= least,
        };
        if met { "met" } else { "MISSED" }
    }
}

const FIGURES: &[Figure] = &[
    ("1 pod, create to last bound, ms", "1", "last_bound_ms_p50", Most(50.0)),
    ("1 x 8, ms", "1x8", "last_bound_ms_p50", Most(120.0)),
    ("1 x 128, ms", "1x128", "last_bound_ms_p50", Most(700.0)),
    ("1 x 128 after the last create, ms", "1x128", "after_create_ms", Target::None),
    ("16 x 8, ms", "16x8", "last_bound_ms_p50", Most(900.0)),
    ("16 x 8 after the last create, ms", "16x8", "after_create_ms", Target::None),
    ("1 pod through Slurm's queue, ms", "1 queued", "last_bound_ms_p50", Most(1150.0)),
    ("1 x 8 through Slurm's queue, ms", "1x8 queued", "last_bound_ms_p50", Most(1220.0)),
    ("1 x 128 through Slurm's queue, ms", "1x128 queued", "last_bound_ms_p50", Most(1800.0)),
    ("16 x 8 through Slurm's queue, ms", "16x8 queued", "last_bound_ms_p50", Most(2000.0)),
    ("1 x 128, share of a loop that only binds", "1x128", "of_ideal", Target::None),
    ("1000 x 1, pods per s", "1000x1", "pods_per_s", Least(200.0)),
    ("1000 x 1, share of a loop that only binds", "1000x1", "of_ideal", Least(0.8)),
    (
        "1000 x 1, share of a loop that creates, asks Slurm and binds",
        "1000x1",
        "of_by_hand",
        Target::None,
    ),
    ("1000 x 1, creating them, ms", "1000x1", "create_ms", Target::None),
    ("API writes per pod, 1", "1", "api_writes_per_pod", Most(1.0)),
    ("API writes per pod, 1 x 8", "1x8", "api_writes_per_pod", Most(1.0)),
    ("API writes per pod, 1 x 128", "1x128", "api_writes_per_pod", Most(1.0)),
    ("API writes per pod, 16 x 8", "16x8", "api_writes_per_pod", Most(1.0)),
    ("API writes per pod, 1000 x 1", "1000x1", "api_writes_per_pod", Most(1.0)),
    ("API writes to a Gang, 16 x 8", "16x8", "api_writes_per_gang", Most(3.0)),
    (
        "API writes to a Gang through Slurm's queue, 16 x 8",
        "16x8 queued",
        "api_writes_per_gang",
        Most(3.0),
    ),
    ("API reads per pod, 1 x 128", "1x128", "api_reads_per_pod", Most(0.1)),
    ("slurmrestd requests per gang beside polls, 1", "1", "others", Most(4.0)),
    ("slurmrestd requests per gang beside polls, 1 x 8", "1x8", "others", Most(4.0)),
    ("slurmrestd requests per gang beside polls, 1 x 128", "1x128", "others", Most(4.0)),
    ("slurmrestd requests per gang beside polls, 16 x 8", "16x8", "others", Most(4.0)),
    // The reasons of what waits are read too: one request a second and waiting gang.
    ("slurmrestd requests per queued gang, 16 x 8", "16x8 queued", "others", Target::None),
    (
        "small gang behind 1000 blocked ones, ms later than Slurm alone",
        "blocked",
        "later_ms",
        Most(2000.0),
    ),
    ("1000 blocked gangs, CPU of the bridge, %", "blocked", "cpu_percent", Target::None),
    ("20000 pods waiting on 5000 nodes, RSS, MB", "pending", "rss_mb", Most(150.0)),
    ("20000 pods coming on 5000 nodes, highest RSS, MB", "pending", "peak_rss_mb", Target::None),
    ("20000 pods just told on 5000 nodes, CPU, %", "pending", "cpu_percent", Target::None),
    ("20000 pods waiting on 5000 nodes, CPU, %", "pending", "cpu_percent_then", Most(2.0)),
];

/// What was promised of the core in memory, ns each. The smallest placement is over before its first cache lines
/// have paid off, so it is not judged.
fn core_target(bench: &str) -> Target {
    match bench {
        "place/1-per-node/64" => Target::None,
        _ if bench.starts_with("place/") => Most(10.0),
        _ if bench.starts_with("hostlist/read/") => Most(20.0),
        _ if bench.starts_with("hostlist/refuse/") => Most(5_000.0),
        _ => Target::None,
    }
}

/// Shows the table; `accept` writes it as the last release's.
pub(super) fn show(baseline: &Path, lines: &[String], accept: bool) -> Result<()> {
    let before = fs::read_to_string(baseline).unwrap_or_default();
    let (shown, kept) = tables(lines, &before);
    println!("\n{shown}");
    if accept {
        fs::write(baseline, kept)
            .with_context(|| format!("cannot write {}", baseline.display()))?;
        say(&format!("these figures are kept in {}", baseline.display()));
    }
    Ok(())
}

/// The table to show, and the one to keep.
fn tables(lines: &[String], before: &str) -> (String, String) {
    let before = figures_of(before);
    let mut shown =
        String::from("| figure | now | last release | target | |\n|---|---|---|---|---|\n");
    let mut kept = String::from(
        "# The last release's figures\n\nWritten by `cargo xtask bench --accept`, on whatever machine that was; ns are of the core in memory, the median of 101 runs.\n\n| figure | value | target | |\n|---|---|---|---|\n",
    );
    let end_to_end = FIGURES.iter().filter_map(|(name, line, key, target)| {
        let line = lines.iter().find(|l| is(l, line))?;
        Some(((*name).to_owned(), number(line, key).ok()?, *target))
    });
    let core = lines.iter().flat_map(|line| {
        let name = text(line, "bench").unwrap_or_default().to_owned();
        let key = line.split('"').find(|key| key.starts_with("ns_per_"));
        let time = key.and_then(|key| number(line, key).ok());
        let target = core_target(&name);
        let allocations = number(line, "allocations").ok();
        let none_allowed = name.starts_with("place/") || name.starts_with("hostlist/read/dense");
        let allocated = allocations.filter(|_| none_allowed);
        let rows = [
            time.map(|value| (format!("{name}, ns"), value, target)),
            allocated.map(|value| (format!("{name}, allocations once warm"), value, Most(0.0))),
        ];
        rows.into_iter().flatten()
    });
    for (name, value, target) in end_to_end.chain(core) {
        let last = before.get(&name).map_or("", String::as_str);
        let (wanted, verdict) = (target.text(), target.verdict(value));
        // Writing to a string cannot fail.
        let _ = writeln!(shown, "| {name} | {value} | {last} | {wanted} | {verdict} |");
        let _ = writeln!(kept, "| {name} | {value} | {wanted} | {verdict} |");
    }
    (shown, kept)
}

fn is(line: &str, wanted: &str) -> bool {
    text(line, "shape").is_ok_and(|shape| shape == wanted)
}

/// Figure and value of each row of a kept table.
fn figures_of(table: &str) -> BTreeMap<String, String> {
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?.to_owned(), cells.next()?.trim_end_matches(" |").to_owned()))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stands_beside_the_next_figures() {
        let lines = |ms: f64| {
            vec![
                format!("{{\"last_bound_ms_p50\":{ms},\"shape\":\"1\"}}"),
                "{\"bench\":\"place/8-per-node/1024\",\"ns_per_member\":5.2,\"allocations\":0}"
                    .to_owned(),
            ]
        };
        let (_, kept) = tables(&lines(30.0), "");
        assert!(kept.contains("| 1 pod, create to last bound, ms | 30 | ≤ 50 | met |"), "{kept}");
        let (shown, _) = tables(&lines(60.5), &kept);
        let missed = "| 1 pod, create to last bound, ms | 60.5 | 30 | ≤ 50 | MISSED |";
        assert!(shown.contains(missed), "{shown}");
        assert!(
            shown.contains("| place/8-per-node/1024, ns | 5.2 | 5.2 | ≤ 10 | met |"),
            "{shown}"
        );
        let warm = "| place/8-per-node/1024, allocations once warm | 0 | 0 | ≤ 0 | met |";
        assert!(shown.contains(warm), "{shown}");
    }

    #[test]
    fn the_smallest_placement_alone_is_not_judged() {
        assert!(matches!(core_target("place/1-per-node/64"), Target::None));
        assert!(matches!(core_target("place/1-per-node/65536"), Most(most) if most == 10.0));
        assert!(matches!(core_target("hostlist/write/dense"), Target::None));
    }
}
