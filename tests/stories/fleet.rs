//! Many nodes: how long it takes until both sides have them, what it costs, and that nothing is left over when they
//! come and go at random.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use gangway_core::hostlist::Hostlist;
use gangway_core::job::BaseState;
use gangway_tests::{Chance, POOL, Pool, Story, audited, manifest, stays, wait, wait_calmly};
use serde_json::json;

/// So many nodes that join, change and leave.
struct Fleet {
    size: usize,
    /// Their devices stand in slurmctld's gres.conf, so one request registers all of them.
    listed: bool,
}

impl Fleet {
    /// More with `cargo xtask bench nodes`: `256,1000,5000 listed`.
    fn asked() -> Vec<Self> {
        let asked = std::env::var("GANGWAY_FLEET").unwrap_or_else(|_| "24,24 listed".to_owned());
        let read = |one: &str| {
            let (size, listed) = one.split_once(' ').map_or((one, false), |(n, _)| (n, true));
            Self { size: size.parse().expect("GANGWAY_FLEET is a list of numbers"), listed }
        };
        asked.split(',').map(read).collect()
    }

    fn kind(&self) -> &'static str {
        if self.listed { "listed" } else { "fleet" }
    }

    /// gres.conf of the world has those that begin with `listed-`.
    fn names(&self) -> Vec<String> {
        (0..self.size).map(|n| format!("{}-{n:04}", self.kind())).collect()
    }

    /// Between two looks at all nodes. A list of thousands takes Slurm longer than what is waited for.
    fn pause(&self) -> Duration {
        Duration::from_millis(25 + self.size as u64 / 5)
    }

    /// Writes of the controllers to the API server so far.
    fn writes(&self, story: &Story) -> usize {
        audited(story.world, "gangway-controllers", |asked| {
            let own = asked.name.starts_with(&format!("{}-", self.kind()));
            asked.writes() && asked.what == "nodes/status" && own
        })
        .len()
    }

    /// Waits until so many of the nodes are in Slurm.
    async fn reached(&self, pool: &Pool, what: &str, count: usize) {
        wait_calmly(self.pause(), what, Duration::from_secs(120), async || {
            let there = pool.own().await.len();
            if there == count { Ok(()) } else { Err(format!("{there} of {count}")) }
        })
        .await;
    }

    /// The fewest requests that register all of them.
    fn requests(&self) -> u64 {
        if self.listed { 1 } else { self.size as u64 }
    }

    /// Waits until all are registered; nobody asks Slurm for them before enough has been asked of it.
    async fn joined(&self, pool: &Pool) -> u64 {
        let least = self.requests();
        wait("they are asked for", Duration::from_secs(300), async || {
            let made = pool.requests().await;
            if made >= least { Ok(()) } else { Err(format!("{made} requests")) }
        })
        .await;
        self.reached(pool, "all are registered", self.size).await;
        pool.requests().await
    }

    /// Waits until every node has been told where it stands, once.
    async fn told(&self, story: &Story, before: usize) {
        let within = Duration::from_secs(120);
        wait_calmly(self.pause(), "each node is told once", within, async || {
            let told = self.writes(story) - before;
            if told == self.size { Ok(()) } else { Err(format!("{told} writes")) }
        })
        .await;
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

async fn each(names: &[String], work: impl AsyncFn(String)) {
    stream::iter(names.to_vec()).for_each_concurrent(8, |name| work(name)).await;
}

#[tokio::test]
async fn many_nodes_join_change_and_leave() {
    for fleet in Fleet::asked() {
        let (size, kind) = (fleet.size, fleet.kind());
        let Some(story) = Story::begin(&format!("{kind}-{size}")).await else { return };
        let listed = format!(
            "name: listed, labels: {{ {POOL}: listed }}, features: [mixed], partitions: [mixed], gresConf: true"
        );
        let mut pool = Pool::with(&story, &listed, "lookSeconds: 30");
        let names = fleet.names();
        let which = if fleet.listed { "listed" } else { "mixed" };
        each(&names, async |name| pool.add_to(which, &name).await).await;
        let before = fleet.writes(&story);
        let began = Instant::now();
        pool.controllers.start().await;
        let requests = fleet.joined(&pool).await;
        let joined = began.elapsed().as_millis();
        fleet.told(&story, before).await;
        // Beside them only looks.
        let least = fleet.requests();
        assert!(requests >= least && requests <= least + 30, "{requests} requests");
        devices_are_known(&story).await;

        // Nothing changes: nothing is written, and Slurm is looked at twice a minute.
        let (quiet, calm) = (number("GANGWAY_FLEET_QUIET", 3), pool.requests().await);
        stays("the controllers have nothing to do", Duration::from_secs(quiet), async || {
            let more = pool.requests().await - calm;
            if more <= 2 && fleet.writes(&story) == before + size {
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
        wait_calmly(fleet.pause(), "all have their zone", Duration::from_secs(120), async || {
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
        fleet.reached(&pool, "all have left", 0).await;
        let left = began.elapsed().as_millis();
        let leave_requests = pool.requests().await - calm;
        let written = fleet.writes(&story) - before;
        // One write when it joins; a change that Kubernetes itself brought needs none.
        assert!(written <= size + size / 10, "{written} writes for {size} nodes");
        story.note(&format!(
            "{{\"nodes\":{size},\"listed\":{},\"register_ms\":{joined},\"register_requests\":{requests},\
             \"change_ms\":{changed},\"change_requests\":{change_requests},\"remove_ms\":{left},\
             \"remove_requests\":{leave_requests},\"writes_per_node\":{:.2},\
             \"idle_seconds\":{quiet},\"idle_requests\":{idle},\"idle_writes\":0}}",
            fleet.listed,
            written as f64 / size as f64
        ));
        let status = pool.end().await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        story.end().await;
    }
}

/// Slurm gives out devices by their indexes, whoever has told it of them.
async fn devices_are_known(story: &Story) {
    let template = manifest::template(3, &[("gangway.dev/partition", "mixed")]);
    story.kube.create(&manifest::indexed_job("one", 1, &template)).await;
    let pods = story.bound("one", 1).await;
    assert_eq!(pods[0].annotations["gangway.dev/index.gpu"], "0-2");
    story.kube.delete_all().await;
    story.nothing_lives(Duration::from_secs(30)).await;
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
