//! Our key where only we can write it, for placeholders that were taken at once.
//!
//! The immediate path asks as the owner, so the key comes in `comment`, which the owner may change.
//! It is written into `admin_comment` here, off the way of the gangs: when a burst of them is over, or
//! after a while in any case. Decides nothing about gangs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gangway_core::job::JobId;
use gangway_slurm::Error;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{Instant, sleep, timeout};

use super::Queue;
use crate::chain::explain;

/// A burst is over when nothing was added to it for so long.
const QUIET: Duration = Duration::from_millis(500);
/// How long a burst may keep us waiting.
const LATEST: Duration = Duration::from_secs(10);
/// Pause after Slurm could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// The keys that are still to be written.
#[derive(Default)]
pub(super) struct Seals {
    owed: Mutex<BTreeMap<JobId, (String, Instant)>>,
    more: Notify,
    /// Held while a key is being written, so that an older one is never written last.
    writing: AsyncMutex<()>,
}

impl Seals {
    /// Has a job's key written, soon.
    pub(super) fn owe(&self, job: JobId, key: String) {
        self.owed().insert(job, (key, Instant::now()));
        self.more.notify_one();
    }

    fn owed(&self) -> MutexGuard<'_, BTreeMap<JobId, (String, Instant)>> {
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
                match self.booted().await {
                    Ok(booted) => while self.seal_one(booted).await {},
                    Err(error) => self.seal_later(&error).await,
                }
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
        self.slurm.set_admin_comment(job, key).await?;
        self.board.sealed(job, key);
        // Whoever owed it one meanwhile had not seen this.
        self.seals.owed().remove(&job);
        Ok(())
    }

    /// Writes the key of a job that is about to be ended, where it is still owed: accounting keeps it.
    pub(super) async fn seal_last(&self, job: JobId) {
        let _alone = self.seals.writing.lock().await;
        let owed = self.seals.owed().remove(&job);
        if let Some((key, _)) = owed
            && let Err(error) = self.slurm.set_admin_comment(job, &key).await
        {
            tracing::debug!(%job, error = explain(&error), "could not write the key of an ending job");
        }
    }

    /// When slurmctld was started, a second late, for it counts in seconds; `None` for long ago.
    async fn booted(&self) -> Result<Option<Instant>, Error> {
        let diag = self.slurm.diag().await?;
        let up = u64::try_from(diag.now.saturating_sub(diag.boot_time)).unwrap_or(0);
        Ok(Instant::now().checked_sub(Duration::from_secs(up.saturating_sub(1))))
    }

    /// What is owed is written when Slurm answers again.
    async fn seal_later(&self, error: &Error) {
        tracing::debug!(error = explain(error), "could not write keys; trying again");
        sleep(RETRY).await;
        self.seals.more.notify_one();
    }

    /// Writes a key that is owed since then. `false`: slurmctld has crashed since and lost the job, and
    /// another may have its id by now (live-slurm.md, d).
    async fn seal_while_ours(
        &self,
        job: JobId,
        key: &str,
        since: Instant,
        booted: Option<Instant>,
    ) -> Result<bool, Error> {
        if booted.is_some_and(|booted| booted >= since) {
            let seen = self.slurm.job(job).await?;
            if seen.is_none_or(|seen| seen.comment != key && seen.admin_comment != key) {
                return Ok(false);
            }
        }
        self.slurm.set_admin_comment(job, key).await?;
        Ok(true)
    }

    /// `false`: nothing is owed, or Slurm does not answer.
    async fn seal_one(&self, booted: Option<Instant>) -> bool {
        let writing = self.seals.writing.lock().await;
        let Some((job, (key, since))) = self.seals.owed().pop_first() else { return false };
        match self.seal_while_ours(job, &key, since, booted).await {
            Ok(true) => self.board.sealed(job, &key),
            Ok(false) => {
                tracing::warn!(%job, "Slurm has given the id of a lost placeholder to another job; leaving it alone");
            }
            Err(error) => {
                // A job that is over keeps its key in the comment alone.
                tracing::debug!(%job, error = explain(&error), "could not write a key");
                if error.is_retryable() {
                    self.seals.owed().entry(job).or_insert((key, since));
                    drop(writing);
                    // It may come back with less than it had: its start is asked for again.
                    self.seal_later(&error).await;
                    return false;
                }
            }
        }
        true
    }
}
