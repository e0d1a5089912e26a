//! What every world starts from and what takes seconds to make: a database that knows the cluster, its accounts and
//! users, and the keys of the Kubernetes side.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::remove_tree;
use crate::process::ask;
use crate::world::host::Host;
use crate::world::ports::{self, Ports};
use crate::world::{MARKER, repo, slurm};

/// Raise it when the content changes.
const RECIPE: &str = "1";

/// The seed, grown in a small world of its own if this machine does not have it yet.
pub(crate) fn ensure(root: &Path) -> Result<PathBuf> {
    let recipe = format!("{RECIPE} {}", root.display());
    let what = "preparing Slurm's database in the cache";
    super::ensure("seed", &recipe, what, |place| build(place, root))
}

fn build(place: &Path, root: &Path) -> Result<()> {
    let world = place.join("world");
    fs::create_dir(&world)?;
    let ports = Ports::claim(&world)?;
    let mut host = Host::prepare(&world, root)?;
    slurm::configure(&host, ports)?;
    let unshare = host.boot((MARKER, &world.to_string_lossy()), &repo()?)?;
    let grown = grow(&host, ports);
    // Ending the host's first process ends whatever is left in it.
    unshare.signal("KILL");
    unshare.stop(Duration::ZERO)?;
    ports::release(&world)?;
    grown?;

    let mysql = host.base().join("var/lib/mysql");
    fs::rename(&mysql, place.join("mysql"))?;
    let mut keys = Command::new("chroot");
    // The keys are made in the root but not kept there: they go through openssl's standard output.
    keys.arg(root).args(["openssl", "genrsa", "2048"]);
    let key = ask(&mut keys, "").context("cannot make a key")?;
    fs::write(place.join("sa.key"), key)?;
    remove_tree(&world)
}

fn grow(host: &Host, ports: Ports) -> Result<()> {
    slurm::create_database(host, ports)?;
    slurm::start_accounting(host, ports)?;
    slurm::create_accounts(host)?;
    for daemon in ["slurmdbd", "mariadbd"] {
        host.stop(daemon)?;
    }
    Ok(())
}
