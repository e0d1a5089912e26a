//! What must never happen, whatever the facts.

use super::*;
use crate::ask::OnLoss;
use crate::gang::Notice;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_same_facts_make_the_same_plan(scene in any_scene()) {
        let same = scene.clone();
        prop_assert_eq!(scene.plan(), same.plan());
    }

    /// Rules 1 and 4: a pod is bound only where Slurm's word says, on a free seat, and only if it
    /// is not bound already.
    #[test]
    fn nothing_is_bound_but_in_an_allocation_on_a_free_seat(scene in any_scene()) {
        for action in scene.actions() {
            let Action::Bind { pod, seat, node, job, generation } = action else { continue };
            let Some(Verdict::Allocated { job: j, generation: g, seats, .. }) = &scene.verdict else {
                return Err(TestCaseError::fail(format!("{pod} is bound without an allocation")));
            };
            prop_assert_eq!((&job, &generation), (j, g));
            prop_assert_eq!(Some(&seat), seats.get(&pod));
            prop_assert_eq!(Some(&Spot::Free(node)), scene.spots.get(&pod));
            let member = scene.find(&pod);
            prop_assert!(member.bound.is_none() && !member.finished);
        }
    }

    /// Rule 3: the first bind of a gang is the bind of all.
    #[test]
    fn of_a_gang_without_bound_members_all_are_bound_or_none(scene in any_scene()) {
        let running: Vec<&Member> =
            scene.assembled.gang.members.iter().filter(|m| !m.finished).collect();
        if running.iter().all(|m| m.bound.is_none()) {
            let bound = scene.actions().iter().filter(|a| matches!(a, Action::Bind { .. })).count();
            prop_assert!(bound == 0 || bound == running.len(), "{bound} of {}", running.len());
            prop_assert!(bound == 0 || scene.assembled.gang.complete());
        }
    }

    /// Rule 3: a gang that is bound in part for longer than its time is bound no further.
    #[test]
    fn a_gang_that_is_late_leaves_as_a_whole(mut scene in any_scene()) {
        scene.progress.all_bound = false;
        scene.progress.first_bind = Some(0);
        scene.now = ALL_BOUND_WITHIN_MS;
        let actions = scene.actions();
        if actions.iter().any(|a| matches!(a, Action::Bind { .. })) {
            let held = scene.assembled.gang.members.iter().any(|m| m.bound.is_some() && !m.finished);
            prop_assert!(!held, "{actions:?}");
        }
    }

    /// Rule 6: a pod leaves only on the end of its own placeholder, or while another one, allocated,
    /// is its gang's; a pod that was made since does not.
    #[test]
    fn nobody_is_evicted_without_evidence(scene in any_scene()) {
        for action in scene.actions() {
            let Action::Evict { pod, .. } = action else { continue };
            let member = scene.find(&pod);
            prop_assert!(!member.finished);
            match &scene.verdict {
                Some(Verdict::Ended { job, generation, .. }) => match &member.bound {
                    Some(b) => prop_assert!(b.generation < *generation || b.job == *job),
                    None => prop_assert!(
                        scene.progress.asked.as_ref().is_some_and(|a| a.pods.contains(&pod))
                    ),
                },
                Some(Verdict::Allocated { job, seats, .. }) => {
                    let bound = member.bound.as_ref().expect("only bound pods leave");
                    let first = scene.progress.first_bind;
                    let late = first.is_some_and(|f| scene.now >= f + ALL_BOUND_WITHIN_MS)
                        && !scene.progress.all_bound;
                    // The job has started anew on other nodes: these are no longer its own.
                    let moved = seats.get(&pod).is_some_and(|seat| seat.node != bound.node);
                    let warned = scene.assembled.gang.ask.grace_seconds.is_some()
                        && scene.progress.ends.is_some();
                    prop_assert!(
                        bound.job != *job || late || moved || warned || scene.has_successor()
                    );
                }
                other => prop_assert!(false, "{pod} is evicted on {other:?}"),
            }
        }
    }

    /// What was asked for is kept: of a foreseen end nobody goes before its time is up or all have
    /// checkpointed, and nobody is given more time than it was told.
    #[test]
    fn nobody_goes_before_its_time(scene in any_scene()) {
        let Some(grace) = scene.assembled.gang.ask.grace_seconds else { return Ok(()) };
        let Some(Verdict::Ended { job, generation, .. }) = scene.verdict else { return Ok(()) };
        let of_it = |m: &&Member| {
            !m.finished
                && m.bound.as_ref().is_some_and(|b| b.generation < generation || b.job == job)
        };
        let bound: Vec<&Member> = scene.assembled.gang.members.iter().filter(of_it).collect();
        if bound.is_empty() {
            return Ok(());
        }
        let done = bound.iter().all(|m| m.notice == Notice::Checkpointed);
        let up = scene.progress.leave_by.is_some_and(|by| scene.now >= by);
        for action in scene.actions() {
            match action {
                Action::Evict { .. } => prop_assert!(done || up),
                Action::Warn { leave: Some((in_ms, _)), .. } => {
                    prop_assert!(!done && !up && in_ms > 0);
                    let told = scene.progress.leave_by.map(|by| by - scene.now);
                    prop_assert_eq!(in_ms, told.unwrap_or_else(|| i64::from(grace) * 1_000));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }

    /// Rule 5: the end of the placeholder leaves no bound pod of it behind.
    #[test]
    fn an_ended_placeholder_keeps_no_pod(mut scene in any_scene(), at in 0usize..4) {
        scene.verdict = Some(ended(7, 1));
        scene.assembled.gang.ask.grace_seconds = None;
        let name = scene.names().get(at).cloned();
        if let Some(name) = name.filter(|n| !scene.find(n).finished) {
            scene.bind(&name, 7, 1);
            prop_assert!(scene.evicted().contains(&name));
        }
    }

    /// Rule 4: nodes go back only when every pod has ended; and the gang is dropped only then.
    #[test]
    fn nothing_is_given_back_under_a_pod(scene in any_scene()) {
        let back = |a: &Action| matches!(a, Action::Release { .. } | Action::Forget);
        if scene.actions().iter().any(back) {
            prop_assert!(scene.assembled.gang.members.iter().all(|m| m.finished));
            prop_assert!(scene.assembled.leaving.is_empty());
        }
    }

    /// Rules 3 and 4: an allocation is given back for another one only while no member is bound, or may
    /// just have been.
    #[test]
    fn an_allocation_is_given_back_only_under_nobody(scene in any_scene()) {
        if scene.actions().iter().any(|a| matches!(a, Action::GiveBack { .. })) {
            prop_assert_eq!(scene.actions().len(), 1);
            let running = scene.assembled.gang.members.iter().filter(|m| !m.finished);
            prop_assert!(running.clone().all(|m| m.bound.is_none()));
            let first = scene.progress.first_bind.filter(|_| !scene.progress.all_bound);
            // Whoever was warned has been seen bound.
            let warned = scene.progress.leave_by.is_some();
            prop_assert!(warned || first.is_none_or(|f| scene.now >= f + ALL_BOUND_WITHIN_MS));
            let shut = scene.spots.values().any(|s| matches!(s, Spot::Shut { .. }));
            let ends = scene.assembled.gang.ask.grace_seconds.is_some() && scene.progress.ends.is_some();
            prop_assert!(shut || ends, "for no reason");
        }
    }

    /// A member starts beside its gang only where others of it run, and its own seat is lost for a while.
    #[test]
    fn nobody_stands_in_without_need(scene in any_scene()) {
        for action in scene.actions() {
            let Action::StandIn { pod, stands_in } = action else { continue };
            let member = scene.find(&pod);
            prop_assert!(member.bound.is_none() && !member.finished);
            prop_assert!(scene.spots[&pod].is_lost());
            prop_assert_eq!(scene.assembled.gang.on_loss(), OnLoss::Replace);
            prop_assert!(scene.progress.lost_since.is_some_and(|at| scene.now >= at + LOST_FOR_MS));
            let beside = |m: &Member| m.bound.as_ref().is_some_and(|b| b.job == stands_in.job);
            prop_assert!(scene.assembled.gang.members.iter().any(|m| !m.finished && beside(m)));
        }
    }

    /// A volume is made for a node only once the gang can have all its nodes.
    #[test]
    fn no_volume_is_made_for_a_seat_that_may_be_given_back(scene in any_scene()) {
        let told = |a: &Action| matches!(a, Action::SelectNode { .. });
        let running: Vec<&Member> =
            scene.assembled.gang.members.iter().filter(|m| !m.finished).collect();
        if scene.actions().iter().any(told) && running.iter().all(|m| m.bound.is_none()) {
            let fine = |s: &Spot| matches!(s, Spot::Free(_) | Spot::Volumes { .. });
            prop_assert!(running.iter().all(|m| scene.spots.get(&m.uid).is_some_and(fine)));
        }
    }

    /// Rule 5: a gang without pods is released, unless that is done, and dropped.
    #[test]
    fn a_gang_without_pods_is_dropped(mut scene in any_scene()) {
        scene.assembled.gang.members.clear();
        scene.assembled.leaving.clear();
        scene.progress.latest = Some(2);
        let actions = scene.actions();
        prop_assert_eq!(actions.last(), Some(&Action::Forget));
        let ended = matches!(scene.verdict, Some(Verdict::Ended { .. }));
        let released = actions.iter().any(|a| matches!(a, Action::Release { generation: 2, .. }));
        prop_assert_eq!(released, !ended && !scene.progress.released);
    }
}

impl Scene {
    fn find(&self, name: &str) -> &Member {
        self.assembled.gang.members.iter().find(|m| m.name == name).expect("a member")
    }

    /// A rank is another pod's than it was, and nobody said that it alone starts.
    fn has_successor(&self) -> bool {
        let renewed = matches!(&self.verdict, Some(Verdict::Allocated { renewed: true, .. }));
        let other = |m: &Member| {
            let held = self.progress.held.get(&m.rank);
            held.map_or(renewed, |uid| *uid != m.uid) && m.bound.is_none() && !m.finished
        };
        self.assembled.gang.on_loss() == OnLoss::Restart
            && self.assembled.gang.members.iter().any(other)
    }
}

/// Facts in any combination, also such as should not be: pods, jobs and verdicts of several rounds.
fn any_scene() -> impl Strategy<Value = Scene> {
    let bound = proptest::option::of((6u32..9, 0u32..3));
    let marks = proptest::collection::vec(
        (bound, prop::bool::weighted(0.2), (any_spot(), any_notice())),
        4,
    );
    let size = (0u32..=4, 0u32..=5, prop_oneof![3 => Just(0), 1 => 1u32..3]);
    let gang = (size, any::<[bool; 3]>(), prop::bool::weighted(0.2), 0usize..4);
    let asks = (proptest::option::of(1u32..40), proptest::option::of(any::<bool>()));
    (gang, marks, any_verdict(), any_progress(), any_time(), asks).prop_map(
        |(
            ((members, expected, to_come), [over, leaving, problem], gated, which),
            marks,
            verdict,
            progress,
            now,
            (grace, restarts),
        )| {
            let mut scene = Scene::new(members);
            scene.assembled.gang.expected = expected;
            scene.awaits(2, to_come);
            scene.assembled.over = over;
            scene.assembled.gang.ask.grace_seconds = grace;
            scene.assembled.gang.ask.on_loss =
                restarts.map(|yes| if yes { OnLoss::Restart } else { OnLoss::Replace });
            scene.assembled.leaving.extend(leaving.then(|| "old".to_owned()));
            scene.assembled.problems.extend(problem.then(|| "a problem".to_owned()));
            for (i, (name, (bound, finished, (spot, notice)))) in
                scene.names().into_iter().zip(marks).enumerate()
            {
                if let Some((job, generation)) = bound {
                    scene.bind(&name, job, generation);
                }
                scene.member(&name).finished = finished;
                scene.member(&name).gated = gated && i == which;
                scene.member(&name).notice = notice;
                scene.spots.extend(spot.map(|spot| (name.clone(), spot)));
            }
            Scene { verdict, progress, now, ..scene }
        },
    )
}

fn any_verdict() -> impl Strategy<Value = Option<Verdict>> {
    let seats = proptest::sample::subsequence(vec!["a", "b", "c", "d"], 0..=4);
    let seats = prop_oneof![2 => Just(vec!["a", "b", "c", "d"]), 1 => seats];
    let allocated = (seats, 6u32..9, 0u32..3, any::<bool>());
    let allocated = allocated.prop_map(|(pods, job, generation, renewed)| {
        let seats = pods.into_iter().map(str::to_owned).zip((0..).map(seat)).collect();
        Some(Verdict::Allocated {
            job: JobId(job),
            generation,
            seats,
            note: String::new(),
            ends: None,
            renewed,
        })
    });
    let refusal = || Refusal::new(Category::Shape, "no");
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Verdict::Refused(refusal()))),
        1 => Just(Some(queued_for("Lost"))),
        2 => (6u32..9, 0u32..3).prop_map(|(job, generation)| Some(ended(job, generation))),
        5 => allocated,
    ]
}

fn any_progress() -> impl Strategy<Value = Progress> {
    let pods = proptest::sample::subsequence(vec!["a", "b", "c", "d", "old"], 0..=5);
    let asked = proptest::option::of((pods, any_time()));
    let times = (proptest::option::of(any_time()), proptest::option::of(any_time()));
    let ends = proptest::option::weighted(0.3, (any_time(), any::<bool>()));
    let leave_by = proptest::option::weighted(0.3, any_time());
    let held = proptest::sample::subsequence(vec![(0, "a"), (1, "b"), (2, "old"), (3, "d")], 0..=4);
    let lost_since = proptest::option::of(any_time());
    (asked, times, any::<(bool, bool)>(), (ends, leave_by, held), lost_since).prop_map(
        |(
            asked,
            (first_bind, finished_since),
            (all_bound, released),
            (ends, leave_by, held),
            lost_since,
        )| {
            Progress {
                asked: asked.map(|(pods, at)| Asked {
                    bound: 0,
                    policies: 0,
                    pods: pods.into_iter().map(str::to_owned).collect(),
                    bound_for: BTreeSet::new(),
                    at,
                    reach: Reach::default(),
                }),
                first_bind,
                all_bound,
                released,
                finished_since,
                ends,
                leave_by,
                lost_since,
                held: held.into_iter().map(|(rank, uid)| (rank, uid.to_owned())).collect(),
                ..Progress::default()
            }
        },
    )
}

fn any_notice() -> impl Strategy<Value = Notice> {
    prop_oneof![Just(Notice::None), Just(Notice::Warned), Just(Notice::Checkpointed)]
}

fn any_spot() -> impl Strategy<Value = Option<Spot>> {
    prop_oneof![
        6 => Just(Some(Spot::Free("kube".to_owned()))),
        1 => Just(Some(Spot::Taken { by: "team/old".to_owned() })),
        1 => Just(Some(Spot::NoNode)),
        1 => any::<bool>().prop_map(|lost| Some(shut(lost))),
        1 => Just(Some(unmade(None))),
        1 => Just(Some(unmade(Some("kube")))),
        1 => Just(None),
    ]
}

fn shut(lost: bool) -> Spot {
    Spot::Shut { node: "kube".to_owned(), why: "is cordoned".to_owned(), lost }
}

fn unmade(selected: Option<&str>) -> Spot {
    let [claim, uid, node, message] = ["data", "data-uid", "kube", "a volume"].map(str::to_owned);
    let claims = vec![ToSelect { claim, uid, selected: selected.map(str::to_owned) }];
    Spot::Volumes { node, claims, message }
}

fn any_time() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(QUIET_MS), 0..2 * ALL_BOUND_WITHIN_MS]
}
