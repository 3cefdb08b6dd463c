//! The vocabulary of Roomcast's cluster tests.
//!
//! What comes in: a scenario, written as [`step::Step`]s in `tests/`. What goes
//! out: real server processes on ports chosen by the system, real clients of
//! the official SDKs talking to them, and a story that reads well when a step
//! fails.
//!
//! ```text
//! tests/*.rs ──Step──► world::World ─► cluster::Cluster ──► node::Node   roomcast processes
//!                          │                    │             └─ http    /api, /metrics
//!                          │                    ├──► older::server       the mesh version before
//!                          │                    └─► hosts::Hosts        namespaces, cuts
//!                          ├──► sdk::Driver ──JSON lines──► clients/js, clients/python
//!                          ├──► browser::Browser ─────────► clients/js/browser.mjs
//!                          ├──► backend::Backend          the application's HTTP server
//!                          ├──► ws::Socket                  bytes no SDK would send
//!                          ├──► control::Control            who must not notice the fault
//!                          ├──► rooms, writer::Writer       very many rooms, and what was acked
//!                          ├──► stream::Stream              streamed responses, as curl shows them
//!                          ├──► authority::Authority        certificates, for TLS
//!                          ├──► curl::Curl                  HTTP/2 and TLS
//!                          ├──► programs::Running           proxies
//!                          ├──► relay::Relay                a load balancer, and cuts
//!                          └──► check                       what must hold, judged offline
//! ```
//!
//! [`sim`] is the other half: whole histories of a cluster in memory, thousands of
//! them, on the pure core alone.
//!
//! Rules that every scenario keeps: wait for conditions with a deadline, never
//! for time to pass; ports come from the system; whatever was started is ended
//! when its owner is dropped, or when the test process dies.

pub mod authority;
pub mod backend;
pub mod browser;
pub mod check;
pub mod cluster;
pub mod control;
pub mod curl;
pub mod driver;
pub mod hosts;
pub mod http;
pub mod node;
pub mod older;
pub mod paths;
pub mod process;
pub mod programs;
pub mod relay;
pub mod rooms;
pub mod rough;
pub mod sdk;
pub mod sim;
pub mod step;
pub mod stream;
pub mod wait;
pub mod world;
pub mod writer;
pub mod ws;
