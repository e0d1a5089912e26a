//! Chores of this repository: worlds to test in, everything CI does, and the rules of the house as code.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program talks to a person"
)]

mod bench;
mod cache;
mod chart;
mod codegen;
mod debian;
mod demo;
mod fuzz;
mod image;
mod process;
mod progress;
mod supply;
mod tidy;
mod trial;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::world::Wish;

const HELP: &str = "\
Usage: cargo xtask COMMAND

  demo           The main job on real parts, shown step by step; sets up what is missing and cleans up.
  world up [--dir DIR] [--nodes N] [--kinds] [--kube-scheduler] [--kubelets K] [--bridge]
                 Bring up a real Slurm and a real Kubernetes on loopback. The first time this fetches and builds
                 them into ${XDG_CACHE_HOME:-~/.cache}/gangway/world; later it takes seconds. N is the number of
                 p5 nodes (16). --kinds also builds and starts the controllers of JobSet and LeaderWorkerSet, and serves
                 the other kinds that stories use. --kube-scheduler also builds a stock kube-scheduler, for whoever wants
                 to start it; the stories of the other door do. --kubelets also builds a kubelet and gives one to
                 each of the first K hosts of h1 to h4, so that pods bound there really run. --bridge also builds and starts Gangway in it.
  world down [--dir DIR]
                 Stop it: every process and mount of that world, and no other. Its logs stay.
  world status [--dir DIR]
                 What runs, with pid and address. Exits with 1 when a part is dead.
  test           Everything CI does: format, tidy, clippy, docs, the instruction gate, all tests in a world of their own,
                 and the demo. Installs debootstrap and valgrind where they are missing.
  bench [--accept]
                 Everything below but the gate, as one table with the last release's figures (benches/BASELINE.md) beside
                 it; --accept makes these the last release's.
  bench core     How fast the core is in memory: one line of JSON per figure.
  bench gate [--accept]
                 Counts the core's instructions and compares them with benches/instructions.txt; --accept writes them.
  bench many     What 20,000 waiting pods cost the bridge, in a world of 5,000 nodes.
  bench e2e [--nodes N] [--repeats N]
                 How fast the bridge is on a real stack of its own, N nodes (256); one line of JSON per shape. Exits
                 with 1 when a floor is missed.
  bench faults [--seconds N] [--seed S] [--gangs N]
                 What is broken on purpose on the real stack: a death at every fail point, N seconds (600) of random
                 faults, and how soon the next pod is bound after slurmrestd and after the bridge have come back, while
                 N gangs (1000) run, and by a standby; and 10,000 histories in memory. Exits with 1 when a rule is broken or a floor is missed.
  bench nodes [--nodes N]
                 How long it takes until Slurm has the nodes of Kubernetes, and without them again, for 256, 1000 and 5000
                 nodes (or N), what that asks of both, and 2 min of nodes that join and leave at random under gangs.
                 Exits with 1 when something is left over or a floor is missed.
  bench admission
                 How soon the webhook answers, by its own clock and by the API server's. Exits with 1 when more than one answer
                 in a hundred takes longer than 5 ms.
  bench ui [--accept]
                 How soon the web page shows 1000 nodes and 5000 gangs, in a real browser, and what that takes; --accept makes
                 its picture that of docs. Exits with 1 when a floor is missed.
  bench sights   How soon people see what is going on, and what that costs: `gangway queue` over 10,000 jobs, /metrics at
                 1,000 nodes, a reason of Slurm on its pods, writes for gangs that wait. Exits with 1 when a floor is
                 missed.
  fuzz [--seconds N] [TARGET]
                 Throws random bytes at everything that reads bytes from outside, N seconds (60) at each target, or at
                 TARGET alone. What is worth keeping stays in the cache. Exits with 1 when something was found.
  chart [--accept]
                 Lints and renders the Helm chart, and compares manifests/gangway.yaml and its README with what it gives;
                 --accept writes them. Builds Helm into the cache where it is missing.
  prometheus     Fetches Prometheus and promtool into the cache where they are missing, and says where they are, for
                 GANGWAY_PROMETHEUS of the tests.
  browser        Fetches a Chromium without a window into the cache where it is missing, and says where it is, for
                 GANGWAY_CHROMIUM of the tests.
  image          Runs the steps of the Dockerfile without an engine: a static release build, started in an empty root.
                 Fails above 30 MB.
  supply         Licences, sources and bans by deny.toml, a reason for each dependency, and the list of parts of the
                 binary (target/gangway.cdx.json, CycloneDX).
  codegen        Write the generated code again from proto/.
  tidy           The rules of the house that are checked by code.

DIR is target/world unless given. Worlds in different directories live side by side.
After `up`, `source DIR/env` gives KUBECONFIG, SLURM_REST_URL, SLURM_TOKEN_FILE, and kubectl, squeue, sbatch, scontrol
and others on the PATH. SLURM_AS=alice sbatch ... runs a Slurm command as that user.
";

fn main() -> ExitCode {
    match command(std::env::args().skip(1).collect()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(mut words: Vec<String>) -> Result<bool> {
    if words.is_empty() || words.iter().any(|word| word == "--help" || word == "-h") {
        print!("{HELP}");
        return Ok(!words.is_empty());
    }
    let mut next = || if words.is_empty() { String::new() } else { words.remove(0) };
    let name = match next() {
        name if name == "world" || name == "bench" => format!("{name} {}", next()),
        name => name,
    };
    match name.as_str() {
        "world up" => {
            let known =
                ["--dir", "--nodes", "--kinds", "--kube-scheduler", "--kubelets", "--bridge"];
            let options = Options::parse(&words, &known)?;
            let dir = options.dir()?;
            let Options { nodes, bridge, kinds, kube_scheduler, kubelets, .. } = options;
            world::up(&Wish { dir, nodes, bridge, kinds, kube_scheduler, kubelets })?;
            Ok(true)
        }
        "world down" => {
            world::down(&Options::parse(&words, &["--dir"])?.dir()?)?;
            Ok(true)
        }
        "world status" => world::status(&Options::parse(&words, &["--dir"])?.dir()?),
        "test" => {
            Options::parse(&words, &[])?;
            trial::run()
        }
        "demo" => {
            Options::parse(&words, &[])?;
            demo::run()?;
            Ok(true)
        }
        "bench " | "bench --accept" => {
            Options::parse(&words, &[])?;
            bench::all(name.ends_with("--accept"))
        }
        "bench many" => {
            Options::parse(&words, &[])?;
            bench::many().map(|_| true)
        }
        "bench core" => {
            Options::parse(&words, &[])?;
            bench::core()
        }
        "bench gate" => match words.as_slice() {
            [] => bench::gate::run(false),
            [accept] if accept == "--accept" => bench::gate::run(true),
            _ => bail!("bench gate takes --accept or nothing"),
        },
        "bench e2e" => {
            let options = Options::parse(&words, &["--nodes", "--repeats"])?;
            bench::e2e(options.nodes, options.repeats)
        }
        "bench faults" => {
            let options = Options::parse(&words, &["--seconds", "--seed", "--gangs"])?;
            let Options { seconds, seed, gangs, .. } = options;
            bench::faults::run(&bench::faults::Ask { seconds, seed, gangs })
        }
        "bench admission" => {
            Options::parse(&words, &[])?;
            bench::admission::run()
        }
        "bench ui" => match words.as_slice() {
            [] => bench::ui::run(false),
            [accept] if accept == "--accept" => bench::ui::run(true),
            _ => bail!("bench ui takes --accept or nothing"),
        },
        "bench nodes" => {
            let options = Options::parse(&words, &["--nodes"])?;
            let size = options.nodes.map(|nodes| nodes.to_string());
            bench::nodes::run(size.as_deref())
        }
        "bench sights" => {
            Options::parse(&words, &[])?;
            bench::sights::run()
        }
        "fuzz" => {
            // The target stands before or behind the option.
            let ends = [0, words.len().saturating_sub(1)];
            let is_target =
                |at: &usize| words.get(*at).is_some_and(|w| w.starts_with(char::is_alphabetic));
            let target = ends.into_iter().find(is_target).map(|at| words.remove(at));
            let options = Options::parse(&words, &["--seconds"])?;
            fuzz::run(target.as_deref(), options.seconds.unwrap_or(fuzz::SECONDS))
        }
        "codegen" => {
            Options::parse(&words, &[])?;
            codegen::run()?;
            Ok(true)
        }
        "chart" => match words.as_slice() {
            [] => chart::run(false),
            [accept] if accept == "--accept" => chart::run(true),
            _ => bail!("chart takes --accept or nothing"),
        },
        "prometheus" => {
            Options::parse(&words, &[])?;
            println!("{}", cache::prometheus::ensure()?.display());
            Ok(true)
        }
        "browser" => {
            Options::parse(&words, &[])?;
            println!("{}", cache::browser::ensure()?.display());
            Ok(true)
        }
        "image" => {
            Options::parse(&words, &[])?;
            image::run()?;
            Ok(true)
        }
        "supply" => {
            Options::parse(&words, &[])?;
            supply::run()
        }
        "tidy" => {
            Options::parse(&words, &[])?;
            tidy::run()
        }
        other => bail!("there is no command `{}`; see cargo xtask --help", other.trim()),
    }
}

/// The options of all commands; each command says which of them it takes.
#[derive(Default)]
struct Options {
    dir: Option<PathBuf>,
    nodes: Option<usize>,
    repeats: Option<usize>,
    seconds: Option<u32>,
    seed: Option<u64>,
    gangs: Option<usize>,
    bridge: bool,
    kube_scheduler: bool,
    kinds: bool,
    kubelets: usize,
}

impl Options {
    fn parse(words: &[String], taken: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if !taken.contains(&word.as_str()) {
                bail!("this command does not take `{word}`; see cargo xtask --help");
            }
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--dir" => options.dir = Some(PathBuf::from(value()?)),
                "--nodes" => {
                    let count = value()?.parse().ok().filter(|count| (2..=8000).contains(count));
                    options.nodes = Some(count.context("--nodes takes a number from 2 to 8000")?);
                }
                "--kubelets" => {
                    let most = world::kubelets::MOST;
                    let count = value()?.parse().ok().filter(|count| (1..=most).contains(count));
                    options.kubelets = count
                        .with_context(|| format!("--kubelets takes a number from 1 to {most}"))?;
                }
                "--repeats" => {
                    let count = value()?.parse().ok().filter(|count| (1..=1000).contains(count));
                    options.repeats =
                        Some(count.context("--repeats takes a number from 1 to 1000")?);
                }
                "--seconds" => {
                    let count = value()?.parse().ok().filter(|count| (1..=86_400).contains(count));
                    options.seconds =
                        Some(count.context("--seconds takes a number from 1 to 86400")?);
                }
                "--seed" => {
                    options.seed = Some(value()?.parse().context("--seed takes a number")?);
                }
                "--gangs" => {
                    let count = value()?.parse().ok().filter(|count| (1..=10_000).contains(count));
                    options.gangs = Some(count.context("--gangs takes a number from 1 to 10000")?);
                }
                "--kube-scheduler" => options.kube_scheduler = true,
                "--kinds" => options.kinds = true,
                _ => options.bridge = true,
            }
        }
        Ok(options)
    }

    fn dir(&self) -> Result<PathBuf> {
        match &self.dir {
            Some(dir) => Ok(std::path::absolute(dir)?),
            None => Ok(world::repo()?.join("target/world")),
        }
    }
}
