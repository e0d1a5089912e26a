//! Who may ask Slurm for what, and as whom.
//!
//! User metadata is never authority (rule 7): the Slurm user comes from here, and an annotation may
//! only choose among what is open to its namespace.

mod known;
mod rule;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use known::{Known, unknown};
pub use rule::{ANY, Rule, Sharing, Terms, closest, is_root};

use crate::ask::{Ask, Requester, TABLE};
use crate::job::PlaceholderRequest;
use crate::names::PREFIX;

/// What the platform team wrote in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Partition of gangs that name none; `None` leaves it to Slurm's default.
    pub default_partition: Option<String>,
    /// Partitions that may be named; empty means all that Slurm lets the account use.
    pub partitions: Vec<String>,
    /// Annotations (by their names in [`TABLE`]) that nobody may use unless its identity allows it.
    /// [`CLOSED`] is closed beside them.
    pub closed: Vec<String>,
    /// Feature that a node must have for pods to come to it; `None` where the partitions see to that.
    pub feature: Option<String>,
    /// The longest warning a gang may ask for, in seconds; `None` is [`MAX_GRACE_SECONDS`].
    pub max_grace_seconds: Option<u32>,
    /// Who each namespace is to Slurm; the first match counts.
    pub identities: Vec<Identity>,
    /// The token's user: nobody's jobs may be its own.
    pub slurm_user: String,
    /// Whether the requester that a pod carries is believed, because admission guards it.
    pub believes_requester: bool,
    /// Who says what is granted.
    pub source: Source,
}

/// Who says what is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// [`Policy::identities`].
    #[default]
    Identities,
    /// SlurmPolicies, which have not been read yet: nothing is granted.
    Unread,
    /// These SlurmPolicies, and nobody else.
    Rules(Vec<Rule>),
}

/// What is closed without a word of the platform team: it would put one user before all others, and a
/// placeholder is submitted by SlurmUser, whom Slurm would believe.
pub const CLOSED: &str = "priority";

/// The longest warning where the platform team has said nothing: whoever comes next waits for so long.
pub const MAX_GRACE_SECONDS: u32 = 600;

/// Who a namespace is to Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// A namespace, or `*` for every one.
    pub namespace: String,
    /// Slurm user, a name or a number.
    pub user: String,
    /// Group of that user, a name or a number.
    pub group: String,
    /// Account of gangs that name none; `None` is the user's default in Slurm.
    pub account: Option<String>,
    /// Further accounts that may be named.
    pub accounts: Vec<String>,
    /// Qualities of service that may be named.
    pub qos: Vec<String>,
    /// Annotations that are open to it though closed to others.
    pub allow: Vec<String>,
}

/// What a gang gets: the only source of these fields in a submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Slurm user.
    pub user: String,
    /// Slurm group.
    pub group: String,
    /// Account.
    pub account: Option<String>,
    /// Partition.
    pub partition: Option<String>,
    /// Quality of service.
    pub qos: Option<String>,
    /// Feature that its nodes must have.
    pub feature: Option<String>,
    /// Where a SlurmPolicy grants it: its name, and the most that the request may ask for.
    pub terms: Option<Arc<(String, Terms)>>,
}

impl Grant {
    /// Whether its jobs may be asked for at once.
    pub fn immediate(&self) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.1.immediate)
    }

    /// Whether an ask is inside what was granted, as far as it is known without its pods.
    pub fn check(&self, ask: &Ask) -> Result<(), Refusal> {
        let request = PlaceholderRequest {
            name: String::new(),
            user: self.user.clone(),
            group: self.group.clone(),
            account: self.account.clone(),
            partition: self.partition.clone().unwrap_or_default(),
            qos: self.qos.clone(),
            time_limit_minutes: ask.time_limit_minutes,
            components: Vec::new(),
            options: ask.options.clone(),
        };
        self.hold(request).map(drop)
    }

    /// Writes into a request what holds for whoever asks for nothing, and refuses one that is more than
    /// was granted.
    pub fn hold(&self, mut request: PlaceholderRequest) -> Result<PlaceholderRequest, Refusal> {
        let Some((name, terms)) = self.terms.as_deref() else { return Ok(request) };
        terms.narrow(&mut request);
        match terms.exceeded(&request) {
            None => Ok(request),
            Some(what) => Err(Refusal::new(
                Category::Policy,
                format!(
                    "the gang asks for {what}; ask for less, or ask the platform team to open it (SlurmPolicy {name})"
                ),
            )),
        }
    }
}

/// Why something cannot run as asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// One bounded word for metrics and events.
    pub category: Category,
    /// For the user, with what to do.
    pub message: String,
    /// Slurm's error number; 0 when it was not Slurm who refused.
    pub slurm_code: u32,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// Not open to this namespace.
    Policy,
    /// The pods themselves: annotations, requests, disagreement.
    Shape,
    /// Slurm knows no such partition or does not let the account use it.
    Partition,
    /// Slurm knows no such account, or not for this user.
    Account,
    /// No node can ever give what is asked.
    Resources,
    /// Too few nodes are open to its pods now.
    Nodes,
    /// Slurm refused for another reason.
    Slurm,
}

impl Category {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Shape => "shape",
            Self::Partition => "partition",
            Self::Account => "account",
            Self::Resources => "resources",
            Self::Nodes => "nodes",
            Self::Slurm => "slurm",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Refusal {
    /// A refusal that is ours, not Slurm's.
    pub fn new(category: Category, message: impl Into<String>) -> Self {
        Self { category, message: message.into(), slurm_code: 0 }
    }
}

/// Decides what a gang of `namespace` gets of what it asks.
pub fn grant(policy: &Policy, namespace: &str, ask: &Ask) -> Result<Grant, Refusal> {
    let granted = match &policy.source {
        Source::Identities => by_identity(policy, namespace, ask),
        Source::Unread => Err(Refusal::new(
            Category::Policy,
            "the SlurmPolicies have not been read yet; nothing is granted before",
        )),
        Source::Rules(rules) => by_rule(policy, rules, namespace, ask),
    }?;
    for (what, name) in [("user", &granted.user), ("group", &granted.group)] {
        if is_root(name) || *name == policy.slurm_user {
            return Err(Refusal::new(
                Category::Policy,
                format!(
                    "namespace {namespace} is mapped to the Slurm {what} {name}, as whom nobody may run; ask the platform team to map it to a user of its own"
                ),
            ));
        }
    }
    Ok(granted)
}

/// What SlurmPolicies grant: everything that is not opened by the one that counts is shut.
fn by_rule(policy: &Policy, rules: &[Rule], namespace: &str, ask: &Ask) -> Result<Grant, Refusal> {
    let refuse = |message: String| Refusal::new(Category::Policy, message);
    let requester = ask.requester.as_ref().filter(|_| policy.believes_requester);
    let nobody = BTreeSet::new();
    let groups = requester.map_or(&nobody, |requester| &requester.groups);
    let rule = closest(rules, namespace, groups).ok_or_else(|| {
        let who = requester.map(Requester::name);
        let who = who.map_or_else(String::new, |name| format!(" of {name}"));
        refuse(format!(
            "no SlurmPolicy lets gangs{who} in namespace {namespace} use gangway; ask the platform team for one"
        ))
    })?;
    let terms = rule.terms.as_ref().map_err(|problem| {
        refuse(format!(
            "SlurmPolicy {}, which is for namespace {namespace}, cannot be used: {problem}; ask the platform team to mend it",
            rule.name
        ))
    })?;
    allowed(policy, terms.max_priority.is_some(), terms.min_nice < 0, &[], namespace, ask)?;
    let partition = ask.partition.as_ref().or_else(|| terms.partitions.first()).cloned();
    inside(policy, partition.as_deref(), namespace)?;
    Ok(Grant {
        user: terms.user.clone(),
        group: terms.group.clone(),
        account: ask.account.as_ref().or_else(|| terms.accounts.first()).cloned(),
        partition,
        qos: ask.qos.clone(),
        feature: policy.feature.clone(),
        terms: Some(Arc::new((rule.name.clone(), terms.clone()))),
    })
}

/// Whether these partitions are among those that the configuration opens, if it names any.
fn inside(policy: &Policy, partition: Option<&str>, namespace: &str) -> Result<(), Refusal> {
    if policy.partitions.is_empty() {
        return Ok(());
    }
    for one in partition.into_iter().flat_map(|all| all.split(',')) {
        choose("partition", one, &policy.partitions, namespace)?;
    }
    Ok(())
}

fn by_identity(policy: &Policy, namespace: &str, ask: &Ask) -> Result<Grant, Refusal> {
    let identity = policy
        .identities
        .iter()
        .find(|i| i.namespace == namespace || i.namespace == "*")
        .ok_or_else(|| {
            Refusal::new(
                Category::Policy,
                format!("namespace {namespace} may not use gangway; ask the platform team to map it to a Slurm user (policy.identities)"),
            )
        })?;
    let jumps = identity.allow.iter().any(|name| name == CLOSED);
    allowed(policy, jumps, jumps, &identity.allow, namespace, ask)?;
    let account = match &ask.account {
        None => identity.account.clone(),
        Some(asked) if identity.account.as_ref() == Some(asked) => Some(asked.clone()),
        Some(asked) => Some(choose("account", asked, &identity.accounts, namespace)?),
    };
    let qos = match &ask.qos {
        None => None,
        Some(asked) => Some(choose("qos", asked, &identity.qos, namespace)?),
    };
    let partition = match &ask.partition {
        None => policy.default_partition.clone(),
        Some(asked) => {
            inside(policy, Some(asked), namespace)?;
            Some(asked.clone())
        }
    };
    Ok(Grant {
        user: identity.user.clone(),
        group: identity.group.clone(),
        account,
        partition,
        qos,
        feature: policy.feature.clone(),
        terms: None,
    })
}

/// Whether every annotation that asks something is open: those in `allow` are, `priority` where `jumps`
/// says so, a nice below 0 where `rises` does.
fn allowed(
    policy: &Policy,
    jumps: bool,
    rises: bool,
    allow: &[String],
    namespace: &str,
    ask: &Ask,
) -> Result<(), Refusal> {
    let closed = |name: &str| {
        let has = |list: &[String]| list.iter().any(|n| n == name);
        has(&policy.closed) && !has(allow) || name == CLOSED && !jumps
    };
    let refuse = |what: &str, name: &str| {
        Refusal::new(
            Category::Policy,
            format!(
                "{PREFIX}{what} is not open to namespace {namespace}; remove it, or ask the platform team to open it ({})",
                match policy.source {
                    Source::Identities => format!("policy.identities[].allow: [{name}]"),
                    _ => "maxPriority and minNice of its SlurmPolicy, policy.closed".to_owned(),
                }
            ),
        )
    };
    for row in TABLE {
        if closed(row.name) && ask.text(row.name).is_some() {
            return Err(refuse(row.name, row.name));
        }
    }
    let most = policy.max_grace_seconds.unwrap_or(MAX_GRACE_SECONDS);
    if let Some(grace) = ask.grace_seconds.filter(|grace| *grace > most) {
        return Err(Refusal::new(
            Category::Policy,
            format!(
                "{PREFIX}checkpoint-grace asks for {grace} s, and at most {most} s are open; ask for less, or ask the platform team for more (policy.maxCheckpointGrace)"
            ),
        ));
    }
    // To Slurm it is the same as a higher priority.
    if ask.options.nice.is_some_and(|nice| nice < 0) && !rises {
        return Err(refuse("nice below 0", CLOSED));
    }
    Ok(())
}

fn choose(what: &str, asked: &str, open: &[String], namespace: &str) -> Result<String, Refusal> {
    if open.iter().any(|o| o == asked) {
        return Ok(asked.to_owned());
    }
    let open = if open.is_empty() { "none".to_owned() } else { open.join(", ") };
    Err(Refusal::new(
        Category::Policy,
        format!("{what} {asked} is not open to namespace {namespace}; to choose from: {open}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            default_partition: Some("gangway".into()),
            partitions: vec![],
            closed: vec![],
            feature: None,
            max_grace_seconds: None,
            slurm_user: "slurm".into(),
            believes_requester: false,
            source: Source::Identities,
            identities: vec![
                Identity {
                    namespace: "team-a".into(),
                    user: "alice".into(),
                    group: "alice".into(),
                    account: Some("a".into()),
                    accounts: vec!["a2".into()],
                    qos: vec![],
                    allow: vec![],
                },
                Identity {
                    namespace: "b".into(),
                    user: "bob".into(),
                    group: "bob".into(),
                    ..Identity::default()
                },
            ],
        }
    }

    #[test]
    fn the_user_comes_from_the_namespace_alone() {
        let granted = grant(&policy(), "team-a", &Ask::default()).expect("mapped");
        assert_eq!((granted.user.as_str(), granted.account.as_deref()), ("alice", Some("a")));
        assert_eq!(granted.partition.as_deref(), Some("gangway"));
    }

    #[test]
    fn an_annotation_chooses_only_inside_what_is_open() {
        let ask = |account: &str| Ask { account: Some(account.into()), ..Ask::default() };
        assert_eq!(
            grant(&policy(), "team-a", &ask("a2")).expect("open").account.as_deref(),
            Some("a2")
        );
        let refusal = grant(&policy(), "team-a", &ask("other")).expect_err("not open");
        assert_eq!(refusal.category, Category::Policy);
        assert!(
            refusal
                .message
                .contains("account other is not open to namespace team-a; to choose from: a2")
        );
        let qos = Ask { qos: Some("high".into()), ..Ask::default() };
        assert!(grant(&policy(), "b", &qos).expect_err("none open").message.contains("none"));
    }

    #[test]
    fn each_of_several_partitions_must_be_open() {
        let policy = Policy { partitions: vec!["a".into(), "b".into()], ..policy() };
        let ask = |partition: &str| Ask { partition: Some(partition.into()), ..Ask::default() };
        let granted = grant(&policy, "b", &ask("b,a")).expect("both open");
        assert_eq!(granted.partition.as_deref(), Some("b,a"));
        let refusal = grant(&policy, "b", &ask("a,secret")).expect_err("one is not");
        assert!(refusal.message.contains("partition secret is not open"), "{}", refusal.message);
    }

    #[test]
    fn nobody_jumps_the_queue_unless_the_platform_team_says_so() {
        let ask = |name: &str, value: &str| {
            let mut ask = Ask::default();
            ask.set(name, value).expect("well formed");
            ask
        };
        let mut policy = policy();
        for (name, value) in [("priority", "4294967293"), ("nice", "-1")] {
            let refusal = grant(&policy, "b", &ask(name, value)).expect_err("closed");
            assert_eq!(refusal.category, Category::Policy);
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
        assert!(grant(&policy, "b", &ask("nice", "100")).is_ok());
        policy.identities[1].allow = vec!["priority".into()];
        for (name, value) in [("priority", "4294967293"), ("nice", "-1")] {
            assert!(grant(&policy, "b", &ask(name, value)).is_ok(), "{name}");
            assert!(grant(&policy, "team-a", &ask(name, value)).is_err(), "{name}");
        }
    }

    #[test]
    fn any_annotation_can_be_closed() {
        let mut policy = policy();
        policy.closed = vec!["exclusive".into()];
        let mut ask = Ask::default();
        ask.set("exclusive", "true").expect("well formed");
        let refusal = grant(&policy, "b", &ask).expect_err("closed");
        assert!(refusal.message.starts_with("gangway.dev/exclusive is not open to namespace b"));
        assert!(grant(&policy, "b", &Ask::default()).is_ok());
        policy.identities[1].allow = vec!["exclusive".into()];
        assert!(grant(&policy, "b", &ask).is_ok());
    }

    #[test]
    fn nobody_runs_as_root_or_as_slurms_own_user() {
        for user in ["root", "0", "00", "slurm"] {
            let mut policy = policy();
            policy.identities[1].user = user.into();
            let refusal = grant(&policy, "b", &Ask::default()).expect_err(user);
            assert!(refusal.message.contains("as whom nobody may run"), "{}", refusal.message);
            let mut policy = self::policy();
            policy.identities[1].group = user.into();
            assert!(grant(&policy, "b", &Ask::default()).is_err(), "group {user}");
        }
    }

    #[test]
    fn a_namespace_nobody_mapped_gets_nothing() {
        assert_eq!(
            grant(&policy(), "c", &Ask::default()).expect_err("unmapped").category,
            Category::Policy
        );
    }
}
