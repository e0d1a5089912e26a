//! The committed code is what `proto/` generates: nobody edits one without the other.

use std::path::Path;

#[test]
fn the_generated_code_is_up_to_date() -> Result<(), Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = std::env::temp_dir().join(format!("gangway-generated-{}", std::process::id()));
    generate::into(&out)?;
    let fresh = std::fs::read_to_string(out.join("gangway.v1.rs"))?;
    std::fs::remove_dir_all(&out)?;
    let committed = std::fs::read_to_string(here.join("src/generated/gangway.v1.rs"))?;
    assert!(
        fresh == committed,
        "proto/ has changed: run `cargo xtask codegen` and commit the result"
    );
    Ok(())
}

#[path = "../examples/generate/into.rs"]
mod generate;
