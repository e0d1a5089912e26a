//! What is fetched or built once per machine: each part in a directory named after its recipe.
//!
//! A part is built beside its place and moved there when whole, under a file lock: two builders never meet, and one
//! that is killed leaves only a piece that the next one removes.

pub(crate) mod binaries;
pub(crate) mod browser;
pub(crate) mod containers;
mod debs;
pub(crate) mod golang;
pub(crate) mod prometheus;
pub(crate) mod root;
pub(crate) mod seed;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::say;
use crate::world::daemons::Daemons;

/// The finished parts that a world is made from.
pub(crate) struct Parts {
    /// A Debian root with Slurm, MariaDB and Python.
    pub(crate) root: PathBuf,
    /// The Kubernetes binaries.
    pub(crate) bin: PathBuf,
    /// The directory of etcd.
    pub(crate) etcd: PathBuf,
    /// A database and keys that every world starts from.
    pub(crate) seed: PathBuf,
}

/// Everything a world needs, built where it is missing. The network-bound root and the CPU-bound builds overlap.
pub(crate) fn parts() -> Result<Parts> {
    std::thread::scope(|scope| {
        let bin = scope.spawn(binaries::ensure);
        let etcd = scope.spawn(binaries::etcd);
        let root = root::ensure()?;
        let seed = seed::ensure(&root)?;
        let panicked = |_| anyhow::anyhow!("the builder panicked");
        let (bin, etcd) = (bin.join().map_err(panicked)??, etcd.join().map_err(panicked)??);
        Ok(Parts { root, bin, etcd, seed })
    })
}

/// What hosts with a kubelet are made from, beside everything else.
pub(crate) struct KubeletParts {
    /// The directory of the kubelet.
    pub(crate) kubelet: PathBuf,
    /// What runs containers, and the image they run.
    pub(crate) containers: PathBuf,
}

/// The same for hosts with a kubelet. They need the other parts first.
pub(crate) fn kubelet_parts(parts: &Parts) -> Result<KubeletParts> {
    std::thread::scope(|scope| {
        let kubelet = scope.spawn(binaries::kubelet);
        let containers = containers::ensure(&parts.root)?;
        let kubelet = kubelet.join().map_err(|_| anyhow::anyhow!("the builder panicked"))??;
        Ok(KubeletParts { kubelet, containers })
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
pub(crate) fn log(name: &str) -> Result<PathBuf> {
    Ok(home()?.join("logs").join(format!("{name}.log")))
}

/// The finished directory of a part; `build` fills it when it is not there yet, and says what it does meanwhile.
fn ensure(
    part: &str,
    recipe: &str,
    what: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    ensure_in(&home()?, part, recipe, what, build)
}

fn ensure_in(
    home: &Path,
    part: &str,
    recipe: &str,
    what: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
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
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&unfinished) {
            // A builder that was killed may have left the daemons of its own small world behind.
            Daemons::of(&entry.path().join("world")).stop_all()?;
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
pub(crate) fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn sees_a_mount_inside_a_tree_and_none_beside_it() {
        let info = "22 27 0:21 / /proc rw - proc proc rw\n30 27 0:5 / /c/tree/dev rw - x y rw\n";
        assert_eq!(mount_below(Path::new("/c/tree"), info), Some("/c/tree/dev"));
        assert_eq!(mount_below(Path::new("/c/tre"), info), None);
    }

    /// A directory of this test's own, gone with it.
    struct Home(PathBuf);

    impl Home {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("gangway-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.filter(|name| !name.ends_with(".lock")).collect()
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn two_builders_at_once_build_once() {
        let home = Home::new("two-builders");
        let built = AtomicUsize::new(0);
        let build = || {
            ensure_in(&home.0, "part", "recipe", "a part", |place| {
                built.fetch_add(1, Ordering::SeqCst);
                fs::write(place.join("half"), "")?;
                // The other one meets the lock while this one is at work.
                std::thread::yield_now();
                fs::write(place.join("whole"), "").map_err(Into::into)
            })
        };
        let found = std::thread::scope(|scope| {
            let builders = [scope.spawn(build), scope.spawn(build)];
            builders.map(|builder| builder.join().unwrap().unwrap())
        });
        assert_eq!(built.load(Ordering::SeqCst), 1);
        assert_eq!(found[0], found[1]);
        assert!(found[0].join("whole").exists());
        assert_eq!(home.names().len(), 1, "{:?}", home.names());
    }

    #[test]
    fn what_a_killed_or_failed_builder_left_is_removed_and_built_anew() {
        let home = Home::new("killed-builder");
        let failed = ensure_in(&home.0, "part", "recipe", "a part", |place| {
            fs::write(place.join("half"), "")?;
            bail!("no network")
        });
        assert!(failed.is_err());
        assert!(home.names().is_empty(), "{:?}", home.names());
        // One that was killed could not clear up.
        let name = format!("part-{:016x}", fingerprint("recipe"));
        fs::create_dir_all(home.0.join(format!("{name}.unfinished-1/world"))).unwrap();
        let done = ensure_in(&home.0, "part", "recipe", "a part", |place| {
            fs::write(place.join("whole"), "").map_err(Into::into)
        });
        assert_eq!(done.unwrap(), home.0.join(&name));
        assert_eq!(home.names(), [name]);
        // Another recipe is another part.
        assert!(ensure_in(&home.0, "part", "other", "a part", |_| Ok(())).is_ok());
        assert_eq!(home.names().len(), 2);
    }
}
