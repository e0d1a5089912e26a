//! What pods are told that Slurm's queue does not say: their gang is refused, or not whole, or waits for a seat.
//!
//! Kept for whoever asks at the desk, as each follower says it. Decides nothing, and knows only the gangs that this
//! process follows: those of `gangway extender` say it in Kubernetes alone.

use std::sync::Arc;

use dashmap::DashMap;
use gangway_core::desk::{Row, outside};
use gangway_core::follow::{Report, Verdict};
use gangway_core::life::Phase;
use tokio::sync::watch;

use crate::cluster::View;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Anteroom(Arc<DashMap<String, Waits>>);

/// One gang, and what its pods are told.
#[derive(Debug)]
struct Waits {
    view: watch::Receiver<View>,
    phase: Phase,
    /// It has a job all the same.
    job: bool,
    report: Report,
}

impl Anteroom {
    /// Takes in what the pods of a gang are told now. Whether there is anything that its job does not say.
    pub(crate) fn hear(
        &self,
        view: &watch::Receiver<View>,
        (phase, verdict): (Phase, Option<&Verdict>),
        report: Option<&Report>,
    ) -> bool {
        let uid = view.borrow().assembled.gang.uid.clone();
        let queued = matches!(verdict, Some(Verdict::Queued { job: Some(_), .. }));
        let Some(report) = report.filter(|_| !queued) else {
            self.forget(&uid);
            return false;
        };
        let job = matches!(verdict, Some(Verdict::Allocated { .. }));
        let waits = Waits { view: view.clone(), phase, job, report: report.clone() };
        self.0.insert(uid, waits);
        true
    }

    /// There is nothing more to be said of this gang.
    pub(crate) fn forget(&self, gang: &str) {
        self.0.remove(gang);
    }

    /// Gangs that Slurm has no job for, by their names; with their pods where they are wanted.
    pub(crate) fn rows(&self, pods: bool) -> Vec<Row> {
        let without = self.0.iter().filter(|waits| !waits.job);
        let mut rows: Vec<Row> = without
            .map(|waits| {
                let gang = &waits.view.borrow().assembled.gang;
                outside(gang, waits.phase, &waits.report, pods)
            })
            .collect();
        rows.sort_by_cached_key(Row::path);
        rows
    }

    /// What the pods of a gang are told beside its job.
    pub(crate) fn told(&self, gang: &str) -> Option<String> {
        self.0.get(gang).map(|waits| waits.report.message.clone())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use gangway_core::gang::assemble;
    use gangway_core::job::JobId;
    use gangway_core::pod::Pod;

    use super::*;
    use crate::index::Group;

    /// A pod by itself.
    pub(crate) fn alone(namespace: &str, name: &str) -> watch::Receiver<View> {
        let (uid, name) = (format!("uid-of-{name}"), name.to_owned());
        let group = Group::Alone(uid.clone());
        let pod = Pod { uid, name, namespace: namespace.to_owned(), ..Pod::default() };
        let assembled = assemble(None, &[&pod]).remove(0);
        watch::channel(View { assembled, group, ready: 0 }).1
    }

    pub(crate) fn refused(message: &str) -> Report {
        let (topic, message) = (String::new(), message.to_owned());
        Report { reason: "Refused", topic, message, problem: true }
    }

    #[test]
    fn what_slurms_queue_does_not_say_is_heard_here() {
        let (view, anteroom) = (alone("ml", "p"), Anteroom::default());
        let report = refused("no partition takes it");
        let hears = |phase, verdict: Option<&Verdict>, report| {
            anteroom.hear(&view, (phase, verdict), report)
        };
        assert!(hears(Phase::Assembling, None, Some(&report)));
        let rows = anteroom.rows(true);
        let seen: Vec<_> =
            rows.iter().map(|row| (row.path(), row.job, row.state.as_str())).collect();
        assert_eq!(seen, [("ml/p".to_owned(), 0, "ASSEMBLING")]);

        // Of one that Slurm has a job for its job tells.
        let (job, reason, message) = (Some(JobId(7)), "Priority".to_owned(), String::new());
        let queued = Verdict::Queued { job, reason, message, expected_start: 0 };
        assert!(!hears(Phase::Queued, Some(&queued), Some(&report)));
        assert_eq!((anteroom.rows(true).len(), anteroom.told("uid-of-p")), (0, None));
        assert!(hears(Phase::Refused, None, Some(&report)));
        assert!(!hears(Phase::Refused, None, None), "it is all right now");
        assert_eq!(anteroom.told("uid-of-p"), None);
    }
}
