//! The clients: many connections on one thread and one epoll.
//!
//! In: plans of connections to open, messages to send. Out: [`Counts`], and the messages of those
//! connections that keep them. The server shares the machine with this code, so a delivery costs
//! it one read into a shared buffer and a scan for its end, and no allocation.

use crate::conn::{Conn, Counts, Heard, Plan};
use anyhow::{Context, Result, anyhow, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Socket, Type};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections in their set-up at any time; less than any listen backlog.
pub const OPENING_AT_ONCE: usize = 100;
/// Without a connection finishing its set-up for this long, opening has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections from one source address; Linux has some 28,000 ports to choose from by default.
const PER_SOURCE: usize = 25_000;
const READ_BUFFER: usize = 64 << 10;

/// Connections, and what they have received.
pub struct Fleet {
    poll: Poll,
    events: Events,
    conns: Vec<Conn>,
    counts: Counts,
    buffer: Vec<u8>,
}

impl Fleet {
    /// A fleet without connections.
    pub fn new() -> Result<Self> {
        Ok(Self {
            poll: Poll::new().context("creating the epoll instance of the clients")?,
            events: Events::with_capacity(1024),
            conns: Vec::new(),
            counts: Counts::default(),
            buffer: vec![0; READ_BUFFER],
        })
    }

    /// What has been seen since the fleet began.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Opens `count` connections alike and returns when all have finished their set-up.
    pub fn open(&mut self, plan: Plan, count: usize) -> Result<Range<usize>> {
        self.open_each(std::iter::repeat_n(Arc::new(plan), count))
    }

    /// Opens a connection for each of `plans` and returns when all have finished their set-up.
    pub fn open_each(
        &mut self,
        plans: impl ExactSizeIterator<Item = Arc<Plan>>,
    ) -> Result<Range<usize>> {
        self.open_each_hearing(plans, |_, _| {})
    }

    /// [`Self::open_each`] for those who want what is heard meanwhile.
    pub fn open_each_hearing(
        &mut self,
        plans: impl ExactSizeIterator<Item = Arc<Plan>>,
        mut ear: impl FnMut(usize, Heard<'_>),
    ) -> Result<Range<usize>> {
        let (count, mut plans) = (plans.len(), plans);
        let (first, before) = (self.conns.len(), self.counts.set_up);
        let closed_before = self.counts.closed;
        let (mut progress, mut progress_at) = (0, Instant::now());
        loop {
            // Not those that are live: one that was set up earlier may be closed meanwhile.
            let done = self.counts.set_up - before;
            if done == count {
                return Ok(first..first + count);
            }
            if done > progress {
                (progress, progress_at) = (done, Instant::now());
            }
            ensure!(
                done > 0 || self.counts.closed == closed_before,
                "no client could connect, and the first one was closed"
            );
            if progress_at.elapsed() > PATIENCE {
                bail!("{done} of {count} clients were set up, then none in {PATIENCE:?}");
            }
            let opened = self.conns.len() - first;
            let room = count.min(done + OPENING_AT_ONCE).saturating_sub(opened);
            for plan in plans.by_ref().take(room) {
                self.dial(&plan)?;
            }
            self.listen(Duration::from_millis(100), &mut ear)?;
        }
    }

    fn dial(&mut self, plan: &Arc<Plan>) -> Result<()> {
        let conn = self.dialed(self.conns.len(), Arc::clone(plan))?;
        self.conns.push(conn);
        Ok(())
    }

    fn dialed(&mut self, id: usize, plan: Arc<Plan>) -> Result<Conn> {
        let mut stream = match source_address(id) {
            Some(source) if plan.server.is_ipv4() => connect_from(source, plan.server),
            _ => TcpStream::connect(plan.server).map_err(|error| anyhow!(error)),
        }
        .with_context(|| format!("connecting client {id} to {}", plan.server))?;
        self.poll
            .registry()
            .register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)
            .with_context(|| format!("watching client {id}"))?;
        Conn::new(stream, plan)
    }

    /// Closes connection `id` without a word, as a client that loses its network.
    pub fn cut(&mut self, id: usize) {
        self.conns[id].cut(&mut self.counts);
    }

    /// Dials for connection `id` again, whose old connection is closed.
    pub fn redial(&mut self, id: usize, plan: Arc<Plan>) -> Result<()> {
        self.conns[id] = self.dialed(id, plan)?;
        Ok(())
    }

    /// Whether connection `id` has finished its set-up.
    pub fn is_live(&self, id: usize) -> bool {
        self.conns[id].is_live()
    }

    /// Sends a message on connection `id`.
    pub fn send(&mut self, id: usize, message: &[u8]) -> Result<()> {
        self.conns[id].send(message)
    }

    /// [`Self::listen`] for those who want messages and responses only.
    pub fn pump(&mut self, timeout: Duration, mut sink: impl FnMut(usize, &[u8])) -> Result<()> {
        self.listen(timeout, |id, heard| match heard {
            Heard::Message(message) | Heard::Response(message) => sink(id, message),
            Heard::Subscribed(..) | Heard::Closed(_) => {}
        })
    }

    /// Waits for events, at most `timeout`, and handles those that came. `ear` gets what is heard, with the
    /// connection's number.
    pub fn listen(
        &mut self,
        timeout: Duration,
        mut ear: impl FnMut(usize, Heard<'_>),
    ) -> Result<()> {
        let Self { poll, events, conns, counts, buffer } = self;
        match poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other.context("waiting for the clients' sockets")?,
        }
        for event in events.iter() {
            let Token(id) = event.token();
            conns[id].handle(event, buffer, counts, &mut |heard| ear(id, heard))?;
        }
        Ok(())
    }

    /// Keeps the connections served (pings answered) for `duration`.
    pub fn idle(&mut self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while let Some(left) = time_left(end) {
            self.pump(left, |_, _| {})?;
        }
        Ok(())
    }
}

/// The time until `end`, `None` once it has passed.
pub fn time_left(end: Instant) -> Option<Duration> {
    end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// The loopback address that client number `id` comes from; `None` leaves it to the kernel, which
/// is right as long as one address has ports enough.
fn source_address(id: usize) -> Option<Ipv4Addr> {
    let block = u8::try_from(id / PER_SOURCE).ok().filter(|block| *block > 0)?;
    Some(Ipv4Addr::new(127, 0, 0, block.checked_add(1)?))
}

/// Dials from a chosen address. The port is chosen at connect, not at bind, so that the address's
/// ports aren't reserved for the whole machine.
fn connect_from(source: Ipv4Addr, server: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        other => other?,
    }
    Ok(TcpStream::from_std(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_addresses_are_chosen_only_beyond_what_one_address_has_ports_for() {
        assert_eq!(source_address(0), None);
        assert_eq!(source_address(PER_SOURCE - 1), None);
        assert_eq!(source_address(PER_SOURCE), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(source_address(3 * PER_SOURCE), Some(Ipv4Addr::new(127, 0, 0, 4)));
        assert_eq!(source_address(255 * PER_SOURCE), None);
    }

    #[test]
    fn a_client_dials_from_the_address_chosen_for_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = listener.local_addr().expect("an address");
        let client = connect_from(Ipv4Addr::new(127, 0, 0, 3), server).expect("dialing");
        let (_, peer) = listener.accept().expect("a connection");
        assert_eq!(peer.ip(), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)));
        drop(client);
    }
}
