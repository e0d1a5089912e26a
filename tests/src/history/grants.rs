//! slurmctld's own log: what it has given out. It knows of starts that it forgot in a crash before anybody
//! had looked.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use gangway_core::hostlist::Hostlist;

/// A job that was given nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub job: u32,
    /// Its nodes.
    pub nodes: Vec<String>,
}

/// Reads the log from `begin` on.
pub fn grants(log: &Path, begin: u64) -> Vec<Grant> {
    let mut file = File::open(log).expect("slurmctld has a log");
    file.seek(SeekFrom::Start(begin)).expect("the log is as long as it was");
    let mut text = Vec::new();
    file.read_to_end(&mut text).expect("the log can be read");
    String::from_utf8_lossy(&text).lines().filter_map(grant).collect()
}

/// `sched: _slurm_rpc_allocate_resources JobId=1 NodeList=a[1-2] …` for an ask that was granted at once,
/// `sched: Allocate JobId=1 NodeList=…` and `sched/backfill: _start_job: Started JobId=1 in p on a[1-2]`
/// for one that had waited (26.05.5).
fn grant(line: &str) -> Option<Grant> {
    let after = |key: &str| {
        let (_, rest) = line.split_once(key)?;
        rest.split_whitespace().next()
    };
    let started = line.contains("_slurm_rpc_allocate_resources")
        || line.contains("sched: Allocate")
        || line.contains("Started JobId=");
    let job = after("JobId=").filter(|_| started)?.parse().ok()?;
    let nodes = Hostlist::parse(after("NodeList=").or_else(|| after(" on "))?).ok()?;
    Some(Grant { job, nodes: nodes.names() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_start_is_read_and_nothing_else() {
        let lines = [
            "[2026-11-27T16:24:13.056] sched: _slurm_rpc_allocate_resources JobId=344 \
             NodeList=p5-[0010-0011] usec=1992",
            "[2026-11-27T16:24:16.005] sched: Allocate JobId=345 NodeList=p5-0012 #CPUs=2 \
             Partition=gangway",
            "[2026-11-27T16:24:16.005] sched/backfill: _start_job: Started JobId=346 in hybrid on h1",
            "[2026-11-27T16:24:15.471] _slurm_rpc_submit_batch_job: JobId=347 SLUID=s InitPrio=1",
            "[2026-11-27T16:24:15.471] Recovered JobId=348 Assoc=5",
        ];
        let found: Vec<_> = lines.iter().filter_map(|line| grant(line)).collect();
        let given = |job, nodes: &[&str]| Grant {
            job,
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        };
        let all =
            [given(344, &["p5-0010", "p5-0011"]), given(345, &["p5-0012"]), given(346, &["h1"])];
        assert_eq!(found, all);
    }
}
