//! Seats for a whole gang, at memory speed: numbers in, numbers out.
//!
//! Slurm has chosen the nodes, so there is nothing to search: nodes are put in order by marking their
//! places in the topology's walk and reading the marks, and each gives its seats in a row. Everything
//! is written into memory that is kept from one gang to the next: after the first of its size, a
//! placement allocates nothing.

use super::granted::{Given, Granted};
use super::near::{Wiring, share};
use super::{MAX_DEVICES, MAX_SEATS};
use crate::job::GresRequest;
use crate::topology::{NodeId, Order, Topology};

/// A member as far as seating needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The number of its seat, if that is free: its place among the members that are alike.
    pub position: u32,
    /// Where it already is.
    pub bound: Option<Hold>,
}

/// A member that is already bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The node.
    pub node: NodeId,
    /// Which of the sets of devices it has, of those given to [`Placer::place`]; `None` where its
    /// devices are not known.
    pub held: Option<u32>,
}

/// Where a member is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The node.
    pub node: NodeId,
    /// Its devices: [`Placer::devices`].
    pub share: u32,
}

/// Why an allocation cannot seat a gang, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Fewer seats than members.
    TooFew {
        /// Seats there are.
        seats: usize,
        /// Nodes there are.
        nodes: usize,
    },
    /// This candidate is bound to a node that is not in the allocation or has no seat for it.
    Outside(usize),
    /// A node gives fewer devices than its seats need.
    ShortOf {
        /// The node.
        node: NodeId,
        /// Which need.
        need: usize,
        /// Devices allocated.
        given: u32,
        /// Devices needed.
        needed: u32,
    },
}

/// Places gangs, one after another, in the same memory.
#[derive(Debug, Default)]
pub struct Placer {
    /// Marked places of the topology's walk, 64 in a word.
    marks: Vec<u64>,
    /// By place in the topology's walk, what the node there gives. Valid where marked, and where not
    /// all nodes give the same.
    pattern: Vec<u32>,
    /// Marked nodes in order, with their plans.
    walk: Vec<(NodeId, u32)>,
    /// By place in the topology's walk: place in `walk`. Valid where marked.
    ordinal: Vec<u32>,
    plans: Vec<Plan>,
    shares: Vec<u128>,
    wiring: Wiring,
    free: Vec<u128>,
    rest: Vec<u128>,
    spots: Vec<Spot>,
    /// Seats given away, 64 in a word.
    taken: Vec<u64>,
    /// Nodes whose members hold devices that are not shared out as planned; then pairs of such a
    /// node and a member on it.
    odd: Vec<u32>,
    holders: Vec<(u32, u32)>,
    late: Vec<u32>,
}

/// How the devices of a node are shared out.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Where its shares begin.
    base: u32,
    /// 1, or 0 where all seats have the same share: none.
    stride: u32,
    /// How many seats it has devices for.
    fits: u32,
}

/// What is placed; constant for one call.
#[derive(Clone, Copy)]
struct Question<'a> {
    topology: &'a Topology,
    order: &'a Order,
    granted: &'a Granted,
    needs: &'a [GresRequest],
    per_node: u32,
    candidates: &'a [Candidate],
    held: &'a [u128],
}

impl Question<'_> {
    /// The seat on this node that a member's position means, if it is on this node.
    fn wish(&self, candidate: &Candidate, ordinal: u32) -> Option<u32> {
        (candidate.position / self.per_node == ordinal).then(|| candidate.position % self.per_node)
    }

    fn holding(&self, held: u32) -> &[u128] {
        &self.held[held as usize * self.needs.len()..][..self.needs.len()]
    }
}

/// A node without seats.
const CLOSED: Plan = Plan { base: 0, stride: 0, fits: 0 };

/// A member that has no seat yet.
const NOWHERE: Spot = Spot { node: NodeId(u32::MAX), share: u32::MAX };

impl Placer {
    /// Seats `candidates` in what was granted, `per_node` to a node. The result is in the order of
    /// the candidates.
    ///
    /// `held` are the sets of devices that bound members have, one number per need each; they are
    /// part of what their node gives.
    pub fn place(
        &mut self,
        topology: &Topology,
        granted: &Granted,
        needs: &[GresRequest],
        per_node: u32,
        candidates: &[Candidate],
        held: &[u128],
    ) -> Result<&[Spot], Misfit> {
        let order = topology.order(&granted.nodes);
        self.order(order, granted);
        let nodes = self.walk.len();
        let most = u32::try_from(MAX_SEATS / nodes.max(1)).unwrap_or(u32::MAX).max(1);
        let per_node = per_node.clamp(1, most);
        let seats = nodes * per_node as usize;
        if seats < candidates.len() {
            return Err(Misfit::TooFew { seats, nodes });
        }
        let question = Question { topology, order, granted, needs, per_node, candidates, held };
        self.plan(&question);
        if !self.seat_by_position(&question) {
            self.seat_around_the_bound(&question)?;
        }
        Ok(&self.spots)
    }

    /// The devices of a share, as bits, by need.
    pub fn devices(&self, needs: &[GresRequest], spot: Spot) -> &[u128] {
        // A gang that needs no devices has no shares.
        let width = needs.len();
        self.shares
            .get(spot.share as usize * width..)
            .map_or(&[], |own| &own[..width.min(own.len())])
    }

    /// Puts the nodes in order.
    fn order(&mut self, order: &Order, granted: &Granted) {
        let numbers = granted.numbers();
        self.marks.clear();
        self.marks.resize(numbers.div_ceil(64), 0);
        self.pattern.resize(numbers.max(self.pattern.len()), 0);
        let alike = granted.patterns.len() == 1;
        for (node, pattern) in granted.nodes.iter().zip(&granted.pattern) {
            let position = order.position(*node);
            self.marks[position as usize / 64] |= 1 << (position % 64);
            if !alike {
                self.pattern[position as usize] = *pattern;
            }
        }
        // A node that is named twice is one node.
        let marked: usize = self.marks.iter().map(|word| word.count_ones() as usize).sum();
        self.walk.resize(marked, (NodeId(0), 0));
        let mut walk = self.walk.iter_mut();
        for (word, first) in self.marks.iter().zip((0..).step_by(64)) {
            let mut rest = *word;
            while rest != 0
                && let Some(next) = walk.next()
            {
                let position: u32 = first + rest.trailing_zeros();
                let pattern = if alike { 0 } else { self.pattern[position as usize] };
                *next = (order.node(position), pattern);
                rest &= rest - 1;
            }
        }
    }

    /// Shares out the devices of every pattern.
    fn plan(&mut self, question: &Question<'_>) {
        self.plans.clear();
        self.shares.clear();
        let mut wired = None;
        for (number, pattern) in (0..).zip(&question.granted.patterns) {
            if wired != Some(pattern.layout) {
                wired = Some(pattern.layout);
                self.wire(question, pattern.layout);
            }
            let given = question.granted.of_pattern(number, question.needs.len());
            let fits = fits(question.needs, given);
            let indexed =
                given.iter().zip(question.needs).any(|(g, n)| g.devices != 0 && n.count > 0);
            let base = self.shares.len().checked_div(question.needs.len()).unwrap_or(0) as u32;
            let stride = if indexed {
                self.free.clear();
                self.free.extend(given.iter().map(|g| g.devices));
                let count = fits.min(question.per_node) as usize;
                share(&self.wiring, question.needs, &mut self.free, count, &mut self.shares);
                1
            } else {
                self.shares.extend(question.needs.iter().map(|_| 0));
                0
            };
            self.plans.push(Plan { base, stride, fits });
        }
    }

    fn wire(&mut self, question: &Question<'_>, layout: Option<u16>) {
        let layout = layout.and_then(|number| question.topology.layout_by_number(number));
        self.wiring.read(layout, question.needs);
    }

    /// The ordinary case, and that of a replacement: everyone gets the seat of its position, because
    /// whoever is bound has just that one. False where it is not so.
    fn seat_by_position(&mut self, question: &Question<'_>) -> bool {
        let (width, per_node) = (question.needs.len(), question.per_node);
        self.spots.resize(question.candidates.len(), NOWHERE);
        // Positions mostly count up: the node at hand, and the position where the next one begins.
        let (mut here, mut next) = (NOWHERE, 0);
        let (mut first, mut plan) = (0, CLOSED);
        let mut least = 0;
        for (spot, candidate) in self.spots.iter_mut().zip(question.candidates) {
            let position = candidate.position;
            if position < least {
                return false;
            }
            least = position.saturating_add(1);
            if position >= next {
                let ordinal = if per_node == 1 { position } else { position / per_node };
                let Some((node, number)) = self.walk.get(ordinal as usize) else { return false };
                plan = self.plans[*number as usize];
                here = Spot { node: *node, share: plan.base };
                first = ordinal * per_node;
                next = first + per_node;
            }
            let seat = position - first;
            if seat >= plan.fits {
                return false;
            }
            *spot = Spot { share: here.share + seat * plan.stride, ..here };
            if let Some(hold) = candidate.bound {
                let known = hold.held.filter(|_| plan.stride > 0);
                let fits = known.is_none_or(|held| {
                    let share = &self.shares[spot.share as usize * width..][..width];
                    same(share, question.holding(held))
                });
                if hold.node != here.node || !fits {
                    return false;
                }
            }
        }
        true
    }

    /// Bound members stay where they are, with the devices they have. Everyone else gets the seat of
    /// their position, so that a replacement finds the devices of the one before it however many
    /// others are missing; where that is taken, or has no devices, the first that is left.
    fn seat_around_the_bound(&mut self, question: &Question<'_>) -> Result<(), Misfit> {
        self.number(question);
        self.spots.clear();
        self.spots.resize(question.candidates.len(), NOWHERE);
        self.taken.clear();
        self.taken.resize((self.walk.len() * question.per_node as usize).div_ceil(64), 0);
        self.seat_holders(question)?;
        if !self.odd.is_empty() {
            self.replan(question)?;
        }
        self.seat_bound(question)?;
        self.seat_unbound(question)
    }

    /// Notes where each node is in the walk.
    fn number(&mut self, question: &Question<'_>) {
        self.ordinal.resize(question.granted.numbers().max(self.ordinal.len()), 0);
        for (ordinal, (node, _)) in (0..).zip(&self.walk) {
            self.ordinal[question.order.position(*node) as usize] = ordinal;
        }
    }

    /// The place in the walk of a bound member's node, if it is in the allocation.
    fn ordinal_of(&self, question: &Question<'_>, hold: Hold) -> Option<u32> {
        let position = question.order.position(hold.node) as usize;
        let marked = self.marks.get(position / 64).is_some_and(|w| w >> (position % 64) & 1 == 1);
        marked.then(|| self.ordinal[position])
    }

    /// Bound members whose devices are known get the seat that has just these.
    fn seat_holders(&mut self, question: &Question<'_>) -> Result<(), Misfit> {
        self.odd.clear();
        for (i, candidate) in question.candidates.iter().enumerate() {
            let Some(hold) = candidate.bound else { continue };
            let ordinal = self.ordinal_of(question, hold).ok_or(Misfit::Outside(i))?;
            let plan = self.plans[self.walk[ordinal as usize].1 as usize];
            let Some(held) = hold.held.filter(|_| plan.stride > 0) else { continue };
            let held = question.holding(held);
            let seats = plan.fits.min(question.per_node);
            let wish = question.wish(candidate, ordinal).filter(|seat| *seat < seats);
            let mut seats = wish.into_iter().chain(0..seats);
            let width = question.needs.len();
            let fitting = seats.find(|seat| {
                let share = &self.shares[(plan.base + seat) as usize * width..][..width];
                same(share, held) && !self.is_taken(question, ordinal, *seat)
            });
            match fitting {
                Some(seat) => self.seat(question, i, ordinal, seat),
                None => self.odd.push(ordinal),
            }
        }
        Ok(())
    }

    /// Shares out anew what the odd nodes give: bound members have what they hold, the others what
    /// nobody holds.
    fn replan(&mut self, question: &Question<'_>) -> Result<(), Misfit> {
        self.odd.sort_unstable();
        self.odd.dedup();
        self.holders.clear();
        for (i, candidate) in (0..).zip(question.candidates) {
            let Some(hold) = candidate.bound.filter(|hold| hold.held.is_some()) else { continue };
            let ordinal = self.ordinal_of(question, hold).ok_or(Misfit::Outside(i as usize))?;
            if self.odd.binary_search(&ordinal).is_ok() {
                self.holders.push((ordinal, i));
                self.spots[i as usize] = NOWHERE;
            }
        }
        self.holders.sort_unstable();
        let mut from = 0;
        while let Some((ordinal, _)) = self.holders.get(from).copied() {
            let to = from + self.holders[from..].partition_point(|(o, _)| *o == ordinal);
            self.replan_node(question, ordinal, from..to)?;
            from = to;
        }
        Ok(())
    }

    /// The same for one node and the members in `holders` that hold devices on it.
    fn replan_node(
        &mut self,
        question: &Question<'_>,
        ordinal: u32,
        holders: std::ops::Range<usize>,
    ) -> Result<(), Misfit> {
        let (width, per_node) = (question.needs.len(), question.per_node);
        for seat in 0..per_node {
            self.free_seat(question, ordinal, seat);
        }
        let pattern = self.walk[ordinal as usize].1;
        let given = question.granted.of_pattern(pattern, width);
        self.free.clear();
        self.free.extend(given.iter().map(|g| g.devices));
        for (_, i) in &self.holders[holders.clone()] {
            let bound = question.candidates[*i as usize].bound;
            for (free, held) in self
                .free
                .iter_mut()
                .zip(bound.and_then(|b| b.held).map_or(&[][..], |h| question.holding(h)))
            {
                *free &= !held;
            }
        }
        let many = u32::try_from(holders.len()).unwrap_or(u32::MAX);
        let others =
            remaining(question.needs, given, &self.free, many).min(per_node.saturating_sub(many));
        self.wire(question, question.granted.patterns[pattern as usize].layout);
        self.rest.clear();
        share(&self.wiring, question.needs, &mut self.free, others as usize, &mut self.rest);

        let plan = Plan {
            base: (self.shares.len() / width) as u32,
            stride: 1,
            fits: per_node.min(MAX_DEVICES),
        };
        self.shares.resize(self.shares.len() + plan.fits as usize * width, 0);
        self.walk[ordinal as usize].1 = self.plans.len() as u32;
        self.plans.push(plan);
        for own_seats_only in [true, false] {
            for at in holders.clone() {
                let i = self.holders[at].1 as usize;
                if self.spots[i] != NOWHERE {
                    continue;
                }
                let candidate = &question.candidates[i];
                let wish = question.wish(candidate, ordinal).filter(|seat| *seat < plan.fits);
                let mut any = wish.into_iter().chain((0..plan.fits).filter(|_| !own_seats_only));
                let seat = any.find(|seat| !self.is_taken(question, ordinal, *seat));
                match seat {
                    Some(seat) => {
                        self.seat(question, i, ordinal, seat);
                        let held = candidate
                            .bound
                            .and_then(|b| b.held)
                            .map_or(&[][..], |h| question.holding(h));
                        self.shares[(plan.base + seat) as usize * width..][..held.len()]
                            .copy_from_slice(held);
                    }
                    None if own_seats_only => {}
                    None => return Err(Misfit::Outside(i)),
                }
            }
        }
        self.deal(question, ordinal, plan, others);
        Ok(())
    }

    /// Gives the shares in `rest` to the free seats of a node, and closes the seats beyond.
    fn deal(&mut self, question: &Question<'_>, ordinal: u32, plan: Plan, others: u32) {
        let width = question.needs.len();
        let mut dealt = 0;
        for seat in 0..plan.fits {
            if self.is_taken(question, ordinal, seat) {
                continue;
            }
            if dealt < others {
                let own = &self.rest[dealt as usize * width..][..width];
                self.shares[(plan.base + seat) as usize * width..][..width].copy_from_slice(own);
                dealt += 1;
            } else {
                self.take_seat(question, ordinal, seat);
            }
        }
    }

    /// Bound members whose devices are not known stay on their node: first those who find the seat of
    /// their position there, then the others.
    fn seat_bound(&mut self, question: &Question<'_>) -> Result<(), Misfit> {
        for own_seats_only in [true, false] {
            for (i, candidate) in question.candidates.iter().enumerate() {
                let Some(hold) = candidate.bound.filter(|_| self.spots[i] == NOWHERE) else {
                    continue;
                };
                let ordinal = self.ordinal_of(question, hold).ok_or(Misfit::Outside(i))?;
                let fits =
                    self.plans[self.walk[ordinal as usize].1 as usize].fits.min(question.per_node);
                let wish = question.wish(candidate, ordinal).filter(|seat| *seat < fits);
                let mut any = wish.into_iter().chain((0..fits).filter(|_| !own_seats_only));
                let seat = any.find(|seat| !self.is_taken(question, ordinal, *seat));
                match seat {
                    Some(seat) => self.seat(question, i, ordinal, seat),
                    None if own_seats_only => {}
                    None if fits < question.per_node => return Err(self.short(question)),
                    None => return Err(Misfit::Outside(i)),
                }
            }
        }
        Ok(())
    }

    fn seat_unbound(&mut self, question: &Question<'_>) -> Result<(), Misfit> {
        self.late.clear();
        for (i, candidate) in question.candidates.iter().enumerate() {
            if candidate.bound.is_some() {
                continue;
            }
            let (ordinal, seat) =
                (candidate.position / question.per_node, candidate.position % question.per_node);
            if self.is_free(question, ordinal, seat) {
                self.seat(question, i, ordinal, seat);
            } else {
                self.late.push(i as u32);
            }
        }
        let nodes = self.walk.len() as u32;
        let mut left = (0..nodes).flat_map(|o| (0..question.per_node).map(move |seat| (o, seat)));
        for at in 0..self.late.len() {
            let found =
                left.by_ref().find(|(ordinal, seat)| self.is_free(question, *ordinal, *seat));
            let Some((ordinal, seat)) = found else { return Err(self.short(question)) };
            self.seat(question, self.late[at] as usize, ordinal, seat);
        }
        Ok(())
    }

    /// Whether there is such a seat with devices, and nobody has it.
    fn is_free(&self, question: &Question<'_>, ordinal: u32, seat: u32) -> bool {
        let plan = self.walk.get(ordinal as usize).map(|(_, plan)| self.plans[*plan as usize]);
        plan.is_some_and(|plan| seat < plan.fits) && !self.is_taken(question, ordinal, seat)
    }

    fn is_taken(&self, question: &Question<'_>, ordinal: u32, seat: u32) -> bool {
        let seat = ordinal as usize * question.per_node as usize + seat as usize;
        self.taken[seat / 64] >> (seat % 64) & 1 == 1
    }

    fn take_seat(&mut self, question: &Question<'_>, ordinal: u32, seat: u32) {
        let seat = ordinal as usize * question.per_node as usize + seat as usize;
        self.taken[seat / 64] |= 1 << (seat % 64);
    }

    fn free_seat(&mut self, question: &Question<'_>, ordinal: u32, seat: u32) {
        let seat = ordinal as usize * question.per_node as usize + seat as usize;
        self.taken[seat / 64] &= !(1 << (seat % 64));
    }

    fn seat(&mut self, question: &Question<'_>, candidate: usize, ordinal: u32, seat: u32) {
        self.take_seat(question, ordinal, seat);
        let (node, plan) = self.walk[ordinal as usize];
        let plan = self.plans[plan as usize];
        self.spots[candidate] = Spot { node, share: plan.base + seat * plan.stride };
    }

    /// The first node that gives too little for its seats.
    fn short(&self, question: &Question<'_>) -> Misfit {
        let seats = question.per_node.min(question.candidates.len() as u32);
        let width = question.needs.len();
        for (node, pattern) in question.granted.nodes.iter().zip(&question.granted.pattern) {
            let given = question.granted.of_pattern(*pattern, width);
            for (k, (need, given)) in question.needs.iter().zip(given).enumerate() {
                let needed = need.count.saturating_mul(seats);
                if given.count < needed {
                    return Misfit::ShortOf { node: *node, need: k, given: given.count, needed };
                }
            }
        }
        let nodes = self.walk.len();
        Misfit::TooFew { seats: nodes * question.per_node as usize, nodes }
    }
}

/// Whether a share is what a member holds, as far as that is known.
fn same(share: &[u128], held: &[u128]) -> bool {
    share.iter().zip(held).all(|(share, held)| *held == 0 || share == held)
}

/// How many more seats a node has devices for beside those that are held.
fn remaining(needs: &[GresRequest], given: &[Given], free: &[u128], holders: u32) -> u32 {
    let each = needs.iter().zip(given.iter().zip(free)).filter(|(need, _)| need.count > 0);
    let room = each.map(|(need, (given, free))| match given.devices {
        0 => (given.count / need.count).saturating_sub(holders),
        _ => free.count_ones() / need.count,
    });
    room.min().unwrap_or(u32::MAX)
}

/// How many seats a node has devices for.
fn fits(needs: &[GresRequest], given: &[Given]) -> u32 {
    let each = needs.iter().zip(given).filter(|(need, _)| need.count > 0);
    each.map(|(need, given)| given.count / need.count).min().unwrap_or(u32::MAX)
}
