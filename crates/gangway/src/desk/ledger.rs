//! Slurm's jobs and nodes as they were listed last, so that many who look cost Slurm what one does.
//!
//! Nobody looks, nothing is asked. A list of 10,000 jobs takes slurmrestd seconds: whoever comes while one is under way
//! is shown the last one after a moment, with its age, unless that is too old to be of use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gangway_core::desk::{Host, Partition, gpus_of};
use gangway_core::job::Job;
use gangway_slurm::{Client, Error, Node};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::nursery::Nursery;

/// A list is shown again for so long without asking.
const FRESH: Duration = Duration::from_secs(2);
/// A list is waited for so long while there is an older one to show.
const PATIENCE: Duration = Duration::from_millis(150);
/// An older one than this is not shown.
const OLD: Duration = Duration::from_secs(60);

/// All jobs at one moment.
pub(super) struct Listing {
    pub(super) jobs: Arc<Vec<Job>>,
    pub(super) partitions: Vec<Partition>,
    /// Seconds since the epoch.
    pub(super) as_of: i64,
    last_update: i64,
    asked: Instant,
}

type Hosts = (Vec<Host>, Vec<Partition>);

pub(super) struct Ledger {
    slurm: Client,
    nursery: Nursery,
    kept: Mutex<Option<Arc<Listing>>>,
    hosts: tokio::sync::Mutex<Option<(Instant, Arc<Hosts>)>>,
    /// Held by whoever asks Slurm.
    turn: tokio::sync::Mutex<()>,
}

impl Ledger {
    pub(super) fn new(slurm: Client, nursery: Nursery) -> Self {
        Self {
            slurm,
            nursery,
            kept: Mutex::default(),
            hosts: Default::default(),
            turn: Default::default(),
        }
    }

    /// What is shown has changed by our own doing: the next one asks.
    pub(super) fn forget(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn kept(&self) -> Option<Arc<Listing>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The jobs, as of a moment ago.
    pub(super) async fn listing(self: &Arc<Self>) -> Result<Arc<Listing>, Error> {
        let known = self.kept();
        if let Some(known) = &known
            && known.asked.elapsed() < FRESH
        {
            return Ok(known.clone());
        }
        let Some(known) = known.filter(|known| known.asked.elapsed() < OLD) else {
            return self.ask().await;
        };
        // It goes on when nobody waits for it any more: the next one who looks sees it.
        let (own, (said, asking)) = (self.clone(), oneshot::channel());
        self.nursery.start("desk list", async move {
            let answer = own.ask().await;
            let _ = said.send(answer);
            Ok(())
        });
        match timeout(PATIENCE, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Ok(known),
        }
    }

    async fn ask(&self) -> Result<Arc<Listing>, Error> {
        let _turn = self.turn.lock().await;
        let before = self.kept();
        if let Some(before) = &before
            && before.asked.elapsed() < FRESH
        {
            return Ok(before.clone());
        }
        let (asked, as_of) = (Instant::now(), super::now());
        let since = before.as_ref().map_or(1, |before| before.last_update);
        let (news, partitions) =
            tokio::try_join!(self.slurm.jobs_since(since), self.slurm.partitions())?;
        let (jobs, last_update) = match (news, before) {
            (Some(news), _) => (Arc::new(news.jobs), news.last_update),
            (None, Some(before)) => (before.jobs.clone(), before.last_update),
            // Nothing has changed since 1970: there are none.
            (None, None) => (Arc::default(), 1),
        };
        let partitions = partitions.iter().map(partition).collect();
        let listing = Arc::new(Listing { jobs, partitions, as_of, last_update, asked });
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(listing.clone());
        Ok(listing)
    }

    /// The nodes and partitions, as of a moment ago.
    pub(super) async fn hosts(&self) -> Result<Hosts, Error> {
        let mut kept = self.hosts.lock().await;
        if let Some((asked, hosts)) = &*kept
            && asked.elapsed() < FRESH
        {
            return Ok(Hosts::clone(hosts));
        }
        let asked = Instant::now();
        let (nodes, partitions) = tokio::try_join!(self.slurm.nodes(), self.slurm.partitions())?;
        let hosts: Hosts =
            (nodes.into_iter().map(host).collect(), partitions.iter().map(partition).collect());
        *kept = Some((asked, Arc::new(hosts.clone())));
        Ok(hosts)
    }
}

fn partition(partition: &gangway_slurm::Partition) -> Partition {
    let (name, tier, up) = (partition.name.clone(), partition.priority_tier, partition.is_up());
    Partition { name, tier, up }
}

fn host(node: Node) -> Host {
    let gpus = node.gres_used.iter().filter(|gres| gres.name == "gpu");
    let mut taken: Vec<u32> = gpus.clone().flat_map(|gres| gres.indexes.clone()).collect();
    taken.sort_unstable();
    Host {
        gpus: gpus_of(&node.gres),
        gpus_taken: gpus.map(|gres| gres.count).fold(0, u32::saturating_add),
        taken,
        cpus: (node.cpus, node.allocated_cpus),
        name: node.name,
        state: node.state,
        reason: node.reason,
        partitions: node.partitions,
    }
}
