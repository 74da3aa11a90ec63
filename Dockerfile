# A static binary in an image without a shell. CI does not build it yet: tell us when it breaks.
#   docker build -t memorystore-auth-proxy .
#   docker run --network=host memorystore-auth-proxy 10.0.0.3:6379
FROM rust:1-alpine AS build
# ring, under the TLS that token endpoints are asked by, wants a C compiler.
RUN apk add --no-cache build-base
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
# The manifest names the demo as an example; cargo wants the file, and does not build it here.
COPY tests/demo tests/demo
RUN cargo build --release --locked --bin memorystore-auth-proxy

# Holds root certificates, no shell and no gcloud: --gcloud-auth does not work in this image.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /src/target/release/memorystore-auth-proxy /memorystore-auth-proxy
COPY LICENSE /LICENSE
USER 65532:65532
ENTRYPOINT ["/memorystore-auth-proxy"]
