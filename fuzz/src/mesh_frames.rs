//! Bytes of a peer into the decoder of frames between nodes.
//!
//! Once as they are, and once with a length prefix that is right, so that most
//! inputs get to the content. Nothing may panic, and what is decoded must be the
//! same after it has been sent on.

use bytes::BytesMut;
use roomcast::mesh::wire;

/// Plays one input.
pub fn run(input: &[u8]) {
    let mut stream = BytesMut::from(input);
    while let Ok(Some(message)) = wire::decode(&mut stream) {
        survives(&message);
    }
    let length = u32::try_from(input.len()).unwrap_or(0).to_be_bytes();
    let mut frame = BytesMut::from(&[&length[..], input].concat()[..]);
    if let Ok(Some(message)) = wire::decode(&mut frame) {
        survives(&message);
    }
}

fn survives(message: &wire::Frame) {
    let Ok(frame) = wire::encode(message) else { panic!("it came in a frame, and fits into none") };
    let again = wire::decode(&mut BytesMut::from(&frame[..]));
    assert_eq!(again.ok().flatten().as_ref(), Some(message));
}
