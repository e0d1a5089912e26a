//! What every world starts from and what takes seconds to make: a database that knows the cluster, its accounts and
//! users, and the keys of the Kubernetes side.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::remove_tree;
use crate::progress::step;
use crate::world::host::Host;
use crate::world::ports::{self, Ports};
use crate::world::{MARKER, repo, slurm};

/// Raise it when the content changes.
const RECIPE: &str = "2";

/// The key that service account tokens are signed with, and a certificate for the operator's webhook server, which
/// wants one before it does anything.
const KEYS: [&str; 3] = ["sa.key", "tls.key", "tls.crt"];

/// The seed, grown in a small world of its own if this machine does not have it yet.
pub(crate) fn ensure(root: &Path) -> Result<PathBuf> {
    let recipe = format!("{RECIPE} {}", root.display());
    let what = "preparing Slurm's database in the cache";
    super::ensure("seed", &recipe, what, |place| step(what, || build(place, root)))
}

fn build(place: &Path, root: &Path) -> Result<()> {
    let world = place.join("world");
    fs::create_dir(&world)?;
    let ports = Ports::claim(&world)?;
    let mut host = Host::prepare(&world, root)?;
    slurm::configure(&host, ports)?;
    let unshare = host.boot((MARKER, &world.to_string_lossy()), &repo()?, None)?;
    let grown = grow(&host, ports);
    // Ending the host's first process ends whatever is left in it.
    unshare.signal("KILL");
    unshare.stop(Duration::ZERO)?;
    ports::release(&world)?;
    grown?;

    let mysql = host.base().join("var/lib/mysql");
    fs::rename(&mysql, place.join("mysql"))?;
    for key in KEYS {
        fs::rename(world.join(key), place.join(key))?;
    }
    remove_tree(&world)
}

fn grow(host: &Host, ports: Ports) -> Result<()> {
    slurm::create_database(host, ports)?;
    slurm::start_accounting(host, ports)?;
    slurm::create_accounts(host)?;
    // /mnt/world is this world's directory, seen from inside.
    host.ask(&["openssl", "genrsa", "-out", "/mnt/world/sa.key", "2048"])?;
    let certificate = "req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=training-operator \
        -keyout /mnt/world/tls.key -out /mnt/world/tls.crt";
    host.ask(&["openssl"].into_iter().chain(certificate.split_whitespace()).collect::<Vec<_>>())?;
    for daemon in ["slurmdbd", "mariadbd"] {
        host.stop(daemon)?;
    }
    Ok(())
}
