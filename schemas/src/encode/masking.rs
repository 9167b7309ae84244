//! Masks rows as they come from Postgres, before anything is made of them: what leaves has no masked value in it. A
//! relation without masks has no plan for this, and costs nothing.

use super::tuple::{RowChange, TupleValue};
use crate::mask::{Hasher, Mask, truncated};
use crate::relation::Relation;

/// Digits of a hash.
const HASH_BYTES: usize = 64;

/// Masks the rows of a relation, by a plan compiled from it.
#[derive(Debug)]
pub struct Masking {
    columns: Vec<Way>,
    hashed: usize,
}

/// Error: the key of a column's hashes is not known, although its fingerprint is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key that hashes column '{0}' is not known")]
pub struct UnknownKey(pub String);

/// What becomes of a value.
#[derive(Debug)]
enum Way {
    Keep,
    Hash(Hasher),
    Truncate(u32),
    Null,
    Omit,
}

impl Masking {
    /// Compiles the plan of a relation, as its source has it; none if nothing of it is masked.
    pub fn of(relation: &Relation) -> Result<Option<Masking>, UnknownKey> {
        if relation.columns.iter().all(|column| column.hiding_mask().is_none()) {
            return Ok(None);
        }
        let way = |column: &crate::Column| match column.hiding_mask() {
            None | Some(Mask::Keep) => Ok(Way::Keep),
            Some(Mask::Hash(key)) => {
                key.hasher().cloned().map(Way::Hash).ok_or_else(|| UnknownKey(column.name.clone()))
            }
            Some(Mask::Truncate(characters)) => Ok(Way::Truncate(*characters)),
            Some(Mask::Null) => Ok(Way::Null),
            Some(Mask::Omit) => Ok(Way::Omit),
        };
        let columns = relation.columns.iter().map(way).collect::<Result<Vec<_>, _>>()?;
        let hashed = columns.iter().filter(|way| matches!(way, Way::Hash(_))).count();
        Ok(Some(Masking { columns, hashed }))
    }

    /// Number of columns that a row has before columns are left out.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Lets `write` have a change whose rows are masked.
    pub fn apply<T>(&self, change: RowChange<'_>, write: impl FnOnce(RowChange<'_>) -> T) -> T {
        let (mut old_hashes, mut hashes) = (Vec::new(), Vec::new());
        match change {
            RowChange::New(row) => write(RowChange::New(&self.row(row, &mut hashes))),
            RowChange::Changed(old, row) => {
                let old = old.map(|old| self.row(old, &mut old_hashes));
                write(RowChange::Changed(old.as_deref(), &self.row(row, &mut hashes)))
            }
            RowChange::Renamed(old, row) => {
                let old = self.row(old, &mut old_hashes);
                write(RowChange::Renamed(&old, &self.row(row, &mut hashes)))
            }
            RowChange::Removed(old) => write(RowChange::Removed(&self.row(old, &mut old_hashes))),
            RowChange::RemovedKey(old) => write(RowChange::RemovedKey(&self.row(old, &mut old_hashes))),
        }
    }

    /// The row as it leaves; `hashes` holds the texts that it refers to.
    fn row<'a>(&self, row: &[TupleValue<'a>], hashes: &'a mut Vec<u8>) -> Vec<TupleValue<'a>> {
        hashes.reserve_exact(self.hashed * HASH_BYTES);
        for (way, value) in self.columns.iter().zip(row) {
            if let (Way::Hash(hasher), TupleValue::Text(text)) = (way, value) {
                hasher.write(hashes, text);
            }
        }
        let mut written = hashes.chunks_exact(HASH_BYTES);
        let masked = self.columns.iter().zip(row).filter_map(|(way, value)| match (way, *value) {
            (Way::Omit, _) => None,
            (Way::Null, _) => Some(TupleValue::Null),
            (Way::Truncate(characters), TupleValue::Text(text)) => Some(TupleValue::Text(truncated(text, *characters))),
            (Way::Hash(_), TupleValue::Text(_)) => Some(written.next().map_or(TupleValue::Null, TupleValue::Text)),
            (_, value) => Some(value),
        });
        masked.collect()
    }
}
