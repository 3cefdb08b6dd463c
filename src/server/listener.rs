//! SHELL. The socket of the clients' port.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Socket, Type};

use crate::config::Listen;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Bound, but not listening: clients that connect before the node serves are refused, and try another.
pub struct Listener(Socket);

impl Listener {
    /// Takes the port.
    ///
    /// # Errors
    /// If it can't be had.
    pub fn bind(listen: Listen) -> io::Result<Self> {
        match listen {
            Listen::On(address) => bind(address, false),
            Listen::All { port } => bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), true)
                .or_else(|error| match lacks_ipv6(&error) {
                    true => bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false),
                    false => Err(error),
                }),
        }
    }

    /// Where it is.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()?.as_socket().ok_or_else(|| io::Error::other("clients come by TCP"))
    }

    /// Takes connections from now on.
    ///
    /// # Errors
    /// If it can't.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)?;
        Ok(self.0.into())
    }
}

fn bind(address: SocketAddr, both_families: bool) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if both_families {
        socket.set_only_v6(false)?;
    }
    // As the standard library does: a restart need not wait for connections that have just ended.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(Listener(socket))
}

/// Whether that is how a machine without IPv6 answers. That the port is taken, it would say of IPv4 as well.
fn lacks_ipv6(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT, EPROTONOSUPPORT};
    matches!(error.raw_os_error(), Some(EADDRNOTAVAIL | EAFNOSUPPORT | EPROTONOSUPPORT))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn by_default_both_families_are_served() -> io::Result<()> {
        let listener = Listener::bind(Listen::All { port: 0 })?;
        let port = listener.address()?.port();
        let listener = listener.listen()?;
        listener.set_nonblocking(false)?;
        let mut clients = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            clients.push(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
        }
        for client in clients {
            let _client = TcpStream::connect(client)?;
            assert_eq!(listener.accept()?.1.ip().to_canonical(), client.ip());
        }
        Ok(())
    }

    #[test]
    fn an_address_that_was_named_is_the_only_one() -> io::Result<()> {
        let listener = Listener::bind(Listen::On((Ipv4Addr::LOCALHOST, 0).into()))?;
        assert_eq!(listener.address()?.ip(), Ipv4Addr::LOCALHOST);
        Ok(())
    }

    #[test]
    fn a_port_that_is_taken_in_one_family_is_not_served_in_the_other() -> io::Result<()> {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let port = taken.local_addr()?.port();
        assert!(Listener::bind(Listen::All { port }).is_err());
        Ok(())
    }

    #[test]
    fn a_machine_without_ipv6_is_known_by_its_errors() {
        let error = |number| lacks_ipv6(&io::Error::from_raw_os_error(number));
        assert!(error(nix::libc::EAFNOSUPPORT) && error(nix::libc::EADDRNOTAVAIL));
        assert!(!error(nix::libc::EADDRINUSE) && !error(nix::libc::EACCES));
    }
}
