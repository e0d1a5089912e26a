//! Bugs that can be switched on, so that the simulator can prove that it would find them.
//!
//! Without the feature `testing` none of them is there. They stand in the rooms where such a bug would
//! be made, and nowhere in core, which has no switches.

/// A known bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A bridge that has just started submits without looking for what is there, under no chosen id.
    SubmitsTwice,
    /// A job that slurmctld does not know counts as ended.
    TakesGoneForOver,
    /// Bindings and evictions name a pod, not its uid.
    NamesInsteadOfUids,
    /// Seats are counted anew each time they are worked out, whoever is bound.
    MovesRanks,
    /// Nodes are given back while pods are still on their way out.
    ReleasesEarly,
}

impl Bug {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::SubmitsTwice,
        Self::TakesGoneForOver,
        Self::NamesInsteadOfUids,
        Self::MovesRanks,
        Self::ReleasesEarly,
    ];
}

#[cfg(feature = "testing")]
std::thread_local! {
    // Of one thread: each runs a bridge of its own.
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in the bridges of this thread, or with `None` none.
#[cfg(feature = "testing")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is here.
#[cfg(feature = "testing")]
pub(crate) fn grows(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is here.
#[cfg(not(feature = "testing"))]
pub(crate) const fn grows(_bug: Bug) -> bool {
    false
}
