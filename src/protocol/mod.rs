//! Bytes ⇄ meaning: the Centrifuge client protocol v2, pure.
//!
//! In: the payload of a WebSocket message. Out: [`message::Command`]s. And back: [`message::Reply`]s
//! to bytes. [`codec`] frames and encodes in both formats, [`message`] defines every message once for
//! both and [`nulls`] reads those in JSON, [`codes`] holds the numbers that clients know, [`encoding`] what each transport puts around a
//! message, [`websocket`] is RFC 6455 itself, and [`deflate`] compresses what goes over it. [`grpc`] has the messages of
//! gRPC.

pub mod codec;
pub mod codes;
pub mod deflate;
pub mod delta;
pub mod encoding;
pub mod grpc;
pub mod message;
pub mod nulls;
pub mod websocket;
