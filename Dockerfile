# The program in a small image, as an ordinary user.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake g++ pkg-config libssl-dev libcurl4-openssl-dev
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin sooner && strip target/release/sooner

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 libcurl4 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/sooner sooner
COPY --from=build /build/target/release/sooner /usr/local/bin/sooner
USER 10001
VOLUME /var/lib/sooner
ENV SOONER_CONFIG=/etc/sooner/sooner.toml
ENTRYPOINT ["sooner"]
CMD ["run"]
