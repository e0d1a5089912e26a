//! Writes `src/generated/gangway.v1.rs` from `proto/`; run by `cargo xtask codegen`.
//!
//! protox compiles the .proto in Rust, so nobody needs protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = std::env::args().nth(1).map_or_else(|| root.join("src/generated"), Into::into);
    let proto = root.join("../../proto");
    let files = protox::compile(["gangway/v1/extender.proto"], [&proto])?;
    std::fs::create_dir_all(&out)?;
    tonic_prost_build::configure()
        .build_transport(true)
        .btree_map(".")
        .out_dir(&out)
        .compile_fds(files)?;
    Ok(())
}
