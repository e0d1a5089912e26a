//! What the nemesis does: users who come and go, and faults on every side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gangway_core::job::BaseState;
use gangway_slurm::NodeUpdate;
use gangway_tests::history::Recorder;
use gangway_tests::{Chance, Fault, Faults, Mood, Proxy, SOON, Story, manifest, wait};
use serde_json::Value;

/// Whole nodes that all gangs together may ask for: fewer than there are, so that all can run.
const ROOM: u32 = 12;
/// So many times of a hundred a question goes wrong in a storm.
const STORM: usize = 40;

/// A gang that lives.
struct Live {
    name: String,
    /// Its PodGroup, unless it is a lone pod.
    group: Option<Value>,
    /// Its pods: whichever is missing is made again, as a controller would.
    pods: Vec<Value>,
    nodes: u32,
    uid: String,
    /// Its pods share their node with batch jobs.
    hybrid: bool,
    until: Instant,
}

/// The nemesis.
pub(super) struct Nemesis<'a> {
    story: &'a mut Story,
    recorder: &'a Recorder,
    chance: Chance,
    /// Whether slurmctld is killed, and forgets, or only restarted.
    forgets: bool,
    slurm: &'a Faults,
    kube: &'a Faults,
    way: &'a Proxy,
    gangs: Vec<Live>,
    made: usize,
    /// When what was broken is mended.
    mend: Vec<(Instant, Mend)>,
    tally: BTreeMap<&'static str, usize>,
}

/// Something that is mended later.
enum Mend {
    Slurm,
    Kube,
    Way,
    Bridge,
    Frozen,
    Node(String),
    Batch(u32),
}

impl<'a> Nemesis<'a> {
    pub(super) fn new(
        story: &'a mut Story,
        recorder: &'a Recorder,
        (chance, forgets): (Chance, bool),
        (slurm, kube, way): (&'a Faults, &'a Faults, &'a Proxy),
    ) -> Self {
        let (gangs, mend, tally) = (Vec::new(), Vec::new(), BTreeMap::new());
        let made = 0;
        Self { story, recorder, chance, forgets, slurm, kube, way, gangs, made, mend, tally }
    }

    /// One step: users first, then perhaps a fault.
    pub(super) async fn step(&mut self) {
        self.mend(Instant::now()).await;
        let waits = self.mend.iter().any(|(_, mend)| matches!(mend, Mend::Bridge));
        if !waits && !self.story.bridge.alive() {
            // It may end when it cannot go on; Kubernetes would start it again.
            *self.tally.entry("bridge ended by itself").or_default() += 1;
            self.story.bridge.kill();
            self.story.bridge.spawn();
        }
        self.leave().await;
        self.tend().await;
        let taken: u32 = self.gangs.iter().map(|gang| gang.nodes).sum();
        if taken < ROOM && self.chance.percent(40) {
            self.come(ROOM - taken).await;
        }
        if self.chance.percent(35) {
            self.harm().await;
        }
    }

    /// How often each was done, and how many gangs there were.
    pub(super) fn tally(&self) -> (BTreeMap<&'static str, usize>, usize) {
        (self.tally.clone(), self.made)
    }

    /// Makes the pods that are missing.
    pub(super) async fn tend(&mut self) {
        let there = self.story.kube.pods().await;
        for gang in &mut self.gangs {
            for pod in &gang.pods {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                if there.iter().any(|there| there.name == name) {
                    continue;
                }
                let uid = self.story.kube.create(pod).await;
                if gang.group.is_none() {
                    self.recorder.expect(&uid, 1);
                    gang.uid = uid;
                }
            }
        }
    }

    /// Whether every gang is whole in its own running placeholder, and there is no other.
    pub(super) async fn whole(&self) -> Result<(), String> {
        let live = self.story.slurm.live().await;
        for gang in &self.gangs {
            let pods = self.story.pods(&gang.name).await;
            let bound = pods.iter().filter(|pod| pod.node.is_some() && !pod.deleting).count();
            if bound != gang.pods.len() {
                let why = pods.iter().map(|pod| pod.why()).find(|why| !why.is_empty());
                return Err(format!("{}: {bound} of {}; {why:?}", gang.name, gang.pods.len()));
            }
        }
        let run = live.iter().all(|(_, job)| job.state.base == BaseState::Running);
        // By name: one too many and one too few are not as many as there should be.
        let mut have: Vec<&str> = live.iter().map(|(stamp, _)| stamp.gang.as_str()).collect();
        let mut want: Vec<&str> = self.gangs.iter().map(|gang| gang.uid.as_str()).collect();
        have.sort_unstable();
        want.sort_unstable();
        if run && have == want {
            return Ok(());
        }
        let live: Vec<_> =
            live.iter().map(|(s, j)| format!("{} {} of {}", j.id, j.state, s.gang)).collect();
        Err(format!("{} gangs, {live:?}", self.gangs.len()))
    }

    /// Everything that is broken is mended.
    pub(super) async fn stop(&mut self) {
        let far = Instant::now() + Duration::from_secs(3600);
        self.mend(far).await;
        self.slurm.rest();
        self.kube.rest();
        if !self.story.bridge.alive() {
            self.story.bridge.kill();
            self.story.bridge.spawn();
        }
        self.story.slurm.answers().await;
        self.undrain().await;
    }

    async fn undrain(&self) {
        wait("no node is drained", SOON, async || {
            let nodes = self.story.slurm.client.nodes().await.map_err(|error| error.to_string())?;
            let drained: Vec<_> = nodes.iter().filter(|node| node.is("DRAIN")).collect();
            for node in &drained {
                self.node(&node.name, "RESUME").await;
            }
            if drained.is_empty() { Ok(()) } else { Err(format!("{} are", drained.len())) }
        })
        .await;
    }

    fn later(&mut self, from_ms: usize, to_ms: usize, mend: Mend) {
        let ms = from_ms + self.chance.below(to_ms - from_ms);
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        self.mend.push((Instant::now() + Duration::from_millis(ms), mend));
    }

    /// A gang of some kind and size.
    async fn come(&mut self, room: u32) {
        self.made += 1;
        let name = format!("g{}", self.made);
        let hybrid = self.chance.percent(15);
        let mut annotations = Vec::new();
        if hybrid {
            annotations.push(("gangway.dev/partition", "hybrid"));
        }
        let many = *self.chance.of_these(&[1, 2, 3, 4, 6, 16]);
        // Members, GPUs of each, whole nodes of all.
        let (size, gpus, nodes) = match many {
            _ if hybrid => (1, 2, 0),
            16 if room >= 4 => (16, 2, 4),
            size if size <= room && size < 16 => (size, 8, size),
            _ => (1, 8, 1),
        };
        if size == 16 {
            annotations.push(("gangway.dev/pods-per-node", "4"));
        }
        let template = manifest::template(gpus, &annotations);
        let lone = size == 1 && self.chance.percent(50);
        let group = (!lone).then(|| manifest::pod_group(&name, size));
        let pod = |rank| match &group {
            Some(_) => manifest::pod_of_group(&format!("{name}-{rank}"), &name, &template),
            None => manifest::pod(&format!("{name}-{rank}"), &template),
        };
        let pods: Vec<Value> = (0..size).map(pod).collect();
        let mut uid = String::new();
        if let Some(group) = &group {
            uid = self.story.kube.create(group).await;
            self.recorder.expect(&uid, pods.len());
        }
        let until = Instant::now() + Duration::from_secs(4 + self.chance.below(25) as u64);
        let name = format!("{name}-");
        self.gangs.push(Live { name, group, pods, nodes, uid, hybrid, until });
        self.tend().await;
    }

    /// Gangs whose users have had enough.
    async fn leave(&mut self) {
        let (gone, stay): (Vec<Live>, _) = std::mem::take(&mut self.gangs)
            .into_iter()
            .partition(|gang| gang.until < Instant::now());
        self.gangs = stay;
        for gang in gone {
            self.story.kube.delete_pods(&gang.name).await;
            if let Some(group) = &gang.group {
                self.story.kube.delete(group).await;
            }
        }
    }

    async fn harm(&mut self) {
        let mut what = *self.chance.of_these(&[
            "storm to slurm",
            "storm to slurm",
            "storm to kubernetes",
            "storm to kubernetes",
            "slurmrestd away",
            "bridge killed",
            "bridge killed",
            "bridge frozen",
            "slurmctld killed",
            "slurmrestd restarted",
            "scancel",
            "scancel",
            "pod deleted",
            "pod deleted",
            "node drained",
            "node drained",
            "batch job",
            "batch job",
        ]);
        if what == "slurmctld killed" && !self.forgets {
            what = "slurmctld restarted";
        }
        let done = match what {
            "storm to slurm" => {
                storm(self.slurm, self.chance.number(), &TO_SLURM);
                self.later(500, 4000, Mend::Slurm);
                true
            }
            "storm to kubernetes" => {
                storm(self.kube, self.chance.number(), &TO_KUBERNETES);
                self.later(500, 4000, Mend::Kube);
                true
            }
            "slurmrestd away" => {
                let mood = *self.chance.of_these(&[Mood::Refuse, Mood::Silence, Mood::NoJobs]);
                self.way.turn(mood);
                self.later(500, 3000, Mend::Way);
                true
            }
            "bridge killed" => {
                self.story.bridge.kill();
                self.later(1, 2000, Mend::Bridge);
                true
            }
            "bridge frozen" if self.story.bridge.alive() => {
                self.story.bridge.freeze(true);
                self.later(500, 4000, Mend::Frozen);
                true
            }
            "slurmctld restarted" => {
                self.daemon(&["restart", "slurmctld"]);
                true
            }
            "slurmctld killed" => {
                self.daemon(&["kill", "slurmctld"]);
                self.daemon(&["start", "slurmctld"]);
                true
            }
            "slurmrestd restarted" => {
                self.daemon(&["kill", "slurmrestd"]);
                self.daemon(&["start", "slurmrestd"]);
                true
            }
            "scancel" => self.scancel().await,
            "pod deleted" => self.delete_a_pod().await,
            "node drained" => self.drain().await,
            "batch job" => self.batch(),
            _ => false,
        };
        if done {
            *self.tally.entry(what).or_default() += 1;
        }
    }

    async fn mend(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.mend);
        let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|(at, _)| *at <= now);
        self.mend = later;
        for (_, mend) in due {
            match mend {
                Mend::Slurm => self.slurm.rest(),
                Mend::Kube => self.kube.rest(),
                Mend::Way => self.way.turn(Mood::Pass),
                Mend::Bridge if self.story.bridge.alive() => {}
                Mend::Bridge => {
                    self.story.bridge.kill();
                    self.story.bridge.spawn();
                }
                // It may have been killed meanwhile.
                Mend::Frozen if self.story.bridge.alive() => self.story.bridge.freeze(false),
                Mend::Frozen => {}
                Mend::Node(node) => self.node(&node, "RESUME").await,
                Mend::Batch(job) => {
                    // It may have gone with slurmctld's memory.
                    let _ = self.story.slurm.client.cancel(gangway_core::job::JobId(job)).await;
                }
            }
        }
    }

    fn daemon(&self, words: &[&str]) {
        tokio::task::block_in_place(|| self.story.world.run_as("root", "slurm-daemon", words));
    }

    /// Somebody cancels a placeholder. Not one whose nodes a batch job could get while its pods are
    /// still there: only a prolog can prevent that.
    async fn scancel(&mut self) -> bool {
        let Ok(jobs) = self.story.slurm.client.jobs().await else { return false };
        let cluster = self.story.cluster.clone();
        let of = |job: &gangway_core::job::Job| {
            let stamp = gangway_core::placeholder::Stamp::of(job)?;
            (stamp.cluster == cluster).then_some(stamp.gang)
        };
        let running = jobs.iter().filter(|job| job.state.base == BaseState::Running);
        let whole = running.filter(|job| {
            let gang = of(job);
            self.gangs.iter().any(|own| !own.hybrid && Some(&own.uid) == gang.as_ref())
        });
        let whole: Vec<_> = whole.map(|job| job.id).collect();
        if whole.is_empty() {
            return false;
        }
        let job = *self.chance.of_these(&whole);
        self.story.slurm.client.cancel(job).await.is_ok()
    }

    async fn delete_a_pod(&mut self) -> bool {
        if self.gangs.is_empty() {
            return false;
        }
        let name = self.chance.of_these(&self.gangs).name.clone();
        let pods = self.story.pods(&name).await;
        if pods.is_empty() {
            return false;
        }
        let pod = self.chance.of_these(&pods).name.clone();
        self.story.kube.delete_pods(&pod).await;
        true
    }

    async fn drain(&mut self) -> bool {
        let node = format!("p5-{:04}", 1 + self.chance.below(16));
        self.node(&node, "DRAIN").await;
        self.later(1000, 6000, Mend::Node(node));
        true
    }

    async fn node(&self, name: &str, state: &str) {
        let update = NodeUpdate {
            state: Some(vec![state.to_owned()]),
            reason: (state == "DRAIN").then(|| "nemesis".to_owned()),
            ..NodeUpdate::default()
        };
        // Slurm may be away; a node that stays drained is found at the end.
        let _ = self.story.slurm.client.update_node(name, &update).await;
    }

    fn batch(&mut self) -> bool {
        let node = format!("--nodelist=h{}", 1 + self.chance.below(4));
        let gpus = format!("--gres=gpu:{}", 1 + self.chance.below(4));
        let words = ["-p", "hybrid", "-n1", "-c1", "--mem=100", &node, &gpus];
        let job = tokio::task::block_in_place(|| self.story.slurm.try_sbatch("bob", &words));
        let Some(job) = job else { return false };
        self.later(1000, 8000, Mend::Batch(job));
        true
    }
}

/// A lie that lasts would make the bridge act on it: what is read of one job is its evidence, so only
/// lists are told late.
const TO_SLURM: [Fault; 12] = [
    Fault::Garbage,
    Fault::Cut,
    Fault::Lose,
    Fault::Break,
    Fault::Delay(700),
    Fault::Status(502),
    Fault::Status(504),
    Fault::After(500),
    Fault::NotFound,
    Fault::Empty,
    Fault::WrongTypes,
    Fault::Stale,
];
const TO_KUBERNETES: [Fault; 10] = [
    Fault::Cut,
    Fault::Lose,
    Fault::Break,
    Fault::Delay(700),
    Fault::Status(500),
    Fault::Status(502),
    Fault::Status(429),
    Fault::After(504),
    Fault::NotFound,
    Fault::Garbage,
];

/// Some of the questions go wrong from now on.
fn storm(proxy: &Faults, seed: u64, kinds: &'static [Fault]) {
    let chance = std::sync::Mutex::new(Chance::of(seed));
    proxy.follow(move |asked| {
        let mut chance = chance.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !chance.percent(STORM) {
            return None;
        }
        let fault = *chance.of_these(kinds);
        let list = asked.path.contains("/jobs");
        let lie = matches!(fault, Fault::Stale | Fault::Empty | Fault::WrongTypes);
        (!lie || asked.reads() && list || fault == Fault::WrongTypes && asked.reads())
            .then_some(fault)
    });
}
