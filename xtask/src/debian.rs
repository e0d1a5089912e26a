//! Programs of Debian's that a chore needs and a bare machine does not have.
//!
//! Only installs what is missing, from the machine's own package sources; it must never change what is there.

use std::process::Command;

use anyhow::{Context, Result};

use crate::cache;
use crate::process::{run, which};
use crate::progress::step;

/// Makes sure that a program is there; its package is called the same.
pub(crate) fn installed(program: &str) -> Result<()> {
    if which(program).is_some() {
        return Ok(());
    }
    let log = cache::log(program)?;
    let _ = std::fs::remove_file(&log);
    step(&format!("installing {program}"), || {
        // Two parts may both want apt: it waits for its own lock.
        let apt = ["-o", "DPkg::Lock::Timeout=300", "-q", "-y"];
        run(Command::new("apt-get").args(apt).arg("update"), &log)?;
        let mut install = Command::new("apt-get");
        install.args(apt).args(["install", "--no-install-recommends", program]);
        run(install.env("DEBIAN_FRONTEND", "noninteractive"), &log)
            .with_context(|| format!("{program} is needed and could not be installed"))
    })
}
