//! The daemons of a world that run on this machine itself, recorded by pid and start time.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};

use super::MARKER;
use crate::process::{self, Process};

/// The list in `world/pids`, one daemon a line: name, pid, start time.
pub(crate) struct Daemons {
    world: PathBuf,
    writing: Mutex<()>,
}

impl Daemons {
    pub(crate) fn of(world: &Path) -> Self {
        Self { world: world.to_owned(), writing: Mutex::new(()) }
    }

    /// Starts a daemon and records it. Its environment names its world, so that one that was started by an `up` that
    /// died before it could write the pid down is found all the same.
    pub(crate) fn start(&self, name: &str, command: &mut Command) -> Result<Process> {
        command.env(MARKER, &self.world);
        // Most are Go's: four API servers on two cores had better collect their garbage less often.
        command.env("GOGC", "400");
        let process = process::daemon(command, &self.log(name))?;
        self.record(name, process)?;
        Ok(process)
    }

    pub(crate) fn record(&self, name: &str, process: Process) -> Result<()> {
        let _one_line_at_a_time = self.writing.lock();
        let mut file = OpenOptions::new().create(true).append(true).open(self.file())?;
        writeln!(file, "{name} {} {}", process.pid, process.started).context("cannot record a pid")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.world.join("logs").join(format!("{name}.log"))
    }

    /// What was recorded, dead or alive.
    pub(crate) fn recorded(&self) -> Vec<(String, Process)> {
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        let parse = |line: &str| {
            let mut words = line.split(' ');
            let (name, pid, started) = (words.next()?, words.next()?, words.next()?);
            let process = Process { pid: pid.parse().ok()?, started: started.parse().ok()? };
            Some((name.to_owned(), process))
        };
        text.lines().filter_map(parse).collect()
    }

    /// Stops every daemon: the recorded ones, last started first, then any other that carries the world's mark.
    pub(crate) fn stop_all(&self) -> Result<()> {
        let mut all: Vec<Process> =
            self.recorded().into_iter().map(|(_, process)| process).collect();
        all.reverse();
        all.extend(self.marked());
        for process in &all {
            process.signal("TERM");
        }
        for process in all {
            process.stop(Duration::from_secs(5))?;
        }
        let _ = fs::remove_file(self.file());
        Ok(())
    }

    /// Processes whose environment says that they are a daemon of this world.
    pub(crate) fn marked(&self) -> Vec<Process> {
        let mark = format!("{MARKER}={}", self.world.display());
        let carries = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        process::pids().into_iter().filter(carries).filter_map(Process::now).collect()
    }

    fn file(&self) -> PathBuf {
        self.world.join("pids")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_stops_its_own_daemons_and_no_other() {
        let base = std::env::temp_dir().join(format!("gangway-daemons-{}", std::process::id()));
        let worlds = ["a", "b"].map(|name| base.join(name));
        worlds.iter().for_each(|world| fs::create_dir_all(world.join("logs")).unwrap());
        let [ours, theirs] = worlds.each_ref().map(|world| Daemons::of(world));
        let start = |world: &Daemons| {
            world.start("sleep", Command::new("sleep").arg("600")).expect("sleep is everywhere")
        };
        let (own, other, unwritten) = (start(&ours), start(&theirs), start(&ours));
        // A process can be seen before its environment can.
        for world in [&ours, &theirs] {
            let shown = process::wait_for(Duration::from_secs(10), || {
                Ok(world.recorded().iter().all(|(_, started)| {
                    world.marked().iter().any(|marked| marked.pid == started.pid)
                }))
            });
            assert!(shown.unwrap(), "no mark in the environment of a daemon");
        }
        // One whose pid was never written down, because `up` died before that.
        fs::write(ours.file(), format!("sleep {} {}\n", own.pid, own.started)).unwrap();
        ours.stop_all().unwrap();
        assert!(!own.alive() && !unwritten.alive());
        assert!(other.alive(), "the other world's daemon is none of ours");
        theirs.stop_all().unwrap();
        assert!(!other.alive());
        fs::remove_dir_all(&base).unwrap();
    }
}
