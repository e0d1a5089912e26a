//! Plays one seed and prints its history, or many and prints those that break a rule.
#![expect(clippy::print_stdout, reason = "this is what it is for")]

use anyhow::Context as _;
use clap::Parser;
use gangway_simulator::Bug;
use tracing_subscriber::EnvFilter;

/// The whole bridge on a seeded API server and Slurm in memory.
#[derive(Debug, Parser)]
struct Flags {
    /// The seed to play, or the first of several
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to play; their histories are not printed
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Play each seed twice and complain where its histories differ
    #[arg(long)]
    twice: bool,
    /// What the bridge logs, such as info
    #[arg(long, default_value = "off")]
    log: String,
    /// Every call in the history, and what went wrong with it
    #[arg(long)]
    calls: bool,
    /// A bug to plant, such as SubmitsTwice
    #[arg(long)]
    plant: Option<String>,
}

impl Flags {
    fn bug(&self) -> anyhow::Result<Option<Bug>> {
        let Some(name) = &self.plant else { return Ok(None) };
        let found = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == *name);
        found.map(Some).with_context(|| format!("no bug {name}; there are {:?}", Bug::ALL))
    }
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let filter = EnvFilter::try_new(&flags.log)?;
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).without_time().init();
    if flags.seeds == 1 {
        let outcome = gangway_simulator::play_and_tell(flags.seed, flags.bug()?, flags.calls)?;
        for line in &outcome.history {
            println!("{line}");
        }
        println!("seed {}, digest {:016x}", outcome.seed, outcome.digest);
        for violation in &outcome.violations {
            println!("BROKEN {violation}");
        }
        anyhow::ensure!(outcome.violations.is_empty(), "seed {} breaks a rule", flags.seed);
        return Ok(());
    }
    let report = gangway_simulator::play_all(
        flags.seed..flags.seed + flags.seeds,
        flags.bug()?,
        flags.twice,
    )?;
    println!("{report}");
    anyhow::ensure!(report.broken.is_empty(), "{} seeds break a rule", report.broken.len());
    Ok(())
}
