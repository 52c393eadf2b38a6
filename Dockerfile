# The operator's image: one static program and nothing else, no shell, no package manager, no file to write to.
#   docker build -t keyvault-sync .
#
# Base images are arguments, for mirrors and for builders without a public registry. The program is linked statically with
# glibc, so that it runs on an empty image (docs/adr/0008-image.md). The public certificate authorities are built into it;
# others come from a mounted bundle (KEYVAULT_SYNC_CA_BUNDLE). For another architecture build on it, or with
# `docker buildx build --platform linux/arm64`.

ARG BUILD_IMAGE=docker.io/library/rust:1.95.0-bookworm
ARG RUNTIME_IMAGE=scratch
# Where the runtime stage takes the program from: the stage below, or an image that holds one made elsewhere.
ARG PROGRAM=build

FROM ${BUILD_IMAGE} AS tools
# The image's own toolchain: rust-toolchain.toml would have rustup fetch rustfmt and clippy, which a build does not need.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN cargo install --locked cargo-chef@0.1.78 cargo-auditable@0.7.5
WORKDIR /src

FROM tools AS dependencies
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM tools AS build
# With --target these count for the program alone, not for macros and build scripts, which cannot be static.
ENV RUSTFLAGS="-C target-feature=+crt-static"
# A layer of its own, made again only when a dependency changes.
COPY --from=dependencies /src/recipe.json recipe.json
# cargo-chef needs the target's name, where cargo itself takes "host-tuple".
RUN cargo chef cook --locked --release --target "$(rustc -vV | sed -n 's/^host: //p')" \
    --package keyvault-sync --recipe-path recipe.json
COPY . .
ARG REVISION=
# cargo-auditable writes the dependencies' names and versions into the program, where scanners of images find them.
RUN KEYVAULT_SYNC_COMMIT="${REVISION}" \
    cargo auditable build --locked --release --target host-tuple --package keyvault-sync \
    && install target/*/release/keyvault-sync /keyvault-sync

FROM ${PROGRAM} AS program

FROM ${RUNTIME_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="keyvault-sync" \
      org.opencontainers.image.description="Puts the certificates of Kubernetes TLS Secrets into Azure Key Vault and keeps them up to date there" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=program /keyvault-sync /usr/local/bin/keyvault-sync
# By number, so that runAsNonRoot can be checked without a passwd file.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/keyvault-sync"]
