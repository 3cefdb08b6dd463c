//! What is measured. Each takes its own options and a [`target`](crate::target), and gives a
//! [`Report`](crate::table::Report).

pub mod all;
pub mod compare;
pub mod connect;
pub mod durable;
pub mod fanout;
pub mod grow;
pub mod hot;
pub mod kill;
pub mod latency;
pub mod memory;
pub mod mesh;
pub mod moves;
pub mod presence;
pub mod queue;
pub mod rooms;
pub mod stored;
pub mod storm;
