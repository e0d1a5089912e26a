//! Two bridges that both believe they lead (no election, the same cluster id): what must never happen does
//! not happen, because what they write is fenced.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gangway_core::job::Standing;
use gangway_tests::{Bridge, Chronicle, SOON, Story, audited, manifest, wait};
use serde_json::Value;

/// Gangs at once.
const GANGS: usize = 16;
/// Members of each, with one GPU: three quarters of the world, so that there is room for a gang twice.
const MEMBERS: u32 = 6;

fn gang(round: usize, number: usize) -> Value {
    let packed = [("gangway.dev/pods-per-node", "2")];
    let template = manifest::template(1, &packed);
    manifest::indexed_job(&format!("r{round}-g{number}"), MEMBERS, &template)
}

/// Deletes half of the last round's gangs, one by one, and creates as many new ones between.
async fn turn_over(story: &Story, live: &mut BTreeMap<String, Value>, round: usize) {
    let old: Vec<(String, Value)> =
        live.iter().take(GANGS / 2).map(|(uid, job)| (uid.clone(), job.clone())).collect();
    for (number, (uid, job)) in old.into_iter().enumerate() {
        story.kube.delete(&job).await;
        live.remove(&uid);
        let job = gang(round, number);
        live.insert(story.kube.create(&job).await, job);
    }
}

/// Waits until every pod of every live gang is bound, and each gang has one placeholder, which runs.
async fn settled(story: &Story, live: &BTreeMap<String, Value>) {
    let began = Instant::now();
    let pods = live.len() * MEMBERS as usize;
    wait("all gangs are bound", SOON * 2, async || {
        let seen = story.pods("").await;
        let bound = seen.iter().filter(|pod| pod.node.is_some() && !pod.deleting).count();
        let why = || seen.iter().map(|p| p.why()).find(|why| !why.is_empty()).unwrap_or_default();
        if bound == pods && seen.len() == pods {
            Ok(())
        } else {
            Err(format!("{bound} of {pods} ({} there): {}", seen.len(), why()))
        }
    })
    .await;
    let bound = began.elapsed();
    wait("each gang has one placeholder", SOON, async || {
        let placeholders = story.slurm.live().await;
        let holding = placeholders.iter().filter(|(_, j)| j.standing() == Standing::Holding);
        let gangs: Vec<&str> = holding.map(|(stamp, _)| stamp.gang.as_str()).collect();
        let once = live.keys().all(|uid| gangs.iter().filter(|gang| *gang == uid).count() == 1);
        if once && placeholders.len() == live.len() {
            return Ok(());
        }
        let shown = |(s, j): &(gangway_core::placeholder::Stamp, gangway_core::job::Job)| {
            format!("{} {} of {}", j.id, j.state, s.gang)
        };
        Err(placeholders.iter().map(shown).collect::<Vec<_>>().join(", "))
    })
    .await;
    story.note(&format!("all bound after {bound:.1?}, settled after {:.1?}", began.elapsed()));
    // Each pod is bound for the placeholder that its gang has.
    let placeholders = story.slurm.live().await;
    for pod in story.pods("").await {
        assert!(placeholders.iter().any(|(_, job)| job.id.0 == pod.job()), "{pod:?}");
    }
}

/// Lets a bridge stand still while gangs come and go.
async fn stand_still(
    story: &Story,
    frozen: &Bridge,
    live: &mut BTreeMap<String, Value>,
    round: usize,
    span: Duration,
) {
    frozen.freeze(true);
    turn_over(story, live, round).await;
    tokio::time::sleep(span).await;
    frozen.freeze(false);
}

#[tokio::test]
async fn nothing_is_done_twice_and_nobody_is_evicted() {
    let Some(mut story) = Story::prepare("two-leaders", |_| {}).await else { return };
    let mut two = story.another("two", |_| {});
    story.bridge.start().await;
    two.start().await;
    let chronicle = Chronicle::begin(&story.kube).await;
    let mut live: BTreeMap<String, Value> = BTreeMap::new();
    for number in 0..GANGS {
        let job = gang(0, number);
        live.insert(story.kube.create(&job).await, job);
    }
    settled(&story, &live).await;

    // A short stop: it goes on where it was, with what it knew then.
    stand_still(&story, &two, &mut live, 1, Duration::from_secs(3)).await;
    settled(&story, &live).await;
    stand_still(&story, &story.bridge, &mut live, 2, Duration::from_secs(3)).await;
    settled(&story, &live).await;
    assert!(story.bridge.alive() && two.alive(), "a short stop ends nobody");

    // A long one: what it knows is too old, and it ends.
    stand_still(&story, &two, &mut live, 3, Duration::from_secs(12)).await;
    let ended = two.ended(Duration::from_secs(20)).await;
    assert!(!ended.success(), "it stood still for too long");
    settled(&story, &live).await;
    two.start().await;
    turn_over(&story, &mut live, 4).await;
    settled(&story, &live).await;

    let own = |asked: &gangway_tests::Asked| asked.namespace == story.cluster;
    let evicted = audited(story.world, &story.cluster, |a| {
        own(a) && a.what == "pods/eviction" && a.code < 300
    });
    assert!(evicted.is_empty(), "nobody was to be evicted: {evicted:?}");
    assert_eq!(chronicle.shared_devices(), [""; 0], "a device had two owners");
    for (gang, jobs) in chronicle.placeholders() {
        assert_eq!(jobs.len(), 1, "{gang:?} was bound for {jobs:?}");
    }
    let bound = |who: &str| {
        let by = format!("({who}_");
        let binds =
            |a: &gangway_tests::Asked| own(a) && a.what == "pods/binding" && a.agent.contains(&by);
        let all = audited(story.world, &story.cluster, binds);
        (all.iter().filter(|a| a.code < 300).count(), all.len())
    };
    let ((one, one_tried), (other, other_tried)) = (bound("one"), bound("two"));
    assert!(one_tried > 0 && other_tried > 0, "both had a hand in it");
    let all = story.slurm.placeholders().await;
    let mut made: BTreeMap<(&str, u32), usize> = BTreeMap::new();
    for (stamp, _) in &all {
        *made.entry((&stamp.gang, stamp.generation)).or_default() += 1;
    }
    let twice = made.values().filter(|count| **count > 1).count();
    story.note(&format!(
        "{} gangs: {one} of {one_tried} bindings by one, {other} of {other_tried} by the other; \
         {twice} gangs had two placeholders for a moment",
        made.len()
    ));
    story.kube.delete_all().await;
    story.gone("").await;
    story.nothing_lives(SOON).await;
    let ended = two.stop(Duration::from_secs(15)).await;
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    two.clear();
    story.end().await;
}
