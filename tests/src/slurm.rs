//! The Slurm side as a user of squeue sees it, and the placeholders of one bridge.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gangway_core::job::{BaseState, Job, JobId, Standing};
use gangway_core::placeholder::Stamp;
use gangway_slurm::{Client, Config, TokenSource};
use serde_json::Value;

use crate::wait::{SOON, wait};
use crate::world::World;

/// Slurm, asked directly and not through the bridge.
#[derive(Debug)]
pub struct Slurm {
    /// For what has no helper here.
    pub client: Client,
    cluster: String,
    world: &'static World,
    /// Whether a job is one of our bridge's; it never changes.
    own: Mutex<HashMap<JobId, bool>>,
    /// Jobs that the story itself submitted.
    made: Arc<Mutex<Vec<JobId>>>,
}

impl Slurm {
    /// The placeholders of `cluster`.
    pub fn reach(world: &'static World, cluster: &str) -> Self {
        let token = TokenSource::File(world.token_file());
        let client = Client::new(Config::new(world.slurm_url(), token));
        Self {
            client: client.expect("a client"),
            cluster: cluster.to_owned(),
            world,
            own: Mutex::default(),
            made: Arc::default(),
        }
    }

    /// The same by a client of its own, for another runtime.
    pub(crate) fn again(&self) -> Self {
        Self { made: self.made.clone(), ..Self::reach(self.world, &self.cluster) }
    }

    /// Remembers all jobs there are as somebody else's or ours.
    pub async fn look_around(&self) {
        for job in self.client.jobs().await.expect("jobs can be listed") {
            self.is_own(&job);
        }
    }

    fn is_own(&self, job: &Job) -> bool {
        // The world of an extender is named after that of the bridge behind it.
        let ours = |stamp: Stamp| {
            stamp
                .cluster
                .strip_prefix(&self.cluster)
                .is_some_and(|s| s.is_empty() || s.starts_with(':'))
        };
        let own = Stamp::of(job).is_some_and(ours);
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(job.id, own);
        own
    }

    /// Every placeholder of this bridge, ended ones too. An immediate ask that was refused leaves a
    /// record that never ran: that is none.
    pub async fn placeholders(&self) -> Vec<(Stamp, Job)> {
        let mut found = Vec::new();
        for (id, _) in self.client.job_states().await.expect("job states can be read") {
            let known = self.own.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
            if known == Some(false) {
                continue;
            }
            let Some(job) = self.client.job(id).await.expect("a job can be read") else { continue };
            let refused = job.state.base == BaseState::Failed && job.nodes.is_empty();
            if self.is_own(&job)
                && !refused
                && let Some(stamp) = Stamp::of(&job)
                // A component asked for by its own id is not a placeholder of its own.
                && (stamp.part.is_none() || !job.parts.is_empty())
            {
                found.push((stamp, job));
            }
        }
        found
    }

    /// The placeholders that are not over.
    pub async fn live(&self) -> Vec<(Stamp, Job)> {
        let mut all = self.placeholders().await;
        all.retain(|(_, job)| job.standing() != Standing::Over);
        all
    }

    /// One job, which Slurm must know.
    pub async fn job(&self, id: u32) -> Job {
        let job = self.client.job(JobId(id)).await.expect("a job can be read");
        job.unwrap_or_else(|| unreachable!("Slurm does not know job {id}"))
    }

    /// A job as Slurm's own tools show it, with every field.
    pub fn shown(&self, id: u32) -> Value {
        let words = ["--json", "show", "job", &id.to_string()];
        let text = self.world.run_as("root", "scontrol", &words);
        let mut all: Value = serde_json::from_str(&text).expect("scontrol writes JSON");
        all["jobs"][0].take()
    }

    /// Waits until a job is in a state.
    pub async fn reaches(&self, id: u32, state: BaseState) -> Job {
        let what = format!("job {id} becomes {}", state.name());
        wait(&what, SOON, async || {
            let job = self.job(id).await;
            if job.state.base == state {
                Ok(job)
            } else {
                Err(format!("{} {}", job.state, job.reason))
            }
        })
        .await
    }

    /// Waits until the key of a job stands where its owner cannot change it.
    pub async fn sealed(&self, id: u32) {
        wait(&format!("the key of job {id} is in admin_comment"), SOON, async || {
            let job = self.job(id).await;
            let own = Stamp::parse(&job.admin_comment).is_some_and(|s| s.cluster == self.cluster);
            if own { Ok(()) } else { Err(format!("{:?}", job.admin_comment)) }
        })
        .await;
    }

    /// What a job, all of its components, holds of a GRES on each node, by node name.
    pub async fn devices(&self, id: u32, gres: &str) -> HashMap<String, Vec<u32>> {
        let job = self.job(id).await;
        let parts: Vec<JobId> = match job.parts.as_slice() {
            [] => vec![job.id],
            parts => parts.iter().map(|part| part.id).collect(),
        };
        let mut found: HashMap<String, Vec<u32>> = HashMap::new();
        for part in parts {
            let allocation = self.client.resources(part).await.expect("a running job's resources");
            for node in allocation.nodes {
                let own = node.gres.into_iter().filter(|g| g.name == gres);
                let indexes = found.entry(node.name).or_default();
                indexes.extend(own.flat_map(|g| g.indexes));
                indexes.sort_unstable();
            }
        }
        found
    }

    /// Submits a batch job that sleeps, as a user.
    pub fn sbatch(&self, user: &str, words: &[&str]) -> u32 {
        let sleep = ["--parsable", "--output=/dev/null", "--wrap=sleep 600"];
        let said = self.world.run_as(user, "sbatch", &[&sleep, words].concat());
        let id = said.split(';').next().and_then(|id| id.parse().ok());
        let id = id.unwrap_or_else(|| unreachable!("sbatch says {said}"));
        self.adopt(JobId(id));
        id
    }

    /// Ends this job with the story.
    pub fn adopt(&self, id: JobId) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// `scancel`, as a user.
    pub fn scancel(&self, user: &str, id: u32) {
        self.world.run_as(user, "scancel", &[&id.to_string()]);
    }

    /// Ends every job of the story, its own and its bridge's.
    pub async fn cancel_all(&self) {
        let mut ids = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ids.extend(self.live().await.into_iter().map(|(_, job)| job.id));
        for id in ids {
            // One that is over already is fine.
            let _ = self.client.cancel(id).await;
        }
    }

    /// Waits until the story's own batch jobs have let go of everything.
    pub async fn wait_made_over(&self) {
        let ids = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for id in ids {
            wait("a batch job is over", SOON, async || {
                let job = self.job(id.0).await;
                let over = job.state.standing() == Standing::Over && !job.state.has("COMPLETING");
                if over { Ok(()) } else { Err(format!("{id} {} {:?}", job.state, job.state.flags)) }
            })
            .await;
        }
    }
}
