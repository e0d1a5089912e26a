//! The rules of the house (docs/model.md) as far as a state can show them broken, and the good ends that must
//! be reachable.

use gangway_core::follow::Verdict;
use gangway_core::job::BaseState;
use stateright::{Model, Property};

use crate::bridge::Desk;
use crate::kubernetes::View;
use crate::recovery::Search;
use crate::slurm::{Job, State};
use crate::world::{Setting, Step, World};

/// A rule that was broken by a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    /// Rule 1.
    BoundOutside,
    /// Rule 6.
    EvictedWithoutEvidence,
    /// Rule 9.
    RankChanged,
}

impl Model for Search {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![self.setting.beginning()]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.setting.quiet_steps(world, steps);
        self.setting.faults(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        self.setting.next(world, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = rules();
        all.extend(good_ends().into_iter().filter(|end| self.ends.contains(&end.name)));
        all
    }
}

fn rules() -> Vec<Property<Search>> {
    vec![
        Property::always("1 Slurm decides", |_, world: &World| {
            world.broken != Some(Broken::BoundOutside)
        }),
        Property::always("2 one gang, one placeholder", |_, world: &World| {
            let jobs = &world.slurm.jobs;
            jobs.iter().all(|job| !job.ran || !jobs.iter().any(|other| is_double(job, other)))
        }),
        Property::always(
            "3, 5 all or nothing, and nothing leaks",
            |search: &Search, world: &World| search.recovers(world).is_ok(),
        ),
        Property::always("4 no device has two owners", |_, world: &World| {
            let holding = world.kubernetes.pods.iter().filter(|pod| !pod.finished);
            let mut held: Vec<u8> = holding.filter_map(|p| Some(p.bound?.node)).collect();
            held.sort_unstable();
            held.windows(2).all(|two| two[0] != two[1])
        }),
        Property::always("6 could not ask is not gone", |_, world: &World| {
            world.broken != Some(Broken::EvictedWithoutEvidence)
        }),
        Property::always("9 a rank never changes", |_, world: &World| {
            world.broken != Some(Broken::RankChanged)
        }),
    ]
}

/// Two jobs of one attempt that have both run.
fn is_double(one: &Job, other: &Job) -> bool {
    one.id != other.id && other.ran && (one.gang, one.generation) == (other.gang, other.generation)
}

/// Whether a good end is met in a world.
type Seen = fn(&Search, &World) -> bool;

fn good_ends() -> Vec<Property<Search>> {
    let ends: Vec<(&'static str, Seen)> = vec![
        ("all are bound", |s, w| s.setting.is_whole(w, 0)),
        ("given back after deletion", |_, w| {
            let ran_and_ended = |job: &Job| job.ran && !job.live();
            let owner = w.kubernetes.owner(0);
            !owner.wanted
                && w.kubernetes.of(0).count() == 0
                && w.slurm.of(0).all(ran_and_ended)
                && w.slurm.of(0).count() > 0
        }),
        ("given back after its pods have finished", |_, w| {
            let cancelled = |job: &Job| job.state == State::Over(BaseState::Cancelled);
            w.kubernetes.owner(0).over && w.slurm.of(0).all(cancelled)
        }),
        ("bound anew after its job was ended", |s, w| {
            let again = |job: &Job| job.generation > 1 && job.state == State::Running;
            s.setting.is_whole(w, 0) && w.slurm.of(0).any(again)
        }),
        ("bound anew in the same allocation", |s, w| {
            let again = w.kubernetes.of(0).all(|pod| pod.uid.made > 0);
            s.setting.is_whole(w, 0) && again && w.slurm.of(0).count() == 1
        }),
        ("bound after a bridge was killed in the middle of it", |s, w| {
            w.killed_in_binding && s.setting.is_whole(w, 0)
        }),
        ("one runs and the other waits", |s, w| {
            let waits = |job: &Job| job.state == State::Pending;
            s.setting.is_whole(w, 0) && w.slurm.of(1).any(waits)
        }),
        ("the other runs where the first has run", |s, w| {
            let ran = |job: &Job| job.ran;
            s.setting.is_whole(w, 1) && w.slurm.of(0).any(ran)
        }),
        ("two bridges follow one placeholder", |_, w| {
            let follows = |desk: &Desk| matches!(desk, Desk::Following { .. });
            let mut desks = w.bridges.iter().map(|b| &b.halves[0].desk);
            desks.len() > 1 && desks.all(follows)
        }),
        ("bound anew elsewhere after slurmctld forgot", |s, w| {
            let again = w.kubernetes.of(0).all(|pod| pod.uid.made > 0);
            w.rolled_back && again && s.setting.is_whole(w, 0)
        }),
        ("submitted anew after slurmctld forgot", |s, w| {
            let first = w.kubernetes.of(0).all(|pod| pod.uid.made == 0);
            w.rolled_back && first && s.setting.is_whole(w, 0)
        }),
        ("given back for a node that was shut", |s, w| {
            let again = |job: &Job| job.generation > 1 && job.pods != 0;
            w.shut.count() > 0 && w.slurm.of(0).any(again) && s.setting.is_whole(w, 0)
        }),
    ];
    ends.into_iter().map(|(name, seen)| Property::sometimes(name, seen)).collect()
}

impl World {
    /// No end, no loss and no deadline has been seen of a gang that some pods are told to leave for.
    pub(crate) fn nothing_has_ended(&self, gang: u8, seen: &View) -> bool {
        let bound = || seen.pods.iter().filter_map(|pod| Some((pod, pod.bound?)));
        let lives = |(job, node): (u32, u8)| match self.slurm.job(job).map(|j| &j.state) {
            Some(State::Running) => self.slurm.job(job).is_some_and(|j| j.holds(node)),
            // It may come back, and where it is not known it may still run (rule 6).
            Some(State::Pending) | None => true,
            Some(State::Over(_)) => false,
        };
        let first = |(pod, _): (&crate::kubernetes::Pod, _)| !pod.leaving && !pod.finished;
        let whole = bound().filter(|b| first(*b)).count() == self.kubernetes.owner(gang).made.len();
        // A start elsewhere has been seen, or another placeholder is there.
        let other = self.slurm.of(gang).any(|job| {
            job.state == State::Running
                && bound().any(|(_, b)| b.job != job.id || !job.holds(b.node))
        });
        whole && !other && bound().all(|(_, b)| lives((b.job, b.node)))
    }

    /// Members that are bound keep their seats in one start, however often they are asked for (rule 9).
    pub(crate) fn check_seats(&mut self, bridge: u8, gang: u8) {
        let half = &self.bridges[usize::from(bridge)].halves[usize::from(gang)];
        let Some(Verdict::Allocated { job, seats, .. }) = half.life.verdict() else { return };
        // Under the same id it may have started anew.
        if self.rolled_back {
            return;
        }
        let moved = |pod: &crate::kubernetes::Pod| {
            let (Some(bound), Some(seat)) = (pod.bound, seats.get(&pod.uid.text())) else {
                return false;
            };
            let here = crate::kubernetes::node_of(&seat.node) == bound.node;
            let same_start = self.slurm.job(job.0).is_some_and(|j| j.holds(bound.node));
            bound.job == job.0 && same_start && (!here || seat.rank != u32::from(bound.rank))
        };
        if self.kubernetes.of(gang).any(moved) {
            self.broken = Some(Broken::RankChanged);
        }
    }
}

impl Setting {
    /// Where a quiet world may stay: every gang that is wanted runs whole, or waits for nodes that are not
    /// there; of the others nothing is left.
    pub(crate) fn is_well(&self, world: &World) -> bool {
        (0..self.gangs).all(|gang| {
            let live: Vec<&Job> = world.slurm.of(gang).filter(|job| job.live()).collect();
            let owner = world.kubernetes.owner(gang);
            if !owner.wanted {
                return live.is_empty() && world.kubernetes.of(gang).next().is_none();
            }
            if owner.over {
                return live.is_empty();
            }
            let waits = || {
                let nobody = world.kubernetes.of(gang).all(|p| p.bound.is_none() && !p.leaving);
                let full = world.room().count() < u32::from(self.members);
                nobody && full && live[0].state == State::Pending
            };
            live.len() == 1 && (self.is_whole(world, gang) || waits())
        })
    }
}
