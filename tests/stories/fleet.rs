//! Many nodes: how long it takes until both sides have them, what it costs, and that nothing is left over when they
//! come and go at random.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use gangway_core::hostlist::Hostlist;
use gangway_core::job::BaseState;
use gangway_tests::{Chance, POOL, Pool, Story, audited, manifest, stays, wait, wait_calmly};
use serde_json::json;

/// How many nodes; more with `cargo xtask bench nodes`.
fn sizes() -> Vec<usize> {
    let asked = std::env::var("GANGWAY_FLEET").unwrap_or_else(|_| "48".to_owned());
    asked.split(',').map(|size| size.parse().expect("GANGWAY_FLEET is a list of numbers")).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Between two looks at all nodes. A list of thousands takes Slurm longer than what is waited for.
fn pause(size: usize) -> Duration {
    Duration::from_millis(25 + size as u64 / 5)
}

/// Waits until as many of the story's nodes are in Slurm as should be, of `size` that come or go by a request each,
/// and tells after how long. Nobody asks Slurm before so many requests have been made.
async fn reached(pool: &Pool, what: &str, (count, size): (usize, usize), calm: u64) -> u128 {
    let since = Instant::now();
    wait(what, Duration::from_secs(300), async || {
        let made = pool.requests().await.saturating_sub(calm);
        if made >= size as u64 { Ok(()) } else { Err(format!("{made} requests for {size}")) }
    })
    .await;
    wait_calmly(pause(size), what, Duration::from_secs(120), async || {
        let there = pool.own().await.len();
        if there == count { Ok(()) } else { Err(format!("{there} of {count}")) }
    })
    .await;
    since.elapsed().as_millis()
}

/// Writes of the controllers to the API server so far.
fn writes(story: &Story) -> usize {
    audited(story.world, "gangway-controllers", |asked| {
        asked.writes() && asked.what == "nodes/status" && asked.name.starts_with("fleet-")
    })
    .len()
}

async fn each(names: &[String], work: impl AsyncFn(String)) {
    stream::iter(names.to_vec()).for_each_concurrent(8, |name| work(name)).await;
}

#[tokio::test]
async fn many_nodes_join_change_and_leave() {
    for size in sizes() {
        let Some(story) = Story::begin(&format!("fleet-{size}")).await else { return };
        let mut pool = Pool::of(&story, "lookSeconds: 30");
        let names: Vec<String> = (0..size).map(|n| format!("fleet-{n:04}")).collect();
        each(&names, async |name| pool.add(&name).await).await;
        let before = writes(&story);
        let began = Instant::now();
        pool.controllers.start().await;
        let started = began.elapsed().as_millis();
        let joined = started + reached(&pool, "all are registered", (size, size), 0).await;
        let requests = pool.requests().await;
        told_all(&story, before, size).await;
        // Each a request of its own, for they have devices; beside them only looks.
        assert!(requests >= size as u64 && requests <= size as u64 + 30, "{requests} requests");

        // Nothing changes: nothing is written, and Slurm is looked at twice a minute.
        let (quiet, calm) = (number("GANGWAY_FLEET_QUIET", 6), pool.requests().await);
        stays("the controllers have nothing to do", Duration::from_secs(quiet), async || {
            let more = pool.requests().await - calm;
            if more <= 2 && writes(&story) == before + size {
                Ok(())
            } else {
                Err(format!("{more}"))
            }
        })
        .await;
        let idle = pool.requests().await - calm;

        let (began, calm) = (Instant::now(), pool.requests().await);
        let zone = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "us-east-1b"}}});
        each(&names, async |name| story.kube.patch_node(&name, &zone).await).await;
        wait_calmly(pause(size), "all have their zone", Duration::from_secs(120), async || {
            let nodes = story.slurm.client.nodes().await.map_err(|error| error.to_string())?;
            let zoned = nodes.iter().filter(|node| node.features.iter().any(|f| f == "us-east-1b"));
            let zoned = zoned.count();
            if zoned == size { Ok(()) } else { Err(format!("{zoned} of {size}")) }
        })
        .await;
        let (changed, change_requests) =
            (began.elapsed().as_millis(), pool.requests().await - calm);

        let (began, calm) = (Instant::now(), pool.requests().await);
        each(&names, async |name| pool.nodes.restore(&[name]).await).await;
        let deleted = began.elapsed().as_millis();
        let left = deleted + reached(&pool, "all have left", (0, size), calm).await;
        let leave_requests = pool.requests().await - calm;
        let written = writes(&story) - before;
        // One write when it joins; a change that Kubernetes itself brought needs none.
        assert!(written <= size + size / 10, "{written} writes for {size} nodes");
        story.note(&format!(
            "{{\"nodes\":{size},\"register_ms\":{joined},\"register_requests\":{requests},\
             \"change_ms\":{changed},\"change_requests\":{change_requests},\"remove_ms\":{left},\
             \"remove_requests\":{leave_requests},\"writes_per_node\":{:.2},\
             \"idle_seconds\":{quiet},\"idle_requests\":{idle},\"idle_writes\":0}}",
            written as f64 / size as f64
        ));
        let status = pool.end().await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        story.end().await;
    }
}

/// Waits until every node has been told where it stands, once.
async fn told_all(story: &Story, before: usize, size: usize) {
    wait_calmly(pause(size), "each node is told once", Duration::from_secs(120), async || {
        let told = writes(story) - before;
        if told == size { Ok(()) } else { Err(format!("{told} writes")) }
    })
    .await;
}

/// Twenty nodes join and leave at random while gangs run on them.
#[tokio::test]
async fn nodes_come_and_go_under_gangs() {
    let Some(story) = Story::begin("churn").await else { return };
    let mut pool = Pool::of(&story, "");
    pool.controllers.start().await;
    let seed = number("GANGWAY_CHURN_SEED", 7);
    let until = Instant::now() + Duration::from_secs(number("GANGWAY_CHURN_SECONDS", 12));
    let mut chance = Chance::of(seed);
    let names: Vec<String> = (1..=20).map(|n| format!("churn-{n:02}")).collect();
    let mut there: BTreeSet<String> = BTreeSet::new();
    let (mut gangs, mut joins, mut leaves) = (0_u32, 0_u32, 0_u32);
    while Instant::now() < until {
        let name = &names[chance.below(20)];
        if there.remove(name) {
            pool.nodes.restore(std::slice::from_ref(name)).await;
            leaves += 1;
        } else {
            pool.add(name).await;
            there.insert(name.clone());
            joins += 1;
        }
        if chance.below(3) == 0 && gangs < 40 {
            let template = manifest::template(4, &[("gangway.dev/partition", "mixed")]);
            let members = [1, 2, 3][chance.below(3)];
            story
                .kube
                .create(&manifest::indexed_job(&format!("g{gangs}"), members, &template))
                .await;
            gangs += 1;
        }
        // The rhythm of the story, not a wait for anything.
        tokio::time::sleep(Duration::from_millis(100 + chance.below(300) as u64)).await;
    }
    equal(&story, &pool, &there).await;
    nothing_on_missing(&story, &there).await;
    story.note(&format!("{gangs} gangs, {joins} joins, {leaves} departures, seed {seed}"));
    story.kube.delete_all().await;
    // Pods of nodes that are gone have nobody who ends them.
    story.kube.collect_pods("").await;
    let all: Vec<String> = there.into_iter().collect();
    pool.nodes.restore(&all).await;
    equal(&story, &pool, &BTreeSet::new()).await;
    let status = pool.end().await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    story.end().await;
}

/// Waits until Slurm has exactly the nodes that Kubernetes has, all of them given out.
async fn equal(story: &Story, pool: &Pool, there: &BTreeSet<String>) {
    wait("both inventories are equal", Duration::from_secs(30), async || {
        let own = pool.own().await;
        if own != *there {
            return Err(format!("{own:?} instead of {there:?}"));
        }
        let sinfo =
            story.world.run_as("root", "sinfo", &["-h", "-N", "-o", "%N %T", "-p", "mixed"]);
        let shut = |line: &&str| line.contains("drain") || line.contains("down");
        let bad: Vec<&str> = sinfo.lines().filter(shut).collect();
        if bad.is_empty() { Ok(()) } else { Err(bad.join(", ")) }
    })
    .await;
    let with = story.kube.nodes_with(POOL).await;
    assert_eq!(with, *there, "kubectl get nodes -l {POOL}");
}

/// Waits until no job that runs has a node that is gone.
async fn nothing_on_missing(story: &Story, there: &BTreeSet<String>) {
    wait("no job is on a missing node", Duration::from_secs(30), async || {
        let live = story.slurm.live().await;
        let running = live.iter().filter(|(_, job)| job.state.base == BaseState::Running);
        for (_, job) in running {
            let hosts = Hostlist::parse(&job.nodes).map_err(|error| error.to_string())?.names();
            if let Some(missing) = hosts.iter().find(|host| !there.contains(*host)) {
                return Err(format!("job {} is on {missing}", job.id));
            }
        }
        Ok(())
    })
    .await;
}
