//! How often one place may say the same: what strangers can cause must not fill a log.

use std::{collections::HashMap, hash::Hash};

/// Counts what each place has said since the last look.
#[derive(Debug)]
pub struct Limiter<K> {
    most: u64,
    said: HashMap<K, u64>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// Lets `most` through between two looks.
    pub fn new(most: u64) -> Self {
        Self { most, said: HashMap::new() }
    }

    /// Whether the place may say it.
    pub fn admit(&mut self, place: K) -> bool {
        let said = self.said.entry(place).or_default();
        *said += 1;
        *said <= self.most
    }

    /// How much each place has not said since the last look. From now on all may speak again.
    pub fn take_missed(&mut self) -> Vec<(K, u64)> {
        let most = self.most;
        let all = self.said.drain();
        all.filter(|(_, said)| *said > most).map(|(place, said)| (place, said - most)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_get_through_and_the_rest_is_counted() {
        let mut limiter = Limiter::new(2);
        let admitted: Vec<bool> = (0..5).map(|_| limiter.admit("a")).collect();
        assert_eq!(admitted, [true, true, false, false, false]);
        assert!(limiter.admit("b"));
        assert_eq!(limiter.take_missed(), [("a", 3)]);
        assert!(limiter.admit("a") && limiter.take_missed().is_empty());
    }
}
