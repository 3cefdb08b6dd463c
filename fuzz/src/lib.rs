//! Fuzz targets: bytes from anywhere into the parts that decide.
//!
//! What comes in: any bytes. What goes out: nothing, or a panic that says which promise was broken. A target
//! is a plain function, so that two can call it:
//!
//! ```text
//! tests/mutations.rs   every test run: the seeds, and thousands of inputs that are near to them
//! libfuzzer/           by hand (fuzz/run): libFuzzer, which looks for inputs that take new ways
//! seeds/TARGET/        where both begin
//! ```

pub mod config_files;
pub mod gossip_datagrams;
pub mod log_files;
pub mod mesh_frames;
pub mod registry_messages;
pub mod session_commands;
pub mod websocket_frames;

/// Plays one input.
pub type Run = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Run); 7] = [
    ("config_files", config_files::run),
    ("gossip_datagrams", gossip_datagrams::run),
    ("log_files", log_files::run),
    ("mesh_frames", mesh_frames::run),
    ("registry_messages", registry_messages::run),
    ("session_commands", session_commands::run),
    ("websocket_frames", websocket_frames::run),
];
