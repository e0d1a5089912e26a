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
type Figure = (&'static str, &'static str, &'static str, &'static str);

const FIGURES: &[Figure] = &[
    ("1 pod, create to last bound, ms", "1", "last_bound_ms_p50", "50"),
    ("1 x 8, ms", "1x8", "last_bound_ms_p50", "120"),
    ("1 x 128, ms", "1x128", "last_bound_ms_p50", "700"),
    ("1 x 128 after the last create, ms", "1x128", "after_create_ms", ""),
    ("16 x 8, ms", "16x8", "last_bound_ms_p50", "900"),
    ("16 x 8 after the last create, ms", "16x8", "after_create_ms", ""),
    ("1 pod through Slurm's queue, ms", "1 queued", "last_bound_ms_p50", "1150"),
    ("1 x 8 through Slurm's queue, ms", "1x8 queued", "last_bound_ms_p50", "1220"),
    ("1 x 128 through Slurm's queue, ms", "1x128 queued", "last_bound_ms_p50", "1800"),
    ("16 x 8 through Slurm's queue, ms", "16x8 queued", "last_bound_ms_p50", "2000"),
    ("1 x 128, share of a loop that only binds", "1x128", "of_ideal", ""),
    ("1000 x 1, pods per s", "1000x1", "pods_per_s", "200, or the next"),
    ("1000 x 1, share of a loop that only binds", "1000x1", "of_ideal", "0.8"),
    ("1000 x 1, share of a loop that creates, asks Slurm and binds", "1000x1", "of_by_hand", "0.8"),
    ("1000 x 1, creating them, ms", "1000x1", "create_ms", ""),
    ("API writes per pod, 1 x 128", "1x128", "api_writes_per_pod", "1.0"),
    ("API reads per pod, 1 x 128", "1x128", "api_reads_per_pod", "0.1"),
    ("API writes per pod, 1000 x 1", "1000x1", "api_writes_per_pod", "1.0"),
    ("slurmrestd requests per gang beside polls, 16 x 8", "16x8", "others", "4"),
    (
        "small gang behind 1000 blocked ones, ms later than Slurm alone",
        "blocked",
        "later_ms",
        "2000",
    ),
    ("1000 blocked gangs, CPU of the bridge, %", "blocked", "cpu_percent", ""),
    ("20000 pods waiting on 5000 nodes, RSS, MB", "pending", "rss_mb", "150"),
    ("20000 pods waiting on 5000 nodes, CPU, %", "pending", "cpu_percent", "2"),
];

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
    let mut shown = String::from("| figure | now | last release | target |\n|---|---|---|---|\n");
    let mut kept = String::from(
        "# The last release's figures\n\nWritten by `cargo xtask bench --accept`, on whatever machine that was; ns are of the core in memory.\n\n| figure | value | target |\n|---|---|---|\n",
    );
    let end_to_end = FIGURES.iter().filter_map(|(name, line, key, target)| {
        let line = lines.iter().find(|l| is(l, line))?;
        Some(((*name).to_owned(), number(line, key).ok()?, *target))
    });
    let core = lines.iter().filter_map(|line| {
        let name = text(line, "bench").ok()?;
        let key = line.split('"').find(|key| key.starts_with("best_ns_per_"))?;
        Some((format!("{name}, ns"), number(line, key).ok()?, ""))
    });
    for (name, value, target) in end_to_end.chain(core) {
        let last = before.get(&name).map_or("", String::as_str);
        // Writing to a string cannot fail.
        let _ = writeln!(shown, "| {name} | {value} | {last} | {target} |");
        let _ = writeln!(kept, "| {name} | {value} | {target} |");
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
                "{\"bench\":\"place, 1 per node\",\"best_ns_per_member\":5.2}".to_owned(),
            ]
        };
        let (_, kept) = tables(&lines(30.0), "");
        assert!(kept.contains("| 1 pod, create to last bound, ms | 30 | 50 |"), "{kept}");
        let (shown, _) = tables(&lines(20.5), &kept);
        assert!(shown.contains("| 1 pod, create to last bound, ms | 20.5 | 30 | 50 |"), "{shown}");
        assert!(shown.contains("| place, 1 per node, ns | 5.2 | 5.2 |  |"), "{shown}");
    }
}
