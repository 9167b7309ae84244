//! Keys of rows as hashes, and the slices into which they are divided, so that what is in memory is bounded.

use arrow_array::RecordBatch;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::verification::hash_value;

/// How keys are hashed.
#[derive(Clone, Debug)]
pub struct RowKeys {
    /// Places of the key's columns in rows.
    pub places: Vec<usize>,
    /// What hashes are made with.
    pub secret: (u64, u64),
}

impl RowKeys {
    /// Hash of a row's key.
    pub fn of(&self, rows: &RecordBatch, row: usize) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        for place in &self.places {
            hash_value(rows.column(*place).as_ref(), row, &mut hasher);
        }
        hasher.finish128().as_u128()
    }
}

/// A slice of the keys: each `of` has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Which of them.
    pub number: u128,
    /// Of how many.
    pub of: u128,
}

impl Slice {
    /// So many slices, which have all keys together.
    pub fn all(of: u64) -> impl Iterator<Item = Slice> {
        (0..u128::from(of)).map(move |number| Slice { number, of: of.into() })
    }

    /// Whether a key is in it.
    pub fn has(self, key: u128) -> bool {
        key % self.of == self.number
    }

    /// Two slices that have its keys together.
    pub fn halves(self) -> [Slice; 2] {
        let of = self.of * 2;
        [Slice { number: self.number, of }, Slice { number: self.number + self.of, of }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_in_one_slice_and_in_one_half_of_it() {
        for key in [0, 5, 12, 13, u128::MAX] {
            let having: Vec<_> = Slice::all(3).filter(|slice| slice.has(key)).collect();
            assert_eq!(having.len(), 1);
            assert_eq!(having[0].halves().iter().filter(|half| half.has(key)).count(), 1);
        }
    }
}
