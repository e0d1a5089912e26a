//! What can happen: a step of a bridge, of a controller, a kubelet or Slurm, or a fault. Every order of them is
//! searched; of faults there are as many as the search allows.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use ahash::RandomState;
use gangway_core::follow::{Action, Plan};
use gangway_core::job::BaseState;
use gangway_core::life::Life;

use crate::bridge::{Answer, Closed, Command, Desk, Half, Sides, Terms, end_all};
use crate::idle::Reads;
use crate::kubernetes::{Kubernetes, Uid, View, gang_uid};
use crate::rules::Broken;
use crate::slurm::{Job, Nodes, Slurm, State as JobState};

/// Milliseconds that pass at once: longer than every deadline of a gang without volumes.
const A_WHILE: i64 = 61_000;

/// One search: how large the world is, and what may go wrong in it.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) bridges: u8,
    pub(crate) gangs: u8,
    pub(crate) members: u8,
    pub(crate) nodes: u8,
    /// Nodes are asked for at once, which makes a new job each time it is done.
    pub(crate) immediate: bool,
    /// A bridge sees pods as they were a while ago.
    pub(crate) lag: bool,
    /// What may come between Slurm's last word on a job and the bindings that are made on that word.
    pub(crate) late: Late,
    /// A release ends every attempt that there is: planted, for the search that must find what comes of it.
    pub(crate) unfenced: bool,
    pub(crate) faults: Faults,
}

/// What may end a job while bindings for it are on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// Nothing: bindings are quicker.
    Never,
    /// Another bridge.
    ByAnother,
    /// Another bridge, and Slurm.
    Ever,
}

/// How often each fault may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// A bridge is killed; a new one starts in its place.
    pub(crate) crashes: u8,
    /// A call fails, or its answer is lost.
    pub(crate) calls: u8,
    /// Slurm ends a job: preempted where it runs, cancelled where it waits.
    pub(crate) ends: u8,
    /// A bound pod is deleted.
    pub(crate) kills: u8,
    /// A workload is deleted.
    pub(crate) deletions: u8,
    /// A workload finishes.
    pub(crate) finishes: u8,
    /// A node is cordoned.
    pub(crate) cordons: u8,
    /// slurmctld loses its memory of the last seconds.
    pub(crate) rollbacks: u8,
    /// slurmctld loses a job that runs.
    pub(crate) losses: u8,
    /// So much time passes that every deadline is over.
    pub(crate) whiles: u8,
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) kubernetes: Kubernetes,
    pub(crate) slurm: Slurm,
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) now: i64,
    /// Nodes that are cordoned.
    pub(crate) shut: Nodes,
    pub(crate) left: Faults,
    /// A rule that was broken on the way here, where the state alone would not show it.
    pub(crate) broken: Option<Broken>,
    /// A bridge was killed between the first and the last binding of a gang.
    pub(crate) killed_in_binding: bool,
    /// slurmctld has lost memory.
    pub(crate) rolled_back: bool,
}

/// One bridge: all that is lost when it is killed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bridge {
    pub(crate) halves: Vec<Arc<Kept>>,
    /// What it sees, where that lags behind.
    seen: Option<Arc<Kubernetes>>,
}

/// A half, and a number of its own: it is compared and counted far more often than it changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    half: Half,
    number: u64,
}

impl Deref for Kept {
    type Target = Half;

    fn deref(&self) -> &Half {
        &self.half
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Kept {}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.number);
    }
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A bridge makes the next call of what it has decided for a gang.
    Call {
        bridge: u8,
        gang: u8,
        answer: Answer,
    },
    /// It goes on with its question to Slurm.
    Desk {
        bridge: u8,
        gang: u8,
        answer: Answer,
    },
    /// It looks at a gang.
    Look {
        bridge: u8,
        gang: u8,
    },
    /// It sees the pods as they are now.
    See {
        bridge: u8,
    },
    /// It ends placeholders without pods.
    Sweep {
        bridge: u8,
        gang: u8,
    },
    /// A controller makes a pod.
    Make {
        gang: u8,
        rank: u8,
    },
    /// A pod that was told to leave is gone.
    Gone(Uid),
    /// Slurm starts a job on free nodes, from below or from above.
    Start {
        job: u32,
        above: bool,
    },
    /// A while passes.
    While,
    /// Faults, and what users do.
    Crash {
        bridge: u8,
    },
    End {
        job: u32,
    },
    Kill(Uid),
    Delete {
        gang: u8,
    },
    Finish {
        gang: u8,
    },
    Cordon {
        node: u8,
    },
    /// A job that runs waits again.
    Unstart {
        job: u32,
    },
    /// A job is not known any more.
    Lose {
        job: u32,
    },
}

impl Setting {
    pub(crate) fn beginning(&self) -> World {
        let kubernetes = Kubernetes::new(self.gangs, self.members);
        let seen = self.lag.then(|| Arc::new(kubernetes.clone()));
        let halves = vec![Arc::default(); usize::from(self.gangs)];
        World {
            slurm: Slurm { nodes: Nodes::all(self.nodes), jobs: Vec::new(), boot: -A_WHILE },
            bridges: vec![Bridge { halves, seen }; usize::from(self.bridges)],
            kubernetes,
            now: 0,
            shut: Nodes::default(),
            left: self.faults,
            broken: None,
            killed_in_binding: false,
            rolled_back: false,
        }
    }

    fn terms(&self) -> Terms {
        Terms { members: self.members, immediate: self.immediate }
    }

    /// What may happen next without any fault, in the order in which a quiet world does it.
    pub(crate) fn quiet_steps(&self, world: &World, steps: &mut Vec<Step>) {
        let answer = Answer::Heard;
        for (bridge, gang, half) in world.halves() {
            if half.can_call() {
                steps.push(Step::Call { bridge, gang, answer });
            }
            if half.desk_is_open() {
                steps.push(Step::Desk { bridge, gang, answer });
            }
            // Slurm's last word is not older than what is decided on it.
            let news = || self.next(world, Step::Desk { bridge, gang, answer }).is_some();
            let old = self.late != Late::Ever && !half.word_is_true(&world.slurm) && news();
            if half.todo.is_empty() && !old && world.follows(bridge, gang, half) {
                steps.push(Step::Look { bridge, gang });
            }
        }
        for (bridge, of) in (0..).zip(&world.bridges) {
            if of.seen.as_deref().is_some_and(|seen| *seen != world.kubernetes) {
                steps.push(Step::See { bridge });
            }
        }
        steps.extend(world.kubernetes.pods.iter().filter(|p| p.leaving).map(|p| Step::Gone(p.uid)));
        for gang in 0..self.gangs {
            // A controller makes them in the order of their ranks.
            let rank = world.kubernetes.missing(gang).next();
            steps.extend(rank.map(|rank| Step::Make { gang, rank }));
        }
        let room = world.room();
        for job in world.slurm.jobs.iter().filter(|job| job.state == JobState::Pending) {
            if room.count() >= u32::from(self.members) {
                steps.push(Step::Start { job: job.id, above: false });
                if room.count() > u32::from(self.members) {
                    steps.push(Step::Start { job: job.id, above: true });
                }
            }
        }
        for (bridge, gang, half) in world.halves() {
            let forgotten = half.life == Life::default() && half.todo.is_empty();
            let nobody = world.kubernetes.of(gang).next().is_none();
            if forgotten && nobody && world.slurm.of(gang).any(|job| job.live()) {
                steps.push(Step::Sweep { bridge, gang });
            }
        }
    }

    /// What may go wrong next.
    pub(crate) fn faults(&self, world: &World, steps: &mut Vec<Step>) {
        let left = world.left;
        if left.whiles > 0 {
            steps.push(Step::While);
        }
        if left.calls > 0 {
            for answer in [Answer::Lost, Answer::Failed] {
                for (bridge, gang, half) in world.halves() {
                    if half.can_call() && !matches!(half.todo[0], Command::Ask(_) | Command::Forget)
                    {
                        steps.push(Step::Call { bridge, gang, answer });
                    }
                    if half.desk_is_open() && matches!(half.desk, Desk::Submitting { .. }) {
                        steps.push(Step::Desk { bridge, gang, answer });
                    }
                }
            }
        }
        if left.crashes > 0 {
            steps.extend((0..self.bridges).map(|bridge| Step::Crash { bridge }));
        }
        for job in world.slurm.jobs.iter().filter(|job| job.live()) {
            if left.ends > 0 {
                steps.push(Step::End { job: job.id });
            }
            if left.rollbacks > 0 {
                steps.push(match job.state {
                    JobState::Running => Step::Unstart { job: job.id },
                    _ => Step::Lose { job: job.id },
                });
            }
            if left.losses > 0 && job.state == JobState::Running {
                steps.push(Step::Lose { job: job.id });
            }
        }
        if left.kills > 0 {
            let bound = world.kubernetes.pods.iter().filter(|p| p.bound.is_some() && !p.leaving);
            steps.extend(bound.map(|pod| Step::Kill(pod.uid)));
        }
        for gang in 0..self.gangs {
            if left.deletions > 0 && world.kubernetes.owner(gang).wanted {
                steps.push(Step::Delete { gang });
            }
            if left.finishes > 0 && self.is_whole(world, gang) {
                steps.push(Step::Finish { gang });
            }
        }
        if left.cordons > 0 {
            steps.extend(
                world.slurm.nodes.without(world.shut).iter().map(|node| Step::Cordon { node }),
            );
        }
    }

    /// What comes of a step that changes anything and may come now.
    pub(crate) fn next(&self, world: &World, step: Step) -> Option<World> {
        let reads = self.reads(world, step);
        if reads.as_ref().is_some_and(Reads::changes_nothing) {
            return None;
        }
        let next = self.after(world, step);
        if next == *world {
            if let Some(reads) = reads {
                reads.has_changed_nothing();
            }
            return None;
        }
        let by_bridge = matches!(step, Step::Call { .. } | Step::Desk { .. } | Step::Sweep { .. });
        let quick = match self.late {
            Late::Never => true,
            Late::ByAnother => !by_bridge,
            Late::Ever => false,
        };
        // All bindings that were decided for a start are made before it ends.
        let runs =
            |world: &World, id| world.slurm.job(id).is_some_and(|j| j.state == JobState::Running);
        let overtaken =
            |job: &Job| runs(world, job.id) && !runs(&next, job.id) && world.is_being_bound(job.id);
        let may = !quick || !world.slurm.jobs.iter().any(overtaken);
        may.then_some(next)
    }

    /// What comes of a step.
    pub(crate) fn after(&self, world: &World, step: Step) -> World {
        let mut next = world.clone();
        match step {
            Step::Call { bridge, gang, answer } => {
                next.call(bridge, gang, answer, self.late == Late::Ever);
            }
            Step::Desk { bridge, gang, answer } => {
                let (now, terms) = (next.now, self.terms());
                next.change(bridge, gang, |half, sides| {
                    half.desk(&terms, sides.slurm, gang, answer, now);
                });
                next.left.calls -= u8::from(answer != Answer::Heard);
                next.check_seats(bridge, gang);
            }
            Step::Look { bridge, gang } => {
                next.look(bridge, gang);
                if self.unfenced {
                    next.change(bridge, gang, |half, _| half.without_fences());
                }
            }
            Step::See { bridge } => {
                let seen = Arc::new(next.kubernetes.clone());
                next.bridges[usize::from(bridge)].seen = Some(seen);
            }
            Step::Sweep { gang, .. } => end_all(&mut next.slurm, gang, u32::MAX),
            Step::Make { gang, rank } => next.kubernetes.make(gang, rank),
            Step::Gone(uid) => next.kubernetes.gone(uid),
            Step::Start { job, above } => {
                let nodes = next.room().take(self.members, above);
                next.slurm.start(job, nodes);
            }
            Step::While => {
                next.now += A_WHILE;
                next.left.whiles = next.left.whiles.saturating_sub(1);
            }
            Step::Crash { bridge } => {
                let of = &mut next.bridges[usize::from(bridge)];
                let binds = |half: &Arc<Kept>| matches!(half.todo.first(), Some(Command::Bind(..)));
                let in_binding = of.halves.iter().any(binds);
                of.halves.fill(Arc::default());
                if let Some(seen) = &mut of.seen {
                    *seen = Arc::new(next.kubernetes.clone());
                }
                next.killed_in_binding |=
                    in_binding && next.kubernetes.pods.iter().any(|p| p.bound.is_some());
                next.left.crashes -= 1;
            }
            Step::End { job } => {
                let waits = next.slurm.job(job).is_some_and(|j| j.state == JobState::Pending);
                let how = if waits { BaseState::Cancelled } else { BaseState::Preempted };
                next.slurm.end(job, how);
                next.left.ends -= 1;
            }
            Step::Kill(uid) => {
                next.kubernetes.delete(uid);
                next.left.kills -= 1;
            }
            Step::Delete { gang } => {
                next.kubernetes.owners[usize::from(gang)].wanted = false;
                let pods: Vec<Uid> = next.kubernetes.of(gang).map(|pod| pod.uid).collect();
                pods.into_iter().for_each(|uid| next.kubernetes.delete(uid));
                next.left.deletions -= 1;
            }
            Step::Finish { gang } => {
                next.kubernetes.owners[usize::from(gang)].over = true;
                for pod in next.kubernetes.pods.iter_mut().filter(|pod| pod.uid.gang == gang) {
                    pod.finished = true;
                }
                next.left.finishes -= 1;
            }
            Step::Cordon { node } => {
                next.shut.0 |= 1 << node;
                next.left.cordons -= 1;
            }
            Step::Unstart { job } => {
                if let Some(job) = next.slurm.job_mut(job) {
                    (job.state, job.nodes) = (JobState::Pending, Nodes::default());
                }
                (next.rolled_back, next.slurm.boot) = (true, next.now);
                next.left.rollbacks -= 1;
            }
            Step::Lose { job } => {
                let ran = next.slurm.job(job).is_some_and(|job| job.state == JobState::Running);
                let left = if ran { &mut next.left.losses } else { &mut next.left.rollbacks };
                *left -= 1;
                next.slurm.jobs.retain(|found| found.id != job);
                (next.rolled_back, next.slurm.boot) = (true, next.now);
            }
        }
        next.order_bridges();
        next
    }

    /// Every member is bound for the gang's own running job, one on each node, and nobody leaves.
    pub(crate) fn is_whole(&self, world: &World, gang: u8) -> bool {
        let Some(job) = world.slurm.of(gang).find(|job| job.state == JobState::Running) else {
            return false;
        };
        let well = |pod: &crate::kubernetes::Pod| {
            let seated = pod.bound.is_some_and(|b| b.job == job.id && job.holds(b.node));
            seated && !pod.leaving && !pod.finished
        };
        world.kubernetes.of(gang).count() == usize::from(self.members)
            && world.kubernetes.of(gang).all(well)
    }
}

/// For people: pods, jobs, and where each bridge is.
impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pod in &self.kubernetes.pods {
            let bound =
                pod.bound.map(|b| format!(" on n{} for job {} ({})", b.node, b.job, b.generation));
            let leaves = if pod.leaving { ", leaves" } else { "" };
            writeln!(f, "    pod {}{}{leaves}", pod.uid.text(), bound.unwrap_or_default())?;
        }
        for job in &self.slurm.jobs {
            let nodes: Vec<u8> = job.nodes.iter().collect();
            let (id, gang, generation) = (job.id, gang_uid(job.gang), job.generation);
            writeln!(f, "    job {id} of {gang} ({generation}): {:?} {nodes:?}", job.state)?;
        }
        for (bridge, gang, half) in self.halves() {
            let heard = half.life.verdict().map(|v| format!("{v:?}")).unwrap_or_default();
            let heard = heard.split(['(', ' ']).next().unwrap_or_default();
            let (desk, todo) = (&half.desk, half.todo.len());
            writeln!(
                f,
                "    bridge {bridge}, {}: {desk:?}, heard {heard:?}, {todo} to do",
                gang_uid(gang)
            )?;
        }
        Ok(())
    }
}

impl World {
    pub(crate) fn half(&self, bridge: u8, gang: u8) -> &Half {
        &self.bridges[usize::from(bridge)].halves[usize::from(gang)]
    }

    pub(crate) fn halves(&self) -> impl Iterator<Item = (u8, u8, &Half)> {
        (0..).zip(&self.bridges).flat_map(|(bridge, of)| {
            (0..).zip(&of.halves).map(move |(gang, kept)| (bridge, gang, &kept.half))
        })
    }

    /// What a bridge sees.
    fn seen(&self, bridge: u8) -> &Kubernetes {
        self.bridges[usize::from(bridge)].seen.as_deref().unwrap_or(&self.kubernetes)
    }

    /// Whether a bridge has a follower for a gang.
    fn follows(&self, bridge: u8, gang: u8, half: &Half) -> bool {
        half.life != Life::default() || self.seen(bridge).of(gang).next().is_some()
    }

    /// Nodes that Slurm may give: the bridge has told it which are shut.
    pub(crate) fn room(&self) -> Nodes {
        self.slurm.free().without(self.shut)
    }

    fn is_being_bound(&self, job: u32) -> bool {
        let binds = |command: &Command| matches!(command, Command::Bind(_, b) if b.job == job);
        self.halves().any(|(_, _, half)| half.todo.iter().any(binds))
    }

    /// Changes one half.
    fn change<T>(
        &mut self,
        bridge: u8,
        gang: u8,
        change: impl FnOnce(&mut Half, &mut Sides<'_>) -> T,
    ) -> T {
        let mut sides = Sides { kubernetes: &mut self.kubernetes, slurm: &mut self.slurm };
        let kept = &mut self.bridges[usize::from(bridge)].halves[usize::from(gang)];
        let kept = Arc::make_mut(kept);
        let out = change(&mut kept.half, &mut sides);
        kept.number = if kept.half == Half::default() { 0 } else { number(&kept.half) };
        out
    }

    /// Where the members of a gang cannot go, as its bridge knows.
    fn closed_to(&self, bridge: u8, gang: u8) -> Closed {
        let others = self.halves().filter(|(b, g, _)| *b == bridge && *g != gang);
        let promised = others.flat_map(|(_, _, half)| &half.todo).filter_map(|c| match c {
            Command::Bind(uid, binding) => Some((*uid, binding.node)),
            _ => None,
        });
        Closed { shut: self.shut, promised: promised.collect() }
    }

    fn look(&mut self, bridge: u8, gang: u8) {
        let seen = self.bridges[usize::from(bridge)].seen.clone();
        let (closed, now) = (self.closed_to(bridge, gang), self.now);
        let before = View::of(seen.as_deref().unwrap_or(&self.kubernetes), gang);
        let plan = self.change(bridge, gang, |half, sides| {
            half.look(seen.as_deref().unwrap_or(sides.kubernetes), gang, &closed, now)
        });
        let evicts = |plan: &Plan| plan.actions.iter().any(|a| matches!(a, Action::Evict { .. }));
        if evicts(&plan) && self.nothing_has_ended(gang, &before) {
            self.broken = Some(Broken::EvictedWithoutEvidence);
        }
    }

    fn call(&mut self, bridge: u8, gang: u8, answer: Answer, late: bool) {
        let binding = match self.half(bridge, gang).todo.first() {
            Some(Command::Bind(uid, binding)) => Some((*uid, *binding)),
            _ => None,
        };
        let unbound = |(uid, _): &(Uid, _)| {
            self.kubernetes.pods.iter().any(|p| p.uid == *uid && p.bound.is_none())
        };
        let binding = binding.filter(unbound);
        let now = self.now;
        self.change(bridge, gang, |half, sides| half.call(sides, gang, answer, now));
        self.left.calls -= u8::from(answer != Answer::Heard);
        if let Some((uid, binding)) = binding
            && let Some(pod) = self.kubernetes.find(uid)
            && pod.bound == Some(binding)
        {
            if binding.rank != uid.rank {
                self.broken = Some(Broken::RankChanged);
            }
            let job = self.slurm.job(binding.job);
            if !late && !job.is_some_and(|job| job.gang == gang && job.holds(binding.node)) {
                self.broken = Some(Broken::BoundOutside);
            }
        }
    }

    /// The bridges are alike: of two worlds that differ only in which is which, one is looked at.
    fn order_bridges(&mut self) {
        if self.bridges.len() > 1 {
            self.bridges.sort_by_cached_key(number::<Bridge>);
        }
    }
}

/// The same in every search: states are numbered far more often than they are looked at.
pub(crate) const NUMBERS: RandomState = RandomState::with_seeds(1, 2, 3, 4);

/// Of a thing among all that are alike.
pub(crate) fn number<T: Hash>(thing: &T) -> u64 {
    NUMBERS.hash_one(thing)
}
