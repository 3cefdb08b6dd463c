//! What every shell needs of the process: the clock, timers, memory given back, and calls by HTTP.
//!
//! [`clock`], [`timers`], [`memory`], [`files`], [`signals`], [`live`] and [`http_client`] are shells. [`time`] is time as pure code
//! knows it, [`reclaim`] decides when memory is to be given back, [`longest`] keeps a peak until it has been read, and
//! [`limiter`] says when enough has been said: all pure.

pub mod clock;
pub mod files;
pub mod http_client;
pub mod limiter;
pub mod live;
pub mod longest;
pub mod memory;
pub mod reclaim;
pub mod signals;
pub mod time;
pub mod timers;
