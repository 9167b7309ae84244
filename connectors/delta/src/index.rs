//! The key index: where each live row lies. A cache; rebuilt from the table's key columns.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;

use crate::key::{AlreadyHashed, KeyHash};

/// A data file, by a number that this process gives it and never gives again.
pub type FileId = u32;

/// A row of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowAddress {
    /// File.
    pub file: FileId,
    /// Position in it, from 0.
    pub row: u32,
}

/// Key hash to row. In memory: 25 bytes a row and up to as many spare.
#[derive(Debug, Default)]
pub struct KeyIndex {
    rows: HashMap<Halves, RowAddress, BuildHasherDefault<AlreadyHashed>>,
}

/// A hash in two halves: aligned to 8 bytes, it needs a quarter less memory than a `u128` in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halves(u64, u64);

impl std::hash::Hash for Halves {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl KeyIndex {
    /// The row of a key.
    pub fn get(&self, key: KeyHash) -> Option<RowAddress> {
        self.rows.get(&halves(key)).copied()
    }

    /// Sets the row of a key, and returns the one it had.
    pub fn insert(&mut self, key: KeyHash, row: RowAddress) -> Option<RowAddress> {
        self.rows.insert(halves(key), row)
    }

    /// Forgets a key, and returns the row it had.
    pub fn remove(&mut self, key: KeyHash) -> Option<RowAddress> {
        self.rows.remove(&halves(key))
    }

    /// All keys with their rows.
    pub fn iter(&self) -> impl Iterator<Item = (KeyHash, RowAddress)> + '_ {
        self.rows.iter().map(|(key, row)| (u128::from(key.0) << 64 | u128::from(key.1), *row))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Makes room for this many more keys.
    pub fn reserve(&mut self, keys: usize) {
        self.rows.reserve(keys);
    }
}

fn halves(key: KeyHash) -> Halves {
    Halves((key >> 64) as u64, key as u64)
}
