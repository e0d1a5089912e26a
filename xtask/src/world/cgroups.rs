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

/// What a kubelet asks for, where the machine has it.
const WANTED: [&str; 5] = ["cpu", "cpuset", "hugetlb", "memory", "pids"];

/// The cgroup of a host, as it is called in every hierarchy.
pub(crate) fn of(world: &Path, host: &str) -> String {
    format!("/{}/{host}", name(world))
}

/// Makes the cgroup of a host.
pub(crate) fn make(world: &Path, host: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let own = hierarchy.join(name(world));
        let place = own.join(host);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        [&hierarchy, &own].into_iter().try_for_each(|parent| lend(parent))?;
    }
    Ok(())
}

/// In version 2 a cgroup has those controllers that its parent lends; the kubelet does the same from here on. (Not tried:
/// the machines this was made on have version 1, which has nothing to lend.)
fn lend(parent: &Path) -> Result<()> {
    let there = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    for controller in there.split_whitespace().filter(|controller| WANTED.contains(controller)) {
        let file = parent.join("cgroup.subtree_control");
        fs::write(&file, format!("+{controller}"))
            .with_context(|| format!("{} does not lend {controller}", parent.display()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_cgroups_goes_from_the_innermost_on_unless_somebody_is_in_it() {
        let base = std::env::temp_dir().join(format!("gangway-cgroups-{}", std::process::id()));
        let pod = base.join("h1/kubepods/pod");
        fs::create_dir_all(&pod).unwrap();
        fs::create_dir_all(base.join("h2")).unwrap();
        // In a real one the kernel refuses while a process is in it; here a file makes it refuse.
        fs::write(pod.join("busy"), "").unwrap();
        assert!(!remove_one(&base));
        assert!(pod.exists() && !base.join("h2").exists());
        fs::remove_file(pod.join("busy")).unwrap();
        assert!(remove_one(&base));
        assert!(remove_one(&base), "one that is gone is gone");
    }

    #[test]
    fn worlds_side_by_side_have_cgroups_of_their_own() {
        let of = |world: &str| of(Path::new(world), "h1");
        assert_ne!(of("/a/w1"), of("/a/w2"));
        assert_eq!(of("/a/w1"), of("/a/w1"), "found again by whoever knows the directory");
    }
}
