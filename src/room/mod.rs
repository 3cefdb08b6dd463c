//! Rooms: who is home, who mirrors, what was said, who is there.
//!
//! In: requests of this node's sockets and API calls, messages of peers, changes of the view. Out: answers,
//! deliveries to the hubs, messages to peers. All of it is pure but for [`actor`], the shell around
//! [`registry::State`].
//!
//! - [`history`]: the ring of a room's newest publications.
//! - [`mod@line`]: where a stream stands and what it goes on from.
//! - [`stream`]: a room's order: line, history, repeats. The same type in a home and in a mirror.
//!   [`keys`]: the idempotency keys of late.
//! - [`filter`]: which publications a subscriber wants, by their tags; [`wishes`]: what some members of a
//!   room want otherwise than the rest.
//! - [`presence`]: who is in the room, as its home knows it; [`attendance`]: who comes and goes; [`announcing`]:
//!   who is told of it; [`alone`]: users that are to have one connection.
//! - [`local`]: a node's own subscribers; [`requests`]: what it has yet to get from the home.
//! - [`room`]: one room on one node, in whichever role it has there.
//!   [`home`], [`mirror`] and [`activation`] are the roles; [`publishing`] is how a home gives a publication
//!   its place, [`queries`] what it reads out, [`replication`] who has a copy of what it has.
//! - [`node`]: what every room needs of its node, and what comes out of them.
//! - [`pattern`]: names with `*` in them.
//! - [`survey`]: questions to every node at once.
//! - [`registry`]: all of the node's rooms, and what they need of the cluster.

pub mod activation;
pub mod actor;
pub mod alone;
pub mod announcing;
pub mod attendance;
pub mod filter;
pub mod history;
pub mod home;
pub mod keys;
pub mod line;
pub mod local;
pub mod mirror;
pub mod node;
pub mod options;
pub mod pattern;
pub mod presence;
pub mod publishing;
pub mod queries;
pub mod registry;
pub mod replication;
pub mod requests;
#[expect(clippy::module_inception, reason = "a room is the unit that this folder is about")]
pub mod room;
pub mod stream;
pub mod survey;
pub mod types;
pub mod wishes;
