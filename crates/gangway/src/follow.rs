//! One follower per gang: sees, asks core what to do, does it, waits for the next change.
//!
//! The follower holds no truth: what it remembers (`Progress`) only spares repeated calls, and a new
//! follower after a crash comes to the same end from what it sees.

mod counted;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, Stream, StreamExt};
use gangway_api::v1;
use gangway_api::v1::release_request::UpTo;
use gangway_core::follow::{Action, Cause, Plan, Report, Spot, Verdict};
use gangway_core::gang::Assembled;
use gangway_core::gang::standin::StandsIn;
use gangway_core::gangview::{Seen, Sight};
use gangway_core::job::JobId;
use gangway_core::life::{Event, Life, Phase, Write, step};
use gangway_core::offer;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::annotate;
use crate::bell::Listener;
use crate::bind::{self, Binding, Told};
use crate::cluster::{Cluster, View};
use crate::evict;
use crate::failpoint::{self, Point};
use crate::gangs::Shown;
use crate::kubescheduler::offering::Offering;
use crate::metrics::{Passage, Place};
use crate::planted::{self, Bug};
use crate::report::Reporter;
use crate::warn;
use counted::span;

type Verdicts = Pin<Box<dyn Stream<Item = Result<v1::Verdict, tonic::Status>> + Send>>;

/// Follows one gang.
pub(crate) struct Follower {
    cluster: Cluster,
    views: watch::Receiver<View>,
    life: Life,
    /// The answers to an open question.
    verdicts: Option<Verdicts>,
    reporter: Reporter,
    shown: Shown,
    /// The desk knows what its pods are told.
    told: bool,
    /// What is seen of its placeholder, for people.
    sight: watch::Receiver<Option<Sight>>,
    /// Where a stock kube-scheduler binds: the seats that it is offered.
    offering: Option<Offering>,
    /// Where it is counted.
    place: Option<Place>,
    /// Its job, where there is one, and the span in which the log has both.
    job: Option<JobId>,
    span: Span,
    passage: Passage,
    /// A seat is not free: look again when one may have become so.
    waits_for_seat: bool,
}

impl Follower {
    pub(crate) fn new(cluster: Cluster, views: watch::Receiver<View>) -> Self {
        let gang = views.borrow().assembled.gang.uid.clone();
        let (sight, span) = (cluster.sights.of(&gang), span(&gang, None));
        Self {
            reporter: Reporter::new(cluster.clone()),
            shown: Shown::new(&cluster.gangs),
            told: false,
            sight,
            offering: cluster.terms.clone().map(Offering::new),
            passage: Passage::new(cluster.now()),
            cluster,
            views,
            life: Life::default(),
            verdicts: None,
            place: None,
            job: None,
            span,
            waits_for_seat: false,
        }
    }

    /// Follows the gang until nothing is left of it.
    pub(crate) async fn run(mut self) {
        let mut freed = self.cluster.world.freed();
        let mut early = planted::grows(Bug::ReleasesEarly);
        while !self.cluster.stop.is_cancelled() {
            // Its job may have become known, or be another one, since the last look.
            let span = self.span.clone();
            if self.look(&mut freed, &mut early).instrument(span).await == Done::Forgotten {
                break;
            }
        }
        self.is_at(None);
    }

    /// Looks once, does what is to be done, and waits for the next change, unless it must look again at once.
    async fn look(&mut self, freed: &mut Listener<u64>, early: &mut bool) -> Done {
        let view = self.views.borrow_and_update().clone();
        let Assembled { gang, leaving, .. } = &view.assembled;
        if *early && gang.members.is_empty() && !leaving.is_empty() {
            *early = !self.let_go(&view, String::new(), u32::MAX, false).await;
        }
        freed.hear();
        self.catch_up();
        let plan = self.plan(&view.assembled);
        self.count(&view.assembled);
        let mut wake = plan.wake;
        let unnoticed = self.offer(&view, &plan).await;
        match self.act(&view, plan.actions).await {
            Done::Forgotten => {
                self.shown.remove(&self.cluster).await;
                self.cluster.anteroom.forget(&gang.uid);
                return Done::Forgotten;
            }
            Done::LookAgain => return Done::LookAgain,
            Done::All => {}
        }
        wake = [wake, self.life.retry()].into_iter().flatten().min();
        let sight = self.sight.borrow_and_update().clone();
        let job = match self.life.verdict() {
            Some(Verdict::Queued { job, .. }) => *job,
            _ => None,
        };
        let seen = (job, sight.as_ref());
        let reported = self.reporter.report(&view, plan.report.as_ref(), seen).await;
        let shown = self.show(&view, plan.report.as_ref(), sight.as_ref()).await;
        self.tell_desk(&view, plan.report.as_ref());
        let look = [reported, shown, unnoticed].into_iter().flatten().min();
        self.wait(wake, look, freed).await;
        Done::All
    }

    fn plan(&mut self, assembled: &Assembled) -> Plan {
        if self.life.verdict().is_none()
            && let Some(left) = warn::left(&self.cluster, &assembled.gang)
        {
            self.note(Event::Recalled(self.cluster.now() + left));
        }
        let mut spots: BTreeMap<String, Spot> = match self.life.verdict() {
            Some(Verdict::Allocated { seats, .. }) => self.cluster.world.index().spots(seats),
            _ => BTreeMap::new(),
        };
        if self.offering.is_some() {
            spots.values_mut().for_each(offer::leave_volumes);
        }
        self.waits_for_seat = spots.values().any(|s| !matches!(s, Spot::Free(_)));
        let plan = self.step(Event::Looked { assembled, spots: &spots });
        match &mut self.offering {
            None => plan,
            Some(offering) => {
                let facts = self.life.facts(assembled, &spots);
                offering.review(&facts, plan, self.cluster.now())
            }
        }
    }

    /// Shows the gang as it is now. Returns when to look again.
    async fn show(
        &mut self,
        view: &View,
        report: Option<&Report>,
        sight: Option<&Sight>,
    ) -> Option<Instant> {
        let spots = BTreeMap::new();
        let facts = self.life.facts(&view.assembled, &spots);
        let seen = Seen { facts, report, sight, ready: view.ready };
        self.shown.show(&self.cluster, view, &seen).await
    }

    /// Lets the desk know what the pods are told.
    fn tell_desk(&mut self, view: &View, report: Option<&Report>) {
        if report.is_none() && !self.told {
            return;
        }
        let spots = BTreeMap::new();
        let facts = self.life.facts(&view.assembled, &spots);
        let said = (Phase::of(&facts), facts.verdict);
        self.told = self.cluster.anteroom.hear(&self.views, said, report);
    }

    /// Something has happened.
    fn step(&mut self, event: Event<'_>) -> Plan {
        let (life, plan) = step(std::mem::take(&mut self.life), event, self.cluster.now());
        self.life = life;
        if self.life.progress().asked.is_none() {
            self.verdicts = None;
        }
        plan
    }

    /// Something has happened about which there is nothing to do at once.
    fn note(&mut self, event: Event<'_>) {
        let plan = self.step(event);
        debug_assert_eq!(plan, Plan::default(), "only a look is answered with commands");
    }

    /// Lets kube-scheduler know of the plan. Returns when to look again.
    async fn offer(&mut self, view: &View, plan: &Plan) -> Option<Instant> {
        let offering = self.offering.as_mut()?;
        offering.told(plan.report.as_ref().and_then(|_| self.reporter.told()));
        offering.publish(&self.cluster, &view.assembled, self.life.verdict(), plan).await
    }

    async fn wait(
        &mut self,
        wake: Option<i64>,
        report: Option<Instant>,
        freed: &mut Listener<u64>,
    ) {
        let at =
            |ms: i64| self.cluster.started + Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let until = [wake.map(at), report].into_iter().flatten().min();
        let verdicts = self.verdicts.as_mut();
        let offering = self.offering.as_ref();
        tokio::select! {
            // In this order, so that the same events always lead to the same steps: none of them can
            // keep the others waiting, for each is over once it has been heard.
            biased;
            changed = self.views.changed() => {
                if changed.is_err() {
                    // The source is gone: the process is ending.
                    self.cluster.stop.cancelled().await;
                }
            }
            next = async { match verdicts { Some(v) => v.next().await, None => std::future::pending().await } } => {
                self.hear(next);
            }
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            () = freed.changed(), if self.waits_for_seat => {}
            () = async { if self.sight.changed().await.is_err() { std::future::pending().await } } => {}
            () = self.shown.turned() => {}
            () = async { match offering { Some(o) => o.called().await, None => std::future::pending().await } } => {}
            () = self.cluster.stop.cancelled() => {}
        }
    }

    /// Hears everything that has been said by now, for the answer to a write may have taken long. Whether
    /// that was anything.
    fn catch_up(&mut self) -> bool {
        let mut news = false;
        while let Some(next) = self.verdicts.as_mut().and_then(|v| v.next().now_or_never()) {
            self.hear(next);
            news = true;
        }
        news
    }

    fn hear(&mut self, next: Option<Result<v1::Verdict, tonic::Status>>) {
        match next.map(|r| r.map(Verdict::try_from)) {
            Some(Ok(Ok(verdict))) => {
                self.heard(&verdict);
                self.note(Event::Heard(verdict));
            }
            Some(Ok(Err(bad))) => tracing::error!(%bad, "the door answered what cannot be read"),
            Some(Err(status)) => {
                tracing::warn!(%status, "the door closed");
                self.note(Event::Closed { broken: true });
            }
            None => {
                self.verdicts = None;
                self.note(Event::Closed { broken: false });
            }
        }
    }

    async fn act(&mut self, view: &View, actions: Vec<Action>) -> Done {
        let note = match self.life.verdict() {
            Some(Verdict::Allocated { note, .. }) => note.clone(),
            _ => String::new(),
        };
        let mut binds = Vec::new();
        let mut claims = Vec::new();
        let mut evictions = Vec::new();
        let mut warnings = Vec::new();
        let mut beside = Vec::new();
        let mut rest = Vec::new();
        for action in actions {
            match action {
                Action::Bind { pod, seat, node, job, generation } => {
                    let note = note.clone();
                    binds.push(Binding { pod, seat, node, job, generation, note });
                }
                Action::Evict { pod, cause, why } => evictions.push((pod, cause, why)),
                Action::Warn { pod, leave } => warnings.push((pod, leave)),
                Action::StandIn { pod, stands_in } => beside.push((pod, stands_in)),
                Action::SelectNode { claim, uid, node, .. } => {
                    claims.push(Told { claim, uid, node });
                }
                other => rest.push(other),
            }
        }
        // kube-scheduler brings the pods of a gang one by one; they are bound together.
        if self.offering.as_ref().is_some_and(|offering| !offering.all_here(&binds)) {
            binds.clear();
        }
        self.tell_claims(view, &claims).await;
        if self.bind(view, &binds).await == Done::LookAgain {
            return Done::LookAgain;
        }
        self.stand_in(&beside).await;
        self.warn(view, &warnings).await;
        self.evict(view, &evictions).await;
        let mut done = Done::All;
        for action in rest {
            match action {
                Action::Ask => self.ask(view).await,
                Action::Inquire => {
                    let latest = self.inquire(view).await;
                    self.note(Event::Learned(latest));
                    done = if latest.is_some() { Done::LookAgain } else { Done::All };
                }
                Action::Release { why, generation } => {
                    let ok = self.let_go(view, why, generation, false).await;
                    self.note(Event::Released { ok });
                    if !ok {
                        return Done::All;
                    }
                }
                Action::GiveBack { why, generation } => {
                    tracing::info!(why, "giving back");
                    let ok = self.let_go(view, why, generation, true).await;
                    self.note(Event::GivenBack { ok });
                    done = if ok { Done::LookAgain } else { Done::All };
                }
                Action::Forget => return Done::Forgotten,
                Action::Bind { .. }
                | Action::Evict { .. }
                | Action::Warn { .. }
                | Action::StandIn { .. }
                | Action::SelectNode { .. }
                | Action::NewRound => {}
            }
        }
        done
    }

    async fn ask(&mut self, view: &View) {
        let assembled = &view.assembled;
        let gang = &assembled.gang;
        let request = v1::PlaceRequest { gang: Some(v1::Gang::of(&self.cluster.id, gang)) };
        tracing::info!(name = gang.path(), members = gang.members.len(), "asking for room");
        match self.cluster.door.place(request).await {
            Ok(stream) => {
                self.door_away(None);
                self.passage.ask(self.cluster.now());
                self.is_about(None);
                self.note(Event::Asked { assembled, ok: true });
                self.verdicts = Some(Box::pin(stream.into_inner()));
            }
            Err(status) => {
                tracing::error!(%status, "the door refused the question");
                self.door_away(Some(&status));
                self.note(Event::Asked { assembled, ok: false });
            }
        }
    }

    fn door_away(&mut self, status: Option<&tonic::Status>) {
        if let Some(offering) = &mut self.offering {
            offering.door(status.map(|status| {
                format!("the door of gangway scheduler does not answer ({})", status.message())
            }));
        }
    }

    /// The latest attempt of the gang that there is in Slurm, 0 for none; `None` where nobody can say.
    async fn inquire(&mut self, view: &View) -> Option<u32> {
        let (cluster, uid) = (self.cluster.id.clone(), view.assembled.gang.uid.clone());
        let answer = self.cluster.door.explain(v1::ExplainRequest { cluster, uid }).await;
        failpoint::pass(Point::Inquired);
        match answer {
            Ok(answer) => {
                let there = answer.into_inner().placeholders;
                Some(there.iter().map(|placeholder| placeholder.generation).max().unwrap_or(0))
            }
            Err(status) => {
                tracing::warn!(%status, "could not ask for its placeholders");
                None
            }
        }
    }

    /// Gives the placeholder back, and those before it; `again`: to ask for the same pods again. Whether
    /// Slurm was told.
    async fn let_go(&mut self, view: &View, why: String, generation: u32, again: bool) -> bool {
        let gang = &view.assembled.gang;
        let request = v1::ReleaseRequest {
            cluster: self.cluster.id.clone(),
            uid: gang.uid.clone(),
            reason: why,
            again,
            up_to: Some(UpTo::Generation(generation)),
        };
        match self.cluster.door.release(request).await {
            Ok(answer) => {
                tracing::info!(name = gang.path(), jobs = ?answer.into_inner().job_ids, "released");
                true
            }
            Err(status) => {
                tracing::warn!(%status, "could not release; trying again");
                false
            }
        }
    }

    /// Tells claims the node their volumes are for.
    async fn tell_claims(&mut self, view: &View, claims: &[Told]) {
        let namespace = &view.assembled.gang.namespace;
        let answers = claims.iter().map(|told| bind::select_node(&self.cluster, namespace, told));
        for (uid, ok) in join_all(answers).await {
            self.note(Event::Told { claim: &uid, ok });
        }
    }

    /// Binds members, each with its one write: the first of a gang alone, then all others at once.
    ///
    /// The API server takes the first one's binding only once, whoever sends it, and so says which
    /// placeholder is the gang's. A bridge that comes second binds nobody (`core::placeholder::next`).
    /// Nobody is bound any more once Slurm has said something else than what was planned for (rule 1).
    async fn bind(&mut self, view: &View, binds: &[Binding]) -> Done {
        if binds.is_empty() {
            return Done::All;
        }
        if self.catch_up() {
            return Done::LookAgain;
        }
        let gang = &view.assembled.gang;
        // As core counts: whoever has finished is no part of it any more.
        let some_bound = gang.members.iter().any(|m| m.bound.is_some() && !m.finished);
        self.note(Event::Binding { some_bound });
        self.passage.bind(self.cluster.now());
        let first = binds.iter().map(|b| b.seat.rank).min().filter(|_| !some_bound);
        let (first, others): (Vec<&Binding>, Vec<&Binding>) =
            binds.iter().partition(|b| Some(b.seat.rank) == first);
        let first = first.into_iter().map(|binding| bind::bind(&self.cluster, gang, binding));
        let mut answers = join_all(first).await;
        let news = self.catch_up();
        if !news && answers.iter().all(|(_, ok)| *ok) {
            let others = others.into_iter().map(|b| bind::bind(&self.cluster, gang, b));
            answers.extend(join_all(others).await);
        }
        if let Some(offering) = &self.offering {
            offering.bound(&answers);
        }
        let all = !news && answers.iter().all(|(_, ok)| *ok);
        self.wrote(Write::Bind, &answers);
        if all {
            self.all_bound(view, binds);
        }
        // Whoever joins a gang that runs brings nothing new.
        let cost = binds.first().map_or("", |binding| binding.note.as_str());
        if !cost.is_empty() && !some_bound && answers.iter().any(|(_, ok)| *ok) {
            bind::tell_owner(&self.cluster, &view.group, cost).await;
        }
        if news { Done::LookAgain } else { Done::All }
    }

    async fn evict(&mut self, view: &View, pods: &[(String, Cause, String)]) {
        let reasons: BTreeSet<&str> = pods.iter().map(|(_, _, why)| why.as_str()).collect();
        for why in reasons {
            evict::tell_owner(&self.cluster, &view.group, why).await;
        }
        let answers =
            pods.iter().map(|(uid, cause, why)| evict::evict(&self.cluster, uid, *cause, why));
        let answers = join_all(answers).await;
        self.wrote(Write::Evict, &answers);
    }

    /// Lets successors start beside their gang.
    async fn stand_in(&mut self, pods: &[(String, StandsIn)]) {
        let writes = pods.iter().map(|(uid, said)| annotate::stands_in(&self.cluster, uid, said));
        let answers = join_all(writes).await;
        self.wrote(Write::StandIn, &answers);
    }

    /// Tells members that they have to leave, or that they may stay.
    async fn warn(&mut self, view: &View, pods: &[(String, Option<warn::Leave>)]) {
        let reasons: BTreeSet<&str> =
            pods.iter().filter_map(|(_, leave)| Some(leave.as_ref()?.1.as_str())).collect();
        for why in reasons {
            warn::tell_owner(&self.cluster, &view.group, why).await;
        }
        let hook = view.assembled.gang.ask.hook.as_ref();
        // All are told the same moment.
        let now = crate::wall::now();
        let answers = pods
            .iter()
            .map(|(uid, leave)| warn::warn(&self.cluster, uid, leave.as_ref(), hook, now));
        let answers = join_all(answers).await;
        warn::run_command(&self.cluster, view, pods, &answers, now);
        self.wrote(Write::Warn, &answers);
    }

    fn wrote(&mut self, write: Write, answers: &[(String, bool)]) {
        for (pod, ok) in answers {
            self.note(Event::Wrote { write, pod, ok: *ok });
        }
    }
}

/// How far the actions of a plan got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// What could be done was; what failed is tried again.
    All,
    /// The facts have changed by what was done: decide again at once.
    LookAgain,
    /// The gang is gone.
    Forgotten,
}
