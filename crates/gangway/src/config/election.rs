//! `leaderElection:` of the configuration: who this process is, and by which Lease replicas choose who
//! leads.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use super::ProcessFlags;
use super::section::{Problems, Section};

/// The Lease of an election.
#[derive(Clone, Debug)]
pub(crate) struct Election {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// What is written into it: no two processes have the same.
    pub(crate) identity: String,
    pub(crate) lease_seconds: u32,
}

/// What `leaderElection` says. `None`: this process leads by itself.
pub(super) fn read(
    mut section: Section<'_>,
    flags: &ProcessFlags,
    identity: &str,
    default_name: &str,
    problems: &Problems,
) -> Option<Election> {
    let enabled = section.flag("enabled").unwrap_or(false);
    let namespace = section.text("namespace");
    let name = section.text("name").unwrap_or_else(|| default_name.to_owned());
    let lease_seconds = section.number("leaseSeconds").unwrap_or(10);
    section.finish();
    let namespace = flags.leader_election_namespace.clone().or(namespace);
    let namespace = namespace.unwrap_or_else(|| "gangway".to_owned());
    for (key, value) in [("namespace", &namespace), ("name", &name)] {
        if !is_dns(value) {
            let what = "must be a name in Kubernetes: small letters, digits, '-' and '.'";
            problems.add(&format!("leaderElection.{key}"), what);
        }
    }
    if !(3..=3600).contains(&lease_seconds) {
        problems.add("leaderElection.leaseSeconds", "must be 3 to 3600");
    }
    let identity = identity.to_owned();
    let election = Election { namespace, name, identity, lease_seconds };
    flags.leader_election.unwrap_or(enabled).then_some(election)
}

/// This process, as the Lease and the API server's audit log show it. A process that is started again is
/// another one.
pub(super) fn identity(flags: &ProcessFlags) -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = flags.identity.clone().or_else(host).unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_graphic()).collect();
    // The standard library's own source of randomness; a process has it anew.
    let random = RandomState::new().build_hasher().finish();
    format!("{}_{random:016x}", if name.is_empty() { "gangway" } else { &name })
}

fn is_dns(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let inner = |c: char| c != '-' && c != '.';
    text.len() <= 253 && text.chars().all(fine) && text.starts_with(inner) && text.ends_with(inner)
}
