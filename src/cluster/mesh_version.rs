//! Which versions of what nodes say to each other a node speaks, and which one a link uses.
//!
//! Nodes one version apart work together, so that a cluster is upgraded node by node. What a version has that the
//! one before had not is a new variant at the end of an enum of [`crate::mesh::wire`] or of
//! [`crate::room::messages`]: what is there already is never changed. A node that sends something new asks first
//! which version the link uses, and has something older to say instead. Recorded frames of each version
//! (`src/mesh/recorded/`) are decoded by a test.

use std::fmt;

/// A version of what is said on links.
pub type MeshVersion = u32;

/// The versions that a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The first of them.
    pub oldest: MeshVersion,
    /// The last of them.
    pub newest: MeshVersion,
}

/// The first version from which on nodes one version apart work together.
pub const FIRST: MeshVersion = 8;

/// Those of this build.
pub const OURS: Versions = Versions { oldest: 10, newest: 11 };

/// Since then nodes give each other publications that their disks can't read any more.
pub const REPAIRS: MeshVersion = 11;

impl Versions {
    /// The newest version that both speak; none if there is none.
    pub fn agree(self, other: Self) -> Option<MeshVersion> {
        let agreed = self.newest.min(other.newest);
        (agreed >= self.oldest.max(other.oldest)).then_some(agreed)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(oldest: MeshVersion, newest: MeshVersion) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn two_nodes_use_the_newest_version_that_both_speak() {
        assert_eq!(versions(8, 9).agree(versions(7, 8)), Some(8));
        assert_eq!(versions(7, 8).agree(versions(8, 9)), Some(8));
        assert_eq!(versions(8, 9).agree(versions(8, 9)), Some(9));
        assert_eq!(versions(9, 10).agree(versions(7, 8)), None);
        assert_eq!(versions(7, 8).agree(versions(9, 10)), None);
    }

    #[test]
    fn versions_are_told_as_people_write_them() {
        assert_eq!(versions(8, 8).to_string(), "8");
        assert_eq!(versions(8, 9).to_string(), "8 to 9");
    }
}
