//! A placeholder that waits, and what policy grants its gang by now.
//!
//! A policy that is narrowed or taken away is followed by whoever waits: the placeholder is given back and the
//! gang asks anew, or is refused. Those that hold their nodes keep them: no pod is ended by a policy.

use std::sync::Arc;

use gangway_core::gang::Gang;
use gangway_core::job::Job;
use gangway_core::placeholder::Stamp;
use gangway_core::policy::{Policy, Source, grant};

use super::{Entry, Next, Queue};
use crate::chain::explain;

impl Queue {
    /// Whether a placeholder in the queue is no longer what policy grants, as far as its record shows it.
    /// Members that are bound for it decide nothing here: their start may come back.
    ///
    /// Looked at once for each policy: what this policy granted is never taken back by it, however Slurm
    /// shows it (it may write names otherwise), or the gang would be asked for and given back for ever.
    pub(super) fn takes_back(&self, entry: &Entry, policy: &Arc<Policy>, job: &Job) -> bool {
        let rules = matches!(policy.source, Source::Rules(_));
        if !rules || entry.was_granted_by(policy) || entry.releasing().is_some() {
            return false;
        }
        let taken = is_taken_back(entry, policy, job);
        if !taken {
            entry.is_granted_by(policy);
        }
        taken
    }

    /// Gives it back, marked as no end of its pods. `None`: try again.
    pub(super) async fn take_back(&self, job: &Job) -> Option<Next> {
        let stamp = Stamp::of(job)?;
        tracing::info!("what policy grants has changed; asking anew");
        let ended = async {
            self.seal_as(job.id, &stamp.given_back().to_text()).await?;
            self.end(job, "what policy grants has changed").await
        };
        match ended.await {
            Ok(()) => Some(Next::Again),
            Err(error) => {
                tracing::warn!(error = explain(&error), "could not give it back; trying again");
                None
            }
        }
    }
}

/// Whether a gang that asks for no time limit was given a longer one than it would be now; whoever began after that
/// does not know.
fn was_given_longer(entry: &Entry, gang: &Gang, now: Option<u32>) -> bool {
    let Some(before) = entry.granted_by().filter(|_| gang.ask.time_limit_minutes.is_none()) else {
        return false;
    };
    let before = grant(&before, &gang.namespace, &gang.ask).ok();
    let before = before.and_then(|granted| granted.terms?.1.max_minutes);
    now.unwrap_or(u32::MAX) < before.unwrap_or(u32::MAX)
}

fn is_taken_back(entry: &Entry, policy: &Policy, job: &Job) -> bool {
    let gang = entry.gang();
    if gang.members.iter().any(|member| member.bound.is_some()) {
        return false;
    }
    let Ok(granted) = grant(policy, &gang.namespace, &gang.ask) else { return true };
    let Some((_, terms)) = granted.terms.as_deref() else { return false };
    if granted.check(&gang.ask).is_err() || was_given_longer(entry, &gang, terms.max_minutes) {
        return true;
    }
    let same = |ours: Option<&str>, theirs: &str| {
        theirs.is_empty() || ours.is_some_and(|ours| ours.eq_ignore_ascii_case(theirs))
    };
    let as_granted = same(Some(&granted.user), &job.user)
        && same(granted.account.as_deref(), &job.account)
        && same(granted.partition.as_deref(), &job.partition);
    let nodes = u32::try_from(gang.size()).unwrap_or(u32::MAX);
    let nodes = nodes.div_ceil(gang.ask.pods_per_node.unwrap_or(1).max(1));
    !as_granted || terms.max_nodes.is_some_and(|most| nodes > most)
}
