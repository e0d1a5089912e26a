//! Slurm: placeholders by id, nodes that one job has at a time, and its own word on each. It starts what waits
//! in any order, on any nodes that are free; it decides, and the bridge follows (rule 1).

use gangway_core::job::{
    Allocation, BaseState, GresAllocation, Job as Facts, JobId, JobState, NodeAllocation,
};
use gangway_core::placeholder::Stamp;

use crate::kubernetes::{gang_uid, node_name};

/// The cluster id of every bridge here.
pub(crate) const CLUSTER: &str = "k";
/// Ids that Slurm chooses itself are below this; ours are above.
const CHOSEN: u32 = 1_000_000;

/// Nodes, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Nodes(pub(crate) u8);

impl Nodes {
    pub(crate) fn all(count: u8) -> Self {
        Self(u8::MAX >> (8 - count))
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |node| self.has(*node))
    }

    pub(crate) fn has(self, node: u8) -> bool {
        self.0 >> node & 1 == 1
    }

    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// So many from one end: from below, or from above.
    pub(crate) fn take(self, count: u8, above: bool) -> Self {
        let mut all: Vec<u8> = self.iter().collect();
        if above {
            all.reverse();
        }
        Self(all.into_iter().take(usize::from(count)).fold(0, |bits, node| bits | 1 << node))
    }
}

/// One placeholder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Job {
    pub(crate) id: u32,
    pub(crate) gang: u8,
    pub(crate) generation: u32,
    /// Fingerprint in its stamp.
    pub(crate) pods: u64,
    pub(crate) state: State,
    /// What it has, or had.
    pub(crate) nodes: Nodes,
    /// It has been RUNNING at some time.
    pub(crate) ran: bool,
}

/// Its state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Pending,
    Running,
    Over(BaseState),
}

impl Job {
    pub(crate) fn live(&self) -> bool {
        !matches!(self.state, State::Over(_))
    }

    pub(crate) fn holds(&self, node: u8) -> bool {
        self.state == State::Running && self.nodes.has(node)
    }

    /// As the bridge reads it.
    pub(crate) fn facts(&self) -> (Stamp, Facts) {
        let stamp = Stamp {
            cluster: CLUSTER.to_owned(),
            gang: gang_uid(self.gang),
            generation: self.generation,
            pods: self.pods,
            part: None,
        };
        let state = match &self.state {
            State::Pending => "PENDING",
            State::Running => "RUNNING",
            State::Over(base) => base.name(),
        };
        let nodes: Vec<String> = self.nodes.iter().map(node_name).collect();
        let facts = Facts {
            id: JobId(self.id),
            state: JobState::parse(&[state]),
            nodes: if self.state == State::Pending { String::new() } else { nodes.join(",") },
            admin_comment: stamp.to_text(),
            external: true,
            ..Facts::default()
        };
        (stamp, facts)
    }

    /// What it was granted: a GPU on each node.
    pub(crate) fn allocation(&self) -> Allocation {
        let (name, kind) = ("gpu".to_owned(), String::new());
        let gpu = GresAllocation { name, kind, count: 1, indexes: vec![0] };
        let node = |node| NodeAllocation {
            name: node_name(node),
            cpus: 1,
            memory_mib: 1,
            gres: vec![gpu.clone()],
        };
        Allocation { nodes: self.nodes.iter().map(node).collect() }
    }
}

/// slurmctld.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Slurm {
    pub(crate) nodes: Nodes,
    /// In the order of their submit.
    pub(crate) jobs: Vec<Job>,
    /// When slurmctld began (ms).
    pub(crate) boot: i64,
}

impl Slurm {
    pub(crate) fn free(&self) -> Nodes {
        let running = self.jobs.iter().filter(|job| job.state == State::Running);
        running.fold(self.nodes, |free, job| free.without(job.nodes))
    }

    pub(crate) fn of(&self, gang: u8) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(move |job| job.gang == gang)
    }

    pub(crate) fn job(&self, id: u32) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == id)
    }

    pub(crate) fn job_mut(&mut self, id: u32) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }

    /// What the bridge finds under a gang's key.
    pub(crate) fn listed(&self, gang: u8) -> Vec<(Stamp, Facts)> {
        self.of(gang).map(Job::facts).collect()
    }

    /// `job/submit` with an id of ours; nothing where there is one (2011).
    pub(crate) fn submit(&mut self, id: u32, gang: u8, stamp: &Stamp) {
        if self.job(id).is_none() {
            self.jobs.push(Job {
                id,
                gang,
                generation: stamp.generation,
                pods: stamp.pods,
                state: State::Pending,
                nodes: Nodes::default(),
                ran: false,
            });
        }
    }

    /// `job/allocate` at once: a new id each time. A refusal leaves a FAILED record without nodes.
    pub(crate) fn allocate(&mut self, gang: u8, stamp: &Stamp, members: u8) -> Option<u32> {
        let own = self.jobs.iter().filter(|job| job.id < CHOSEN).count();
        let id = u32::try_from(own).expect("few jobs") + 1;
        let free = self.free();
        let fits = free.count() >= u32::from(members);
        self.jobs.push(Job {
            id,
            gang,
            generation: stamp.generation,
            pods: stamp.pods,
            state: if fits { State::Running } else { State::Over(BaseState::Failed) },
            nodes: if fits { free.take(members, false) } else { Nodes::default() },
            ran: fits,
        });
        fits.then_some(id)
    }

    pub(crate) fn waits(&self) -> bool {
        self.jobs.iter().any(|job| job.state == State::Pending)
    }

    pub(crate) fn start(&mut self, id: u32, nodes: Nodes) {
        if let Some(job) = self.job_mut(id) {
            (job.state, job.nodes, job.ran) = (State::Running, nodes, true);
        }
    }

    /// Ends a job, if it lives.
    pub(crate) fn end(&mut self, id: u32, how: BaseState) {
        if let Some(job) = self.job_mut(id).filter(|job| job.live()) {
            job.state = State::Over(how);
        }
    }
}
