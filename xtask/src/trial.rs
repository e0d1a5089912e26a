//! `cargo xtask test`: everything CI does, in one go, and how long each part took.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::leashed;
use crate::progress::{minutes, say};
use crate::world::repo;

/// How many seeds the simulator plays: what it does in a minute, unoptimised, beside its build.
const SEEDS: &str = "500";
/// What a second demo may take, everything being built.
const WARM_DEMO: Duration = Duration::from_secs(60);

/// A step, how long it took, and whether it went well.
type Outcome = (String, Duration, bool);

/// Runs every check; false when one failed.
pub(crate) fn run() -> Result<bool> {
    let began = Instant::now();
    let top = repo()?;
    let world = World::of(&top)?;
    let host = Host::now();
    let mut outcomes = Vec::new();

    outcomes.push(cargo(&top, "format", &["fmt", "--all", "--check"], &[]));
    outcomes.push(timed("tidy", || crate::tidy::run().unwrap_or_else(|error| complain(&error))));

    // The world comes up while the compiler works: one waits for daemons, the other for the CPU.
    let guard = world.guard()?;
    let mut up = world.command("up");
    let mut rising =
        up.args(["--kinds", "--kube-scheduler"]).spawn().context("cannot start world up")?;
    let up_since = Instant::now();
    // With the fail points in, here as in the tests, so that nothing is compiled twice.
    let armed = ["--features", "gangway/fail-points"];
    let clippy = [
        &["clippy", "--workspace", "--all-targets", "--quiet"][..],
        &armed,
        &["--", "-D", "warnings"],
    ];
    let clippy = clippy.concat();
    outcomes.push(cargo(&top, "clippy", &clippy, &[]));
    let docs = ["doc", "--workspace", "--no-deps", "--quiet"];
    outcomes.push(cargo(&top, "docs", &docs, &[("RUSTDOCFLAGS", "-D warnings")]));
    let build = [&["build", "--quiet", "-p", "gangway"][..], &armed].concat();
    outcomes.push(cargo(&top, "build", &build, &[]));
    outcomes.push(timed("instructions", || {
        crate::bench::gate::run(false).unwrap_or_else(|error| complain(&error))
    }));
    // The simulator has a step of its own: its gangway is built with other features than the product.
    let tests = [&["test", "--workspace", "--exclude", "gangway-simulator", "--quiet"][..], &armed]
        .concat();
    let compile = [&tests[..], &["--no-run"]].concat();
    outcomes.push(cargo(&top, "build tests", &compile, &[]));
    let seeds = ["test", "--package", "gangway-simulator", "--quiet"];
    outcomes.push(cargo(&top, "simulator", &seeds, &[("GANGWAY_SEEDS", SEEDS)]));
    let up = rising.wait()?.success();
    outcomes.push(("world up (beside the above)".to_owned(), up_since.elapsed(), up));

    if up {
        outcomes.push(timed("world status", || succeeds(&mut world.command("status"))));
        let env = world.dir.join("env");
        let env = env.to_string_lossy();
        outcomes.push(cargo(&top, "tests", &tests, &[("GANGWAY_WORLD_ENV", &env)]));
    } else {
        say("tests: not run, there is no world for them");
        outcomes.push(("tests".to_owned(), Duration::ZERO, false));
    }
    outcomes.push(timed("world down", || succeeds(&mut world.command("down"))));
    stand_down(guard)?;
    // As people get it: without the fail points. What it takes to compile is not the demo's time.
    outcomes.push(cargo(&top, "build for the demo", &["build", "--quiet", "-p", "gangway"], &[]));
    outcomes.push(demo(&world.xtask));
    outcomes.push(("the host is as it was".to_owned(), Duration::ZERO, host == Host::now()));
    Ok(summary(&outcomes, began.elapsed()))
}

/// The world that the tests get: apart from the one that a person may have open.
struct World {
    dir: std::path::PathBuf,
    xtask: std::path::PathBuf,
}

impl World {
    fn of(top: &Path) -> Result<Self> {
        Ok(Self { dir: top.join("target/test-world"), xtask: std::env::current_exe()? })
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.xtask);
        command.args(["world", verb, "--dir"]).arg(&self.dir).stdin(Stdio::null());
        command
    }

    /// A process that takes the world down when we are gone without having done so: Ctrl-C, a kill, a crash. It reads
    /// from a pipe that only we hold open, so even SIGKILL is noticed.
    fn guard(&self) -> Result<Child> {
        Command::new("setsid")
            .args(["sh", "-c", "cat >/dev/null; exec \"$0\" world down --dir \"$1\""])
            .args([&self.xtask, &self.dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the guard of the test world")
    }
}

/// The demo once more, as a person would run it the second time, and within the time that is promised then.
fn demo(xtask: &Path) -> Outcome {
    let (name, took, well) = timed("demo", || succeeds(Command::new(xtask).arg("demo")));
    if took > WARM_DEMO {
        say(&format!("demo: took longer than {}", minutes(WARM_DEMO)));
    }
    (name, took, well && took <= WARM_DEMO)
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What worlds must leave as it is on the machine they run on.
#[derive(PartialEq)]
struct Host([Option<String>; 3]);

impl Host {
    fn now() -> Self {
        let files = ["/proc/sys/kernel/hostname", "/etc/hosts", "/etc/resolv.conf"];
        Self(files.map(|file| std::fs::read_to_string(file).ok()))
    }
}

/// The world is down: the guard must not take down the next one.
fn stand_down(mut guard: Child) -> Result<()> {
    guard.kill()?;
    guard.wait()?;
    Ok(())
}

fn cargo(top: &Path, name: &str, words: &[&str], env: &[(&str, &str)]) -> Outcome {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    timed(name, || {
        let mut command = leashed(cargo);
        command.args(words).current_dir(top).envs(env.iter().copied());
        command.status().is_ok_and(|status| status.success())
    })
}

fn timed(name: &str, work: impl FnOnce() -> bool) -> Outcome {
    say(name);
    let began = Instant::now();
    let well = work();
    if !well {
        say(&format!("{name}: FAILED"));
    }
    (name.to_owned(), began.elapsed(), well)
}

fn complain(error: &anyhow::Error) -> bool {
    eprintln!("error: {error:#}");
    false
}

fn summary(outcomes: &[Outcome], total: Duration) -> bool {
    println!("\n{:<30}{:>8}", "step", "time");
    for (name, time, well) in outcomes {
        let end = if *well { "" } else { "  FAILED" };
        println!("{name:<30}{:>8}{end}", minutes(*time));
    }
    println!("{:<30}{:>8}", "all", minutes(total));
    outcomes.iter().all(|(_, _, well)| *well)
}
