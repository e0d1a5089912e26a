//! When certificates of our own making are made anew, and how a new CA comes in while nobody is shut out.
//!
//! A CA is announced before it signs: whoever believes the old one learns of the new one first. Then everything is
//! signed anew, and the old one is believed until it is over. Times are seconds since the epoch. It never sees a key.

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The first second.
    pub from: i64,
    /// The second after the last.
    pub until: i64,
}

impl Term {
    /// A certificate made now that is good for so long. It begins a little earlier: clocks differ.
    pub fn starting(now: i64, length: i64) -> Self {
        Self { from: now - (length / 20).min(300), until: now + length }
    }

    /// When it should be replaced: two thirds of it are over.
    pub fn due(self) -> i64 {
        self.from + (self.until - self.from) / 3 * 2
    }
}

/// How long things last, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// A certificate.
    pub leaf: i64,
    /// A CA.
    pub ca: i64,
    /// A CA is announced for so long before it signs.
    pub spread: i64,
}

impl Lengths {
    /// What is wrong with them.
    pub fn problem(self) -> Option<&'static str> {
        if self.ca < 2 * self.leaf {
            Some("a CA must last at least twice as long as what it signs")
        } else if self.spread * 4 > self.ca {
            Some("a CA must not be announced for more than a quarter of its life")
        } else {
            None
        }
    }
}

/// The CA that signs, and the one that will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The one that signs.
    pub signs: Term,
    /// The one that is announced.
    pub next: Option<Announced>,
}

/// A CA that is believed already and signs nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its term.
    pub term: Term,
    /// Since when everybody can know of it.
    pub since: i64,
}

/// What to do about the CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until this moment.
    Keep(i64),
    /// There is none that is good: one is made and signs at once.
    Begin,
    /// A new one is made, and believed beside the old one.
    Announce,
    /// The announced one signs from now on.
    Switch,
}

/// Decides about the CA.
pub fn authority(found: Option<Authority>, lengths: Lengths, now: i64) -> Step {
    let Some(Authority { signs, next }) = found else { return Step::Begin };
    let over = now >= signs.until;
    match next {
        Some(next) if now < next.term.until => {
            let at = (next.since + lengths.spread).min(signs.until);
            if now >= at { Step::Switch } else { Step::Keep(at) }
        }
        _ if over => Step::Begin,
        _ if now >= signs.due() => Step::Announce,
        _ => Step::Keep(signs.due()),
    }
}

/// A certificate as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its term.
    pub term: Term,
    /// The CA that signs now has signed it, and it has the names that it should have.
    pub fits: bool,
    /// The CAs beside it are those that are believed now.
    pub believes: bool,
}

/// What to do about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafStep {
    /// Nothing, until this moment.
    Keep(i64),
    /// The CAs beside it are written anew; it stays.
    Spread,
    /// A new one.
    Issue,
}

/// Decides about a certificate; `None`: there is none, or what is there cannot be read.
pub fn leaf(found: Option<Leaf>, now: i64) -> LeafStep {
    match found {
        Some(Leaf { term, fits: true, believes }) if now < term.due() => {
            if believes {
                LeafStep::Keep(term.due())
            } else {
                LeafStep::Spread
            }
        }
        _ => LeafStep::Issue,
    }
}

/// The term of a certificate that is made now: never beyond that of its CA.
pub fn leaf_term(lengths: Lengths, ca: Term, now: i64) -> Term {
    let term = Term::starting(now, lengths.leaf);
    Term { until: term.until.min(ca.until), ..term }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400;
    const LENGTHS: Lengths = Lengths { leaf: 90 * DAY, ca: 730 * DAY, spread: 3600 };

    #[test]
    fn a_ca_is_announced_before_it_signs() {
        assert_eq!(authority(None, LENGTHS, 0), Step::Begin);
        let signs = Term::starting(0, LENGTHS.ca);
        let mut ca = Authority { signs, next: None };
        assert_eq!(authority(Some(ca), LENGTHS, 0), Step::Keep(signs.due()));
        let now = signs.due();
        assert_eq!(authority(Some(ca), LENGTHS, now), Step::Announce);
        ca.next = Some(Announced { term: Term::starting(now, LENGTHS.ca), since: now });
        assert_eq!(authority(Some(ca), LENGTHS, now), Step::Keep(now + 3600));
        assert_eq!(authority(Some(ca), LENGTHS, now + 3600), Step::Switch);
        // Nobody looked for two years.
        ca.next = None;
        assert_eq!(authority(Some(ca), LENGTHS, signs.until), Step::Begin);
    }

    #[test]
    fn a_certificate_is_replaced_in_time_and_with_its_ca() {
        let term = Term::starting(0, LENGTHS.leaf);
        let found = Leaf { term, fits: true, believes: true };
        assert_eq!(leaf(None, 0), LeafStep::Issue);
        assert_eq!(leaf(Some(found), 0), LeafStep::Keep(term.due()));
        assert_eq!(leaf(Some(found), term.due()), LeafStep::Issue);
        assert_eq!(leaf(Some(Leaf { fits: false, ..found }), 0), LeafStep::Issue);
        assert_eq!(leaf(Some(Leaf { believes: false, ..found }), 0), LeafStep::Spread);
    }

    /// One of these, as its owner and those who believe it have it: they see every change so much later.
    struct Seen {
        shown: (Term, u32),
        believed: Vec<(Term, u32)>,
    }

    proptest! {
        /// Somebody looks every so often, everybody learns of changes within `lag`, and whatever is shown is
        /// always signed by one that is believed, and both are good.
        #[test]
        fn whatever_is_shown_is_believed(
            leaf_days in 1_i64..100, times in 2_i64..20, spread in 60_i64..20_000, pause in 1_i64..600, start in 0_i64..DAY,
        ) {
            let lengths = Lengths { leaf: leaf_days * DAY, ca: leaf_days * DAY * times, spread };
            prop_assume!(lengths.problem().is_none());
            let lag = spread - 1;
            let mut now = start;
            let (mut ca, mut names, mut number): (Option<Authority>, (u32, u32), u32) = (None, (0, 0), 0);
            let mut old: Vec<(Term, u32)> = Vec::new();
            let mut own: Option<(Term, u32)> = None;
            // Every state of the world, and when it came about.
            let mut history: Vec<(i64, Seen)> = Vec::new();
            while now < start + 5 * lengths.ca {
                let mut wake = now + 3 * DAY;
                match authority(ca, lengths, now) {
                    Step::Keep(at) => wake = wake.min(at),
                    Step::Begin => {
                        prop_assert_eq!(now, start, "it was never left without");
                        number += 1;
                        ca = Some(Authority { signs: Term::starting(now, lengths.ca), next: None });
                        names = (number, 0);
                    }
                    Step::Announce => {
                        number += 1;
                        let next = Announced { term: Term::starting(now, lengths.ca), since: now };
                        ca = ca.map(|ca| Authority { next: Some(next), ..ca });
                        names.1 = number;
                    }
                    Step::Switch => {
                        old.extend(ca.map(|ca| (ca.signs, names.0)));
                        ca = ca.and_then(|ca| Some(Authority { signs: ca.next?.term, next: None }));
                        names = (names.1, 0);
                    }
                }
                let signs = ca.expect("there is one").signs;
                old.retain(|(term, _)| now < term.until);
                let found = own.map(|(term, by)| Leaf { term, fits: by == names.0, believes: true });
                match leaf(found, now) {
                    LeafStep::Keep(at) => wake = wake.min(at),
                    _ => own = Some((leaf_term(lengths, signs, now), names.0)),
                }
                let mut believed = vec![(signs, names.0)];
                believed.extend(ca.and_then(|ca| Some((ca.next?.term, names.1))));
                believed.extend(&old);
                history.push((now, Seen { shown: own.expect("one was issued"), believed }));
                // Whoever is as late as may be believes what was so at that moment.
                let late = history.iter().rev().find(|(at, _)| *at <= now - lag).or_else(|| history.first());
                for shown in [&history.last().expect("just now").1, &late.expect("the first").1] {
                    for believes in [&history.last().expect("just now").1, &late.expect("the first").1] {
                        let (term, by) = shown.shown;
                        prop_assert!(term.from <= now && now < term.until, "it is over at {}", now);
                        let one = believes.believed.iter().find(|(_, name)| *name == by);
                        prop_assert!(one.is_some_and(|(term, _)| now < term.until), "nobody vouches at {}", now);
                    }
                }
                now = (now + pause).max(wake.min(now + DAY / 2));
            }
        }
    }
}
