use proptest::prelude::*;

use super::*;

const LENGTH: i64 = 9_000;

fn seen(holder: &str, version: u32) -> Seen {
    Seen { holder: holder.into(), length_ms: LENGTH, transitions: 3, version: version.to_string() }
}

fn candidate(name: &str) -> Candidate {
    Candidate::new(name.into(), LENGTH)
}

fn wait(leader: &str, until: i64) -> Step {
    Step::Wait { leader: leader.into(), until }
}

fn take(version: u32) -> Step {
    Step::Take { version: version.to_string(), transitions: 4 }
}

#[test]
fn without_a_lease_the_first_one_makes_it() {
    let mut one = candidate("one");
    assert_eq!(one.observe(None, 5), Step::Create);
    assert_eq!(one.until(), None, "nothing is ours before the write is taken");
    one.wrote(5);
    assert_eq!(one.until(), Some(5 + 6_000));
    let renew = Step::Renew { version: "1".into(), transitions: 3 };
    assert_eq!(one.observe(Some(&seen("one", 1)), 2_000), renew);
}

#[test]
fn a_lease_that_nobody_holds_is_taken_at_once() {
    assert_eq!(candidate("two").observe(Some(&seen("", 7)), 0), take(7));
}

#[test]
fn anothers_lease_has_run_out_when_it_was_seen_unchanged_for_its_length() {
    let mut two = candidate("two");
    assert_eq!(two.observe(Some(&seen("one", 1)), 1_000), wait("one", 10_000));
    // It is renewed: the time counts from when that was seen.
    assert_eq!(two.observe(Some(&seen("one", 2)), 9_999), wait("one", 18_999));
    assert_eq!(two.observe(Some(&seen("one", 2)), 18_998), wait("one", 18_999));
    assert_eq!(two.observe(Some(&seen("one", 2)), 18_999), take(2));
}

#[test]
fn the_length_is_the_holders() {
    let long = Seen { length_ms: 60_000, ..seen("one", 1) };
    assert_eq!(candidate("two").observe(Some(&long), 0), wait("one", 60_000));
}

#[test]
fn a_deleted_lease_may_still_have_a_holder() {
    let mut two = candidate("two");
    two.observe(Some(&seen("one", 1)), 1_000);
    assert_eq!(two.observe(None, 2_000), wait("", 10_000));
    assert_eq!(two.observe(None, 10_000), Step::Create);
}

#[test]
fn a_leader_that_is_late_or_robbed_is_none_any_more() {
    let lost = |leader: &str| Step::Lost { leader: leader.into() };
    let leader = || {
        let mut one = candidate("one");
        one.wrote(1_000);
        one
    };
    assert_eq!(leader().observe(Some(&seen("two", 5)), 2_000), lost("two"));
    assert_eq!(leader().observe(None, 2_000), lost(""));
    // Also where the lease still says that it is ours: somebody may be taking it right now.
    assert_eq!(leader().observe(Some(&seen("one", 5)), 7_000), lost("one"));
    // A lease of our own name that we did not write is another's: a process before us had the name.
    assert_eq!(candidate("one").observe(Some(&seen("one", 5)), 0), wait("one", 9_000));
}

#[test]
fn who_waits_looks_more_often_than_who_leads() {
    let mut one = candidate("one");
    let waiting = one.pause_ms();
    one.wrote(0);
    assert_eq!((waiting, one.pause_ms()), (900, 1_800));
    assert_eq!(Candidate::new("one".into(), 0).pause_ms(), 100);
}

/// What the API server does: one object, and a write is taken only over the version it names.
#[derive(Default)]
struct Server(Option<(String, u32)>);

impl Server {
    fn show(&self) -> Option<Seen> {
        self.0.as_ref().map(|(holder, version)| seen(holder, *version))
    }

    fn write(&mut self, over: Option<&str>, holder: &str) -> bool {
        let present = self.0.as_ref().map(|(_, version)| version.to_string());
        let taken = present.as_deref() == over;
        if taken {
            let version = self.0.as_ref().map_or(0, |(_, version)| *version) + 1;
            self.0 = Some((holder.to_owned(), version));
        }
        taken
    }
}

proptest! {
    /// Candidates that look, write, hear of it late or never, and stand still for any time: never do two
    /// of them believe at the same moment that they may act.
    #[test]
    fn two_never_act_at_once(
        moves in proptest::collection::vec((0usize..3, 0i64..4_000, 0i64..8_000, any::<bool>()), 1..80),
    ) {
        let mut server = Server::default();
        let mut all = ["a", "b", "c"].map(candidate);
        let mut over = [false; 3];
        let mut now = 0;
        for (who, pause, late, lost) in moves {
            now += pause;
            let leads = |c: &Candidate, over: bool| !over && c.until().is_some_and(|u| now < u);
            let acting = all.iter().zip(over).filter(|(c, over)| leads(c, *over)).count();
            prop_assert!(acting <= 1, "at {now}: {all:?}");
            if over[who] {
                continue;
            }
            let name = ["a", "b", "c"][who];
            let base = match all[who].observe(server.show().as_ref(), now) {
                Step::Create => None,
                Step::Take { version, .. } | Step::Renew { version, .. } => Some(version),
                Step::Wait { .. } => continue,
                Step::Lost { .. } => {
                    over[who] = true;
                    continue;
                }
            };
            let sent = now;
            // The write arrives at once, and is heard of later or never.
            if server.write(base.as_deref(), name) && !lost {
                now += late;
                all[who].wrote(sent);
            }
        }
    }
}
