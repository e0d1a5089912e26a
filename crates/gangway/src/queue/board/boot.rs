//! Which slurmctld it is that answers: one that has begun anew may have forgotten the last seconds, and give
//! their ids to others.

use std::time::Duration;

use tokio::time::Instant;

use super::Board;

/// How long an answer is believed, from its question on, in what slurmctld says of its beginning or of whose
/// an id is: killed and started at once it takes about as long to be back (150 to 250 ms here).
pub(in crate::queue) const A_MOMENT: Duration = Duration::from_millis(200);

impl Board {
    /// Whether slurmctld is still, for certain, the one that had begun then, and an id is whose it was.
    pub(crate) async fn is_still(&self, boot: i64) -> Result<bool, gangway_slurm::Error> {
        let moment_ago = Instant::now().checked_sub(A_MOMENT).unwrap_or(self.origin);
        let (asked, now) = self.began_since(moment_ago).await?;
        Ok(now == boot && asked.elapsed() < A_MOMENT)
    }

    /// Whether what was read until then is the word of the slurmctld that had begun at `boot`.
    pub(crate) async fn was_said_by(
        &self,
        boot: i64,
        read: Instant,
    ) -> Result<bool, gangway_slurm::Error> {
        Ok(self.began_since(read).await?.1 == boot)
    }

    /// When slurmctld began, as it says itself when asked then or later, and when it was asked. One question
    /// serves many.
    async fn began_since(&self, then: Instant) -> Result<(Instant, i64), gangway_slurm::Error> {
        let mut said = self.said.lock().await;
        if let Some(said) = said.filter(|(asked, _)| *asked >= then) {
            return Ok(said);
        }
        let asked = Instant::now();
        let now = (asked, self.slurm.diag().await?.boot_time);
        *said = Some(now);
        Ok(now)
    }

    /// When slurmctld began, where that is news: then everything of the last seconds may be forgotten
    /// (rule 2). It also says so when only its counters were reset, at midnight; reading everything again
    /// for nothing does no harm.
    pub(super) async fn has_begun_anew(&self) -> Result<Option<i64>, gangway_slurm::Error> {
        let diag = self.slurm.diag().await?;
        let boot = diag.boot_time;
        let mut inner = self.inner();
        inner.undelivered = diag.agent_queue;
        if inner.boot == 0 {
            inner.boot = boot;
        }
        if inner.boot == boot {
            return Ok(None);
        }
        inner.anew = Some(Instant::now());
        tracing::warn!(
            before = inner.boot,
            boot,
            "slurmctld has begun anew; reading everything again"
        );
        Ok(Some(boot))
    }
}
