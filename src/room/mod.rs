//! Rooms: homes and mirrors, history and presence.
//!
//! In: requests of this node's sockets and API calls, messages of peers, changes of the view. Out: answers,
//! deliveries to the hubs, messages to peers. All of it is pure except [`actor`], the shell around
//! [`registry::State`], with [`turn`], [`replies`] and [`disk`], which take to other threads what it has for them, and
//! [`users`].
//!
//! - [`registry`]: all of the node's rooms ([`rooms`]) and what comes in for them. [`routing`]: who is there, and
//!   who owns which slot. [`pace`]: how fast slots are taken over, [`moves`]: rooms. [`agenda`]: when rooms are due. [`work`]: what has
//!   to be done for many rooms, in slices. [`recovery`]: what a node that has started again may have forgotten.
//! - [`room`]: one room on one node, in whichever role it has there: [`opening`], [`home`] or [`mirror`].
//!   [`subscribers`] is how this node's come in and go, [`lifetime`] how long the node keeps it, [`following`] what
//!   a mirror takes from its home, [`publishing`] how a home gives a publication its place, [`queries`] what it reads
//!   out, [`replication`] who has a copy of what it has, [`listeners`] who is sent what happens, [`attendance`] who
//!   comes and goes, [`single_connection`] keeps the newest connection of users that may have only one.
//! - [`stream`]: a room's order, the same in a home and in a mirror: [`mod@line`] is where it stands and which copy
//!   is the newest, [`history`] the ring of the newest publications, [`idempotency`] the recent idempotency keys.
//! - [`messages`]: what rooms of different nodes say to each other. [`transfer`]: copies, in pages.
//! - [`local`]: a node's own subscribers; [`requests`]: what it has yet to get from the home; [`presence`]: who is
//!   in the room.
//! - [`filter`]: which publications a subscriber wants, by their tags; [`delivery`]: in which form each
//!   gets them.
//! - [`companions`]: who was there, for when a node with rooms on disk comes back.
//! - `dormant`: rooms on disk that nobody uses, out of memory.
//! - [`logged`]: what goes to this node's disk ([`disk`]), in the form of [`persisted`], by `writes` in order and again after a
//!   failure; [`reading`] and `warming`: what comes back from there; `repair`: what can't be read there, from other nodes.
//! - [`group`]: a group of consumers in a room of its own, and `group_messages` what it shares; [`consuming`]: what its room does
//!   for it; [`groups`]: those of a node. [`map`]: a room that is a map.
//! - [`node`]: what every room needs from its node, and what comes out of them; [`memory`]: how much all of them keep,
//!   and what is the oldest of it, in a [`long_queue`].
//! - [`survey`]: questions to every node at once; [`control`]: what the application has them do to a user's
//!   connections, which [`users`] finds. [`pattern`]: names with `*` in them.

pub mod actor;
pub mod agenda;
#[cfg(test)]
mod alone;
pub mod attendance;
pub mod companions;
pub mod consuming;
pub mod control;
pub mod delivery;
pub mod disk;
mod dormant;
pub mod filter;
pub mod following;
pub mod group;
mod group_messages;
pub mod groups;
pub mod history;
pub mod home;
pub mod idempotency;
pub mod lifetime;
pub mod line;
pub mod listeners;
pub mod local;
pub mod logged;
pub mod long_queue;
pub mod map;
pub mod memory;
pub mod messages;
pub mod mirror;
pub mod moves;
pub mod node;
pub mod opening;
pub mod options;
pub mod pace;
pub mod pattern;
pub mod persisted;
pub mod presence;
pub mod publishing;
pub mod queries;
pub mod reading;
pub mod recovery;
pub mod registry;
mod repair;
pub mod replication;
pub mod replies;
pub mod requests;
#[expect(clippy::module_inception, reason = "a room is the unit that this folder is about")]
pub mod room;
pub mod rooms;
pub mod routing;
pub mod single_connection;
pub mod stream;
pub mod subscribers;
pub mod survey;
pub mod transfer;
pub mod turn;
pub mod types;
pub mod users;
mod warming;
pub mod work;
mod writes;
