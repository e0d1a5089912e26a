//! What is fetched or built once per machine: each part in a directory named after its recipe.
//!
//! A part is built beside its place and moved there when whole, under a file lock: two builders never meet, and one
//! that is killed leaves only a piece that the next one removes.

pub(crate) mod binaries;
pub(crate) mod golang;
pub(crate) mod root;
pub(crate) mod seed;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::say;

/// The finished parts that a world is made from.
pub(crate) struct Parts {
    /// A Debian root with Slurm, MariaDB, etcd and Python.
    pub(crate) root: PathBuf,
    /// The Kubernetes binaries.
    pub(crate) bin: PathBuf,
    /// A database and keys that every world starts from.
    pub(crate) seed: PathBuf,
}

/// Everything a world needs, built where it is missing. The network-bound root and the CPU-bound builds overlap.
pub(crate) fn parts() -> Result<Parts> {
    std::thread::scope(|scope| {
        let bin = scope.spawn(binaries::ensure);
        let root = root::ensure()?;
        let seed = seed::ensure(&root)?;
        let bin = bin.join().map_err(|_| anyhow::anyhow!("the builder panicked"))??;
        Ok(Parts { root, bin, seed })
    })
}

/// Where parts and the logs of their making live.
pub(crate) fn home() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let home = base.join("gangway/world");
    fs::create_dir_all(home.join("logs"))
        .with_context(|| format!("cannot create {}", home.display()))?;
    Ok(home)
}

/// The log of one building step.
fn log(name: &str) -> Result<PathBuf> {
    Ok(home()?.join("logs").join(format!("{name}.log")))
}

/// The finished directory of a part; `build` fills it when it is not there yet, and says what it does meanwhile.
fn ensure(
    part: &str,
    recipe: &str,
    what: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let home = home()?;
    let name = format!("{part}-{:016x}", fingerprint(recipe));
    let done = home.join(&name);
    if done.is_dir() {
        return Ok(done);
    }
    let lock = File::create(home.join(format!("{name}.lock")))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            say(&format!("waiting for another builder: {what}"));
            lock.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the cache"),
    }
    if done.is_dir() {
        return Ok(done);
    }
    let unfinished = format!("{name}.unfinished");
    for entry in fs::read_dir(&home)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&unfinished) {
            remove_tree(&entry.path())?;
        }
    }
    let place = home.join(format!("{unfinished}-{}", std::process::id()));
    fs::create_dir(&place)?;
    if let Err(error) = build(&place) {
        remove_tree(&place)?;
        return Err(error);
    }
    fs::rename(&place, &done)?;
    Ok(done)
}

/// Deletes a tree, unless something is mounted in it: then it would delete the mounted thing.
pub(crate) fn remove_tree(tree: &Path) -> Result<()> {
    if !tree.exists() {
        return Ok(());
    }
    let tree = tree.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if let Some(mount) = mount_below(&tree, &mounts) {
        bail!("{} has {mount} mounted inside; unmount it before it can be removed", tree.display());
    }
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))
}

fn mount_below<'a>(tree: &Path, mountinfo: &'a str) -> Option<&'a str> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.into_iter().find(|point| Path::new(point).starts_with(tree))
}

/// FNV-1a: stable between compilers, which the standard hasher does not promise.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_mount_inside_a_tree_and_none_beside_it() {
        let info = "22 27 0:21 / /proc rw - proc proc rw\n30 27 0:5 / /c/tree/dev rw - x y rw\n";
        assert_eq!(mount_below(Path::new("/c/tree"), info), Some("/c/tree/dev"));
        assert_eq!(mount_below(Path::new("/c/tre"), info), None);
    }
}
