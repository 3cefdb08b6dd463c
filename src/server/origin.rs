//! Where a request comes from: the address of its client, also behind proxies. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

/// The client's address. Every proxy adds whom it got the request from to the end of `forwarded`
/// (`X-Forwarded-For`), so the client is the last that is no proxy of ours; what stands before it, the client
/// may have made up. `real` is what a proxy says otherwise (`X-Real-IP`). Only proxies in `trusted` are believed.
pub fn client(peer: IpAddr, forwarded: &[&str], real: Option<&str>, trusted: &[IpNet]) -> IpAddr {
    let is_proxy = |address: &IpAddr| {
        let address = address.to_canonical();
        trusted.iter().any(|net| net.contains(&address))
    };
    if !is_proxy(&peer) {
        return peer;
    }
    let hops = forwarded.iter().flat_map(|it| it.split(',')).map(str::trim);
    let mut client = None;
    for hop in hops.rev() {
        // What is no address was not written by a proxy of ours.
        let Ok(address) = hop.parse::<IpAddr>() else { break };
        client = Some(address);
        if !is_proxy(&address) {
            break;
        }
    }
    client.or_else(|| real?.trim().parse().ok()).unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str, forwarded: &[&str], real: Option<&str>) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|it| it.parse().expect("a network"));
        client(peer.parse().expect("an address"), forwarded, real, &trusted).to_string()
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
}
