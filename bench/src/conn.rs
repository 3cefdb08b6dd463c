//! One client connection: dial, upgrade, connect, subscribe, then receive.
//!
//! In: readiness events. Out: counts of deliveries, or whole messages for the few connections
//! that keep them. A connection that only counts holds no buffer, so a fleet of them is small.

use crate::http;
use crate::ws::{self, Kind, Parser, Piece};
use anyhow::{Context, Result, bail, ensure};
use mio::event::Event;
use mio::net::TcpStream;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;

/// The empty message: a ping from the server, a pong from the client.
const PING: &[u8] = b"{}";

/// What a connection is for, shared by all that are opened alike.
#[derive(Debug)]
pub struct Plan {
    /// Where to connect.
    pub server: SocketAddr,
    /// What is spoken there.
    pub speak: Speak,
}

/// What is spoken on a connection.
#[derive(Debug)]
pub enum Speak {
    /// The client protocol over WebSocket.
    Client {
        /// The WebSocket's path and query.
        path: String,
        /// Rooms to subscribe to, one after the other.
        rooms: Vec<String>,
        /// Where the clients were in these rooms' streams, if they are to recover.
        since: Option<Since>,
        /// Hand every message to the caller instead of counting it.
        keep: bool,
    },
    /// Bare WebSocket frames without any handshake: the floor server.
    Frames,
    /// Kept-alive requests to the server API; every response body is handed to the caller.
    Api,
}

/// A position in a room's stream.
#[derive(Clone, Debug)]
pub struct Since {
    /// The stream's epoch.
    pub epoch: String,
    /// The last offset seen.
    pub offset: u64,
}

/// What a fleet has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Connections that finished their set-up.
    pub live: usize,
    /// Subscriptions that recovered all that they had missed.
    pub recovered: u64,
    /// Messages other than pings, on connections that count.
    pub deliveries: u64,
    /// Bytes read by connections that count, after their set-up.
    pub bytes: u64,
    /// Connections that the server closed after their set-up.
    pub closed: u64,
    /// Why the first of them was closed.
    pub first_close: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dialing,
    Upgrading,
    Connecting,
    Subscribing(usize),
    Live,
    Closed,
}

/// One connection and the state of its set-up.
#[derive(Debug)]
pub struct Conn {
    pub(crate) stream: TcpStream,
    plan: Rc<Plan>,
    stage: Stage,
    parser: Parser,
    /// The length so far of the message being counted.
    counted: usize,
    /// The start of a message (or response) that is kept and not complete.
    partial: Vec<u8>,
    /// The start of a close or ping frame's payload.
    control: Vec<u8>,
    /// What the socket had no room for.
    out: Vec<u8>,
    pong: bool,
}

impl Conn {
    /// A connection whose dialing has begun.
    pub fn new(stream: TcpStream, plan: Rc<Plan>) -> Self {
        Self {
            stream,
            plan,
            stage: Stage::Dialing,
            parser: Parser::default(),
            counted: 0,
            partial: Vec::new(),
            control: Vec::new(),
            out: Vec::new(),
            pong: false,
        }
    }

    /// Does what `event` allows. An error leaves the connection closed; it is returned unless the
    /// connection is one of many that count: those are a loss to report, not the end of the run.
    pub fn handle(
        &mut self,
        event: &Event,
        buffer: &mut [u8],
        counts: &mut Counts,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        if self.stage == Stage::Closed {
            return Ok(());
        }
        let Err(error) = self.advance(event, buffer, counts, sink) else { return Ok(()) };
        let expendable = self.counts_only();
        self.stage = Stage::Closed;
        // Already gone if the server closed it; either way there is nothing left to tell it.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if !expendable {
            return Err(error.context(format!("on a connection to {}", self.plan.server)));
        }
        counts.closed += 1;
        counts.first_close.get_or_insert_with(|| format!("{error:#}"));
        Ok(())
    }

    /// Sends one message of the client protocol, or one API request.
    pub fn send(&mut self, message: &[u8]) -> Result<()> {
        match self.plan.speak {
            Speak::Client { .. } => ws::push_text(&mut self.out, message),
            Speak::Frames | Speak::Api => self.out.extend_from_slice(message),
        }
        self.flush()
    }

    fn counts_only(&self) -> bool {
        let keeps = match self.plan.speak {
            Speak::Client { keep, .. } => keep,
            Speak::Frames => false,
            Speak::Api => true,
        };
        self.stage == Stage::Live && !keeps
    }

    fn advance(
        &mut self,
        event: &Event,
        buffer: &mut [u8],
        counts: &mut Counts,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        if self.stage == Stage::Dialing && !self.dialed(counts)? {
            return Ok(());
        }
        if !self.out.is_empty() {
            self.flush()?;
        }
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed the connection without a close frame"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading from the server"),
            };
            self.take(&buffer[..count], counts, sink)?;
            // A short read has emptied the socket: asking again would only cost a system call.
            if count < buffer.len() && !event.is_read_closed() {
                return Ok(());
            }
        }
    }

    /// Starts the set-up once the TCP connection stands; false while it doesn't.
    fn dialed(&mut self, counts: &mut Counts) -> Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error).context("connecting");
        }
        match self.stream.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
            other => other.context("connecting")?,
        };
        self.stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        let plan = Rc::clone(&self.plan);
        match &plan.speak {
            Speak::Client { path, .. } => {
                self.stage = Stage::Upgrading;
                self.out.extend(ws::upgrade_request(&plan.server.to_string(), path));
                self.flush()?;
            }
            Speak::Frames | Speak::Api => self.go_live(counts),
        }
        Ok(true)
    }

    fn go_live(&mut self, counts: &mut Counts) {
        self.stage = Stage::Live;
        counts.live += 1;
        if self.counts_only() {
            self.out.shrink_to_fit();
        }
    }

    fn flush(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing to the server"),
            }
        }
        self.out.drain(..sent);
        Ok(())
    }

    fn take(
        &mut self,
        input: &[u8],
        counts: &mut Counts,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        if matches!(self.plan.speak, Speak::Api) {
            return self.take_responses(input, sink);
        }
        if self.counts_only() {
            counts.bytes += input.len() as u64;
        }
        if self.stage != Stage::Upgrading {
            return self.take_frames(input, counts, sink);
        }
        self.partial.extend_from_slice(input);
        let Some(response) = http::take_response(&mut self.partial)? else { return Ok(()) };
        ensure!(response.status == 101, "no WebSocket there: HTTP status {}", response.status);
        self.stage = Stage::Connecting;
        self.send(br#"{"id":1,"connect":{}}"#)?;
        let rest = std::mem::take(&mut self.partial);
        self.take_frames(&rest, counts, sink)
    }

    fn take_responses(&mut self, input: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.partial.extend_from_slice(input);
        while let Some(response) = http::take_response(&mut self.partial)? {
            ensure!(
                response.status == 200,
                "the server API answers HTTP status {}",
                response.status
            );
            sink(&response.body);
        }
        Ok(())
    }

    fn take_frames(
        &mut self,
        mut input: &[u8],
        counts: &mut Counts,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        while let Some(piece) = self.parser.next(&mut input)? {
            match piece.kind {
                Kind::Data => self.take_data(&piece, counts, sink)?,
                Kind::Close | Kind::Ping => self.take_control(&piece)?,
                Kind::Pong => {}
            }
        }
        Ok(())
    }

    fn take_control(&mut self, piece: &Piece<'_>) -> Result<()> {
        self.control.extend_from_slice(piece.bytes);
        if !piece.frame_ends {
            return Ok(());
        }
        let payload = std::mem::take(&mut self.control);
        if piece.kind == Kind::Ping {
            ws::push_pong(&mut self.out, &payload);
            return self.flush();
        }
        match payload.split_at_checked(2) {
            Some((code, reason)) => {
                let code = u16::from_be_bytes([code[0], code[1]]);
                bail!(
                    "the server closed the connection: {code} {}",
                    String::from_utf8_lossy(reason)
                )
            }
            None => bail!("the server closed the connection and gave no code"),
        }
    }

    /// Splits a frame's payload into messages: a server may put several into one frame, one a line.
    fn take_data(
        &mut self,
        piece: &Piece<'_>,
        counts: &mut Counts,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let mut bytes = piece.bytes;
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.take_line(&bytes[..end], true, counts, sink)?;
            bytes = &bytes[end + 1..];
        }
        self.take_line(bytes, piece.message_ends, counts, sink)
    }

    fn take_line(
        &mut self,
        line: &[u8],
        complete: bool,
        counts: &mut Counts,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        if self.counts_only() {
            self.counted += line.len();
            return if complete { self.count(counts) } else { Ok(()) };
        }
        if !complete {
            self.partial.extend_from_slice(line);
            return Ok(());
        }
        if self.partial.is_empty() {
            return self.message(line, counts, sink);
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(line);
        let result = self.message(&whole, counts, sink);
        // Kept for its capacity.
        whole.clear();
        self.partial = whole;
        result
    }

    fn count(&mut self, counts: &mut Counts) -> Result<()> {
        let length = std::mem::take(&mut self.counted);
        if length == PING.len() {
            return self.answer_ping();
        }
        counts.deliveries += u64::from(length > 0);
        Ok(())
    }

    fn answer_ping(&mut self) -> Result<()> {
        if self.pong {
            self.send(PING)?;
        }
        Ok(())
    }

    fn message(
        &mut self,
        message: &[u8],
        counts: &mut Counts,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        if message == PING {
            return self.answer_ping();
        }
        if self.stage == Stage::Live {
            if !message.is_empty() {
                sink(message);
            }
            return Ok(());
        }
        if let (Stage::Subscribing(room), Speak::Client { since: Some(_), .. }) =
            (self.stage, &self.plan.speak)
            && memchr::memmem::find(message, b"\"error\"").is_none()
        {
            // A recovery can be large, and nothing else in it matters here.
            counts.recovered +=
                u64::from(memchr::memmem::find(message, b"\"recovered\":true").is_some());
            return self.subscribe(room + 1, counts);
        }
        let reply: Value = serde_json::from_slice(message)
            .with_context(|| format!("not JSON: {:?}", String::from_utf8_lossy(message)))?;
        if reply.get("id").is_none() {
            return Ok(());
        }
        ensure!(reply.get("error").is_none(), "{:?} was answered {reply}", self.stage);
        match self.stage {
            Stage::Connecting => {
                self.pong = reply["connect"]["pong"].as_bool().unwrap_or(false);
                self.subscribe(0, counts)
            }
            Stage::Subscribing(room) => self.subscribe(room + 1, counts),
            stage => bail!("a reply nothing asked for, while {stage:?}: {reply}"),
        }
    }

    /// Subscribes to the plan's room number `index`, or ends the set-up when there is none.
    fn subscribe(&mut self, index: usize, counts: &mut Counts) -> Result<()> {
        let plan = Rc::clone(&self.plan);
        let Speak::Client { rooms, since, .. } = &plan.speak else {
            bail!("only the client protocol has rooms to subscribe to")
        };
        let Some(room) = rooms.get(index) else {
            self.go_live(counts);
            return Ok(());
        };
        self.stage = Stage::Subscribing(index);
        let mut subscribe = json!({"channel": room});
        if let Some(Since { epoch, offset }) = since {
            subscribe["recover"] = true.into();
            subscribe["epoch"] = epoch.as_str().into();
            subscribe["offset"] = (*offset).into();
        }
        let command = json!({"id": index + 2, "subscribe": subscribe});
        self.send(command.to_string().as_bytes())
    }
}
