# syntax=docker/dockerfile:1
# A static binary in an image without a shell, for amd64 and arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/memorystore-auth-proxy:0.1.0 --push .
#   docker run --network=host memorystore-auth-proxy 10.0.0.3:6379
#
# arm64 is cross-compiled on the machine that builds: under emulation the release profile (one codegen
# unit, fat LTO) would take an hour. zig is the C compiler and linker for both architectures: ring, under
# the TLS, needs one that knows musl.
#
# What is validated (`make validate`): hadolint; that this context holds all that cargo asks for. The
# cargo commands below were run by hand for both targets. Not validated, as no engine was at hand: the
# build of the image itself. Tell us when it breaks.
ARG RUST_VERSION=1.95

FROM --platform=$BUILDPLATFORM rust:${RUST_VERSION}-bookworm AS build
ARG ZIG_VERSION=0.17.1
ARG ZIGBUILD_VERSION=0.24.0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/zig \
    && /opt/zig/bin/pip install --no-cache-dir ziglang==${ZIG_VERSION} cargo-zigbuild==${ZIGBUILD_VERSION} \
    && rustup target add x86_64-unknown-linux-musl aarch64-unknown-linux-musl
ENV PATH=/opt/zig/bin:$PATH
WORKDIR /src
COPY . .
ARG TARGETARCH
# The caches hold the dependencies, compiled, from one build to the next. What is in them is in no layer,
# so the binary is copied out; without line numbers, which are two thirds of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=target-${TARGETARCH} \
    case "${TARGETARCH}" in \
      amd64) triple=x86_64-unknown-linux-musl ;; \
      arm64) triple=aarch64-unknown-linux-musl ;; \
      *) echo "no target for ${TARGETARCH}" >&2; exit 1 ;; \
    esac \
    && cargo zigbuild --release --locked --bin memorystore-auth-proxy --target "$triple" \
      --config 'profile.release.strip="debuginfo"' \
    && cp "target/$triple/release/memorystore-auth-proxy" /memorystore-auth-proxy \
    && python3 deploy/sbom.py --target "$triple" --output /sbom.cdx.json

# Holds root certificates, no shell and no gcloud: --gcloud-auth does not work in this image. Probes ask
# over HTTP (/startup, /liveness, /readiness), or run the program's own `wait`.
FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="memorystore-auth-proxy" \
      org.opencontainers.image.description="Lets any Redis client use Memorystore with IAM authentication, unchanged" \
      org.opencontainers.image.source="https://github.com/memorystore-auth-proxy/memorystore-auth-proxy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /memorystore-auth-proxy /memorystore-auth-proxy
# What it is linked from (CycloneDX).
COPY --from=build /sbom.cdx.json /sbom.cdx.json
COPY LICENSE /LICENSE
USER 65532:65532
# Redis, the HTTP endpoints, the admin endpoint: only the first is on without a flag.
EXPOSE 6379 9090 9091
ENTRYPOINT ["/memorystore-auth-proxy"]
