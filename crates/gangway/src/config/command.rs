//! `warningCommand:` of the configuration: what the operator has run when a gang is warned.

use std::path::PathBuf;
use std::time::Duration;

use super::section::{Problems, Section};

/// A command, as it is run: without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// It is killed after so long.
    pub(crate) timeout: Duration,
}

/// What `warningCommand` says. `None`: nothing is run.
pub(super) fn read(mut section: Section<'_>, problems: &Problems) -> Option<Command> {
    let at = section.at("command");
    let mut words = section.texts("command");
    let seconds = section.number("timeoutSeconds");
    section.finish();
    if seconds.is_some_and(|seconds| !(1..=3600).contains(&seconds)) {
        problems.add("warningCommand.timeoutSeconds", "must be 1 to 3600");
    }
    if words.is_empty() {
        if seconds.is_some() {
            problems.add(&at, "is missing");
        }
        return None;
    }
    let program = PathBuf::from(words.remove(0));
    if !program.is_absolute() {
        problems.add(&at, "must begin with the whole path of a program: no shell looks for it");
    }
    let timeout = Duration::from_secs(u64::from(seconds.unwrap_or(30)));
    Some(Command { program, arguments: words, timeout })
}
