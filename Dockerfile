# One static binary in an empty image. Needs no network beyond the image registry and crates.io.
# `cargo xtask image` runs these steps without an engine.
FROM docker.io/library/rust:1.95-alpine AS build
WORKDIR /src
COPY . .
# Linked as one: a sixth smaller, for three times the time to build.
RUN CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 cargo build --release --locked --package gangway

FROM scratch
COPY --from=build /src/target/release/gangway /gangway
USER 65532:65532
ENTRYPOINT ["/gangway"]
