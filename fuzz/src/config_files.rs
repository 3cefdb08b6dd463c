//! Text of a configuration file into the loader, which must say what is wrong with it and not panic.
//!
//! The first byte is the format.

use std::{fs, path::PathBuf, sync::OnceLock};

use roomcast::config::load;

/// Plays one input.
pub fn run(input: &[u8]) {
    let Some((&format, text)) = input.split_first() else { return };
    let path = &paths()[usize::from(format) % 3];
    if fs::write(path, text).is_ok() {
        let _ = load::load(Some(path), [], Vec::new());
    }
}

/// A file of each format, in memory where there is a file system for that.
fn paths() -> &'static [PathBuf; 3] {
    static PATHS: OnceLock<[PathBuf; 3]> = OnceLock::new();
    PATHS.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let dir = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let name = format!("roomcast-fuzz-{}", std::process::id());
        ["toml", "json", "yaml"].map(|it| dir.join(format!("{name}.{it}")))
    })
}
