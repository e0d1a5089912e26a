//! Who leads: what one candidate sees of a Lease, and its next step.
//!
//! Pure, and by one clock: our own. What another host wrote as a time is never looked at. A lease has run
//! out when we have seen it unchanged for its whole length, and whoever holds it stops acting well before
//! that, counting from when its last write was *sent*. So two that follow these rules never act at once as
//! long as their clocks run at about the same rate; writes are fenced on their own besides.

/// A Lease as the API server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; empty for nobody.
    pub holder: String,
    /// For how long, counted from each write.
    pub length_ms: i64,
    /// How often it has changed hands.
    pub transitions: i32,
    /// Changes with every write: only a write that names it is taken.
    pub version: String,
}

/// One candidate: who it is, how long its leases are, and what it has seen so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    identity: String,
    length_ms: i64,
    /// The holder and version seen last, for how long it holds, and since when (ms).
    last: Option<Last>,
    /// When our own last accepted write was sent (ms); `None`: we do not lead.
    renewed: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Last {
    holder: String,
    version: String,
    until: i64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease: create it as ours.
    Create,
    /// Nobody holds it, or not any more: write it as ours, over this version.
    Take {
        /// The version that is written over.
        version: String,
        /// Hands it has been through, ours included.
        transitions: i32,
    },
    /// It is ours: write it again, over this version.
    Renew {
        /// The version that is written over.
        version: String,
        /// As before.
        transitions: i32,
    },
    /// Somebody else leads, at least until then (ms).
    Wait {
        /// Who; empty where the Lease is gone and its holder may still act.
        leader: String,
        /// When it has run out, if it does not change.
        until: i64,
    },
    /// It was ours and is not any more: act no more, whatever is seen next.
    Lost {
        /// Who has it now; empty for nobody.
        leader: String,
    },
}

impl Candidate {
    /// One that has seen nothing yet.
    pub fn new(identity: String, length_ms: i64) -> Self {
        Self { identity, length_ms, last: None, renewed: None }
    }

    /// Looks at the Lease as it is now (`None`: there is none). `now` is in milliseconds since any fixed
    /// point, by a clock that nobody sets.
    pub fn observe(&mut self, lease: Option<&Seen>, now: i64) -> Step {
        if self.until().is_some_and(|until| now >= until) {
            let leader = lease.map(|seen| seen.holder.clone()).unwrap_or_default();
            return Step::Lost { leader };
        }
        let Some(seen) = lease else { return self.missing(now) };
        let ours = self.renewed.is_some();
        if ours && seen.holder != self.identity {
            return Step::Lost { leader: seen.holder.clone() };
        }
        let (version, transitions) = (seen.version.clone(), seen.transitions);
        if ours {
            return Step::Renew { version, transitions };
        }
        if self.last.as_ref().is_none_or(|last| last.version != seen.version) {
            let until = if seen.holder.is_empty() { now } else { now + seen.length_ms.max(1) };
            let (holder, version) = (seen.holder.clone(), version.clone());
            self.last = Some(Last { holder, version, until });
        }
        match &self.last {
            Some(last) if now < last.until => {
                Step::Wait { leader: last.holder.clone(), until: last.until }
            }
            _ => Step::Take { version, transitions: transitions.saturating_add(1) },
        }
    }

    /// The Lease is not there. Whoever held it may not have noticed that it was deleted.
    fn missing(&self, now: i64) -> Step {
        if self.renewed.is_some() {
            return Step::Lost { leader: String::new() };
        }
        match &self.last {
            Some(last) if now < last.until => {
                Step::Wait { leader: String::new(), until: last.until }
            }
            _ => Step::Create,
        }
    }

    /// Our write was taken; it was sent at `sent` (ms).
    pub fn wrote(&mut self, sent: i64) {
        self.renewed = Some(sent);
    }

    /// Until when we may act (ms), by our last write: two thirds of the length. The last third is for
    /// whatever we sent at the last moment to arrive. `None`: we do not lead.
    pub fn until(&self) -> Option<i64> {
        Some(self.renewed? + self.length_ms * 2 / 3)
    }

    /// How long to pause between two looks: a leader renews five times in a length, and whoever waits
    /// looks twice as often.
    pub fn pause_ms(&self) -> i64 {
        let parts = if self.renewed.is_some() { 5 } else { 10 };
        (self.length_ms / parts).max(100)
    }
}

#[cfg(test)]
#[path = "lease/tests.rs"]
mod tests;
