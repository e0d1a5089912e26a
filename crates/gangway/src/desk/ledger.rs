//! Slurm's jobs and nodes as they were listed last, so that many who look cost Slurm what one does.
//!
//! Nobody looks, nothing is asked. A list of 10,000 jobs takes slurmrestd seconds: whoever comes while one is under way
//! is shown the last one after a moment, with its age, unless that is too old to be of use. The first who looks is shown
//! what the bridge has listed for itself, and a newer one is asked for meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gangway_core::desk::Partition;
use gangway_core::job::Job;
use gangway_core::outlook::Node;
use gangway_slurm::{Client, Error};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::nursery::Nursery;
use crate::queue::{Board, fact};

/// A list is shown again for so long without asking.
const FRESH: Duration = Duration::from_secs(2);
/// A list is waited for so long while there is an older one to show.
const PATIENCE: Duration = Duration::from_millis(100);
/// Partitions are looked at again after so long: people change them by hand.
const PARTITIONS: Duration = Duration::from_secs(60);

/// The oldest list that an answer may be made of.
#[derive(Clone, Copy)]
pub(super) enum Oldest {
    /// For whoever is told how old it is: as old as the bridge's own lists become where each takes many seconds.
    Told,
    /// For whoever is not.
    Untold,
    /// For whoever looks for what may have come just now.
    Now,
}

impl Oldest {
    fn age(self) -> Duration {
        match self {
            Self::Told => Duration::from_secs(600),
            Self::Untold => Duration::from_secs(60),
            Self::Now => Duration::ZERO,
        }
    }
}

/// All jobs at one moment.
pub(super) struct Listing {
    pub(super) jobs: Arc<Vec<Arc<Job>>>,
    pub(super) partitions: Arc<Vec<Partition>>,
    /// Seconds since the epoch.
    pub(super) as_of: i64,
    last_update: i64,
    asked: Instant,
    /// When it had come.
    come: Instant,
}

type Hosts = (Vec<Node>, Vec<Partition>);

pub(super) struct Ledger {
    slurm: Client,
    board: Arc<Board>,
    nursery: Nursery,
    kept: Mutex<Option<Arc<Listing>>>,
    partitions: tokio::sync::Mutex<Option<(Instant, Arc<Vec<Partition>>)>>,
    hosts: tokio::sync::Mutex<Option<(Instant, Arc<Hosts>)>>,
    /// Held by whoever asks Slurm.
    turn: tokio::sync::Mutex<()>,
    /// [`FRESH`], but for a test.
    pub(super) fresh: Duration,
}

impl Ledger {
    pub(super) fn new(slurm: Client, board: Arc<Board>, nursery: Nursery) -> Self {
        Self {
            slurm,
            board,
            nursery,
            kept: Mutex::default(),
            partitions: Default::default(),
            hosts: Default::default(),
            turn: Default::default(),
            fresh: FRESH,
        }
    }

    /// What is shown has changed by our own doing: the next one asks.
    pub(super) fn forget(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing that was asked for before is shown any more, the board's lists neither.
        let nothing = Listing {
            jobs: Arc::default(),
            partitions: Arc::default(),
            as_of: 0,
            last_update: 1,
            asked: Instant::now(),
            come: Instant::now(),
        };
        *kept = Some(Arc::new(nothing));
    }

    fn kept(&self) -> Option<Arc<Listing>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last list, of ours and the board's.
    async fn known(&self) -> Result<Option<Arc<Listing>>, Error> {
        let kept = self.kept();
        let Some(listed) = self.board.listing() else { return Ok(kept.filter(|one| one.is_one())) };
        if let Some(kept) = &kept
            && kept.asked >= listed.asked
        {
            return Ok(Some(kept.clone()).filter(|one| one.is_one()));
        }
        let partitions = self.partitions().await?;
        let (jobs, as_of, last_update) = (listed.jobs, listed.as_of, listed.last_update);
        let asked = listed.asked;
        let listing = Listing { jobs, partitions, as_of, last_update, asked, come: asked };
        let listing = Arc::new(listing);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|kept| kept.asked < listing.asked) {
            *kept = Some(listing.clone());
        }
        Ok(Some(listing))
    }

    /// The jobs, as of a moment ago or longer.
    pub(super) async fn listing(self: &Arc<Self>, oldest: Oldest) -> Result<Arc<Listing>, Error> {
        let wanted = Instant::now();
        let known = self.known().await?;
        if let Some(known) = &known
            && known.asked.elapsed() < self.fresh.min(oldest.age())
        {
            return Ok(known.clone());
        }
        let known = known.filter(|known| known.asked.elapsed() < oldest.age());
        // It goes on when nobody waits for it any more: the next one who looks sees it.
        let (own, (said, asking)) = (self.clone(), oneshot::channel());
        self.nursery.start("desk list", async move {
            let answer = own.ask(wanted, oldest).await;
            let _ = said.send(answer);
            Ok(())
        });
        let Some(known) = known else {
            // The bridge ends: it was not sent.
            return asking.await.unwrap_or(Err(Error::Shut { endpoint: "jobs" }));
        };
        match timeout(PATIENCE, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Ok(known),
        }
    }

    async fn ask(&self, wanted: Instant, oldest: Oldest) -> Result<Arc<Listing>, Error> {
        let _turn = self.turn.lock().await;
        let before = self.known().await?;
        if let Some(before) = &before {
            let next = before.asked + self.fresh;
            match oldest {
                // Of all who came while a list was under way, it is the list.
                Oldest::Told | Oldest::Untold if before.come >= wanted || Instant::now() < next => {
                    return Ok(before.clone());
                }
                Oldest::Told | Oldest::Untold => {}
                Oldest::Now if before.asked >= wanted => return Ok(before.clone()),
                // Whoever asks for what there is not costs no more lists than others.
                Oldest::Now => sleep_until(next).await,
            }
        }
        let (asked, as_of) = (Instant::now(), super::now());
        let since = before.as_ref().map_or(1, |before| before.last_update);
        let (news, partitions) = tokio::try_join!(self.slurm.jobs_since(since), self.partitions())?;
        let (jobs, last_update) = match (news, before) {
            (Some(news), _) => {
                (Arc::new(news.jobs.into_iter().map(Arc::new).collect()), news.last_update)
            }
            (None, Some(before)) => (before.jobs.clone(), before.last_update),
            // Nothing has changed since 1970: there are none.
            (None, None) => (Arc::default(), 1),
        };
        let come = Instant::now();
        let listing = Arc::new(Listing { jobs, partitions, as_of, last_update, asked, come });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|kept| kept.asked <= asked) {
            *kept = Some(listing.clone());
        }
        Ok(listing)
    }

    async fn partitions(&self) -> Result<Arc<Vec<Partition>>, Error> {
        let mut kept = self.partitions.lock().await;
        if let Some((asked, partitions)) = &*kept
            && asked.elapsed() < PARTITIONS
        {
            return Ok(partitions.clone());
        }
        let asked = Instant::now();
        let partitions = self.slurm.partitions().await?;
        let partitions = Arc::new(partitions.iter().map(partition).collect());
        *kept = Some((asked, Arc::clone(&partitions)));
        Ok(partitions)
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
            (nodes.into_iter().map(fact).collect(), partitions.iter().map(partition).collect());
        *kept = Some((asked, Arc::new(hosts.clone())));
        Ok(hosts)
    }
}

impl Listing {
    /// Whether it is a list at all, and not the mark that none is believed any more.
    fn is_one(&self) -> bool {
        self.as_of > 0
    }
}

fn partition(partition: &gangway_slurm::Partition) -> Partition {
    let (name, tier, up) = (partition.name.clone(), partition.priority_tier, partition.is_up());
    Partition { name, tier, up }
}
