//! Holds in Slurm what pods take of hosts with a slurmd beside it. Decides nothing.

use std::collections::HashMap;

use gangway_core::inventory::{Hold, Settling, settle};
use gangway_core::job::{Job, Standing};
use gangway_slurm::{Client, Error};
use tokio::time::Instant;

use super::carry::AGAIN;
use super::figures::Figures;
use crate::chain::explain;

/// The jobs that hold, as they were last read.
#[derive(Default)]
pub(super) struct Holder {
    held: Vec<Job>,
    /// What Slurm has refused to be held, and when.
    refused: HashMap<String, Instant>,
    /// The jobs have been read, and nothing has been done since.
    known: bool,
}

impl Holder {
    /// Whether the jobs must be read before anything is decided: at the start, after something was done, while one waits,
    /// and when other things are to be held than are.
    pub(super) fn must_read(&self, wanted: &[Hold]) -> bool {
        let waits = self.held.iter().any(|job| job.standing() != Standing::Holding);
        !self.known || waits || !self.plan(wanted).is_nothing()
    }

    /// Takes in the jobs as they are now.
    pub(super) fn read(&mut self, held: Vec<Job>) {
        (self.held, self.known) = (held, true);
    }

    /// Ends what is held for nobody, and then takes what is missing. Whether anything was asked of Slurm.
    pub(super) async fn carry(
        &mut self,
        slurm: &Client,
        figures: &Figures,
        wanted: &[Hold],
    ) -> bool {
        if !self.known {
            return false;
        }
        let plan = self.plan(wanted);
        if plan.is_nothing() {
            return false;
        }
        for job in &plan.release {
            tracing::info!(job = job.id.0, held = job.admin_comment, "no pod takes this any more");
            let answer = slurm.cancel_submission(job).await;
            figures.step("release", 1, &answer);
            if let Err(error) = answer {
                tracing::warn!(
                    job = job.id.0,
                    error = explain(&error),
                    "Slurm did not end a job that holds"
                );
            }
        }
        for hold in &plan.take {
            let answer = slurm.hold(hold).await;
            figures.step("hold", 1, &answer);
            match answer {
                Ok(taken) => {
                    tracing::info!(
                        job = taken.job_id.0,
                        held = hold.key,
                        "held for pods beside Slurm"
                    );
                }
                Err(error) => {
                    tracing::warn!(
                        held = hold.key,
                        error = explain(&error),
                        "Slurm does not hold what pods take"
                    );
                    if matches!(error, Error::Rejected { .. }) {
                        self.refused.insert(hold.key.clone(), Instant::now());
                    }
                }
            }
        }
        self.known = false;
        true
    }

    fn plan(&self, wanted: &[Hold]) -> Settling {
        let mut plan = settle(wanted, &self.held);
        let lately = |at: &Instant| at.elapsed() < AGAIN;
        plan.take.retain(|hold| !self.refused.get(&hold.key).is_some_and(lately));
        plan
    }
}
