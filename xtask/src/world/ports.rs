//! Each world has a block of ports of its own on loopback, below the range that outgoing connections use.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache;

const FIRST: u16 = 20_000;
const SIZE: u16 = 32;
/// How many worlds can be up at once.
pub(super) const BLOCKS: u16 = 380;

/// A claimed block. The order of the names below is the order of the ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports(u16);

/// Every service of a world; its place in this list is its port's place in the block.
const NAMES: [&str; 28] = [
    "slurmctld",
    "slurmdbd",
    "mariadb",
    "slurmrestd",
    "sink",
    "h1",
    "h2",
    "h3",
    "h4",
    "etcd",
    "etcd-peer",
    "apiserver",
    "controller-manager",
    "kwok",
    "operator-metrics",
    "operator-health",
    "operator-webhook",
    "grpc",
    "metrics",
    "health",
    "spare-1",
    "spare-2",
    "jobset-webhook",
    "lws-webhook",
    "kubelet-h1",
    "kubelet-h2",
    "kubelet-h3",
    "kubelet-h4",
];

const _: () = assert!(NAMES.len() <= SIZE as usize, "a block has a port for everybody");

impl Ports {
    /// Claims a free block for the world in `dir`, and writes it to `dir/ports`.
    pub(crate) fn claim(dir: &Path) -> Result<Self> {
        let home = cache::home()?.join("ports");
        fs::create_dir_all(&home)?;
        let lock = File::create(home.join("lock"))?;
        lock.lock()?;
        for block in 0..BLOCKS {
            let claim = home.join(block.to_string());
            let ports = Self(FIRST + block * SIZE);
            if held(&claim, block) || !ports.free() {
                continue;
            }
            fs::write(&claim, dir.to_string_lossy().as_bytes())?;
            fs::write(dir.join("ports"), block.to_string())?;
            return Ok(ports);
        }
        bail!("no block of {SIZE} free ports on loopback from {FIRST} on")
    }

    /// The block of a world that is up.
    pub(crate) fn of(dir: &Path) -> Result<Self> {
        let file = dir.join("ports");
        let block: u16 = fs::read_to_string(&file)
            .with_context(|| format!("no world in {}", dir.display()))?
            .parse()
            .with_context(|| format!("{} is damaged", file.display()))?;
        Ok(Self(FIRST + block * SIZE))
    }

    /// Which block it is: a number that no other world has.
    pub(crate) fn block(self) -> u16 {
        (self.0 - FIRST) / SIZE
    }

    pub(crate) fn port(self, name: &str) -> u16 {
        let place = NAMES.iter().position(|known| *known == name);
        debug_assert!(place.is_some(), "{name} has no port");
        self.0 + u16::try_from(place.unwrap_or(NAMES.len())).unwrap_or(SIZE - 1)
    }

    /// Replaces `{name}` of every service by its port.
    pub(crate) fn fill(self, text: &str) -> String {
        NAMES.iter().fold(text.to_owned(), |text, name| {
            text.replace(&format!("{{{name}}}"), &self.port(name).to_string())
        })
    }

    fn free(self) -> bool {
        (0..SIZE).all(|place| TcpListener::bind(("127.0.0.1", self.0 + place)).is_ok())
    }
}

/// Gives the block back.
pub(crate) fn release(dir: &Path) -> Result<()> {
    let file = dir.join("ports");
    if let Ok(block) = fs::read_to_string(&file) {
        let claim: PathBuf = cache::home()?.join("ports").join(block);
        if fs::read_to_string(&claim).is_ok_and(|owner| Path::new(&owner) == dir) {
            let _ = fs::remove_file(claim);
        }
        fs::remove_file(file)?;
    }
    Ok(())
}

/// A claim holds as long as the world that made it still names this block.
fn held(claim: &Path, block: u16) -> bool {
    fs::read_to_string(claim)
        .and_then(|dir| fs::read_to_string(Path::new(&dir).join("ports")))
        .is_ok_and(|named| named == block.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_worlds_have_no_port_in_common() {
        let base = std::env::temp_dir().join(format!("gangway-ports-{}", std::process::id()));
        let worlds = ["a", "b"].map(|name| base.join(name));
        worlds.iter().for_each(|world| fs::create_dir_all(world).unwrap());
        let claims = worlds.each_ref().map(|world| Ports::claim(world).unwrap());
        let of = |ports: Ports| NAMES.map(|name| ports.port(name));
        let [ours, theirs] = claims.map(of);
        assert!(ours.iter().all(|port| !theirs.contains(port)), "{ours:?} {theirs:?}");
        assert_eq!(of(Ports::of(&worlds[0]).unwrap()), ours, "it is found again");
        worlds.iter().for_each(|world| release(world).unwrap());
        fs::remove_dir_all(&base).unwrap();
    }
}
