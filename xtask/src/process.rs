//! Programs we start: run them to the end, read what they say, and know later that a pid is still ours.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(25);

/// A process and the moment it started, so that a recycled pid is never taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) started: u64,
}

impl Process {
    /// The process that has this pid now.
    pub(crate) fn now(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (stat.state != 'Z').then_some(Self { pid, started: stat.started })
    }

    pub(crate) fn alive(self) -> bool {
        Self::now(self.pid) == Some(self)
    }

    /// Asks it to stop, and after `grace` makes it stop. Returns when it is gone.
    pub(crate) fn stop(self, grace: Duration) -> Result<()> {
        for (signal, patience) in [("TERM", grace), ("KILL", Duration::from_secs(20))] {
            if !self.alive() {
                return Ok(());
            }
            self.signal(signal);
            if wait_for(patience, || Ok(!self.alive()))? {
                return Ok(());
            }
        }
        bail!("process {} does not end, not even by SIGKILL", self.pid)
    }

    /// Sends a signal if the pid is still this process. The shell's own `kill` is always there.
    pub(crate) fn signal(self, signal: &str) {
        if self.alive() {
            let kill = format!("kill -{signal} {}", self.pid);
            // It may have ended in between: nothing to report then.
            let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
        }
    }
}

/// The few fields of `/proc/PID/stat` that we need.
struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in brackets and may hold anything, brackets too.
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self { state, parent, started })
    }
}

/// Every pid on this machine.
pub(crate) fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The first child of a process.
pub(crate) fn child_of(parent: u32) -> Option<Process> {
    let is_child = |pid: &u32| Stat::read(*pid).is_some_and(|stat| stat.parent == parent);
    pids().into_iter().find(is_child).and_then(Process::now)
}

/// Looks at a condition until it holds (true) or the time is over (false).
pub(crate) fn wait_for(
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<bool> {
    let end = Instant::now() + limit;
    loop {
        if condition()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        thread::sleep(POLL);
    }
}

/// Runs a command to its end with its output in `log`; an error shows the end of that log.
pub(crate) fn run(command: &mut Command, log: &Path) -> Result<()> {
    let mut out = open_log(log)?;
    let _ = writeln!(out, "+ {command:?}");
    let status = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
        .with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status}); {}", name(command), tail(log));
    }
    Ok(())
}

/// Runs a command with `input` and gives back what it printed.
pub(crate) fn ask(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", name(command)))?;
    let stdin = child.stdin.take();
    // A thread feeds it, so that neither side waits for a full pipe of the other.
    let output = thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let _ = write!(said, " {}", String::from_utf8_lossy(&output.stdout).trim());
        bail!("{} failed ({}): {}", name(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a daemon in a session of its own, so that a Ctrl-C meant for us does not reach it.
pub(crate) fn daemon(command: &mut Command, log: &Path) -> Result<Process> {
    let out = open_log(log)?;
    let mut session = Command::new("setsid");
    session.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => session.env(key, value),
            None => session.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        session.current_dir(directory);
    }
    let child = session
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("cannot start {}", name(command)))?;
    Process::now(child.id())
        .with_context(|| format!("{} ended at once; {}", name(command), tail(log)))
}

/// The cargo that runs us, so that nobody builds with another one.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A command that dies with us, even when we are killed: builders must not write on without an owner.
pub(crate) fn leashed(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The last lines of a log and where to read the rest.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(15)..];
    format!("the end of {}:\n    {}", log.display(), last.join("\n    "))
}

/// The full path of a program, if PATH has it.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn open_log(log: &Path) -> Result<fs::File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))
}

fn name(command: &Command) -> String {
    // A leash is our own doing: name what it holds.
    let leash = ["--pdeathsig", "KILL", "--"];
    let program = command.get_program().to_string_lossy().into_owned();
    let words = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    let line: Vec<String> = std::iter::once(program)
        .filter(|word| word != "setpriv")
        .chain(words.filter(|word| !leash.contains(&word.as_str())))
        .map(|word| word.lines().next().unwrap_or_default().to_owned())
        .take(6)
        .collect();
    format!("`{}`", line.join(" "))
}
