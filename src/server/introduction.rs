//! What a proxy says before anything else on a connection, if it speaks the PROXY protocol: whose connection it is.
//! Pure. In: the bytes that have come so far. Out: the client's address, and how many of the bytes were the header.

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};

/// The most bytes that a header may have. The addresses take 52 at most (as text 107), the rest is what a proxy may
/// add: the name of the host, what it knows of TLS. Those that add the most stay below 1 KiB.
pub const LONGEST: usize = 4096;
/// The most of one in version 1, as its specification has it.
const LONGEST_TEXT: usize = 107;

/// How headers begin: of version 1, and of version 2.
const BEGINNINGS: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];

/// What the bytes that have come so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The beginning of a header: all of them belong to it, and more must come.
    Begun,
    /// A header of so many bytes; what comes after them is the client's.
    Whole {
        /// Its length.
        length: usize,
        /// Where the client connects from. None: the proxy does not say, or speaks for itself, to see whether the
        /// node is well.
        client: Option<SocketAddr>,
    },
}

/// Why a connection has no header that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins in another way.
    #[error("it does not begin with a header of the PROXY protocol")]
    Missing,
    /// It begins like one, and is none.
    #[error("its header of the PROXY protocol is malformed")]
    Broken,
    /// It says to be longer than any.
    #[error("its header of the PROXY protocol has more than {LONGEST} bytes")]
    TooLong,
}

/// Reads the header at the beginning of `bytes`.
///
/// # Errors
/// If there is none, and none can become of them.
pub fn read(bytes: &[u8]) -> Result<Header, Malformed> {
    let begins_like = |it: &&&[u8]| bytes.iter().zip(**it).all(|(byte, expected)| byte == expected);
    let Some(beginning) = BEGINNINGS.iter().find(begins_like) else {
        return Err(Malformed::Missing);
    };
    let is_text = *beginning == BEGINNINGS[0];
    let most = if is_text { LONGEST_TEXT } else { LONGEST };
    // No tags: nobody asks what else the proxy knows.
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(&bytes[..bytes.len().min(most)], config) {
        Ok((header, length)) => {
            let client = header.proxied_address().map(|it| it.source);
            Ok(Header::Whole { length, client })
        }
        Err(Error::BufferTooShort) if is_text => may_go_on_as_text(bytes),
        Err(Error::BufferTooShort) => may_go_on(bytes),
        Err(_) => Err(Malformed::Broken),
    }
}

/// A line that is over, or longer than any, will not become a header.
fn may_go_on_as_text(bytes: &[u8]) -> Result<Header, Malformed> {
    match bytes.len() < LONGEST_TEXT && !bytes.contains(&b'\n') {
        true => Ok(Header::Begun),
        false => Err(Malformed::Broken),
    }
}

/// Neither will one that says to be longer than any, or is all there and has less than the addresses take.
fn may_go_on(bytes: &[u8]) -> Result<Header, Malformed> {
    let Some(&[high, low]) = bytes.get(14..16) else { return Ok(Header::Begun) };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    match length {
        _ if length > LONGEST => Err(Malformed::TooLong),
        _ if length <= bytes.len() => Err(Malformed::Broken),
        _ => Ok(Header::Begun),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINARY: &[u8] = BEGINNINGS[1];

    /// A header of version 2: command and version, family and transport, what follows.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short");
        [BINARY, &[command, family], &length.to_be_bytes(), rest].concat()
    }

    fn ipv4() -> Vec<u8> {
        [&[192, 0, 2, 1, 10, 0, 0, 1][..], &4711_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    fn ipv6() -> Vec<u8> {
        let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let ports = [4711_u16, 443].map(u16::to_be_bytes).concat();
        [&address(1)[..], &address(2), &ports].concat()
    }

    fn whole(length: usize, client: Option<&str>) -> Result<Header, Malformed> {
        let client = client.map(|it| it.parse().expect("an address"));
        Ok(Header::Whole { length, client })
    }

    /// Every header there is, and whom it names.
    fn headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let with_tags = [&ipv4()[..], &[0x20, 0, 3, 1, 2, 3], &[4, 0, 0]].concat();
        let (four, six) = (Some("192.0.2.1:4711"), Some("[2001:db8::1]:4711"));
        vec![
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n".to_vec(), four),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n".to_vec(), six),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f...f ffff:f...f 65535 65535\r\n".to_vec(), None),
            (binary(0x21, 0x11, &ipv4()), four),
            (binary(0x21, 0x21, &ipv6()), six),
            (binary(0x21, 0x11, &with_tags), four),
            // Of no family, of a socket of the machine, and of the proxy itself.
            (binary(0x21, 0x00, &[]), None),
            (binary(0x21, 0x31, &[0; 216]), None),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &ipv4()), None),
            // As long as may be.
            (binary(0x21, 0x11, &[&ipv4()[..], &[4, 0xf, 0xe1], &[0; 4065]].concat()), four),
        ]
    }

    #[test]
    fn a_header_is_read_and_what_comes_after_it_is_left() {
        for (header, client) in headers() {
            for rest in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.1.1.1", BINARY] {
                let bytes = [&header[..], rest].concat();
                assert_eq!(read(&bytes), whole(header.len(), client), "{}", header.escape_ascii());
            }
        }
    }

    #[test]
    fn a_header_may_come_byte_by_byte() {
        for (header, _) in headers() {
            for end in 0..header.len() {
                let begun = read(&header[..end]);
                assert_eq!(begun, Ok(Header::Begun), "{}", header[..end].escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_header_is_known_by_its_first_bytes() {
        for bytes in [
            &b"G"[..],
            b"GET / HTTP/1.1\r\n",
            b"POST / HTTP/1.1\r\n",
            b"PROXIED",
            b"proxy TCP4 192.0.2.1 10.0.0.1 4711 443\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n",
            // A greeting of TLS.
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"\0",
        ] {
            assert_eq!(read(bytes), Err(Malformed::Missing), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn lies_are_refused() {
        let short = |family, length: usize| binary(0x21, family, &vec![0; length]);
        for bytes in [
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\n\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\rX".to_vec(),
            b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 10.0.0.1 4711 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.256 10.0.0.1 4711 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 -1 443\r\n".to_vec(),
            b"PROXY TCP4  192.0.2.1 10.0.0.1 4711 443\r\n".to_vec(),
            b"PROXY TCP4 \xff\xfe 10.0.0.1 4711 443\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 4711 443\r\n".to_vec(),
            b"PROXY GET / HTTP/1.1\r\n\r\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200], b"\r\n".to_vec()].concat(),
            [b"PROXY TCP4 ".to_vec(), vec![b'1'; 5000]].concat(),
            // Another version, another command, another family.
            binary(0x11, 0x11, &ipv4()),
            binary(0x22, 0x11, &ipv4()),
            binary(0x21, 0x41, &ipv6()),
            // Less than the addresses take.
            short(0x11, 11),
            short(0x21, 35),
            short(0x31, 215),
            [short(0x11, 11), vec![0; 64]].concat(),
        ] {
            assert_eq!(read(&bytes), Err(Malformed::Broken), "{}", bytes.escape_ascii());
        }
        // Before any of it is waited for.
        let declared = [BINARY, &[0x21, 0x11, 0x0f, 0xf1]].concat();
        assert_eq!(read(&declared), Err(Malformed::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_taken_without_harm(
            which in 0..3_usize,
            cut in 0..20_usize,
            noise in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..300),
        ) {
            let beginning = [BEGINNINGS[0], BINARY, b""][which];
            let bytes = [&beginning[..cut.min(beginning.len())], &noise].concat();
            if let Ok(Header::Whole { length, .. }) = read(&bytes) {
                proptest::prop_assert!(length <= bytes.len());
            }
        }
    }
}
