//! Random faults on every side while gangs come and go: when the faults are over everything converges,
//! and the history breaks no rule (docs/faults.md).
//!
//! `GANGWAY_NEMESIS_SECONDS` and `GANGWAY_NEMESIS_SEED` say how long and which; `cargo xtask bench
//! faults` sets them. With `GANGWAY_NEMESIS_FORGETS=0` slurmctld is restarted where it is killed otherwise.
//! The seed chooses what is done, not how long the machine takes for it.

mod evil;

use std::time::{Duration, Instant};

use gangway_core::follow::ALL_BOUND_WITHIN_MS;
use gangway_core::hostlist::Hostlist;
use gangway_core::job::Standing;
use gangway_core::names;
use gangway_tests::history::{Recorder, audit, grants};
use gangway_tests::{Chance, Faults, Mood, Proxy, SOON, Story, World, wait};
use serde_json::json;

use evil::Nemesis;

/// In CI: enough to see most of the faults.
const SECONDS: u64 = 40;
const SEED: u64 = 1;
/// The pace of the nemesis.
const STEP: Duration = Duration::from_millis(300);
/// How long one outage, or several that overlap, may keep a gang from being whole.
const OUTAGE_MS: i64 = 30_000;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// On threads: a proxy must go on while a daemon is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_break_no_rule() {
    let plain = |world: &World| world.kubelets().is_empty();
    let Some(world) = World::find_where(plain) else { return };
    let seconds = number("GANGWAY_NEMESIS_SECONDS", SECONDS);
    let seed = number("GANGWAY_NEMESIS_SEED", SEED);
    let slurm = Faults::before_slurm(world.slurm_url()).await;
    let kube = Faults::before_kubernetes(&world.bridge_kubeconfig()).await;
    let way = Proxy::before(&slurm.url(), Mood::Pass);
    let kubeconfig =
        std::env::temp_dir().join(format!("gangway-nemesis-{}.yaml", std::process::id()));
    kube.write_kubeconfig(&kubeconfig);
    let story = Story::prepare("nemesis", |setup| {
        setup.slurm_url = way.url();
        setup.kubeconfig = Some(kubeconfig.clone());
    });
    let Some(mut story) = story.await else { return };
    story.note(&format!("seed {seed}, {seconds} s"));
    let log = world.audit_log();
    let begin = std::fs::metadata(&log).expect("an audit log").len();
    let given = world.slurmctld_log();
    let given_from = std::fs::metadata(&given).expect("slurmctld's log").len();
    let recorder =
        Recorder::begin(story.kube.client.clone(), story.slurm.client_again(), &story.cluster)
            .await;
    let forgets = number("GANGWAY_NEMESIS_FORGETS", 1) == 1;
    if forgets {
        // One that is killed before it has ever saved its state does not start again.
        let restart = || world.run_as("root", "slurm-daemon", &["restart", "slurmctld"]);
        tokio::task::block_in_place(restart);
        story.slurm.answers().await;
    }
    story.bridge.start().await;

    let chance = (Chance::of(seed), forgets);
    let mut nemesis = Nemesis::new(&mut story, &recorder, chance, (&slurm, &kube, &way));
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        nemesis.step().await;
        // Its pace, not a wait for anything.
        tokio::time::sleep(STEP).await;
    }
    let began = Instant::now();
    nemesis.stop().await;
    let (tally, gangs) = nemesis.tally();
    wait(&format!("seed {seed}: all gangs are whole"), 2 * SOON, async || {
        nemesis.tend().await;
        nemesis.whole().await
    })
    .await;
    let converged = began.elapsed();
    let orphans = orphans(&story).await;
    story.kube.delete_all().await;
    story.gone("").await;
    story.nothing_lives(SOON).await;

    let mut history = recorder.history().await;
    history.grants = grants(&given, given_from);
    history.rolled_back = tally.contains_key("slurmctld killed");
    let now = history.stays.iter().filter_map(|stay| Some(stay.gone?.ms)).max().unwrap_or(0);
    let mut broken = history.broken_rules(ALL_BOUND_WITHIN_MS + OUTAGE_MS, now);
    let audit = audit(&log, begin, &story.cluster);
    broken.extend(audit.forbidden);
    broken.extend(orphans);
    let with_jobs = history.shared_with_jobs();
    let shared_with_jobs: i64 = with_jobs.iter().map(|(ms, _)| ms).sum();
    // What slurmctld forgets it may give to a job while the pods are still there: only a prolog on the
    // node can hold the job back.
    if !tally.contains_key("slurmctld killed") {
        broken.extend(with_jobs.into_iter().map(|(_, words)| words));
    }
    let bound = history.stays.len();
    let line = json!({
        "nemesis_s": seconds, "seed": seed, "gangs": gangs, "bindings": bound, "faults": tally,
        "faults_to_slurm": slurm.done(), "faults_to_kubernetes": kube.done(),
        "leaked": 0, "orphans": 0, "duplicates": history.ran_at_once(1_000).len(),
        "shared_devices": history.shared().len(), "shared_with_batch_jobs_ms": shared_with_jobs,
        "violations": broken.len(), "converged_s": converged.as_secs(),
    });
    story.note(&line.to_string());
    assert_eq!(broken, [""; 0], "seed {seed}");
    assert!(bound > 0 && gangs > 3, "seed {seed}: {gangs} gangs, {bound} bindings");
    drop(recorder);
    story.end().await;
    std::fs::remove_file(&kubeconfig).expect("the kubeconfig is ours");
}

/// Pods that are on a node without a running placeholder that has it.
async fn orphans(story: &Story) -> Vec<String> {
    let live = story.slurm.live().await;
    let orphan = |pod: &gangway_tests::Pod| {
        let job = live.iter().find(|(_, job)| Some(job.id.0) == pod.number(names::JOB_ID));
        let held = job.filter(|(_, job)| job.standing() == Standing::Holding);
        let nodes = held.and_then(|(_, job)| Hostlist::parse(&job.nodes).ok());
        !nodes.is_some_and(|nodes| nodes.iter().any(|node| Some(node) == pod.node))
    };
    let pods = story.pods("").await;
    let bound = pods.iter().filter(|pod| pod.node.is_some() && !pod.deleting);
    let alive = bound.filter(|pod| pod.phase == "Running" || pod.phase == "Pending");
    alive
        .filter(|pod| orphan(pod))
        .map(|pod| format!("orphan {} on {:?}", pod.name, pod.node))
        .collect()
}
