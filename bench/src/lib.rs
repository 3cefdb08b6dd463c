//! The load generator of Roomcast: `roomcast bench`, and what measures a server on this machine.
//!
//! In: arguments. Out: tables on standard output, servers that are gone when it ends.
//!
//! A measurement ([`measure`]) goes from [`target`] (the server) over [`fleet`] (the clients, one thread
//! and one epoll) to [`table`] (what is printed); [`floor`] is what the server is compared to. What a
//! client says is a [`dialect`], and what it says it over a [`wire`].

pub mod callers;
pub mod conn;
pub mod cores;
pub mod dialect;
pub mod durable;
pub mod fleet;
pub mod floor;
pub mod http;
pub mod kept;
pub mod limits;
pub mod load;
pub mod measure;
pub mod peers;
pub mod plot;
pub mod publisher;
pub mod queue;
pub mod reading;
pub mod rounds;
pub mod server;
pub mod settling;
pub mod steady;
pub mod stored;
pub mod table;
pub mod target;
pub mod wire;
pub mod ws;
