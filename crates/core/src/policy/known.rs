//! What of a policy Slurm does not know: to be said on the policy before the first job fails.

use std::collections::{BTreeMap, BTreeSet};

use super::Terms;

/// What Slurm knows of a policy's user, and of partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Accounts that the user may charge, each with the QoS its jobs may have; `None` without an accounting database.
    pub accounts: Option<BTreeMap<String, BTreeSet<String>>>,
    /// All partitions.
    pub partitions: BTreeSet<String>,
}

/// What is not known, each in a sentence that says what to do; nothing where all is well.
pub fn unknown(terms: &Terms, known: &Known) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(accounts) = &known.accounts {
        let user = &terms.user;
        if accounts.is_empty() {
            let first = terms.accounts.first().map_or("", String::as_str);
            out.push(format!(
                "Slurm's accounting knows no user {user} (sacctmgr add user {user} account={first})"
            ));
        } else {
            let missing = terms.accounts.iter().filter(|account| !accounts.contains_key(*account));
            out.extend(missing.map(|account| {
                format!("user {user} has no association with account {account} (sacctmgr add user {user} account={account})")
            }));
            let open: BTreeSet<&String> = accounts.values().flatten().collect();
            let missing = terms.qos.iter().filter(|qos| !open.contains(qos));
            out.extend(missing.map(|qos| {
                format!("no association of user {user} has QoS {qos} (sacctmgr modify user {user} set qos+={qos})")
            }));
        }
    }
    let missing = terms.partitions.iter().filter(|name| !known.partitions.contains(*name));
    out.extend(missing.map(|name| format!("Slurm has no partition {name} (sinfo lists them)")));
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::Rule;

    fn terms() -> Terms {
        let spec = json!({
            "namespaces": ["a"], "user": "alice", "accounts": ["team1", "team2"],
            "partitions": ["gpu"], "qos": ["high"],
        });
        Rule::read(&json!({"metadata": {"name": "a"}, "spec": spec})).terms.expect("sound")
    }

    fn known(accounts: &[(&str, &[&str])], partitions: &[&str]) -> Known {
        let texts = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        let accounts = accounts.iter().map(|(name, qos)| ((*name).to_owned(), texts(qos)));
        Known { accounts: Some(accounts.collect()), partitions: texts(partitions) }
    }

    #[test]
    fn everything_that_slurm_does_not_know_is_said() {
        let all = known(&[("team1", &["normal"]), ("team2", &["high"])], &["gpu", "cpu"]);
        assert_eq!(unknown(&terms(), &all), [""; 0]);
        let some = unknown(&terms(), &known(&[("team1", &["normal"])], &["cpu"]));
        assert_eq!(some.len(), 3, "{some:?}");
        for words in ["no association with account team2", "has QoS high", "no partition gpu"] {
            assert!(some.iter().any(|one| one.contains(words)), "{words}: {some:?}");
        }
        let none = unknown(&terms(), &known(&[], &["gpu"]));
        assert!(none.len() == 1 && none[0].contains("knows no user alice"), "{none:?}");
        let without = Known { accounts: None, ..known(&[], &["gpu"]) };
        assert_eq!(unknown(&terms(), &without), [""; 0], "nobody to ask");
    }
}
