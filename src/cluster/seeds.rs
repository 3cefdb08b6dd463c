//! SHELL. The nodes to begin with: names of `cluster.join` are looked up again and again, since a name may get
//! its addresses, or others, only after the node has started.
//!
//! In: a name. Out: its addresses, whenever they were looked up. chitchat would look names up at the start and
//! then once a minute, so it is given addresses only.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::view::View;

/// How often a name is looked up while the node sees no other.
const ALONE: Duration = Duration::from_secs(1);
/// How often otherwise: a node that sees others learns of all from them, unless the cluster was divided.
const TOGETHER: Duration = Duration::from_secs(30);
/// How long one look may take; the next begins then all the same.
const LOOK: Duration = Duration::from_secs(3);
/// The most nodes that are greeted at a time. A name may stand for hundreds.
const GREETED: usize = 8;

/// Looks up `name`, for as long as this node has a view, and passes on what is found.
pub async fn look_up(name: String, view: watch::Receiver<View>, found: impl Fn(Vec<SocketAddr>)) {
    let mut last = Ok(Vec::new());
    while view.has_changed().is_ok() {
        let looked = Instant::now();
        let result = addresses(&name).await;
        if result != last {
            match &result {
                Ok(addresses) => tracing::info!(name, ?addresses, "a name of cluster.join"),
                Err(error) => tracing::warn!(
                    name,
                    error,
                    "a name of cluster.join can't be looked up; trying again"
                ),
            }
        }
        found(result.clone().unwrap_or_default());
        last = result;
        let alone = || view.borrow().nodes().len() <= 1;
        loop {
            tokio::time::sleep(ALONE).await;
            if alone() || looked.elapsed() >= TOGETHER {
                break;
            }
        }
    }
}

/// Looks all names up once, whatever comes of it: how long a starting node waits for others counts from then on.
pub async fn first_look(names: &[String]) {
    futures_util::future::join_all(names.iter().map(|name| addresses(name))).await;
}

/// The addresses of a name, sorted; or in words why there are none.
async fn addresses(name: &str) -> Result<Vec<SocketAddr>, String> {
    let looked = tokio::time::timeout(LOOK, tokio::net::lookup_host(name)).await;
    let looked = looked.map_err(|_| format!("no answer within {LOOK:?}"))?;
    let found: BTreeSet<SocketAddr> = looked.map_err(|error| error.to_string())?.collect();
    Ok(found.into_iter().collect())
}

/// Which of the addresses that were found are to be greeted at this turn: some of those that gossip does not
/// reach already.
pub fn greeted(
    found: &[SocketAddr],
    me: SocketAddr,
    live: &BTreeSet<SocketAddr>,
    turn: usize,
) -> Vec<SocketAddr> {
    let strange: Vec<SocketAddr> =
        found.iter().copied().filter(|it| *it != me && !live.contains(it)).collect();
    let first = turn.wrapping_mul(GREETED) % strange.len().max(1);
    let from_there = strange[first..].iter().chain(&strange[..first]);
    from_there.take(GREETED).copied().collect()
}

/// Divides what is to be joined: addresses, and names with a port.
pub fn divide(join: &[String]) -> (Vec<String>, Vec<String>) {
    join.iter().cloned().partition(|it| it.parse::<SocketAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> SocketAddr {
        ([127, 0, 0, 1], number).into()
    }

    #[test]
    fn only_nodes_that_gossip_does_not_reach_are_greeted() {
        let found = [node(1), node(2), node(3)];
        let live = BTreeSet::from([node(1), node(2)]);
        assert_eq!(greeted(&found, node(1), &live, 0), [node(3)]);
        assert_eq!(greeted(&found[..2], node(1), &live, 7), []);
        assert_eq!(greeted(&[], node(1), &live, 7), []);
    }

    #[test]
    fn of_many_all_get_their_turn() {
        let found: Vec<SocketAddr> = (1..=20).map(node).collect();
        let mut met = BTreeSet::new();
        for turn in 0..5 {
            let now = greeted(&found, node(1), &BTreeSet::new(), turn);
            assert_eq!(now.len(), GREETED);
            met.extend(now);
        }
        assert_eq!(met.len(), 19);
    }

    #[test]
    fn names_are_told_from_addresses() {
        let join = ["10.0.0.1:7946", "a.example:7946", "[::1]:7946"].map(str::to_owned);
        let (addresses, names) = divide(&join);
        assert_eq!(addresses, ["10.0.0.1:7946", "[::1]:7946"]);
        assert_eq!(names, ["a.example:7946"]);
    }
}
