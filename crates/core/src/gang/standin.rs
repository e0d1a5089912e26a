//! Stand-ins: successors that start beside their gang, each on a node of its own.
//!
//! Under `replace` a successor takes the seat of the member before it. Where Kubernetes has lost the node
//! of that seat and Slurm has not, the seat stays shut, and a placeholder that runs cannot be given another
//! node. So the successor is asked for as a gang of one, under its own uid, and keeps the rank.
//!
//! That it stands in is written on it before it is asked for, and believed only where its own workload is
//! that gang and knows no other rank for it (rule 7). It ends with the placeholder that its gang had then.

use std::collections::BTreeSet;
use std::fmt;

use super::{Assembled, Member, identity};
use crate::job::JobId;
use crate::names;
use crate::pod::Pod;
use crate::workload::Workload;

/// For whom a pod stands in, as it carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StandsIn {
    /// The gang.
    pub gang: String,
    /// The rank of the member that was lost.
    pub rank: u32,
    /// The gang's placeholder, with which it ends.
    pub job: JobId,
    /// Slurm's name of the node that was lost, to which it must not go.
    pub node: String,
}

impl StandsIn {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let (gang, rank, job, node) = (next()?, next()?, next()?, next()?);
        let (rank, job) = (rank.parse().ok()?, JobId(job.parse().ok()?));
        parts.next().is_none().then(|| Self {
            gang: gang.to_owned(),
            rank,
            job,
            node: node.to_owned(),
        })
    }
}

impl fmt::Display for StandsIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gang, rank, job, node } = self;
        write!(f, "{gang}/{rank}/{job}/{node}")
    }
}

/// A pod that stands in for a member, as its gang sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// The pod, with the rank of whom it stands in for.
    pub member: Member,
    /// The placeholder of the gang with which it ends.
    pub job: JobId,
}

/// For whom this pod of the workload stands in; `None` for every other.
fn of(workload: &Workload, pod: &Pod) -> Option<StandsIn> {
    let said = StandsIn::parse(pod.annotations.get(names::STANDS_IN)?)?;
    // Another bridge may have bound it to its seat at that moment: then it is a member like others.
    let apart = pod.node().is_none() || pod.annotations.get(names::GANG) == Some(&pod.uid);
    let own = match identity::rank(workload, pod) {
        Some((rank, _)) => rank == said.rank,
        None => said.rank < workload.shape.size(),
    };
    (said.gang == workload.uid && apart && own).then_some(said)
}

/// Those of a workload's pods that stand in for a member, and all others.
pub(super) fn apart<'a>(
    workload: &Workload,
    pods: &[&'a Pod],
) -> (Vec<(&'a Pod, StandsIn)>, Vec<&'a Pod>) {
    let mut beside = Vec::new();
    let mut others = Vec::with_capacity(pods.len());
    for pod in pods {
        match of(workload, pod) {
            Some(said) => beside.push((*pod, said)),
            None => others.push(*pod),
        }
    }
    (beside, others)
}

/// Makes of a pod's gang of one that of a stand-in. What its gang waited for it need not wait for again.
pub(super) fn formed(mut one: Assembled, said: StandsIn) -> Assembled {
    one.gang.members.iter_mut().for_each(|member| member.rank = said.rank);
    one.gang.ask.dependency = None;
    one.stands_in = Some(said);
    one
}

/// The ranks that have a stand-in which is not on its way out.
pub(super) fn ranks(beside: &[Assembled]) -> BTreeSet<u32> {
    beside.iter().flat_map(|one| &one.gang.members).map(|member| member.rank).collect()
}

/// How many these are.
pub(super) fn live(beside: &[Assembled]) -> u32 {
    u32::try_from(ranks(beside).len()).unwrap_or(u32::MAX)
}

/// The same for their gang.
pub(super) fn of_gang(beside: &[Assembled]) -> Vec<StandIn> {
    let all = beside.iter().filter_map(|one| {
        let (member, said) = (one.gang.members.first()?.clone(), one.stands_in.as_ref()?);
        Some(StandIn { member, job: said.job })
    });
    all.collect()
}
