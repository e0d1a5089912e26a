//! The section `policy`: what the platform team says of who may ask for what.

use gangway_core::ask::TABLE;
use gangway_core::policy::{Identity, Policy, Source, is_root};

use super::section::{Problems, Section};

/// Whether SlurmPolicies say what is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlurmPolicies {
    /// Where the API server serves them; else `policy.identities`.
    Auto,
    /// They alone: without any, nobody gets anything.
    Required,
    /// `policy.identities`, whatever there is.
    Off,
}

pub(super) fn read(
    mut policy: Section<'_>,
    token_user: &str,
    problems: &Problems,
) -> (Policy, SlurmPolicies) {
    let annotations = |section: &mut Section<'_>, key: &str| {
        let names = section.texts(key);
        for name in names.iter().filter(|name| TABLE.iter().all(|row| row.name != *name)) {
            problems.add(&section.at(key), &format!("no annotation is called gangway.dev/{name}"));
        }
        names
    };
    let default_partition = policy.text("defaultPartition");
    let partitions = policy.texts("partitions");
    let closed = annotations(&mut policy, "closed");
    let feature = policy.text("feature");
    if feature.as_ref().is_some_and(|word| word.contains(|c: char| "&|*[](),: ".contains(c))) {
        problems.add("policy.feature", "must be one word: a feature that all nodes for pods have");
    }
    let max_grace_seconds = policy.number("maxCheckpointGrace");
    let believes_requester = policy.flag("believeRequester").unwrap_or(false);
    let slurm_policies = match policy.text_or_off("slurmPolicies").as_deref() {
        None | Some("auto") => SlurmPolicies::Auto,
        Some("required") => SlurmPolicies::Required,
        Some("off") => SlurmPolicies::Off,
        Some(_) => {
            problems.add("policy.slurmPolicies", "must be auto, required or off");
            SlurmPolicies::Required
        }
    };
    let mut identities: Vec<Identity> = Vec::new();
    for mut entry in policy.sections("identities") {
        let namespace = entry.required("namespace");
        let user = entry.required("user");
        let group = entry.text("group").unwrap_or_else(|| user.clone());
        if [&user, &group].into_iter().any(|name| is_root(name) || name == token_user) {
            let problem =
                format!("must be neither root nor {token_user}, whom Slurm lets do anything");
            problems.add(&entry.at("user"), &problem);
        }
        identities.push(Identity {
            namespace,
            user,
            group,
            account: entry.text("account"),
            accounts: entry.texts("accounts"),
            qos: entry.texts("qos"),
            allow: annotations(&mut entry, "allow"),
        });
        entry.finish();
    }
    policy.finish();
    let source = match slurm_policies {
        SlurmPolicies::Off => Source::Identities,
        SlurmPolicies::Auto | SlurmPolicies::Required => Source::Unread,
    };
    let policy = Policy {
        default_partition,
        partitions,
        closed,
        feature,
        max_grace_seconds,
        identities,
        slurm_user: token_user.to_owned(),
        believes_requester,
        source,
    };
    (policy, slurm_policies)
}
