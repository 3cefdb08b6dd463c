//! The messages and services of gRPC, generated from the files in `proto/` (see `tests/generated.rs`).

/// The server API.
#[rustfmt::skip]
#[expect(missing_docs, reason = "generated; what there is to say is in proto/api.proto")]
#[allow(clippy::all, unused_qualifications, reason = "generated")]
pub mod api;
pub mod framing;
/// What backends are asked.
#[rustfmt::skip]
#[expect(missing_docs, reason = "generated; what there is to say is in proto/proxy.proto")]
#[allow(clippy::all, unused_qualifications, reason = "generated")]
pub mod proxy;
pub mod status;
