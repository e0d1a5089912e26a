//! Who holds which device, and for how long: reads what each job was granted, once, and keeps the figures of it.
//!
//! A task of its own beside the inventory, which never waits for it. It decides nothing, and asks Slurm for nothing but
//! what a job that has begun to run was granted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use gangway_core::inventory::{Held, SlurmNode, census, devices_held, spent};
use gangway_core::job::{Allocation, Job, JobId, Standing};
use gangway_core::placeholder::Stamp;
use gangway_slurm::{Client, Error};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chain::explain;
use crate::metrics::{Few, Roll};
use crate::wall;

/// Questions under way at once.
const AT_ONCE: usize = 2;
/// Accounts that are told apart.
const ACCOUNTS: usize = 100;

/// The metric of [`page`], and what its labels are.
pub(crate) const HOLDER: (&str, &str, [&str; 10]) = (
    "gangway_device_holder",
    "1 for each device of a node that a job holds; where Slurm only counts devices, how many, without an index",
    [
        "node",
        "resource",
        "type",
        "index",
        "job_id",
        "account",
        "user",
        "partition",
        "holder",
        "gang",
    ],
);

/// Both sides as they were last seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) nodes: Vec<SlurmNode>,
    /// Kubernetes' names by Slurm's, where there is such a node.
    pub(super) names: BTreeMap<String, String>,
    pub(super) jobs: Arc<Vec<Job>>,
}

/// The figures.
#[derive(Clone, Debug)]
pub(super) struct Devices {
    nodes: IntGaugeVec,
    devices: IntGaugeVec,
    seconds: IntCounterVec,
    accounts: Few,
}

impl Devices {
    pub(super) fn new(roll: &Roll) -> prometheus::Result<Self> {
        Ok(Self {
            nodes: roll.gauges("gangway_nodes", "Nodes of Slurm by what they are", &["state"])?,
            devices: roll.gauges(
                "gangway_devices",
                "Devices of Slurm's nodes by who holds them: pod, sbatch, outside (pods of other schedulers), or nobody: idle, unavailable",
                &["resource", "type", "holder"],
            )?,
            seconds: roll.counters(
                "gangway_device_seconds_total",
                "Seconds that devices were held, by account and kind of job, since this process began to lead",
                &["resource", "account", "holder"],
            )?,
            accounts: Few::new(ACCOUNTS),
        })
    }
}

/// A job that holds something.
struct Tenancy {
    job: Job,
    granted: Allocation,
    /// Up to when its seconds are counted, by Slurm's clock.
    counted: i64,
}

/// What is known of the jobs.
pub(super) struct Ledger {
    slurm: Client,
    figures: Devices,
    /// By id and start: an id may be another job's by now.
    tenancies: HashMap<(JobId, i64), Tenancy>,
    /// What was held when the page was last written.
    held: Vec<Held>,
    page: watch::Sender<Arc<str>>,
    began: i64,
}

impl Ledger {
    /// A ledger, and its page of [`HOLDER`], as it changes.
    pub(super) fn new(slurm: Client, figures: Devices) -> (Self, watch::Receiver<Arc<str>>) {
        let (page, pages) = watch::channel(Arc::from(""));
        let began = wall::now().as_second();
        let (tenancies, held) = (HashMap::new(), Vec::new());
        (Self { slurm, figures, tenancies, held, page, began }, pages)
    }

    /// Keeps it until `stop`.
    pub(super) async fn keep(
        mut self,
        mut looks: watch::Receiver<Look>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                changed = looks.changed() => if changed.is_err() { return Ok(()) },
                () = stop.cancelled() => return Ok(()),
            }
            let look = looks.borrow_and_update().clone();
            tokio::select! {
                () = self.read(&look.jobs) => {}
                () = stop.cancelled() => return Ok(()),
            }
            self.show(&look, wall::now().as_second());
        }
    }

    /// Reads what jobs were granted that have begun to run.
    async fn read(&mut self, jobs: &[Job]) {
        let all: Vec<Job> = jobs.iter().flat_map(components).collect();
        let there: HashMap<(JobId, i64), &Job> =
            all.iter().map(|job| ((job.id, job.start_time), job)).collect();
        self.tenancies.retain(|key, tenancy| {
            there.get(key).is_some_and(|job| {
                tenancy.job.clone_from(job);
                job.standing() != Standing::Over || tenancy.counted < job.end_time
            })
        });
        let new: Vec<Job> = all
            .iter()
            .filter(|job| job.standing() == Standing::Holding)
            .filter(|job| !self.tenancies.contains_key(&(job.id, job.start_time)))
            .cloned()
            .collect();
        let slurm = &self.slurm;
        let asked = new.into_iter().map(|job| granted(slurm.clone(), job));
        let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
        let mut read = Vec::new();
        while let Some((job, granted)) = answers.next().await {
            match granted {
                Ok(granted) => {
                    let counted = job.start_time.max(self.began);
                    read.push(Tenancy { job, granted, counted });
                }
                // It may have ended meanwhile; else it is asked for at the next look.
                Err(error) => {
                    let gang = || Stamp::of(&job).map(|stamp| stamp.gang);
                    tracing::debug!(
                        gang = gang(),
                        job = job.id.0,
                        error = explain(&error),
                        "could not read what it was granted"
                    );
                }
            }
        }
        drop(answers);
        self.tenancies.extend(read.into_iter().map(|one| ((one.job.id, one.job.start_time), one)));
    }

    /// Brings the figures up to now.
    fn show(&mut self, look: &Look, now: i64) {
        for tenancy in self.tenancies.values_mut() {
            let taken = spent([(&tenancy.job, &tenancy.granted)], tenancy.counted, now);
            tenancy.counted = tenancy.counted.max(now);
            for ((resource, account, holder), seconds) in taken {
                let labels = [resource.as_str(), self.figures.accounts.of(&account), holder.name()];
                self.figures.seconds.with_label_values(&labels).inc_by(seconds);
            }
        }
        let holding = self.tenancies.values().filter(|one| one.job.standing() == Standing::Holding);
        let held = devices_held(holding.map(|one| (&one.job, &one.granted)));
        let census = census(&look.nodes, &held);
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for (state, n) in census.nodes {
            self.figures.nodes.with_label_values(&[state]).set(count(n));
        }
        // What no node has any more must not stay as it was.
        let gone: HashSet<(String, String)> = self.figures.known();
        for (resource, kind) in gone.iter().filter(|kind| !census.devices.contains_key(*kind)) {
            for standing in gangway_core::inventory::DEVICE_STANDINGS {
                self.figures.devices.with_label_values(&[resource, kind, standing]).set(0);
            }
        }
        for ((resource, kind), standings) in census.devices {
            for (standing, n) in standings {
                let labels = [resource.as_str(), kind.as_str(), standing];
                self.figures.devices.with_label_values(&labels).set(count(n));
            }
        }
        if held != self.held {
            match page(&held, &look.names) {
                Ok(text) => drop(self.page.send_replace(text.into())),
                Err(error) => tracing::error!(%error, "could not write who holds which device"),
            }
            self.held = held;
        }
    }
}

impl Devices {
    /// The kinds of devices that have figures.
    fn known(&self) -> HashSet<(String, String)> {
        use prometheus::core::Collector as _;
        let families = self.devices.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let label = |metric: &prometheus::proto::Metric, name: &str| {
            let pair = metric.get_label().iter().find(|pair| pair.name() == name);
            pair.map(|pair| pair.value().to_owned()).unwrap_or_default()
        };
        metrics.map(|metric| (label(metric, "resource"), label(metric, "type"))).collect()
    }
}

async fn granted(slurm: Client, job: Job) -> (Job, Result<Allocation, Error>) {
    let granted = slurm.resources(job.id).await;
    (job, granted)
}

/// The components of a job as jobs of their own: each is granted its own nodes.
fn components(job: &Job) -> Vec<Job> {
    if job.parts.is_empty() {
        return vec![job.clone()];
    }
    let part = |part: &gangway_core::job::Part| Job {
        id: part.id,
        state: part.state.clone(),
        nodes: part.nodes.clone(),
        parts: Vec::new(),
        ..job.clone()
    };
    job.parts.iter().map(part).collect()
}

/// One line for each device that is held: by nodes many, so they have a page of their own.
fn page(held: &[Held], names: &BTreeMap<String, String>) -> prometheus::Result<String> {
    let (name, help, labels) = HOLDER;
    let (registry, gauge) = (Registry::new(), IntGaugeVec::new(Opts::new(name, help), &labels)?);
    registry.register(Box::new(gauge.clone()))?;
    for one in held {
        let node = names.get(&one.node).unwrap_or(&one.node);
        let index = one.index.map_or_else(String::new, |index| index.to_string());
        let job = one.job.to_string();
        let Held { resource, kind, account, user, partition, holder, gang, .. } = one;
        let holder = holder.name();
        let values: [&str; 10] =
            [node, resource, kind, &index, &job, account, user, partition, holder, gang];
        gauge.with_label_values(&values).set(i64::try_from(one.count).unwrap_or(i64::MAX));
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}

/// The figures of a thousand nodes that jobs of very many accounts hold, and the page of their devices.
#[cfg(test)]
pub(crate) fn with_a_thousand_nodes(roll: &Roll) -> String {
    use gangway_core::job::{GresAllocation, NodeAllocation};
    use gangway_slurm::{Config, TokenSource};

    let figures = Devices::new(roll).expect("no name twice");
    let config = Config::new("http://nowhere.invalid", TokenSource::Fixed("token".into()));
    let (mut ledger, page) = Ledger::new(Client::new(config).expect("an address"), figures);
    let gres = |name: &str, kind: &str, count: u32| GresAllocation {
        name: name.to_owned(),
        kind: kind.to_owned(),
        count,
        indexes: (0..count).collect(),
    };
    let mut look = Look::default();
    for number in 1..=1_000_u32 {
        let (name, id) = (format!("p5-{number}"), JobId(number));
        let mut job = Job { id, account: format!("team{number}"), ..Job::default() };
        job.external = number % 2 == 0;
        job.state.base = gangway_core::job::BaseState::Running;
        let gres = vec![gres("gpu", &format!("h{}", number % 5), 8), gres("efa", "", 32)];
        let granted = NodeAllocation { name: name.clone(), gres, ..NodeAllocation::default() };
        let granted = Allocation { nodes: vec![granted] };
        ledger.tenancies.insert((id, 0), Tenancy { job, granted, counted: 0 });
        let gres = format!("gpu:h{}:8,efa:32", number % 5);
        look.nodes.push(SlurmNode { name, gres, ..SlurmNode::default() });
    }
    ledger.show(&look, 60);
    page.borrow().to_string()
}

#[cfg(test)]
mod tests {
    use gangway_core::job::{BaseState, NodeAllocation, Part};

    use super::*;

    #[test]
    fn a_thousand_nodes_have_their_sums() {
        let roll = Roll::new().expect("a roll");
        let page = with_a_thousand_nodes(&roll);
        let text = TextEncoder::new().encode_to_string(&roll.registry().gather()).expect("text");
        for line in [
            r#"gangway_devices{holder="pod",resource="gpu",type="h2"} 800"#,
            r#"gangway_devices{holder="idle",resource="efa",type=""} 0"#,
            r#"gangway_device_seconds_total{account="other",holder="sbatch",resource="gpu"} "#,
            r#"gangway_nodes{state="unknown"} 1000"#,
        ] {
            assert!(text.contains(line), "{line}");
        }
        let line = r#"gangway_device_holder{account="team7",gang="",holder="sbatch",index="31",job_id="7",node="p5-7",partition="",resource="efa",type="",user=""} 1"#;
        assert!(page.contains(line), "{}", page.lines().nth(9).unwrap_or_default());
    }

    #[test]
    fn components_are_granted_their_own_nodes() {
        let part = |id| Part {
            id: JobId(id),
            state: gangway_core::job::JobState { base: BaseState::Running, flags: Vec::new() },
            nodes: format!("n{id}"),
            ..Part::default()
        };
        let job = Job {
            id: JobId(7),
            account: "a".into(),
            parts: vec![part(7), part(8)],
            ..Job::default()
        };
        let told: Vec<_> =
            components(&job).into_iter().map(|j| (j.id.0, j.nodes, j.account)).collect();
        assert_eq!(told, [(7, "n7".into(), "a".into()), (8, "n8".into(), "a".into())]);
        assert_eq!(components(&Job::default()).len(), 1);
    }

    #[test]
    fn nothing_is_written_of_a_node_but_what_kubernetes_calls_it() {
        let granted = Allocation {
            nodes: vec![NodeAllocation {
                name: "s1".into(),
                gres: vec![gangway_core::job::GresAllocation {
                    name: "efa".into(),
                    count: 4,
                    ..Default::default()
                }],
                ..NodeAllocation::default()
            }],
        };
        let held = devices_held([(&Job::default(), &granted)]);
        let text =
            page(&held, &BTreeMap::from([("s1".to_owned(), "ip-1".to_owned())])).expect("text");
        assert!(
            text.contains(r#"index="",job_id="0",node="ip-1""#) && text.contains("} 4\n"),
            "{text}"
        );
    }
}
