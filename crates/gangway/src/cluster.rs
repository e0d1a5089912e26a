//! The Kubernetes side of the bridge as its rooms share it: the client, the index, the door to the
//! Slurm half, and the limits. No loops and no decisions.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use gangway_core::gang::Assembled;
use gangway_core::place::Seat;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::anteroom::Anteroom;
use crate::atlas::Atlas;
use crate::bell::{Bell, Listener};
use crate::command::Caller;
use crate::door::Door;
use crate::gangs::Gangs;
use crate::index::{Group, Index};
use crate::kubescheduler::offering::Terms;
use crate::metrics::Metrics;
use crate::nursery::Nursery;
use crate::sights::Sights;
use crate::trace::Traces;

/// The Kubernetes side, as everyone on it shares it.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
    pub(crate) door: Door,
    /// Names this bridge's world in every placeholder.
    pub(crate) id: String,
    /// `spec.schedulerName` of its pods.
    pub(crate) scheduler_name: String,
    /// Where a stock kube-scheduler binds: on which terms seats are offered to it. Without them the
    /// bridge binds.
    pub(crate) terms: Option<Terms>,
    pub(crate) world: World,
    pub(crate) nursery: Nursery,
    pub(crate) metrics: Metrics,
    pub(crate) traces: Traces,
    /// Bounds writes to the API server that are under way at once.
    pub(crate) writes: Arc<Semaphore>,
    /// Runs the operator's command for a gang that is warned.
    pub(crate) caller: Option<Caller>,
    /// Looks for placeholders without pods.
    pub(crate) sweep: Arc<Notify>,
    /// What people see of gangs, beside conditions and events.
    pub(crate) gangs: Arc<Gangs>,
    /// What is seen of their placeholders.
    pub(crate) sights: Arc<Sights>,
    /// What pods are told, for whoever asks at the desk.
    pub(crate) anteroom: Anteroom,
    pub(crate) started: Instant,
    pub(crate) stop: CancellationToken,
}

impl Cluster {
    /// Milliseconds since the start: the `now` of core's decisions.
    pub(crate) fn now(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// The index, shared with the followers: written by the source, but for what bindings will take.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    index: Arc<RwLock<Index>>,
    /// Counts changes that can free a seat: pods gone or finished, nodes come.
    freed: Arc<Bell<u64>>,
    atlas: Arc<Atlas>,
}

impl World {
    /// A world whose nodes are drawn in this atlas.
    pub(crate) fn drawn_in(atlas: Arc<Atlas>) -> Self {
        Self { atlas, ..Self::default() }
    }

    /// Where its nodes are.
    pub(crate) fn atlas(&self) -> &Atlas {
        &self.atlas
    }

    /// Changes the index: for the source, and for what bindings will take.
    pub(crate) fn change(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everyone that a seat may have become free.
    pub(crate) fn seats_freed(&self) {
        self.freed.ring(|n| *n += 1);
    }

    /// Holds the devices of a seat for a pod whose binding is about to be sent. `Err`: who has one of them.
    pub(crate) fn promise(&self, pod: &str, node: &str, seat: &Seat) -> Result<(), String> {
        self.change().promise(pod, node, seat, Instant::now())
    }

    /// The binding of a pod will not be made.
    pub(crate) fn withdraw(&self, pod: &str) {
        if self.change().withdraw(pod) {
            self.seats_freed();
        }
    }

    /// A look at the index. Never hold it across an await.
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told whenever a seat may have become free.
    pub(crate) fn freed(&self) -> Listener<u64> {
        self.freed.listen()
    }
}

/// A gang as its follower is told of it, with the group it was formed from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) assembled: Assembled,
    pub(crate) group: Group,
    /// How many of its pods are ready; for people.
    pub(crate) ready: u32,
}
