//! What a socket has yet to write: bounded, in order, and nearly nothing while it is empty.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::protocol::{
    codec::{self, Format},
    message::Reply,
    websocket::{self, Opcode},
};

/// Frames that wait to be written, and replies that wait to be framed.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Replies since the last frame; they go out in one frame together.
    replies: BytesMut,
    /// The frame being written; most of the time the only one.
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
    /// Bytes in `rest`.
    queued: usize,
}

impl Outbox {
    /// Adds a reply or push of this connection alone.
    pub fn push_reply(&mut self, format: Format, reply: &Reply) {
        codec::encode(format, reply, &mut self.replies);
    }

    /// Adds a frame that is complete, and may be shared with other sockets.
    pub fn push_frame(&mut self, format: Format, frame: Bytes) {
        self.frame_replies(format);
        self.push(frame);
    }

    fn push(&mut self, frame: Bytes) {
        if self.first.is_none() {
            self.first = Some(frame);
        } else {
            self.queued += frame.len();
            self.rest.push_back(frame);
        }
    }

    /// Makes a frame of the replies so far.
    pub fn frame_replies(&mut self, format: Format) {
        if !self.replies.is_empty() {
            let frame = websocket::frame(opcode(format), &self.replies);
            self.replies = BytesMut::new();
            self.push(frame);
        }
    }

    /// Bytes that wait, but for the frame being written.
    pub fn queued(&self) -> usize {
        self.queued + self.replies.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.replies.is_empty()
    }

    /// The buffers to write next, as many as fit. Returns how many there are.
    pub fn slices<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(self.first.iter().chain(&self.rest)) {
            *slice = std::io::IoSlice::new(frame);
            count += 1;
        }
        count
    }

    /// Takes off what was written.
    pub fn advance(&mut self, mut written: usize) {
        while let Some(first) = &mut self.first {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.first = self.rest.pop_front();
            self.queued -= self.first.as_ref().map_or(0, Bytes::len);
        }
        self.rest = VecDeque::new();
    }

    /// Forgets all that waits, but for the rest of a frame that is half written.
    pub fn clear(&mut self) {
        self.replies = BytesMut::new();
        self.rest = VecDeque::new();
        self.queued = 0;
    }
}

/// The kind of frame that carries a format.
pub fn opcode(format: Format) -> Opcode {
    match format {
        Format::Json => Opcode::Text,
        Format::Protobuf => Opcode::Binary,
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut written = Vec::new();
        outbox.frame_replies(Format::Json);
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = outbox.slices(&mut slices);
            let bytes: Vec<u8> =
                slices[..count].iter().flat_map(|it| it.iter().copied()).take(step).collect();
            written.extend(&bytes);
            outbox.advance(bytes.len());
        }
        assert_eq!(outbox.queued(), 0);
        written
    }

    #[test]
    fn frames_leave_in_order_however_the_socket_takes_them() {
        for step in 1..40 {
            let mut outbox = Outbox::default();
            outbox.push_reply(Format::Json, &Reply { id: 1, ..Default::default() });
            outbox.push_reply(Format::Json, &Reply { id: 2, ..Default::default() });
            outbox.push_frame(Format::Json, Bytes::from_static(b"frame"));
            outbox.push_reply(Format::Json, &Reply::default());
            assert_eq!(drain(&mut outbox, step), b"\x81\x11{\"id\":1}\n{\"id\":2}frame\x81\x02{}");
        }
    }
}
