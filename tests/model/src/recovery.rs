//! From anywhere to a good end: from every state that the search meets, a quiet world, in which no further fault
//! happens and everybody does what is due, must come to rest where all is well. This is how "in the end" is
//! checked (rules 3 and 5): a state from which the bridge would not find back is a counterexample.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use ahash::RandomState;

use crate::world::{Faults, NUMBERS, Setting, Step, World, number};

/// More steps than a quiet world ever needs.
const STEPS: usize = 600;
/// So often a while passes before a world that is not well is given up.
const WHILES: usize = 8;

/// One search, and what was learned on the way.
pub(crate) struct Search {
    pub(crate) setting: Setting,
    /// The good ends that it must meet.
    pub(crate) ends: Vec<&'static str>,
    /// States, by number, from which a quiet world comes to a good end.
    good: Mutex<HashSet<u64, RandomState>>,
}

impl Search {
    pub(crate) fn new(setting: Setting, ends: &[&'static str]) -> Self {
        Self { setting, ends: ends.to_vec(), good: Mutex::new(HashSet::with_hasher(NUMBERS)) }
    }

    /// Lets a quiet world go on from here; `Err`: the steps to where it stays and is not well.
    pub(crate) fn recovers(&self, from: &World) -> Result<(), (Vec<Step>, Box<World>)> {
        let mut world = World { left: Faults::default(), ..from.clone() };
        let (mut way, mut met, mut whiles, mut well) = (Vec::new(), Vec::new(), 0, 0);
        while way.len() < STEPS && whiles <= WHILES {
            let number = number(&world);
            if self.good().contains(&number) {
                self.good().extend(met);
                return Ok(());
            }
            met.push(number);
            match self.next(&world) {
                Some((step, next)) => {
                    way.push(step);
                    world = next;
                }
                // At rest: well, and still so when every deadline has passed.
                None if well == 1 && self.setting.is_well(&world) => {
                    self.good().extend(met);
                    return Ok(());
                }
                None => {
                    well = usize::from(self.setting.is_well(&world));
                    whiles += 1;
                    way.push(Step::While);
                    world = self.setting.after(&world, Step::While);
                }
            }
        }
        Err((way, Box::new(world)))
    }

    /// The first step of a quiet world that changes anything.
    fn next(&self, world: &World) -> Option<(Step, World)> {
        let mut steps = Vec::new();
        self.setting.quiet_steps(world, &mut steps);
        steps.into_iter().find_map(|step| Some((step, self.setting.next(world, step)?)))
    }

    fn good(&self) -> std::sync::MutexGuard<'_, HashSet<u64, RandomState>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
