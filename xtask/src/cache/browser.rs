//! Chromium without a window, from Debian forky, in a root of its own: for the stories of the web page.
//!
//! It needs a libc newer than the host's, so it runs in its root, in namespaces that end with it; nothing is installed
//! on the host. What it could only draw by a graphics card is left out.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::debs::APT;
use super::{log, root};
use crate::process::{leashed, run};
use crate::progress::step;

/// With a typeface that looks alike everywhere.
const PACKAGES: &str = "chromium-headless-shell fonts-inter fonts-dejavu-core fonts-dejavu-mono";

const BUILD: &str = r#"
shift 3
apt-get -q -y install --download-only --no-install-recommends "$@"
cd "$place"
mkdir -p root/usr/lib root/usr/lib64 root/etc root/proc root/dev root/tmp
ln -s usr/lib usr/lib64 root/
for deb in apt/cache/archives/*.deb; do
    case "${deb##*/}" in libllvm*|libz3*|mesa-*|libgl1-mesa*|xkb-data*) continue ;; esac
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C root --keep-directory-symlink \
        --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale --exclude='*/libVkLayer*'
done
rm -rf apt debs
# As its package would when it is installed.
[ -e root/etc/fonts/conf.d ] || ln -s ../../usr/share/fontconfig/conf.avail root/etc/fonts/conf.d
"#;

/// Runs it in its root: what is mounted and started ends with it.
const PROGRAM: &str = r#"#!/bin/sh
# Chromium in the root beside this file. Written by `cargo xtask browser`.
root=$(dirname "$(readlink -f "$0")")/root
exec unshare --mount --pid --fork --kill-child --propagation private sh -c '
set -eu
root=$1; shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
exec chroot "$root" /usr/lib/chromium/chromium-headless-shell --no-sandbox --disable-gpu --disable-quic --no-first-run \
    --disable-background-networking --disable-component-update --disable-sync --user-data-dir=/tmp/profile "$@"
' sh "$root" "$@"
"#;

/// The program, fetched if this machine does not have it yet.
pub(crate) fn ensure() -> Result<PathBuf> {
    let recipe = format!("{} {} {PACKAGES} {APT}{BUILD}{PROGRAM}", root::SUITE, root::MIRROR);
    let what = "fetching Chromium into the cache";
    let place = super::ensure("browser", &recipe, what, |place| step(what, || build(place)))?;
    Ok(place.join("chromium"))
}

fn build(place: &Path) -> Result<()> {
    root::need_root()?;
    let log = log("browser")?;
    let _ = fs::remove_file(&log);
    let mut command = leashed("sh");
    command.args(["-c", &format!("{APT}{BUILD}"), "sh"]).arg(place);
    command.args([root::SUITE, root::MIRROR]).args(PACKAGES.split_whitespace());
    run(&mut command, &log)?;
    let program = place.join("chromium");
    fs::write(&program, PROGRAM)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    // It is of no use where it does not start.
    let mut trial = leashed(&program);
    trial.args(["--dump-dom", "data:text/html,<p>well"]);
    run(&mut trial, &log).context("Chromium does not start in its root")
}
