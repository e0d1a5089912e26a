//! Starts Gangway itself in a world, the way a person or the demo would.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::daemons::Daemons;
use super::ports::Ports;
use super::{MARKER, doors, repo};
use crate::process::{Process, ask, tail, wait_for};

/// Builds the bridge, starts it detached and waits until it is ready.
pub(crate) fn start(world: &Path, ports: Ports) -> Result<()> {
    build()?;
    let start = world.join("bin/gangway-start");
    let (log, pid_file) = (world.join("gangway.log"), world.join("gangway.pid"));
    doors::script(&start, &start_script(world)?)?;
    ask(&mut Command::new(&start), "")?;
    let pid = fs::read_to_string(&pid_file)?;
    let pid = pid.trim().parse().context("gangway-start wrote no pid")?;
    let process = Process::now(pid).with_context(|| format!("gangway ended; {}", tail(&log)))?;
    let health = ports.port("health");
    let ready = wait_for(Duration::from_secs(60), || {
        if !process.alive() {
            bail!("gangway ended; {}", tail(&log));
        }
        Ok(status(health, "/readyz") == Some(200))
    })?;
    if !ready {
        bail!("gangway is not ready after 60 s; {}", tail(&log));
    }
    doors::add(
        world,
        &[
            ("GANGWAY_PID", &pid.to_string()),
            ("GANGWAY_LOG", &log.to_string_lossy()),
            ("GANGWAY_START", &start.to_string_lossy()),
        ],
    )
}

/// The pid of the world's bridge, and whether it runs; none where no bridge was ever started. Whoever started it again
/// did so by `gangway-start`, which leaves the pid in a file and the world's mark on the process.
pub(crate) fn find(world: &Path) -> Option<(u32, bool)> {
    let pid = fs::read_to_string(world.join("gangway.pid")).ok()?.trim().parse().ok()?;
    let runs = Daemons::of(world).marked().iter().any(|process| process.pid == pid);
    Some((pid, runs))
}

/// Builds the bridge with the cargo that runs us.
pub(crate) fn build() -> Result<()> {
    let cargo = crate::process::cargo();
    let status = Command::new(cargo)
        .args(["build", "--locked", "--quiet", "-p", "gangway"])
        .current_dir(repo()?)
        .status()?;
    if !status.success() {
        bail!("cargo build -p gangway failed");
    }
    Ok(())
}

/// A script that starts the bridge in a session of its own and writes down its pid.
fn start_script(world: &Path) -> Result<String> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => repo()?.join(dir),
        None => repo()?.join("target"),
    };
    let world = world.display();
    Ok(format!(
        "# Starts the bridge of this world, detached, and writes its pid to gangway.pid.\n\
         export {MARKER}='{world}' KUBECONFIG='{world}/kubernetes/gangway.kubeconfig'\n\
         setsid '{}' scheduler --config '{world}/gangway.yaml' </dev/null >>'{world}/gangway.log' 2>&1 &\n\
         echo $! > '{world}/gangway.pid'",
        target.join("debug/gangway").display()
    ))
}

/// The status code of a GET on a port of this machine, if anything answers.
pub(crate) fn status(port: u16, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut head = [0; 64];
    let length = stream.read(&mut head).ok()?;
    let text = String::from_utf8_lossy(&head[..length]).into_owned();
    text.split(' ').nth(1)?.parse().ok()
}
