//! Whether anything new may start on a node: what Kubernetes says of it, as a drain or down of Slurm's.
//!
//! Only a drain whose reason begins with our signature is ours to lift. An administrator's is left as it is, also where
//! Kubernetes would shut the node too: theirs holds already, and no second reason fits.

use super::{Host, Rules, SlurmNode, Step};

/// What Kubernetes says of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fence {
    why: Option<String>,
    down: bool,
    /// When it will say something else by itself.
    pub(super) again: Option<i64>,
}

/// Between the reason of a down and the administrator's reason that it has replaced.
const BEFORE: &str = "; drained before: ";

/// What a node of Kubernetes means for Slurm's.
pub(super) fn of(rules: &Rules, host: &Host, now: i64) -> Fence {
    if let Some(since) = host.unready_since {
        let due = since.saturating_add(rules.down_after_ms);
        let down = now >= due;
        let again = (!down).then_some(due);
        return Fence { why: Some("not ready in Kubernetes".to_owned()), down, again };
    }
    let leaving = host.taints.iter().find(|taint| rules.leaving_taints.contains(&taint.key));
    let why = if host.deleting {
        Some("is being deleted from Kubernetes".to_owned())
    } else if let Some(taint) = leaving {
        Some(format!("about to go: taint {}", taint.key))
    } else {
        host.unschedulable.then(|| "cordoned in Kubernetes".to_owned())
    };
    Fence { why, ..Fence::default() }
}

/// How a node of ours leaves Slurm: its jobs end as node failures first, then it goes.
pub(super) fn leave(rules: &Rules, node: &SlurmNode, why: &str) -> Option<Step> {
    if !node.busy() {
        return Some(Step::Delete { node: node.name.clone() });
    }
    let down = Fence { why: Some(why.to_owned()), down: true, again: None };
    down.steps(rules, node)
}

/// Whether somebody else has drained it, or holds it for down, also where a down of ours stands over that.
pub(super) fn is_theirs(rules: &Rules, node: &SlurmNode) -> bool {
    let ours = node.reason.starts_with(&rules.signature()) && !node.reason.contains(BEFORE);
    (node.is("DRAIN") || node.is("DOWN")) && !ours
}

impl Fence {
    pub(super) fn is_shut(&self) -> bool {
        self.why.is_some()
    }

    /// Why it is shut; empty where it is not.
    pub(super) fn reason(&self) -> &str {
        self.why.as_deref().unwrap_or_default()
    }

    /// The same, and shut for this reason where it is open.
    pub(super) fn also(&self, why: &str) -> Self {
        let own = self.clone();
        Self { why: own.why.or_else(|| Some(why.to_owned())), ..own }
    }

    /// What makes Slurm's node as this says.
    pub(super) fn steps(&self, rules: &Rules, node: &SlurmNode) -> Option<Step> {
        let name = || node.name.clone();
        let (drained, down) = (node.is("DRAIN"), node.is("DOWN"));
        let ours = node.reason.strip_prefix(&rules.signature());
        let Some(why) = &self.why else {
            let said = ours.filter(|_| drained || down)?;
            return Some(match said.split_once(BEFORE) {
                // It goes back to the administrator who had drained it.
                Some((_, theirs)) => Step::Drain { node: name(), reason: theirs.to_owned() },
                None => Step::Resume { node: name() },
            });
        };
        let mut reason = format!("{}{why}", rules.signature());
        if self.down {
            // Nothing is left on it that a down would end.
            if down || (drained && ours.is_none() && !node.busy()) {
                return None;
            }
            if drained && ours.is_none() {
                reason += BEFORE;
                reason += &node.reason;
            }
            return Some(Step::Down { node: name(), reason });
        }
        if down && ours.is_some() {
            // Ready again, and cordoned: first up, then drained.
            return Some(Step::Resume { node: name() });
        }
        let told = drained && (ours.is_none() || node.reason == reason);
        (!told && !down).then(|| Step::Drain { node: name(), reason })
    }
}
