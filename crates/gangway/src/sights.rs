//! What the door tells of every placeholder of ours, kept for whoever shows it to people. Decides nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use gangway_api::v1;
use gangway_core::gangview::Sight;
use gangway_core::job::{JobId, JobState, Standing};
use tokio::sync::watch;

use crate::cluster::Cluster;

/// Pause before the door is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How often what nobody looks at is thrown away.
const TIDY: Duration = Duration::from_secs(60);

/// The latest placeholder of each gang, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Sights {
    of: Mutex<HashMap<String, watch::Sender<Option<Sight>>>>,
}

impl Sights {
    /// What is seen of one gang's placeholder, and will be.
    pub(crate) fn of(&self, gang: &str) -> watch::Receiver<Option<Sight>> {
        let mut map = self.map();
        map.entry(gang.to_owned()).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    fn put(&self, gang: String, sight: Sight) {
        let mut map = self.map();
        map.entry(gang).or_insert_with(|| watch::Sender::new(None)).send_if_modified(|old| {
            // A gang may have an old placeholder that has ended beside its present one.
            let stale = old
                .as_ref()
                .is_some_and(|old| old.generation > sight.generation && old.job != sight.job);
            let sight = sight.steadied(old.as_ref());
            let news = !stale && old.as_ref() != Some(&sight);
            if news {
                *old = Some(sight);
            }
            news
        });
    }

    fn tidy(&self) {
        self.map().retain(|_, sight| {
            let live =
                |sight: &Sight| JobState::parse(&[&sight.state]).standing() != Standing::Over;
            sight.receiver_count() > 0 || sight.borrow().as_ref().is_some_and(live)
        });
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Option<Sight>>>> {
        // A panic while the lock is held ends the process anyway (see nursery).
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps them, until the bridge stops.
pub(crate) async fn keep(cluster: Cluster) -> anyhow::Result<()> {
    while !cluster.stop.is_cancelled() {
        tokio::select! {
            biased;
            () = cluster.stop.cancelled() => return Ok(()),
            broken = watch(&cluster) => {
                // A process that stands by is told so here, too.
                tracing::debug!(status = ?broken.err(), "what is seen of placeholders has to be read again");
            }
        }
        tokio::select! {
            biased;
            () = cluster.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    Ok(())
}

async fn watch(cluster: &Cluster) -> Result<(), tonic::Status> {
    let mut door = cluster.door.clone();
    let request = v1::WatchRequest { cluster: cluster.id.clone() };
    let mut events = door.watch(request).await?.into_inner();
    let mut tidy = tokio::time::interval(TIDY);
    loop {
        tokio::select! {
            biased;
            event = events.next() => match event {
                None => return Ok(()),
                Some(event) => {
                    if let Some(v1::watch_event::Event::Placeholder(seen)) = event?.event {
                        cluster.sights.put(seen.uid.clone(), sight(seen));
                    }
                }
            },
            _ = tidy.tick() => cluster.sights.tidy(),
        }
    }
}

fn sight(seen: v1::Placeholder) -> Sight {
    Sight {
        job: JobId(seen.job_id),
        generation: seen.generation,
        state: seen.state,
        reason: seen.reason,
        nodes: seen.nodes,
        partition: seen.partition,
        user: seen.user,
        account: seen.account,
        priority: seen.priority,
        position: seen.position,
        expected_start: seen.expected_start,
        preemptions: seen.preemptions,
        outlook: seen.outlook,
        factors: seen.factors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(job: u32, generation: u32, state: &str) -> Sight {
        Sight { job: JobId(job), generation, state: state.to_owned(), ..Sight::default() }
    }

    #[test]
    fn the_latest_placeholder_of_a_gang_is_seen() {
        let sights = Sights::default();
        let mut seen = sights.of("g");
        assert_eq!(*seen.borrow_and_update(), None);
        sights.put("g".to_owned(), sight(8, 2, "PENDING"));
        sights.put("g".to_owned(), sight(7, 1, "PREEMPTED"));
        assert_eq!(seen.borrow_and_update().as_ref().map(|s| s.job), Some(JobId(8)));
        sights.put("g".to_owned(), sight(8, 2, "PENDING"));
        assert!(!seen.has_changed().unwrap(), "the same is no news");
        sights.put("other".to_owned(), sight(9, 1, "CANCELLED"));
        sights.tidy();
        assert_eq!(sights.map().len(), 1, "nobody looks at the other, and it is over");
        drop(seen);
        sights.tidy();
        assert_eq!(sights.map().len(), 1, "it lives");
    }
}
