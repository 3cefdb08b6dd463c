//! What every shell needs of the process: the clock, timers, and memory given back.
//!
//! [`clock`], [`timers`] and [`memory`] are shells. [`time`] is time as pure code knows it, [`reclaim`] decides when memory
//! is to be given back, and [`longest`] keeps a peak until it has been read: all pure.

pub mod clock;
pub mod longest;
pub mod memory;
pub mod reclaim;
pub mod time;
pub mod timers;
