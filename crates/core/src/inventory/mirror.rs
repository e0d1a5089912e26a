//! What Kubernetes is told of a node's life in Slurm: one condition, written when it changes.
//!
//! Everything in it stays the same while nothing changes: no times, no counts of what is in use.

use super::{Host, News, Pool, Rules, SlurmNode, fence};

/// Whether Slurm gives a node out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    True,
    /// It does not.
    False,
    /// Slurm does not have it, or it is not ours to say.
    Unknown,
}

impl Standing {
    /// As a condition's status is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }

    /// As it is read; what nobody writes is unknown.
    pub fn parse(text: &str) -> Self {
        match text {
            "True" => Self::True,
            "False" => Self::False,
            _ => Self::Unknown,
        }
    }
}

/// Every reason that a condition may have.
pub const REASONS: [&str; 13] = [
    "InPool",
    "Drained",
    "Down",
    "Failing",
    "NotResponding",
    "Maintenance",
    "PoweredDown",
    "NotInPartition",
    "NotRegistered",
    "Refused",
    "NotOurs",
    "NoPool",
    "NameTaken",
];

/// The condition `gangway.dev/SlurmReady`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether.
    pub standing: Standing,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// All that a node says about Slurm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether Slurm gives it out.
    pub condition: Condition,
    /// Other people's jobs on it.
    pub tenants: String,
}

impl Condition {
    fn new(standing: Standing, reason: &str, message: String) -> Self {
        debug_assert!(REASONS.contains(&reason), "{reason} is not in the list");
        Self { standing, reason: reason.to_owned(), message }
    }
}

impl Told {
    fn of(condition: Condition) -> Self {
        Self { condition, tenants: String::new() }
    }
}

/// Something new to tell of this node, if there is.
pub(super) fn news(
    rules: &Rules,
    host: &Host,
    pool: &Pool,
    node: Option<&SlurmNode>,
) -> Option<News> {
    let condition = condition(rules, host.refusal.as_deref(), pool, node);
    let tenants = node.map_or(String::new(), |node| node.tenants.clone());
    let theirs = node.is_some_and(|node| !node.reason.starts_with(&rules.signature()));
    tell(host, Told { condition, tenants }, theirs)
}

/// Why a node of ours leaves whose labels match no pool any more.
pub(super) const NO_POOL: &str = "no pool of the bridge has this node any more";

/// It is told so while Slurm still has it; nodes that no pool ever had are not talked about.
pub(super) fn poolless(host: &Host) -> Option<News> {
    tell(host, Told::of(Condition::new(Standing::Unknown, "NoPool", NO_POOL.to_owned())), false)
}

/// Two nodes of Kubernetes have the same name in Slurm.
pub(super) fn twice(host: &Host, first: &Host) -> Option<News> {
    let message = format!(
        "node {} has the same name in Slurm, {}: one of the labels gangway.dev/slurm-node is wrong",
        first.name,
        host.slurm_name()
    );
    tell(host, Told::of(Condition::new(Standing::Unknown, "NameTaken", message)), false)
}

/// It is not registered for as long as it would be drained at once.
pub(super) fn kept_out(host: &Host, why: &str) -> Option<News> {
    let message = format!("Slurm is not given this node as long as it is shut: {why}");
    tell(host, Told::of(Condition::new(Standing::Unknown, "NotRegistered", message)), false)
}

fn tell(host: &Host, told: Told, theirs: bool) -> Option<News> {
    let before = host.told.as_ref();
    if before == Some(&told) {
        return None;
    }
    let was = before.map(|before| before.condition.standing);
    let turned = was != Some(told.condition.standing);
    // Not of a node that has just come and is well.
    let event = theirs && turned && (was.is_some() || told.condition.standing == Standing::False);
    Some(News { host: host.name.clone(), told, turned, event })
}

fn condition(
    rules: &Rules,
    refusal: Option<&str>,
    pool: &Pool,
    node: Option<&SlurmNode>,
) -> Condition {
    use Standing::{False, True, Unknown};
    let Some(node) = node else {
        let (reason, message) = match refusal {
            Some(refusal) => ("Refused", format!("Slurm does not take this node: {refusal}")),
            None if pool.hybrid => (
                "NotRegistered",
                format!(
                    "pool {} wants a slurmd on this node, and Slurm has no node of its name",
                    pool.name
                ),
            ),
            None => ("NotRegistered", "Slurm does not have this node yet".to_owned()),
        };
        return Condition::new(Unknown, reason, message);
    };
    if node.external() && !node.features.contains(&rules.mark()) {
        let message = format!(
            "Slurm has an EXTERNAL node {} that is not the bridge's; delete it in Slurm, or give it the feature {} to hand it over",
            node.name,
            rules.mark()
        );
        return Condition::new(Unknown, "NotOurs", message);
    }
    if let Some((reason, what)) = shut(node) {
        return Condition::new(False, reason, format!("{what}{}", because(node)));
    }
    let missing: Vec<&str> = pool
        .partitions
        .iter()
        .filter(|name| !node.partitions.contains(*name))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "not in partition {}, as its pool wants: in Slurm it has the features {}",
            missing.join(", "),
            node.features.iter().cloned().collect::<Vec<_>>().join(",")
        );
        return Condition::new(False, "NotInPartition", message);
    }
    let partitions: Vec<&str> = node.partitions.iter().map(String::as_str).collect();
    Condition::new(True, "InPool", format!("Slurm gives it out in: {}", partitions.join(", ")))
}

/// Why Slurm starts nothing on it.
fn shut(node: &SlurmNode) -> Option<(&'static str, &'static str)> {
    let first = |states: &[&str]| states.iter().any(|state| node.is(state));
    if first(&["DOWN"]) {
        return Some(("Down", "Slurm holds it for down"));
    }
    if first(&["NOT_RESPONDING"]) {
        return Some(("NotResponding", "Slurm gets no answer from its address"));
    }
    if first(&["FAIL"]) {
        return Some(("Failing", "marked as failing in Slurm"));
    }
    if first(&["DRAIN"]) {
        return Some(("Drained", "drained in Slurm"));
    }
    if first(&["MAINTENANCE"]) {
        return Some(("Maintenance", "in a maintenance reservation of Slurm"));
    }
    let off = ["POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN", "REBOOT_REQUESTED", "FUTURE"];
    first(&off).then_some(("PoweredDown", "powered down or rebooting in Slurm"))
}

/// Whether Slurm does not give it out, for a reason of its own and not for one that Kubernetes has given.
pub(super) fn withheld(rules: &Rules, node: &SlurmNode) -> bool {
    ["FAIL", "MAINTENANCE", "NOT_RESPONDING"].iter().any(|state| node.is(state))
        || fence::is_theirs(rules, node)
}

fn because(node: &SlurmNode) -> String {
    match (node.reason.as_str(), node.reason_user.as_str()) {
        ("", _) => String::new(),
        (reason, "") => format!(": {reason}"),
        (reason, user) => format!(": {reason} ({user})"),
    }
}
