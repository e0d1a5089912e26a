//! What was used, and how well, as a table. Values in, values out: nothing here asks or writes.

use gangway_core::desk::{Efficiency, Usage};

use super::flags::By;
use super::table::{Cell, Drawn, Paint, number, right, text};

/// Sums, most GPU hours first, and all of them together.
pub(super) fn usage(rows: &[Usage], by: By, wide: bool) -> Drawn {
    let first = match by {
        By::User => "USER",
        By::Account => "ACCOUNT",
        By::Namespace => "NAMESPACE",
        By::Job => "JOB",
    };
    let mut head = vec![first, "JOBS", "GPU-HOURS", "NODE-HOURS"];
    let judged = rows.iter().any(|row| row.efficiency.is_some());
    if judged {
        head.extend(["GPU USE", "POWER", "EFA", "FLAG"]);
        if wide {
            head.extend(["FLAGGED", "NO DATA", "USERS"]);
        }
    }
    let mut lines: Vec<_> = rows.iter().map(|row| line(row, wide)).collect();
    let all = rows.iter().fold(Usage::default(), |sum, row| Usage {
        jobs: sum.jobs + row.jobs,
        gpu_seconds: sum.gpu_seconds + row.gpu_seconds,
        node_seconds: sum.node_seconds + row.node_seconds,
        ..sum
    });
    let last = sums(&Usage { key: "all".to_owned(), ..all });
    lines.push(last.into_iter().map(|cell| cell.painted(Paint::Faint)).collect());
    Drawn::default().table(&head, lines)
}

fn line(row: &Usage, wide: bool) -> Vec<Cell> {
    let mut cells = sums(row);
    let Some(efficiency) = &row.efficiency else { return cells };
    cells.extend(judged(efficiency));
    if wide {
        let Efficiency { flagged, unmeasured, users, .. } = efficiency;
        cells.extend([number(*flagged), number(*unmeasured), text(users.join(","))]);
    }
    cells
}

fn sums(row: &Usage) -> Vec<Cell> {
    let hours = |seconds: u64| {
        // Hundredths of an hour, cut.
        let hundredths = seconds / 36;
        right(format!("{}.{:02}", hundredths / 100, hundredths % 100))
    };
    vec![text(&row.key), number(row.jobs), hours(row.gpu_seconds), hours(row.node_seconds)]
}

fn judged(of: &Efficiency) -> Vec<Cell> {
    let measured = |value: Option<f64>, shown: fn(f64) -> String| match value {
        Some(value) => right(shown(value)),
        None => right("no data").painted(Paint::Faint),
    };
    // Cut, as in the words of a flag.
    let percent = |share: f64| format!("{} %", (share * 100.0).floor());
    let mut why = of.flags.clone();
    if of.gpu_use.is_some() && of.unmeasured > 0 {
        why.push(format!("{} without data", of.unmeasured));
    }
    let paint = if of.flagged > 0 { Paint::Waits } else { Paint::Plain };
    vec![
        measured(of.gpu_use, percent),
        measured(of.watts, |watts| scaled(watts, "W")),
        measured(of.efa_bytes_per_second, |bytes| scaled(bytes, "B/s")),
        text(why.join("; ")).painted(paint),
    ]
}

/// A quantity with a prefix: `650 W`, `5.2 kW`, `1.4 GB/s`.
fn scaled(value: f64, unit: &str) -> String {
    let (mut value, mut prefix) = (value, "");
    for next in ["k", "M", "G", "T"] {
        if value < 999.5 {
            break;
        }
        (value, prefix) = (value / 1000.0, next);
    }
    if prefix.is_empty() || value >= 99.95 {
        format!("{value:.0} {prefix}{unit}")
    } else {
        format!("{value:.1} {prefix}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, efficiency: Option<Efficiency>) -> Usage {
        let (gpu_seconds, node_seconds) = (7200, 900);
        Usage { key: key.to_owned(), jobs: 1, gpu_seconds, node_seconds, efficiency }
    }

    #[test]
    fn what_was_measured_stands_beside_what_was_used_and_what_was_not_is_no_data() {
        let idle = Efficiency {
            users: vec!["alice".to_owned()],
            gpu_use: Some(0.418),
            watts: Some(5200.0),
            efa_bytes_per_second: Some(0.0),
            unmeasured: 0,
            flagged: 1,
            flags: vec!["GPU use 41 %, under 90 %".to_owned()],
        };
        let unknown = Efficiency { unmeasured: 1, ..Efficiency::default() };
        let rows = [row("7", Some(idle)), row("8", Some(unknown))];
        let drawn = usage(&rows, By::Job, false).paint(false);
        assert_eq!(
            drawn,
            "\
JOB  JOBS  GPU-HOURS  NODE-HOURS  GPU USE    POWER      EFA  FLAG
7       1       2.00        0.25     41 %   5.2 kW    0 B/s  GPU use 41 %, under 90 %
8       1       2.00        0.25  no data  no data  no data  -
all     2       4.00        0.50
"
        );
        let wide = usage(&rows, By::Job, true).paint(false);
        assert!(wide.lines().next().is_some_and(|head| head.ends_with("USERS")), "{wide}");
        let plain = usage(&[row("7", None)], By::Job, true).paint(false);
        assert!(plain.lines().next().is_some_and(|head| head.ends_with("NODE-HOURS")), "{plain}");
        // A sum of which a part is known.
        let part = Efficiency { gpu_use: Some(0.95), unmeasured: 2, ..Efficiency::default() };
        let drawn = usage(&[row("team1", Some(part))], By::Account, false).paint(false);
        assert!(drawn.contains("2 without data"), "{drawn}");
    }

    #[test]
    fn quantities_are_short() {
        for (value, shown) in [
            (0.0, "0 W"),
            (650.4, "650 W"),
            (999.6, "1.0 kW"),
            (5200.0, "5.2 kW"),
            (123_456.0, "123 kW"),
            (2e12, "2.0 TW"),
        ] {
            assert_eq!(scaled(value, "W"), shown);
        }
    }
}
