//! What a person types: `gangway queue`, `explain`, `nodes`, `top`, `whatif`, `cancel`, `usage`; the same as a plugin of
//! kubectl (`kubectl gang queue`).
//!
//! It asks the desk of a running scheduler and draws what it says; it knows no Slurm and no Kubernetes. What is drawn is
//! made by plain functions ([`show`], [`top::draw`]). Exit codes are part of what is promised (docs/reference/terminal.md).

mod ask;
mod complete;
mod flags;
mod show;
mod table;
mod time;
mod top;
mod usage;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Command, CommandFactory, Parser, Subcommand};
use serde::Serialize;
use tonic::Code;

use flags::{Cancel, Common, Completion, Explain, Form, Nodes, Queue, Top, Usage, WhatIf};

/// What people ask from a terminal.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Slurm's queue, pods and sbatch jobs in one list, in Slurm's order
    Queue(Queue),
    /// Why a gang, pod or job waits, who is ahead, what would help
    Explain(Explain),
    /// Every node, and who holds which of its GPUs
    Nodes(Nodes),
    /// The queue and the nodes, live; q leaves
    Top(Top),
    /// When would this start, asked of Slurm; nothing is left there
    Whatif(WhatIf),
    /// End the placeholder of a gang, or an sbatch job; where the scheduler's configuration lets you
    Cancel(Cancel),
    /// GPU hours by user, account, namespace or job, from Slurm's accounting
    Usage(Usage),
    /// Print completions for a shell
    Completion(Completion),
}

/// The plugin: the same verbs under kubectl's name.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-gang",
    bin_name = "kubectl gang",
    version,
    about = "Gangs of pods in Slurm's queue"
)]
struct Plugin {
    #[command(subcommand)]
    verb: Verb,
}

/// What kubectl looks for on the PATH for `kubectl gang`.
const PLUGIN: &str = "kubectl-gang";

/// What kubectl asks for completions of it.
const COMPLETER: &str = "kubectl_complete-gang";

/// Whether a program of this name is the plugin, whatever directory it is in.
pub(crate) fn is_plugin(program: &std::ffi::OsStr) -> bool {
    is_named(program, PLUGIN)
}

/// Whether kubectl asks for completions. They are written then, and there is nothing more to do.
pub(crate) fn completes(program: &std::ffi::OsStr) -> io::Result<bool> {
    if !is_named(program, COMPLETER) {
        return Ok(false);
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    io::stdout().write_all(complete::answer(&plugin_command(), &words).as_bytes())?;
    Ok(true)
}

fn is_named(program: &std::ffi::OsStr, name: &str) -> bool {
    let own = std::path::Path::new(program).file_stem();
    own.and_then(|own| own.to_str()) == Some(name)
}

/// The plugin with all that clap adds of its own.
fn plugin_command() -> Command {
    let mut command = Plugin::command();
    command.build();
    command
}

/// Reads the plugin's flags.
pub(crate) fn plugin() -> Verb {
    Plugin::parse().verb
}

/// Why it did not work, and the exit code that says so.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error("{0}")]
    Usage(String),
    #[error(
        "cannot reach the door at {url}: {why}; is `gangway scheduler` running, and is --door-url right?"
    )]
    Away { url: String, why: String },
    #[error("{}", .0.message())]
    Answer(#[from] tonic::Status),
    #[error("cannot write")]
    Output(#[from] io::Error),
    #[error("{0:#}")]
    Other(anyhow::Error),
}

impl Failure {
    /// As in docs/reference/terminal.md.
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) => 2,
            Self::Away { .. } => 3,
            Self::Answer(status) => match status.code() {
                Code::InvalidArgument => 2,
                Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => 3,
                Code::NotFound => 4,
                Code::PermissionDenied | Code::Unauthenticated => 5,
                Code::FailedPrecondition => 6,
                _ => 1,
            },
            Self::Output(_) | Self::Other(_) => 1,
        }
    }
}

/// Does what was typed; everything that is said goes to standard output, complaints to standard error.
pub(crate) async fn run(verb: Verb) -> ExitCode {
    let done = match verb {
        Verb::Queue(flags) => queue(flags).await,
        Verb::Explain(flags) => explain(flags).await,
        Verb::Nodes(flags) => nodes(flags).await,
        Verb::Top(flags) => top::run(&flags.door).await,
        Verb::Whatif(flags) => what_if(flags).await,
        Verb::Cancel(flags) => cancel(flags).await,
        Verb::Usage(flags) => usage(flags).await,
        Verb::Completion(flags) => completion(&flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // Nobody may be listening.
            let _ = writeln!(io::stderr(), "error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

async fn queue(flags: Queue) -> Result<(), Failure> {
    let answer = ask::desk(&flags.common.door).await?.queue().await?;
    let rows: Vec<_> = answer.said.into_iter().filter(|row| flags.wants(row)).collect();
    say(&flags.common, &rows, |wide| show::queue(&rows, answer.now, wide))?;
    note_age(answer.age);
    Ok(())
}

async fn explain(flags: Explain) -> Result<(), Failure> {
    let mut desk = ask::desk(&flags.common.door).await?;
    let answer = desk.why(&flags.what, flags.namespace.as_deref()).await?;
    say(&flags.common, &answer.said, |_| show::explanation(&answer.said, answer.now))?;
    note_age(answer.age);
    Ok(())
}

async fn nodes(flags: Nodes) -> Result<(), Failure> {
    let answer = ask::desk(&flags.common.door).await?.nodes().await?;
    let rows: Vec<_> = answer.said.into_iter().filter(|row| flags.wants(row)).collect();
    say(&flags.common, &rows, |wide| show::nodes(&rows, wide))?;
    note_age(answer.age);
    Ok(())
}

/// Says how old Slurm's word is, beside the answer, so that programs need not know of it.
fn note_age(seconds: i64) {
    let age = show::age(seconds);
    if !age.is_empty() {
        // Nobody may be listening.
        let _ = writeln!(io::stderr(), "note: {age}; ask again in a moment for a newer one");
    }
}

async fn what_if(flags: WhatIf) -> Result<(), Failure> {
    let question = flags.question()?;
    let answer = ask::desk(&flags.common.door).await?.what_if(question).await?;
    say(&flags.common, &show::Answer::of(&answer), |_| show::what_if(&answer))
}

async fn cancel(flags: Cancel) -> Result<(), Failure> {
    let mut desk = ask::desk(&flags.common.door).await?;
    for what in &flags.what {
        let row = desk.cancel(what, flags.namespace.as_deref()).await?;
        say(&flags.common, &row, |_| show::cancelled(&row))?;
    }
    Ok(())
}

async fn usage(flags: Usage) -> Result<(), Failure> {
    let (from, to) = flags.range(crate::wall::now().as_second())?;
    let mut desk = ask::desk(&flags.common.door).await?;
    let rows = desk.usage((from, to), flags.by(), flags.efficiency).await?;
    say(&flags.common, &rows, |wide| usage::usage(&rows, flags.by(), wide))
}

fn completion(flags: &Completion) -> Result<(), Failure> {
    let (mut command, name) =
        if flags.plugin { (Plugin::command(), PLUGIN) } else { (whole(), "gangway") };
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut command, name, &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}

/// The whole binary, for its completions.
fn whole() -> Command {
    crate::Cli::command()
}

/// Writes an answer in the form that was asked for.
fn say(
    common: &Common,
    value: &impl Serialize,
    text: impl FnOnce(bool) -> table::Drawn,
) -> Result<(), Failure> {
    let written = |error: &dyn std::error::Error| Failure::Other(anyhow::anyhow!("{error}"));
    let out = match common.output {
        Form::Table => text(false).paint(colours()),
        Form::Wide => text(true).paint(colours()),
        Form::Json => {
            let json = serde_json::to_string_pretty(value).map_err(|error| written(&error))?;
            format!("{json}\n")
        }
        Form::Yaml => serde_saphyr::to_string(value).map_err(|error| written(&error))?,
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(out.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Colours are for people at a terminal who have not said no (no-color.org).
fn colours() -> bool {
    let no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !no && !dumb
}

/// As `gangway queue` would print it, for whoever measures that.
#[cfg(test)]
pub(crate) fn drawn_queue(rows: &[gangway_core::desk::Row], now: i64) -> String {
    show::queue(rows, now, false).paint(false)
}

#[cfg(test)]
mod tests;
