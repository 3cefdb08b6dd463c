//! The floor: what a delivery costs when it is nothing but a `send(2)`.
//!
//! In: on the child's standard input, rounds to run. Out: frames to every connection, by a plain
//! loop in a process of its own, so that its CPU time is read the same way as the server's.

use crate::conn::{Plan, Speak};
use crate::server;
use crate::ws;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write, stdin};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Shorter than anything a server delivers, and still no ping to the receiver.
const SMALLEST_FRAME: usize = 14;

/// The options of the hidden `floor-server` command.
#[derive(Args, Clone, Debug)]
pub struct FloorArgs {
    /// Connections to accept before anything is sent
    #[arg(long)]
    clients: usize,
    /// Bytes of a delivery, its frame header included
    #[arg(long)]
    frame_bytes: usize,
}

/// A running floor server, killed on drop.
#[derive(Debug)]
pub struct Floor {
    child: Child,
    orders: ChildStdin,
    address: SocketAddr,
}

impl Floor {
    /// Starts a floor server for `clients` connections.
    pub fn start(clients: usize, frame_bytes: usize) -> Result<Self> {
        let own = std::env::current_exe().context("finding this program's own file")?;
        let (clients, frame_bytes) = (clients.to_string(), frame_bytes.to_string());
        let args = ["floor-server", "--clients", &clients, "--frame-bytes", &frame_bytes];
        let mut command = server::guarded(&own, &args.map(OsString::from))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the floor server")?;
        match Self::connect(&mut child) {
            Ok((orders, address)) => Ok(Self { child, orders, address }),
            Err(error) => {
                server::kill(&mut child);
                Err(error.context("the floor server did not start"))
            }
        }
    }

    fn connect(child: &mut Child) -> Result<(ChildStdin, SocketAddr)> {
        let orders = child.stdin.take().context("its input is not piped")?;
        let output = child.stdout.take().context("its output is not piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("reading its address")?;
        let address = line.trim().parse().with_context(|| format!("{line:?} is no address"))?;
        Ok((orders, address))
    }

    /// The process to read the CPU time of.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How its clients connect.
    pub fn plan(&self) -> Plan {
        Plan { server: self.address, security: None, speak: Speak::Frames, deflate: false }
    }

    /// Makes it send `messages` to every client, `rate` a second, or without a pause if that is 0.
    pub fn run(&mut self, messages: u64, rate: u32) -> Result<()> {
        writeln!(self.orders, "{messages} {rate}").context("telling the floor server what to do")
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        server::kill(&mut self.child);
    }
}

/// The `floor-server` command.
pub fn serve(args: &FloorArgs) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("opening the floor server's port")?;
    println!("{}", listener.local_addr()?);
    let mut clients = Vec::with_capacity(args.clients);
    while clients.len() < args.clients {
        let (client, _) = listener.accept().context("accepting a client")?;
        client.set_nodelay(true).context("setting TCP_NODELAY")?;
        clients.push(client);
    }
    let frame = frame_of(args.frame_bytes)?;
    for line in stdin().lines() {
        let (messages, rate) = parse_order(&line?)?;
        send_all(&mut clients, &frame, messages, rate)?;
    }
    Ok(())
}

fn parse_order(line: &str) -> Result<(u64, u32)> {
    let order = line
        .split_once(' ')
        .and_then(|(messages, rate)| Some((messages.parse().ok()?, rate.parse().ok()?)));
    order.with_context(|| format!("{line:?} is not \"MESSAGES RATE\""))
}

fn send_all(clients: &mut [TcpStream], frame: &[u8], messages: u64, rate: u32) -> Result<()> {
    let start = Instant::now();
    for index in 0..messages {
        if rate > 0 {
            let due = start + Duration::from_secs_f64(index as f64 / f64::from(rate));
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        for client in clients.iter_mut() {
            client.write_all(frame).context("sending to a client")?;
        }
    }
    Ok(())
}

/// A WebSocket frame of `length` bytes in all (or two less, where no frame has that length).
fn frame_of(length: usize) -> Result<Vec<u8>> {
    ensure!(length >= SMALLEST_FRAME, "a delivery is at least {SMALLEST_FRAME} bytes long");
    let frames = [2, 4, 10].map(|header| ws::server_text_frame(&vec![b'x'; length - header]));
    frames.into_iter().find(|frame| frame.len() <= length).context("no header fits this length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_length_asked_for() {
        for length in [14, 127, 130, 300, 65_539, 66_000] {
            assert_eq!(frame_of(length).expect("a frame").len(), length);
        }
        assert_eq!(frame_of(128).expect("a frame").len(), 126);
        assert!(frame_of(13).is_err());
    }

    #[test]
    fn orders_are_read() {
        assert_eq!(parse_order("40 20").ok(), Some((40, 20)));
        assert!(parse_order("40").is_err() && parse_order("a b").is_err());
    }
}
