//! slurmctld itself goes and comes back, with or without its latest memory.

use std::time::Duration;

use gangway_core::hostlist::Hostlist;
use gangway_core::job::states::known_names;
use gangway_core::job::{BaseState, Component, GresRequest, JobId, PlaceholderRequest};
use gangway_core::names;
use gangway_tests::{Pod, SOON, Story, manifest, stays, wait};

/// Starts, stops or kills a daemon of Slurm.
pub(crate) fn daemon(story: &Story, words: &[&str]) {
    story.world.run_as("root", "slurm-daemon", words);
}

/// Waits until slurmctld answers.
pub(crate) async fn answers(story: &Story) {
    wait("slurmctld answers", SOON, async || {
        story.slurm.client.job_states().await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

/// What must not change about pods.
pub(crate) fn places(pods: &[Pod]) -> Vec<(String, String, Option<String>, bool)> {
    pods.iter().map(|p| (p.name.clone(), p.uid.clone(), p.node.clone(), p.deleting)).collect()
}

#[tokio::test]
async fn a_restart_changes_nothing_for_pods() {
    let Some(mut story) = Story::begin("ctld-restart").await else { return };
    let template = manifest::template(8, &[]);
    let room = story.room().await;
    let large = manifest::indexed_job("large", room, &template);
    story.kube.create(&large).await;
    let before = story.bound("large-", room as usize).await;
    let placeholder = story.seated(&before).await;
    story.kube.create(&manifest::indexed_job("small", 2, &template)).await;
    story.told("small-", "Slurm job").await;

    daemon(&story, &["stop", "slurmctld"]);
    stays("the pods stay where they are", Duration::from_secs(3), async || {
        let now = places(&story.pods("large-").await);
        if now == places(&before) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    daemon(&story, &["start", "slurmctld"]);
    answers(&story).await;
    story.bridge.wait_ready().await;
    assert_eq!(places(&before), places(&story.pods("large-").await));
    assert_eq!(story.seated(&before).await.id, placeholder.id);
    assert_eq!(story.slurm.live().await.len(), 2, "two gangs, two placeholders");

    story.kube.delete(&large).await;
    story.seated(&story.bound("small-", 2).await).await;
    story.end().await;
}

/// A story that begins with everything before it saved: slurmctld saves its state every five
/// seconds, and what it granted since is forgotten in a crash.
async fn begin_saved(name: &str) -> Option<Story> {
    let mut story = Story::prepare(name, |_| {}).await?;
    daemon(&story, &["restart", "slurmctld"]);
    answers(&story).await;
    story.bridge.start().await;
    // This one is saved, and then nothing is for five seconds.
    story.kube.create(&manifest::pod("earlier", &manifest::template(8, &[]))).await;
    story.bound("earlier", 1).await;
    Some(story)
}

/// Waits until every pod of the gang is bound inside a running allocation of its own (rule 1).
async fn heals(story: &Story, before: &[Pod]) {
    let pods = wait("every pod is where its own running job is", SOON, async || {
        let pods = story.pods("gang-").await;
        let live = story.slurm.live().await;
        let well = |pod: &Pod| {
            let job = live.iter().find(|(_, job)| Some(job.id.0) == pod.number(names::JOB_ID));
            let held = job.filter(|(_, job)| job.state.base == BaseState::Running);
            let nodes = held.and_then(|(_, job)| Hostlist::parse(&job.nodes).ok());
            nodes.is_some_and(|nodes| nodes.iter().any(|node| Some(node) == pod.node))
        };
        if pods.len() == before.len() && pods.iter().all(well) {
            return Ok(pods);
        }
        let live: Vec<_> =
            live.iter().map(|(_, job)| (job.id.0, job.state.to_string(), &job.nodes)).collect();
        let pods: Vec<_> =
            pods.iter().map(|pod| (pod.number(names::JOB_ID), &pod.node, pod.why())).collect();
        Err(format!("pods {pods:?}, Slurm has {live:?}"))
    })
    .await;
    story.seated(&pods).await;
    let kept = pods.iter().filter(|pod| before.iter().any(|old| old.uid == pod.uid)).count();
    story.note(&format!("{kept} of {} pods are still the same", pods.len()));
    assert_eq!(story.slurm.live().await.len(), 2, "two gangs, two placeholders");
}

#[tokio::test]
async fn a_crash_leaves_no_pod_outside_an_allocation() {
    let Some(mut story) = begin_saved("ctld-crash").await else { return };
    let earlier = story.pods("earlier").await;
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::indexed_job("gang", 4, &template)).await;
    let before = story.bound("gang-", 4).await;
    daemon(&story, &["kill", "slurmctld"]);
    daemon(&story, &["start", "slurmctld"]);
    answers(&story).await;
    story.bridge.wait_ready().await;
    heals(&story, &before).await;
    assert_eq!(places(&earlier), places(&story.pods("earlier").await));
    story.end().await;
}

/// A placeholder of bob's for so many whole nodes.
pub(crate) fn bobs(nodes: u32) -> PlaceholderRequest {
    let gres = |name: &str, count| GresRequest { name: name.to_owned(), kind: None, count };
    PlaceholderRequest {
        name: "somebody-else".to_owned(),
        user: "bob".to_owned(),
        group: "bob".to_owned(),
        account: Some("team2".to_owned()),
        partition: "gangway".to_owned(),
        qos: None,
        time_limit_minutes: None,
        components: vec![Component {
            key: "somebody else's".to_owned(),
            nodes,
            tasks_per_node: 1,
            cpus_per_task: 1,
            memory_per_node_mib: 100,
            gres_per_node: vec![gres("gpu", 8)],
            excluded_nodes: String::new(),
        }],
        options: gangway_core::job::Options::default(),
    }
}

/// The forgotten nodes go to somebody else, and the forgotten job's id comes again.
#[tokio::test]
async fn nodes_given_away_after_a_crash_are_left() {
    let Some(mut story) = begin_saved("ctld-given").await else { return };
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::pytorchjob("gang", 3, &template)).await;
    let before = story.bound("gang-", 4).await;
    story.bridge.freeze(true);
    daemon(&story, &["kill", "slurmctld"]);
    daemon(&story, &["start", "slurmctld"]);
    answers(&story).await;
    let theirs = JobId(0x01ff_0000 + std::process::id() % 4096);
    let given = story.slurm.client.submit(&bobs(4), Some(theirs)).await;
    assert!(given.is_ok(), "{given:?}");
    story.slurm.adopt(theirs);
    let theirs = story.slurm.reaches(theirs.0, BaseState::Running).await;
    let old: Vec<_> = before.iter().filter_map(|pod| pod.node.as_deref()).collect();
    story.note(&format!("the gang's {old:?} went to {} of {}", theirs.nodes, theirs.user));
    story.bridge.freeze(false);
    story.bridge.wait_ready().await;
    heals(&story, &before).await;
    story.end().await;
}

const STATES: &str = "
import json, sys, urllib.request
url, token, schema = sys.argv[1:]
ask = urllib.request.Request(url + '/openapi/v3')
ask.add_header('X-SLURM-USER-NAME', 'slurm')
ask.add_header('X-SLURM-USER-TOKEN', token)
schemas = json.load(urllib.request.urlopen(ask, timeout=30))['components']['schemas']
print(*schemas[schema]['properties']['job_state']['items']['enum'])
";

/// docs/reference/states.md says what becomes of the pods in each of them.
#[tokio::test]
async fn every_state_that_slurmrestd_can_tell_has_its_row() {
    let Some(story) = Story::prepare("states", |_| {}).await else { return };
    let version = story.slurm.client.version().await.expect("slurmrestd answers");
    let token = std::fs::read_to_string(story.world.token_file()).expect("the token can be read");
    let schema = format!("{}_job_info", version.as_str());
    let words = ["-c", STATES, story.world.slurm_url(), token.trim(), &schema];
    let told = story.world.command("root-python3").args(words).output().expect("python runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told = String::from_utf8(told.stdout).expect("text");
    let without: Vec<&str> =
        told.split_whitespace().filter(|name| !known_names().any(|own| own == *name)).collect();
    assert!(told.contains("PENDING") && told.contains("EXPEDITING"), "{told}");
    assert_eq!(without, [""; 0], "states without a row");
    story.end().await;
}
