//! SHELL. The connection below a WebSocket: TCP, with or without TLS.
//!
//! Both are used alike: what can be done at once is done, what can't is `WouldBlock`. TLS is driven by hand
//! here, so that reads go through the thread's one buffer and writes don't wait in another outbox.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    task::{Context, Poll, ready},
};

use actix_tls::accept::rustls_0_23::TlsStream;
use rustls::ServerConnection;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, task::coop};

/// The most bytes that TLS may hold which the client has yet to take. They come on top of the outbox.
const TLS_BUFFER: usize = 16 * 1024;

/// One end of a connection to a client.
pub enum Io {
    /// Without TLS.
    Plain(TcpStream),
    /// With it.
    Tls(Box<RefCell<TlsStream<TcpStream>>>),
}

impl From<TcpStream> for Io {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }
}

impl From<TlsStream<TcpStream>> for Io {
    fn from(mut tls: TlsStream<TcpStream>) -> Self {
        tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        Self::Tls(Box::new(RefCell::new(tls)))
    }
}

/// The TCP stream as TLS reads and writes it.
struct Tcp<'a> {
    tcp: &'a TcpStream,
    /// Asks the kernel itself whether there is room, see [`Io::write_now`].
    direct: bool,
}

impl Read for Tcp<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.try_read(buffer)
    }
}

impl Write for Tcp<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.direct {
            true => SockRef::from(self.tcp).send_vectored(slices),
            false => self.tcp.try_write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Io {
    fn with_tcp<T>(&self, act: impl FnOnce(&TcpStream) -> T) -> T {
        match self {
            Self::Plain(tcp) => act(tcp),
            Self::Tls(tls) => act(tls.borrow().get_ref().0),
        }
    }

    fn with_tls<T>(&self, act: impl FnOnce(&mut ServerConnection, &TcpStream) -> T) -> Option<T> {
        let Self::Tls(stream) = self else { return None };
        let mut stream = stream.borrow_mut();
        let (tcp, tls) = stream.get_mut();
        Some(act(tls, tcp))
    }

    /// Reads what is there, or arranges to be called when there is something. Nothing read is the end.
    ///
    /// `awaited` says from one call to the next whether that is arranged already, so it has to be one task that
    /// calls. A socket is looked at for every frame that goes out, and hardly ever has something come in.
    pub fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        awaited: &mut bool,
    ) -> Poll<io::Result<usize>> {
        loop {
            let read = match self {
                Self::Plain(tcp) => {
                    let asked = Cell::new(false);
                    let read = tcp.try_io(Interest::READABLE, || {
                        asked.set(true);
                        (&*SockRef::from(tcp)).read(buffer)
                    });
                    *awaited &= !asked.get();
                    read
                }
                Self::Tls(_) => {
                    *awaited = false;
                    self.read_tls(buffer)
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if *awaited {
                        return Poll::Pending;
                    }
                    let ready = self.with_tcp(|tcp| tcp.poll_read_ready(cx));
                    // A task whose budget is used up is called again without that anything was arranged.
                    *awaited = ready.is_pending() && coop::has_budget_remaining();
                    ready!(ready)?;
                }
                read => return Poll::Ready(read),
            }
        }
    }

    /// What was opened already comes first: the kernel does not know of it.
    fn read_tls(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.with_tls(|tls, tcp| {
            let mut tcp = Tcp { tcp, direct: false };
            loop {
                match tls.reader().read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Dropped without a TLS close: WebSocket has its own.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                    read => return read,
                }
                tls.read_tls(&mut tcp)?;
                if let Err(error) = tls.process_new_packets() {
                    // The other side is to learn why, if it can.
                    let _ = tls.write_tls(&mut tcp);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        });
        read.unwrap_or(Ok(0))
    }

    /// Takes some of these bytes if there is room. With `direct` that is seen by the kernel itself, which
    /// reports that there is room again only when there is a lot.
    ///
    /// # Errors
    /// If there is none, or the connection is gone.
    pub fn write(&self, slices: &[IoSlice<'_>], direct: bool) -> io::Result<usize> {
        match (self, slices) {
            (Self::Plain(tcp), _) if direct => SockRef::from(tcp).send_vectored(slices),
            (Self::Plain(tcp), [only]) => tcp.try_write(only),
            (Self::Plain(tcp), several) => tcp.try_write_vectored(several),
            (Self::Tls(_), _) => {
                self.push(direct)?;
                let taken = self.with_tls(|tls, _| tls.writer().write_vectored(slices));
                // What does not leave now is pushed later.
                let _ = self.push(direct);
                taken.unwrap_or(Ok(0))
            }
        }
    }

    /// Writes what TLS holds. Says whether there was something.
    ///
    /// # Errors
    /// If there is no room, or the connection is gone.
    pub fn push(&self, direct: bool) -> io::Result<bool> {
        let pushed = self.with_tls(|tls, tcp| {
            let mut tcp = Tcp { tcp, direct };
            let mut pushed = false;
            while tls.wants_write() {
                tls.write_tls(&mut tcp)?;
                pushed = true;
            }
            Ok(pushed)
        });
        pushed.unwrap_or(Ok(false))
    }

    /// Waits until there may be room again.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_tcp(|tcp| tcp.poll_write_ready(cx))
    }

    /// The last of what is sent, as far as it goes at once.
    pub fn say_goodbye(&self) {
        self.with_tls(|tls, _| tls.send_close_notify());
        // It may be gone already.
        let _ = self.push(true);
    }

    /// Sends nothing more.
    pub fn shutdown_write(&self) {
        self.say_goodbye();
        let _ = self.with_tcp(|tcp| SockRef::from(tcp).shutdown(Shutdown::Write));
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::{io::AsyncWriteExt as _, net::TcpListener, task::yield_now, time::timeout};

    use super::*;

    #[tokio::test]
    async fn a_task_whose_budget_was_used_up_learns_of_what_comes_later() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut client = TcpStream::connect(listener.local_addr()?).await?;
        let io = Io::from(listener.accept().await?.0);
        let (mut buffer, mut awaited, mut used_up) = ([0; 8], false, false);
        let reading = tokio::spawn(poll_fn(move |cx| {
            while !used_up && coop::has_budget_remaining() {
                ready!(coop::poll_proceed(cx)).made_progress();
            }
            used_up = true;
            io.poll_read(cx, &mut buffer, &mut awaited)
        }));
        // It has looked before anything is there, once without a budget and once with one.
        for _ in 0..3 {
            yield_now().await;
        }
        client.write_all(b"x").await?;
        let read = timeout(Duration::from_secs(10), reading).await.expect("it was never told");
        assert_eq!(read.expect("no panic")?, 1);
        Ok(())
    }
}
