//! Where a gang is in its life, and the ways from one phase to the next.

use crate::follow::{Facts, Verdict};
use crate::gang::Member;

/// Where a gang is in its life. It follows from what is seen and heard; nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Slurm has not been asked.
    Assembling,
    /// Slurm has been asked and has not answered.
    Asked,
    /// It cannot run as asked.
    Refused,
    /// It waits.
    Queued,
    /// It has its nodes, and nobody is bound.
    Seating,
    /// Some members are bound and others are not, or are still to come.
    Binding,
    /// Every member is bound.
    Running,
    /// Members were warned that they have to leave, and are given their time.
    Warned,
    /// Its placeholder is over, and pods that ran for it are there.
    Ending,
    /// Its pods have finished, or are on their way out.
    Leaving,
    /// Nothing is left of it.
    Gone,
}

impl Phase {
    /// Every phase, in the order in which an easy life meets them.
    pub const ALL: [Self; 11] = [
        Self::Assembling,
        Self::Asked,
        Self::Refused,
        Self::Queued,
        Self::Seating,
        Self::Binding,
        Self::Running,
        Self::Warned,
        Self::Ending,
        Self::Leaving,
        Self::Gone,
    ];

    /// The phase of a gang of which this is known.
    pub fn of(facts: &Facts<'_>) -> Self {
        let assembled = facts.assembled;
        let gang = &assembled.gang;
        if gang.members.iter().all(|m| m.finished) {
            let none = gang.members.is_empty() && assembled.leaving.is_empty();
            return if none { Self::Gone } else { Self::Leaving };
        }
        let bound = |m: &Member| m.bound.is_some() && !m.finished;
        match facts.verdict {
            Some(Verdict::Allocated { .. } | Verdict::Ended { .. })
                if facts.progress.leave_by.is_some() && gang.members.iter().any(bound) =>
            {
                Self::Warned
            }
            None if facts.progress.asked.is_none() => Self::Assembling,
            None => Self::Asked,
            Some(Verdict::Refused(_)) => Self::Refused,
            Some(Verdict::Queued { .. }) => Self::Queued,
            Some(Verdict::Ended { .. }) => Self::Ending,
            Some(Verdict::Allocated { .. }) => {
                let bound = |m: &&Member| m.bound.is_some() || m.finished;
                match gang.members.iter().filter(bound).count() {
                    0 => Self::Seating,
                    all if all == gang.members.len() && gang.complete() => Self::Running,
                    _ => Self::Binding,
                }
            }
        }
    }

    /// Its name, as metrics and documents have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Assembling => "assembling",
            Self::Asked => "asked",
            Self::Refused => "refused",
            Self::Queued => "queued",
            Self::Seating => "seating",
            Self::Binding => "binding",
            Self::Running => "running",
            Self::Warned => "warned",
            Self::Ending => "ending",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
        }
    }

    /// What is done in it, for people.
    pub fn says(self) -> &'static str {
        match self {
            Self::Assembling => "asks once all members are there and may be asked for",
            Self::Asked => "nothing; the answer comes",
            Self::Refused => {
                "tells why; asks again after 30 s, and when pods or nodes have changed"
            }
            Self::Queued => "tells Slurm's reason; tells Slurm which nodes are shut",
            Self::Seating => {
                "binds all at once when every seat is free and open, or gives the nodes back"
            }
            Self::Binding => "binds whoever has a seat; after 30 s evicts those that are bound",
            Self::Running => {
                "warns before the end; evicts whoever is bound to another start than the present one, and all where one was lost and they start together"
            }
            Self::Warned => {
                "evicts them when all have checkpointed or their time is up; tells them when they may stay after all"
            }
            Self::Ending => "warns them where they asked for it; evicts them, with the reason",
            Self::Leaving => "gives the placeholder back when nothing more will come",
            Self::Gone => "gives the placeholder back and forgets the gang",
        }
    }

    /// The phases that may come next, beside itself. A gang may be found in any phase by a bridge that
    /// has just started, which begins with the first.
    pub fn next(self) -> &'static [Self] {
        WAYS[self as usize]
    }
}

use Phase::{
    Asked, Assembling, Binding, Ending, Gone, Leaving, Queued, Refused, Running, Seating, Warned,
};

/// By phase, in the order of [`Phase::ALL`].
const WAYS: [&[Phase]; 11] = [
    &[Asked, Leaving, Gone],
    &[Assembling, Refused, Queued, Seating, Binding, Running, Warned, Ending, Leaving, Gone],
    &[Assembling, Asked, Leaving, Gone],
    &[Assembling, Refused, Seating, Binding, Running, Warned, Ending, Leaving, Gone],
    &[Assembling, Queued, Binding, Running, Warned, Ending, Leaving, Gone],
    &[Assembling, Refused, Queued, Seating, Running, Warned, Ending, Leaving, Gone],
    &[Assembling, Queued, Binding, Warned, Ending, Leaving],
    &[Assembling, Queued, Seating, Binding, Running, Ending, Leaving, Gone],
    &[Assembling, Asked, Warned, Leaving, Gone],
    &[Assembling, Asked, Refused, Queued, Seating, Binding, Ending, Gone],
    &[Assembling, Asked, Refused, Queued, Seating, Ending],
];
