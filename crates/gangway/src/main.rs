//! The one binary: prints the error chain if a subcommand fails.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    gangway::run()
}
