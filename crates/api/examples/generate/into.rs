//! The generator itself, used by the example and by the test that compares.

use std::path::Path;

/// Compiles `proto/` with protox, so that nobody needs protoc, and writes the code into `out`.
pub(crate) fn into(out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = protox::compile(["gangway/v1/extender.proto", "gangway/v1/desk.proto"], [&proto])?;
    std::fs::create_dir_all(out)?;
    tonic_prost_build::configure()
        .build_transport(true)
        .btree_map(".")
        .out_dir(out)
        .compile_fds(files)?;
    Ok(())
}
