//! One bridge's part in one gang: its follower and its place in the queue, step by step as the shell has them
//! (crates/gangway: `follow`, `queue/follow`, `queue/submit`). Every decision is core's own; only the order of
//! calls and what becomes of their answers is said here.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use gangway_core::follow::{Action, Plan, Spot, Verdict};
use gangway_core::gang::{Bound, Member};
use gangway_core::job::{BaseState, GresRequest, JobId, Standing};
use gangway_core::life::{Event, Life, Write, step};
use gangway_core::place::{Placer, Seat, Seeker, place, still_holds};
use gangway_core::placeholder::{
    Fate, JobIds, Silence, Stamp, Step, after_lost, fate, fingerprint, next,
};
use gangway_core::reason;
use gangway_core::topology::Topology;

use crate::kubernetes::{Binding, Kubernetes, Uid, View, gang_uid, node_name, node_of};
use crate::slurm::{CLUSTER, Job, Nodes, Slurm};

/// The two sides, as they are at this moment.
pub(crate) struct Sides<'a> {
    pub(crate) kubernetes: &'a mut Kubernetes,
    pub(crate) slurm: &'a mut Slurm,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is done, and the answer is heard.
    Heard,
    /// It is done, and the answer is lost.
    Lost,
    /// It is not done.
    Failed,
}

/// All that one bridge remembers of one gang: lost with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Half {
    pub(crate) life: Life,
    /// What was decided and is still to be done.
    pub(crate) todo: Vec<Command>,
    pub(crate) desk: Desk,
    /// The placeholder was told to end, and its end is waited for: the latest attempt that this is about.
    pub(crate) releasing: Option<u32>,
    /// The latest attempt that was submitted for this question.
    submitted: u32,
    /// A submit was in doubt: nothing is asked for at once any more.
    doubted: bool,
    /// The gang as it was last asked for.
    asked: View,
    /// Job and generation that slurmctld does not know.
    lost: Option<(u32, u32)>,
    /// The question was put since a verdict was heard: the next word is heard even if it is the same.
    unheard: bool,
    /// When the slurmctld began that was last seen to know its job alive.
    alive: Option<i64>,
}

/// One call, or one thing that is said between the halves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    Ask(View),
    Bind(Uid, Binding),
    Evict(Uid),
    Inquire,
    Release(u32),
    /// The first part of giving back: its stamp says that its end ends no pods.
    Unstamp(u32),
    GiveBack(u32),
    Forget,
}

/// Where the question to Slurm is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Desk {
    /// There is none.
    #[default]
    Idle,
    /// What Slurm lists is about to be read.
    Deciding,
    /// It is about to be submitted.
    Submitting {
        generation: u32,
        pods: u64,
        at_once: bool,
        /// The id that its pods carry, where it had been accepted before.
        id: Option<u32>,
    },
    Following {
        job: u32,
        generation: u32,
    },
}

impl Half {
    /// Looks at the gang and takes in what is to be done.
    pub(crate) fn look(
        &mut self,
        kubernetes: &Kubernetes,
        gang: u8,
        closed: &Closed,
        now: i64,
    ) -> Plan {
        let view = View::of(kubernetes, gang);
        let assembled = view.assembled();
        let spots = match self.life.verdict() {
            Some(Verdict::Allocated { seats, .. }) => spots(kubernetes, seats, closed),
            _ => BTreeMap::new(),
        };
        let plan = self.step(Event::Looked { assembled: &assembled, spots: &spots }, now);
        let binds = plan.actions.iter().any(|action| matches!(action, Action::Bind { .. }));
        if binds {
            let some_bound = assembled.gang.members.iter().any(|m| m.bound.is_some());
            self.note(Event::Binding { some_bound }, now);
        }
        self.todo = commands(&plan, &view);
        plan
    }

    /// Makes the next call.
    pub(crate) fn call(&mut self, sides: &mut Sides<'_>, gang: u8, answer: Answer, now: i64) {
        let (done, ok) = (answer != Answer::Failed, answer == Answer::Heard);
        match self.todo.remove(0) {
            Command::Ask(view) => {
                self.note(Event::Asked { assembled: &view.assembled(), ok: true }, now);
                (self.asked, self.unheard) = (view, true);
                if self.desk == Desk::Idle {
                    self.desk = Desk::Deciding;
                }
            }
            Command::Bind(uid, binding) => {
                let ok = done && sides.kubernetes.bind(uid, binding) && ok;
                self.note(Event::Wrote { write: Write::Bind, pod: &uid.text(), ok }, now);
            }
            Command::Evict(uid) => {
                if done {
                    sides.kubernetes.delete(uid);
                }
                self.note(Event::Wrote { write: Write::Evict, pod: &uid.text(), ok }, now);
            }
            Command::Inquire => {
                let latest = sides.slurm.of(gang).map(|job| job.generation).max().unwrap_or(0);
                self.note(Event::Learned(ok.then_some(latest)), now);
                self.or_give_up(false);
            }
            Command::Release(latest) => {
                self.release(sides.slurm, gang, latest, done);
                self.note(Event::Released { ok }, now);
                self.or_give_up(ok);
            }
            Command::Unstamp(latest) => {
                let ours = |j: &&mut Job| j.gang == gang && j.live() && j.generation <= latest;
                for job in sides.slurm.jobs.iter_mut().filter(|j| done && ours(j)) {
                    job.pods = job.facts().0.given_back().pods;
                }
                if !ok {
                    self.note(Event::GivenBack { ok }, now);
                    self.or_give_up(ok);
                }
            }
            Command::GiveBack(latest) => {
                self.release(sides.slurm, gang, latest, done);
                self.note(Event::GivenBack { ok }, now);
                self.or_give_up(ok);
            }
            Command::Forget => self.life = Life::default(),
        }
    }

    fn release(&mut self, slurm: &mut Slurm, gang: u8, latest: u32, done: bool) {
        self.releasing = (self.desk != Desk::Idle).then_some(latest);
        if done {
            end_all(slurm, gang, latest);
        }
    }

    /// What comes after a call that failed is not done.
    fn or_give_up(&mut self, ok: bool) {
        if !ok {
            self.todo.clear();
        }
    }

    /// A release that was decided says of no attempt that it is about it.
    pub(crate) fn without_fences(&mut self) {
        for command in &mut self.todo {
            if let Command::Release(latest) = command {
                *latest = u32::MAX;
            }
        }
    }

    /// Whether the question can go on now: while the follower is at work it hears nothing, but a new
    /// question waits for the end of the one before.
    pub(crate) fn desk_is_open(&self) -> bool {
        let waited_for =
            self.releasing.is_some() && matches!(self.todo.first(), Some(Command::Ask(_)));
        self.desk != Desk::Idle && (self.todo.is_empty() || waited_for)
    }

    /// Whether an allocation that was heard of is still there.
    pub(crate) fn word_is_true(&self, slurm: &Slurm) -> bool {
        let Some(Verdict::Allocated { job, seats, .. }) = self.life.verdict() else { return true };
        let holds = |job: &Job| seats.values().all(|s| job.holds(node_of(&s.node)));
        slurm.job(job.0).is_some_and(holds)
    }

    /// Whether the next call can be made now.
    pub(crate) fn can_call(&self) -> bool {
        match self.todo.first() {
            None => false,
            Some(Command::Ask(_)) => self.releasing.is_none(),
            Some(_) => true,
        }
    }

    /// One step at the desk.
    pub(crate) fn desk(
        &mut self,
        setting: &Terms,
        slurm: &mut Slurm,
        gang: u8,
        answer: Answer,
        now: i64,
    ) {
        match self.desk {
            Desk::Idle => {}
            Desk::Deciding => self.decide(setting, slurm, gang, now),
            Desk::Submitting { generation, pods, at_once, id } => {
                self.desk = Desk::Deciding;
                let at_once = at_once && !self.doubted && !slurm.waits();
                let stamp = Stamp {
                    cluster: CLUSTER.to_owned(),
                    gang: gang_uid(gang),
                    generation,
                    pods,
                    part: None,
                };
                self.submitted = generation;
                let submitted = match answer {
                    Answer::Failed => None,
                    _ if at_once => match slurm.allocate(gang, &stamp, setting.members) {
                        None => {
                            self.desk = Desk::Submitting { generation, pods, at_once: false, id };
                            return;
                        }
                        job => job,
                    },
                    _ => Some(submit(slurm, gang, &stamp, id)),
                };
                match submitted.filter(|_| answer == Answer::Heard) {
                    Some(job) => self.desk = Desk::Following { job, generation },
                    None => {
                        self.doubted |= answer == Answer::Lost;
                        self.say(queued(None, reason::UNREACHABLE), now);
                    }
                }
            }
            Desk::Following { job, generation } => {
                self.follow(slurm, job, generation, answer, now);
            }
        }
    }

    fn decide(&mut self, setting: &Terms, slurm: &mut Slurm, gang: u8, now: i64) {
        let asked = self.asked.assembled();
        let (step, duplicates) = next(CLUSTER, &asked.gang, &slurm.listed(gang));
        for job in duplicates {
            slurm.end(job.0, BaseState::Cancelled);
        }
        // Pods may be bound for it although the gang, as it was asked for, does not say so.
        let step = match (step, self.lost) {
            (Step::Submit { .. }, Some((job, generation))) => {
                Step::Lost { job: JobId(job), generation }
            }
            (step, _) => step,
        };
        match step {
            Step::Submit { .. } if self.releasing.is_some() => self.done(None, now),
            Step::Submit { stamp: Stamp { generation, pods, .. } } => {
                self.desk =
                    Desk::Submitting { generation, pods, at_once: setting.immediate, id: None };
            }
            Step::Follow { job, generation } => {
                (self.desk, self.lost) = (Desk::Following { job: job.0, generation }, None);
            }
            Step::Over { job, generation, state } => {
                self.done(Some(ended(job.0, generation, state)), now);
            }
            Step::Lost { job, generation } => self.lost(slurm, gang, (job.0, generation), now),
        }
    }

    fn follow(&mut self, slurm: &mut Slurm, id: u32, generation: u32, answer: Answer, now: i64) {
        let Some(job) = slurm.job(id) else {
            self.desk = Desk::Deciding;
            let bound = self.asked.pods.iter().any(|pod| pod.bound.is_some());
            if bound || matches!(self.life.verdict(), Some(Verdict::Allocated { .. })) {
                self.lost = Some((id, generation));
            }
            return;
        };
        let (stamp, facts) = job.facts();
        if job.live() {
            self.alive = Some(slurm.boot);
        }
        match facts.standing() {
            Standing::Over => {
                self.done(Some(ended(id, generation, facts.ending().clone())), now);
            }
            _ if let Some(latest) = self.releasing => {
                // Another bridge has begun it since.
                if generation > latest && generation != self.submitted {
                    return self.done(None, now);
                }
                if answer != Answer::Failed {
                    slurm.end(id, BaseState::Cancelled);
                }
            }
            Standing::Waiting => {
                let mut bound = self.asked.pods.iter().filter(|p| !p.finished && !p.leaving);
                let others = |node| slurm.jobs.iter().any(|j| j.id != id && j.holds(node));
                // Slurm has taken its start back, and given its nodes to others.
                if bound.any(|p| p.bound.is_some_and(|b| others(b.node))) {
                    slurm.end(id, BaseState::Cancelled);
                    return self.done(Some(ended(id, generation, BaseState::Cancelled)), now);
                }
                self.say(queued(Some(id), "Resources"), now);
            }
            Standing::Unclear => {}
            Standing::Holding => {
                match seats(&self.asked, job) {
                    // The allocation does not fit its gang.
                    None => slurm.end(id, BaseState::Cancelled),
                    Some((seats, pods)) => {
                        let verdict = Verdict::Allocated {
                            job: JobId(id),
                            generation,
                            seats,
                            note: String::new(),
                            ends: None,
                            renewed: stamp.pods != pods,
                        };
                        self.say(verdict, now);
                    }
                }
            }
        }
    }

    /// Slurm does not know the job of pods that are bound, and accounting knows of no end.
    fn lost(&mut self, slurm: &Slurm, gang: u8, (job, generation): (u32, u32), now: i64) {
        self.lost = Some((job, generation));
        let seen_before_boot = self.alive.filter(|boot| *boot != slurm.boot).map(|_| 0);
        let (boot_time, now_s) = (slurm.boot / 1_000, now / 1_000);
        let silence = Silence {
            records: &[],
            accounting: true,
            denials: 1,
            boot_time,
            now: now_s,
            seen_before_boot,
        };
        let fate = fate(CLUSTER, &gang_uid(gang), generation, &silence);
        if self.releasing.is_some() {
            return self.done(None, now);
        }
        if fate == Fate::Forgotten {
            let asked = self.asked.assembled();
            let stamp = after_lost(CLUSTER, &asked.gang, &slurm.listed(gang), generation);
            let id = (stamp.generation == generation).then_some(job);
            let Stamp { generation, pods, .. } = stamp;
            self.desk = Desk::Submitting { generation, pods, at_once: false, id };
            return;
        }
        self.say(queued(Some(job), reason::LOST), now);
    }

    fn done(&mut self, last: Option<Verdict>, now: i64) {
        (self.desk, self.releasing, self.doubted) = (Desk::Idle, None, false);
        (self.lost, self.alive, self.submitted) = (None, None, 0);
        self.asked = View::default();
        if let Some(last) = last {
            self.say(last, now);
        }
        if self.listens() {
            self.note(Event::Closed { broken: false }, now);
        }
    }

    fn say(&mut self, verdict: Verdict, now: i64) {
        if self.listens() && (self.unheard || self.life.verdict() != Some(&verdict)) {
            self.unheard = false;
            self.note(Event::Heard(verdict), now);
        }
    }

    /// A follower that has dropped its question hears no answer.
    fn listens(&self) -> bool {
        self.life.progress().asked.is_some()
    }

    fn step(&mut self, event: Event<'_>, now: i64) -> Plan {
        let (life, plan) = step(std::mem::take(&mut self.life), event, now);
        self.life = life;
        plan
    }

    fn note(&mut self, event: Event<'_>, now: i64) {
        let plan = self.step(event, now);
        assert_eq!(plan, Plan::default(), "only a look is answered with commands");
    }
}

/// What the shell does differently in one search and another.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) members: u8,
    /// Whether nodes are asked for at once.
    pub(crate) immediate: bool,
}

/// Nodes that are not free although nobody is bound there.
pub(crate) struct Closed {
    /// Cordoned.
    pub(crate) shut: Nodes,
    /// Bindings of other gangs that this bridge is about to make.
    pub(crate) promised: Vec<(Uid, u8)>,
}

/// Ends every placeholder of a gang up to this generation.
pub(crate) fn end_all(slurm: &mut Slurm, gang: u8, latest: u32) {
    let ours = |job: &&Job| job.live() && job.generation <= latest;
    let live: Vec<u32> = slurm.of(gang).filter(ours).map(|job| job.id).collect();
    for id in live {
        slurm.end(id, BaseState::Cancelled);
    }
}

/// Submits under an id of our own; one of ours that is there already is the same.
fn submit(slurm: &mut Slurm, gang: u8, stamp: &Stamp, id: Option<u32>) -> u32 {
    let own = |found: &Stamp| found.is_of(&stamp.cluster, &stamp.gang, stamp.generation);
    let chosen = (0..).map(|attempt| JobIds::default().choose(stamp, attempt).0);
    let mut ids = id.into_iter().chain(chosen);
    let ours = |id: &u32| slurm.job(*id).is_none_or(|job| own(&job.facts().0));
    let id = ids.find(ours).expect("ids without end");
    slurm.submit(id, gang, stamp);
    id
}

/// Who sits where, by pod uid, and the fingerprint of the pods; nothing where they do not fit.
type Seated = Option<(BTreeMap<String, Seat>, u64)>;

/// Seats a gang in what its job was granted.
fn seats(asked: &View, job: &Job) -> Seated {
    thread_local! {
        // It depends on nothing else, and is asked for in every state.
        static KNOWN: RefCell<HashMap<(View, Nodes, u32), Seated>> = RefCell::default();
    }
    let key = (asked.clone(), job.nodes, job.id);
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&key).cloned()) {
        return known;
    }
    let gang = &asked.assembled().gang;
    let granted = job.allocation();
    let stays = |bound: &&Bound| still_holds(bound, JobId(job.id), &granted);
    let seeker = |m: &'_ Member| (m.rank, m.bound.clone().filter(|bound| stays(&bound)));
    let members: Vec<(u32, Option<Bound>)> = gang.members.iter().map(seeker).collect();
    let seekers: Vec<Seeker<'_>> = members
        .iter()
        .map(|(rank, bound)| Seeker { rank: *rank, position: *rank, bound: bound.as_ref() })
        .collect();
    let need = [GresRequest { name: "gpu".to_owned(), kind: None, count: 1 }];
    let (mut placer, network) = (Placer::default(), Topology::default());
    let seats = place(&mut placer, &seekers, 1, &need, &granted, &network).ok();
    let seated = seats.map(|seats| {
        let pods = fingerprint(gang.founders().map(|m| m.uid.as_str()));
        (gang.members.iter().map(|m| m.uid.clone()).zip(seats).collect(), pods)
    });
    KNOWN.with_borrow_mut(|known| known.insert(key, seated.clone()));
    seated
}

/// Where each seat is, as the bridge's index has it.
fn spots(
    kubernetes: &Kubernetes,
    seats: &BTreeMap<String, Seat>,
    closed: &Closed,
) -> BTreeMap<String, Spot> {
    let spot = |(uid, seat): (&String, &Seat)| {
        let (own, node) = (Uid::read(uid), node_of(&seat.node));
        let holds = |p: &&crate::kubernetes::Pod| {
            p.uid != own && !p.finished && p.bound.is_some_and(|b| b.node == node)
        };
        let holder = kubernetes.pods.iter().find(holds).map(|pod| pod.uid);
        let promised = || closed.promised.iter().find(|(_, to)| *to == node).map(|(uid, _)| *uid);
        let spot = match holder.or_else(promised) {
            _ if closed.shut.has(node) => {
                Spot::Shut { node: seat.node.clone(), why: "is cordoned".to_owned(), lost: false }
            }
            Some(holder) => Spot::Taken { by: holder.text() },
            None => Spot::Free(node_name(node)),
        };
        (uid.clone(), spot)
    };
    seats.iter().map(spot).collect()
}

/// A plan in the order in which the shell carries it out.
fn commands(plan: &Plan, view: &View) -> Vec<Command> {
    let (mut binds, mut evictions, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for action in &plan.actions {
        match action {
            Action::Bind { pod, seat, job, generation, .. } => {
                let binding = Binding {
                    job: job.0,
                    generation: *generation,
                    node: node_of(&seat.node),
                    rank: u8::try_from(seat.rank).expect("few members"),
                };
                binds.push(Command::Bind(Uid::read(pod), binding));
            }
            Action::Evict { pod, .. } => evictions.push(Command::Evict(Uid::read(pod))),
            Action::Ask => rest.push(Command::Ask(view.clone())),
            Action::Inquire => rest.push(Command::Inquire),
            Action::Release { generation, .. } => rest.push(Command::Release(*generation)),
            Action::GiveBack { generation, .. } => {
                rest.extend([Command::Unstamp(*generation), Command::GiveBack(*generation)]);
            }
            Action::Forget => rest.push(Command::Forget),
            other => unreachable!("{other:?} is for gangs that are not modelled"),
        }
    }
    binds.into_iter().chain(evictions).chain(rest).collect()
}

fn queued(job: Option<u32>, reason: &str) -> Verdict {
    Verdict::Queued {
        job: job.map(JobId),
        reason: reason.to_owned(),
        message: reason.to_owned(),
        expected_start: 0,
    }
}

fn ended(job: u32, generation: u32, state: BaseState) -> Verdict {
    Verdict::Ended { job: JobId(job), generation, state, message: "over".to_owned() }
}
