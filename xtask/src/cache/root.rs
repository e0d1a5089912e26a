//! The Debian root that everything of Slurm runs in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::log;
use crate::debian::installed;
use crate::process::{leashed, run};
use crate::progress::step;

pub(super) const SUITE: &str = "forky";
pub(super) const MIRROR: &str = "http://deb.debian.org/debian";

const WHAT: &str = "fetching Debian forky with Slurm into the cache";

const PACKAGES: &str = "slurmctld slurmd slurmrestd slurmdbd slurm-client slurm-wlm-jwt-plugin munge \
    mariadb-server openssl iproute2 procps python3 python3-grpcio python3-grpc-tools";

/// Runs in a mount and pid namespace of its own: what it mounts and starts ends with it, however it ends.
const BUILD: &str = r#"
set -eu
root=$1 suite=$2 mirror=$3; shift 3
mount -t proc proc /proc
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
# sid's recipe fits every newer suite; the host's debootstrap may not know this suite's name.
debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "$mirror" /usr/share/debootstrap/scripts/sid
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cat > "$root/etc/dpkg/dpkg.cfg.d/small" <<EOF
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
force-unsafe-io
EOF
# A mirror may lag behind the release file's last day; its signature is checked all the same, as debootstrap does.
echo 'Acquire::Check-Valid-Until "false";' > "$root/etc/apt/apt.conf.d/lagging-mirror"
chroot "$root" apt-get -q update
chroot "$root" apt-get -q -y install --no-install-recommends "$@"
chroot "$root" apt-get -q clean
rm -rf "$root"/var/lib/apt/lists "$root"/var/lib/mysql "$root"/usr/share/doc "$root"/usr/share/man
# Places that a world binds its own directories on: the root itself stays read-only.
for place in mnt/repo mnt/world mnt/old etc/slurm etc/munge var/lib/mysql var/lib/munge var/spool var/log home; do
    mkdir -p "$root/$place"
done
"#;

/// The root, debootstrapped if this machine does not have it yet.
pub(crate) fn ensure() -> Result<PathBuf> {
    let recipe = format!("{SUITE} {MIRROR} {PACKAGES} {BUILD}");
    super::ensure("root", &recipe, WHAT, |place| step(WHAT, || build(place)))
}

fn build(place: &Path) -> Result<()> {
    need_root()?;
    let log = log("root")?;
    let _ = fs::remove_file(&log);
    installed("debootstrap")?;
    let mut command = leashed("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
        .args(["sh", "-c", BUILD, "sh"])
        .arg(place)
        .args([SUITE, MIRROR])
        .args(PACKAGES.split_whitespace());
    run(&mut command, &log)
}

/// Namespaces, mounts and daemons of other users need root.
pub(crate) fn need_root() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    if uid.and_then(|ids| ids.split_whitespace().nth(1)) != Some("0") {
        bail!("a world needs root: it uses namespaces, mounts and daemons of several users");
    }
    Ok(())
}
