# The program in a small image, as an ordinary user, for amd64 and arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg COMMIT=$(git rev-parse --short=9 HEAD) \
#     --sbom=true --provenance=true -t sooner .
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake g++ pkg-config libssl-dev libcurl4-openssl-dev
WORKDIR /build
COPY . .
ARG COMMIT=unknown
ENV SOONER_COMMIT=$COMMIT
RUN cargo build --release --locked --bin sooner && strip target/release/sooner

FROM debian:bookworm-slim
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="sooner" \
      org.opencontainers.image.description="Postgres changes into Delta Lake tables, exactly once" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision=$COMMIT
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 libcurl4 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/sooner sooner
COPY --from=build /build/target/release/sooner /usr/local/bin/sooner
USER 10001
VOLUME /var/lib/sooner
ENV SOONER_CONFIG=/etc/sooner/sooner.toml
# What runs and moves is well, though tables may wait for a person.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["sooner", "health"]
# What is on its way is committed, and the slot confirmed: give it a minute (docker stop --time 60).
STOPSIGNAL SIGTERM
ENTRYPOINT ["sooner"]
CMD ["run"]
