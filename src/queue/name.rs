//! The room that a group lives in: it has the name of the room whose messages it shares, and its own behind that. So it
//! has the same slot, and the same home.

use crate::cluster::placement::BESIDE;

/// The room of a group.
pub fn of_group(room: &str, group: &str) -> String {
    format!("{room}{BESIDE}{group}")
}

/// The room whose messages are shared, if this is the room of a group, and the group; or else the room itself.
pub fn split(name: &str) -> (&str, Option<&str>) {
    // Names are short, and nearly none has it.
    match name.bytes().position(|it| it == BESIDE as u8) {
        None => (name, None),
        Some(at) => (&name[..at], Some(&name[at + 1..])),
    }
}

/// The room that clients know: that whose messages are shared.
pub fn room(name: &str) -> &str {
    split(name).0
}

/// The group, if this is the room of one.
pub fn group(name: &str) -> Option<&str> {
    split(name).1
}

/// Whether a room is what clients know by this name: the room itself, or that of a group which shares its messages.
pub fn is_of(name: &str, room: &str) -> bool {
    name.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with(BESIDE))
}

/// Whether a name may come from outside.
pub fn is_allowed(name: &str) -> bool {
    !name.bytes().any(|it| it == BESIDE as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_the_name_of_its_room_before_its_own() {
        let name = of_group("jobs:mail", "mailer");
        assert_eq!(split(&name), ("jobs:mail", Some("mailer")));
        assert_eq!((room(&name), group(&name)), ("jobs:mail", Some("mailer")));
        assert_eq!(split("jobs:mail"), ("jobs:mail", None));
        assert!(is_of(&name, "jobs:mail") && is_of("a", "a") && is_of(&name, &name));
        assert!(!is_of(&name, "jobs:mai") && !is_of("jobs:mail", &name));
        assert!(is_allowed("jobs:mail") && !is_allowed(&name));
    }
}
