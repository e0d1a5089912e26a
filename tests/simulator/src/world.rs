//! Everything outside the bridge, as of now: both servers, everybody's plans, the rules, the history.
//!
//! It changes only when the network says that time has passed or a call has arrived.

use std::collections::BTreeMap;

use gangway_slurm::fake::Fake;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::cast::{Cast, Workload};
use crate::dice::{Dice, Hash};
use crate::fate::{Away, EPOCH_MS, Fate, Happening, STORMY_MS};
use crate::kubernetes::{Answer, Resource, Store};
use crate::network::{Call, Done, Fault, Request};
use crate::rules::{Heard, Rules, Scene};

/// Everybody else looks at what they have to do this often.
const TICK_MS: u64 = 100;
/// By then everything must have come to its end.
const DEADLINE_MS: u64 = 400_000;

/// All of it.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) fate: Fate,
    pub(crate) store: Store,
    pub(crate) slurm: Fake,
    pub(crate) cast: Cast,
    pub(crate) rules: Rules,
    pub(crate) now: u64,
    /// Which life of the bridge this is.
    pub(crate) life: u32,
    /// Watches cannot begin before this version.
    pub(crate) compacted: u64,
    /// All watches end now.
    pub(crate) watches_end: Option<()>,
    pub(crate) history: Vec<String>,
    agenda: BTreeMap<(u64, usize), Happening>,
    /// slurmctld is being started again until then.
    away_ms: u64,
    tick_ms: u64,
    over: bool,
    deaths: mpsc::UnboundedSender<u64>,
}

impl World {
    /// A world before anybody has come; whoever holds the other end hears when the bridge dies, and for
    /// how long.
    pub(crate) fn new(
        dice: Dice,
        fate: Fate,
        cast: Cast,
        deaths: mpsc::UnboundedSender<u64>,
    ) -> Self {
        let mut store = Store::default();
        for n in 0..fate.nodes {
            let name = crate::fate::node_name(n);
            let node = serde_json::json!({"metadata": {"name": name, "labels": {}}, "spec": {}});
            store.create(Resource::Nodes, node);
        }
        let happenings = fate.happenings.iter().cloned().enumerate();
        let agenda = happenings.map(|(n, (at, what))| ((at, n), what)).collect();
        let slurm = Fake::new(fate.slurm());
        Self {
            dice,
            fate,
            store,
            slurm,
            cast,
            rules: Rules::default(),
            now: 0,
            life: 1,
            compacted: 0,
            watches_end: None,
            history: Vec::new(),
            agenda,
            away_ms: 0,
            tick_ms: 0,
            over: false,
            deaths,
        }
    }

    pub(crate) fn next_ms(&self) -> u64 {
        let agenda = self.agenda.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
        agenda.min(self.tick_ms)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// The history in a number.
    pub(crate) fn digest(&self) -> u64 {
        self.history.iter().fold(Hash::new(), |hash, line| hash.eat(line.as_bytes())).done()
    }

    pub(crate) fn note(&mut self, line: &str) {
        self.history.push(format!("{:>7} {line}", self.now));
    }

    /// Something that no rule has a number for.
    pub(crate) fn complain(&mut self, what: &str) {
        let what = format!("{:>7} {what}", self.now);
        self.history.push(format!("{what} <== BROKEN"));
        self.rules.violations.push(what);
    }

    /// A new life of the bridge begins.
    pub(crate) fn born(&mut self) {
        self.note(&format!("bridge {} begins", self.life));
        self.rules.born_ms = self.now;
        self.rules.heard = Heard::default();
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, now: u64) {
        self.now = now;
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let what = entry.remove();
            self.happen(what);
        }
        if now < self.tick_ms {
            return;
        }
        self.tick_ms = now + TICK_MS - now % TICK_MS;
        self.slurm.pass(EPOCH_MS + i64::try_from(now).unwrap_or(0));
        self.jobs_changed();
        for line in self.cast.act(now, self.dice, &mut self.store) {
            self.note(&line);
        }
        self.judge(|rules, scene| rules.look(scene));
        self.end();
    }

    fn end(&mut self) {
        let busy = !self.agenda.is_empty() || !self.cast.workloads.iter().all(Workload::is_settled);
        if busy && self.now < DEADLINE_MS {
            return;
        }
        let mut left = Vec::new();
        self.judge(|rules, scene| left = rules.leftovers(scene));
        if left.is_empty() {
            self.over = true;
        } else if self.now >= DEADLINE_MS {
            self.over = true;
            for what in left {
                self.rules.violations.push(format!("{:>7} rule 5: {what}", self.now));
            }
        }
    }

    fn judge(&mut self, look: impl FnOnce(&mut Rules, &Scene<'_>)) {
        let Self { rules, store, slurm, cast, now, history, .. } = self;
        let before = rules.violations.len();
        look(rules, &Scene { now: *now, store, slurm, cast });
        history.extend(rules.violations.iter().skip(before).map(|v| format!("{v} <== BROKEN")));
    }

    fn jobs_changed(&mut self) {
        let changes = self.slurm.changes();
        for change in &changes {
            let job = &change.job;
            let nodes: Vec<&str> = job.nodes().collect();
            let line = format!(
                "job {} is {} {} on [{}] {:?}",
                job.id,
                job.state,
                job.reason,
                nodes.join(","),
                job.key()
            );
            self.note(&line);
        }
        if !changes.is_empty() {
            self.judge(|rules, scene| rules.jobs(scene, &changes));
        }
    }

    fn happen(&mut self, what: Happening) {
        self.note(&format!("{what:?}"));
        let now_ms = EPOCH_MS + i64::try_from(self.now).unwrap_or(0);
        match what {
            Happening::Crash { away_ms } => {
                self.slurm.crash(now_ms);
                self.away_ms = self.now + away_ms;
            }
            Happening::Scancel => {
                let live = self.slurm.jobs().filter(|job| !job.is_over() && !job.key().is_empty());
                let live: Vec<u32> = live.map(|job| job.id).collect();
                let which = self.dice.roll("whom", self.now, 0..live.len() as u64);
                if let Some(id) = usize::try_from(which).ok().and_then(|n| live.get(n)) {
                    self.slurm.scancel(*id);
                }
            }
            Happening::NodeLost { node, away_ms } => {
                self.slurm.lose_node(&node);
                let number = self.agenda.len() + 1_000;
                self.agenda.insert((self.now + away_ms, number), Happening::NodeBack { node });
            }
            Happening::NodeBack { node } => self.slurm.find_node(&node),
            Happening::Sbatch { urgent, nodes, gpus, ms } => {
                let partition = if urgent { "urgent" } else { "normal" };
                self.slurm.sbatch(partition, nodes, gpus, ms);
            }
            Happening::WatchesEnd { gone } => {
                self.watches_end = Some(());
                if gone {
                    self.compacted = self.store.version();
                }
            }
        }
        self.jobs_changed();
    }

    /// Whether the bridge dies at this call of its life, and whether after it was carried out.
    pub(crate) fn death_at(&self, call: u64) -> Option<bool> {
        let (at, after, _) = self.fate.deaths.get(self.life as usize - 1)?;
        (*at == call && self.now < STORMY_MS).then_some(*after)
    }

    pub(crate) fn die(&mut self, _now: u64) {
        let dead = self.fate.deaths.get(self.life as usize - 1).map_or(1_000, |(_, _, ms)| *ms);
        self.note(&format!("bridge {} dies", self.life));
        self.life += 1;
        // Whoever listens outlives the world, but for the very end.
        let _ = self.deaths.send(dead);
    }

    /// What goes wrong with a call.
    pub(crate) fn fault(&self, now: u64, key: u64, request: &Request) -> Option<Fault> {
        let rates = match request {
            Request::Slurm(request) => {
                if now < self.away_ms {
                    return Some(Fault::Trouble);
                }
                let outage = self.fate.outages.iter().find(|o| (o.from_ms..o.to_ms).contains(&now));
                if let Some(outage) = outage {
                    return away(outage.how, request);
                }
                self.fate.slurm_faults
            }
            Request::Kubernetes { .. } => self.fate.kube_faults,
        };
        if now >= STORMY_MS {
            return None;
        }
        let [lost, refused, late] = rates;
        if self.dice.chance("lost", key, lost) {
            return Some(Fault::Lost);
        }
        if self.dice.chance("refused", key, refused) {
            let kind = self.dice.chance("how refused", key, 500);
            return Some(if kind { Fault::Refused } else { Fault::Trouble });
        }
        let late = self.dice.chance("late", key, late);
        late.then(|| Fault::Late(self.dice.roll("how late", key, 50..14_000)))
    }

    /// Carries a call out.
    pub(crate) fn carry_out(&mut self, now: u64, call: &Call) -> Done {
        self.now = now;
        match &call.what {
            Request::Kubernetes { method, path, query, body } => {
                let body: Value = serde_json::from_slice(body).unwrap_or_default();
                let answer = self.store.answer(method, path, query, &body);
                if let Answer::Object(code, _) = &answer
                    && method != "GET"
                    && !path.ends_with("/events")
                {
                    self.note(&format!("{method} {path} {} -> {code}", telling(&body)));
                }
                for effect in std::mem::take(&mut self.store.effects) {
                    self.judge(|rules, scene| rules.effect(scene, &effect, call.heard_ms));
                }
                Done::Kubernetes(answer)
            }
            Request::Slurm(request) => {
                let about = request.path.rsplit_once("/job/").map(|(_, named)| named);
                let about = about.filter(|_| request.method != "GET");
                let before = about.and_then(|named| self.slurm.named(named).cloned());
                let now_ms = EPOCH_MS + i64::try_from(now).unwrap_or(0);
                let answer = self.slurm.answer(now_ms, request);
                if request.method != "GET" {
                    let line = format!("{} {} -> {}", request.method, request.path, answer.status);
                    self.note(&line);
                }
                if let Some(job) = before.filter(|job| !job.is_over()) {
                    let ends = request.method == "DELETE";
                    self.judge(|rules, scene| {
                        if ends { rules.cancelled(scene, &job) } else { rules.changed(scene, &job) }
                    });
                }
                self.jobs_changed();
                Done::Slurm(answer)
            }
        }
    }
}

/// What of a body is worth a place in the history.
fn telling(body: &Value) -> String {
    let annotations = body["metadata"]["annotations"].as_object();
    let annotations: Vec<String> = annotations
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            format!("{}={}", key.trim_start_matches("gangway.dev/"), value.as_str().unwrap_or("-"))
        })
        .collect();
    let message = body["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
    let node = body["target"]["name"].as_str().unwrap_or_default();
    format!("{node} {} {message}", annotations.join(" ")).trim().to_owned()
}

fn away(how: Away, request: &gangway_slurm::Request) -> Option<Fault> {
    let lists = request.method == "GET" && request.path.contains("/jobs/");
    match how {
        Away::Unreachable => Some(Fault::Refused),
        Away::Silent => Some(Fault::Silence),
        Away::BadGateway => Some(Fault::Lie("Bad Gateway")),
        Away::NoController => Some(Fault::Trouble),
        Away::EmptyLists => lists.then_some(Fault::Lie(
            r#"{"jobs":[],"last_update":{"set":true,"infinite":false,"number":1800000001}}"#,
        )),
        Away::Garbage => lists.then_some(Fault::Lie(r#"{"jobs":[{"job_id":{"se"#)),
    }
}
