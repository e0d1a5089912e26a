//! Many seeds at once, on all cores.

use std::fmt;
use std::ops::Range;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Bug, Outcome, play};

/// What became of many seeds.
#[derive(Debug, Default)]
pub struct Report {
    /// How many were played.
    pub seeds: u64,
    /// Those that broke a rule, without their histories.
    pub broken: Vec<Outcome>,
    /// Virtual time they took together.
    pub virtual_time: Duration,
    /// Time it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for outcome in &self.broken {
            for violation in &outcome.violations {
                writeln!(f, "seed {}: {violation}", outcome.seed)?;
            }
        }
        write!(
            f,
            "{} seeds, {} broken, {:.0} virtual hours in {:.1} s; replay one with: cargo run -p gangway-simulator -- --seed N",
            self.seeds,
            self.broken.len(),
            self.virtual_time.as_secs_f64() / 3600.0,
            self.took.as_secs_f64()
        )
    }
}

/// Plays all of these seeds, as many at once as there are cores; `twice`: each of them two times, which
/// must come to the same.
pub fn play_all(seeds: Range<u64>, bug: Option<Bug>, twice: bool) -> anyhow::Result<Report> {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let work = || -> anyhow::Result<Report> {
        let mut report = Report::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(report);
            }
            // Whatever goes wrong, its seed is told.
            let outcome =
                catch_unwind(|| play(seed, bug)).unwrap_or_else(|_| Ok(panicked(seed)))?;
            let outcome = if twice { compared(outcome, &play(seed, bug)?) } else { outcome };
            report.seeds += 1;
            report.virtual_time += Duration::from_millis(outcome.took_ms);
            if !outcome.violations.is_empty() {
                report.broken.push(Outcome { history: Vec::new(), ..outcome });
            }
        }
    };
    let reports = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
        joined.collect::<Vec<_>>()
    });
    let mut all = Report::default();
    for report in reports {
        let report = report.map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        all.seeds += report.seeds;
        all.virtual_time += report.virtual_time;
        all.broken.extend(report.broken);
    }
    all.broken.sort_by_key(|outcome| outcome.seed);
    all.took = began.elapsed();
    Ok(all)
}

/// The simulator itself has panicked over a seed.
fn panicked(seed: u64) -> Outcome {
    Outcome {
        seed,
        violations: vec!["it panicked".to_owned()],
        history: Vec::new(),
        digest: 0,
        took_ms: 0,
    }
}

/// What came of a seed, with a complaint where it came to something else the second time.
fn compared(mut first: Outcome, second: &Outcome) -> Outcome {
    let differ = first.history.iter().zip(&second.history).find(|(one, other)| one != other);
    if let Some((one, other)) = differ {
        first.violations.push(format!("it has two histories: {one:?}, and {other:?}"));
    } else if first.history.len() != second.history.len() {
        first.violations.push("it has two histories, one longer than the other".to_owned());
    }
    first
}
