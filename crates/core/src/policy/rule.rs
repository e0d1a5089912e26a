//! A SlurmPolicy as a value: whom it is for, who they are to Slurm, and the most they may ask.
//!
//! What cannot be read denies those it names: it must never fall through to a wider policy.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::ask::{minutes, word};
use crate::job::{Exclusive, PlaceholderRequest};

/// Every namespace, in [`Rule::namespaces`].
pub const ANY: &str = "*";

/// One SlurmPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Which writing of it this is.
    pub generation: i64,
    /// Namespaces it is for; [`ANY`] is every one.
    pub namespaces: Vec<String>,
    /// Where not empty: only requesters in one of these groups.
    pub groups: Vec<String>,
    /// What it grants, or why it cannot be read.
    pub terms: Result<Terms, String>,
}

/// Who they are to Slurm, and the most they may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Slurm user, a name.
    pub user: String,
    /// Group of that user, a name.
    pub group: String,
    /// Accounts; the first is that of gangs that name none.
    pub accounts: Vec<String>,
    /// Partitions; the first is that of gangs that name none.
    pub partitions: Vec<String>,
    /// Qualities of service that may be named; without a word Slurm's association decides.
    pub qos: Vec<String>,
    /// Highest priority that may be asked for; `None`: none may be.
    pub max_priority: Option<u32>,
    /// Lowest nice that may be asked for.
    pub min_nice: i32,
    /// Longest time limit, and that of gangs that name none.
    pub max_minutes: Option<u32>,
    /// Most nodes of one gang.
    pub max_nodes: Option<u32>,
    /// Licences, and the most of each that one gang may hold.
    pub licenses: BTreeMap<String, u32>,
    /// Reservations that may be named.
    pub reservations: Vec<String>,
    /// Whether nodes are shared.
    pub sharing: Sharing,
    /// Whether the immediate path may be taken.
    pub immediate: bool,
}

/// Whether jobs share nodes with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Sharing {
    /// As `gangway.dev/exclusive` says.
    #[default]
    Allowed,
    /// Whole nodes always.
    Never,
    /// Nobody may ask for whole nodes.
    Always,
}

/// `spec` of a SlurmPolicy. A field that this release does not know may be a limit, so it is an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    namespaces: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    user: String,
    group: Option<String>,
    accounts: Vec<String>,
    partitions: Vec<String>,
    #[serde(default)]
    qos: Vec<String>,
    max_priority: Option<u32>,
    #[serde(default)]
    min_nice: i32,
    max_time_limit: Option<String>,
    max_nodes: Option<u32>,
    #[serde(default)]
    licenses: BTreeMap<String, u32>,
    #[serde(default)]
    reservations: Vec<String>,
    #[serde(default)]
    sharing: Sharing,
    immediate: Option<bool>,
}

impl Rule {
    /// Reads a SlurmPolicy as the API server gives it.
    pub fn read(object: &Value) -> Self {
        let spec = object.get("spec").cloned().unwrap_or_default();
        let texts = |key: &str| -> Vec<String> {
            let listed = spec.get(key).and_then(Value::as_array);
            let listed = listed.into_iter().flatten().filter_map(Value::as_str);
            listed.map(str::to_owned).collect()
        };
        let (namespaces, groups) = (texts("namespaces"), texts("groups"));
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        let generation = object.pointer("/metadata/generation");
        let terms = serde_json::from_value::<Spec>(spec).map_err(|error| error.to_string());
        Self {
            name: name.unwrap_or_default().to_owned(),
            generation: generation.and_then(Value::as_i64).unwrap_or(0),
            namespaces,
            groups,
            terms: terms.and_then(Terms::read),
        }
    }

    /// How closely it is about a gang of this namespace, whose requester is in these groups: less is
    /// closer; `None`: not at all.
    fn closeness(&self, namespace: &str, groups: &BTreeSet<String>) -> Option<u8> {
        let apart = !self.groups.iter().any(|group| groups.contains(group));
        if !self.groups.is_empty() && apart {
            return None;
        }
        if self.namespaces.iter().any(|own| own == namespace) {
            return Some(u8::from(self.groups.is_empty()));
        }
        self.namespaces.iter().any(|own| own == ANY).then_some(2)
    }
}

/// The one rule for a gang: the closest, then the first by name. Others add nothing to it.
pub fn closest<'a>(
    rules: &'a [Rule],
    namespace: &str,
    groups: &BTreeSet<String>,
) -> Option<&'a Rule> {
    let close = |rule: &'a Rule| Some((rule.closeness(namespace, groups)?, rule));
    rules.iter().filter_map(close).min_by_key(|(close, rule)| (*close, &rule.name)).map(|(_, r)| r)
}

/// Whether Slurm would take this for root: by name, or by any number, which may be root's.
pub fn is_root(name: &str) -> bool {
    name == "root" || name.parse::<u64>() == Ok(0)
}

impl Terms {
    fn read(spec: Spec) -> Result<Self, String> {
        let named = |what: &str, name: &str| -> Result<(), String> {
            if is_root(name) {
                return Err(format!("{what} must not be root"));
            }
            match name.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
                true => Err(format!("{what} must be a name, not a number")),
                false => word(name).map(drop).map_err(|problem| format!("{what}: {problem}")),
            }
        };
        // Groups are believed only where admission guards them: in namespaces that are named.
        if !spec.groups.is_empty() && spec.namespaces.iter().any(|name| name == ANY) {
            return Err("groups need namespaces by name, not *".to_owned());
        }
        let group = spec.group.unwrap_or_else(|| spec.user.clone());
        named("user", &spec.user)?;
        named("group", &group)?;
        let lists = [
            ("accounts", &spec.accounts),
            ("partitions", &spec.partitions),
            ("qos", &spec.qos),
            ("reservations", &spec.reservations),
        ];
        for (what, list) in lists {
            for name in list {
                word(name).map_err(|problem| format!("{what}: {problem}"))?;
            }
        }
        for (what, list) in &lists[..2] {
            if list.is_empty() {
                return Err(format!("{what} must name at least one: the default"));
            }
        }
        let limit = spec.max_time_limit.as_deref().map(minutes).transpose();
        Ok(Self {
            user: spec.user,
            group,
            accounts: spec.accounts,
            partitions: spec.partitions,
            qos: spec.qos,
            max_priority: spec.max_priority,
            min_nice: spec.min_nice,
            max_minutes: limit.map_err(|problem| format!("maxTimeLimit: {problem}"))?,
            max_nodes: spec.max_nodes,
            licenses: spec.licenses,
            reservations: spec.reservations,
            sharing: spec.sharing,
            immediate: spec.immediate.unwrap_or(true),
        })
    }

    /// Writes into a request what holds for whoever asks for nothing.
    pub fn narrow(&self, request: &mut PlaceholderRequest) {
        request.time_limit_minutes = request.time_limit_minutes.or(self.max_minutes);
        if self.sharing == Sharing::Never {
            let asked = request.options.exclusive;
            request.options.exclusive =
                asked.filter(|kind| *kind == Exclusive::Topo).or(Some(Exclusive::Node));
        }
    }

    /// What of a request is more than this grants, in words that follow "asks for": the last look
    /// before it is sent, whatever was read and narrowed before.
    pub fn exceeded(&self, request: &PlaceholderRequest) -> Option<String> {
        let PlaceholderRequest { options, .. } = request;
        let has = |list: &[String], one: &str| list.iter().any(|own| own == one);
        if (&request.user, &request.group) != (&self.user, &self.group) {
            return Some(format!("user {} of group {}", request.user, request.group));
        }
        let account = request.account.as_deref().unwrap_or("");
        if !has(&self.accounts, account) {
            return Some(format!("account {account}; to choose from: {}", list(&self.accounts)));
        }
        if let Some(other) = request.partition.split(',').find(|one| !has(&self.partitions, one)) {
            let open = list(&self.partitions);
            return Some(format!("partition {other}; to choose from: {open}"));
        }
        if let Some(other) = request.qos.as_deref().filter(|qos| !has(&self.qos, qos)) {
            return Some(format!("qos {other}; to choose from: {}", list(&self.qos)));
        }
        let named = options.reservation.as_deref().into_iter().flat_map(|all| all.split(','));
        if let Some(other) = named.into_iter().find(|one| !has(&self.reservations, one)) {
            let open = list(&self.reservations);
            return Some(format!("reservation {other}; to choose from: {open}"));
        }
        let priority =
            options.priority.filter(|asked| self.max_priority.is_none_or(|m| *asked > m));
        if let Some(asked) = priority {
            let most = self.max_priority.map_or_else(|| "none".to_owned(), |m| m.to_string());
            return Some(format!("priority {asked}, and at most {most} is open"));
        }
        if let Some(asked) = options.nice.filter(|asked| *asked < 0 && *asked < self.min_nice) {
            return Some(format!("nice {asked}, and at least {} is open", self.min_nice.min(0)));
        }
        if let Some(most) = self.max_minutes {
            let asked = [request.time_limit_minutes, options.time_min_minutes];
            if let Some(asked) = asked.into_iter().flatten().find(|asked| *asked > most) {
                return Some(format!(
                    "a time limit of {asked} minutes, and at most {most} are open"
                ));
            }
            if request.time_limit_minutes.is_none() {
                return Some(format!("no time limit, and at most {most} minutes are open"));
            }
        }
        let nodes = request.components.iter().map(|c| u64::from(c.nodes)).sum::<u64>();
        if let Some(most) = self.max_nodes.filter(|most| nodes > u64::from(*most)) {
            return Some(format!("{nodes} nodes, and at most {most} are open"));
        }
        if let Some(problem) = options.licenses.as_deref().and_then(|all| self.unlicensed(all)) {
            return Some(problem);
        }
        match (self.sharing, options.exclusive) {
            (Sharing::Always, Some(_)) => Some("nodes of its own, and nodes are shared".to_owned()),
            (Sharing::Never, asked) if !whole(asked) => {
                Some("shared nodes, and only whole ones are open".to_owned())
            }
            _ => None,
        }
    }

    /// Of one licence named twice Slurm takes both.
    fn unlicensed(&self, asked: &str) -> Option<String> {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for one in asked.split([',', '|']) {
            let (name, count) = one.split_once(':').unwrap_or((one, "1"));
            let sum = sums.entry(name.trim()).or_default();
            *sum = sum.saturating_add(count.trim().parse().unwrap_or(u64::MAX));
        }
        let most = |name: &str| self.licenses.get(name).copied().unwrap_or(0);
        let (name, n) = sums.into_iter().find(|(name, n)| *n > u64::from(most(name)))?;
        Some(format!("{n} of licence {name}, and at most {} are open", most(name)))
    }
}

fn whole(exclusive: Option<Exclusive>) -> bool {
    matches!(exclusive, Some(Exclusive::Node | Exclusive::Topo))
}

/// A list for people.
fn list(open: &[String]) -> String {
    if open.is_empty() { "none".to_owned() } else { open.join(", ") }
}

#[cfg(test)]
#[path = "rule/tests.rs"]
mod tests;
