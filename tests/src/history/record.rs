//! Looks at both sides all the time, and writes down what it sees.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use gangway_core::hostlist::Hostlist;
use gangway_core::job::{BaseState, Job, JobId, JobState};
use gangway_core::names;
use gangway_core::place::parse_ranges;
use gangway_core::placeholder::Stamp;
use gangway_slurm::Client;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use tokio::task::JoinHandle;

use super::{History, Moment, Run, Stay};

/// Between two looks at Slurm.
const EVERY: Duration = Duration::from_millis(200);
/// A job that runs is read anew after so long, in milliseconds: its id may be another job's by now.
const BELIEVED_MS: i64 = 350;
/// Nodes that jobs and pods share.
const HYBRID: &str = "h";

/// Milliseconds since the epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "all parts of a world are on one machine and share its clock"
)]
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Job, sluid and start time: what makes a run that one and no other.
type Start = (u32, String, i64);

#[derive(Default)]
struct Seen {
    /// Every stay by pod uid.
    stays: BTreeMap<String, Stay>,
    /// Every run by job, sluid and start.
    runs: BTreeMap<Start, Run>,
    sizes: BTreeMap<String, usize>,
    /// Each job as last read.
    jobs: HashMap<JobId, Look>,
}

/// What was read of a job.
struct Look {
    state: JobState,
    run: Option<Start>,
    /// When, in milliseconds.
    at: i64,
}

impl Look {
    fn running(&self) -> bool {
        self.state.base == BaseState::Running
    }

    /// Whether nothing else is to be expected of a job that is in this state now.
    fn holds(&self, state: &JobState, now: i64) -> bool {
        self.state == *state && !(self.running() && now - self.at > BELIEVED_MS)
    }
}

/// Gathers a history until it is dropped.
pub struct Recorder {
    seen: Arc<Mutex<Seen>>,
    slurm: Client,
    tasks: Vec<JoinHandle<()>>,
}

impl Recorder {
    /// Begins with what there is: pods of the namespaces that begin with `prefix`, and all jobs.
    pub async fn begin(kube: kube::Client, slurm: Client, prefix: &str) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let pods = Api::<Pod>::all(kube);
        let listed = pods.list(&ListParams::default()).await.expect("pods can be listed");
        let version = listed.metadata.resource_version.unwrap_or_default();
        let prefix = prefix.to_owned();
        let watching = watch(pods, version, seen.clone(), prefix);
        // Jobs of those who were here before are not looked at.
        let before = slurm.job_states().await.expect("job states can be read");
        lock(&seen).jobs.extend(
            before.into_iter().map(|(id, state)| (id, Look { state, run: None, at: i64::MAX })),
        );
        let looking = look(slurm.clone(), seen.clone());
        Self { seen, slurm, tasks: vec![tokio::spawn(watching), tokio::spawn(looking)] }
    }

    /// A gang has so many pods.
    pub fn expect(&self, gang: &str, size: usize) {
        lock(&self.seen).sizes.insert(gang.to_owned(), size);
    }

    /// What was seen so far, with a last look at Slurm.
    pub async fn history(&self) -> History {
        for _ in 0..50 {
            if sample(&self.slurm, &self.seen).await.is_ok() {
                break;
            }
            tokio::time::sleep(EVERY).await;
        }
        let seen = lock(&self.seen);
        History {
            stays: seen.stays.values().cloned().collect(),
            runs: seen.runs.values().cloned().collect(),
            sizes: seen.sizes.clone(),
            grants: Vec::new(),
            rolled_back: false,
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the API server's own order of writes; never misses one.
async fn watch(pods: Api<Pod>, mut version: String, seen: Arc<Mutex<Seen>>, prefix: String) {
    let params = WatchParams::default().timeout(280);
    loop {
        let Ok(stream) = pods.watch(&params, &version).await else {
            tokio::time::sleep(EVERY).await;
            continue;
        };
        let mut stream = stream.boxed();
        while let Some(Ok(event)) = stream.next().await {
            let (pod, gone) = match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
                WatchEvent::Deleted(pod) => (pod, true),
                WatchEvent::Bookmark(mark) => {
                    version = mark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(error) => {
                    unreachable!(
                        "a recorder missed something, its history is worth nothing: {error:?}"
                    )
                }
            };
            version = pod.resource_version().unwrap_or(version);
            if pod.namespace().is_some_and(|namespace| namespace.starts_with(&prefix)) {
                lock(&seen).pod(&pod, gone);
            }
        }
    }
}

impl Seen {
    fn pod(&mut self, pod: &Pod, gone: bool) {
        let order = pod.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0);
        let now = Moment { order, ms: now_ms() };
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { return };
        let mut place = place(pod, node);
        let stay = self.stays.entry(place.uid.clone()).or_insert_with(|| {
            place.bound = now;
            place.clone()
        });
        let told = |s: &Stay| format!("{:?}", (&s.node, s.rank, s.job, s.generation, &s.devices));
        let (old, new) = (told(stay), told(&place));
        if old != new {
            stay.changed.push(format!("{old} became {new}"));
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ended = matches!(phase, Some("Succeeded" | "Failed"));
        if pod.metadata.deletion_timestamp.is_some() || ended || gone {
            stay.leaving.get_or_insert(now);
        }
        if ended || gone {
            stay.gone.get_or_insert(now);
        }
    }
}

/// Where a pod is, as its binding has written it down.
fn place(pod: &Pod, node: String) -> Stay {
    let text = |name: &str| pod.annotations().get(name).cloned().unwrap_or_default();
    let number = |name: &str| text(name).parse().unwrap_or(u32::MAX);
    let devices = pod.annotations().iter().filter_map(|(name, value)| {
        let kind = name.strip_prefix(names::INDEX_PREFIX)?;
        Some((kind.to_owned(), parse_ranges(value)?))
    });
    Stay {
        pod: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
        uid: pod.uid().unwrap_or_default(),
        gang: text(names::GANG),
        generation: number(names::GENERATION),
        job: number(names::JOB_ID),
        rank: number(names::RANK),
        devices: devices.collect(),
        node,
        ..Stay::default()
    }
}

async fn look(slurm: Client, seen: Arc<Mutex<Seen>>) {
    loop {
        // A Slurm that does not answer is asked again.
        let _ = sample(&slurm, &seen).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// One look at all states, at the jobs whose state has changed, and now and then at those that run.
async fn sample(slurm: &Client, seen: &Mutex<Seen>) -> Result<(), gangway_slurm::Error> {
    let states: HashMap<JobId, JobState> = slurm.job_states().await?.into_iter().collect();
    let now = now_ms();
    let due: Vec<JobId> = {
        let mut seen = lock(seen);
        // What slurmctld has forgotten may come again as another job.
        seen.jobs.retain(|id, _| states.contains_key(id));
        let known = |id: &JobId, state| seen.jobs.get(id).is_some_and(|l| l.holds(state, now));
        states.iter().filter(|(id, state)| !known(id, state)).map(|(id, _)| *id).collect()
    };
    for id in due {
        let Some(job) = slurm.job(id).await? else { continue };
        let at = now_ms();
        let known = start(&job).is_some_and(|start| lock(seen).runs.contains_key(&start));
        let foreign = !known
            && Stamp::of(&job).is_none()
            && job.state.base == BaseState::Running
            && job.nodes.starts_with(HYBRID);
        let allocation = if foreign { slurm.resources(id).await.ok() } else { None };
        let mut seen = lock(seen);
        let run = seen.run(&job, at);
        if let Some(run) = run.as_ref().and_then(|run| seen.runs.get_mut(run)) {
            for node in allocation.into_iter().flat_map(|allocation| allocation.nodes) {
                for gres in node.gres {
                    run.devices.insert((node.name.clone(), gres.name), gres.indexes);
                }
            }
        }
        seen.jobs.insert(id, Look { state: job.state, run, at });
    }
    Ok(())
}

/// The run that a job is in or was in, if it has nodes or had some.
fn start(job: &Job) -> Option<Start> {
    let waits = job.state.base == BaseState::Pending;
    let started = !waits && !job.nodes.is_empty() && job.start_time != 0;
    started.then(|| (job.id.0, job.sluid.clone(), job.start_time))
}

impl Seen {
    /// Takes in a job as it is now.
    fn run(&mut self, job: &Job, now: i64) -> Option<Start> {
        let key = start(job)?;
        let stamp = Stamp::of(job);
        let run = self.runs.entry(key.clone()).or_insert_with(|| Run {
            job: job.id.0,
            sluid: job.sluid.clone(),
            gang: stamp.as_ref().map(|stamp| stamp.gang.clone()).unwrap_or_default(),
            generation: stamp.map_or(0, |stamp| stamp.generation),
            nodes: Hostlist::parse(&job.nodes).map(|list| list.names()).unwrap_or_default(),
            started: job.start_time,
            ..Run::default()
        });
        if job.state.base != BaseState::Running {
            run.ended = Some(job.end_time);
            return Some(key);
        }
        let before = self.jobs.get(&job.id);
        let goes_on = before.is_some_and(|look| look.running() && look.run.as_ref() == Some(&key));
        match run.seen.last_mut() {
            Some((_, last)) if goes_on => *last = now,
            // It has begun, or a crash of slurmctld has brought it back.
            _ => run.seen.push((now, now)),
        }
        Some(key)
    }
}
