//! Which members can be bound now, and what must come first: another pod's end, an open node, volumes.
//!
//! Looks at seats one by one; that a gang is bound as a whole is seen to by [`super::decide`].

use std::collections::BTreeMap;

use super::{Action, Facts, LOST_FOR_MS, Progress, Spot, TELL_CLAIM_AGAIN_MS, unfinished};
use crate::ask::OnLoss;
use crate::eligible::volume::ToSelect;
use crate::gang::Member;
use crate::gang::standin::StandsIn;
use crate::job::JobId;
use crate::place::Seat;

/// A placeholder that has its nodes.
pub(super) struct Start<'a> {
    pub(super) job: JobId,
    pub(super) generation: u32,
    pub(super) seats: &'a BTreeMap<String, Seat>,
}

/// What can be done about the members that are not bound.
#[derive(Default)]
pub(super) struct Seating {
    pub(super) binds: Vec<Action>,
    /// Claims that are told their node.
    pub(super) tell: Vec<Action>,
    /// A seat whose node is shut to its pod, and why.
    pub(super) shut: Option<String>,
    /// What else stands in the way of a bind.
    pub(super) obstacle: Option<String>,
    /// Volumes are all that stands in the way.
    pub(super) for_volumes: bool,
    /// When a claim is told again.
    pub(super) wake: Option<i64>,
}

impl Seating {
    pub(super) fn of(facts: &Facts<'_>, unbound: &[&Member], start: &Start<'_>, now: i64) -> Self {
        let Start { job, generation, seats } = *start;
        let mut out = Self { binds: Vec::with_capacity(unbound.len()), ..Self::default() };
        let mut volumes = None;
        for member in unbound {
            let Some(seat) = seats.get(&member.uid) else { continue };
            match facts.spots.get(&member.uid) {
                Some(Spot::Free(node)) => out.binds.push(Action::Bind {
                    pod: member.uid.clone(),
                    seat: seat.clone(),
                    node: node.clone(),
                    job,
                    generation,
                }),
                Some(Spot::Taken { by }) => {
                    out.obstacle = Some(format!(
                        "Slurm job {job} has its nodes, but pod {by} still holds a device there; waiting for it to end"
                    ));
                }
                Some(Spot::Shut { node, why, .. }) => {
                    out.shut = Some(format!(
                        "Slurm job {job} has its nodes, but node {node} {why}, so pod {} cannot go there",
                        member.name
                    ));
                }
                Some(Spot::Volumes { node, claims, message }) => {
                    volumes = Some(message.clone());
                    tell_claims(&mut out, facts.progress, &member.uid, node, claims, now);
                }
                Some(Spot::NoNode) | None => {
                    let (node, label) = (&seat.node, crate::names::SLURM_NODE_LABEL);
                    out.obstacle = Some(format!(
                        "Slurm gave node {node}, which Kubernetes does not have; remove it from the partition or label its Kubernetes node {label}={node}"
                    ));
                }
            }
        }
        out.for_volumes = out.obstacle.is_none() && volumes.is_some();
        out.obstacle = out.obstacle.or(volumes);
        out
    }
}

/// Tells each claim its node, unless it knows. A provisioner that fails takes the word back; then it is
/// told again, ever more slowly.
fn tell_claims(
    out: &mut Seating,
    progress: &Progress,
    pod: &str,
    node: &str,
    claims: &[ToSelect],
    now: i64,
) {
    for claim in claims.iter().filter(|claim| claim.selected.is_none()) {
        // Members that share a claim have one volume: the first one's node is told.
        if out.tell.iter().any(|a| matches!(a, Action::SelectNode { uid, .. } if *uid == claim.uid))
        {
            continue;
        }
        let (told, at) = progress.claims.get(&claim.uid).copied().unwrap_or((0, now));
        let due = if told == 0 { now } else { at + (TELL_CLAIM_AGAIN_MS << (told - 1).min(4)) };
        if now < due {
            out.wake = Some(out.wake.map_or(due, |wake| wake.min(due)));
            continue;
        }
        out.tell.push(Action::SelectNode {
            pod: pod.to_owned(),
            claim: claim.claim.clone(),
            uid: claim.uid.clone(),
            node: node.to_owned(),
        });
    }
}

/// Members that were lost while their gang ran, and whose successors find that Kubernetes has lost the
/// node of their seat: these start beside the gang. Also, when to look again for that.
pub(super) fn stand_ins(
    facts: &Facts<'_>,
    start: &Start<'_>,
    now: i64,
) -> (Vec<Action>, Option<i64>) {
    let progress = facts.progress;
    // While a gang is bound for the first time, all of it is bound or nobody (rule 3).
    let whole = progress.all_bound || !(progress.began || facts.assembled.torn);
    let Some(since) = progress.lost_since.filter(|_| whole) else { return (Vec::new(), None) };
    let due = since + LOST_FOR_MS;
    if now < due {
        return (Vec::new(), Some(due));
    }
    let stand_in = |member: &Member| {
        let seat = start.seats.get(&member.uid)?;
        let (gang, node) = (facts.assembled.gang.uid.clone(), seat.node.clone());
        let stands_in = StandsIn { gang, rank: member.rank, job: start.job, node };
        Some(Action::StandIn { pod: member.uid.clone(), stands_in })
    };
    (without_a_node(facts).filter_map(stand_in).collect(), None)
}

/// Members of a gang that goes on without those it loses, which are not bound and whose seat's node
/// Kubernetes has lost.
pub(crate) fn without_a_node<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a Member> {
    let spots = facts.spots;
    let replaces = facts.assembled.gang.on_loss() == OnLoss::Replace;
    let lost = move |m: &&Member| m.bound.is_none() && spots.get(&m.uid).is_some_and(Spot::is_lost);
    unfinished(facts).filter(move |_| replaces).filter(lost)
}

/// Its Slurm job has no room for a member that came after the others were bound.
pub(super) fn no_seat(facts: &Facts<'_>, job: JobId) -> String {
    let gang = &facts.assembled.gang;
    format!(
        "Slurm job {job}, which holds the nodes of {} {}, has none for this pod: it was made larger since it started; restart it to be asked for as a whole",
        gang.kind, gang.name
    )
}
