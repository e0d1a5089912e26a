//! The container image without an engine: what the Dockerfile says is checked, its build step is run with the host's
//! toolchain, and the binary is started in an empty root, as it would be in the image.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{ask, leashed};
use crate::world::repo;

/// What the image may weigh, MB.
const MOST: u64 = 30;
/// Alpine's own target, where Rust links statically.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Runs the steps; takes as long as a release build. Needs `rustup target add` of the target, and musl-gcc.
pub(crate) fn run() -> Result<()> {
    let top = repo()?;
    let text = fs::read_to_string(top.join("Dockerfile")).context("Dockerfile")?;
    let manifest = fs::read_to_string(top.join("Cargo.toml"))?;
    let problems = problems(&text, &manifest);
    ensure!(problems.is_empty(), "Dockerfile: {}", problems.join("; "));
    let step = text.lines().find_map(|line| line.strip_prefix("RUN ")).context("no RUN in it")?;
    let mut build = leashed("sh");
    build.args(["-c", step]).current_dir(&top).env("CARGO_BUILD_TARGET", TARGET);
    ensure!(build.status()?.success(), "`{step}` failed");
    let binary = top.join("target").join(TARGET).join("release/gangway");
    let root = top.join("target/image");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    fs::copy(&binary, root.join("gangway"))?;
    starts(&root)?;
    let megabytes = fs::metadata(&binary)?.len() as f64 / 1e6;
    println!("the image holds {megabytes:.1} MB");
    if megabytes > MOST as f64 {
        bail!("the image is heavier than {MOST} MB");
    }
    Ok(())
}

/// Nothing but the binary is there, and it is nobody who starts it.
fn starts(root: &Path) -> Result<()> {
    let mut command = Command::new("chroot");
    command.args(["--userspec", "65532:65532"]).arg(root).args(["/gangway", "--version"]);
    let said = ask(&mut command, "").context("the binary does not start in an empty root")?;
    ensure!(said.starts_with("gangway "), "it says {said:?}");
    Ok(())
}

/// What a Dockerfile of ours must not lack.
pub(crate) fn problems(text: &str, manifest: &str) -> Vec<String> {
    let last = text.rsplit("\nFROM ").next().unwrap_or_default();
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let image = format!("rust:{}-alpine", rust.unwrap_or_default().trim_matches('"'));
    let wanted = [
        (last.starts_with("scratch\n"), "the last stage must be FROM scratch"),
        (last.contains("\nUSER 65532:65532\n"), "the image must run as 65532, as the chart does"),
        (last.contains("\nENTRYPOINT [\"/gangway\"]"), "ENTRYPOINT must be the binary"),
        (text.contains(" --locked "), "it must build with --locked"),
        (text.contains(&image), "it must build with the Rust of Cargo.toml"),
        (!text.contains("apk ") && !text.contains("curl "), "it must fetch nothing but crates"),
    ];
    wanted.into_iter().filter(|(fine, _)| !fine).map(|(_, what)| what.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_is_as_it_must_be() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |name: &str| fs::read_to_string(top.join(name)).unwrap();
        let (text, manifest) = (read("Dockerfile"), read("Cargo.toml"));
        assert_eq!(problems(&text, &manifest), Vec::<String>::new());
        let root = text.replace("USER 65532:65532\n", "").replace(" --locked", "");
        assert_eq!(problems(&root, &manifest).len(), 2);
    }
}
