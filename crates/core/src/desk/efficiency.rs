//! What jobs made of their GPUs: accounting joined with what was measured of their devices, and who should look.
//!
//! What nobody has measured is unknown, never 0. A job is its id and its user: Slurm gives ids again.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::lasting;
use super::spent::{By, Spent, Usage, sorted};

/// GPUs that are used less than this are flagged.
const USED: f64 = 0.9;
/// Fewer bytes per second than this are no traffic.
const TRAFFIC: f64 = 1000.0;

/// What is recorded of jobs (manifests/monitoring/rules.yaml).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Use of its GPUs, of 1.
    GpuUse,
    /// Power of its GPUs.
    Watts,
    /// Bytes per second that go out over EFA.
    Sent,
    /// Bytes per second that come in.
    Received,
}

/// The mean of one series, of one job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Its id.
    pub job: u32,
    /// Its owner.
    pub user: String,
    /// The mean.
    pub value: f64,
}

impl Series {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::GpuUse, Self::Watts, Self::Sent, Self::Received];

    /// Its name in Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            Self::GpuUse => "gangway_job:gpu_utilization:avg",
            Self::Watts => "gangway_job:gpu_power_watts:sum",
            Self::Sent => "gangway_job:efa_transmit_bytes:rate2m",
            Self::Received => "gangway_job:efa_receive_bytes:rate2m",
        }
    }

    /// What to ask Prometheus for the mean by job over so many seconds. A job whose other labels changed has several
    /// series, so sum and count are made of all of them.
    pub fn mean_of(self, seconds: i64) -> String {
        let name = self.name();
        let all =
            |what: &str| format!("sum by (job_id, user) ({what}_over_time({name}[{seconds}s]))");
        format!("{} / {}", all("sum"), all("count"))
    }
}

/// What was measured of each job, from the answers for each series. What is no number was not measured.
pub fn measured(answers: &[(Series, Vec<Sample>)]) -> Vec<Measured> {
    let mut jobs: BTreeMap<(u32, &str), Measured> = BTreeMap::new();
    for (series, sample) in
        answers.iter().flat_map(|(series, all)| all.iter().map(move |one| (series, one)))
    {
        if !sample.value.is_finite() {
            continue;
        }
        let (job, user) = (sample.job, sample.user.clone());
        let new = || Measured { job, user, ..Measured::default() };
        let own = jobs.entry((job, sample.user.as_str())).or_insert_with(new);
        match series {
            Series::GpuUse => own.gpu_use = Some(sample.value),
            Series::Watts => own.watts = Some(sample.value),
            Series::Sent | Series::Received => {
                own.efa = Some(own.efa.unwrap_or(0.0) + sample.value);
            }
        }
    }
    jobs.into_values().collect()
}

/// What was measured of one job: means over the time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Its id.
    pub job: u32,
    /// Its owner.
    pub user: String,
    /// Use of its GPUs, of 1.
    pub gpu_use: Option<f64>,
    /// Power of its GPUs together.
    pub watts: Option<f64>,
    /// Bytes per second over EFA, both ways together.
    pub efa: Option<f64>,
}

/// How well the devices of a job, or of several, were used.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Efficiency {
    /// Owners of the jobs.
    pub users: Vec<String>,
    /// Use of GPUs, of 1, each job as much as the GPU time it took; `None`: nobody has measured it.
    pub gpu_use: Option<f64>,
    /// Power of all GPUs of a job, the mean by time of several jobs.
    pub watts: Option<f64>,
    /// Bytes per second over EFA, both ways together, the mean by time of several jobs.
    pub efa_bytes_per_second: Option<f64>,
    /// Jobs with GPUs whose use nobody has measured.
    pub unmeasured: u32,
    /// Jobs somebody should look at.
    pub flagged: u32,
    /// Why, of one job in words; of several how many of them, and why.
    pub flags: Vec<String>,
}

/// One job in accounting, all that was under its id.
struct Ran<'a> {
    spent: Vec<(&'a Spent, u64)>,
    user: &'a str,
    measured: Option<&'a Measured>,
}

/// As [`super::usage`], with what was measured of the jobs.
pub fn efficiency(
    spent: &[Spent],
    measured: &[Measured],
    by: By,
    range: (i64, i64),
    now: i64,
) -> Vec<Usage> {
    let known: BTreeMap<(u32, &str), &Measured> =
        measured.iter().map(|one| ((one.job, one.user.as_str()), one)).collect();
    let mut jobs: BTreeMap<(String, u32, &str), Ran<'_>> = BTreeMap::new();
    for job in spent {
        let seconds = job.seconds(range, now);
        if seconds > 0 {
            let key = (job.key(by), job.job, job.user.as_str());
            let measured = known.get(&(job.job, job.user.as_str())).copied();
            let new = || Ran { spent: Vec::new(), user: &job.user, measured };
            jobs.entry(key).or_insert_with(new).spent.push((job, seconds));
        }
    }
    let mut rows: BTreeMap<String, Vec<Ran<'_>>> = BTreeMap::new();
    for ((key, ..), ran) in jobs {
        rows.entry(key).or_default().push(ran);
    }
    sorted(rows.into_iter().map(|(key, jobs)| row(key, &jobs)).collect())
}

fn row(key: String, jobs: &[Ran<'_>]) -> Usage {
    let mut row = Usage { key, ..Usage::default() };
    for (job, seconds) in jobs.iter().flat_map(|ran| &ran.spent) {
        row.count(job, *seconds);
    }
    let mean = |weight: fn(&Ran<'_>) -> u64, value: fn(&Measured) -> Option<f64>| {
        let values = jobs.iter().filter_map(|ran| Some((weight(ran), value(ran.measured?)?)));
        mean(values)
    };
    let flagged: Vec<Vec<Flag>> =
        jobs.iter().map(Ran::flags).filter(|flags| !flags.is_empty()).collect();
    let flags = match jobs {
        [_] => flagged.iter().flatten().map(Flag::words).collect(),
        _ => [Flag::is_idle, Flag::is_silent]
            .iter()
            .filter_map(|is| several(&flagged, *is))
            .collect(),
    };
    let users: BTreeSet<&str> = jobs.iter().map(|ran| ran.user).collect();
    row.efficiency = Some(Efficiency {
        users: users.into_iter().map(str::to_owned).collect(),
        gpu_use: mean(|ran| ran.gpu_seconds(), |one| one.gpu_use),
        watts: mean(|ran| ran.seconds(), |one| one.watts),
        efa_bytes_per_second: mean(|ran| ran.seconds(), |one| one.efa),
        unmeasured: count(jobs.iter().filter(|ran| ran.is_unmeasured()).count()),
        flagged: count(flagged.len()),
        flags,
    });
    row
}

/// A reason to look at a job.
enum Flag {
    /// So much of its GPUs is used.
    Idle(f64),
    /// Nothing goes over EFA, for so many seconds.
    Silent(u64),
}

impl Flag {
    fn is_idle(&self) -> bool {
        matches!(self, Self::Idle(_))
    }

    fn is_silent(&self) -> bool {
        matches!(self, Self::Silent(_))
    }

    fn words(&self) -> String {
        match self {
            // Cut, so that what is under 90 % never reads as 90 %.
            Self::Idle(share) => format!("GPU use {} %, under 90 %", (share * 100.0).floor()),
            Self::Silent(seconds) => format!(
                "no EFA traffic in {}: does it use NCCL's OFI plugin?",
                lasting(i64::try_from(*seconds).unwrap_or(i64::MAX))
            ),
        }
    }
}

fn several(flagged: &[Vec<Flag>], is: fn(&Flag) -> bool) -> Option<String> {
    let (mut jobs, mut idle) = (0, false);
    for flag in flagged.iter().filter_map(|flags| flags.iter().find(|flag| is(flag))) {
        jobs += 1;
        idle |= flag.is_idle();
    }
    let noun = if jobs == 1 { "job" } else { "jobs" };
    let why = if idle { "under 90 % GPU use" } else { "without EFA traffic" };
    (jobs > 0).then(|| format!("{jobs} {noun} {why}"))
}

impl Ran<'_> {
    fn seconds(&self) -> u64 {
        self.spent.iter().fold(0, |sum, (_, seconds)| sum.saturating_add(*seconds))
    }

    fn gpu_seconds(&self) -> u64 {
        let held =
            self.spent.iter().map(|(job, seconds)| u64::from(job.gpus).saturating_mul(*seconds));
        held.fold(0, u64::saturating_add)
    }

    fn is_unmeasured(&self) -> bool {
        self.gpu_seconds() > 0 && self.measured.is_none_or(|one| one.gpu_use.is_none())
    }

    /// Nothing is said of what was not measured, and nothing of the network of a job on one node: it has none to use.
    fn flags(&self) -> Vec<Flag> {
        let idle = self.measured.and_then(|one| one.gpu_use).filter(|share| *share < USED);
        let nodes = self.spent.iter().map(|(job, _)| job.nodes).max().unwrap_or(0);
        let silent = self.measured.and_then(|one| one.efa);
        let silent = silent.filter(|bytes| *bytes < TRAFFIC && nodes > 1);
        let (idle, silent) = (idle.map(Flag::Idle), silent.map(|_| Flag::Silent(self.seconds())));
        idle.into_iter().chain(silent).collect()
    }
}

/// The mean of values by their weights; `None` of none.
fn mean(values: impl Iterator<Item = (u64, f64)>) -> Option<f64> {
    // Seconds of devices are far below what an f64 counts exactly.
    let (weight, sum) = values.fold((0.0, 0.0), |(weights, sum), (weight, value)| {
        (weights + weight as f64, sum + weight as f64 * value)
    });
    (weight > 0.0).then(|| sum / weight)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(job: u32, user: &str, nodes: u32, (start, end): (i64, i64)) -> Spent {
        let (user, account) = (user.to_owned(), "team1".to_owned());
        Spent { job, user, account, gpus: 8 * nodes, nodes, start, end, ..Spent::default() }
    }

    fn seen(job: u32, gpu_use: f64, efa: f64) -> Measured {
        let (gpu_use, watts, efa) = (Some(gpu_use), Some(5000.0), Some(efa));
        Measured { job, user: "alice".to_owned(), gpu_use, watts, efa }
    }

    fn of(spent: &[Spent], all: &[Measured], by: By) -> Vec<(String, Efficiency)> {
        let rows = efficiency(spent, all, by, (0, 100_000), 50_000);
        rows.into_iter().map(|row| (row.key, row.efficiency.expect("asked for"))).collect()
    }

    #[test]
    fn a_job_is_flagged_in_words_for_idle_gpus_and_a_silent_network() {
        let job = [ran(7, "alice", 2, (10, 10 + 3 * 3600))];
        let flags = |gpu_use, efa| of(&job, &[seen(7, gpu_use, efa)], By::Job)[0].1.flags.clone();
        assert_eq!(flags(0.418, 1e9), ["GPU use 41 %, under 90 %"]);
        assert_eq!(flags(0.8999, 1e9), ["GPU use 89 %, under 90 %"]);
        assert_eq!(flags(0.9, 1e9), [""; 0]);
        assert_eq!(flags(0.95, 0.0), ["no EFA traffic in 3h00m: does it use NCCL's OFI plugin?"]);
        assert_eq!(flags(0.0, 999.0).len(), 2, "both");
        assert_eq!(flags(0.95, 1000.0), [""; 0]);
    }

    #[test]
    fn the_answers_for_each_series_are_one_job() {
        let sample = |job, value| Sample { job, user: "alice".to_owned(), value };
        let answers = [
            (Series::GpuUse, vec![sample(7, 0.4), sample(8, f64::NAN)]),
            (Series::Watts, vec![sample(7, 650.0)]),
            (Series::Sent, vec![sample(7, 2e6)]),
            (Series::Received, vec![sample(7, 1e6), sample(9, 0.0)]),
        ];
        let user = "alice".to_owned();
        let own = Measured { job: 7, user, gpu_use: Some(0.4), watts: Some(650.0), efa: Some(3e6) };
        let silent = Measured { job: 9, gpu_use: None, watts: None, efa: Some(0.0), ..own.clone() };
        assert_eq!(measured(&answers), [own, silent]);
        let rules = include_str!("../../../../manifests/monitoring/rules.yaml");
        for series in Series::ALL {
            let record = format!("record: {}\n", series.name());
            assert!(rules.contains(&record), "{record} is not recorded");
        }
        assert_eq!(
            Series::Watts.mean_of(60),
            "sum by (job_id, user) (sum_over_time(gangway_job:gpu_power_watts:sum[60s])) / \
             sum by (job_id, user) (count_over_time(gangway_job:gpu_power_watts:sum[60s]))"
        );
    }

    #[test]
    fn one_node_has_no_network_to_use() {
        let job = [ran(7, "alice", 1, (10, 4000))];
        let row = &of(&job, &[seen(7, 0.95, 0.0)], By::Job)[0].1;
        assert_eq!((row.flagged, row.efa_bytes_per_second), (0, Some(0.0)));
    }

    #[test]
    fn what_nobody_has_measured_is_unknown_and_not_zero() {
        let bare = Measured { job: 7, user: "alice".to_owned(), ..Measured::default() };
        for all in [vec![], vec![bare], vec![seen(8, 0.1, 0.0)]] {
            let row = &of(&[ran(7, "alice", 2, (10, 4000))], &all, By::Job)[0].1;
            assert_eq!((row.gpu_use, row.watts, row.efa_bytes_per_second), (None, None, None));
            assert_eq!((row.flagged, row.unmeasured, row.flags.len()), (0, 1, 0));
        }
        let no_gpus = Spent { gpus: 0, ..ran(7, "alice", 2, (10, 4000)) };
        assert_eq!(of(&[no_gpus], &[], By::Job)[0].1.unmeasured, 0, "it has none to measure");
    }

    #[test]
    fn an_id_that_slurm_gave_to_somebody_else_is_another_job() {
        let spent = [ran(7, "alice", 2, (10, 4000)), ran(7, "bob", 2, (5000, 6000))];
        let rows = of(&spent, &[seen(7, 0.2, 1e9)], By::Job);
        let [(key, row)] = rows.as_slice() else { unreachable!("{rows:?}") };
        assert_eq!(key, "7");
        assert_eq!((row.gpu_use, row.flagged, row.unmeasured), (Some(0.2), 1, 1));
        assert_eq!(row.users, ["alice", "bob"]);
        assert_eq!(row.flags, ["1 job under 90 % GPU use"]);
        let users = of(&spent, &[seen(7, 0.2, 1e9)], By::User);
        assert_eq!(
            users.iter().map(|(key, row)| (key.as_str(), row.flagged)).collect::<Vec<_>>(),
            [("alice", 1), ("bob", 0)]
        );
    }

    #[test]
    fn sums_weigh_jobs_by_their_gpu_time() {
        // Three times as long, so it weighs three times as much; the third is not measured and changes nothing.
        let spent = [
            ran(7, "alice", 2, (0, 1000)),
            ran(8, "alice", 2, (1000, 4000)),
            ran(9, "alice", 2, (0, 4000)),
        ];
        // Accounting's start of 0 is "never": from 1 on.
        let spent = spent.map(|job| Spent { start: job.start.max(1), ..job });
        let all = [seen(7, 1.0, 1e9), seen(8, 0.6, 0.0)];
        let row = &of(&spent, &all, By::Account)[0].1;
        let share = row.gpu_use.expect("measured");
        assert!((share - 0.7).abs() < 0.001, "{share}");
        assert_eq!((row.flagged, row.unmeasured), (1, 1));
        assert_eq!(row.flags, ["1 job under 90 % GPU use", "1 job without EFA traffic"]);
        let plain = super::super::usage(&spent, By::Account, (0, 100_000), 50_000);
        let rows = efficiency(&spent, &all, By::Account, (0, 100_000), 50_000);
        let hours = |row: &Usage| (row.jobs, row.gpu_seconds, row.node_seconds);
        assert_eq!(
            plain.iter().map(hours).collect::<Vec<_>>(),
            rows.iter().map(hours).collect::<Vec<_>>()
        );
    }
}
