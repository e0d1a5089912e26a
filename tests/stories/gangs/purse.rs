//! A gang that waits, whose reason and place change all the time: what the bridge writes of it, counted by the API
//! server, keeps to the purses that `core::gangview::pace` gives it; and each reason is one event on its owner.

use std::collections::BTreeMap;
use std::time::Instant;

use gangway_core::gangview::pace::{Line, MOST_PER_HOUR, Pace, TOLD, Weight};
use gangway_tests::{Asked, SOON, Story, audited, manifest, wait};

use super::shown;

/// Pods of the gang: more than are told every reason.
const MEMBERS: u32 = 6;
/// Reasons that it is given one after the other, as often as is needed to empty every purse.
const CHANGES: [(&str, &str); 2] = [("hold", "JobHeldAdmin"), ("uhold", "JobHeldUser")];

/// The most that a line may cost in so many milliseconds: with a full purse, and news all the time.
fn most(line: Line, ms: i64) -> usize {
    let mut pace = Pace::new(line);
    let mut now = 0;
    let mut writes = 0;
    loop {
        now = pace.due(Weight::News, now);
        if now > ms {
            return writes;
        }
        pace.wrote(now);
        writes += 1;
    }
}

/// What this bridge has written so far of the gang, its owner and its pods; events too.
fn written(story: &Story) -> Vec<Asked> {
    audited(story.world, &story.kube.namespace, |asked| {
        asked.writes()
            && asked.namespace == story.kube.namespace
            && asked.agent.starts_with("gangway/")
            && asked.name.strip_prefix("moody").is_some_and(|rest| rest.starts_with(['-', '.']))
    })
}

/// Events on the Job, by the reason of Slurm's that they tell.
async fn events(story: &Story, reason: &str) -> Vec<String> {
    let events = story.kube.events().await.into_iter();
    let own = events.filter(|e| (e.kind.as_str(), e.name.as_str()) == ("Job", "moody"));
    own.map(|e| format!("{}: {}", e.reason, e.message)).filter(|e| e.contains(reason)).collect()
}

#[tokio::test]
async fn a_gang_whose_reason_changes_all_the_time_keeps_to_its_purse() {
    let Some(story) = Story::begin("gangs-purse").await else { return };
    let room = story.room().await;
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::indexed_job("large", room, &template)).await;
    story.bound("large-", room as usize).await;
    story.kube.create(&manifest::indexed_job("moody", MEMBERS, &template)).await;
    let queued = shown(&story, "moody-", &[("PHASE", "Queued"), ("STATE", "PENDING")]).await;
    let job: u32 = queued["JOB"].parse().expect("a job id");
    let pods = story.told("moody-", "Slurm job").await;
    // Another one beside it, whose priority changes, so that its place does.
    story.kube.create(&manifest::indexed_job("other", 2, &template)).await;
    let other = shown(&story, "other-", &[("PHASE", "Queued"), ("STATE", "PENDING")]).await;
    let scontrol = |words: &[&str]| story.world.run_as("root", "scontrol", words);

    let (before, began) = (written(&story), Instant::now());
    // One more than the fullest purse has coins, whatever comes back meanwhile.
    let rounds = most(Line::First, 0) / CHANGES.len() + 2;
    let mut heard = 0;
    for _ in 0..rounds {
        for (verb, reason) in CHANGES {
            let priority = format!("Priority={}", 1 + 1000 * (heard % 2));
            scontrol(&["update", &format!("JobId={}", other["JOB"]), &priority]);
            scontrol(&[verb, &job.to_string()]);
            let series = format!("gangway_gangs{{phase=\"queued\",reason=\"{reason}\"}}");
            wait(&format!("the bridge has heard of {reason}"), SOON, async || {
                let gangs = story.bridge.metric(&series).await;
                if gangs >= 1.0 { Ok(()) } else { Err(format!("{gangs} gangs")) }
            })
            .await;
            heard += 1;
            scontrol(&["release", &job.to_string()]);
        }
    }
    let ms = i64::try_from(began.elapsed().as_millis()).expect("a short while");
    let after = written(&story);
    let window = &after[before.len()..];

    let (mut lines, mut told) = (BTreeMap::new(), BTreeMap::new());
    for asked in window {
        let these = if asked.what == "events" { &mut told } else { &mut lines };
        *these.entry((asked.what.as_str(), asked.name.as_str())).or_insert(0_usize) += 1;
    }
    let (first, next) = (most(Line::First, ms), most(Line::Other, ms));
    let mut wanted = BTreeMap::from([(("gangs/status", queued["NAME"].as_str()), first)]);
    for (place, pod) in pods.iter().enumerate() {
        let most = if place == 0 { first } else { next };
        wanted.extend((place < TOLD).then_some((("pods/status", pod.name.as_str()), most)));
    }
    let made = before.iter().filter(|asked| asked.what == "gangs").count();
    let all: usize = lines.values().sum();
    story.note(&format!(
        "{heard} reasons heard in {ms} ms: {all} writes of {} that the purses have, beside {} events; the Gang was \
         made by {made} before: {lines:?}",
        wanted.values().sum::<usize>(),
        told.values().sum::<usize>(),
    ));
    assert!(heard > first, "{heard} changes would fit into a purse of {first}");
    for (line, count) in &lines {
        let most = wanted.get(line).unwrap_or(&0);
        assert!(count <= most, "{line:?}: {count} writes in {ms} ms, {most} allowed; {window:?}");
    }
    // It is told while there are coins.
    assert!(wanted.keys().all(|line| lines.get(line).is_some_and(|n| *n >= 3)), "{lines:?}");
    assert_eq!(made, 1, "{before:?}");
    // What the page promises of an hour is what these purses have.
    let hour = 3_600_000 - 1;
    let lines_of_it = 2 * most(Line::First, hour) + (TOLD - 1) * most(Line::Other, hour);
    let promised = lines_of_it + most(Line::Event, hour) + made;
    assert!(promised <= MOST_PER_HOUR as usize, "{promised}");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/gangs.md");
    let page = std::fs::read_to_string(page).expect("the page");
    assert!(page.contains(&format!("at most {MOST_PER_HOUR} writes an hour")));

    // Each reason was told of the owner once, however often it came back.
    for (_, reason) in CHANGES {
        let events = events(&story, reason).await;
        assert_eq!(events.len(), 1, "{reason}: {events:?}");
    }
    assert!(told.values().all(|times| *times == 1), "nor asked for again: {told:?}");
    scontrol(&["release", &job.to_string()]);
    story.end().await;
}
