//! How often may be written what a gang's users read: at once where it is news, never much in an hour.
//!
//! Each line that is written (the Gang, its first pod, each of a few more pods) has a purse of its own. A write
//! takes a coin, coins come back slowly, and what has only moved leaves some for news. So a reason that changes
//! after a quiet time is told at once, and one that changes with every cycle of Slurm's scheduler costs a
//! queued gang at most [`MOST_PER_HOUR`] writes. Knows no clock.

/// Writes in any hour that a gang which waits may cost, however its reason, place and estimate change: those of
/// its Gang and its making, of its first pod, of the other pods that are told, and events on its workload. What a pod is
/// told first is not counted.
pub const MOST_PER_HOUR: u32 = 120;
/// Pods that are told every reason, in rank order. Those after them are told once where to look: a gang of a
/// thousand must not cost a thousand writes whenever Slurm changes its mind.
pub const TOLD: usize = 4;
/// What has only moved is not written sooner after the last write (ms).
pub const MOVED_EVERY_MS: i64 = 30_000;

const HOUR_MS: i64 = 3_600_000;

/// How much a change weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The same in other words, another place in the queue, another estimate.
    Moved,
    /// Another reason, phase, job …
    News,
}

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The Gang, or its first pod.
    First,
    /// One of the other pods that are told.
    Other,
    /// Events on its workload.
    Event,
}

impl Line {
    /// Coins in a full purse, and how many come back in an hour.
    fn purse(self) -> (i64, i64) {
        match self {
            Self::First => (8, 30),
            Self::Other => (6, 6),
            Self::Event => (6, 1),
        }
    }

    /// Coins that must be left once something has moved.
    fn reserve(self) -> i64 {
        match self {
            Self::First => 4,
            Self::Other => 3,
            // Events are news only.
            Self::Event => 0,
        }
    }

    /// What a coin takes to come back (ms).
    fn coin(self) -> i64 {
        HOUR_MS / self.purse().1
    }
}

/// The purse of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    line: Line,
    /// What is in it, in milliseconds of waiting.
    credit: i64,
    /// As of then (ms), which is the last write.
    at: Option<i64>,
}

impl Pace {
    /// A full purse.
    pub fn new(line: Line) -> Self {
        Self { line, credit: line.purse().0 * line.coin(), at: None }
    }

    /// From when on a change of this weight may be written (ms), as nothing else is until then.
    pub fn due(&self, weight: Weight, now: i64) -> i64 {
        let coins = if weight == Weight::News { 1 } else { 1 + self.line.reserve() };
        let short = coins * self.line.coin() - self.credit(now);
        let due = now + short.max(0);
        match self.at {
            Some(at) if weight == Weight::Moved => due.max(at + MOVED_EVERY_MS),
            _ => due,
        }
    }

    /// Something was written.
    pub fn wrote(&mut self, now: i64) {
        self.credit = (self.credit(now) - self.line.coin()).max(0);
        self.at = Some(now);
    }

    fn credit(&self, now: i64) -> i64 {
        let since = self.at.map_or(0, |at| (now - at).max(0));
        (self.credit + since).min(self.line.purse().0 * self.line.coin())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes in each hour that begins with a write, of a line that changes all the time.
    fn busiest_hour(line: Line, changes: &[(i64, Weight)]) -> usize {
        let mut pace = Pace::new(line);
        let mut writes: Vec<i64> = Vec::new();
        let mut now = 0;
        for (pause, weight) in changes {
            now += pause;
            if pace.due(*weight, now) <= now {
                pace.wrote(now);
                writes.push(now);
            }
        }
        let within =
            |from: &i64| writes.iter().filter(|at| (*from..from + HOUR_MS).contains(at)).count();
        writes.iter().map(within).max().unwrap_or(0)
    }

    fn most(line: Line) -> usize {
        let (full, back) = line.purse();
        usize::try_from(full + back).expect("a small number")
    }

    #[test]
    fn all_lines_of_a_gang_together_keep_to_the_limit() {
        // Its Gang, which is made once, its first pod, and the others that are told.
        let lines = 1 + 2 * most(Line::First) + (TOLD - 1) * most(Line::Other);
        let all = lines + most(Line::Event);
        assert!(all <= MOST_PER_HOUR as usize, "{all}");
        println!("pace: {{\"sight\":\"pace\",\"writes_per_hour\":{all}}}");
    }

    #[test]
    fn a_line_that_changes_every_second_for_a_day_keeps_to_its_purse() {
        let changes = vec![(1_000, Weight::News); 86_400];
        for line in [Line::First, Line::Other, Line::Event] {
            // It is used up, too: otherwise this would say nothing.
            let busiest = busiest_hour(line, &changes);
            assert!((most(line) - 1..=most(line)).contains(&busiest), "{line:?}: {busiest}");
        }
        let moves = vec![(1_000, Weight::Moved); 86_400];
        assert!(busiest_hour(Line::First, &moves) < most(Line::First));
    }

    #[test]
    fn news_after_a_quiet_time_is_told_at_once_and_moves_leave_room_for_it() {
        let mut pace = Pace::new(Line::First);
        assert_eq!(pace.due(Weight::News, 5), 5);
        pace.wrote(5);
        assert_eq!(pace.due(Weight::News, 6), 6);
        assert_eq!(pace.due(Weight::Moved, 6), 5 + MOVED_EVERY_MS);
        // Whatever has moved all night.
        let mut now = 5;
        for _ in 0..1_000 {
            now = pace.due(Weight::Moved, now);
            pace.wrote(now);
        }
        assert_eq!(pace.due(Weight::News, now + 1), now + 1);
    }

    proptest! {
        #[test]
        fn no_hour_has_more_writes_than_a_purse(
            changes in prop::collection::vec((0_i64..200_000, any::<bool>()), 1..2_000)
        ) {
            let weight = |news: bool| if news { Weight::News } else { Weight::Moved };
            let changes: Vec<_> = changes.into_iter().map(|(p, news)| (p, weight(news))).collect();
            for line in [Line::First, Line::Other] {
                prop_assert!(busiest_hour(line, &changes) <= most(line));
            }
        }

        #[test]
        fn what_is_due_may_be_written_then(
            writes in prop::collection::vec(0_i64..100_000, 0..50), news: bool
        ) {
            let mut pace = Pace::new(Line::First);
            let mut now = 0;
            for pause in writes {
                now += pause;
                pace.wrote(now);
            }
            let weight = if news { Weight::News } else { Weight::Moved };
            let due = pace.due(weight, now);
            prop_assert_eq!(pace.due(weight, due), due);
            prop_assert!(due == now || pace.due(weight, due - 1) == due, "not a moment later");
        }
    }
}
