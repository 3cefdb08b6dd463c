//! Roomcast: real-time messages to WebSocket clients, from a cluster that needs nothing else.
//!
//! # The way of a message
//!
//! ```text
//! client frame                                            client frames
//!    │ protocol: decode                                       ▲ written as they are
//! session::Socket ─── Request ──► room::RoomRegistry      session::Socket
//!  (one per connection,            (one per node: homes      ▲ one message per socket, same thread
//!   on its worker's thread)         and mirrors, pure)    hub::Hub (one per worker: encodes once)
//!                                     │ home elsewhere        ▲ one message per worker and turn
//!                                     ▼                       │
//!                                  mesh::Link ══ TCP ══► mesh::Link ─► room::RoomRegistry
//!                                  (one per peer)             of the other node
//!
//! cluster::Membership (gossip) ─► View ─► Placement: which node should own which slot of rooms
//!                                           └► Slots: which one does, by claims that the others answer
//! ```
//!
//! # Words
//!
//! - **Room**: what the client protocol calls a channel.
//! - **Slot**: rooms are divided into 4,096 slots by a hash of their names. A slot is what is placed ([placement])
//!   and owned ([slots]).
//! - **Claim**: how a node becomes a slot's owner: it tells the others; each of them that answers stops owning it and
//!   says what it holds of its rooms. Each claim has a **term**; a later one is higher, and ends all that are lower.
//! - **Home**: the owner of a room's slot. It gives the room's publications their positions.
//! - **Mirror**: a node with subscribers of a room, which follows the home and keeps a copy of its stream.
//! - **Successor**: a node that mirrors a room even without subscribers, to become its home if the home dies. A home
//!   acknowledges a publication once its live successors have it; with a **quorum**, once a majority has.
//! - **Position**: epoch and offset. An **epoch** is one run of a room's stream; its **lineage** says which
//!   earlier epochs it goes on from, and up to which offset.
//! - **Attach**: a mirror asks the home for what it lacks, and for everything from then on.
//! - **Copy**: all that another node needs to go on with a room. It travels in **pages**, as many at a time as the
//!   link has room for.
//! - **Turn**: all that a node's rooms do before what they have for other threads goes to those, for each thread together
//!   ([room::turn]).
//! - **Log**: where rooms on disk outlive the process: one more copy that an acknowledgement waits for, read when memory
//!   does not reach back far enough ([room::logged], [log]). **Segment**: one of its files.
//! - **Group**: consumers that share a room's messages, each message once. It lives in a room of its own beside that
//!   one ([queue], [room::group]): its members are the consumers, its publications what changes in the group.
//! - **Map**: a room that keeps the latest value of each key ([map], [room::map]): its publications say what changes, and its
//!   stream reaches back as far as the oldest entry.
//! - **Shared poll**: a room whose clients track keys, which one node asks a backend for, once for all of them
//!   ([shared_poll]).
//! - **View**: the nodes that are here, as one node sees it.
//! - **Link**: the TCP connection between two nodes. **Hub**: the fan-out of one worker thread.
//!
//! # Invariants
//!
//! - *One writer per room.* Only a home gives positions. A node that has answered a claim takes nothing of a lower
//!   term, and tells a home that it has been succeeded.
//! - *The newest copy is the one with the highest term, and of that the most.* An owner opens a room only when it
//!   holds the newest of all copies that the nodes it has asked report.
//! - *No copy is dropped before others have it.* What a home or a successor held is kept until the next home
//!   says that it and its successors have it.
//! - *One order per publisher.* Requests go to a home in runs that it takes in order or not at all.
//! - *Every hop is FIFO:* registry → hub → socket, home → link → mirror. So the reply to a subscribe comes
//!   before any newer publication, and what a recovery brings ends where the live stream goes on. Nothing is
//!   buffered to put it in order.
//! - *A message is given until it is settled, and not after.* Consumers get only what was acknowledged to its publisher;
//!   only the lease that a message has now settles it.
//! - *No gap is silent.* A mirror that can't continue its stream says so to every subscriber that watches
//!   its position (unsubscribe 2500, `recovered: false`).
//! - *Interest lives at the home.* No node knows all rooms of the cluster, and no publication goes to a node
//!   that has no one to give it to.
//! - *Everything that waits is bounded*: outboxes and link queues in bytes, commands in flight, history by
//!   count, age and bytes. A peer that is too slow is cut off and holds up no one else.
//!
//! # Layering
//!
//! What decides is pure: no actor, no socket, no clock, no randomness; `handle(input, now) → outputs`. The
//! files that say `SHELL` in their first line are the rest, and thin: they translate, call `handle`, and
//! perform the outputs. `tests/layering.rs` keeps them apart. Pure code knows: [protocol], [queue], [map], [room] (but its
//! actor, its [disk](room::disk) and [room::users]), [cluster] (but membership, gossip, seeds and sight), [mesh::wire], [mesh::noise] and [mesh::life],
//! [session::state] and what it needs, [access] (but [access::jwks] and [access::connection_counter]), [backend] (but its client), [shared_poll] (but its actor), [webhooks] (but
//! its sender), [log] (but its disk and writer), [runtime::time], [runtime::reclaim], [runtime::longest],
//! [runtime::limiter], [config] (but its load).
//!
//! A module uses only those of lower layers, from the lowest up: [metrics], [runtime], [log], [protocol], [cluster],
//! [queue], [map], [room], [backend], [shared_poll], [webhooks], [config], [session], [hub], [mesh], [server], [node]. What a lower one has for a
//! higher one is a message, a trait or a function that the lower one defines.
//!
//! [placement]: cluster::placement
//! [slots]: cluster::slots

pub mod access;
pub mod backend;
pub mod cluster;
pub mod config;
pub mod hub;
pub mod log;
pub mod map;
pub mod mesh;
pub mod metrics;
pub mod node;
pub mod protocol;
pub mod queue;
pub mod room;
pub mod runtime;
pub mod server;
pub mod session;
pub mod shared_poll;
pub mod webhooks;
