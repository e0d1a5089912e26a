//! Answers as tables and sentences. Values in, values out: nothing here asks or writes.

use gangway_api::v1;
use gangway_core::desk::{Explanation, Holder, NodeRow, Row, lasting};
use gangway_core::place::ranges;
use serde::Serialize;

use super::table::{Cell, Drawn, Paint, number, text};
use super::time::{ahead, date, since};

/// The queue, one line for each job.
pub(super) fn queue(rows: &[Row], now: i64, wide: bool) -> Drawn {
    let mut head = vec![
        "POS",
        "JOB",
        "GANG|NAME",
        "PARTITION",
        "USER",
        "ACCOUNT",
        "STATE",
        "NODES",
        "GPUS",
        "REASON",
        "START",
    ];
    if wide {
        head.extend(["KIND", "PRIORITY", "SUBMITTED", "ENDS", "HOSTS"]);
    }
    Drawn::default().table(&head, rows.iter().map(|row| queue_line(row, now, wide)).collect())
}

fn queue_line(row: &Row, now: i64, wide: bool) -> Vec<Cell> {
    let start = if row.waits() { ahead(row.start, now) } else { since(row.start, now) };
    let mut cells = vec![
        number(row.position),
        number(row.job),
        text(row.path()),
        text(&row.partition),
        text(&row.user),
        text(&row.account),
        state(&row.state),
        number(row.nodes),
        number(row.gpus),
        text(&row.reason),
        text(start),
    ];
    if wide {
        let kind = row.workload.as_ref().map_or("sbatch", |own| match own.kind.as_str() {
            "" => "gang",
            kind => kind,
        });
        let ends = if row.end > 0 { ahead(row.end, now) } else { String::new() };
        cells.extend([
            text(kind),
            number(row.priority),
            text(since(row.submitted, now)),
            text(ends),
            text(&row.hosts),
        ]);
    }
    cells
}

pub(super) fn state(state: &str) -> Cell {
    let paint = match state.split('+').next().unwrap_or_default() {
        "RUNNING" | "ALLOCATED" | "MIXED" | "IDLE" if !troubled(state) => Paint::Good,
        "PENDING" | "SUSPENDED" => Paint::Waits,
        _ => Paint::Bad,
    };
    text(state).painted(paint)
}

fn troubled(state: &str) -> bool {
    state.split('+').any(|flag| matches!(flag, "DRAIN" | "NOT_RESPONDING" | "FAIL" | "DOWN"))
}

/// Why a job waits, who is ahead, what would help.
pub(super) fn explanation(explained: &Explanation, now: i64) -> Drawn {
    let row = &explained.row;
    if row.job == 0 {
        return Drawn::default()
            .line(vec![text(format!("{} (no job in Slurm)", row.path())), state(&row.state)])
            .line(vec![text(format!("why:       {}: {}", row.reason, explained.why))]);
    }
    let owner = format!(
        "user {}, account {}, partition {}",
        row.user,
        or_none(&row.account),
        row.partition
    );
    let mut drawn = Drawn::default()
        .line(vec![text(format!("{} (Slurm job {})", row.path(), row.job)), state(&row.state)])
        .line(vec![text(format!("  {owner}, priority {}", row.priority)).painted(Paint::Faint)])
        .line(vec![text(format!("why:       {}", explained.why))]);
    for (i, help) in explained.help.iter().enumerate() {
        let label = if i == 0 { "needs:     " } else { "           " };
        drawn = drawn
            .line(vec![text(format!("{label}{}", help.strip_prefix("needs ").unwrap_or(help)))]);
    }
    if row.waits() {
        if !explained.priority.is_empty() {
            let priority = format!("priority:  {}: {}", row.priority, explained.priority);
            drawn = drawn.line(vec![text(priority)]);
        }
        drawn = drawn.line(vec![text(format!("estimate:  {}", estimate(row, now)))]);
        drawn = drawn.line(vec![text(format!("ahead:     {}", ahead_of(explained)))]);
    }
    if explained.ahead.is_empty() {
        return drawn;
    }
    let lines = explained.ahead.iter().map(|row| queue_line(row, now, false)).collect();
    let head = [
        "POS",
        "JOB",
        "GANG|NAME",
        "PARTITION",
        "USER",
        "ACCOUNT",
        "STATE",
        "NODES",
        "GPUS",
        "REASON",
        "START",
    ];
    drawn.table(&head, lines)
}

fn estimate(row: &Row, now: i64) -> String {
    match row.start {
        0 => "Slurm has none (backfill tests only the first jobs of the queue)".to_owned(),
        start => format!("starts {} ({}){}", ahead(start, now), date(start), planned(&row.planned)),
    }
}

fn planned(nodes: &str) -> String {
    if nodes.is_empty() { String::new() } else { format!(", planned on {nodes}") }
}

fn ahead_of(explained: &Explanation) -> String {
    let named = explained.ahead.len();
    match explained.ahead_count {
        0 => "nobody; it is next in its partition".to_owned(),
        1 => "1 job".to_owned(),
        n if n as usize > named => format!("{n} jobs, the first {named} of them"),
        n => format!("{n} jobs"),
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// The nodes, one line for each holder.
pub(super) fn nodes(rows: &[NodeRow], wide: bool) -> Drawn {
    let mut head = vec!["NODE", "STATE", "GPUS", "FREE", "HELD", "HOLDER", "JOB", "USER"];
    if wide {
        head.extend(["CPUS", "PARTITIONS", "REASON"]);
    }
    let mut lines = Vec::new();
    for row in rows {
        let nobody = [Holder::default()];
        let holders = if row.holders.is_empty() { &nobody[..] } else { &row.holders };
        for (i, holder) in holders.iter().enumerate() {
            lines.push(node_line(row, holder, i == 0, wide));
        }
    }
    Drawn::default().table(&head, lines)
}

/// Who holds a part of a node: the pod, else the workload, else the job's name.
pub(super) fn holder(holder: &Holder) -> String {
    match &holder.workload {
        Some(own) if !holder.pod.is_empty() => format!("pod {}/{}", own.namespace, holder.pod),
        Some(own) => format!("gang {}", own.path()),
        None if holder.job == 0 => String::new(),
        None => format!("sbatch {}", holder.name),
    }
}

fn node_line(row: &NodeRow, held: &Holder, first: bool, wide: bool) -> Vec<Cell> {
    let blank = || text(" ");
    let once = |cell: Cell| if first { cell } else { blank() };
    let mut cells = vec![
        once(text(&row.name)),
        once(state(&row.state)),
        once(number(row.gpus)),
        once(text(ranges(&row.free))),
        text(ranges(&held.gpus)),
        text(holder(held)),
        number(held.job),
        text(&held.user),
    ];
    if wide {
        cells.extend([
            once(text(format!("{}/{}", row.cpus_taken, row.cpus))),
            once(text(row.partitions.join(","))),
            once(text(&row.reason)),
        ]);
    }
    cells
}

/// A `whatif` answer as programs get it.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    start: i64,
    seconds: Option<i64>,
    nodes: String,
    reason: String,
    message: String,
    user: String,
    account: String,
    partition: String,
}

impl Answer {
    pub(super) fn of(answer: &v1::WhatIfResponse) -> Self {
        Self {
            start: answer.start,
            seconds: (answer.start > 0).then(|| (answer.start - answer.now).max(0)),
            nodes: answer.nodes.clone(),
            reason: answer.reason.clone(),
            message: answer.message.clone(),
            user: answer.user.clone(),
            account: answer.account.clone(),
            partition: answer.partition.clone(),
        }
    }
}

/// When it would start.
pub(super) fn what_if(answer: &v1::WhatIfResponse) -> Drawn {
    let when = match answer.start {
        0 => "no estimate".to_owned(),
        // Slurm's backfill counts in steps, and it has just looked.
        start if start <= answer.now + 5 => "at once".to_owned(),
        start => format!("{} ({})", ahead(start, answer.now), date(start)),
    };
    let when = format!("{when}{}", planned(&answer.nodes));
    let paint = if answer.start == 0 { Paint::Waits } else { Paint::Good };
    let whom = format!(
        "asked as user {}, account {}, partition {}",
        answer.user,
        or_none(&answer.account),
        or_none(&answer.partition)
    );
    Drawn::default()
        .line(vec![text("would start:"), text(when).painted(paint)])
        .line(vec![text(&answer.message)])
        .line(vec![text(whom).painted(Paint::Faint)])
}

/// What was ended.
pub(super) fn cancelled(row: &Row) -> Drawn {
    let what = match &row.workload {
        Some(own) => format!("the placeholder of gang {} (Slurm job {})", own.path(), row.job),
        None => format!("job {} ({}) of {}", row.job, row.name, row.user),
    };
    Drawn::default().line(vec![text(format!("cancelled {what}"))])
}

/// How old Slurm's word is, where that matters.
pub(super) fn age(seconds: i64) -> String {
    if seconds <= 3 { String::new() } else { format!("Slurm's word of {} ago", lasting(seconds)) }
}
