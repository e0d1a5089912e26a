//! Steps of a bridge that are known to change nothing: most of its looks and questions, and each would be worked out
//! again in every state that differs elsewhere. It must never hold a step by less than all that the step reads.

use std::cell::RefCell;
use std::collections::HashSet;

use ahash::RandomState;

use crate::bridge::Answer;
use crate::world::{NUMBERS, Setting, Step, World, number};

thread_local! {
    /// A thread of a search belongs to that search alone, and a test to its own thread.
    static IDLE: RefCell<HashSet<u64, RandomState>> = const { RefCell::new(HashSet::with_hasher(NUMBERS)) };
}

/// A step together with everything that it reads.
pub(crate) struct Reads(u64);

impl Setting {
    /// None for a step of somebody else, or one that always changes something.
    pub(crate) fn reads(&self, world: &World, step: Step) -> Option<Reads> {
        let (what, bridge, gang) = match step {
            Step::Look { bridge, gang } => (0_u8, bridge, gang),
            Step::Desk { bridge, gang, answer: Answer::Heard } => (1, bridge, gang),
            _ => return None,
        };
        let own = &world.bridges[usize::from(bridge)];
        let slurm = (what == 1).then_some(&world.slurm);
        let apart = (world.now, world.shut, world.rolled_back, world.broken);
        let all = (what, gang, apart, own, &world.kubernetes, slurm);
        let terms = (self.members, self.immediate, self.unfenced);
        Some(Reads(number(&(all, terms))))
    }
}

impl Reads {
    pub(crate) fn changes_nothing(&self) -> bool {
        IDLE.with_borrow(|idle| idle.contains(&self.0))
    }

    pub(crate) fn has_changed_nothing(&self) {
        IDLE.with_borrow_mut(|idle| idle.insert(self.0));
    }
}
