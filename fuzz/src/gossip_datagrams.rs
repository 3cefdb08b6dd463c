//! Datagrams from strangers, and from someone who knows the cluster's secret, into the codec of gossip.
//!
//! Nothing may panic. A stranger's is never taken, what was sealed is taken once and not if a bit of it has
//! changed, and a node without a secret reads the same in it.

use roomcast::cluster::datagram::{Codec, Dropped, NONCE, Seal};

const KEY: [u8; 32] = [7; 32];
const NOW: u64 = 1_000_000;

/// Plays one input: the content of a datagram.
pub fn run(input: &[u8]) {
    let mut node = Codec::new(&vec![KEY], 1);
    assert!(node.decode(input, NOW).is_err(), "a stranger's datagram was taken");
    let sealed = Seal::new(&vec![KEY], 2).seal(input, [3; NONCE], NOW);
    let sealed = sealed.unwrap_or_else(|| panic!("{} bytes could not be sealed", input.len()));

    let mut changed = sealed.clone();
    let place = input.first().map_or(0, |it| usize::from(*it)) % changed.len();
    changed[place] ^= 1 << (input.len() % 8);
    assert_eq!(node.decode(&changed, NOW), Err(Dropped::NotSealedByUs));
    assert_eq!(node.decode(&sealed, NOW + 3_600_000), Err(Dropped::TooOld));

    let message = node.decode(&sealed, NOW);
    assert_eq!(node.decode(&sealed, NOW), Err(Dropped::Repeated));
    assert_eq!(Codec::new(&vec![], 1).decode(input, NOW), message);
}
