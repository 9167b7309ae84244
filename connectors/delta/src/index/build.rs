//! Builds the key index from the key columns of data files.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use roaring::RoaringBitmap;
use sooner_api::{Code, Error, Result};

use super::key::KeyPlan;
use super::key_index::{FileId, KeyIndex, RowAddress};
use crate::rows::data_file;

/// A data file whose rows are to be indexed.
#[derive(Clone, Copy, Debug)]
pub struct IndexedFile<'a> {
    /// Its number.
    pub id: FileId,
    /// Path below the table.
    pub path: &'a Path,
    /// Size in bytes.
    pub size: u64,
    /// Rows that are gone.
    pub deleted: &'a RoaringBitmap,
}

/// Adds a file's live rows to an index. `table` names the table in messages.
pub async fn index_file(
    store: &Arc<dyn ObjectStore>,
    table: &str,
    keys: &KeyPlan,
    file: IndexedFile<'_>,
    index: &mut KeyIndex,
) -> Result<()> {
    let mut next_row = 0u32;
    data_file::read(store, file.path, file.size, &keys.columns(), None, |batch| {
        let hashes = keys.hash_rows(&batch).ok_or_else(|| {
            let what = format!("cannot read the key columns of {}", file.path);
            let remedy = format!("`sooner resume {table}` copies the table again");
            Error::operator(Code::FileDamaged, what, "they are missing or of another type", remedy)
        })?;
        for key in hashes {
            if !file.deleted.contains(next_row) {
                index.insert(key, RowAddress { file: file.id, row: next_row });
            }
            next_row += 1;
        }
        Ok(())
    })
    .await
}
