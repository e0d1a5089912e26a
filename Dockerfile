# One static binary in an empty image. Needs no network beyond the image registry and crates.io.
# `cargo xtask image` runs these steps without an engine.
FROM docker.io/library/rust:1.95-alpine AS build
WORKDIR /src
COPY . .
RUN CARGO_PROFILE_RELEASE_STRIP=symbols cargo build --release --locked --package gangway

FROM scratch
COPY --from=build /src/target/release/gangway /gangway
USER 65532:65532
ENTRYPOINT ["/gangway"]
