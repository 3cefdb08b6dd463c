//! Tests of frames: what is decoded from any chunks, and what is refused.

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1000;

/// What a client would send.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 0xf4];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn decode_in_chunks(bytes: &[u8], chunk: usize) -> Result<Vec<WebSocketMessage>, Violation> {
    let (mut decoder, mut buffer, mut messages) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(chunk.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer, LIMIT, false)? {
                Decoded::Message(message) => messages.push(message),
                Decoded::Fragment => {}
                Decoded::Incomplete => break,
            }
        }
    }
    Ok(messages)
}

#[test]
fn fragments_with_a_ping_between_them_make_one_message() {
    let mut bytes = masked(0x01, "gr".as_bytes());
    bytes.extend(masked(0x89, b"?"));
    bytes.extend(masked(0x00, &"ü".as_bytes()[..1]));
    bytes.extend(masked(0x80, &"ü".as_bytes()[1..]));
    let expected = vec![
        WebSocketMessage::Ping(Bytes::from_static(b"?")),
        WebSocketMessage::Text(Bytes::from("grü")),
    ];
    for chunk in 1..bytes.len() {
        assert_eq!(decode_in_chunks(&bytes, chunk), Ok(expected.clone()), "chunk {chunk}");
    }
}

#[test]
fn violations_name_their_close_code() {
    let cases: &[(&str, Vec<u8>, u16)] = &[
        ("reserved bit", masked(0xc1, b"a"), 1002),
        ("unknown opcode", masked(0x83, b"a"), 1002),
        ("unmasked", vec![0x81, 0x01, b'a'], 1002),
        ("control in fragments", masked(0x09, b""), 1002),
        ("long control", masked(0x89, &[0; 126]), 1002),
        ("continuation of nothing", masked(0x80, b"a"), 1002),
        ("message in a message", [masked(0x01, b"a"), masked(0x81, b"b")].concat(), 1002),
        ("close of one byte", masked(0x88, b"a"), 1002),
        ("close code 1005", masked(0x88, &1005u16.to_be_bytes()), 1002),
        ("close reason", masked(0x88, &[0x03, 0xe8, 0xff]), 1007),
        ("text", masked(0x81, b"\xff"), 1007),
        ("text, in its first fragment", masked(0x01, b"\xff"), 1007),
        ("text that ends within a letter", masked(0x81, b"\xc3"), 1007),
        (
            "text in fragments that ends within a letter",
            [masked(0x01, b"a\xc3"), masked(0x80, b"")].concat(),
            1007,
        ),
        (
            "fragments without content",
            [masked(0x01, b"a"), masked(0x00, b"").repeat(101)].concat(),
            1002,
        ),
        ("too big", masked(0x82, &[0; LIMIT + 1]), 1009),
        ("too big in fragments", [masked(0x02, &[0; 900]), masked(0x80, &[0; 101])].concat(), 1009),
        ("a header that lies", vec![0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0], 1009),
        ("the largest length", [vec![0x82, 0xff], vec![0xff; 8]].concat(), 1009),
    ];
    for (name, bytes, code) in cases {
        let violation = decode_in_chunks(bytes, bytes.len()).expect_err(name);
        assert_eq!(violation.close_code(), *code, "{name}");
    }
}

#[test]
fn each_byte_of_a_text_is_checked_once_and_none_of_a_binary() {
    let mut decoder = Decoder::default();
    let mut frames = BytesMut::new();
    for fragment in [masked(0x01, b"ab\xe2"), masked(0x00, b"\x82"), masked(0x00, b"\xacd\xc3")] {
        frames.extend_from_slice(&fragment);
    }
    let mut valid = Vec::new();
    while decoder.decode(&mut frames, LIMIT, false) == Ok(Decoded::Fragment) {
        valid.push(decoder.partial.as_ref().map(|it| it.valid));
    }
    assert_eq!(valid, [Some(2), Some(2), Some(6)]);
    let mut binary = BytesMut::from(&masked(0x02, b"\xff\xff")[..]);
    assert_eq!(Decoder::default().decode(&mut binary, LIMIT, false), Ok(Decoded::Fragment));
}

#[test]
fn text_that_cannot_become_utf_8_is_refused_before_its_frame_has_ended() {
    let bytes = masked(0x81, b"\xce\xba\xf4\x90\x80\x80edited");
    let refused = (1..bytes.len()).find(|end| decode_in_chunks(&bytes[..*end], 1).is_err());
    // The header is of six bytes, and the fourth one of the payload spoils it.
    assert_eq!(refused, Some(10));
    // The same within a fragment.
    let fragments = [masked(0x01, b"\xce\xba"), masked(0x80, b"\xf4\x90\x80\x80edited")].concat();
    let refused = (1..fragments.len()).find(|end| decode_in_chunks(&fragments[..*end], 1).is_err());
    assert_eq!(refused, Some(8 + 6 + 2));
}

#[test]
fn server_frames_have_the_shortest_length() {
    assert_eq!(&frame(Opcode::Text, b"hi")[..], b"\x81\x02hi");
    assert_eq!(frame(Opcode::Binary, &[0; 126])[..4], [0x82, 126, 0, 126]);
    assert_eq!(frame(Opcode::Binary, &[0; 65536])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(&close_frame(3001, "shutdown")[..4], b"\x88\x0a\x0b\xb9");
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
                                   chunk in 1usize..400) {
        let bytes: Vec<u8> = payloads.iter().flat_map(|payload| masked(0x82, payload)).collect();
        let expected: Vec<WebSocketMessage> = payloads.into_iter().map(|payload| WebSocketMessage::Binary(payload.into())).collect();
        prop_assert_eq!(decode_in_chunks(&bytes, chunk), Ok(expected));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), chunk in 1usize..40) {
        let _ = decode_in_chunks(&bytes, chunk);
    }
}
