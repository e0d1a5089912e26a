//! Pods that are bound although their placeholder is in the queue: Slurm has taken its start back.
//!
//! After a crash slurmctld may have forgotten a start (rule 2): the job is PENDING again, under the same
//! id, and its nodes are free to others. Its pods stay as long as nobody else has their devices, for it
//! mostly starts there again within a second. Once another job has been given one of them Slurm has
//! decided (rules 1 and 4): the placeholder is ended, and its pods leave with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use gangway_core::follow::Verdict;
use gangway_core::gang::{Bound, Member};
use gangway_core::hostlist::Hostlist;
use gangway_core::job::{Job, Standing};
use gangway_core::place::{in_use, is_crowded};
use gangway_core::placeholder::Stamp;
use gangway_slurm::{Error, Node};
use tokio::time::Instant;

use super::{Entry, Next, Queue, RETRY};
use crate::chain::explain;

/// Up to so many nodes are asked for one by one; beyond, one list is cheaper.
const ONE_BY_ONE: usize = 16;
/// Between two looks, so many times what one takes.
const SLOWLY: u32 = 10;

impl Queue {
    /// Looks whether the devices of pods that are bound for a placeholder in the queue are somebody
    /// else's by now. `Err`: look again after this long; `Ok(None)`: nobody is bound.
    pub(super) async fn given_away(
        &self,
        entry: &Entry,
        job: &Job,
        generation: u32,
    ) -> Result<Option<Next>, Duration> {
        let gang = entry.gang();
        let unfinished = gang.members.iter().filter(|m| !m.finished);
        let bound: Vec<(&Member, &Bound)> =
            unfinished.filter_map(|m| Some((m, m.bound.as_ref()?))).collect();
        if bound.is_empty() || entry.releasing().is_some() {
            return Ok(None);
        }
        let began = Instant::now();
        let outcome = self.end_given_away(job, generation, &bound).await;
        let pause = RETRY.max(began.elapsed() * SLOWLY);
        match outcome {
            Ok(Some(next)) => Ok(Some(next)),
            Ok(None) => Err(pause),
            Err(error) => {
                tracing::warn!(
                    error = explain(&error),
                    "could not see who has the nodes of bound pods"
                );
                Err(pause)
            }
        }
    }

    async fn end_given_away(
        &self,
        job: &Job,
        generation: u32,
        bound: &[(&Member, &Bound)],
    ) -> Result<Option<Next>, Error> {
        let there = self.nodes_of(&bound.iter().map(|(_, b)| b.node.as_str()).collect()).await?;
        let taken =
            bound.iter().find_map(|(_, b)| Some((b, taken(b, there.get(&b.node)?, bound)?)));
        let Some((Bound { node, job: begun, .. }, what)) = taken else { return Ok(None) };
        // By another job, or by ours, which has just started there again? Nothing is ended on a guess.
        let asked = Instant::now();
        let jobs = self.slurm.jobs().await?;
        let still_waits = |seen: &Job| seen.id == job.id && seen.standing() == Standing::Waiting;
        let holds = |seen: &&Job| {
            let there =
                || Hostlist::parse(&seen.nodes).is_ok_and(|all| all.iter().any(|n| n == *node));
            seen.standing() == Standing::Holding && there()
        };
        let holders: Vec<&Job> = jobs.iter().filter(holds).collect();
        if !jobs.iter().any(still_waits) || holders.is_empty() {
            return Ok(None);
        }
        let own = Stamp::of(job);
        let same =
            |s: &Stamp| own.as_ref().is_some_and(|o| o.cluster == s.cluster && o.gang == s.gang);
        if let Some(rival) = holders.iter().find(|j| Stamp::of(j).is_some_and(|s| same(&s))) {
            // Its gang's own earlier attempt, which slurmctld knows again.
            self.board.note((*rival).clone(), asked);
            return Ok(Some(Next::Again));
        }
        let names: Vec<String> =
            holders.iter().map(|j| format!("job {} of {}", j.id, j.user)).collect();
        let why = format!(
            "slurmctld has forgotten that job {begun} had started, and {what} of node {node}, where its pods are, is given to others ({})",
            names.join(", ")
        );
        tracing::warn!(why, "ending a placeholder whose nodes were given away");
        self.end(job, &why).await?;
        match self.slurm.job(job.id).await? {
            Some(seen) if seen.standing() == Standing::Over => {
                let state = seen.ending().clone();
                let (job, message) = (seen.id, why);
                Ok(Some(Next::Done(Some(Verdict::Ended { job, generation, state, message }))))
            }
            _ => Ok(None),
        }
    }

    /// These nodes, by name.
    async fn nodes_of(&self, nodes: &BTreeSet<&str>) -> Result<BTreeMap<String, Node>, Error> {
        let found = if nodes.len() <= ONE_BY_ONE {
            let asked = join_all(nodes.iter().map(|node| self.slurm.node(node))).await;
            asked.into_iter().filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?
        } else {
            self.slurm.nodes().await?
        };
        let ours = found.into_iter().filter(|node| nodes.contains(node.name.as_str()));
        Ok(ours.map(|node| (node.name.clone(), node)).collect())
    }
}

/// What of a member's part of its node a job has. Of CPUs and memory it is only seen that less is left than all
/// members there need.
fn taken(held: &Bound, node: &Node, bound: &[(&Member, &Bound)]) -> Option<String> {
    if let Some((gres, index)) = in_use(held, &node.gres_used) {
        return Some(format!("{gres} {index}"));
    }
    let here = bound.iter().filter(|(_, b)| b.node == node.name).map(|(m, _)| &*m.demand);
    let free_cpus = node.cpus.saturating_sub(node.allocated_cpus);
    let free_mib = node.memory_mib.saturating_sub(node.allocated_memory_mib);
    let crowded = is_crowded(free_cpus.into(), free_mib, here);
    crowded.then(|| "a part of the CPUs or memory".to_owned())
}
