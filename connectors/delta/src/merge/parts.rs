//! What is sealed: rows in files that no log mentions yet, where each key's row lies among them, and which keys have
//! none any more.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use roaring::RoaringBitmap;
use sooner_api::{MemoryBudget, Reservation, Result, failpoint};

use crate::clock::now_millis;
use crate::index::key::{KeyHash, KeyMap, KeySet};
use crate::index::key_index::{FileId, KeyIndex, RowAddress};
use crate::log::live_files::{FileIds, LiveFile};
use crate::rows::data_file::{self, DataFile, DataFileWriter};
use crate::store::location::TableLocation;
use crate::store::operations::put;

/// Limits for files while they are in memory.
#[derive(Clone, Debug)]
pub struct PartLimits {
    /// Size at which a file is closed, and the next one begins.
    pub part_bytes: usize,
    /// Room for the open files of all tables together. A file that finds none is closed earlier.
    pub budget: MemoryBudget,
}

/// A file that is being filled.
struct OpenPart {
    id: FileId,
    writer: DataFileWriter,
    reserved: Vec<Reservation>,
    reserved_bytes: usize,
}

/// Sealed rows, and the keys that they concern.
#[derive(Default)]
pub struct Parts {
    open: Option<OpenPart>,
    written: BTreeMap<FileId, LiveFile>,
    superseded: BTreeMap<FileId, RoaringBitmap>,
    moved: KeyIndex,
    gone: KeySet,
    /// Where the rows of keys lay that have none any more: the second event of a changed key may need a value of it.
    gone_rows: KeyMap<RowAddress>,
}

impl Parts {
    /// Appends rows to the open file; returns where the first of them lies.
    pub fn append(&mut self, batch: &RecordBatch, ids: &FileIds) -> Result<RowAddress> {
        let part = match &mut self.open {
            Some(part) => part,
            none => none.insert(OpenPart {
                id: ids.reserve(),
                writer: DataFileWriter::new(batch.schema())?,
                reserved: Vec::new(),
                reserved_bytes: 0,
            }),
        };
        let first = RowAddress { file: part.id, row: part.writer.rows() };
        part.writer.write(batch)?;
        Ok(first)
    }

    /// Closes the open file if it is large enough, or if there is no room in memory for what it holds.
    pub async fn close_if_full(&mut self, location: &TableLocation, limits: &PartLimits) -> Result<()> {
        let Some(part) = &mut self.open else { return Ok(()) };
        let size = part.writer.size_bytes();
        let fits = size < limits.part_bytes && part.reserve(size, &limits.budget);
        if fits { Ok(()) } else { self.close(location).await }
    }

    /// Writes the open file to the store.
    pub async fn close(&mut self, location: &TableLocation) -> Result<()> {
        let Some(OpenPart { id, writer, reserved, .. }) = self.open.take() else { return Ok(()) };
        let (rows, path) = (writer.rows(), data_file::new_path());
        let DataFile { bytes, statistics } = writer.finish()?;
        let size = bytes.len() as u64;
        put(location.store(), &path, bytes).await?;
        failpoint("part_put");
        drop(reserved);
        let file = LiveFile::written(path, size, rows.into(), now_millis()).with_statistics(&statistics);
        self.written.insert(id, file);
        Ok(())
    }

    /// Notes that a key's row lies in a part now, or nowhere.
    pub fn place(&mut self, key: KeyHash, row: Option<RowAddress>) {
        let former = match row {
            Some(row) => {
                if !self.gone.is_empty() {
                    self.gone.remove(&key);
                }
                self.moved.insert(key, row)
            }
            None => {
                self.gone.insert(key);
                let former = self.moved.remove(key);
                self.gone_rows.extend(former.map(|row| (key, row)));
                former
            }
        };
        if let Some(former) = former {
            self.superseded.entry(former.file).or_default().insert(former.row);
        }
    }

    /// Makes room for the places of so many more keys.
    pub fn reserve(&mut self, keys: usize) {
        self.moved.reserve(keys);
    }

    /// Where a key's row lies in a part; or lay, if it is gone: only the second event of a changed key, whose first one
    /// was sealed, asks for such a row.
    pub fn row_of(&self, key: KeyHash) -> Option<RowAddress> {
        self.moved.get(key).or_else(|| self.gone_rows.get(&key).copied())
    }

    /// A file that is written.
    pub fn file(&self, id: FileId) -> Option<&LiveFile> {
        self.written.get(&id)
    }

    /// Whether a file is still being filled, so that nothing can be read from it.
    pub fn is_open(&self, id: FileId) -> bool {
        self.open.as_ref().is_some_and(|part| part.id == id)
    }

    /// Files that are written.
    pub fn written(&self) -> &BTreeMap<FileId, LiveFile> {
        &self.written
    }

    /// Rows of parts that later events superseded.
    pub fn superseded(&self) -> &BTreeMap<FileId, RoaringBitmap> {
        &self.superseded
    }

    /// All keys that have a new row, or none any more: what the table has of them goes.
    pub fn touched(&self) -> impl Iterator<Item = KeyHash> + '_ {
        self.moved.iter().map(|(key, _)| key).chain(self.gone.iter().copied())
    }

    /// Keys whose row lies in a part, and keys that have none.
    pub fn into_places(self) -> (KeyIndex, KeySet) {
        (self.moved, self.gone)
    }

    /// Whether nothing is sealed.
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.written.is_empty() && self.gone.is_empty()
    }
}

impl OpenPart {
    /// Takes room for what the file has grown by.
    fn reserve(&mut self, size: usize, budget: &MemoryBudget) -> bool {
        let more = size.saturating_sub(self.reserved_bytes);
        if more == 0 {
            return true;
        }
        let Some(reservation) = budget.try_reserve(more) else { return false };
        self.reserved_bytes += reservation.bytes();
        self.reserved.push(reservation);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(row: u32) -> RowAddress {
        RowAddress { file: 1, row }
    }

    #[test]
    fn a_later_row_supersedes_an_earlier_one() {
        let mut parts = Parts::default();
        parts.place(7, Some(at(0)));
        parts.place(7, Some(at(5)));
        assert_eq!(parts.row_of(7), Some(at(5)));
        assert_eq!(parts.superseded()[&1], [0].into_iter().collect());
    }

    #[test]
    fn a_deleted_row_leaves_its_place_for_the_event_that_renamed_it() {
        let mut parts = Parts::default();
        parts.place(7, Some(at(3)));
        parts.place(7, None);
        assert_eq!(parts.row_of(7), Some(at(3)));
        assert_eq!(parts.touched().collect::<Vec<_>>(), [7]);
        assert!(!parts.is_empty());
    }

    #[test]
    fn a_key_that_comes_back_is_not_gone() {
        let mut parts = Parts::default();
        parts.place(7, None);
        parts.place(7, Some(at(1)));
        let (moved, gone) = parts.into_places();
        assert_eq!((moved.get(7), gone.len()), (Some(at(1)), 0));
    }
}
