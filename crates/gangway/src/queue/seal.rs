//! Our key where only we can write it, for placeholders that were taken at once.
//!
//! The immediate path asks as the owner, so the key comes in `comment`, which the owner may change.
//! It is written into `admin_comment` here, off the way of the gangs: when a burst of them is over, or
//! after a while in any case. Decides nothing about gangs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gangway_core::job::{Job, JobId};
use gangway_core::placeholder::Stamp;
use gangway_slurm::Error;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{Instant, sleep, timeout};

use super::Queue;
use super::board::A_MOMENT;
use crate::chain::explain;
use crate::failpoint::{self, Point};

/// A burst is over when nothing was added to it for so long.
const QUIET: Duration = Duration::from_millis(500);
/// How long a burst may keep us waiting.
const LATEST: Duration = Duration::from_secs(10);
/// Pause after Slurm could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// The keys that are still to be written.
#[derive(Default)]
pub(super) struct Seals {
    owed: Mutex<BTreeMap<JobId, Owed>>,
    more: Notify,
    /// Held while a key is being written, so that an older one is never written last.
    writing: AsyncMutex<()>,
}

/// A key that is to be written.
#[derive(Clone)]
struct Owed {
    key: String,
    /// When the slurmctld began that gave the job its id; another one may give it to somebody else.
    boot: i64,
}

impl Owed {
    /// Whose it is, for the log.
    fn gang(&self) -> Option<String> {
        Stamp::parse(&self.key).map(|stamp| stamp.gang)
    }
}

impl Seals {
    /// Has a job's key written, soon. `boot`: when the slurmctld began that knows the job.
    pub(super) fn owe(&self, job: JobId, key: String, boot: i64) {
        self.owed().insert(job, Owed { key, boot });
        self.more.notify_one();
    }

    fn owed(&self) -> MutexGuard<'_, BTreeMap<JobId, Owed>> {
        // A panic while the lock is held ends the process anyway (see nursery).
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Writes what is owed, burst by burst, until the bridge stops. What is left then is owed again
    /// by the bridge that comes after us.
    pub(crate) async fn keep_sealed(self: Arc<Self>) -> anyhow::Result<()> {
        let bursts = async {
            loop {
                self.seals.more.notified().await;
                let began = Instant::now();
                let more = async || timeout(QUIET, self.seals.more.notified()).await.is_ok();
                while began.elapsed() < LATEST && more().await {}
                while self.seal_one().await {}
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(()),
            () = bursts => Ok(()),
        }
    }

    /// Writes another key than the one that may be owed, which is forgotten.
    pub(super) async fn seal_as(&self, job: JobId, key: &str) -> Result<(), Error> {
        let _alone = self.seals.writing.lock().await;
        let owed = Owed { key: key.to_owned(), boot: self.board.boot() };
        let written = self.write_key(job, &owed).await?;
        failpoint::pass(Point::Marked);
        if !written {
            return Ok(());
        }
        // Whoever owed it one meanwhile had not seen this.
        self.seals.owed().remove(&job);
        Ok(())
    }

    /// Writes the key of a job that is about to be ended, where it is still owed: accounting keeps it. In the job's span.
    pub(super) async fn seal_last(&self, job: JobId) {
        let _alone = self.seals.writing.lock().await;
        let owed = self.seals.owed().remove(&job);
        let Some(owed) = owed else { return };
        let written = self.write_key(job, &owed).await;
        failpoint::pass(Point::SealedLast);
        if let Err(error) = written {
            tracing::debug!(error = explain(&error), "could not write the key of an ending job");
        }
    }

    /// `false`: nothing is owed.
    async fn seal_one(&self) -> bool {
        let writing = self.seals.writing.lock().await;
        let Some((job, owed)) = self.seals.owed().pop_first() else { return false };
        let written = self.write_key(job, &owed).await;
        failpoint::pass(Point::Sealed);
        if let Err(error) = written {
            // A job that is over keeps its key in the comment alone.
            tracing::debug!(
                gang = owed.gang(),
                job = job.0,
                error = explain(&error),
                "could not write a key"
            );
            if error.is_retryable() {
                self.seals.owed().entry(job).or_insert(owed);
                drop(writing);
                sleep(RETRY).await;
            }
        }
        true
    }

    /// Writes a key, but never into somebody else's job: where slurmctld has begun anew since, it may have
    /// forgotten ours and given the id away. `false`: it is not ours any more.
    async fn write_key(&self, job: JobId, owed: &Owed) -> Result<bool, Error> {
        if !self.board.is_still(owed.boot).await? {
            let own = Stamp::parse(&owed.key);
            let same = |seen: &Job| {
                let (own, seen) = (own.as_ref(), Stamp::of(seen));
                own.zip(seen).is_some_and(|(o, s)| s.is_of(&o.cluster, &o.gang, o.generation))
            };
            let asked = Instant::now();
            let seen = self.slurm.job(job).await?;
            // By now the id may be whose it was not when it was asked.
            if asked.elapsed() >= A_MOMENT {
                return Err(Error::TimedOut { endpoint: "job", after: A_MOMENT, sent: true });
            }
            if !seen.is_some_and(|seen| same(&seen)) {
                tracing::warn!(
                    gang = owed.gang(),
                    job = job.0,
                    "slurmctld has forgotten a job whose key was to be written"
                );
                return Ok(false);
            }
        }
        self.slurm.set_admin_comment(job, &owed.key).await?;
        self.board.sealed(job, &owed.key);
        Ok(true)
    }
}
