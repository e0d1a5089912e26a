//! Prometheus and promtool from Debian forky, unpacked beside everything else: for the rules, and for the story in which
//! they are scraped.
//!
//! Their only need is a libc, so they run on the host as they are; nothing is installed there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::debs::APT;
use super::{log, root};
use crate::process::{leashed, run};
use crate::progress::step;

const PACKAGES: &str = "prometheus promtool";

const BUILD: &str = r#"
shift 3
cd "$place/debs"
apt-get -q download "$@"
for deb in *.deb; do dpkg-deb -x "$deb" "$place/unpacked"; done
cd "$place"
mv unpacked/usr/bin/prometheus unpacked/usr/bin/promtool .
rm -rf apt apt.conf debs unpacked
./prometheus --version
./promtool --version
"#;

/// The directory of both programs, fetched if this machine does not have them yet.
pub(crate) fn ensure() -> Result<PathBuf> {
    let recipe = format!("{} {} {PACKAGES} {APT}{BUILD}", root::SUITE, root::MIRROR);
    let what = "fetching Prometheus into the cache";
    super::ensure("prometheus", &recipe, what, |place| step(what, || build(place)))
}

fn build(place: &Path) -> Result<()> {
    let log = log("prometheus")?;
    let _ = fs::remove_file(&log);
    let mut command = leashed("sh");
    command.args(["-c", &format!("{APT}{BUILD}"), "sh"]).arg(place);
    command.args([root::SUITE, root::MIRROR]).args(PACKAGES.split_whitespace());
    run(&mut command, &log)
}
