//! How a node takes part in a cluster: as typed, checked.

use std::{net::SocketAddr, time::Duration};

use super::{
    BODY_LIMIT, Invalid, address,
    raw::{self, Raw},
};
use crate::{cluster::secret::Secrets, log};

/// How the node takes part in a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Name of the cluster.
    pub id: String,
    /// Where gossip arrives.
    pub gossip: SocketAddr,
    /// Where links arrive.
    pub mesh: SocketAddr,
    /// Under which IP address the other nodes reach this one.
    pub advertise: std::net::IpAddr,
    /// Gossip addresses of nodes to begin with.
    pub join: Vec<String>,
    /// How long the node waits for another that bears its name.
    pub name_timeout: Duration,
    /// How long a node with rooms on disk waits for those that it was with last.
    pub restart_timeout: Duration,
    /// What the nodes know and no one else; empty: links and gossip are not sealed.
    pub secrets: Secrets,
    /// How many nodes there should be; 0: any number.
    pub expected_nodes: usize,
    /// The most bytes that may wait for one peer.
    pub queue_limit: usize,
}

impl raw::Cluster {
    /// Whether the node takes part in no cluster.
    pub(super) fn is_alone(&self) -> bool {
        self.gossip.is_empty() && self.mesh.is_empty() && self.join.is_empty()
    }

    pub(super) fn check(&self) -> Result<Option<Cluster>, Invalid> {
        let (gossip, mesh) = match (self.gossip.as_str(), self.mesh.as_str()) {
            _ if self.is_alone() => return Ok(None),
            ("", _) => {
                return Err(Invalid::new(
                    "cluster.gossip",
                    "a node of a cluster needs it, as IP:PORT",
                ));
            }
            (_, "") => {
                return Err(Invalid::new(
                    "cluster.mesh",
                    "a node of a cluster needs it, as IP:PORT",
                ));
            }
            (gossip, mesh) => (address("cluster.gossip", gossip)?, address("cluster.mesh", mesh)?),
        };
        let advertise = match self.advertise.as_str() {
            "" if gossip.ip().is_unspecified() => {
                let problem = "say under which IP address the other nodes reach this one, since cluster.gossip is 0.0.0.0";
                return Err(Invalid::new("cluster.advertise", problem));
            }
            "" => gossip.ip(),
            ip => ip.parse().map_err(|_| {
                Invalid::new("cluster.advertise", format!("{ip:?} is no IP address"))
            })?,
        };
        for peer in &self.join {
            check_peer(peer)?;
        }
        let secrets = self.secrets()?;
        let open = [gossip.ip(), mesh.ip()].iter().any(|ip| !ip.is_loopback());
        if open && secrets.is_empty() {
            let problem = "needed to listen for other nodes on anything but loopback: anyone who reaches the ports could take part. Set the same on every node, for example the output of `openssl rand -hex 32`";
            return Err(Invalid::new("cluster.secret", problem));
        }
        Ok(Some(Cluster {
            id: self.id.clone(),
            gossip,
            mesh,
            advertise,
            join: self.join.clone(),
            name_timeout: self.name_timeout.0,
            restart_timeout: self.restart_timeout.0,
            secrets,
            expected_nodes: self.expected_nodes,
            queue_limit: self.queue_max_size,
        }))
    }

    /// The one that seals comes first.
    fn secrets(&self) -> Result<Secrets, Invalid> {
        let too_short =
            |key: &str| Invalid::new(key, format!("at least {} characters", Secrets::MIN_LENGTH));
        if self.secret.is_empty() {
            let problem = "needed when there are cluster.other_secrets";
            return match self.other_secrets.is_empty() {
                true => Ok(Secrets::default()),
                false => Err(Invalid::new("cluster.secret", problem)),
            };
        }
        let mut secrets = Secrets::default();
        secrets.add(&self.secret).ok_or_else(|| too_short("cluster.secret"))?;
        for other in &self.other_secrets {
            secrets.add(other).ok_or_else(|| too_short("cluster.other_secrets"))?;
        }
        Ok(secrets)
    }

    /// The number of nodes that a majority of must have what is acknowledged, if that is wanted.
    pub(super) fn quorum(&self) -> Result<Option<usize>, Invalid> {
        match self.minority.as_str() {
            "serve" => Ok(None),
            "refuse" if self.expected_nodes > 0 => Ok(Some(self.expected_nodes)),
            "refuse" => Err(Invalid::new("cluster.minority", "needs cluster.expected_nodes")),
            other => {
                let problem = format!("{other:?} is neither \"serve\" nor \"refuse\"");
                Err(Invalid::new("cluster.minority", problem))
            }
        }
    }
}

/// What a link's queue needs beside two of the largest publications: pages of several transfers.
const LINK_QUEUE: usize = 1 << 20;

impl Raw {
    /// The most bytes that one publication may have, whoever publishes it.
    fn largest_publication(&self) -> usize {
        let by_api = (self.client.queue_max_size / 2).min(BODY_LIMIT);
        let by_client = self.websocket.message_size_limit.max(self.emulation.max_request_body_size);
        by_api.max(by_client)
    }

    /// A publication that is too large for the log could not be kept, and would hold up its room.
    pub(super) fn check_segments(&self) -> Result<(), Invalid> {
        let options = self.channel.namespaces.iter().map(|it| &it.options);
        let mut all = options.chain([&self.channel.without_namespace]);
        let largest = self.largest_publication();
        let least = largest.saturating_mul(2);
        if !all.any(|it| it.log == "disk") {
            return Ok(());
        }
        let allowed = format!(
            "the largest publication that is allowed, which has {largest} bytes (client.queue_max_size / 2, \
             websocket.message_size_limit, emulation.max_request_body_size)"
        );
        let raw::Disk { segment_bytes, max_bytes, .. } = self.disk;
        if segment_bytes < least as u64 {
            let problem = format!("at least {least}: twice {allowed}");
            return Err(Invalid::new("disk.segment_bytes", problem));
        }
        // Each segment has a list of all.
        let segments = usize::try_from(max_bytes / segment_bytes.max(1)).unwrap_or(usize::MAX);
        let segment_bytes = u32::try_from(segment_bytes).unwrap_or(u32::MAX);
        let body = log::largest_body(segment_bytes, segments, log::MAX_NAME);
        if body < largest {
            let problem = format!(
                "larger: {segments} of them (disk.max_bytes) take publications of up to {body} bytes, less than {allowed}"
            );
            return Err(Invalid::new("disk.segment_bytes", problem));
        }
        Ok(())
    }

    /// A link whose queue can't hold what is sent as one would be closed as too slow, again and again.
    pub(super) fn check_link_queue(&self) -> Result<(), Invalid> {
        let largest = self.largest_publication();
        let least = LINK_QUEUE.saturating_add(largest.saturating_mul(2));
        if self.cluster.queue_max_size >= least {
            return Ok(());
        }
        let problem = format!(
            "at least {least}: 1 MiB and twice the largest publication that is allowed, which has {largest} bytes \
             (client.queue_max_size / 2, websocket.message_size_limit, emulation.max_request_body_size)"
        );
        Err(Invalid::new("cluster.queue_max_size", problem))
    }
}

/// A peer may be given by its name, which is looked up again and again; so its form is all that can be
/// checked.
fn check_peer(peer: &str) -> Result<(), Invalid> {
    let named = peer.rsplit_once(':').is_some_and(|(host, port)| {
        let letter = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
        let port = port.parse::<u16>().is_ok_and(|port| port != 0);
        port && !host.is_empty() && host.chars().all(letter)
    });
    if named || peer.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
        return Ok(());
    }
    Err(Invalid::new("cluster.join", format!("{peer:?} is no address of the form HOST:PORT")))
}
