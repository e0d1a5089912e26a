use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::ask::Ask;
use crate::gang::{Bound, Later, Member};
use crate::pod::Demand;

proptest! {
    #[test]
    fn a_stamp_survives_its_text(stamp in any_stamp()) {
        prop_assert_eq!(Stamp::parse(&stamp.to_text()), Some(stamp));
    }

    #[test]
    fn only_what_to_text_wrote_is_a_stamp(
        text in prop_oneof![
            any::<String>(),
            "gangway/1 [a-c:]{0,2} ?[a-c]{1,2} [+0-9]{1,3} [+0-9a-fA-F]{1,17}",
            "gangway/1 [a-c] [a-c] [0-9]{1,2} [0-9a-f]{16}[ \n]?",
        ],
    ) {
        if let Some(stamp) = Stamp::parse(&text) {
            prop_assert_eq!(stamp.to_text(), text);
        }
    }

    #[test]
    fn a_damaged_stamp_is_none_or_another_one(
        stamp in any_stamp(), at in any::<prop::sample::Index>(), with in any::<char>(),
    ) {
        let text: Vec<char> = stamp.to_text().chars().collect();
        let at = at.index(text.len());
        let damaged: String =
            text.iter().enumerate().map(|(i, c)| if i == at { with } else { *c }).collect();
        prop_assert_eq!(Stamp::parse(&damaged) == Some(stamp), text[at] == with);
    }

    #[test]
    fn chosen_ids_stay_in_their_range_and_are_always_the_same(
        stamp in any_stamp(), first in 1u32.., last in 1u32.., attempt in any::<u32>(),
    ) {
        let ids = JobIds { first, last: first.max(last) };
        let same = stamp.clone();
        let JobId(id) = ids.choose(&stamp, attempt);
        prop_assert!((ids.first..=ids.last).contains(&id), "{id}");
        prop_assert_eq!(ids.choose(&same, attempt), JobId(id));
    }

    #[test]
    fn every_attempt_has_another_id(stamp in any_stamp()) {
        let ids: BTreeSet<JobId> =
            (0..64).map(|attempt| JobIds::default().choose(&stamp, attempt)).collect();
        prop_assert_eq!(ids.len(), 64);
    }

    /// Two bridges that see the same pods, and Slurm's jobs at different moments, never end each other's
    /// placeholder: what one ends, the other does not follow.
    #[test]
    fn what_one_bridge_ends_no_other_follows(
        then in proptest::collection::vec((0usize..2, 0usize..2), 2..5),
        vote in proptest::option::of(0u32..5),
    ) {
        let list = |now: bool| -> Vec<(Stamp, Job)> {
            let states = ["PENDING", "RUNNING"];
            // What waits may start between the two looks.
            let state = |(a, b): (usize, usize)| states[if now { a.max(b) } else { a }];
            (10..).zip(&then).map(|(id, both)| listed(id, 1, PODS, state(*both))).collect()
        };
        let gang = gang(&[vote.map(|v| (1, 10 + v)), None]);
        let (one, two) = (next("c", &gang, &list(false)), next("c", &gang, &list(true)));
        for (a, b) in [(&one, &two), (&two, &one)] {
            let Step::Follow { job, .. } = b.0 else { panic!("{b:?}") };
            prop_assert!(!a.1.contains(&job), "{a:?} {b:?}");
        }
    }

    /// Rule 6: whatever Slurm lists, bound pods are never met with a new placeholder, and an ending
    /// is told only of a listed job that has ended.
    #[test]
    fn bound_pods_are_never_asked_for_anew(
        jobs in proptest::collection::vec((1u32..5, 1u32..4, 0usize..5, any::<bool>()), 0..5),
        bound in 1u32..4,
    ) {
        let states = ["PENDING", "RUNNING", "CANCELLED", "FAILED", "SUSPENDED"];
        let listed: Vec<(Stamp, Job)> = jobs.iter()
            .map(|(id, generation, state, same)| {
                let pods = if *same { PODS } else { &["other"] };
                listed(*id, *generation, pods, states[*state])
            })
            .collect();
        let (step, _) = next("c", &gang(&[Some((bound, 2)), None]), &listed);
        match step {
            Step::Submit { .. } => prop_assert!(false, "submitted beside bound pods"),
            Step::Over { job, .. } => prop_assert!(
                job == JobId(2) && listed.iter().any(|(_, j)| j.id == job
                    && j.state.standing() == Standing::Over)
            ),
            Step::Follow { .. } | Step::Lost { .. } => {}
        }
    }
}

#[test]
fn a_stamp_is_read_as_written() {
    let stamp = stamp(7, PODS);
    expect!["gangway/1 c g 7 d83b7e181946b740"].assert_eq(&stamp.to_text());
    for text in [
        "",
        "gangway/2 c g 7 0000000000000001",
        "gangway/1 c g 7 1",
        "gangway/1 c g +7 0000000000000001",
        "gangway/1 c g 07 0000000000000001",
        "gangway/1 c g 7 000000000000000A",
        "gangway/1 c  g 7 0000000000000001",
        " gangway/1 c g 7 0000000000000001",
        "gangway/1 c g 7 0000000000000001 ",
        "gangway/1 c g 4294967296 0000000000000001",
    ] {
        assert_eq!(Stamp::parse(text), None, "{text:?}");
    }
}

#[test]
fn only_the_admin_comment_is_trusted_or_the_comment_of_an_external_job_without_one() {
    let (admins, users) = (stamp(2, PODS), stamp(9, PODS));
    let job = |admin: &str, comment: &str, external: bool| Job {
        admin_comment: admin.to_owned(),
        comment: comment.to_owned(),
        external,
        ..job(1, "RUNNING")
    };
    let (a, u) = (admins.to_text(), users.to_text());
    assert_eq!(Stamp::of(&job(&a, &u, true)), Some(admins));
    assert_eq!(Stamp::of(&job("", &u, true)), Some(users));
    assert_eq!(Stamp::of(&job("", &u, false)), None, "a user's sbatch job");
    assert_eq!(Stamp::of(&job("a note", &u, true)), None, "an administrator wrote another word");
}

#[test]
fn a_fingerprint_knows_a_set_of_pods() {
    assert_eq!(fingerprint(["a", "b"]), fingerprint(["b", "a", "b"]));
    assert_ne!(fingerprint(["a", "b"]), fingerprint(["ab"]));
    assert_ne!(fingerprint(["a", "b"]), fingerprint(["a"]));
}

#[test]
fn with_nothing_listed_the_first_placeholder_is_submitted() {
    let step = next("c", &gang(&[None, None]), &[]);
    assert_eq!(step, (Step::Submit { stamp: stamp(1, PODS) }, vec![]));
}

#[test]
fn a_live_placeholder_is_followed_also_in_a_state_nobody_knows() {
    for state in ["PENDING", "RUNNING", "SUSPENDED", "TELEPORTED"] {
        // Also for other pods than it was made for: one of them may have been replaced.
        for pods in [PODS, &["other"]] {
            let jobs = [listed(5, 1, &["old"], "CANCELLED"), listed(6, 2, pods, state)];
            let step = next("c", &gang(&[None, None]), &jobs);
            assert_eq!(step, (follow(6, 2), vec![]), "{state}");
        }
    }
}

#[test]
fn of_live_duplicates_the_one_that_was_bound_for_wins_and_the_others_must_not_be() {
    let jobs = [
        listed(5, 1, PODS, "PENDING"),
        listed(6, 1, PODS, "RUNNING"),
        listed(7, 1, PODS, "RUNNING"),
        listed(8, 1, PODS, "CANCELLED"),
    ];
    // Another bridge may have bound a pod for any of them, and we do not see it yet: nobody is ended.
    assert_eq!(next("c", &gang(&[None, None]), &jobs), (follow(6, 1), vec![]));
    for (vote, others) in [(6, [5, 7]), (7, [5, 6]), (5, [7, 6])] {
        let wanted = (follow(vote, 1), others.map(JobId).to_vec());
        assert_eq!(next("c", &gang(&[Some((1, vote)), None]), &jobs), wanted);
    }
    // Should two have been bound for different ones, the first member's word counts for everybody.
    let torn = gang(&[Some((1, 7)), Some((1, 6))]);
    assert_eq!(next("c", &torn, &jobs), (follow(7, 1), vec![JobId(5), JobId(6)]));
    // A vote for one that is over ends nobody.
    let (step, ended) = next("c", &gang(&[Some((1, 8)), None]), &jobs);
    assert_eq!((step, ended), (follow(6, 1), vec![]));
}

#[test]
fn before_the_vote_the_holding_one_is_followed_then_the_oldest() {
    let jobs = [listed(7, 1, PODS, "PENDING"), listed(6, 1, PODS, "PENDING")];
    assert_eq!(next("c", &gang(&[None, None]), &jobs), (follow(6, 1), vec![]));
    let jobs = [listed(7, 1, PODS, "RUNNING"), listed(6, 1, PODS, "PENDING")];
    assert_eq!(next("c", &gang(&[None, None]), &jobs), (follow(7, 1), vec![]));
}

#[test]
fn of_live_duplicates_the_one_that_pods_are_bound_for_wins() {
    // slurmctld has forgotten that 5 was ended, and pods are bound for 6.
    let jobs = [listed(5, 1, &["old"], "RUNNING"), listed(6, 2, PODS, "RUNNING")];
    assert_eq!(next("c", &gang(&[Some((2, 6)), None]), &jobs), (follow(6, 2), vec![JobId(5)]));
    assert_eq!(next("c", &gang(&[Some((1, 5)), None]), &jobs), (follow(5, 1), vec![JobId(6)]));
    // Also where that one is in the queue again, for the nodes that the other has: its pods are there.
    let jobs = [listed(5, 1, PODS, "RUNNING"), listed(6, 2, PODS, "PENDING")];
    assert_eq!(next("c", &gang(&[Some((2, 6)), None]), &jobs), (follow(6, 2), vec![JobId(5)]));
}

#[test]
fn what_was_given_back_and_lives_again_comes_last() {
    let (stamp, old) = listed(5, 1, PODS, "RUNNING");
    let jobs = [(stamp.given_back(), old), listed(6, 2, PODS, "PENDING")];
    assert_eq!(next("c", &gang(&[None, None]), &jobs), (follow(6, 2), vec![JobId(5)]));
}

#[test]
fn a_lost_attempt_is_asked_for_again_as_it_was_unless_there_was_a_later_one() {
    let lost = |gang: &Gang, jobs: &[(Stamp, Job)], lost| after_lost("c", gang, jobs, lost);
    assert_eq!(lost(&gang(&[None, None]), &[], 3), stamp(3, PODS));
    assert_eq!(lost(&gang(&[Some((3, 9)), None]), &[], 3), stamp(3, PODS));
    assert_eq!(lost(&gang(&[Some((5, 9)), None]), &[], 3), stamp(6, PODS));
    let ended = [listed(5, 7, &["old"], "CANCELLED")];
    assert_eq!(lost(&gang(&[None, None]), &ended, 3), stamp(8, PODS));
}

#[test]
fn a_jump_of_slurms_clock_decides_nothing() {
    let jobs = [listed(5, 1, PODS, "PENDING"), listed(6, 1, PODS, "RUNNING")];
    let bound = gang(&[Some((1, 6)), None]);
    for jump in [-600, 600] {
        let mut moved = jobs.clone();
        for (_, job) in &mut moved {
            (job.submit_time, job.start_time) = (1_000_000 + jump, 1_000_001 + jump);
        }
        assert_eq!(next("c", &bound, &moved), next("c", &bound, &jobs));
    }
}

#[test]
fn an_end_under_the_same_pods_is_over_and_under_others_a_new_attempt() {
    let ended = [listed(5, 1, &["old"], "TIMEOUT"), listed(6, 2, PODS, "CANCELLED")];
    let step = next("c", &gang(&[None, None]), &ended).0;
    let over = Step::Over { job: JobId(6), generation: 2, state: BaseState::Cancelled };
    assert_eq!(step, over);
    let recreated = [listed(6, 2, &["old-a", "old-b"], "CANCELLED")];
    let step = next("c", &gang(&[None, None]), &recreated).0;
    assert_eq!(step, Step::Submit { stamp: stamp(3, PODS) });
}

#[test]
fn members_that_come_later_do_not_make_other_pods_of_it() {
    let mut staged = gang(&[None, None]);
    let demand = Demand::default();
    staged.later = vec![Later { role: "worker".to_owned(), first: 1, count: 2, demand, reach: 0 }];
    let mut first = staged.clone();
    first.members.truncate(1);
    let (asked, _) = next("c", &first, &[]);
    let Step::Submit { stamp } = asked else { panic!("{asked:?}") };
    // It ended while another of its members was being made: it is the same gang that has ended.
    let ended = [(stamp, job(5, "CANCELLED"))];
    for gang in [&first, &staged] {
        assert!(matches!(next("c", gang, &ended).0, Step::Over { generation: 1, .. }));
    }
    staged.members[0].uid = "replacement".to_owned();
    assert!(matches!(next("c", &staged, &ended).0, Step::Submit { .. }));
}

#[test]
fn a_refused_immediate_ask_is_no_ending() {
    let mut refused = listed(6, 1, PODS, "FAILED");
    refused.1.nodes = String::new();
    let step = next("c", &gang(&[None, None]), &[refused.clone()]).0;
    assert_eq!(step, Step::Submit { stamp: stamp(2, PODS) });
    // One that had nodes and failed is.
    refused.1.nodes = "n1".to_owned();
    let step = next("c", &gang(&[None, None]), &[refused]).0;
    assert_eq!(step, Step::Over { job: JobId(6), generation: 1, state: BaseState::Failed });
}

#[test]
fn bound_pods_are_over_with_their_job_only_on_its_own_record() {
    let bound = gang(&[Some((2, 6)), None]);
    let over = Step::Over { job: JobId(6), generation: 2, state: BaseState::NodeFail };
    assert_eq!(next("c", &bound, &[listed(6, 2, &["old"], "NODE_FAIL")]).0, over);
    let lost = Step::Lost { job: JobId(6), generation: 2 };
    // Nothing listed (rule 6), another attempt's end, or another job under the same key.
    assert_eq!(next("c", &bound, &[]).0, lost);
    assert_eq!(next("c", &bound, &[listed(6, 1, PODS, "CANCELLED")]).0, lost);
    assert_eq!(next("c", &bound, &[listed(7, 2, PODS, "CANCELLED")]).0, lost);
}

#[test]
fn jobs_of_other_clusters_and_gangs_are_invisible() {
    let mut foreign = listed(5, 4, PODS, "RUNNING");
    foreign.0.cluster = "other".to_owned();
    let mut another = listed(6, 4, PODS, "RUNNING");
    another.0.gang = "other".to_owned();
    let step = next("c", &gang(&[None, None]), &[foreign, another]);
    assert_eq!(step, (Step::Submit { stamp: stamp(1, PODS) }, vec![]));
}

#[test]
fn a_range_the_wrong_way_round_is_its_first_id() {
    let ids = JobIds { first: 9, last: 3 };
    assert_eq!(ids.choose(&stamp(1, PODS), 5), JobId(9));
}

const PODS: &[&str] = &["pod-0", "pod-1"];

fn any_stamp() -> impl Strategy<Value = Stamp> {
    let word = "[a-zA-Z0-9._:-]{1,9}";
    (word, word, any::<u32>(), any::<u64>(), any::<Option<u64>>()).prop_map(
        |(cluster, gang, generation, pods, part)| Stamp { cluster, gang, generation, pods, part },
    )
}

fn stamp(generation: u32, pods: &[&str]) -> Stamp {
    let pods = fingerprint(pods.iter().copied());
    Stamp { cluster: "c".to_owned(), gang: "g".to_owned(), generation, pods, part: None }
}

#[test]
fn what_was_given_back_is_no_ending_of_its_pods() {
    let pods = ["pod-0", "pod-1"];
    let (stamp, job) = listed(7, 3, &pods, "CANCELLED");
    let gang = gang(&[None, None]);
    let (step, _) = next("c", &gang, &[(stamp.clone(), job.clone())]);
    assert!(matches!(step, Step::Over { .. }), "{step:?}");
    let (step, _) = next("c", &gang, &[(stamp.given_back(), job)]);
    let Step::Submit { stamp: anew } = step else { panic!("{step:?}") };
    assert_eq!(anew, Stamp { generation: 4, ..stamp });
}

#[test]
fn a_node_that_has_failed_is_shunned_for_a_while_and_no_longer() {
    let failed = |nodes: &str, end_time| {
        let (stamp, job) = listed(7, 1, &["pod-0"], "NODE_FAIL");
        (stamp, Job { failed_nodes: nodes.to_owned(), end_time, ..job })
    };
    let jobs = [failed("n[3-4]", 1_000), failed("n3,n1", 1_100), failed("", 1_200)];
    let shunned = |now| failed_lately("c", &jobs, now, 300);
    assert_eq!(shunned(1_150), Some(("n[1,3-4]".to_owned(), 150)));
    assert_eq!(shunned(1_299), Some(("n[1,3-4]".to_owned(), 1)));
    assert_eq!(shunned(1_300), Some(("n[1,3]".to_owned(), 100)));
    assert_eq!(shunned(1_400), None);
    // Slurm's clock was set back: nobody is shunned for longer than was said.
    assert_eq!(shunned(0).map(|(_, left)| left), Some(300));
    assert_eq!(failed_lately("another", &jobs, 1_150, 300), None);
}

fn listed(id: u32, generation: u32, pods: &[&str], state: &str) -> (Stamp, Job) {
    (stamp(generation, pods), job(id, state))
}

#[test]
fn a_stamp_that_anybody_can_write_counts_only_of_who_the_gang_runs_as() {
    let stamp =
        Stamp { cluster: "c".to_owned(), gang: "g".to_owned(), generation: 1, pods: 7, part: None };
    let unsealed = |user: &str| {
        let (comment, user) = (stamp.to_text(), user.to_owned());
        Job { admin_comment: String::new(), comment, external: true, user, ..job(5, "RUNNING") }
    };
    let waits = gang(&[None]);
    assert!(Stamp::of(&unsealed("mallory")).is_some(), "it looks like one");
    assert!(!is_believed(&unsealed("mallory"), &waits, Some("alice")));
    assert!(!is_believed(&unsealed("mallory"), &waits, None), "nobody may have anything");
    assert!(is_believed(&unsealed("alice"), &waits, Some("Alice")));
    assert!(is_believed(&unsealed("alice"), &waits, Some("5001")), "a number says nothing");
    assert!(
        is_believed(&unsealed("mallory"), &gang(&[None, Some((1, 5))]), None),
        "we have bound for it"
    );
    let sealed = Job { admin_comment: stamp.to_text(), ..unsealed("mallory") };
    assert!(is_believed(&sealed, &waits, Some("alice")));
}

fn follow(job: u32, generation: u32) -> Step {
    Step::Follow { job: JobId(job), generation }
}

fn job(id: u32, state: &str) -> Job {
    Job::sample(id, state)
}

/// Members `pod-0`, `pod-1` …, each bound for a (generation, job) or not.
fn gang(bound: &[Option<(u32, u32)>]) -> Gang {
    let member = |(rank, bound): (u32, &Option<(u32, u32)>)| Member {
        uid: format!("pod-{rank}"),
        name: format!("pod-{rank}"),
        role: String::new(),
        rank,
        demand: std::sync::Arc::default(),
        bound: bound.map(|(generation, job)| Bound {
            generation,
            job: JobId(job),
            node: "n1".to_owned(),
            indexes: Default::default(),
        }),
        finished: false,
        gated: false,
        notice: crate::gang::Notice::None,
        reach: 0,
    };
    Gang {
        uid: "g".to_owned(),
        namespace: "team".to_owned(),
        name: "train".to_owned(),
        kind: "PyTorchJob".to_owned(),
        members: (0..).zip(bound).map(member).collect(),
        expected: 2,
        later: Vec::new(),
        ask: Ask::default(),
        excluded_nodes: Vec::new(),
    }
}
