//! Compares what our service accounts may do with what they did: `rights AUDIT-LOG...`. Run by `cargo xtask test` when
//! the stories of all worlds have been told.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program talks to a person"
)]

use std::path::Path;
use std::process::ExitCode;

use gangway_tests::rights::{ByUser, complaints, granted, manifests, used};

/// The namespace that our manifests put their accounts into.
const OURS: &str = "system:serviceaccount:gangway:";

fn main() -> ExitCode {
    let granted = granted(&manifests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")));
    let (mut done, mut refused) = (ByUser::new(), ByUser::new());
    for file in std::env::args_os().skip(1) {
        let log = match std::fs::read(&file) {
            Ok(log) => log,
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        };
        let (more, no) = used(&String::from_utf8_lossy(&log), OURS);
        more.into_iter().for_each(|(user, rights)| done.entry(user).or_default().extend(rights));
        no.into_iter().for_each(|(user, rights)| refused.entry(user).or_default().extend(rights));
    }
    let complaints = complaints(&granted, &done, &refused);
    for complaint in &complaints {
        eprintln!("rights: {complaint}");
    }
    let count: usize = granted.values().map(|rights| rights.len()).sum();
    println!("{} service accounts have {count} rights", granted.len());
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
