//! Keys that are frequent in a stream of messages, counted in bounded memory; and the shares of all messages that they
//! have, from which follows how even partitions can be.
//!
//! Reference: J. Misra, D. Gries, "Finding repeated elements", 1982. A key's count is never too high, and too low by at
//! most the number of keys divided by the capacity; while there are fewer keys than that, counts are exact.

use std::collections::HashMap;

use crate::message::partition::hash_of;

/// A key that was counted.
#[derive(Clone, Debug)]
struct Counted {
    count: f64,
    /// A message's whole key, of which the counted bytes are a part.
    example: Vec<u8>,
}

/// Counts the keys of one stream, at most so many at a time.
#[derive(Clone, Debug)]
pub struct FrequentKeys {
    capacity: usize,
    counts: HashMap<Vec<u8>, Counted>,
    total: u64,
}

impl FrequentKeys {
    /// Nothing is counted yet.
    pub fn new(capacity: usize) -> FrequentKeys {
        FrequentKeys { capacity, counts: HashMap::new(), total: 0 }
    }

    /// Counts a key; `example` is the whole key that it is a part of.
    pub fn add(&mut self, key: &[u8], example: &[u8]) {
        self.total += 1;
        if let Some(known) = self.counts.get_mut(key) {
            known.count += 1.0;
        } else if self.counts.len() < self.capacity {
            self.counts.insert(key.to_vec(), Counted { count: 1.0, example: example.to_vec() });
        } else {
            self.counts.retain(|_, known| {
                known.count -= 1.0;
                known.count > 0.0
            });
        }
    }
}

/// Counts of several streams, each of which counts as if it had been read whole.
#[derive(Clone, Debug, Default)]
pub struct WeighedKeys {
    counts: HashMap<Vec<u8>, Counted>,
    total: f64,
}

impl WeighedKeys {
    /// Takes over what was counted in a stream, each key of which stands for `weight` keys.
    pub fn take(&mut self, counted: FrequentKeys, weight: f64) {
        self.total += counted.total as f64 * weight;
        for (key, Counted { count, example }) in counted.counts {
            self.counts.entry(key).or_insert(Counted { count: 0.0, example }).count += count * weight;
        }
    }

    /// The shares of the `most` most frequent keys, the largest first. `text` shows a whole key to a person.
    pub fn shares(self, most: usize, text: impl Fn(&[u8]) -> String) -> KeyShares {
        let total = self.total.max(f64::MIN_POSITIVE);
        let mut counts: Vec<_> = self.counts.into_iter().collect();
        counts.sort_by(|(one, of_one), (other, of_other)| {
            of_other.count.total_cmp(&of_one.count).then_with(|| one.cmp(other))
        });
        counts.truncate(most);
        let keys: Vec<_> = counts
            .into_iter()
            .map(|(key, Counted { count, example })| KeyShare {
                text: text(&example),
                hash: hash_of(&key),
                share: count / total,
            })
            .collect();
        let counted: f64 = keys.iter().map(|key| key.share).sum();
        KeyShares { rest: if keys.is_empty() { 0.0 } else { (1.0 - counted).max(0.0) }, keys }
    }
}

/// A key's share of the messages.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyShare {
    /// The key, as a person reads it: `tenant=7`.
    pub text: String,
    /// Its hash, from which its partition follows.
    pub hash: i32,
    /// Its share of all messages that have a key, from 0 to 1.
    pub share: f64,
}

/// The keys of a topic by one rule of partitioning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyShares {
    /// The most frequent keys, the largest share first.
    pub keys: Vec<KeyShare>,
    /// The share of all others together, each of which is small; exactly 0 where there are none.
    pub rest: f64,
}

impl KeyShares {
    /// Share of the most frequent key; 0 where there is none.
    pub fn heaviest(&self) -> f64 {
        self.keys.first().map_or(0.0, |key| key.share)
    }

    /// The share that the largest of so many partitions has: frequent keys lie where their hashes say, and the rest is
    /// even.
    pub fn largest_partition(&self, partitions: i32) -> f64 {
        let partitions = partitions.max(1);
        let mut shares = vec![self.rest / f64::from(partitions); partitions as usize];
        for key in &self.keys {
            shares[(key.hash % partitions) as usize] += key.share;
        }
        shares.into_iter().fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::partition::partition_of;

    fn text(key: &[u8]) -> String {
        String::from_utf8_lossy(key).into_owned()
    }

    #[test]
    fn few_keys_are_counted_exactly_and_streams_are_weighed() {
        let (mut one, mut other) = (FrequentKeys::new(4), FrequentKeys::new(4));
        for key in ["a", "a", "b", "a"] {
            one.add(key.as_bytes(), key.as_bytes());
        }
        other.add(b"c", b"c of a whole key");
        let mut all = WeighedKeys::default();
        all.take(one, 1.0);
        all.take(other, 4.0);
        let shares = all.shares(10, text);
        let told: Vec<_> = shares.keys.iter().map(|key| (key.text.as_str(), key.share)).collect();
        assert_eq!(told, [("c of a whole key", 0.5), ("a", 0.375), ("b", 0.125)]);
        assert_eq!((shares.rest, shares.heaviest()), (0.0, 0.5));
    }

    #[test]
    fn a_frequent_key_is_found_among_more_keys_than_are_counted() {
        let mut keys = FrequentKeys::new(10);
        for number in 0..10_000_u32 {
            match number % 10 {
                0..8 => keys.add(b"hot", b"hot"),
                _ => keys.add(&number.to_le_bytes(), b""),
            }
            assert!(keys.counts.len() <= 10);
        }
        let mut all = WeighedKeys::default();
        all.take(keys, 1.0);
        let shares = all.shares(1, text);
        assert_eq!(shares.keys[0].text, "hot");
        // At most one in eleven messages takes a count away.
        assert!((0.8 - 1.0 / 11.0..=0.8).contains(&shares.heaviest()), "{shares:?}");
        assert!((shares.rest + shares.heaviest() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_largest_partition_follows_from_the_keys_hashes() {
        let key = |name: &str, share: f64| KeyShare { text: name.into(), hash: hash_of(name.as_bytes()), share };
        let even = KeyShares { keys: Vec::new(), rest: 1.0 };
        assert_eq!(even.largest_partition(4), 0.25);
        let skewed = KeyShares { keys: vec![key("hot", 0.8)], rest: 0.2 };
        assert_eq!(skewed.largest_partition(1), 1.0);
        assert!((skewed.largest_partition(4) - 0.85).abs() < 1e-9);
        // Two keys that meet in a partition of two, and in none of more.
        let names: Vec<_> = (0..100).map(|number| format!("k{number}")).collect();
        let at = |name: &str, partitions| partition_of(name.as_bytes(), partitions);
        let meets = |other: &&String| at(&names[0], 2) == at(other, 2) && at(&names[0], 3) != at(other, 3);
        let other = names[1..].iter().find(meets).unwrap();
        let few = KeyShares { keys: vec![key(&names[0], 0.5), key(other, 0.5)], rest: 0.0 };
        assert_eq!((few.largest_partition(2), few.largest_partition(3)), (1.0, 0.5));
    }
}
