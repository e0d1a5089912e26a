//! `cargo xtask codegen`: writes the generated code again. A test compares it with what is committed.

use std::process::Command;

use anyhow::{Result, bail};

use crate::progress::step;
use crate::world::repo;

/// Runs the generators.
pub(crate) fn run() -> Result<()> {
    step("writing crates/api/src/generated from proto/", || {
        let cargo = crate::process::cargo();
        let words = ["run", "--locked", "--quiet", "-p", "gangway-api", "--example", "generate"];
        let status = Command::new(cargo).args(words).current_dir(repo()?).status()?;
        if !status.success() {
            bail!("the generator failed");
        }
        Ok(())
    })
}
