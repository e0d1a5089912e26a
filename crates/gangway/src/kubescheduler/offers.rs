//! Where each unbound pod stands, for kube-scheduler's questions: followers write, the HTTP side
//! reads. A pod that comes to be bound waits here for the rest of its gang.
//!
//! Nothing here is truth: an entry lives as long as its follower says so, and a new process fills
//! the table anew. Decides nothing and never binds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gangway_core::offer::{Answer, Standing, Taken, choose};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// How long a question may wait for the first word on a pod. kube-scheduler asks as soon as the
    /// pod is there, and on the immediate way Slurm answers in a few milliseconds: one attempt, not
    /// two.
    patience: Duration,
    /// A seat that kube-scheduler has not asked about is brought to its notice after this long: it
    /// may have been told "no" by a process before this one. While kube-scheduler asks about other
    /// pods, this one's turn may still come, so it is given up to ten times as long.
    unnoticed: Duration,
    /// How long a pod that came to be bound waits for the rest of its gang. Below the `httpTimeout`
    /// that the docs ask for.
    barrier: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            patience: Duration::from_millis(250),
            unnoticed: Duration::from_secs(1),
            barrier: Duration::from_secs(20),
        }
    }
}

/// The table.
#[derive(Clone, Default)]
pub(crate) struct Offers(Arc<Inner>);

#[derive(Default)]
struct Inner {
    times: Times,
    pods: Mutex<HashMap<String, Entry>>,
    /// Told whenever a pod's standing changes.
    changed: Notify,
    /// When kube-scheduler asked last, about any pod.
    asked: Mutex<Option<Instant>>,
}

struct Entry {
    standing: Standing,
    /// When it came into the table: patience is per pod, not per question.
    known: Instant,
    /// How far kube-scheduler has come with the present seat.
    taken: Taken,
    /// kube-scheduler has been told "no" since it was last woken for this pod.
    refused: bool,
    /// Since when the present seat is offered, and whether kube-scheduler was woken for it.
    offered: Instant,
    woken: bool,
    /// Its binding, under way.
    arrival: Option<Arrival>,
    /// Wakes the follower of its gang.
    follower: Arc<Notify>,
}

struct Arrival {
    number: u64,
    done: oneshot::Sender<Result<(), String>>,
}

impl Entry {
    fn new(standing: Standing, follower: Arc<Notify>) -> Self {
        let now = Instant::now();
        Self {
            standing,
            known: now,
            taken: Taken::NotAsked,
            refused: false,
            offered: now,
            woken: false,
            arrival: None,
            follower,
        }
    }

    fn stand(&mut self, standing: Standing) {
        if self.standing == standing {
            return;
        }
        self.taken = Taken::NotAsked;
        self.offered = Instant::now();
        self.woken = false;
        if let Some(arrival) = self.arrival.take() {
            let why = "Slurm does not give it that node any more; it will be asked for again";
            // kube-scheduler may have hung up.
            let _ = arrival.done.send(Err(why.to_owned()));
        }
        self.standing = standing;
    }
}

/// A pod that kube-scheduler must look at again, because the answer is another one now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wake {
    pub(crate) pod: String,
    pub(crate) node: String,
}

impl Offers {
    fn pods(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in where a pod stands now.
    pub(super) fn stand(&self, pod: &str, standing: Standing, follower: &Arc<Notify>) {
        let mut pods = self.pods();
        match pods.get_mut(pod) {
            Some(entry) if entry.standing == standing => return,
            Some(entry) => entry.stand(standing),
            None => {
                pods.insert(pod.to_owned(), Entry::new(standing, follower.clone()));
            }
        }
        drop(pods);
        self.0.changed.notify_waiters();
    }

    /// What the user is told of a pod that waits from now on.
    pub(crate) fn say(&self, pod: &str, sentence: &str) {
        if let Some(entry) = self.pods().get_mut(pod)
            && !matches!(entry.standing, Standing::Seat { .. })
        {
            entry.stand(Standing::Waiting(sentence.to_owned()));
            // It stands on the pod, too, and must be taken back there when its turn comes.
            entry.refused = true;
        }
        self.0.changed.notify_waiters();
    }

    /// Forgets a pod. One that waits to be bound hears that it will not be.
    pub(super) fn forget(&self, pod: &str) {
        if let Some(entry) = self.pods().remove(pod)
            && let Some(arrival) = entry.arrival
        {
            let why = "it is bound already, or its placeholder has ended";
            let _ = arrival.done.send(Err(why.to_owned()));
        }
    }

    /// Of these pods, those that kube-scheduler must be woken for at this time, and when to look again
    /// for the others. Each is named once per seat.
    pub(super) fn to_wake<'a>(
        &self,
        at: Instant,
        of: impl IntoIterator<Item = &'a String>,
    ) -> (Vec<Wake>, Option<Instant>) {
        let unnoticed = self.0.times.unnoticed;
        let asked = *self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pods = self.pods();
        let (mut now, mut later) = (Vec::new(), None);
        for pod in of {
            let Some(entry) = pods.get_mut(pod) else { continue };
            let Standing::Seat { node, .. } = &entry.standing else { continue };
            if entry.woken || entry.taken >= Taken::NotBound {
                continue;
            }
            let quiet = asked.map_or(entry.offered, |asked| asked.max(entry.offered)) + unnoticed;
            let due = quiet.min(entry.offered + unnoticed * 10);
            if entry.refused || due <= at {
                now.push(Wake { pod: pod.clone(), node: node.clone() });
                entry.woken = true;
                entry.refused = false;
            } else {
                later = Some(later.map_or(due, |other: Instant| other.min(due)));
            }
        }
        (now, later)
    }

    /// The waking did not get through: it is due again.
    pub(super) fn not_woken(&self, pod: &str) {
        if let Some(entry) = self.pods().get_mut(pod) {
            entry.woken = false;
            entry.refused = true;
        }
    }

    /// Whether all these pods have come to be bound, each to its node.
    pub(super) fn all_here<'a>(&self, seats: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        let pods = self.pods();
        seats.into_iter().all(|(pod, node)| {
            pods.get(pod).is_some_and(|entry| {
                entry.arrival.as_ref().is_some_and(|a| !a.done.is_closed())
                    && matches!(&entry.standing, Standing::Seat { node: n, .. } if n == node)
            })
        })
    }

    /// Tells a pod that came to be bound what became of it.
    pub(super) fn bound(&self, pod: &str, outcome: Result<(), String>) {
        let arrival = self.pods().get_mut(pod).and_then(|entry| entry.arrival.take());
        if let Some(arrival) = arrival {
            let _ = arrival.done.send(outcome);
        }
    }

    /// The seat of a pod and how far kube-scheduler has come with it.
    pub(super) fn taken(&self, pod: &str) -> Option<(String, Taken)> {
        let pods = self.pods();
        let entry = pods.get(pod)?;
        let Standing::Seat { node, .. } = &entry.standing else { return None };
        let taken = if entry.arrival.is_some() { Taken::Here } else { entry.taken };
        Some((node.clone(), taken))
    }

    /// The job that a pod has its seat in, for the log.
    pub(super) fn job_of(&self, pod: &str) -> Option<u32> {
        match self.pods().get(pod)?.standing {
            Standing::Seat { job, .. } => Some(job.0),
            Standing::Unheard | Standing::Waiting(_) => None,
        }
    }

    /// kube-scheduler asks: which of these nodes may the pod have?
    pub(super) async fn ask(&self, pod: &str, nodes: &[&str]) -> Answer {
        let asked = Instant::now();
        *self.0.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = {
                let mut pods = self.pods();
                let until =
                    pods.get(pod).map_or(asked, |entry| entry.known) + self.0.times.patience;
                if let Some(entry) = pods.get_mut(pod)
                    && (entry.standing != Standing::Unheard || until <= Instant::now())
                {
                    return entry.answer(nodes);
                }
                until
            };
            if timeout_at(until, changed).await.is_err() && !self.pods().contains_key(pod) {
                return Answer::None(
                    "Gangway does not know this pod yet; it asks for it as soon as it does".into(),
                );
            }
        }
    }

    /// kube-scheduler comes to bind: waits until the whole gang is there and bound.
    pub(super) async fn bind(&self, pod: &str, node: &str) -> Result<(), String> {
        let (done, outcome) = oneshot::channel();
        let number = {
            let mut pods = self.pods();
            let entry = pods.get_mut(pod).ok_or(
                "Gangway does not know this pod as one that waits; it may be bound already",
            )?;
            match &entry.standing {
                Standing::Seat { node: given, .. } if given == node => {}
                Standing::Seat { node: given, .. } => {
                    return Err(format!("Slurm gave it node {given}, not {node}"));
                }
                Standing::Unheard | Standing::Waiting(_) => {
                    return Err("Slurm gives it no node any more; it is asked for again".into());
                }
            }
            let number = entry.arrival.as_ref().map_or(0, |a| a.number + 1);
            // One that asks twice has given up the first time.
            entry.arrival = Some(Arrival { number, done });
            entry.follower.notify_one();
            number
        };
        let leave = Leave { offers: self, pod, number };
        let outcome = timeout(self.0.times.barrier, outcome).await;
        drop(leave);
        match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("another attempt to bind it has taken over".into()),
            Err(_) => Err(format!(
                "the rest of its gang did not come to be bound within {} s, so none of it is bound; all are tried again",
                self.0.times.barrier.as_secs()
            )),
        }
    }
}

impl Entry {
    fn answer(&mut self, nodes: &[&str]) -> Answer {
        let answer = choose(&self.standing, nodes.iter().copied());
        match (&answer, &self.standing) {
            (Answer::Node(_), _) => self.taken = Taken::NotBound,
            (Answer::None(_), Standing::Seat { .. }) => {
                self.taken = self.taken.max(Taken::Rejected);
                self.refused = true;
                if !self.woken {
                    self.follower.notify_one();
                }
            }
            (Answer::None(_), _) => self.refused = true,
        }
        answer
    }
}

/// Takes an arrival out when its caller has gone, by time or by hanging up.
struct Leave<'a> {
    offers: &'a Offers,
    pod: &'a str,
    number: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut pods = self.offers.pods();
        if let Some(entry) = pods.get_mut(self.pod)
            && entry.arrival.as_ref().is_some_and(|a| a.number == self.number)
        {
            entry.arrival = None;
        }
    }
}

#[cfg(test)]
#[path = "offers/tests.rs"]
mod tests;
