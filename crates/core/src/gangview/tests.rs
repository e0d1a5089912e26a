use std::collections::BTreeMap;

use super::*;
use crate::follow::Progress;
use crate::gang::{Bound, assemble};
use crate::job::BaseState;
use crate::pod::Pod;
use crate::policy::{Category, Refusal};

const NOON: i64 = 1_795_867_200;

/// One gang as it is seen.
struct Scene {
    assembled: Assembled,
    verdict: Option<Verdict>,
    progress: Progress,
    report: Option<Report>,
    sight: Option<Sight>,
    ready: u32,
}

impl Scene {
    fn new(members: u32) -> Self {
        let pod = Pod { uid: "p".to_owned(), name: "p".to_owned(), ..Pod::default() };
        let mut assembled = assemble(None, &[&pod]).remove(0);
        let one = assembled.gang.members[0].clone();
        let member = |rank| Member { uid: format!("p{rank}"), rank, ..one.clone() };
        assembled.gang.members = (0..members).map(member).collect();
        assembled.gang.expected = members;
        Self {
            assembled,
            verdict: None,
            progress: Progress::default(),
            report: None,
            sight: None,
            ready: 0,
        }
    }

    fn queued(reason: &str) -> Self {
        let message = format!("Slurm job 7 in partition gpu: {reason}");
        let verdict = Verdict::Queued {
            job: Some(JobId(7)),
            reason: reason.to_owned(),
            message,
            expected_start: 0,
        };
        let sight = Sight {
            job: JobId(7),
            generation: 1,
            state: "PENDING".to_owned(),
            reason: reason.to_owned(),
            partition: "gpu".to_owned(),
            user: "alice".to_owned(),
            account: "team1".to_owned(),
            priority: 100,
            position: 3,
            expected_start: NOON + 600,
            outlook: "needs 2 nodes".to_owned(),
            ..Sight::default()
        };
        Self { verdict: Some(verdict), sight: Some(sight), ..Self::new(2) }
    }

    fn sight(&mut self) -> &mut Sight {
        self.sight.as_mut().expect("a sight")
    }

    fn with_facts<T>(&self, what: impl FnOnce(&Seen<'_>) -> T) -> T {
        let spots = BTreeMap::new();
        let Self { assembled, verdict, progress, report, sight, ready } = self;
        let facts = Facts { assembled, verdict: verdict.as_ref(), progress, spots: &spots };
        let (report, sight) = (report.as_ref(), sight.as_ref());
        what(&Seen { facts, report, sight, ready: *ready })
    }

    fn status(&self, before: Option<&Status>, now: i64) -> Status {
        self.with_facts(|seen| status(seen, before, now))
    }
}

fn bind(member: &mut Member, job: u32) {
    let node = format!("n{}", member.rank);
    let bound = Bound { generation: 2, job: JobId(job), node, indexes: BTreeMap::new() };
    member.bound = Some(bound);
}

#[test]
fn a_gang_in_the_queue_says_where_it_stands() {
    let status = Scene::queued("Priority").status(None, NOON);
    assert_eq!((status.phase.as_str(), status.job_id), ("Queued", Some(7)));
    assert_eq!(status.job_state.as_deref(), Some("PENDING"));
    assert_eq!(
        (status.partition.as_deref(), status.account.as_deref()),
        (Some("gpu"), Some("team1"))
    );
    assert_eq!((status.position, status.priority), (Some(3), Some(100)));
    assert_eq!(status.estimated_start.as_deref(), Some("2026-11-28T12:10:00Z"));
    assert_eq!(status.estimated_at.as_deref(), Some("2026-11-28T12:00:00Z"));
    assert_eq!(
        status.members,
        Members { wanted: 2, bound: 0, ready: 0, summary: "0/2".to_owned() }
    );
    assert_eq!((status.generation, status.requeues, status.preemptions), (Some(1), Some(0), None));
    assert_eq!(
        status.message.as_deref(),
        Some(
            "Slurm job 7 in partition gpu: Priority; needs 2 nodes; number 3 in the queue of gpu; Slurm expects it to start at 2026-11-28T12:10:00Z"
        )
    );
    let json = serde_json::to_value(&status).expect("JSON");
    assert_eq!(json["jobId"], 7);
    assert!(json["nodes"].is_null() && json.get("start").is_none(), "{json}");
}

#[test]
fn a_gang_that_runs_says_where_and_no_more_of_the_queue() {
    let mut scene = Scene::queued("");
    scene.verdict = Some(Verdict::Allocated {
        job: JobId(7),
        generation: 2,
        seats: BTreeMap::new(),
        note: String::new(),
        ends: None,
        renewed: false,
    });
    scene.assembled.gang.members.iter_mut().for_each(|m| bind(m, 7));
    (scene.sight().state, scene.sight().nodes) = ("RUNNING".to_owned(), "n[0-1]".to_owned());
    let status = scene.status(None, NOON);
    assert_eq!((status.phase.as_str(), status.nodes.as_deref()), ("Running", Some("n[0-1]")));
    assert_eq!(
        (status.position, status.estimated_start.as_deref(), status.reason.as_deref()),
        (None, None, None)
    );
    assert_eq!((status.members.summary.as_str(), status.requeues), ("2/2", Some(1)));
    // Of another job nothing is told.
    scene.sight().job = JobId(6);
    assert_eq!(scene.status(None, NOON).nodes, None);
}

#[test]
fn whoever_cannot_run_or_has_ended_says_why() {
    let mut scene = Scene::new(2);
    scene.verdict = Some(Verdict::Refused(Refusal::new(Category::Policy, "not allowed")));
    let status = scene.status(None, NOON);
    assert_eq!(
        (status.reason.as_deref(), status.message.as_deref()),
        (Some("Refused"), Some("not allowed"))
    );
    scene.verdict = None;
    let (reason, topic, problem) = ("GangIncomplete", String::new(), false);
    scene.report = Some(Report { reason, topic, message: "1 of 2".to_owned(), problem });
    assert_eq!(scene.status(None, NOON).reason.as_deref(), Some("GangIncomplete"));
    let (job, state, message) = (JobId(7), BaseState::Preempted, "gone".to_owned());
    scene.verdict = Some(Verdict::Ended { job, generation: 1, state, message });
    assert_eq!(scene.status(None, NOON).reason.as_deref(), Some("PREEMPTED"));
}

#[test]
fn nothing_is_written_where_nothing_has_changed() {
    let scene = Scene::queued("Priority");
    let first = scene.status(None, NOON);
    let later = scene.status(Some(&first), NOON + 3_600);
    assert_eq!(first, later, "an hour alone changes nothing");
    assert_eq!(worth(&first, &later), None);
}

#[test]
fn ageing_and_a_trembling_estimate_are_not_worth_a_write() {
    let mut scene = Scene::queued("Priority");
    let first = scene.status(None, NOON);
    scene.sight().priority = 120;
    assert_eq!(worth(&first, &scene.status(Some(&first), NOON + 60)), None);
    let before = scene.sight().clone();
    let later = |by: i64| Sight { expected_start: before.expected_start + by, ..before.clone() };
    assert_eq!(later(SAME_START - 1).steadied(Some(&before)), before);
    assert_eq!(later(-SAME_START).steadied(Some(&before)), later(-SAME_START));
    let another = Sight { job: JobId(8), ..later(1) };
    assert_eq!(another.clone().steadied(Some(&before)), another);
    *scene.sight() = later(SAME_START);
    let moved = scene.status(Some(&first), NOON + 90);
    assert_eq!(worth(&first, &moved), Some(Weight::Moved));
    assert_eq!(moved.estimated_at.as_deref(), Some("2026-11-28T12:01:30Z"));
}

#[test]
fn news_weighs_more_than_another_place_in_the_queue() {
    let mut scene = Scene::queued("Priority");
    let first = scene.status(None, NOON);
    scene.sight().position = 2;
    assert_eq!(worth(&first, &scene.status(Some(&first), NOON)), Some(Weight::Moved));
    let another = Scene::queued("Resources");
    assert_eq!(worth(&first, &another.status(Some(&first), NOON)), Some(Weight::News));
    scene.assembled.gang.expected = 3;
    assert_eq!(worth(&first, &scene.status(Some(&first), NOON)), Some(Weight::News));
    let mut unknown = Scene::queued("Priority");
    unknown.sight().expected_start = 0;
    assert_eq!(worth(&unknown.status(None, NOON), &first), Some(Weight::News));
    let mut alone = Scene::queued("Priority");
    alone.sight().outlook.clear();
    let alone = alone.status(None, NOON);
    assert_eq!(worth(&alone, &first), Some(Weight::News), "what would help is told at once");
    // All are ready: that is what one waits for. One of them: not worth the hurry.
    let mut scene = Scene::new(2);
    let first = scene.status(None, NOON);
    scene.ready = 1;
    assert_eq!(worth(&first, &scene.status(Some(&first), NOON)), Some(Weight::Moved));
    scene.ready = 2;
    assert_eq!(worth(&first, &scene.status(Some(&first), NOON)), Some(Weight::News));
}

#[test]
fn times_are_those_of_the_change_and_preemptions_are_not_forgotten() {
    let mut scene = Scene::queued("Priority");
    scene.sight().preemptions = 2;
    let first = scene.status(None, NOON);
    scene.sight().preemptions = 0;
    let later = scene.status(Some(&first), NOON + 60);
    assert_eq!(
        (later.preemptions, &later.last_transition_time),
        (Some(2), &first.last_transition_time)
    );
    scene.verdict = None;
    let changed = scene.status(Some(&later), NOON + 60);
    assert_eq!(changed.last_transition_time, "2026-11-28T12:01:00Z");
}

#[test]
fn what_is_over_is_not_shown_and_one_pod_is_no_gang() {
    let mut scene = Scene::new(2);
    assert!(
        is_shown(&scene.assembled.gang, false) && !is_shown(&Scene::new(1).assembled.gang, false)
    );
    assert!(is_shown(&Scene::new(1).assembled.gang, true));
    let over = |scene: &Scene| scene.with_facts(|seen| is_over(&seen.facts));
    assert!(!over(&scene));
    scene.assembled.gang.members.iter_mut().for_each(|m| m.finished = true);
    assert!(!over(&scene), "what it held is not given back yet");
    scene.progress.released = true;
    assert!(over(&scene));
    scene.assembled.leaving.insert("p9".to_owned());
    assert!(!over(&scene), "a pod is on its way out");
}
