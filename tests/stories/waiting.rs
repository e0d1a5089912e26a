//! Why a gang waits, asked from a terminal where Slurm's queue does not say it: the gang is refused, is not whole, or
//! Slurm does not answer; and what would help one whose roles need nodes of several kinds.

use std::time::Duration;

use gangway_tests::{Bridge, Mood, Proxy, SOON, Story, World, audited, manifest, stays, wait};
use serde_json::Value;

use crate::terminal::types;

/// What `gangway explain` says of a gang of the story, once it has these words.
async fn explained(story: &Story, name: &str, words: &str) -> Value {
    let gangway = Bridge::binary();
    let asked = ["explain", name, "-n", &story.kube.namespace, "-o", "json"];
    wait(&format!("{name} is explained by {words:?}"), SOON, async || {
        let said = types(story, &gangway, None, &asked).await;
        let why: Value = serde_json::from_str(&said.out).unwrap_or_default();
        let tells = why["why"].as_str().is_some_and(|why| why.contains(words));
        if tells { Ok(why) } else { Err(format!("{:?} {why} {}", said.code, said.complaint)) }
    })
    .await
}

#[tokio::test]
async fn a_gang_without_a_job_is_found_from_a_terminal() {
    let Some(world) = World::find() else { return };
    let proxy = Proxy::before(world.slurm_url(), Mood::Pass);
    let story = Story::prepare("outside", |setup| setup.slurm_url = proxy.url()).await;
    let Some(mut story) = story else { return };
    story.bridge.start().await;
    let gangway = Bridge::binary();
    let types = async |words: &[&str]| types(&story, &gangway, None, words).await;

    // Refused: there is no such partition.
    let nowhere = manifest::template(8, &[("gangway.dev/partition", "nowhere")]);
    story.kube.create(&manifest::indexed_job("astray", 2, &nowhere)).await;
    let why = explained(&story, "astray", "partition nowhere").await;
    assert_eq!((&why["row"]["job"], &why["row"]["state"]), (&0.into(), &"REFUSED".into()), "{why}");
    let pod = story.pods("astray-").await[0].name.clone();
    explained(&story, &pod, "partition nowhere").await;

    // Not whole: two of three.
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::pod_group("trio", 3)).await;
    for name in ["trio-a", "trio-b"] {
        story.kube.create(&manifest::pod_of_group(name, "trio", &template)).await;
    }
    explained(&story, "trio", "2 of 3").await;
    let table = types(&["queue", "--waiting", "-n", &story.kube.namespace]).await;
    let line = |name: &str| {
        let lines = table.out.lines();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let found = lines.map(words).find(|words| words.iter().any(|word| word.ends_with(name)));
        found.unwrap_or_else(|| unreachable!("no {name} in {}", table.out))
    };
    assert!(line("/astray").contains(&"REFUSED".to_owned()), "{}", table.out);
    assert!(line("/trio").contains(&"ASSEMBLING".to_owned()), "{}", table.out);
    let text = types(&["explain", "astray", "-n", &story.kube.namespace]).await;
    assert!(text.out.contains("/astray (no job in Slurm)"), "{}", text.out);
    story.note(&format!("\n{}{}", table.out, text.out));

    // Slurm does not answer: why a gang waits is said all the same, what stands in the queue is not.
    proxy.turn(Mood::Refuse);
    story.kube.create(&manifest::indexed_job("late", 2, &template)).await;
    story.told("late-", "SlurmUnreachable").await;
    let why = explained(&story, "late", "").await;
    assert_eq!(why["row"]["reason"], "SlurmUnreachable", "{why}");
    proxy.turn(Mood::Pass);

    // Once it has a job, that tells.
    story.bound("late-", 2).await;
    let why = explained(&story, "late", "it does not wait: it runs on").await;
    assert!(why["row"]["job"].as_u64().is_some_and(|job| job > 0), "{why}");
    story.kube.create(&manifest::pod_of_group("trio-c", "trio", &template)).await;
    story.bound("trio-", 3).await;
    explained(&story, "trio", "it does not wait: it runs on").await;
    story.end().await;
}

#[tokio::test]
async fn roles_that_wait_are_told_of_each_kind_of_node() {
    let Some(story) = Story::begin("roles-waiting").await else { return };
    let room = story.room().await;
    let template = manifest::template(8, &[]);
    story.kube.create(&manifest::indexed_job("full", room, &template)).await;
    story.bound("full-", room as usize).await;
    let train = manifest::pytorchjob_of_roles("train", &manifest::template(0, &[]), 2, &template);
    story.kube.create(&train).await;
    let pods = story.told("train-", "; and 2 nodes with 8 x gpu").await;
    story.note(&pods[0].why());
    assert!(pods.iter().all(|pod| pod.why().contains("such nodes none is free")), "{pods:?}");
    let why = explained(&story, "train", "").await;
    let help = why["help"][0].as_str().unwrap_or_default();
    assert!(
        help.starts_with("needs 1 node") && help.contains("; and 2 nodes with 8 x gpu"),
        "{why}"
    );
    story.end().await;
}

/// Slurm gives priorities by fairshare and partition until this is dropped.
struct Weights<'a>(&'a World);

impl<'a> Weights<'a> {
    fn set(world: &'a World) -> Self {
        let edit = "$ a PriorityWeightFairshare=2000\\nPriorityWeightPartition=300";
        configure(world, edit);
        Self(world)
    }
}

impl Drop for Weights<'_> {
    fn drop(&mut self) {
        configure(self.0, "/^PriorityWeight/d");
    }
}

fn configure(world: &World, edit: &str) {
    world.run_as("root", "in-slurm", &["sed", "-i", edit, "/etc/slurm/slurm.conf"]);
    world.run_as("root", "scontrol", &["reconfigure"]);
}

/// The same parts as sprio's, though slurmrestd has no sprio.
#[tokio::test]
async fn what_a_priority_is_made_of_is_told_as_sprio_tells_it() {
    let Some(world) = World::find() else { return };
    let plain = Story::begin("no-priority").await.expect("there is a world");
    let room = plain.room().await;
    let template = manifest::template(8, &[]);
    let fill = async |story: &Story| {
        story.kube.create(&manifest::indexed_job("full", room, &template)).await;
        story.bound("full-", room as usize).await;
        story.kube.create(&manifest::indexed_job("train", 2, &template)).await;
        let pods = story.told("train-", "in the queue of gangway").await;
        story.note(&pods[0].why());
    };
    fill(&plain).await;
    let why = explained(&plain, "train", "").await;
    let said = why["priority"].as_str().unwrap_or_default();
    assert!(said.contains("weights are 0"), "{why}");
    plain.end().await;

    let _weights = Weights::set(world);
    let story = Story::begin("priority").await.expect("there is a world");
    fill(&story).await;
    let why = wait("the parts are those of sprio", SOON, async || {
        let why = explained(&story, "train", "").await;
        let job = why["row"]["job"].to_string();
        let parts = story.world.run_as("root", "sprio", &["-h", "-j", &job, "-o", "%F %P"]);
        let parts: Vec<u32> = parts.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let told = match parts[..] {
            [fairshare, partition] if fairshare > 0 => {
                format!("{fairshare} for fairshare, {partition} for its partition")
            }
            _ => return Err(format!("sprio says {parts:?}")),
        };
        if why["priority"] == told.as_str() { Ok(told) } else { Err(format!("{told:?} {why}")) }
    })
    .await;
    wait("its Gang has them", SOON, async || {
        let namespace = format!("--namespace={}", story.kube.namespace);
        let path = "-o=jsonpath={.items[*].status.priorityFactors}";
        let factors = story.kubectl(&["get", "gangs", &namespace, path]);
        if factors.trim() == why { Ok(()) } else { Err(factors) }
    })
    .await;
    story.note(&why);
    story.end().await;
}

/// What its pods tell already a new bridge does not write again.
#[tokio::test]
async fn a_bridge_that_starts_anew_tells_pods_nothing_that_they_tell_already() {
    let Some(mut story) = Story::begin("told-already").await else { return };
    let room = story.room().await;
    // Without a limit Slurm would expect another start with every look.
    let template = manifest::template(8, &[("gangway.dev/time-limit", "60")]);
    story.kube.create(&manifest::indexed_job("full", room, &template)).await;
    story.bound("full-", room as usize).await;
    story.kube.create(&manifest::indexed_job("train", 6, &template)).await;
    let first = async |story: &Story, words: &[&str]| {
        let pods = story.pods("train-0-").await;
        let said = pods.first().map(gangway_tests::Pod::why).unwrap_or_default();
        if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said) }
    };
    // Those between the first and the last ones are told in other words after half a minute only.
    let own = ["train-0-", "train-4-", "train-5-"];
    let writes = |story: &Story| {
        let told = audited(story.world, &story.kube.namespace, |asked| {
            let own = own.iter().any(|name| asked.name.starts_with(name));
            asked.writes() && asked.what == "pods/status" && own
        });
        told.len()
    };
    wait("they tell all there is", SOON, async || {
        first(&story, &["such nodes", "in the queue", "Slurm expects it to start"]).await?;
        match writes(&story) {
            all @ 3.. => Ok(all),
            some => Err(format!("{some} writes")),
        }
    })
    .await;
    let before = writes(&story);
    story.bridge.kill();
    story.bridge.start().await;
    stays("no pod is written", Duration::from_secs(7), async || {
        let now = writes(&story);
        if now == before { Ok(()) } else { Err(format!("{} more", now - before)) }
    })
    .await;
    // And it is there: what is news is told.
    let live = story.slurm.live().await;
    let waits = live.iter().find(|(_, job)| job.name.ends_with("/train")).expect("it waits");
    story.world.run_as("root", "scontrol", &["hold", &waits.1.id.to_string()]);
    wait("news is told", SOON, async || first(&story, &["JobHeldAdmin"]).await).await;
    story.end().await;
}
