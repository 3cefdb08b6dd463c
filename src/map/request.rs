//! What is asked of a map, beside the values themselves.

use serde::{Deserialize, Serialize};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 255;

/// When a put is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum KeyMode {
    /// In any case.
    #[default]
    Replace,
    /// If the key has no value.
    IfNew,
    /// If it has one.
    IfExists,
}

/// Why a put or a removal changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suppressed {
    /// The map has this version of the key's value, or a later one.
    Version,
    /// The key has a value.
    KeyExists,
    /// It has none.
    KeyNotFound,
}

impl Suppressed {
    /// As the server API says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::KeyExists => "key_exists",
            Self::KeyNotFound => "key_not_found",
        }
    }
}

/// Which entries are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Only that of this key.
    pub key: Option<Box<str>>,
    /// What came with the page before; empty: the first page.
    pub cursor: Box<str>,
    /// The most entries.
    pub limit: u32,
    /// The most bytes of them; one comes in any case.
    pub bytes: u32,
    /// Of an ordered map: the lowest score first.
    pub ascending: bool,
}

/// Whether a key may be one.
pub fn is_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= MAX_KEY && !key.contains('\0')
}
