# A small image with nothing but the server: docker build -t roomcast .
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /roomcast
COPY . .
RUN cargo build --release --locked -p roomcast && strip target/release/roomcast

FROM debian:bookworm-slim
COPY --from=build /roomcast/target/release/roomcast /usr/local/bin/roomcast
RUN useradd --system --no-create-home roomcast
USER roomcast
# Clients and API; gossip between nodes; links between nodes.
EXPOSE 8000/tcp 7946/udp 7947/tcp
ENTRYPOINT ["roomcast"]
CMD ["serve"]
