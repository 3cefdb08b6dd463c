//! ConnectionLimits on connections: how many may be open from one address, and how many may be opened in a second, over all
//! and from one address. Pure.
//!
//! In: an address and the moment. Out: whether the client may connect.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use crate::runtime::time::Time;

/// The least number of addresses that is worth a look for those that can be forgotten.
const FEW: usize = 1024;
/// How often to report that clients are rejected.
const REPORT_EVERY: Duration = Duration::from_secs(3);

/// The limits; 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// New connections in a second.
    pub rate: u32,
    /// Open connections from one address.
    pub of_address: u32,
    /// New connections in a second from one address.
    pub rate_of_address: u32,
}

/// Why a client may not come: the option whose limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is reached")]
pub struct Full(pub &'static str);

/// What may come at once, and fills up again in a second.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// What has come and is not made up for by time yet, in thousandths.
    used: u64,
    at: Time,
}

impl Bucket {
    fn used(&self, rate: u32, now: Time) -> u64 {
        let millis = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.used.saturating_sub(millis.saturating_mul(u64::from(rate)))
    }

    fn take(&mut self, rate: u32, now: Time) -> bool {
        let used = self.used(rate, now);
        let fits = rate == 0 || used + 1000 <= u64::from(rate) * 1000;
        if fits && rate > 0 {
            (self.used, self.at) = (used + 1000, now);
        }
        fits
    }
}

#[derive(Debug)]
struct OfAddress {
    open: u32,
    bucket: Bucket,
}

/// Counts connections, and says which are too many.
#[derive(Debug)]
pub struct ConnectionLimiter {
    limits: ConnectionLimits,
    all: Bucket,
    by_address: HashMap<IpAddr, OfAddress>,
    /// The number of addresses at which to look for those that can be forgotten.
    sweep_at: usize,
    reported: Option<Time>,
}

impl ConnectionLimiter {
    /// Nobody yet.
    pub fn new(limits: ConnectionLimits) -> Self {
        let all = Bucket { used: 0, at: Time::default() };
        Self { limits, all, by_address: HashMap::new(), sweep_at: FEW, reported: None }
    }

    /// A client wants to connect. For each that may, call [`ConnectionLimiter::leave`] when it goes.
    ///
    /// # Errors
    /// If it may not.
    pub fn enter(&mut self, address: IpAddr, now: Time) -> Result<(), Full> {
        let limits = self.limits;
        let address = network(address);
        if limits.of_address > 0 || limits.rate_of_address > 0 {
            self.sweep(now);
            let new = || OfAddress { open: 0, bucket: Bucket { used: 0, at: now } };
            let from = self.by_address.entry(address).or_insert_with(new);
            if limits.of_address > 0 && from.open >= limits.of_address {
                return Err(Full("client.ip_connection_limit"));
            }
            if !from.bucket.take(limits.rate_of_address, now) {
                return Err(Full("client.ip_connection_rate_limit"));
            }
        }
        if !self.all.take(limits.rate, now) {
            return Err(Full("client.connection_rate_limit"));
        }
        if let Some(from) = self.by_address.get_mut(&address) {
            from.open += 1;
        }
        Ok(())
    }

    /// A client is gone.
    pub fn leave(&mut self, address: IpAddr, now: Time) {
        let address = network(address);
        let rate = self.limits.rate_of_address;
        if let Some(from) = self.by_address.get_mut(&address) {
            from.open = from.open.saturating_sub(1);
            if from.open == 0 && from.bucket.used(rate, now) == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Whether it is time again to report that clients are rejected.
    pub fn take_report(&mut self, now: Time) -> bool {
        let due = self.reported.is_none_or(|reported| now.since(reported) >= REPORT_EVERY);
        if due {
            self.reported = Some(now);
        }
        due
    }

    fn sweep(&mut self, now: Time) {
        if self.by_address.len() >= self.sweep_at {
            let rate = self.limits.rate_of_address;
            self.by_address.retain(|_, it| it.open > 0 || it.bucket.used(rate, now) > 0);
            self.sweep_at = FEW.max(self.by_address.len() * 2);
        }
    }
}

/// A host with one IPv6 address usually has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() & !u128::from(u64::MAX)).into(),
        it => it,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const BOB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn coming(limits: &mut ConnectionLimiter, address: IpAddr, now: Time) -> usize {
        (0..100).take_while(|_| limits.enter(address, now).is_ok()).count()
    }

    #[test]
    fn so_many_may_come_in_a_second() {
        let mut limits =
            ConnectionLimiter::new(ConnectionLimits { rate: 10, ..ConnectionLimits::default() });
        assert_eq!(coming(&mut limits, ANN, at(5000)), 10);
        assert_eq!(coming(&mut limits, BOB, at(5000)), 0);
        assert_eq!(coming(&mut limits, BOB, at(5250)), 2);
        assert_eq!(coming(&mut limits, ANN, at(60_000)), 10);
        assert!(limits.by_address.is_empty());
    }

    #[test]
    fn addresses_are_limited_each_for_itself() {
        let limits = ConnectionLimits { of_address: 3, ..ConnectionLimits::default() };
        let mut limits = ConnectionLimiter::new(limits);
        assert_eq!(coming(&mut limits, ANN, at(0)), 3);
        assert_eq!(coming(&mut limits, BOB, at(0)), 3);
        assert_eq!(limits.enter(ANN, at(1)), Err(Full("client.ip_connection_limit")));
        limits.leave(ANN, at(1));
        assert_eq!(coming(&mut limits, ANN, at(1)), 1);
        (0..3).for_each(|_| limits.leave(ANN, at(2)));
        (0..3).for_each(|_| limits.leave(BOB, at(2)));
        assert!(limits.by_address.is_empty());
    }

    #[test]
    fn a_flood_from_ever_new_addresses_is_forgotten() {
        let limits = ConnectionLimits { rate_of_address: 2, ..ConnectionLimits::default() };
        let mut limits = ConnectionLimiter::new(limits);
        for number in 0..100_000u32 {
            let (address, now) = (IpAddr::from(number.to_be_bytes()), at(u64::from(number)));
            limits.enter(address, now).expect("the first of its address");
            limits.leave(address, now);
        }
        assert!(limits.by_address.len() < 3 * FEW, "{}", limits.by_address.len());
        assert_eq!(coming(&mut limits, ANN, at(200_000)), 2);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let mut limits = ConnectionLimiter::new(ConnectionLimits {
            of_address: 1,
            ..ConnectionLimits::default()
        });
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(limits.enter(address("2001:db8::1"), at(0)), Ok(()));
        assert!(limits.enter(address("2001:db8::2"), at(0)).is_err());
        assert_eq!(limits.enter(address("2001:db8:0:1::1"), at(0)), Ok(()));
        assert_eq!(limits.enter(address("::ffff:10.0.0.1"), at(0)), Ok(()));
        assert!(limits.enter(ANN, at(0)).is_err());
    }
}
