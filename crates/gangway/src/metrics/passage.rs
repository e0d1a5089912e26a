//! When a gang passed each point between its first pod and its last bind, by a clock that does not jump.
//!
//! One bridge's memory of one round, for figures and traces only; nothing is decided by it.

use gangway_core::follow::Verdict;

/// Where a gang has been, in milliseconds of its bridge's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passage {
    /// Its first pod was seen, or the round before this one ended.
    pub(crate) seen: i64,
    /// It was first asked for.
    pub(crate) asked: Option<i64>,
    /// Slurm had it in its queue, or gave it nodes at once.
    pub(crate) taken: Option<i64>,
    /// It has its nodes, by the latest word.
    pub(crate) allocated: Option<i64>,
    /// The first binding was sent.
    pub(crate) binding: Option<i64>,
    /// Milliseconds in Slurm's queue, but for those since `queued`.
    waited: i64,
    /// In Slurm's queue since.
    queued: Option<i64>,
}

/// How long it took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Took {
    /// From the first question to the last bind.
    pub(crate) all: i64,
    /// In Slurm's queue.
    pub(crate) queue: i64,
}

impl Passage {
    pub(crate) fn new(now: i64) -> Self {
        Self { seen: now, ..Self::default() }
    }

    /// It was asked for.
    pub(crate) fn ask(&mut self, now: i64) {
        self.asked.get_or_insert(now);
    }

    /// This was heard of its placeholder.
    pub(crate) fn hear(&mut self, verdict: &Verdict, now: i64) {
        match verdict {
            Verdict::Queued { job: Some(_), .. } => {
                self.taken.get_or_insert(now);
                self.queued.get_or_insert(now);
                self.allocated = None;
            }
            // Slurm cannot be asked, or somebody else comes first: that is no time in its queue.
            Verdict::Queued { job: None, .. } => self.leave_queue(now),
            Verdict::Allocated { .. } => {
                self.leave_queue(now);
                self.taken.get_or_insert(now);
                self.allocated.get_or_insert(now);
            }
            Verdict::Refused(_) | Verdict::Ended { .. } => *self = Self::new(now),
        }
    }

    /// Bindings are about to be sent.
    pub(crate) fn bind(&mut self, now: i64) {
        self.binding.get_or_insert(now);
    }

    /// All of it is bound; the next round begins. `None` where this bridge did not see its beginning.
    pub(crate) fn bound(&mut self, now: i64) -> Option<(Self, Took)> {
        self.leave_queue(now);
        let passed = std::mem::replace(self, Self::new(now));
        let all = (now - passed.asked?).max(0);
        passed.allocated?;
        let took = Took { all, queue: passed.waited.min(all) };
        Some((passed, took))
    }

    fn leave_queue(&mut self, now: i64) {
        if let Some(since) = self.queued.take() {
            self.waited += (now - since).max(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gangway_core::job::JobId;

    use super::*;

    fn queued(job: Option<u32>) -> Verdict {
        let (reason, message) = ("Resources".to_owned(), String::new());
        Verdict::Queued { job: job.map(JobId), reason, message, expected_start: 0 }
    }

    fn allocated() -> Verdict {
        Verdict::Allocated {
            job: JobId(7),
            generation: 1,
            seats: BTreeMap::new(),
            note: String::new(),
            ends: None,
            renewed: false,
        }
    }

    #[test]
    fn time_in_slurms_queue_is_told_from_ours() {
        let mut passage = Passage::new(100);
        passage.ask(110);
        passage.hear(&queued(None), 120);
        passage.hear(&queued(Some(7)), 200);
        passage.hear(&queued(Some(7)), 700);
        passage.hear(&allocated(), 1_200);
        // A seat was shut: nodes were given back and asked for once more.
        passage.ask(1_250);
        passage.hear(&queued(Some(8)), 1_300);
        passage.hear(&allocated(), 1_400);
        passage.bind(1_410);
        let (passed, took) = passage.bound(1_450).expect("it was seen from its beginning");
        assert_eq!(took, Took { all: 1_340, queue: 1_100 });
        let points = (passed.seen, passed.asked, passed.taken, passed.allocated, passed.binding);
        assert_eq!(points, (100, Some(110), Some(200), Some(1_400), Some(1_410)));
        assert_eq!(passage, Passage::new(1_450), "the next round begins");
    }

    #[test]
    fn nodes_at_once_are_no_time_in_the_queue_and_half_a_life_has_no_figures() {
        let mut passage = Passage::new(0);
        passage.ask(5);
        passage.hear(&allocated(), 12);
        assert_eq!(passage.bound(20).map(|(_, took)| took), Some(Took { all: 15, queue: 0 }));
        assert_eq!(Passage::new(0).bound(9), None, "nobody asked");
        passage.ask(30);
        passage.hear(
            &Verdict::Ended {
                job: JobId(7),
                generation: 1,
                state: gangway_core::job::BaseState::Timeout,
                message: String::new(),
            },
            40,
        );
        assert_eq!(passage, Passage::new(40));
    }
}
