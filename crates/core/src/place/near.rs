//! Sharing out the devices of one node among the members on it, near ones together.
//!
//! A share is the devices of one member, as bits by GRES. What is near is told by the layout of the
//! instance type; without one, shares are consecutive indexes. Every share has exactly what a member
//! needs, and no device is in two shares, however far apart they are: nearness is never a reason to
//! refuse.

use crate::topology::layout::{self, Layout};

use crate::job::GresRequest;

/// The devices behind each switch of one instance type, for the needs of one gang.
#[derive(Debug, Default)]
pub(super) struct Wiring {
    /// By switch and need.
    switches: Vec<u128>,
    /// By switch and need, the devices of the whole socket.
    sockets: Vec<u128>,
    needs: usize,
}

impl Wiring {
    /// Reads a layout in terms of what a gang needs.
    pub(super) fn read(&mut self, layout: Option<&Layout>, needs: &[GresRequest]) {
        self.switches.clear();
        self.sockets.clear();
        self.needs = needs.len();
        let Some(layout) = layout else { return };
        for switch in 0..layout.switches {
            self.switches.extend(needs.iter().map(|need| layout.behind(switch, &need.name)));
        }
        for switch in 0..layout.switches {
            for need in 0..needs.len() {
                let all =
                    (0..layout.switches).filter(|s| layout.socket(*s) == layout.socket(switch));
                let whole = all.fold(0, |bits, s| bits | self.switch(s as usize, need));
                self.sockets.push(whole);
            }
        }
    }

    /// Whether it says anything of all the devices a node gives of a need.
    fn covers(&self, need: usize, given: u128) -> bool {
        let known =
            self.switches.iter().skip(need).step_by(self.needs.max(1)).fold(0, |a, b| a | b);
        given != 0 && given & !known == 0
    }

    fn count(&self) -> usize {
        self.switches.len() / self.needs.max(1)
    }

    fn switch(&self, switch: usize, need: usize) -> u128 {
        self.switches[switch * self.needs + need]
    }

    fn socket(&self, switch: usize, need: usize) -> u128 {
        self.sockets[switch * self.needs + need]
    }
}

/// Puts `count` shares into `shares` (one number per need each) and takes their devices out of
/// `free`. The caller has made sure that there are enough of every need that has any.
pub(super) fn share(
    wiring: &Wiring,
    needs: &[GresRequest],
    free: &mut [u128],
    count: usize,
    shares: &mut Vec<u128>,
) {
    let width = needs.len();
    let first = shares.len();
    shares.resize(first + count * width, 0);
    let shares = &mut shares[first..];
    // Of the kinds that are needed, known by their indexes, and in the layout, the first leads; but
    // network cards go to the devices that they serve, not the other way round.
    let leads = |k: &usize| needs[*k].count > 0 && wiring.covers(*k, free[*k]);
    let serves = |k: &usize| layout::is_network(&needs[*k].name);
    let lead = (0..width).find(|k| !serves(k) && leads(k)).or_else(|| (0..width).find(leads));
    let Some(lead) = lead else {
        for one in shares.chunks_exact_mut(width.max(1)) {
            for (k, own) in one.iter_mut().enumerate() {
                *own = take(&mut free[k], u128::MAX, needs[k].count);
            }
        }
        return;
    };
    for n in 0..count {
        let own = closest(wiring, lead, free[lead], needs[lead].count);
        shares[n * width + lead] = take(&mut free[lead], own, needs[lead].count);
    }
    in_order(shares, width, lead);
    for k in (0..width).filter(|k| *k != lead) {
        follow(wiring, lead, k, needs[k].count, &mut free[k], shares, width);
    }
}

/// The smallest part of the node that still has `wanted` free devices of the leading kind; of equal
/// ones the one with the fewest, so that large parts stay whole.
fn closest(wiring: &Wiring, lead: usize, free: u128, wanted: u32) -> u128 {
    let best = |part: fn(&Wiring, usize, usize) -> u128| {
        let parts = (0..wiring.count()).map(|s| part(wiring, s, lead));
        let fits = parts.filter(|part| (part & free).count_ones() >= wanted);
        fits.min_by_key(|part| (part & free).count_ones())
    };
    best(Wiring::switch).or_else(|| best(Wiring::socket)).unwrap_or(u128::MAX)
}

/// Sorts the shares by their first leading device, so that slots keep the order of the indexes. Only
/// the leading devices are given out yet.
fn in_order(shares: &mut [u128], width: usize, lead: usize) {
    let count = shares.len() / width;
    for n in 1..count {
        let mut at = n;
        while at > 0
            && shares[(at - 1) * width + lead].trailing_zeros()
                > shares[at * width + lead].trailing_zeros()
        {
            shares.swap((at - 1) * width + lead, at * width + lead);
            at -= 1;
        }
    }
}

/// Gives every share its devices of kind `k`: first all that are behind the switches of its leading
/// devices, evenly; then those of the same sockets; then what is left. One step for all shares before
/// the next, so that none takes what is nearer to another.
fn follow(
    wiring: &Wiring,
    lead: usize,
    k: usize,
    wanted: u32,
    free: &mut u128,
    shares: &mut [u128],
    width: usize,
) {
    if *free == 0 {
        return;
    }
    for share in shares.chunks_exact_mut(width) {
        let leaders = share[lead];
        let mut progress = true;
        while progress && share[k].count_ones() < wanted {
            progress = false;
            for switch in (0..wiring.count()).filter(|s| wiring.switch(*s, lead) & leaders != 0) {
                if share[k].count_ones() < wanted {
                    let one = take(free, wiring.switch(switch, k), 1);
                    share[k] |= one;
                    progress |= one != 0;
                }
            }
        }
    }
    for share in shares.chunks_exact_mut(width) {
        let leaders = share[lead];
        for switch in (0..wiring.count()).filter(|s| wiring.switch(*s, lead) & leaders != 0) {
            let missing = wanted - share[k].count_ones();
            share[k] |= take(free, wiring.socket(switch, k), missing);
        }
    }
    for share in shares.chunks_exact_mut(width) {
        let missing = wanted - share[k].count_ones();
        share[k] |= take(free, u128::MAX, missing);
    }
}

/// Takes the lowest `count` devices of `among` out of `free`, or all there are.
fn take(free: &mut u128, among: u128, count: u32) -> u128 {
    let there = *free & among;
    let mut rest = there;
    if there.count_ones() > count {
        for _ in 0..count {
            rest &= rest.wrapping_sub(1);
        }
    } else {
        rest = 0;
    }
    let taken = there & !rest;
    *free &= !taken;
    taken
}
