//! The application's backends: asked what a client may do, over HTTP or by gRPC.
//!
//! In: a [`request::BackendRequest`] of a session. Out: the [`response::BackendResponse`] that the session goes on with, or that
//! there is none. What is asked and what an answer means is pure; [`client`] alone knows HTTP; in
//! gRPC both are [`messages`]. Names of
//! options, requests and answers are those of Centrifugo's proxies, so that a backend written for one works
//! with the other. Some subscribers have a [`stream`] of their own. About keys that clients track no session asks but the
//! node: [`poll`].

pub mod breaker;
pub mod client;
pub mod headers;
pub mod messages;
pub mod options;
pub mod poll;
pub mod request;
pub mod response;
pub mod stream;
