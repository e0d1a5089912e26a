//! A gang that waits for others before it is submitted.
//!
//! Only the submit waits: a placeholder that is in Slurm already has its dependency there. Success and
//! failure of a workload come with the question, from whoever sees Kubernetes; here its placeholder is
//! found.

use std::time::Duration;

use gangway_core::ask::Settled;
use gangway_core::follow::Verdict;
use gangway_core::gang::Gang;
use gangway_core::job::{JobId, Standing};
use gangway_core::policy::{Category, Refusal};
use gangway_core::reason::DEPENDENCY;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::{Next, Queue};
use crate::queue::Entry;

/// A gang that waits looks again after so long, whatever it has heard.
const LOOK: Duration = Duration::from_secs(30);

impl Queue {
    /// What of a gang's dependency is left for Slurm, or how to go on without a submit.
    pub(super) async fn settle(&self, entry: &Entry, gang: &Gang) -> Result<Option<String>, Next> {
        let Some(dependency) = &gang.ask.dependency else { return Ok(None) };
        // Listened to before looking, so that no placeholder appears unseen in between.
        let mut changes = self.board.changes();
        let live = |uid: &str| self.live_placeholder(&entry.key.cluster, uid);
        let why = match dependency.settle(&gang.ask.others, live) {
            Settled::Ready(left) => return Ok(left),
            Settled::Never(why) => {
                let why = format!("{why}; delete it, or correct gangway.dev/dependency");
                let refusal = Refusal::new(Category::Shape, why);
                return Err(Next::Done(Some(Verdict::Refused(refusal))));
            }
            Settled::Waits(why) => why,
        };
        entry.say(Verdict::Queued {
            job: None,
            reason: DEPENDENCY.to_owned(),
            message: format!("{DEPENDENCY}: {why}"),
            expected_start: 0,
        });
        let one_of_them = async {
            loop {
                match changes.recv().await {
                    Ok((stamp, _)) if gang.ask.others.values().all(|o| o.uid != stamp.gang) => {}
                    // Missed some: any of them may have been it.
                    Ok(_) | Err(RecvError::Lagged(_) | RecvError::Closed) => break,
                }
            }
        };
        let something = async {
            tokio::select! {
                biased;
                () = one_of_them => {}
                () = entry.changed.notified() => {}
                () = self.stop.cancelled() => {}
            }
        };
        // Looking again without news is fine.
        let _ = timeout(LOOK, something).await;
        Err(Next::Again)
    }

    /// The placeholder of a gang that waits or runs.
    fn live_placeholder(&self, cluster: &str, gang: &str) -> Option<JobId> {
        let listed = self.board.listed(cluster, gang);
        let live = listed.into_iter().filter(|(_, job)| job.state.standing() != Standing::Over);
        live.map(|(_, job)| job.id).max()
    }
}
