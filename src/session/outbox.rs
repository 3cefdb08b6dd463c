//! What a socket has yet to write: bounded, in order, and nearly nothing while it is empty.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use crate::protocol::{
    encoding::Encoding,
    message::Reply,
    websocket::{self, Opcode},
};

/// What a frame that waits costs beside its bytes, about: many small ones must count as well.
const FRAME_COST: usize = 64;

/// Frames that wait to be written, and replies that wait to be framed.
#[derive(Debug)]
pub struct Outbox {
    encoding: Encoding,
    /// Replies since the last frame; they go out in one frame together.
    replies: BytesMut,
    /// The frame being written; most of the time the only one.
    first: Option<Bytes>,
    /// Goes next, before `rest`.
    pong: Option<Bytes>,
    rest: VecDeque<Bytes>,
    /// What is not to be written before something that is yet to come. Boxed: hardly any socket has it.
    #[expect(clippy::box_collection, reason = "a word in each of very many sockets")]
    held: Option<Box<Vec<Bytes>>>,
    /// The cost of all frames.
    queued: usize,
}

impl Outbox {
    /// An empty one, of a connection with this encoding.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            replies: BytesMut::new(),
            first: None,
            pong: None,
            rest: VecDeque::new(),
            held: None,
            queued: 0,
        }
    }

    /// How its messages are written.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Adds a reply or push of this connection alone.
    pub fn push_reply(&mut self, reply: &Reply) {
        self.encoding.append(reply, &mut self.replies);
    }

    /// Adds a frame that is complete, and may be shared with other sockets.
    pub fn push_frame(&mut self, frame: Bytes) {
        self.frame_replies();
        self.push(frame);
    }

    /// Adds a frame that is not to be written before [`Outbox::release`].
    pub fn hold(&mut self, frame: Bytes) {
        self.queued += frame.len() + FRAME_COST;
        self.held.get_or_insert_default().push(frame);
    }

    /// What was held goes to the end of what is to be written.
    pub fn release(&mut self) {
        for frame in self.held.take().into_iter().flat_map(|it| *it) {
            self.queued -= frame.len() + FRAME_COST;
            self.push_frame(frame);
        }
    }

    fn push(&mut self, frame: Bytes) {
        self.queued += frame.len() + FRAME_COST;
        if self.first.is_none() {
            self.first = Some(frame);
        } else {
            self.rest.push_back(frame);
        }
    }

    /// Adds a pong. It replaces one of which nothing is written: RFC 6455 wants the last ping answered, and
    /// pings must not fill the memory.
    pub fn push_pong(&mut self, payload: &[u8]) {
        let frame = websocket::frame(Opcode::Pong, payload);
        self.frame_replies();
        if self.first.is_none() {
            return self.push(frame);
        }
        self.queued += frame.len() + FRAME_COST;
        if let Some(unsent) = self.pong.replace(frame) {
            self.queued -= unsent.len() + FRAME_COST;
        }
    }

    /// Whether a pong would replace another.
    pub fn has_pong(&self) -> bool {
        self.pong.is_some()
    }

    /// Makes a frame of the replies so far.
    pub fn frame_replies(&mut self) {
        if !self.replies.is_empty() {
            let frame = self.encoding.finish(std::mem::take(&mut self.replies));
            self.push(frame);
        }
    }

    /// What waits, in bytes, with what it costs to keep them.
    pub fn queued(&self) -> usize {
        self.queued + self.replies.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.replies.is_empty()
    }

    /// The frame that waits, if it is the only one.
    pub fn only(&self) -> Option<&Bytes> {
        self.first.as_ref().filter(|_| self.pong.is_none() && self.rest.is_empty())
    }

    /// The buffers to write next, as many as fit. Returns how many there are.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        let frames = self.first.iter().chain(&self.pong).chain(&self.rest);
        for (slice, frame) in slices.iter_mut().zip(frames) {
            *slice = IoSlice::new(frame);
            count += 1;
        }
        count
    }

    /// Takes off what was written. Returns how many frames that completes.
    pub fn advance(&mut self, mut written: usize) -> u64 {
        let mut complete = 0;
        while let Some(first) = &mut self.first {
            if written < first.len() {
                first.advance(written);
                self.queued -= written;
                return complete;
            }
            written -= first.len();
            self.queued -= first.len() + FRAME_COST;
            complete += 1;
            self.first = self.pong.take().or_else(|| self.rest.pop_front());
        }
        self.rest = VecDeque::new();
        complete
    }

    /// Takes off what goes next, whole frames and up to about `most` bytes; none if nothing waits.
    pub fn take(&mut self, most: usize) -> Option<Bytes> {
        self.frame_replies();
        let first = self.first.clone()?;
        self.advance(first.len());
        let fits = |frame: &Bytes| first.len() + frame.len() <= most;
        if !self.first.as_ref().is_some_and(fits) {
            return Some(first);
        }
        let mut together = BytesMut::from(&first[..]);
        while let Some(next) = self.first.take_if(|it| together.len() + it.len() <= most) {
            together.extend_from_slice(&next);
            self.queued -= next.len() + FRAME_COST;
            self.first = self.rest.pop_front();
        }
        Some(together.freeze())
    }

    /// Forgets all that waits: there is no one left to take it.
    pub fn forget(&mut self) {
        *self = Self::new(self.encoding);
    }

    /// Forgets all that waits, but for the rest of a frame that may be half written.
    pub fn clear(&mut self) {
        self.replies = BytesMut::new();
        self.pong = None;
        self.rest = VecDeque::new();
        self.queued = self.first.as_ref().map_or(0, |first| first.len() + FRAME_COST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(outbox: &mut Outbox, most: usize) -> Vec<u8> {
        outbox.frame_replies();
        let mut slices = [IoSlice::new(&[]); 4];
        let count = outbox.slices(&mut slices);
        let bytes: Vec<u8> =
            slices[..count].iter().flat_map(|it| it.iter().copied()).take(most).collect();
        outbox.advance(bytes.len());
        bytes
    }

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while !outbox.is_empty() {
            written.extend(take(outbox, step));
        }
        assert_eq!(outbox.queued(), 0);
        written
    }

    #[test]
    fn frames_leave_in_order_however_the_socket_takes_them() {
        for step in 1..40 {
            let mut outbox = Outbox::new(Encoding::SocketJson);
            outbox.push_reply(&Reply { id: 1, ..Default::default() });
            outbox.push_reply(&Reply { id: 2, ..Default::default() });
            outbox.push_frame(Bytes::from_static(b"frame"));
            outbox.push_reply(&Reply::default());
            assert_eq!(drain(&mut outbox, step), b"\x81\x11{\"id\":1}\n{\"id\":2}frame\x81\x02{}");
        }
    }

    #[test]
    fn every_frame_counts_also_the_one_being_written() {
        let mut outbox = Outbox::new(Encoding::SocketJson);
        let frame = Bytes::from_static(b"frame");
        outbox.push_frame(frame.clone());
        assert_eq!(outbox.queued(), 5 + FRAME_COST);
        outbox.push_frame(frame);
        take(&mut outbox, 2);
        assert_eq!(outbox.queued(), 3 + 5 + 2 * FRAME_COST);
        outbox.clear();
        assert_eq!(outbox.queued(), 3 + FRAME_COST);
        assert_eq!(drain(&mut outbox, 9), b"ame");
    }

    #[test]
    fn a_stream_takes_whole_frames_and_several_at_a_time() {
        let mut outbox = Outbox::new(Encoding::StreamJson);
        outbox.push_reply(&Reply { id: 1, ..Default::default() });
        outbox.push_frame(Bytes::from_static(b"22\n"));
        outbox.push_frame(Bytes::from_static(b"4444\n"));
        outbox.push_frame(Bytes::from_static(b"55\n"));
        assert_eq!(outbox.take(12).as_deref(), Some(&b"{\"id\":1}\n22\n"[..]));
        assert_eq!(outbox.take(1).as_deref(), Some(&b"4444\n"[..]));
        assert_eq!(outbox.take(100).as_deref(), Some(&b"55\n"[..]));
        assert_eq!((outbox.take(100), outbox.queued()), (None, 0));
    }

    #[test]
    fn only_the_last_of_the_unsent_pongs_is_kept() {
        let mut outbox = Outbox::new(Encoding::SocketJson);
        outbox.push_frame(Bytes::from_static(b"frame"));
        outbox.push_frame(Bytes::from_static(b"next"));
        for payload in [b"1", b"2", b"3"] {
            outbox.push_pong(payload);
        }
        assert_eq!(outbox.queued(), 5 + 4 + 3 + 3 * FRAME_COST);
        assert_eq!(drain(&mut outbox, 3), b"frame\x8a\x013next");
    }
}
