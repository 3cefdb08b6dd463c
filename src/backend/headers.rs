//! Which headers of a client go along to backends. In: all that it sent, and the names that are wanted. Out:
//! those of them that are kept.

use std::net::IpAddr;

/// A header: its name in lower case, and its value as it was.
pub type Header = (Box<str>, Box<[u8]>);

/// Headers of one client, of all names that any backend wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// Those of its HTTP request.
    pub sent: Vec<Header>,
    /// Those that its connect command says in their place: pages can't set real ones. Anyone can say anything
    /// there.
    pub said: Vec<Header>,
}

/// The most bytes that are kept of one client.
pub const LIMIT: usize = 16 * 1024;

/// The client sent more than [`LIMIT`] of what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// Headers that HTTP itself gives a meaning between two parties, or that the call has of its own.
const OWN: [&str; 13] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "accept-encoding",
];

/// Headers that say where a client connects from.
const ADDRESS: [&str; 2] = ["x-forwarded-for", "x-real-ip"];

/// Whether a header of this name (in lower case) may go along at all.
pub fn may_go_along(name: &str) -> bool {
    let belongs = |prefix| name.starts_with(prefix);
    !OWN.contains(&name) && !belongs("sec-websocket-") && !belongs("grpc-")
}

/// Of all headers those with a wanted name. Wanted names are in lower case.
///
/// # Errors
/// If they are too large to be kept.
pub fn pick<'a>(
    all: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    wanted: &[String],
) -> Result<Vec<Header>, TooLarge> {
    let (mut size, mut kept) = (0, Vec::new());
    for (name, value) in all {
        let name = name.to_ascii_lowercase();
        if !wanted.contains(&name) {
            continue;
        }
        size += name.len() + value.len();
        if size > LIMIT {
            return Err(TooLarge);
        }
        kept.push((name.into(), value.into()));
    }
    Ok(kept)
}

/// Has those headers that are to name the client's address, as far as they are wanted, name this one and no other.
pub fn state_address(sent: &mut Vec<Header>, wanted: &[String], address: IpAddr) {
    sent.retain(|(name, _)| !ADDRESS.contains(&&**name));
    let named = ADDRESS.into_iter().filter(|it| wanted.iter().any(|wanted| wanted == it));
    sent.extend(named.map(|it| (it.into(), address.to_string().into_bytes().into())));
}

impl Headers {
    /// Those that go along to a backend that wants these names of either kind. A header that was really sent
    /// stands before one that is only said.
    pub fn of<'a>(
        &'a self,
        wanted: &'a [String],
        wanted_said: &'a [String],
    ) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let named = |name: &str, wanted: &[String]| wanted.iter().any(|it| *it == *name);
        let sent = move |name: &str| {
            named(name, wanted) && self.sent.iter().any(|(other, _)| **other == *name)
        };
        let really = self.sent.iter().filter(move |(name, _)| named(name, wanted));
        let said = self.said.iter();
        let said = said.filter(move |(name, _)| named(name, wanted_said) && !sent(name));
        really.chain(said).map(|(name, value)| (&**name, &**value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn only_what_is_wanted_is_kept() {
        let sent: [(&str, &[u8]); 3] = [("Cookie", b"a=1"), ("X-Other", b"2"), ("cookie", b"b=2")];
        let kept = pick(sent, &names(&["cookie"])).expect("small");
        let expected: [Header; 2] =
            [("cookie".into(), (*b"a=1").into()), ("cookie".into(), (*b"b=2").into())];
        assert_eq!(kept, expected);
        assert_eq!(pick([("cookie", &[b'x'; LIMIT][..])], &names(&["cookie"])), Err(TooLarge));
    }

    #[test]
    fn the_address_is_stated_and_what_the_client_says_of_it_is_not() {
        let mut sent = vec![
            ("x-real-ip".into(), (*b"6.6.6.6").into()),
            ("cookie".into(), (*b"a=1").into()),
            ("x-real-ip".into(), (*b"7.7.7.7").into()),
        ];
        let address = "192.0.2.1".parse().expect("an address");
        state_address(&mut sent, &names(&["cookie", "x-real-ip"]), address);
        let expected: [Header; 2] =
            [("cookie".into(), (*b"a=1").into()), ("x-real-ip".into(), (*b"192.0.2.1").into())];
        assert_eq!(sent, expected);
    }

    #[test]
    fn what_is_only_said_goes_along_only_where_that_is_wanted() {
        let it = |name: &str, value: &[u8]| (name.into(), value.into());
        let headers = Headers {
            sent: vec![it("authorization", b"real")],
            said: vec![it("authorization", b"said"), it("x-user", b"said")],
        };
        let of = |wanted: &[&str], said: &[&str]| {
            let (wanted, said) = (names(wanted), names(said));
            let all = headers.of(&wanted, &said);
            all.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of(&["authorization", "x-user"], &[]), ["real"]);
        assert_eq!(of(&["authorization"], &["authorization", "x-user"]), ["real", "said"]);
        assert_eq!(of(&[], &["authorization"]), ["said"]);
    }
}
