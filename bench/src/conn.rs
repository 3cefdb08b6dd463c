//! One client connection: dial, upgrade, connect, subscribe, then receive.
//!
//! In: readiness events. Out: counts of deliveries, or whole messages for the few connections
//! that keep them. A connection that only counts holds no buffer between reads, unless one ended within a
//! message, so a fleet of them is small.

use crate::dialect::{Answer, Dialect, Meaning, Who};
use crate::http;
use crate::wire::{Security, Wire};
use crate::ws::{self, Kind, Parser, Piece};
use anyhow::{Context, Result, bail, ensure};
use mio::event::Event;
use mio::net::TcpStream;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a connection is for, shared by all that are opened alike.
#[derive(Debug)]
pub struct Plan {
    /// Where to connect.
    pub server: SocketAddr,
    /// How, if by TLS.
    pub security: Option<Security>,
    /// What is spoken there.
    pub speak: Speak,
    /// Whether messages from there may be compressed. Connections that count take each such one for a delivery.
    pub deflate: bool,
}

/// What is spoken on a connection.
#[derive(Debug)]
pub enum Speak {
    /// A protocol over WebSocket.
    Client {
        /// The WebSocket's path and query.
        path: String,
        /// Which protocol.
        dialect: &'static dyn Dialect,
        /// What is asked for.
        who: Who,
        /// What becomes of what it receives, and what if it is closed.
        care: Care,
    },
    /// Bare WebSocket frames without any handshake: the floor server.
    Frames,
    /// Kept-alive requests to the server API; every response body is handed to the caller.
    Api,
}

/// How much a connection matters to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Its deliveries are counted. Once it is set up, its end is a loss to report.
    Count,
    /// Its messages are handed on. Its end is handed on, too.
    Hear,
    /// Its messages are handed on. Without it the run is over.
    Need,
}

/// What a connection tells its owner.
#[derive(Debug)]
pub enum Heard<'a> {
    /// The set-up's subscription number `.0` was answered.
    Subscribed(usize, &'a Answer),
    /// A message after the set-up, of a connection that keeps them.
    Message(&'a [u8]),
    /// The body of a response of the server API.
    Response(&'a [u8]),
    /// The connection is closed, and why.
    Closed(&'a anyhow::Error),
}

/// Takes what is heard.
pub type Ear<'a> = &'a mut dyn FnMut(Heard<'_>);

/// What a fleet has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Connections that are set up and open.
    pub live: usize,
    /// Connections that have ever finished their set-up.
    pub set_up: usize,
    /// Subscriptions that recovered all that they had missed.
    pub recovered: u64,
    /// Publications, on connections that count.
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
    /// Waits for the answer to this step of the dialect's set-up.
    SettingUp(usize),
    Live,
    Closed,
}

/// One connection and the state of its set-up.
#[derive(Debug)]
pub struct Conn {
    wire: Wire,
    plan: Arc<Plan>,
    stage: Stage,
    parser: Parser,
    /// The start of a message (or response) that is not complete.
    partial: Vec<u8>,
    /// The start of a close or ping frame's payload.
    control: Vec<u8>,
    /// What the socket had no room for.
    out: Vec<u8>,
    pong: bool,
}

impl Conn {
    /// A connection whose dialing has begun.
    pub fn new(stream: TcpStream, plan: Arc<Plan>) -> Result<Self> {
        Ok(Self {
            wire: Wire::new(stream, plan.security.as_ref())?,
            plan,
            stage: Stage::Dialing,
            parser: Parser::default(),
            partial: Vec::new(),
            control: Vec::new(),
            out: Vec::new(),
            pong: false,
        })
    }

    /// Does what `event` allows. An error leaves the connection closed; it is returned unless the
    /// connection is one of many that count: those are a loss to report, not the end of the run.
    pub fn handle(
        &mut self,
        event: &Event,
        buffer: &mut [u8],
        counts: &mut Counts,
        ear: Ear<'_>,
    ) -> Result<()> {
        if self.stage == Stage::Closed {
            return Ok(());
        }
        let Err(error) = self.advance(event, buffer, counts, ear) else { return Ok(()) };
        let expendable = self.counts_only() || self.care() == Care::Hear;
        self.cut(counts);
        if !expendable {
            return Err(error.context(format!("on a connection to {}", self.plan.server)));
        }
        counts.closed += 1;
        ear(Heard::Closed(&error));
        counts.first_close.get_or_insert_with(|| format!("{error:#}"));
        Ok(())
    }

    /// Whether the set-up is done and the connection open.
    pub fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    /// Ends the connection without a word.
    pub fn cut(&mut self, counts: &mut Counts) {
        counts.live -= usize::from(self.is_live());
        self.stage = Stage::Closed;
        // Already gone if the server closed it.
        let _ = self.wire.tcp().shutdown(std::net::Shutdown::Both);
    }

    /// Sends one message of the client protocol, or one API request.
    pub fn send(&mut self, message: &[u8]) -> Result<()> {
        match self.plan.speak {
            Speak::Client { dialect, .. } => {
                ws::push_data(&mut self.out, message, dialect.is_binary());
            }
            Speak::Frames | Speak::Api => self.out.extend_from_slice(message),
        }
        self.flush()
    }

    fn counts_only(&self) -> bool {
        self.stage == Stage::Live && self.care() == Care::Count
    }

    fn care(&self) -> Care {
        match self.plan.speak {
            Speak::Client { care, .. } => care,
            Speak::Frames => Care::Count,
            Speak::Api => Care::Need,
        }
    }

    fn advance(
        &mut self,
        event: &Event,
        buffer: &mut [u8],
        counts: &mut Counts,
        ear: Ear<'_>,
    ) -> Result<()> {
        if self.stage == Stage::Dialing && !self.dialed(counts)? {
            return Ok(());
        }
        if !self.out.is_empty() {
            self.flush()?;
        }
        self.wire.push().context("writing to the server")?;
        loop {
            let count = match self.wire.read(buffer) {
                Ok(0) => bail!("the server closed the connection without a close frame"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading from the server"),
            };
            self.take(&buffer[..count], counts, ear)?;
            // A short read has emptied the socket: asking again would only cost a system call.
            let emptied = count < buffer.len() && self.wire.short_read_empties();
            if emptied && !event.is_read_closed() {
                return Ok(());
            }
        }
    }

    /// Starts the set-up once the TCP connection stands; false while it doesn't.
    fn dialed(&mut self, counts: &mut Counts) -> Result<bool> {
        if let Some(error) = self.wire.tcp().take_error()? {
            return Err(error).context("connecting");
        }
        match self.wire.tcp().peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
            other => other.context("connecting")?,
        };
        self.wire.tcp().set_nodelay(true).context("setting TCP_NODELAY")?;
        let plan = Arc::clone(&self.plan);
        match &plan.speak {
            Speak::Client { path, dialect, .. } => {
                self.stage = Stage::Upgrading;
                let host = plan.server.to_string();
                self.out.extend(ws::upgrade_request(
                    &host,
                    path,
                    dialect.subprotocol(),
                    plan.deflate,
                ));
                self.flush()?;
            }
            Speak::Frames | Speak::Api => self.go_live(counts),
        }
        Ok(true)
    }

    fn go_live(&mut self, counts: &mut Counts) {
        self.stage = Stage::Live;
        counts.live += 1;
        counts.set_up += 1;
        if self.counts_only() {
            self.out.shrink_to_fit();
        }
    }

    fn flush(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.wire.write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing to the server"),
            }
        }
        self.out.drain(..sent);
        Ok(())
    }

    fn take(&mut self, input: &[u8], counts: &mut Counts, ear: Ear<'_>) -> Result<()> {
        if matches!(self.plan.speak, Speak::Api) {
            return self.take_responses(input, ear);
        }
        if self.counts_only() {
            counts.bytes += input.len() as u64;
        }
        if self.stage != Stage::Upgrading {
            return self.take_frames(input, counts, ear);
        }
        self.partial.extend_from_slice(input);
        let Some(response) = http::take_response(&mut self.partial)? else { return Ok(()) };
        ensure!(response.status == 101, "no WebSocket there: HTTP status {}", response.status);
        let rest = std::mem::take(&mut self.partial);
        self.set_up(0, counts)?;
        self.take_frames(&rest, counts, ear)
    }

    fn take_responses(&mut self, input: &[u8], ear: Ear<'_>) -> Result<()> {
        self.partial.extend_from_slice(input);
        while let Some(response) = http::take_response(&mut self.partial)? {
            ensure!(
                response.status == 200,
                "the server API answers HTTP status {}",
                response.status
            );
            ear(Heard::Response(&response.body));
        }
        Ok(())
    }

    fn take_frames(&mut self, mut input: &[u8], counts: &mut Counts, ear: Ear<'_>) -> Result<()> {
        while let Some(piece) = self.parser.next(&mut input)? {
            match piece.kind {
                Kind::Data => self.take_data(&piece, counts, ear)?,
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

    /// Hands on the messages that are complete with this piece of a frame, and keeps what isn't.
    fn take_data(&mut self, piece: &Piece<'_>, counts: &mut Counts, ear: Ear<'_>) -> Result<()> {
        let plan = Arc::clone(&self.plan);
        let Speak::Client { dialect, .. } = &plan.speak else {
            // The floor server's frames are whole messages.
            counts.deliveries += u64::from(piece.message_ends);
            return Ok(());
        };
        if piece.deflated && self.counts_only() {
            counts.deliveries += u64::from(piece.message_ends);
            return Ok(());
        }
        if self.partial.is_empty() {
            let used = self.take_messages(*dialect, piece.bytes, piece, counts, ear)?;
            self.partial.extend_from_slice(&piece.bytes[used..]);
            return Ok(());
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(piece.bytes);
        let used = self.take_messages(*dialect, &whole, piece, counts, ear)?;
        whole.drain(..used);
        if !self.counts_only() || !whole.is_empty() {
            self.partial = whole;
        }
        Ok(())
    }

    /// How much of `bytes`, which end with `piece`, were whole messages.
    fn take_messages(
        &mut self,
        dialect: &'static dyn Dialect,
        bytes: &[u8],
        piece: &Piece<'_>,
        counts: &mut Counts,
        ear: Ear<'_>,
    ) -> Result<usize> {
        let mut used = 0;
        while let Some(cut) = dialect.cut(&bytes[used..], piece.message_ends)? {
            let message = &bytes[used + cut.start..used + cut.end];
            used += cut.used;
            match self.stage {
                Stage::SettingUp(step) => {
                    if let Some(answer) = dialect.answer(step, message)? {
                        self.pong |= answer.pong;
                        counts.recovered += u64::from(answer.recovered);
                        if let Some(room) = step.checked_sub(dialect.first_subscription()) {
                            ear(Heard::Subscribed(room, &answer));
                        }
                        self.set_up(step + 1, counts)?;
                    } else if dialect.meaning(message) == Meaning::Delivery {
                        // Of a room subscribed to already, while others are yet to be.
                        self.take_message(dialect, message, counts, ear)?;
                    }
                }
                _ => self.take_message(dialect, message, counts, ear)?,
            }
        }
        Ok(used)
    }

    fn take_message(
        &mut self,
        dialect: &'static dyn Dialect,
        message: &[u8],
        counts: &mut Counts,
        ear: Ear<'_>,
    ) -> Result<()> {
        let meaning = dialect.meaning(message);
        if meaning == Meaning::Ping {
            return if self.pong { self.send(dialect.pong()) } else { Ok(()) };
        }
        if self.counts_only() {
            counts.deliveries += u64::from(meaning == Meaning::Delivery);
        } else {
            ear(Heard::Message(message));
        }
        Ok(())
    }

    /// Begins step `step` of the set-up, or ends it when there is none.
    fn set_up(&mut self, step: usize, counts: &mut Counts) -> Result<()> {
        let plan = Arc::clone(&self.plan);
        let Speak::Client { dialect, who, .. } = &plan.speak else {
            bail!("only a client has a set-up")
        };
        let Some(command) = dialect.set_up(step, who) else {
            self.go_live(counts);
            return Ok(());
        };
        self.stage = Stage::SettingUp(step);
        if command.is_empty() { Ok(()) } else { self.send(&command) }
    }
}
