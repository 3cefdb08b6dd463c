//! Where a request comes from: the address of its client, also behind proxies. Pure.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// What the headers of a request say of where it comes from, each in the order in which it stands there.
#[derive(Debug, Default)]
pub struct Said<'a> {
    /// `X-Forwarded-For`: addresses.
    pub forwarded_for: Vec<&'a str>,
    /// `Forwarded` (RFC 7239): hops, of which each may name an address in `for`. Counts if the former is missing.
    pub forwarded: Vec<&'a str>,
    /// `X-Real-IP`: an address. Counts if both are missing.
    pub real_ip: Option<&'a str>,
}

/// The client's address. Every proxy adds whom it got the request from to the end of what others have said, so
/// the client is the last that is no proxy of ours; what stands before it, the client may have made up. Only
/// proxies in `trusted` are believed.
pub fn client(peer: IpAddr, said: &Said<'_>, trusted: &[IpNet]) -> IpAddr {
    let is_proxy = |address: &IpAddr| {
        let address = address.to_canonical();
        trusted.iter().any(|net| net.contains(&address))
    };
    if !is_proxy(&peer) {
        return peer;
    }
    let hops: Vec<Option<IpAddr>> = match said.forwarded_for.is_empty() {
        false => said.forwarded_for.iter().flat_map(|it| it.split(',')).map(address).collect(),
        true => said.forwarded.iter().flat_map(|it| it.split(',')).map(named).collect(),
    };
    let mut client = None;
    for hop in hops.into_iter().rev() {
        // What is no address was not written by a proxy of ours, or hides who it got the request from.
        let Some(address) = hop else { break };
        client = Some(address);
        if !is_proxy(&address) {
            break;
        }
    }
    client.or_else(|| said.real_ip.and_then(address)).unwrap_or(peer)
}

/// An address as proxies write it: alone, in brackets, and with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|it| it.ip());
    let address: IpAddr = text.parse().ok().or_else(in_brackets).or_else(with_port)?;
    // A proxy that listens for both families shows IPv4 addresses as IPv6 ones.
    Some(address.to_canonical())
}

/// Whom a hop of `Forwarded` names: `for=192.0.2.1;proto=https`, `For="[2001:db8::1]:4711"`.
fn named(hop: &str) -> Option<IpAddr> {
    let mut pairs = hop.split(';').filter_map(|it| it.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, said: &Said<'_>) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|it| it.parse().expect("a network"));
        client(peer.parse().expect("an address"), said, &trusted).to_string()
    }

    fn from(peer: &str, forwarded_for: &[&str], real_ip: Option<&str>) -> String {
        let forwarded_for = forwarded_for.to_vec();
        of(peer, &Said { forwarded_for, real_ip, ..Said::default() })
    }

    fn forwarded(hops: &[&str]) -> String {
        of("10.0.0.1", &Said { forwarded: hops.to_vec(), ..Said::default() })
    }

    #[test]
    fn only_proxies_are_believed() {
        assert_eq!(from("192.0.2.1", &["198.51.100.1"], Some("198.51.100.2")), "192.0.2.1");
        assert_eq!(from("10.0.0.1", &["198.51.100.1"], None), "198.51.100.1");
        assert_eq!(from("10.0.0.1", &[], Some("198.51.100.2")), "198.51.100.2");
        assert_eq!(from("::ffff:10.0.0.1", &["2001:db8::1"], None), "2001:db8::1");
        assert_eq!(from("10.0.0.1", &[], None), "10.0.0.1");
    }

    #[test]
    fn what_a_client_makes_up_stands_before_what_the_proxies_say() {
        assert_eq!(from("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"], None), "198.51.100.1");
        assert_eq!(from("10.0.0.1", &["1.1.1.1", "198.51.100.1"], None), "198.51.100.1");
        assert_eq!(from("10.0.0.1", &["198.51.100.1, junk"], None), "10.0.0.1");
        assert_eq!(from("10.0.0.1", &["10.0.0.3, 10.0.0.2"], None), "10.0.0.3");
    }

    #[test]
    fn addresses_may_have_ports_and_brackets() {
        for (written, meant) in [
            ("198.51.100.1:1001", "198.51.100.1"),
            ("1.1.1.1:5, 198.51.100.1:1001, 10.0.0.2:80", "198.51.100.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1, [fd00::2]:80", "2001:db8::1"),
            ("198.51.100.1:port", "10.0.0.1"),
            ("[198.51.100.1", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(from("10.0.0.1", &[written], None), meant, "{written}");
        }
        assert_eq!(from("10.0.0.1", &[], Some("[2001:db8::1]:4711")), "2001:db8::1");
        for mapped in ["::ffff:198.51.100.1", "[::ffff:198.51.100.1]:4711"] {
            assert_eq!(from("10.0.0.1", &[mapped], None), "198.51.100.1", "{mapped}");
        }
    }

    #[test]
    fn the_standard_header_is_read_as_well() {
        for (hops, meant) in [
            (&["for=198.51.100.1;proto=https;by=10.0.0.9"][..], "198.51.100.1"),
            (&["for=1.1.1.1, For=\"[2001:db8::1]:4711\"; proto=http, for=10.0.0.2"], "2001:db8::1"),
            (&["for=1.1.1.1", "proto=https; for=\"198.51.100.1:80\""], "198.51.100.1"),
            (&["for=198.51.100.1, for=unknown"], "10.0.0.1"),
            (&["for=_hidden"], "10.0.0.1"),
            (&["proto=https"], "10.0.0.1"),
        ] {
            assert_eq!(forwarded(hops), meant, "{hops:?}");
        }
        let both = Said {
            forwarded_for: vec!["198.51.100.1"],
            forwarded: vec!["for=198.51.100.2"],
            real_ip: Some("198.51.100.3"),
        };
        assert_eq!(of("10.0.0.1", &both), "198.51.100.1");
    }
}
