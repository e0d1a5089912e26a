//! One follower per gang: sees, asks core what to do, does it, waits for the next change.
//!
//! The follower holds no truth: what it remembers (`Progress`) only spares repeated calls, and a new
//! follower after a crash comes to the same end from what it sees.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::time::Duration;

use futures::future::join_all;
use futures::{Stream, StreamExt};
use gangway_api::v1;
use gangway_core::eligible::Reach;
use gangway_core::follow::{Action, Asked, Facts, Plan, Progress, Spot, Verdict, decide};
use gangway_core::gang::Assembled;
use gangway_core::offer;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bind::{self, Binding, Told};
use crate::cluster::{Cluster, View};
use crate::evict;
use crate::kubescheduler::offering::Offering;
use crate::report::Reporter;

/// Pause after a call that failed, before the gang is looked at again.
const RETRY: Duration = Duration::from_millis(500);
/// A binding or eviction that was answered is not sent again for so long, while the watch catches up.
const SETTLE: Duration = Duration::from_secs(5);

type Verdicts = Pin<Box<dyn Stream<Item = Result<v1::Verdict, tonic::Status>> + Send>>;

/// Follows one gang.
pub(crate) struct Follower {
    cluster: Cluster,
    views: watch::Receiver<View>,
    progress: Progress,
    verdict: Option<Verdict>,
    verdicts: Option<Verdicts>,
    reporter: Reporter,
    /// Where a stock kube-scheduler binds: the seats that it is offered.
    offering: Option<Offering>,
    /// Pods whose binding or eviction was answered lately.
    sent: HashMap<(Write, String), Instant>,
    state: Option<&'static str>,
    /// A seat is not free: look again when one may have become so.
    waits_for_seat: bool,
    /// When nodes were last given back to ask for others.
    gave_back: Option<Instant>,
}

impl Follower {
    pub(crate) fn new(cluster: Cluster, views: watch::Receiver<View>) -> Self {
        Self {
            reporter: Reporter::new(cluster.clone()),
            offering: cluster.terms.clone().map(Offering::new),
            cluster,
            views,
            progress: Progress::default(),
            verdict: None,
            verdicts: None,
            sent: HashMap::new(),
            state: None,
            waits_for_seat: false,
            gave_back: None,
        }
    }

    /// Follows the gang until nothing is left of it.
    pub(crate) async fn run(mut self) {
        let mut freed = self.cluster.world.freed();
        while !self.cluster.stop.is_cancelled() {
            let view = self.views.borrow_and_update().clone();
            freed.mark_unchanged();
            let plan = self.plan(&view.assembled);
            self.show_state();
            let mut wake = plan.wake;
            let unnoticed = self.offer(&view, &plan).await;
            match self.act(&view, plan.actions).await {
                Done::Forgotten => break,
                Done::All => {}
                Done::LookAgain => continue,
                Done::Later => {
                    let retry = i64::try_from(RETRY.as_millis()).unwrap_or(0) + self.cluster.now();
                    wake = Some(wake.map_or(retry, |w| w.min(retry)));
                }
            }
            let reported = self.reporter.report(&view, plan.report.as_ref()).await;
            let look = [reported, unnoticed].into_iter().flatten().min();
            self.wait(wake, look, &mut freed).await;
        }
        self.state_is(None);
    }

    fn plan(&mut self, assembled: &Assembled) -> Plan {
        let now = self.cluster.now();
        let members = &assembled.gang.members;
        let finished = !members.is_empty() && members.iter().all(|m| m.finished);
        self.progress.finished_since =
            if finished { self.progress.finished_since.or(Some(now)) } else { None };
        let bound = members.iter().filter(|m| m.bound.is_some()).count();
        if bound > 0 && bound == members.len() && assembled.gang.complete() {
            self.progress.all_bound = true;
        }
        let mut spots: BTreeMap<String, Spot> = match &self.verdict {
            Some(Verdict::Allocated { seats, .. }) => self.cluster.world.index().spots(seats),
            _ => BTreeMap::new(),
        };
        if self.offering.is_some() {
            spots.values_mut().for_each(offer::leave_volumes);
        }
        self.waits_for_seat = spots.values().any(|s| !matches!(s, Spot::Free(_)));
        let unmade = spots.values().any(|s| matches!(s, Spot::Volumes { .. }));
        self.progress.volumes_since =
            if unmade { self.progress.volumes_since.or(Some(now)) } else { None };
        let facts = Facts {
            assembled,
            verdict: self.verdict.as_ref(),
            progress: &self.progress,
            spots: &spots,
        };
        let plan = decide(&facts, now);
        match &mut self.offering {
            None => plan,
            Some(offering) => offering.review(&facts, plan, now),
        }
    }

    /// Lets kube-scheduler know of the plan. Returns when to look again.
    async fn offer(&mut self, view: &View, plan: &Plan) -> Option<Instant> {
        let offering = self.offering.as_mut()?;
        offering.told(plan.report.as_ref().and_then(|_| self.reporter.told()));
        offering.publish(&self.cluster, &view.assembled, self.verdict.as_ref(), plan).await
    }

    async fn wait(
        &mut self,
        wake: Option<i64>,
        report: Option<Instant>,
        freed: &mut watch::Receiver<u64>,
    ) {
        let at =
            |ms: i64| self.cluster.started + Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let until = [wake.map(at), report].into_iter().flatten().min();
        let verdicts = self.verdicts.as_mut();
        let offering = self.offering.as_ref();
        tokio::select! {
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
            _ = freed.changed(), if self.waits_for_seat => {}
            () = async { match offering { Some(o) => o.called().await, None => std::future::pending().await } } => {}
            () = self.cluster.stop.cancelled() => {}
        }
    }

    fn hear(&mut self, next: Option<Result<v1::Verdict, tonic::Status>>) {
        match next.map(|r| r.map(Verdict::try_from)) {
            Some(Ok(Ok(verdict))) => self.verdict = Some(verdict),
            Some(Ok(Err(bad))) => tracing::error!(%bad, "the door answered what cannot be read"),
            Some(Err(status)) => {
                tracing::warn!(%status, "the door closed");
                self.reopen();
            }
            None => {
                self.verdicts = None;
                let told =
                    matches!(self.verdict, Some(Verdict::Refused(_) | Verdict::Ended { .. }));
                if !told {
                    self.reopen();
                }
            }
        }
    }

    /// The question is no longer open: it will be asked anew.
    fn reopen(&mut self) {
        self.verdicts = None;
        self.verdict = None;
        self.progress.asked = None;
    }

    async fn act(&mut self, view: &View, actions: Vec<Action>) -> Done {
        let note = match &self.verdict {
            Some(Verdict::Allocated { note, .. }) => note.clone(),
            _ => String::new(),
        };
        let mut binds = Vec::new();
        let mut claims = Vec::new();
        let mut evictions = Vec::new();
        let mut rest = Vec::new();
        let mut done = Done::All;
        let settled = Instant::now();
        self.sent.retain(|_, at| settled.duration_since(*at) < SETTLE);
        for action in actions {
            match action {
                Action::Bind { pod, seat, node, job, generation } => {
                    if !self.settling(Write::Bind, &pod, &mut done) {
                        let note = note.clone();
                        binds.push(Binding { pod, seat, node, job, generation, note });
                    }
                }
                Action::Evict { pod, why } => {
                    if !self.settling(Write::Evict, &pod, &mut done) {
                        evictions.push((pod, why));
                    }
                }
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
        if !claims.is_empty() {
            done = done.and(self.tell_claims(view, &claims).await);
        }
        if !binds.is_empty() {
            done = done.and(self.bind(view, binds).await);
        }
        if !evictions.is_empty() {
            done = done.and(self.evict(view, evictions).await);
        }
        for action in rest {
            match action {
                Action::Ask => done = done.and(self.ask(view).await),
                Action::Release { why } => {
                    if !self.release(view, why).await {
                        return Done::Later;
                    }
                }
                Action::GiveBack { why } => {
                    // Slurm would give the same nodes again before it has heard which are shut.
                    if self.gave_back.is_some_and(|at| at.elapsed() < RETRY) {
                        return Done::Later;
                    }
                    if !self.give_back(view, why).await {
                        return Done::Later;
                    }
                    self.gave_back = Some(Instant::now());
                    self.begin_anew();
                    done = done.and(Done::LookAgain);
                }
                Action::NewRound => {
                    self.begin_anew();
                    done = done.and(Done::LookAgain);
                }
                Action::Forget => return Done::Forgotten,
                Action::Bind { .. } | Action::Evict { .. } | Action::SelectNode { .. } => {}
            }
        }
        done
    }

    fn begin_anew(&mut self) {
        self.progress = Progress::default();
        self.verdict = None;
        self.verdicts = None;
    }

    /// Whether this write was answered lately and the watch has yet to show it. Then the gang is
    /// looked at again, in case it never does.
    fn settling(&self, write: Write, pod: &str, done: &mut Done) -> bool {
        let settling = self.sent.contains_key(&(write, pod.to_owned()));
        if settling {
            *done = done.and(Done::Later);
        }
        settling
    }

    async fn ask(&mut self, view: &View) -> Done {
        let gang = &view.assembled.gang;
        let request = v1::PlaceRequest { gang: Some(v1::Gang::of(&self.cluster.id, gang)) };
        let pods = gang.members.iter().filter(|m| !m.finished).map(|m| m.uid.clone()).collect();
        tracing::info!(
            gang = gang.uid,
            name = gang.path(),
            members = gang.members.len(),
            "asking for room"
        );
        match self.cluster.door.place(request).await {
            Ok(stream) => {
                self.door_away(None);
                self.verdicts = Some(Box::pin(stream.into_inner()));
                let at = self.progress.asked.as_ref().map_or_else(|| self.cluster.now(), |a| a.at);
                self.progress.asked = Some(Asked { pods, at, reach: Reach::of(gang) });
                self.progress.others.clone_from(&gang.ask.others);
                self.progress.released = false;
                Done::All
            }
            Err(status) => {
                tracing::error!(gang = gang.uid, %status, "the door refused the question");
                self.door_away(Some(&status));
                Done::Later
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

    async fn release(&mut self, view: &View, why: String) -> bool {
        self.progress.released = self.let_go(view, why, false).await;
        self.progress.released
    }

    /// Gives the placeholder back, to ask for the same pods again.
    async fn give_back(&mut self, view: &View, why: String) -> bool {
        tracing::info!(gang = view.assembled.gang.uid, why, "giving back");
        self.let_go(view, why, true).await
    }

    async fn let_go(&mut self, view: &View, why: String, again: bool) -> bool {
        let gang = &view.assembled.gang;
        let request = v1::ReleaseRequest {
            cluster: self.cluster.id.clone(),
            uid: gang.uid.clone(),
            reason: why,
            again,
        };
        match self.cluster.door.release(request).await {
            Ok(answer) => {
                tracing::info!(gang = gang.uid, name = gang.path(), jobs = ?answer.into_inner().job_ids, "released");
                true
            }
            Err(status) => {
                tracing::warn!(gang = gang.uid, %status, "could not release; trying again");
                false
            }
        }
    }

    /// Tells claims the node their volumes are for.
    async fn tell_claims(&mut self, view: &View, claims: &[Told]) -> Done {
        let namespace = &view.assembled.gang.namespace;
        let answers = claims.iter().map(|told| bind::select_node(&self.cluster, namespace, told));
        let answers = join_all(answers).await;
        let now = self.cluster.now();
        let mut all = true;
        for (uid, ok) in answers {
            all &= ok;
            if ok {
                let (often, at) = self.progress.claims.entry(uid).or_default();
                (*often, *at) = (*often + 1, now);
            }
        }
        if all { Done::All } else { Done::Later }
    }

    /// Binds members, all at once, each with its one write.
    async fn bind(&mut self, view: &View, binds: Vec<Binding>) -> Done {
        let total = binds.len();
        let now = self.cluster.now();
        let gang = &view.assembled.gang;
        if gang.members.iter().any(|m| m.bound.is_some()) {
            self.progress.first_bind.get_or_insert(now);
        } else {
            // Nobody is bound, so whatever was tried before is over: time counts from here.
            self.progress.first_bind = Some(now);
        }
        let answers = binds.iter().map(|binding| bind::bind(&self.cluster, gang, binding));
        let answers = join_all(answers).await;
        if let Some(offering) = &self.offering {
            offering.bound(&answers);
        }
        if !self.remember(Write::Bind, answers) {
            return Done::Later;
        }
        if let Some(asked) = &self.progress.asked {
            let took =
                Duration::from_millis(u64::try_from(self.cluster.now() - asked.at).unwrap_or(0));
            self.cluster.metrics.gang_seconds.observe(took.as_secs_f64());
            tracing::info!(gang = gang.uid, name = gang.path(), members = total, ?took, "bound");
        }
        Done::All
    }

    async fn evict(&mut self, view: &View, pods: Vec<(String, String)>) -> Done {
        let reasons: BTreeSet<&str> = pods.iter().map(|(_, why)| why.as_str()).collect();
        for why in reasons {
            evict::tell_owner(&self.cluster, &view.group, why).await;
        }
        let answers = pods.iter().map(|(uid, why)| evict::evict(&self.cluster, uid, why));
        let answers = join_all(answers).await;
        if self.remember(Write::Evict, answers) { Done::All } else { Done::Later }
    }

    /// Remembers the writes that were answered well. Whether all were.
    fn remember(&mut self, write: Write, answers: Vec<(String, bool)>) -> bool {
        let all = answers.iter().all(|(_, ok)| *ok);
        let now = Instant::now();
        let good = answers.into_iter().filter(|(_, ok)| *ok);
        self.sent.extend(good.map(|(uid, _)| ((write, uid), now)));
        all
    }

    /// Keeps the gauge of gangs by state.
    fn show_state(&mut self) {
        let state = match &self.verdict {
            None => "waiting",
            Some(Verdict::Refused(_)) => "refused",
            Some(Verdict::Queued { .. }) => "queued",
            Some(Verdict::Allocated { .. }) => "allocated",
            Some(Verdict::Ended { .. }) => "ended",
        };
        self.state_is(Some(state));
    }

    fn state_is(&mut self, state: Option<&'static str>) {
        if self.state == state {
            return;
        }
        let gauge = &self.cluster.metrics.gangs;
        if let Some(old) = self.state {
            gauge.with_label_values(&[old]).dec();
        }
        if let Some(new) = state {
            gauge.with_label_values(&[new]).inc();
        }
        self.state = state;
    }
}

/// A write about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Write {
    Bind,
    Evict,
}

/// How far the actions of a plan got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// All were carried out.
    All,
    /// The facts have changed by what was done: decide again at once.
    LookAgain,
    /// Something failed: decide again a little later.
    Later,
    /// The gang is gone.
    Forgotten,
}

impl Done {
    fn and(self, other: Self) -> Self {
        if self == Self::Later || other == Self::All { self } else { other }
    }
}
