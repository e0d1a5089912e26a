use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ask::Ask;
use crate::follow::{Ends, LOST_FOR_MS};
use crate::gang::{Bound, Gang, Member, Notice};
use crate::job::{BaseState, JobId};
use crate::place::Seat;
use crate::policy::{Category, Refusal};

const PAGE: &str = include_str!("../../../../docs/reference/states.md");

/// A gang of two, a Slurm of one job and a bridge that may start anew, driven by chance: enough to meet
/// every phase. What must never happen is looked for by the model and the simulator.
struct Walk {
    chance: u64,
    now: i64,
    life: Life,
    assembled: Assembled,
    made: u32,
    job: Option<BaseState>,
    generation: u32,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let gang = Gang {
            uid: "g".to_owned(),
            namespace: "team".to_owned(),
            name: "train".to_owned(),
            kind: "Job".to_owned(),
            members: Vec::new(),
            expected: 2,
            later: Vec::new(),
            excluded_nodes: Vec::new(),
            // Every other gang asks to be warned.
            ask: Ask { grace_seconds: seed.is_multiple_of(2).then_some(6), ..Ask::default() },
        };
        Self {
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 0,
            life: Life::default(),
            assembled: Assembled {
                gang,
                problems: Vec::new(),
                leaving: BTreeSet::new(),
                over: false,
                after: None,
                nowhere: None,
                torn: false,
                stand_ins: Vec::new(),
                stands_in: None,
                policies: 0,
            },
            made: 0,
            job: None,
            generation: 0,
        }
    }

    /// A number below `of`.
    fn draw(&mut self, of: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % of
    }

    fn phase(&self) -> Phase {
        self.life.phase(&self.assembled)
    }

    fn event(&mut self, event: Event<'_>) {
        let (life, plan) = step(self.life.clone(), event, self.now);
        assert_eq!(plan, Plan::default(), "only a look is answered with commands");
        self.life = life;
    }

    /// One thing happens.
    fn go_on(&mut self) {
        self.now += i64::try_from(self.draw(4_000)).expect("small");
        match self.draw(12) {
            0..=4 => self.look(),
            5 | 6 => self.slurm_goes_on(),
            7 | 8 => self.speak(),
            9 => self.pods_change(),
            10 if self.draw(4) == 0 => self.life = Life::default(),
            10 if self.life.progress().asked.is_some() && self.draw(4) == 0 => {
                self.event(Event::Closed { broken: true });
            }
            _ => self.create(),
        }
    }

    fn create(&mut self) {
        for rank in 0..2 {
            if self.assembled.gang.members.iter().all(|m| m.rank != rank) {
                self.made += 1;
                let uid = format!("p{}", self.made);
                let name = format!("train-{rank}");
                let (role, demand) = (String::new(), std::sync::Arc::default());
                let member = Member {
                    uid,
                    name,
                    role,
                    rank,
                    demand,
                    bound: None,
                    finished: false,
                    gated: false,
                    notice: Notice::None,
                    reach: 0,
                };
                self.assembled.gang.members.push(member);
                self.assembled.gang.members.sort_by_key(|m| m.rank);
                return;
            }
        }
    }

    fn pods_change(&mut self) {
        let one = usize::try_from(self.draw(2)).expect("small");
        let kind = self.draw(5);
        let gang = &mut self.assembled.gang;
        if kind == 3 {
            self.assembled.leaving.clear();
        } else if one < gang.members.len() {
            match kind {
                0 => drop(gang.members.remove(one)),
                4 if gang.members[one].notice == Notice::Warned => {
                    gang.members[one].notice = Notice::Checkpointed;
                }
                1 => {
                    let member = gang.members.remove(one);
                    self.assembled.leaving.insert(member.uid);
                }
                4 => {}
                _ => gang.members[one].finished = gang.members[one].bound.is_some(),
            }
        }
    }

    fn slurm_goes_on(&mut self) {
        let by_chance = self.draw(3);
        self.job = match self.job.take() {
            Some(BaseState::Pending) => Some(BaseState::Running),
            // Its end, or a roll-back.
            Some(BaseState::Running) if by_chance == 0 => Some(BaseState::Preempted),
            Some(BaseState::Running) if by_chance == 1 => Some(BaseState::Pending),
            other => other,
        };
    }

    /// The door says what Slurm has of the gang, if it was asked.
    fn speak(&mut self) {
        let Some(asked) = self.life.progress().asked.clone() else { return };
        let last = matches!(self.life.verdict(), Some(Verdict::Refused(_) | Verdict::Ended { .. }));
        if last {
            return;
        }
        if self.job.is_none() && self.draw(8) == 0 {
            let refusal = Refusal::new(Category::Partition, "no such partition");
            return self.event(Event::Heard(Verdict::Refused(refusal)));
        }
        if self.job.is_none() {
            self.job = Some(BaseState::Pending);
            self.generation += 1;
        }
        let (job, generation) = (JobId(self.generation), self.generation);
        let (in_ms, by_time_limit) = (10_000, self.draw(2) == 0);
        let ends = (self.draw(3) == 0).then_some(Ends { in_ms, by_time_limit });
        let verdict = match self.job.clone() {
            Some(BaseState::Running) => {
                let seats =
                    self.assembled.gang.members.iter().filter(|m| asked.pods.contains(&m.uid));
                let seats = seats.map(|m| (m.uid.clone(), seat(m.rank))).collect();
                Verdict::Allocated {
                    job,
                    generation,
                    seats,
                    note: String::new(),
                    ends,
                    renewed: false,
                }
            }
            Some(BaseState::Pending) | None => Verdict::Queued {
                job: Some(job),
                reason: "Resources".to_owned(),
                message: "in the queue".to_owned(),
                expected_start: 0,
            },
            Some(state) => {
                self.job = None;
                Verdict::Ended { job, generation, state, message: "over".to_owned() }
            }
        };
        self.event(Event::Heard(verdict));
    }

    fn look(&mut self) {
        let spots = match self.life.verdict() {
            Some(Verdict::Allocated { seats, .. }) => seats
                .iter()
                .map(|(uid, seat)| (uid.clone(), Spot::Free(seat.node.clone())))
                .collect(),
            _ => BTreeMap::new(),
        };
        let assembled = self.assembled.clone();
        let looked = Event::Looked { assembled: &assembled, spots: &spots };
        let (life, plan) = step(self.life.clone(), looked, self.now);
        self.life = life;
        for action in plan.actions {
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        let ok = self.draw(5) > 0;
        match action {
            Action::Ask => {
                let assembled = self.assembled.clone();
                self.event(Event::Asked { assembled: &assembled, ok });
            }
            Action::Bind { pod, seat, job, generation, .. } => {
                self.event(Event::Binding { some_bound: false });
                let members = &mut self.assembled.gang.members;
                if let Some(member) = members.iter_mut().find(|m| m.uid == pod && ok) {
                    let indexes = BTreeMap::new();
                    member.bound = Some(Bound { generation, job, node: seat.node, indexes });
                }
                self.event(Event::Wrote { write: Write::Bind, pod: &pod, ok });
            }
            Action::Evict { pod, .. } => {
                if ok {
                    self.assembled.gang.members.retain(|m| m.uid != pod);
                    self.assembled.leaving.insert(pod.clone());
                }
                self.event(Event::Wrote { write: Write::Evict, pod: &pod, ok });
            }
            Action::Inquire => self.event(Event::Learned(ok.then_some(self.generation))),
            Action::Release { .. } => {
                self.job = self.job.take().filter(|_| !ok);
                self.event(Event::Released { ok });
            }
            Action::GiveBack { .. } => {
                self.job = self.job.take().filter(|_| !ok);
                self.event(Event::GivenBack { ok });
            }
            Action::Warn { pod, leave } => {
                let mut members = self.assembled.gang.members.iter_mut();
                if let Some(member) = members.find(|m| m.uid == pod && ok) {
                    member.notice = if leave.is_some() { Notice::Warned } else { Notice::None };
                }
                self.event(Event::Wrote { write: Write::Warn, pod: &pod, ok });
            }
            Action::StandIn { pod, .. } => {
                self.event(Event::Wrote { write: Write::StandIn, pod: &pod, ok });
            }
            Action::SelectNode { uid, .. } => self.event(Event::Told { claim: &uid, ok }),
            Action::Forget => self.life = Life::default(),
            Action::NewRound => panic!("a new round is the machine's own"),
        }
    }
}

fn seat(rank: u32) -> Seat {
    Seat { rank, node: format!("n{rank}"), indexes: Vec::new() }
}

/// The ways that were gone by many gangs with many fates.
fn ways() -> BTreeSet<(Phase, Phase)> {
    let mut gone = BTreeSet::new();
    for seed in 1..1_500 {
        let mut walk = Walk::new(seed);
        let mut before = walk.phase();
        for _ in 0..400 {
            let restarted = walk.life == Life::default();
            walk.go_on();
            let after = walk.phase();
            if before != after && !(restarted || walk.life == Life::default()) {
                gone.insert((before, after));
            }
            before = after;
        }
    }
    gone
}

#[test]
fn every_way_between_phases_is_in_the_table_and_is_gone() {
    let gone = ways();
    let rows = Phase::ALL.map(|from| {
        let to = gone.iter().filter(|(f, _)| *f == from).map(|(_, to)| *to);
        (from, to.collect::<Vec<_>>())
    });
    let told = Phase::ALL.map(|from| (from, from.next().to_vec()));
    assert_eq!(rows, told);
}

#[test]
fn an_end_that_moves_right_after_it_was_told_is_told_anew() {
    let mut walk = Walk::new(1);
    walk.create();
    walk.create();
    let gang = &mut walk.assembled.gang;
    gang.ask.grace_seconds = Some(60);
    for member in &mut gang.members {
        let (job, node, indexes) = (JobId(1), seat(member.rank).node, BTreeMap::new());
        member.bound = Some(Bound { generation: 1, job, node, indexes });
    }
    let seats: BTreeMap<String, Seat> =
        gang.members.iter().map(|m| (m.uid.clone(), seat(m.rank))).collect();
    let ends_in = |in_ms| Verdict::Allocated {
        job: JobId(1),
        generation: 1,
        seats: seats.clone(),
        note: String::new(),
        ends: Some(Ends { in_ms, by_time_limit: true }),
        renewed: false,
    };
    let told = |walk: &mut Walk| {
        let assembled = walk.assembled.clone();
        let looked = Event::Looked { assembled: &assembled, spots: &BTreeMap::new() };
        let (life, plan) = step(walk.life.clone(), looked, walk.now);
        walk.life = life;
        let mut told = Vec::new();
        for action in plan.actions {
            let Action::Warn { pod, leave } = action else { panic!("{action:?}") };
            walk.event(Event::Wrote { write: Write::Warn, pod: &pod, ok: true });
            told.push(leave.map(|(in_ms, _)| in_ms));
        }
        told
    };
    walk.event(Event::Heard(ends_in(20_000)));
    assert_eq!(told(&mut walk), [Some(20_000); 2]);
    walk.now += 1_000;
    assert_eq!(told(&mut walk), [], "the watch has yet to show it");
    walk.event(Event::Heard(ends_in(40_000)));
    assert_eq!(told(&mut walk), [Some(40_000); 2]);
}

#[test]
fn the_page_shows_every_phase_as_it_is() {
    let row = |phase: Phase| {
        let next: Vec<&str> = phase.next().iter().map(|next| next.name()).collect();
        format!("| {} | {} | {} |", phase.name(), phase.says(), next.join(", "))
    };
    let rows = Phase::ALL.map(row);
    let table = PAGE.lines().skip_while(|line| !line.starts_with("| phase |")).skip(2);
    let shown: Vec<&str> = table.take_while(|line| !line.is_empty()).collect();
    assert_eq!(shown, rows, "docs/reference/states.md should be:\n{}", rows.join("\n"));
}

/// A successor whose seat is lost is told that it stands in once that has lasted, and once.
#[test]
fn how_long_a_seat_is_lost_is_counted_while_it_is() {
    let mut walk = Walk::new(1);
    walk.create();
    walk.create();
    walk.assembled.gang.ask.on_loss = Some(crate::ask::OnLoss::Replace);
    let seats = BTreeMap::from([("p1", 0), ("p2", 1)].map(|(uid, rank)| {
        (uid.to_owned(), Seat { rank, node: format!("n{rank}"), indexes: Vec::new() })
    }));
    let (note, ends, renewed) = (String::new(), None, false);
    let (job, generation) = (JobId(7), 1);
    walk.event(Event::Heard(Verdict::Allocated { job, generation, seats, note, ends, renewed }));
    let node = "n0".to_owned();
    let indexes = BTreeMap::new();
    walk.assembled.gang.members[0].bound = Some(Bound { generation, job, node, indexes });
    let lost = BTreeMap::from([("p2".to_owned(), Spot::NoNode)]);
    let free = BTreeMap::from([("p2".to_owned(), Spot::Free("n1".to_owned()))]);
    let mut told = |now: i64, spots: &BTreeMap<String, Spot>| {
        let assembled = &walk.assembled;
        let (life, plan) = step(walk.life.clone(), Event::Looked { assembled, spots }, now);
        walk.life = life;
        let told = plan.actions.iter().filter(|a| matches!(a, Action::StandIn { .. })).count();
        if told > 0 {
            walk.now = now;
            walk.event(Event::Wrote { write: Write::StandIn, pod: "p2", ok: true });
        }
        told
    };
    assert_eq!(told(0, &lost), 0);
    assert_eq!(told(LOST_FOR_MS - 1, &free), 0, "it is back");
    assert_eq!(told(LOST_FOR_MS, &lost), 0);
    assert_eq!(told(2 * LOST_FOR_MS, &lost), 1);
    assert_eq!(told(2 * LOST_FOR_MS + 1, &lost), 0, "the watch has yet to show it");
}
