//! `cargo xtask test`: everything CI does, in one go, and how long each part took.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::leashed;
use crate::progress::{minutes, say};
use crate::world::repo;

/// How many seeds the simulator plays: 140 s of CPU time.
const SEEDS: &str = "10000";
/// What a second demo may take, everything being built.
const WARM_DEMO: Duration = Duration::from_secs(60);

/// How many worlds stories are told in at once. A story waits for daemons most of the time, so two cores carry more
/// than two.
const WORLDS: usize = 4;

/// A step, how long it took, and whether it went well.
type Outcome = (String, Duration, bool);

/// Runs every check; false when one failed.
pub(crate) fn run() -> Result<bool> {
    let began = Instant::now();
    let top = repo()?;
    let worlds = World::all(&top)?;
    let host = Host::now();
    let mut outcomes = Vec::new();

    outcomes.push(cargo(&top, "format", &["fmt", "--all", "--check"], &[]));
    outcomes.push(timed("tidy", || crate::tidy::run().unwrap_or_else(|error| complain(&error))));

    outcomes
        .push(timed("supply", || crate::supply::run().unwrap_or_else(|error| complain(&error))));

    // The worlds come up while the compiler works: they wait for daemons, the compiler for the CPU.
    let guards = worlds.iter().map(World::guard).collect::<Result<Vec<_>>>()?;
    let up_since = Instant::now();
    let rising = worlds.iter().map(World::rise).collect::<Result<Vec<_>>>()?;
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
    outcomes.push(cargo(&top, "docs", &docs, &[("RUSTDOCFLAGS", "-D warnings".into())]));
    let build = [&["build", "--quiet", "-p", "gangway"][..], &armed].concat();
    outcomes.push(cargo(&top, "build", &build, &[]));
    outcomes.push(timed("instructions", || {
        crate::bench::gate::run(false).unwrap_or_else(|error| complain(&error))
    }));
    // The simulator has a step of its own: its gangway is built with other features than the product. So has
    // the model: without optimisation it searches for a minute.
    let apart = ["--exclude", "gangway-simulator", "--exclude", "gangway-model"];
    let tests = [&["test", "--workspace", "--quiet"][..], &apart, &armed].concat();
    let compile = [&tests[..], &["--no-run"]].concat();
    outcomes.push(cargo(&top, "build tests", &compile, &[]));
    outcomes
        .push(timed("chart", || crate::chart::run(false).unwrap_or_else(|error| complain(&error))));
    let model = ["-p", "gangway-model", "-p", "gangway-simulator"];
    let seeds = [&["test", "--profile", "simulator", "--quiet"][..], &model].concat();
    let compile = [&seeds[..], &["--no-run"]].concat();
    outcomes.push(cargo(&top, "build model and simulator", &compile, &[]));
    let up = await_all(rising)?;
    outcomes.push(("worlds up (beside the above)".to_owned(), up_since.elapsed(), up));

    let simulator =
        Beside::start(&top, "model and simulator", &seeds, &[("GANGWAY_SEEDS", SEEDS.into())])?;
    if up {
        outcomes.push(timed("world status", || each(&worlds, "status")));
        let times = top.join("target/stories.tsv");
        // There is none after a fresh clone.
        let _ = std::fs::remove_file(&times);
        let mut variables = World::variables(&worlds)?;
        variables.push(("GANGWAY_TIMES", times.clone().into()));
        variables.push(("GANGWAY_HELM", crate::cache::binaries::helm()?.join("helm").into()));
        variables.push(("GANGWAY_PROMETHEUS", crate::cache::prometheus::ensure()?.into()));
        variables.push(("GANGWAY_CHROMIUM", crate::cache::browser::ensure()?.into()));
        outcomes.push(cargo(&top, "tests", &tests, &variables));
        longest(&times);
        outcomes.push(timed("rights", || rights(&worlds)));
    } else {
        say("tests: not run, there is no world for them");
        outcomes.push(("tests".to_owned(), Duration::ZERO, false));
    }
    outcomes.push(simulator.end()?);
    outcomes.push(timed("worlds down", || each(&worlds, "down")));
    guards.into_iter().try_for_each(stand_down)?;
    // As people get it: without the fail points. What it takes to compile is not the demo's time.
    outcomes.push(cargo(&top, "build for the demo", &["build", "--quiet", "-p", "gangway"], &[]));
    outcomes.push(demo(&std::env::current_exe()?));
    outcomes.push(("the host is as it was".to_owned(), Duration::ZERO, host == Host::now()));
    Ok(summary(&outcomes, began.elapsed()))
}

/// A world that the tests get: apart from the one that a person may have open.
struct World {
    dir: PathBuf,
    xtask: PathBuf,
    /// Whether pods really run on some of its hosts. Some stories want it, some cannot have it.
    kubelets: bool,
}

impl World {
    fn all(top: &Path) -> Result<Vec<Self>> {
        let xtask = std::env::current_exe()?;
        let dir = |number| top.join(format!("target/test-world-{number}"));
        let world = |number| {
            let (dir, xtask) = (dir(number), xtask.clone());
            Self { dir, xtask, kubelets: number == WORLDS }
        };
        Ok((1..=WORLDS).map(world).collect())
    }

    /// What tells the tests where the worlds are. Tests that want only one know the first.
    fn variables(worlds: &[Self]) -> Result<Vec<(&'static str, OsString)>> {
        let mut files = worlds.iter().map(|world| world.dir.join("env"));
        let first = files.next().context("there is no world for the tests")?;
        Ok(vec![
            ("GANGWAY_WORLD_ENV", first.into()),
            ("GANGWAY_MORE_WORLDS", std::env::join_paths(files)?),
            // One may wait for the world with kubelets while others are free.
            ("RUST_TEST_THREADS", (WORLDS + 1).to_string().into()),
        ])
    }

    /// Starts to bring it up.
    fn rise(&self) -> Result<Child> {
        let mut up = self.command("up");
        up.args(["--kinds", "--kube-scheduler"]);
        if self.kubelets {
            up.args(["--kubelets", "2"]);
        }
        up.spawn().context("cannot start world up")
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

/// A step that takes the CPU when nobody else wants it, beside the stories, which wait most of the time. What it says is
/// shown when it has failed.
struct Beside {
    name: &'static str,
    child: Child,
    log: PathBuf,
    began: Instant,
}

impl Beside {
    fn start(
        top: &Path,
        name: &'static str,
        words: &[&str],
        env: &[(&str, OsString)],
    ) -> Result<Self> {
        say(&format!("{name} (beside what follows)"));
        let log = top.join("target").join(format!("{}.log", name.replace(' ', "-")));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let cargo = crate::process::cargo();
        let mut command = leashed("nice");
        command.args(["-n", "19"]).arg(cargo).args(locked(words)).current_dir(top);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let child = command.stdout(out.try_clone()?).stderr(out).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log, began: Instant::now() })
    }

    fn end(mut self) -> Result<Outcome> {
        let well = self.child.wait()?.success();
        if !well {
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
            say(&format!("{}: FAILED", self.name));
        }
        Ok((format!("{} (beside the tests)", self.name), self.began.elapsed(), well))
    }
}

/// Whether all of them end well.
fn await_all(children: Vec<Child>) -> Result<bool> {
    let mut well = true;
    for mut child in children {
        well &= child.wait()?.success();
    }
    Ok(well)
}

/// Does the same with every world, one after the other.
fn each(worlds: &[World], verb: &str) -> bool {
    let failed = worlds.iter().filter(|world| !succeeds(&mut world.command(verb)));
    failed.count() == 0
}

/// Whether our service accounts did everything they may, and were refused nothing, in all worlds together.
fn rights(worlds: &[World]) -> bool {
    let Ok(xtask) = std::env::current_exe() else { return false };
    let mut command = Command::new(xtask.with_file_name("rights"));
    succeeds(command.args(worlds.iter().map(|world| world.dir.join("audit.log"))))
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Tells which stories took longest, as they wrote it down themselves.
fn longest(times: &Path) {
    let text = std::fs::read_to_string(times).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    let mut all: Vec<(f32, &str)> =
        lines.filter_map(|(took, name)| Some((took.parse().ok()?, name))).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let sum: f32 = all.iter().map(|(took, _)| took).sum();
    println!("{} stories had a world for {sum:.0} s in all; the longest:", all.len());
    all.iter().take(12).for_each(|(took, name)| println!("{took:>8.1} s  {name}"));
}

/// What worlds must leave as it is on the machine they run on.
#[derive(PartialEq)]
struct Host(Vec<Option<String>>, Vec<PathBuf>);

impl Host {
    fn now() -> Self {
        let files = ["/proc/sys/kernel/hostname", "/etc/hosts", "/etc/resolv.conf"];
        // A kubelet would like to set these.
        let sysctls = ["net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic"];
        let sysctls = sysctls.map(|name| format!("/proc/sys/{name}"));
        let all = files.map(str::to_owned).into_iter().chain(sysctls);
        let groups = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let inside = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
        let groups = groups.flat_map(|group| inside(group.path())).map(|entry| entry.path());
        let ours = |path: &PathBuf| {
            path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("gangway-"))
        };
        let mut ours: Vec<PathBuf> = groups.filter(ours).collect();
        ours.sort();
        Self(all.map(|file| std::fs::read_to_string(file).ok()).collect(), ours)
    }
}

/// The world is down: the guard must not take down the next one.
fn stand_down(mut guard: Child) -> Result<()> {
    guard.kill()?;
    guard.wait()?;
    Ok(())
}

fn cargo(top: &Path, name: &str, words: &[&str], env: &[(&str, OsString)]) -> Outcome {
    let cargo = crate::process::cargo();
    timed(name, || {
        let mut command = leashed(cargo);
        command.args(locked(words)).current_dir(top);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        command.status().is_ok_and(|status| status.success())
    })
}

/// With exactly what Cargo.lock says.
fn locked<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut words = words.to_vec();
    if words.first().is_some_and(|verb| *verb != "fmt") {
        words.insert(1, "--locked");
    }
    words
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
    println!("\n{:<40}{:>8}", "step", "time");
    for (name, time, well) in outcomes {
        let end = if *well { "" } else { "  FAILED" };
        println!("{name:<40}{:>8}{end}", minutes(*time));
    }
    println!("{:<40}{:>8}", "all", minutes(total));
    outcomes.iter().all(|(_, _, well)| *well)
}
