//! The bridge: everything behind the binary, and the way in for whoever rehearses with it.
//!
//! `main.rs` is the product. A rehearsal runs the same rooms between two ends of its own.

mod admission;
mod annotate;
mod anteroom;
mod apiserver;
mod atlas;
mod bell;
mod bind;
mod certificates;
mod chain;
mod cluster;
mod command;
mod config;
mod controllers;
mod desk;
mod door;
mod election;
mod evict;
mod extender;
mod failpoint;
mod follow;
mod gangs;
mod http;
mod index;
mod kubescheduler;
mod lean;
mod log;
mod mandate;
mod metrics;
mod nursery;
pub mod planted;
mod policies;
mod prolog;
mod queue;
#[cfg(feature = "testing")]
pub mod rehearsal;
mod report;
mod scheduler;
mod sights;
mod source;
mod terminal;
mod tls;
mod token;
mod trace;
mod ui;
mod wall;
mod warn;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Gangway: gangs of pods cross into Slurm's queue.
#[derive(Debug, Parser)]
#[command(name = "gangway", version, about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch pods with `schedulerName: gangway`, ask Slurm for room, bind them where Slurm says.
    Scheduler(Box<config::Flags>),
    /// Answer a stock kube-scheduler as its HTTP extender: Slurm chooses the nodes, kube-scheduler
    /// keeps its plugins. Needs the gRPC door of a running `gangway scheduler`.
    Extender(Box<config::ExtenderFlags>),
    /// Keep Slurm's nodes and Kubernetes' the same: register, change, drain and delete; tell of drains.
    Controllers(Box<config::Flags>),
    /// Answer the API server as its webhook: say who asked, and refuse what policy or Slurm would.
    Admission(Box<config::AdmissionFlags>),
    /// Called by slurmd as its Prolog on nodes where pods run too: hold a job until the pods on its
    /// GPUs have ended.
    Prolog(Box<prolog::Flags>),
    /// Mint short-lived tokens for slurmrestd into a file, so that only this process holds Slurm's key.
    Token(Box<token::Flags>),
    /// Make the certificates of the other subcommands and renew them, where there is no cert-manager.
    Certificates(Box<certificates::Flags>),
    /// Serve one page to look at: queue, pool and the life of each gang, live. Needs the gRPC door of a
    /// running `gangway scheduler`.
    Ui(Box<config::UiFlags>),
    #[command(flatten)]
    Terminal(Box<terminal::Verb>),
    /// List the fail points: where a test can let this bridge die.
    #[cfg(feature = "fail-points")]
    FailPoints,
}

/// Reads flags and hands over to a subcommand, until it ends.
pub fn run() -> anyhow::Result<ExitCode> {
    let program = std::env::args_os().next().unwrap_or_default();
    if terminal::completes(&program)? {
        return Ok(ExitCode::SUCCESS);
    }
    let command = if terminal::is_plugin(&program) {
        Command::Terminal(Box::new(terminal::plugin()))
    } else {
        Cli::parse().command
    };
    #[cfg(feature = "fail-points")]
    failpoint::arm()?;
    let mut runtime = match command {
        // One look in two seconds: each thread more is another heap that large answers leave behind.
        Command::Ui(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Scheduler(flags) => scheduler::run(&flags).await?,
            Command::Controllers(flags) => controllers::run(&flags).await?,
            Command::Extender(flags) => kubescheduler::run(&flags).await?,
            Command::Admission(flags) => admission::run(&flags).await?,
            Command::Token(flags) => token::run(&flags).await?,
            Command::Certificates(flags) => certificates::run(&flags).await?,
            Command::Ui(flags) => ui::run(&flags).await?,
            Command::Terminal(verb) => return Ok(terminal::run(*verb).await),
            Command::Prolog(flags) => return prolog::run(&flags).await,
            #[cfg(feature = "fail-points")]
            Command::FailPoints => {
                use std::io::Write as _;
                write!(std::io::stdout(), "{}", failpoint::table())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
