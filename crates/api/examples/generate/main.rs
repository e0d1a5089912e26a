//! Writes `src/generated/gangway.v1.rs` from `proto/`; run by `cargo xtask codegen`.

mod into;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    into::into(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated"))
}
