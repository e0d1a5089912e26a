//! The Slurm host of a world: pid, mount and UTS namespaces around the cached root, entered by `nsenter`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::KubeletParts;
use crate::process::{self, Process, ask, wait_for};

/// The people who may submit jobs, beside root and Slurm's own user.
pub(crate) const PEOPLE: [(&str, u32); 2] = [("alice", 5001), ("bob", 5002)];

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const INIT: &str = include_str!("../../../manifests/world/slurm-host.sh");
const DAEMON: &str = include_str!("../../../manifests/world/daemon.sh");

/// Directories that the host may write to, as (path inside, owner, mode).
const WRITABLE: [(&str, &str, u32); 17] = [
    ("etc/slurm", "root", 0o755),
    ("etc/munge", "munge", 0o700),
    ("run", "root", 0o755),
    ("run/munge", "munge", 0o755),
    ("run/mysqld", "mysql", 0o755),
    ("run/slurm", "slurm", 0o755),
    ("run/world", "root", 0o755),
    ("var/spool", "root", 0o755),
    ("var/spool/slurmctld", "slurm", 0o755),
    ("var/log", "root", 0o755),
    ("var/log/slurm", "slurm", 0o755),
    ("var/log/world", "root", 0o755),
    ("var/log/munge", "munge", 0o700),
    ("var/lib/mysql", "mysql", 0o750),
    ("var/lib/munge", "munge", 0o700),
    ("tmp", "root", 0o1777),
    ("var/tmp", "root", 0o1777),
];

/// A Slurm host that may be running.
pub(crate) struct Host {
    /// The world's directory.
    world: PathBuf,
    root: PathBuf,
    /// The first process of the host, as the outside sees it.
    init: Option<Process>,
}

impl Host {
    /// Prepares the host's directories in `world/slurm` from the users of the cached root.
    pub(crate) fn prepare(world: &Path, root: &Path) -> Result<Self> {
        let host = Self { world: world.to_owned(), root: root.to_owned(), init: None };
        let base = host.base();
        for (place, owner, mode) in WRITABLE {
            host.directory(place, host.id_of(owner)?, mode)?;
        }
        host.directory("home", 0, 0o755)?;
        host.directory("root", 0, 0o700)?;
        for (name, id) in PEOPLE {
            host.directory(&format!("home/{name}"), id, 0o755)?;
        }
        fs::create_dir_all(base.join("daemons"))?;
        let people = |line: fn(&str, u32) -> String| {
            PEOPLE.iter().map(|(name, id)| line(name, *id)).collect::<String>()
        };
        let passwd = people(|name, id| format!("{name}:x:{id}:{id}::/home/{name}:/bin/sh\n"));
        let group = people(|name, id| format!("{name}:x:{id}:\n"));
        for (file, more) in [("passwd", passwd), ("group", group)] {
            let theirs = fs::read_to_string(root.join("etc").join(file))?;
            fs::write(base.join("etc").join(file), theirs + &more)?;
        }
        fs::write(base.join("etc/hosts"), "127.0.0.1 localhost slurmhost\n")?;
        // No name server: one that answers late stalls slurmctld.
        let switch = "passwd: files\ngroup: files\nshadow: files\nhosts: files\n";
        fs::write(base.join("etc/nsswitch.conf"), switch)?;
        fs::write(base.join("init.sh"), INIT)?;
        fs::write(base.join("daemon.sh"), DAEMON)?;
        Ok(host)
    }

    /// Starts the host itself, without daemons. `more` is to be seen in it as well, at /opt: what containers need and
    /// the kubelet, where it shall have any.
    pub(crate) fn boot(
        &mut self,
        marker: (&str, &str),
        repo: &Path,
        more: Option<&KubeletParts>,
    ) -> Result<Process> {
        let base = self.base();
        let log = self.logs().join("init.log");
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount", "--uts"])
            .args(["--propagation", "private", "sh"])
            .arg(base.join("init.sh"))
            .args([&self.root, &base, &self.world])
            .arg(repo)
            .args(more.into_iter().flat_map(|parts| [&parts.containers, &parts.kubelet]))
            .env(marker.0, marker.1);
        let unshare = process::daemon(&mut command, &log)?;
        let ready = base.join("run/world/ready");
        let up = wait_for(Duration::from_secs(20), || {
            if !unshare.alive() {
                bail!("the Slurm host ended at once; {}", process::tail(&log));
            }
            Ok(ready.exists())
        })?;
        if !up {
            bail!("the Slurm host did not come up in 20 s; {}", process::tail(&log));
        }
        let init = process::child_of(unshare.pid).context("the Slurm host has no first process")?;
        fs::write(base.join("init.pid"), format!("{}\n", init.pid))?;
        self.init = Some(init);
        Ok(unshare)
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.world.join("slurm")
    }

    /// The host's /var/log, which stays when the rest of the host is removed.
    fn logs(&self) -> PathBuf {
        self.world.join("logs/slurm-host")
    }

    /// A command inside the host, as root, with a clean environment.
    pub(crate) fn enter(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.init.map_or(0, |init| init.pid).to_string();
        command.args([
            "-m",
            "-u",
            "-p",
            "-t",
            &pid,
            "--",
            "env",
            "-i",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
        ]);
        command.arg(format!("PATH={PATH}")).args(words);
        command
    }

    /// Runs a command inside the host and gives back what it printed.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String> {
        ask(&mut self.enter(words), "")
    }

    /// Starts a daemon; `script` is what its process executes.
    pub(crate) fn start(&self, name: &str, script: &str) -> Result<()> {
        fs::write(self.base().join("daemons").join(name), format!("{script}\n"))?;
        self.ask(&["sh", "/mnt/world/slurm/daemon.sh", "start", name])?;
        Ok(())
    }

    pub(crate) fn stop(&self, name: &str) -> Result<()> {
        self.ask(&["sh", "/mnt/world/slurm/daemon.sh", "stop", name])?;
        Ok(())
    }

    /// Waits for something that a daemon does; if it does not, the error shows the daemon's log.
    pub(crate) fn wait(
        &self,
        name: &str,
        seconds: u64,
        mut condition: impl FnMut() -> bool,
    ) -> Result<()> {
        let base = self.base();
        let ok = wait_for(Duration::from_secs(seconds), || {
            if condition() {
                return Ok(true);
            }
            if daemon(&base, name).is_none() {
                bail!("{name} ended; {}", self.tails(name));
            }
            Ok(false)
        })?;
        if !ok {
            bail!("{name} is not ready after {seconds} s; {}", self.tails(name));
        }
        Ok(())
    }

    /// What a daemon printed, and what it logged in its own file.
    fn tails(&self, name: &str) -> String {
        let logs = self.logs();
        let own = match name.strip_prefix("slurmd-") {
            Some(node) => format!("slurm/slurmd.{node}.log"),
            None => format!("slurm/{name}.log"),
        };
        [logs.join(format!("world/{name}.log")), logs.join(own)]
            .iter()
            .filter(|log| log.exists())
            .map(|log| process::tail(log))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Writes a file of the host with an owner and mode.
    pub(crate) fn file(&self, place: &str, content: impl AsRef<[u8]>, owner: &str) -> Result<()> {
        let path = self.base().join(place);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        let (id, mode) = (self.id_of(owner)?, if owner == "root" { 0o644 } else { 0o600 });
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        chown(&path, Some(id), Some(id))?;
        Ok(())
    }

    /// Writes a script of the host that root runs.
    pub(crate) fn script(&self, place: &str, content: &str) -> Result<()> {
        self.file(place, content, "root")?;
        fs::set_permissions(self.base().join(place), fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn directory(&self, place: &str, id: u32, mode: u32) -> Result<()> {
        let path = match place.strip_prefix("var/log") {
            Some(log) => self.logs().join(log.trim_start_matches('/')),
            None => self.base().join(place),
        };
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        chown(&path, Some(id), Some(id))?;
        Ok(())
    }

    /// The numeric id of a user of the root; every daemon's group has its name and number too.
    fn id_of(&self, user: &str) -> Result<u32> {
        let passwd = fs::read_to_string(self.root.join("etc/passwd"))?;
        let line = passwd.lines().find(|line| line.split(':').next() == Some(user));
        let id = line.and_then(|line| line.split(':').nth(2)).and_then(|id| id.parse().ok());
        id.with_context(|| format!("the root has no user {user}"))
    }
}

/// The pid outside of a daemon of the host in `base`, if it runs.
pub(crate) fn daemon(base: &Path, name: &str) -> Option<u32> {
    let init = fs::read_to_string(base.join("init.pid")).ok()?;
    let namespace = fs::read_link(format!("/proc/{}/ns/pid", init.trim())).ok()?;
    let inside = fs::read_to_string(base.join("run/world").join(format!("{name}.pid"))).ok()?;
    process::pids().into_iter().find(|pid| {
        fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == namespace)
            && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                ids.and_then(|ids| ids.split_whitespace().last()) == Some(inside.trim())
            })
            && Process::now(*pid).is_some()
    })
}
