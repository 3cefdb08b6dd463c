//! What every shell needs of the process: the clock, timers, memory given back, and calls by HTTP.
//!
//! [`clock`], [`timers`], [`memory`] and [`http_client`] are shells. [`time`] is time as pure code knows it, [`reclaim`] decides when memory
//! is to be given back, and [`longest`] keeps a peak until it has been read: all pure.

pub mod clock;
pub mod http_client;
pub mod longest;
pub mod memory;
pub mod reclaim;
pub mod time;
pub mod timers;
