//! A placeholder's state in words, for whoever made its pods. Decides nothing.

use gangway_core::follow::Verdict;
use gangway_core::job::{BaseState, Job, JobId};
use gangway_core::reason;

pub(super) fn queued(job: &Job, note: &str) -> Verdict {
    let waiting = reason::waiting(&job.reason, &job.description);
    let mut message = format!("Slurm job {} in partition {}: {waiting}", job.id, job.partition);
    if !note.is_empty() {
        message = format!("{message}; {note}");
    }
    Verdict::Queued {
        job: Some(job.id),
        reason: job.reason.clone(),
        message,
        expected_start: job.start_time,
    }
}

pub(super) fn ended(job: &Job, generation: u32) -> Verdict {
    Verdict::Ended {
        job: job.id,
        generation,
        state: job.ending().clone(),
        message: ended_message(job.id, job.ending(), &job.failed_nodes, &job.description),
    }
}

pub(super) fn ended_message(
    id: JobId,
    state: &BaseState,
    failed_nodes: &str,
    description: &str,
) -> String {
    let what = match state {
        BaseState::Cancelled => "was cancelled in Slurm",
        BaseState::Timeout => "reached its time limit",
        BaseState::Preempted => "was preempted by a job of higher priority",
        BaseState::NodeFail => "lost a node",
        BaseState::Completed => "has completed",
        BaseState::Deadline => "reached its deadline",
        _ => "ended in Slurm",
    };
    let mut out =
        format!("Slurm job {id}, which held the nodes of this gang, {what} ({})", state.name());
    if !failed_nodes.is_empty() {
        out.push_str(", ");
        out.extend(failed_nodes.chars().take(200));
    }
    if !description.is_empty() {
        out.push_str(": ");
        out.extend(description.chars().take(200));
    }
    out
}
