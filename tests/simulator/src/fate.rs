//! What a seed has in store: gangs, faults, and when.

use gangway_slurm::fake::{Partition, Setup};

use crate::cast::{Cast, Kind, Workload};
use crate::dice::Dice;

/// slurmctld's clock when a seed begins, milliseconds since the epoch.
pub(crate) const EPOCH_MS: i64 = 1_800_000_000_000;
/// No fault comes later than this.
pub(crate) const STORMY_MS: u64 = 60_000;

/// A crash of slurmctld that is over so soon may have been noticed by nobody.
const UNNOTICED_MS: u64 = 400;

/// Something that happens to Slurm, or in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// slurmctld is killed, and is back after a while.
    Crash {
        away_ms: u64,
    },
    /// Somebody cancels a placeholder.
    Scancel,
    /// A node fails for a while.
    NodeLost {
        node: String,
        away_ms: u64,
    },
    NodeBack {
        node: String,
    },
    /// Somebody's job.
    Sbatch {
        urgent: bool,
        nodes: u32,
        gpus: u32,
        ms: i64,
    },
    /// The watches of the API server end; with `gone`, so does what they could resume from.
    WatchesEnd {
        gone: bool,
    },
}

/// How Slurm does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    Unreachable,
    Silent,
    BadGateway,
    NoController,
    EmptyLists,
    Garbage,
}

/// Slurm does not answer, or not well, for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
    pub(crate) how: Away,
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) nodes: u32,
    pub(crate) gpus: u32,
    pub(crate) immediate: bool,
    pub(crate) happenings: Vec<(u64, Happening)>,
    pub(crate) outages: Vec<Outage>,
    /// In 1000 requests: carried out and not answered; refused; answered late.
    pub(crate) slurm_faults: [u64; 3],
    pub(crate) kube_faults: [u64; 3],
    /// The bridge dies at this call of each of its lives, before or after it is carried out; and how
    /// long until the next life.
    pub(crate) deaths: Vec<(u64, bool, u64)>,
}

impl Fate {
    /// Nothing goes wrong, and there is room for all.
    #[cfg(test)]
    pub(crate) fn calm() -> Self {
        Self {
            nodes: 3,
            gpus: 8,
            immediate: true,
            happenings: Vec::new(),
            outages: Vec::new(),
            slurm_faults: [0; 3],
            kube_faults: [0; 3],
            deaths: Vec::new(),
        }
    }

    /// The fate of a seed.
    pub(crate) fn of(dice: Dice) -> Self {
        let nodes = u32::try_from(dice.roll("nodes", 0, 3..7)).unwrap_or(3);
        // Most seeds have a few kinds of trouble, some have all of them, some none.
        let trouble = |what: &str, in_1000| dice.chance(what, 0, in_1000);
        let when = |what: &str, n| dice.roll(what, n, 500..STORMY_MS);
        let rates = |what: &str| {
            if !trouble(what, 400) {
                return [0; 3];
            }
            [1, 2, 3].map(|n| dice.roll(what, n, 0..60))
        };
        let mut happenings = Vec::new();
        if trouble("crash", 300) {
            // Half of them are over before anybody has noticed.
            let soon = dice.chance("crash away", 1, 500);
            let away_ms =
                dice.roll("crash away", 0, if soon { 20..UNNOTICED_MS } else { 500..8_000 });
            happenings.push((when("crash at", 0), Happening::Crash { away_ms }));
        }
        if trouble("scancel", 300) {
            happenings.push((when("scancel at", 0), Happening::Scancel));
        }
        if trouble("node", 300) {
            let node =
                node_name(u32::try_from(dice.roll("which node", 0, 0..nodes.into())).unwrap_or(0));
            let away_ms = dice.roll("node away", 0, 2_000..20_000);
            happenings.push((when("node at", 0), Happening::NodeLost { node, away_ms }));
        }
        for n in 0..dice.roll("others", 0, 0..4) {
            let urgent = dice.chance("urgent", n, 500);
            let wide = u32::try_from(dice.roll("wide", n, 1..u64::from(nodes) + 1)).unwrap_or(1);
            let gpus = u32::try_from(dice.roll("deep", n, 1..9)).unwrap_or(1);
            let ms = i64::try_from(dice.roll("long", n, 2_000..25_000)).unwrap_or(2_000);
            let sbatch = Happening::Sbatch { urgent, nodes: wide, gpus, ms };
            happenings.push((when("sbatch at", n), sbatch));
        }
        if trouble("watches", 300) {
            for n in 0..dice.roll("watches end", 0, 1..4) {
                let gone = dice.chance("gone", n, 500);
                happenings.push((when("watch at", n), Happening::WatchesEnd { gone }));
            }
        }
        let outages =
            (0..dice.roll("outages", 0, 0..3)).filter(|_| trouble("outage", 500)).map(|n| {
                let from_ms = when("outage at", n);
                let how = [
                    Away::Unreachable,
                    Away::Silent,
                    Away::BadGateway,
                    Away::NoController,
                    Away::EmptyLists,
                    Away::Garbage,
                ][usize::try_from(dice.roll("how", n, 0..6)).unwrap_or(0)];
                Outage { from_ms, to_ms: from_ms + dice.roll("outage", n, 500..20_000), how }
            });
        let deaths = (0..dice.roll("deaths", 0, 0..4)).filter(|_| trouble("death", 600)).map(|n| {
            let call = dice.roll("call", n, 1..120);
            (call, dice.chance("after", n, 500), dice.roll("dead", n, 1_000..15_000))
        });
        Self {
            nodes,
            gpus: 8,
            immediate: dice.chance("immediate", 0, 500),
            outages: outages.collect(),
            deaths: deaths.collect(),
            slurm_faults: rates("slurm faults"),
            kube_faults: rates("kube faults"),
            happenings,
        }
    }

    /// When slurmctld is killed and is back before anybody has noticed.
    fn unnoticed_crash(&self) -> Option<(u64, u64)> {
        self.happenings.iter().find_map(|(at, what)| match what {
            Happening::Crash { away_ms } if *away_ms < UNNOTICED_MS => Some((*at, *at + *away_ms)),
            _ => None,
        })
    }

    /// The Slurm it begins with.
    pub(crate) fn slurm(&self) -> Setup {
        let partition = |name: &str, tier| Partition { name: name.to_owned(), tier };
        Setup {
            nodes: (0..self.nodes).map(node_name).collect(),
            gpus: self.gpus,
            partitions: vec![partition("normal", 1), partition("urgent", 2)],
            users: ["alice", "slurm", "somebody"]
                .map(|u| (u.to_owned(), "all".to_owned()))
                .to_vec(),
            token: "token".to_owned(),
            now_ms: EPOCH_MS,
            job_age_ms: 300_000,
        }
    }
}

/// The name of a node, in Slurm and in Kubernetes.
pub(crate) fn node_name(n: u32) -> String {
    format!("node-{}", n + 1)
}

/// Who else is there.
pub(crate) fn cast(dice: Dice, fate: &Fate) -> Cast {
    let workloads = (0..dice.roll("workloads", 0, 2..5)).map(|n| {
        let kind = [Kind::Bare, Kind::Job, Kind::PyTorch]
            [usize::try_from(dice.roll("kind", n, 0..3)).unwrap_or(0)];
        let most = u64::from(fate.nodes).min(4) + 1;
        let size = if kind == Kind::Bare { 1 } else { dice.roll("size", n, 1..most) };
        let gpus = [1, 2, 4, 8][usize::try_from(dice.roll("gpus", n, 0..4)).unwrap_or(0)];
        let size = u32::try_from(size).unwrap_or(1);
        let mut workload = Workload::new(kind, format!("w{n}"), size, gpus);
        workload.runs_ms =
            [dice.roll("runs", n, 1_000..30_000), dice.roll("again", n, 1_000..6_000)];
        workload.arrives_ms = match (n, fate.unnoticed_crash()) {
            // One is forgotten, and the next ones are given its id.
            (0, Some((crash, _))) => crash.saturating_sub(dice.roll("before", n, 300..2_500)),
            (_, Some((_, back))) => back + dice.roll("after", n, 0..900),
            _ => dice.roll("arrives", n, 0..20_000),
        };
        if dice.chance("bored", n, 150) {
            workload.leaves_ms = Some(workload.arrives_ms + dice.roll("leaves", n, 100..30_000));
        }
        if dice.chance("loses", n, 200) {
            workload.loses_ms = Some(workload.arrives_ms + dice.roll("loses at", n, 1_000..20_000));
        }
        workload
    });
    let mut cast = Cast::new(workloads.collect(), dice.roll("ending", 0, 60..4_000));
    cast.slow_endings_in_1000 = if dice.chance("slow endings", 0, 300) { 200 } else { 0 };
    cast
}
