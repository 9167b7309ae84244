//! Addresses of rows by their keys, in memory.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;

use super::key::{AlreadyHashed, KeyHash};

/// Number of a data file, given by this process and never reused.
pub type FileId = u32;

/// Address of a row in a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowAddress {
    /// Number of the data file.
    pub file: FileId,
    /// Position of the row in the file, from 0.
    pub row: u32,
}

/// A map from key hash to row address. In memory, it takes 25 bytes for each row, and up to as many in spare.
#[derive(Debug, Default)]
pub struct KeyIndex {
    rows: HashMap<Halves, RowAddress, BuildHasherDefault<AlreadyHashed>>,
}

/// A key hash in two halves: aligned to 8 bytes, it needs a quarter less memory in the map than a `u128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halves(u64, u64);

impl std::hash::Hash for Halves {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl KeyIndex {
    /// Address of the row with a key; none if the key is not indexed.
    pub fn get(&self, key: KeyHash) -> Option<RowAddress> {
        self.rows.get(&halves(key)).copied()
    }

    /// Sets the row address of a key, and returns the one it had before.
    pub fn insert(&mut self, key: KeyHash, row: RowAddress) -> Option<RowAddress> {
        self.rows.insert(halves(key), row)
    }

    /// Removes a key, and returns the row address it had.
    pub fn remove(&mut self, key: KeyHash) -> Option<RowAddress> {
        self.rows.remove(&halves(key))
    }

    /// All keys with their row addresses, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (KeyHash, RowAddress)> + '_ {
        self.rows.iter().map(|(key, row)| (u128::from(key.0) << 64 | u128::from(key.1), *row))
    }

    /// Number of keys in the index.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the index has no key.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Reserves memory for this many more keys.
    pub fn reserve(&mut self, keys: usize) {
        self.rows.reserve(keys);
    }
}

fn halves(key: KeyHash) -> Halves {
    Halves((key >> 64) as u64, key as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: FileId, row: u32) -> RowAddress {
        RowAddress { file, row }
    }

    #[test]
    fn both_halves_of_a_key_count() {
        let mut index = KeyIndex::default();
        index.insert(7, at(1, 0));
        index.insert(7 | 1 << 64, at(1, 1));
        assert_eq!(index.iter().count(), 2);
        assert_eq!(index.remove(7), Some(at(1, 0)));
        assert_eq!(index.get(7 | 1 << 64), Some(at(1, 1)));
    }
}
