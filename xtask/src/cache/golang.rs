//! A Go toolchain: the host's if it is new enough, otherwise Debian forky's, unpacked into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::debs::APT;
use super::{log, root};
use crate::process::{ask, leashed, run, which};
use crate::progress::step;

/// The oldest Go that builds Kubernetes 1.36.
const OLDEST: (u32, u32) = (1, 26);

/// Which packages, and where `go` is in them.
const FETCH: &str = r#"go=$(apt-cache depends golang-go | sed -n 's/^ *Depends: \(golang-1[.0-9]*-go\)$/\1/p' | head -n 1)
cd "$place/debs"
apt-get -q download "$go" "${go%-go}-src"
for deb in *.deb; do dpkg-deb -x "$deb" "$place"; done
rm -rf "$place/apt" "$place/debs"
ln -s "$(cd "$place" && echo usr/lib/go-1.*/bin/go)" "$place/go"
"#;

/// The path of a `go` that is new enough.
pub(super) fn ensure() -> Result<PathBuf> {
    if let Some(go) = which("go").filter(|go| new_enough(go)) {
        return Ok(go);
    }
    let recipe = format!("{} {} {APT}{FETCH}", root::SUITE, root::MIRROR);
    let what = "fetching Go from Debian forky into the cache";
    Ok(super::ensure("go", &recipe, what, |place| step(what, || fetch(place)))?.join("go"))
}

fn fetch(place: &Path) -> Result<()> {
    let log = log("go")?;
    let _ = fs::remove_file(&log);
    let mut command = leashed("sh");
    command
        .args(["-c", &format!("{APT}{FETCH}"), "sh"])
        .arg(place)
        .args([root::SUITE, root::MIRROR]);
    run(&mut command, &log)?;
    let go = place.join("go");
    if !new_enough(&go) {
        bail!("Debian's Go at {} does not run here or is too old", go.display());
    }
    Ok(())
}

fn new_enough(go: &Path) -> bool {
    let version = ask(Command::new(go).arg("version"), "").context("go version");
    version.ok().and_then(|said| parse(&said)).is_some_and(|version| version >= OLDEST)
}

/// `go version go1.26.8 linux/amd64` → (1, 26)
fn parse(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().nth(2)?.strip_prefix("go")?.split('.');
    let minor = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    Some((numbers.next()?.parse().ok()?, minor(numbers.next()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(parse("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(parse("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(parse("nonsense"), None);
    }
}
