# The operator's image: one program on a base without shell or package manager.
#   docker build -t keyvault-sync .
# Base images are arguments, for mirrors and for builders without a public registry. The runtime needs glibc and libgcc
# (distroless "cc", not "static"); certificate authorities are built into the program.

ARG BUILD_IMAGE=rust:1.95.0-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
# The image's own toolchain: rust-toolchain.toml would have rustup fetch rustfmt and clippy, which a build does not need.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN cargo build --locked --release --package keyvault-sync

FROM ${RUNTIME_IMAGE}
COPY --from=build /src/target/release/keyvault-sync /usr/local/bin/keyvault-sync
# By number, so that runAsNonRoot can be checked without the image's passwd file.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/keyvault-sync"]
