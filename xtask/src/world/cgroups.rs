//! The cgroups of a world, in which the pods of its hosts run: one directory for each host, in every hierarchy that
//! this machine has (version 1 has one for each controller, version 2 has one for all).
//!
//! Their name is made from the world's directory alone, so that they are found again by whoever takes the world down.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::fingerprint;
use crate::process::wait_for;

const ALL: &str = "/sys/fs/cgroup";

/// The cgroup of a host, as it is called in every hierarchy.
pub(crate) fn of(world: &Path, host: &str) -> String {
    format!("/{}/{host}", name(world))
}

/// Makes the cgroup of a host.
pub(crate) fn make(world: &Path, host: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let place = hierarchy.join(name(world)).join(host);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    }
    Ok(())
}

/// Removes all cgroups of a world, from the innermost on. Whoever was in them must have ended.
pub(crate) fn remove(world: &Path) -> Result<()> {
    for hierarchy in hierarchies() {
        let place = hierarchy.join(name(world));
        // One whose last process has just ended may still be busy.
        if !wait_for(Duration::from_secs(10), || Ok(remove_one(&place)))? {
            bail!("the cgroup {} cannot be removed", place.display());
        }
    }
    Ok(())
}

/// Whether it is gone.
fn remove_one(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        // The files in it are the kernel's and go with it.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_one(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
    !cgroup.exists()
}

fn name(world: &Path) -> String {
    format!("gangway-{:016x}", fingerprint(&world.to_string_lossy()))
}

/// Where hierarchies are mounted. Controllers that share one have a name for each and are one directory all the same.
fn hierarchies() -> Vec<PathBuf> {
    let within = fs::read_dir(ALL).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = std::iter::once(PathBuf::from(ALL));
    let unified = Path::new(ALL).join("cgroup.procs").exists();
    // In a unified hierarchy every directory is a cgroup, not a hierarchy.
    let mut found: Vec<PathBuf> = all
        .chain(within.filter(|_| !unified))
        .filter(|place| place.join("cgroup.procs").exists())
        .filter_map(|place| place.canonicalize().ok())
        .collect();
    found.sort();
    found.dedup();
    found
}
