//! Where clients connect, and whose word about them is taken. Pure.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use super::{Invalid, raw};

/// Where clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Every address of the machine, of IPv6 and of IPv4.
    All {
        /// The port.
        port: u16,
    },
    /// This address and no other.
    On(SocketAddr),
}

impl Listen {
    /// The port; 0: any free one.
    pub fn port(&self) -> u16 {
        match self {
            Self::All { port } => *port,
            Self::On(address) => address.port(),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All { port } => write!(f, "port {port}"),
            Self::On(address) => address.fmt(f),
        }
    }
}

/// Where the options of a section say to listen.
pub(super) fn listen(section: &str, address: &str, port: u16) -> Result<Listen, Invalid> {
    if address.is_empty() {
        return Ok(Listen::All { port });
    }
    let ip: IpAddr = address.parse().map_err(|_| {
        Invalid::new(format!("{section}.address"), format!("{address:?} is no IP address"))
    })?;
    Ok(Listen::On(SocketAddr::new(ip, port)))
}

impl raw::HttpServer {
    pub(super) fn proxies(&self) -> Result<Vec<IpNet>, Invalid> {
        let network = |it: &String| {
            let address = it.parse::<IpAddr>().map(|it| IpNet::from(it.to_canonical()));
            address.or_else(|_| it.parse::<IpNet>()).map_err(|_| {
                let problem =
                    format!("{it:?} is neither an IP address nor a network like 10.0.0.0/8");
                Invalid::new("http_server.trusted_proxies", problem)
            })
        };
        self.trusted_proxies.iter().map(network).collect()
    }

    pub(super) fn listen(&self) -> Result<Listen, Invalid> {
        listen("http_server", &self.address, self.port)
    }
}
