//! slurmctld crashes before it has saved what it did, which takes it up to five seconds (rule 2): starts
//! and submits that never were, jobs that run again, ids that come back as somebody else's.

use std::time::Duration;

use gangway_core::hostlist::Hostlist;
use gangway_core::job::{BaseState, Job, JobId, PlaceholderRequest, Standing};
use gangway_core::names;
use gangway_core::placeholder::Stamp;
use gangway_tests::{Fault, Faults, Pod, Question, SOON, Story, World, manifest, stays, wait};

use crate::slurmctld::{answers, bobs, daemon, places};

/// From here on nothing is saved for five seconds: slurmctld ends in good order, which saves all, and
/// saves once more for the first thing that happens then.
async fn save(story: &mut Story, name: &str) {
    daemon(story, &["restart", "slurmctld"]);
    answers(story).await;
    story.bridge.wait_ready().await;
    story.kube.create(&manifest::pod(name, &manifest::template(1, &[]))).await;
    story.bound(name, 1).await;
}

async fn crash(story: &Story) {
    daemon(story, &["kill", "slurmctld"]);
    daemon(story, &["start", "slurmctld"]);
    answers(story).await;
}

/// The live placeholders of a gang.
async fn live_of(story: &Story, gang: &str) -> Vec<(Stamp, Job)> {
    let mut live = story.slurm.live().await;
    live.retain(|(stamp, _)| stamp.gang == gang);
    live
}

/// Waits until every pod is bound inside a running allocation of its own (rule 1), and its gang has just
/// this one placeholder (rule 2).
async fn heals(story: &Story, prefix: &str, gang: &str, count: usize) -> Vec<Pod> {
    let pods = wait("every pod is where its own running job is", SOON, async || {
        let pods = story.pods(prefix).await;
        let live = live_of(story, gang).await;
        let [(_, job)] = live.as_slice() else { return Err(format!("{} are alive", live.len())) };
        let nodes = Hostlist::parse(&job.nodes).map(|list| list.names()).unwrap_or_default();
        let well = |pod: &&Pod| {
            let there = pod.node.as_ref().is_some_and(|node| nodes.contains(node));
            there && pod.number(names::JOB_ID) == Some(job.id.0) && !pod.deleting
        };
        let all = pods.len() == count && pods.iter().filter(well).count() == count;
        if all && job.state.base == BaseState::Running {
            return Ok(pods);
        }
        let pods: Vec<_> =
            pods.iter().map(|p| (p.number(names::JOB_ID), &p.node, p.why())).collect();
        Err(format!("pods {pods:?}; job {} {} on {:?}", job.id, job.state, job.nodes))
    })
    .await;
    story.seated(&pods).await;
    pods
}

/// What slurmctld now knows of a job, in a word or two.
async fn known(story: &Story, id: u32) -> String {
    let job = story.slurm.client.job(JobId(id)).await.expect("Slurm answers");
    job.map_or_else(|| "forgotten".to_owned(), |job| format!("{} {}", job.state, job.reason))
}

async fn a_crash_at_every_age_of_a_start(name: &str, immediate: bool) {
    let story = Story::prepare(name, |setup| setup.immediate = immediate).await;
    let Some(mut story) = story else { return };
    story.bridge.start().await;
    for age in [500, 2_000, 4_000] {
        let before = format!("before{age}");
        save(&mut story, &before).await;
        let name = format!("gang{age}");
        // Its operator makes lost pods anew at once, where a Job takes its time.
        let job = manifest::pytorchjob(&name, 3, &manifest::template(8, &[]));
        let uid = story.kube.create(&job).await;
        let pods = story.bound(&name, 4).await;
        let id = pods[0].job();
        stays("the gang runs", Duration::from_millis(age), async || {
            let there = story.pods(&name).await.iter().filter(|p| p.node.is_some()).count();
            if there == 4 { Ok(()) } else { Err(format!("{there} pods")) }
        })
        .await;
        story.bridge.freeze(true);
        crash(&story).await;
        let says = known(&story, id).await;
        story.bridge.freeze(false);
        story.bridge.wait_ready().await;
        let after = heals(&story, &name, &uid, 4).await;
        let kept = after.iter().filter(|pod| pods.iter().any(|old| old.uid == pod.uid)).count();
        story.note(&format!("{age} ms after the start: {says}; {kept} of 4 pods stayed"));
        story.kube.delete(&job).await;
        story.gone(&name).await;
        story.kube.delete_pod(&before).await;
        story.nothing_lives(SOON).await;
    }
    story.end().await;
}

#[tokio::test]
async fn a_start_at_once_may_be_forgotten_at_every_age() {
    a_crash_at_every_age_of_a_start("forgot-at-once", true).await;
}

#[tokio::test]
async fn a_start_from_the_queue_may_be_forgotten_at_every_age() {
    a_crash_at_every_age_of_a_start("forgot-queued", false).await;
}

/// The same while no bridge is there to see it.
#[tokio::test]
async fn a_start_forgotten_while_no_bridge_runs_is_asked_for_anew() {
    forgotten_while_no_bridge_runs("forgot-alone", |_| None).await;
}

/// The same where nobody keeps accounts, and nobody will ever say more than that slurmctld knows no such job.
#[tokio::test]
async fn it_is_asked_for_anew_also_where_there_is_no_accounting() {
    let none =
        |asked: &Question<'_>| asked.path.starts_with("/slurmdb/").then_some(Fault::NotFound);
    forgotten_while_no_bridge_runs("forgot-accounts", none).await;
}

async fn forgotten_while_no_bridge_runs(
    name: &str,
    wrong: impl Fn(&Question<'_>) -> Option<Fault> + Send + Sync + 'static,
) {
    let Some(world) = World::find() else { return };
    let slurm = Faults::before_slurm(world.slurm_url()).await;
    slurm.follow(wrong);
    let story = Story::prepare(name, |setup| setup.slurm_url = slurm.url());
    let Some(mut story) = story.await else { return };
    story.bridge.start().await;
    save(&mut story, "before").await;
    let uid =
        story.kube.create(&manifest::pytorchjob("gang", 1, &manifest::template(8, &[]))).await;
    let before = story.bound("gang-", 2).await;
    story.bridge.kill();
    crash(&story).await;
    let says = known(&story, before[0].job()).await;
    story.bridge.start().await;
    let after = heals(&story, "gang-", &uid, 2).await;
    let kept = after.iter().filter(|pod| before.iter().any(|old| old.uid == pod.uid)).count();
    story.note(&format!("{says}; {kept} of 2 pods stayed"));
    story.end().await;
}

/// An accepted placeholder that had not started is found to be gone, and asked for under the same key.
#[tokio::test]
async fn a_submit_that_was_forgotten_is_repeated_as_it_was() {
    let Some(mut story) = Story::begin("forgot-submit").await else { return };
    let room = story.room().await;
    let large = manifest::indexed_job("large", room - 1, &manifest::template(8, &[]));
    story.kube.create(&large).await;
    story.bound("large-", room as usize - 1).await;
    save(&mut story, "before").await;
    let uid =
        story.kube.create(&manifest::indexed_job("small", 2, &manifest::template(8, &[]))).await;
    story.told("small-", "Slurm job").await;
    let [(stamp, job)] = &live_of(&story, &uid).await[..] else { unreachable!("one placeholder") };
    story.bridge.freeze(true);
    crash(&story).await;
    story.note(&known(&story, job.id.0).await);
    story.bridge.freeze(false);
    story.bridge.wait_ready().await;
    wait("it is in the queue again, once", SOON, async || {
        let live = live_of(&story, &uid).await;
        let same = live.len() == 1 && live[0].0 == *stamp && live[0].1.id == job.id;
        if same { Ok(()) } else { Err(format!("{live:?}")) }
    })
    .await;
    story.kube.delete(&large).await;
    heals(&story, "small-", &uid, 2).await;
    story.end().await;
}

/// What was ended and runs again is ended again, also when its gang is still there and has no further
/// need to be looked at.
#[tokio::test]
async fn an_end_that_was_forgotten_is_repeated() {
    let Some(mut story) = Story::begin("forgot-end").await else { return };
    let gone = manifest::indexed_job("gone", 2, &manifest::template(8, &[]));
    story.kube.create(&gone).await;
    let gone_id = story.bound("gone-", 2).await[0].job();
    story.kube.create(&manifest::pod("ran", &manifest::template(8, &[]))).await;
    let ran_id = story.bound("ran", 1).await[0].job();
    save(&mut story, "before").await;
    story.kube.delete(&gone).await;
    let exit = serde_json::json!({"metadata": {"annotations": {"world.gangway.dev/exit": "0"}}});
    story.kube.patch_pod("ran", &exit).await;
    for id in [gone_id, ran_id] {
        story.slurm.reaches(id, BaseState::Cancelled).await;
    }
    story.bridge.freeze(true);
    crash(&story).await;
    let mut again = 0;
    for id in [gone_id, ran_id] {
        let says = known(&story, id).await;
        again += usize::from(says.starts_with("RUNNING"));
        story.note(&format!("job {id}, which was ended, is {says}"));
    }
    assert!(again > 0, "slurmctld has forgotten nothing: this story tells nothing");
    story.bridge.freeze(false);
    for id in [gone_id, ran_id] {
        story.slurm.reaches(id, BaseState::Cancelled).await;
    }
    assert_eq!(story.pods("ran").await.len(), 1, "the pod that has finished is left for its logs");
    story.end().await;
}

/// The id of a forgotten placeholder is another user's job by now: it is neither believed nor ended, not
/// even by a bridge that has not heard of the crash and wants to give the placeholder back.
#[tokio::test]
async fn an_id_that_has_come_back_is_somebody_elses() {
    let Some(mut story) = Story::begin("forgot-id").await else { return };
    save(&mut story, "before").await;
    let stays_uid =
        story.kube.create(&manifest::pytorchjob("stays", 1, &manifest::template(8, &[]))).await;
    let leaves = manifest::indexed_job("leaves", 2, &manifest::template(8, &[]));
    story.kube.create(&leaves).await;
    let ids = [story.bound("stays-", 2).await[0].job(), story.bound("leaves-", 2).await[0].job()];
    story.bridge.freeze(true);
    crash(&story).await;
    let mut theirs = Vec::new();
    for _ in 0..6 {
        theirs
            .push(story.slurm.sbatch("bob", &["-A", "team2", "-p", "hybrid", "-n1", "--mem=100"]));
    }
    // A bridge that stands still for ten seconds gives up, so all of them are waited for at once.
    for id in &theirs {
        story.slurm.reaches(*id, BaseState::Running).await;
    }
    story.note(&format!("the gangs had jobs {ids:?}, bob has {theirs:?}"));
    assert!(ids.iter().all(|id| theirs.contains(id)), "no id has come back: nothing is told");
    story.kube.delete(&leaves).await;
    story.gone("leaves-").await;
    story.bridge.freeze(false);
    story.bridge.wait_ready().await;
    heals(&story, "stays-", &stays_uid, 2).await;
    stays("bob's jobs run", Duration::from_secs(3), async || {
        for id in &theirs {
            let job = story.slurm.job(*id).await;
            if (job.user.as_str(), &job.state.base) != ("bob", &BaseState::Running) {
                return Err(format!("{id} {} of {}", job.state, job.user));
            }
        }
        Ok(())
    })
    .await;
    story.end().await;
}

/// A gang's start is forgotten, its placeholder waits again, and its nodes are another job's: its pods
/// leave, with a reason that names the job.
#[tokio::test]
async fn pods_whose_nodes_are_given_away_while_their_placeholder_waits_again_leave() {
    given_away("forgot-given", &manifest::template(8, &[]), |_, _| {}).await;
}

/// The same where nobody has any device: the CPUs are somebody else's.
#[tokio::test]
async fn so_do_pods_without_devices() {
    let mut template = manifest::template(0, &[]);
    template["spec"]["containers"][0]["resources"]["limits"]["cpu"] = serde_json::json!("2");
    given_away("forgot-cpus", &template, |theirs, cpus| {
        theirs.components[0].gres_per_node.clear();
        theirs.components[0].cpus_per_task = cpus;
    })
    .await;
}

async fn given_away(
    name: &str,
    template: &serde_json::Value,
    differ: impl Fn(&mut PlaceholderRequest, u32),
) {
    let story = Story::prepare(name, |setup| setup.immediate = false).await;
    let Some(mut story) = story else { return };
    story.bridge.start().await;
    let room = story.room().await;
    let node = story.slurm.client.node("p5-0001").await.expect("Slurm answers").expect("a node");
    let mut request = bobs(room);
    differ(&mut request, node.cpus);
    let mut told = false;
    for round in 0..5 {
        // A job of bob's has every node, and the gang waits for it.
        let theirs = story.slurm.client.submit(&request, None).await;
        let theirs = theirs.expect("it is accepted").job_id;
        story.slurm.adopt(theirs);
        let theirs = story.slurm.reaches(theirs.0, BaseState::Running).await.id.0;
        let name = format!("gang{round}-");
        let job = manifest::indexed_job(name.trim_end_matches('-'), 2, template);
        let uid = story.kube.create(&job).await;
        story.told(&name, "Slurm job").await;
        daemon(&story, &["restart", "slurmctld"]);
        answers(&story).await;
        story.bridge.wait_ready().await;
        // It ends, the gang starts, and slurmctld forgets both.
        story.slurm.scancel("bob", theirs);
        let before = story.bound(&name, 2).await;
        story.bridge.freeze(true);
        crash(&story).await;
        let says = known(&story, before[0].job()).await;
        let bobs = known(&story, theirs).await;
        story.note(&format!("the gang's job is {says}; bob's is {bobs}"));
        story.bridge.freeze(false);
        story.bridge.wait_ready().await;
        if says.starts_with("PENDING") && bobs.starts_with("RUNNING") {
            told = true;
            wait("the pods have left", SOON, async || {
                let pods = story.pods(&name).await;
                let left = pods.iter().filter(|p| before.iter().any(|b| b.uid == p.uid)).count();
                if left == 0 { Ok(()) } else { Err(format!("{left} are there")) }
            })
            .await;
            let events = story.kube.events().await;
            let why = events.iter().find(|e| e.message.contains(&format!("job {theirs} of bob")));
            story.note(&why.unwrap_or_else(|| unreachable!("{events:?}")).message);
            story.told(&name, "Slurm job").await;
            assert_eq!(story.slurm.job(theirs).await.state.base, BaseState::Running);
            story.slurm.scancel("bob", theirs);
        }
        heals(&story, &name, &uid, 2).await;
        story.kube.delete(&job).await;
        story.gone(&name).await;
        story.nothing_lives(SOON).await;
        if told {
            break;
        }
    }
    assert!(told, "slurmctld never forgot the start alone");
    story.end().await;
}

/// Nobody is harmed where nothing was forgotten: the pods stay, the placeholders stay, nothing is asked.
#[tokio::test]
async fn a_crash_that_forgets_nothing_changes_nothing() {
    let Some(mut story) = Story::begin("forgot-nothing").await else { return };
    story.kube.create(&manifest::indexed_job("gang", 4, &manifest::template(8, &[]))).await;
    let before = story.bound("gang-", 4).await;
    save(&mut story, "before").await;
    crash(&story).await;
    story.bridge.wait_ready().await;
    let mut asked = story.bridge.metric("gangway_placeholders_total").await;
    stays("all is as before", Duration::from_secs(3), async || {
        let now = places(&story.pods("gang-").await);
        asked = story.bridge.metric("gangway_placeholders_total").await.max(asked);
        if now == places(&before) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    let live = story.slurm.live().await;
    assert!(live.iter().all(|(_, job)| job.standing() == Standing::Holding), "{live:?}");
    story.end().await;
}
