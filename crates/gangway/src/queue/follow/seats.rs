//! Who of a gang is seated in what Slurm gave it. The seats themselves are core's.

use gangway_core::gang::Gang;
use gangway_core::job::{Allocation, JobId};
use gangway_core::place::{PlaceError, Placer, Seat, Seeker, place, still_holds};
use gangway_core::topology::Topology;
use gangway_core::translate::{Group, Place};

/// Seats one group of a gang on the nodes of its component, by pod uid.
pub(super) fn seat(
    gang: &Gang,
    group: &Group,
    job: JobId,
    allocation: &Allocation,
    topology: &Topology,
) -> Result<Vec<(String, Seat)>, PlaceError> {
    let whole = group.places.len() == gang.size();
    let room = allocation.nodes.len() * group.per_node as usize;
    let member = |place: &Place| place.member.and_then(|i| gang.members.get(i));
    // A seat is kept for those that come later, as if they were there.
    let all = (0..).zip(&group.places).map(|(position, place)| {
        let seeker = Seeker {
            rank: place.rank,
            // Within its own component a member's rank counts among those that are alike.
            position: if whole { place.rank } else { position },
            // Whoever is bound for another start than this one leaves, and gets a seat like others.
            bound: member(place)
                .and_then(|m| m.bound.as_ref())
                .filter(|bound| still_holds(bound, job, allocation)),
        };
        (place, seeker)
    });
    let (places, seekers): (Vec<&Place>, Vec<Seeker<'_>>) =
        started(all.collect(), room).into_iter().unzip();
    let mut placer = Placer::default();
    let seats = place(&mut placer, &seekers, group.per_node, &group.gres, allocation, topology)?;
    let seated = places.into_iter().zip(seats);
    Ok(seated.filter_map(|(place, seat)| Some((member(place)?.uid.clone(), seat))).collect())
}

/// Those who can be seated in a gang that has started: a workload that was made larger since has
/// more members than room, and those that are bound do not leave for the others. The rest of the
/// room goes to the lowest ranks, where replacements are.
fn started<'a>(mut all: Vec<(&'a Place, Seeker<'a>)>, room: usize) -> Vec<(&'a Place, Seeker<'a>)> {
    let bound = all.iter().filter(|(_, seeker)| seeker.bound.is_some()).count();
    let mut more = room.saturating_sub(bound);
    if bound == 0 || bound > room || all.len() <= room {
        return all;
    }
    all.retain(|(_, seeker)| {
        let stays = seeker.bound.is_some() || more > 0;
        more -= usize::from(stays && seeker.bound.is_none());
        stays
    });
    all
}
