//! What several looks at a table's rows, at the source and in the lake, say about it. Without I/O.
//!
//! Between two looks rows change. A row that was equal in one look is equal. One that differs is a difference only if
//! it stays just so, on both sides, while the lake has got past where the source was looked at.

use std::collections::{BTreeMap, HashMap, HashSet};

use sooner_delta::verification::Fingerprint;

/// Fewest and most buckets that rows are counted in.
const FEWEST_BUCKETS: usize = 1 << 14;
const MOST_BUCKETS: usize = 1 << 20;
/// Rows that a bucket is to have.
const BUCKET_ROWS: u64 = 64;
/// Rows that are looked at one by one at the same time, at most: what is known of each is in memory.
pub const MOST_ROWS: u64 = 200_000;
/// How often a difference has to be seen. A row that moves while it is looked for may be missed at the source.
const TIMES: u32 = 3;

/// Rows, counted in buckets by their keys: equal sets of rows have equal buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    sums: Vec<u128>,
    counts: Vec<u32>,
    /// Number of rows.
    pub rows: u64,
}

/// Number of the bucket that a row is counted in, of so many.
fn bucket_of(key: u128, buckets: usize) -> usize {
    (key >> 64) as usize % buckets
}

impl Buckets {
    /// Buckets for about so many rows.
    pub fn for_rows(rows: u64) -> Buckets {
        let wanted = usize::try_from(rows / BUCKET_ROWS).unwrap_or(MOST_BUCKETS);
        let number = wanted.min(MOST_BUCKETS).next_power_of_two().max(FEWEST_BUCKETS);
        Buckets { sums: vec![0; number], counts: vec![0; number], rows: 0 }
    }

    /// Counts a row.
    pub fn count(&mut self, row: Fingerprint) {
        let bucket = bucket_of(row.key, self.sums.len());
        // Values are hashed with a secret, and the key is one of them.
        self.sums[bucket] = self.sums[bucket].wrapping_add(row.values);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.rows += 1;
    }

    /// Buckets in which two sets of rows differ, in groups: each has few enough rows to be looked at one by one, or is
    /// of one bucket.
    pub fn differing(&self, other: &Buckets) -> Vec<Wanted> {
        let number = self.sums.len();
        let (mut groups, mut rows) = (Vec::<HashSet<usize>>::new(), 0);
        for bucket in (0..number).filter(|bucket| self.sums[*bucket] != other.sums[*bucket]) {
            rows += u64::from(self.counts[bucket].max(other.counts[bucket]));
            match groups.last_mut().filter(|_| rows <= MOST_ROWS) {
                Some(group) => drop(group.insert(bucket)),
                None => {
                    rows = u64::from(self.counts[bucket].max(other.counts[bucket]));
                    groups.push(HashSet::from([bucket]));
                }
            }
        }
        groups.into_iter().map(|buckets| Wanted::Buckets(buckets, number)).collect()
    }
}

/// Which rows are looked at.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Those of these buckets, of so many.
    Buckets(HashSet<usize>, usize),
    /// Those with these keys.
    Keys(HashSet<u128>),
}

impl Wanted {
    /// Whether a row is looked at.
    pub fn has(&self, key: u128) -> bool {
        match self {
            Wanted::Buckets(buckets, number) => buckets.contains(&bucket_of(key, *number)),
            Wanted::Keys(keys) => keys.contains(&key),
        }
    }
}

/// Values of rows by their keys.
pub type Seen = HashMap<u128, u128>;

/// A row that differs: its values at the source and in the lake; none where there is no such row.
pub type Pair = (Option<u128>, Option<u128>);

/// The rows that have differed in every look, each with how, and in how many looks just so.
#[derive(Debug, Default)]
pub struct Suspects {
    pairs: BTreeMap<u128, (Pair, u32)>,
    is_begun: bool,
}

impl Suspects {
    /// Takes in a look at rows: those that are equal in it are cleared.
    pub fn look(&mut self, source: &Seen, lake: &Seen) {
        let keys: HashSet<u128> = source.keys().chain(lake.keys()).copied().collect();
        let pair_of = |key: u128| (source.get(&key).copied(), lake.get(&key).copied());
        if !std::mem::replace(&mut self.is_begun, true) {
            let pairs = keys.into_iter().map(|key| (key, (pair_of(key), 1)));
            self.pairs = pairs.filter(|(_, ((source, lake), _))| source != lake).collect();
            return;
        }
        self.pairs.retain(|key, (known, times)| {
            let pair = pair_of(*key);
            *times = if pair == *known { *times + 1 } else { 1 };
            *known = pair;
            pair.0 != pair.1
        });
    }

    /// Takes in what rows are on both sides at one and the same position: that is certain of each of these keys.
    pub fn settle(&mut self, keys: &HashSet<u128>, source: &Seen, lake: &Seen) {
        for key in keys {
            let pair = (source.get(key).copied(), lake.get(key).copied());
            match pair.0 == pair.1 {
                true => self.pairs.remove(key),
                false => self.pairs.insert(*key, (pair, TIMES)),
            };
        }
    }

    /// Keys that are to be looked at again.
    pub fn open(&self) -> HashSet<u128> {
        let open = self.pairs.iter().filter(|(_, (_, times))| *times < TIMES);
        open.map(|(key, _)| *key).collect()
    }

    /// Keys of all rows that may differ.
    pub fn keys(&self) -> HashSet<u128> {
        self.pairs.keys().copied().collect()
    }

    /// The rows that differ for certain.
    pub fn certain(&self) -> impl Iterator<Item = (u128, Pair)> {
        self.pairs.iter().filter(|(_, (_, times))| *times >= TIMES).map(|(key, (pair, _))| (*key, *pair))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(rows: &[(u128, u128)]) -> Seen {
        rows.iter().copied().collect()
    }

    #[test]
    fn equal_sets_of_rows_have_equal_buckets_in_any_order() {
        let rows: Vec<_> = (0..500u128).map(|row| Fingerprint { key: row << 80, values: row * 7 + 1 }).collect();
        let counted = |rows: &mut dyn Iterator<Item = Fingerprint>| {
            let mut buckets = Buckets::for_rows(0);
            rows.for_each(|row| buckets.count(row));
            buckets
        };
        let there = counted(&mut rows.iter().copied());
        assert_eq!(there, counted(&mut rows.iter().rev().copied()));
        let other = counted(&mut rows.iter().copied().map(|row| match row.key >> 80 {
            7 => Fingerprint { values: 0, ..row },
            _ => row,
        }));
        let groups = there.differing(&other);
        let [differing] = &groups[..] else { panic!("{groups:?}") };
        assert!(differing.has(7 << 80) && !differing.has(1 << 64));
    }

    #[test]
    fn buckets_that_differ_are_looked_at_in_groups_of_a_bounded_number_of_rows() {
        let of = |values: u128| {
            let mut buckets = Buckets::for_rows(1 << 20);
            (0..1u128 << 20).for_each(|row| buckets.count(Fingerprint { key: row << 64, values }));
            buckets
        };
        let groups = of(1).differing(&of(2));
        let wanted = |group: &Wanted| (0..1u128 << 20).filter(|row| group.has(row << 64)).count() as u64;
        let rows: Vec<_> = groups.iter().map(wanted).collect();
        assert_eq!(rows.iter().sum::<u64>(), 1 << 20, "each row is in one of them");
        assert!(rows.len() == 6 && rows.iter().all(|rows| *rows <= MOST_ROWS), "{rows:?}");
        assert!(of(1).differing(&of(1)).is_empty());
        assert_eq!(Buckets::for_rows(u64::MAX).sums.len(), MOST_BUCKETS);
    }

    #[test]
    fn a_row_on_its_way_is_no_difference_and_one_that_stays_different_is() {
        let mut suspects = Suspects::default();
        // 1 is missing, 2 is on its way, 3 has another value, 4 keeps changing, 5 is too many.
        let looks = [
            (seen(&[(1, 10), (2, 21), (3, 30), (4, 41)]), seen(&[(2, 20), (3, 31), (4, 40), (5, 50)])),
            (seen(&[(1, 10), (2, 21), (3, 30), (4, 42)]), seen(&[(2, 21), (3, 31), (4, 41), (5, 50)])),
            (seen(&[(1, 10), (2, 22), (3, 30), (4, 43)]), seen(&[(2, 21), (3, 31), (4, 42), (5, 50)])),
        ];
        for (source, lake) in &looks {
            suspects.look(source, lake);
        }
        let certain: BTreeMap<_, _> = suspects.certain().collect();
        let expected = [(1, (Some(10), None)), (3, (Some(30), Some(31))), (5, (None, Some(50)))];
        assert_eq!(certain, BTreeMap::from(expected));
        assert_eq!(suspects.open(), HashSet::from([4]));
        suspects.settle(&HashSet::from([4]), &seen(&[(4, 44)]), &seen(&[(4, 45)]));
        assert_eq!(suspects.certain().find(|(key, _)| *key == 4), Some((4, (Some(44), Some(45)))));
        suspects.settle(&HashSet::from([4]), &seen(&[(4, 45)]), &seen(&[(4, 45)]));
        assert!(!suspects.keys().contains(&4), "what is equal at one position is equal");
        let equal = seen(&[(1, 10), (3, 30)]);
        suspects.look(&equal, &equal);
        assert!(suspects.keys().is_empty(), "what is equal once is equal");
    }
}
