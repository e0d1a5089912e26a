//! Asking about slurmctld itself.
//!
//! It must never conclude from silence that jobs are gone: [`Diagnostics::boot_time`] only says that
//! what was learned before it has to be learned again (rule 2).

use super::{Call, Client};
use crate::error::Error;
use crate::wire::{Diag, Pings, WirePing};

/// Whether slurmctld is there. slurmrestd answers this itself, without checking our token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ping {
    /// Whether the primary slurmctld (any, where none is marked primary) answers.
    pub responding: bool,
    /// Its host.
    pub hostname: String,
    /// Round trip from slurmrestd to it, microseconds.
    pub latency_us: u64,
    /// slurmrestd's release, `26.05.5`.
    pub release: String,
    /// Slurm's cluster name.
    pub cluster: String,
}

impl Ping {
    /// Whether this Slurm takes EXTERNAL heterogeneous jobs: 26.05.3 and newer. An older one could be
    /// ended by the attempt, so what cannot be read counts as older.
    pub fn heterogeneous_external(&self) -> bool {
        let mut numbers = self.release.split(['.', '-']).map(|part| part.parse::<u32>().ok());
        let mut next = || numbers.next().flatten();
        next()
            .zip(next())
            .is_some_and(|(year, month)| (year, month, next().unwrap_or(0)) >= (26, 5, 3))
    }
}

/// slurmctld's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostics {
    /// When slurmctld started, seconds since the epoch; when it changes, everything of the last
    /// 10 s may have been forgotten.
    pub boot_time: i64,
    /// slurmctld's clock, seconds since the epoch.
    pub now: i64,
    /// Jobs in the queue, counted by slurmctld every 30 s or so.
    pub jobs_pending: u64,
    /// Jobs running, counted likewise.
    pub jobs_running: u64,
    /// When these two were counted, seconds since the epoch; 0 for not yet.
    pub counted: i64,
    /// Jobs that have come since slurmctld began or, later, since midnight: counted as they come.
    pub jobs_submitted: u64,
    /// Requests slurmctld works on now.
    pub server_threads: u64,
    /// Messages to slurmd that wait: a poisoned EXTERNAL node shows here.
    pub agent_queue: u64,
}

impl Client {
    /// `GET ping/`.
    pub async fn ping(&self) -> Result<Ping, Error> {
        let answer: Pings = self.read(&Call::get("ping", "ping/".to_owned())).await?;
        let first = answer.pings.iter().find(|ping| ping.primary).or_else(|| answer.pings.first());
        let ping = |one: &WirePing| Ping {
            responding: one.responding,
            hostname: one.hostname.clone(),
            latency_us: one.latency.count().unwrap_or(0),
            ..Ping::default()
        };
        let slurm = answer.meta.slurm;
        let found = first.map(ping).unwrap_or_default();
        Ok(Ping { release: slurm.release, cluster: slurm.cluster, ..found })
    }

    /// `GET diag/`.
    pub async fn diag(&self) -> Result<Diagnostics, Error> {
        let reply = self.call(&Call::get("diag", "diag/".to_owned())).await?.accepted()?;
        let answer: Diag = reply.read()?;
        let statistics = answer.statistics.ok_or_else(|| reply.malformed("no statistics"))?;
        let boot_time = statistics
            .req_time_start
            .get()
            .filter(|&time| time > 0)
            .ok_or_else(|| reply.malformed("no req_time_start"))?;
        Ok(Diagnostics {
            boot_time,
            now: statistics.req_time.seconds(),
            jobs_pending: statistics.jobs_pending.count().unwrap_or(0),
            jobs_running: statistics.jobs_running.count().unwrap_or(0),
            counted: statistics.job_states_ts.seconds(),
            jobs_submitted: statistics.jobs_submitted.count().unwrap_or(u64::MAX),
            server_threads: statistics.server_thread_count.count().unwrap_or(0),
            agent_queue: statistics.agent_queue_size.count().unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heterogeneous_jobs_are_never_tried_on_a_slurm_they_could_end() {
        for (release, takes) in [
            ("26.05.3", true),
            ("26.05.5", true),
            ("26.11.0-rc1", true),
            ("27.05", true),
            ("26.05.2", false),
            ("26.05.0-0rc1", false),
            ("25.11.9", false),
            ("26", false),
            ("", false),
            ("soon", false),
        ] {
            let ping = Ping { release: release.to_owned(), ..Ping::default() };
            assert_eq!(ping.heterogeneous_external(), takes, "{release}");
        }
    }
}
