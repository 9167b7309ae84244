//! What is sealed: rows in files that no log mentions yet, where each key's row lies among them, and which keys have
//! none any more.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use arrow_array::RecordBatch;
use roaring::RoaringBitmap;
use sooner_api::{Code, Error, MemoryBudget, Reservation, Result, failpoint};

use crate::clock::now_millis;
use crate::index::index_store::IndexStore;
use crate::index::key::{KeyHash, KeyMap, KeySet};
use crate::index::key_index::{FileId, RowAddress};
use crate::index::staged_keys::{StagedKeys, Touched};
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
    /// Most tables have none.
    open: Option<Box<OpenPart>>,
    written: BTreeMap<FileId, LiveFile>,
    superseded: BTreeMap<FileId, RoaringBitmap>,
    keys: StagedKeys,
}

impl Parts {
    /// Appends rows to the open file; returns where the first of them lies.
    pub fn append(&mut self, batch: &RecordBatch, ids: &FileIds) -> Result<RowAddress> {
        let part = match &mut self.open {
            Some(part) => part,
            none => none.insert(Box::new(OpenPart {
                id: ids.reserve(),
                writer: DataFileWriter::for_rows_like(batch)?,
                reserved: Vec::new(),
                reserved_bytes: 0,
            })),
        };
        let first = RowAddress { file: part.id, row: part.writer.rows() };
        part.writer.write(batch)?;
        Ok(first)
    }

    /// Closes the open file if it is large enough, or if there is no room in memory for what it holds.
    pub async fn close_if_full(&mut self, location: &TableLocation, limits: &PartLimits) -> Result<()> {
        let Some(part) = &mut self.open else { return Ok(()) };
        let (size, memory) = (part.writer.size_bytes(), part.writer.memory_bytes());
        let fits = size < limits.part_bytes && part.reserve(memory, &limits.budget);
        if fits { Ok(()) } else { self.close(location).await }
    }

    /// Writes the open file to the store.
    pub async fn close(&mut self, location: &TableLocation) -> Result<()> {
        let Some(part) = self.open.take() else { return Ok(()) };
        let OpenPart { id, writer, reserved, .. } = *part;
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

    /// Notes in this order that the rows of keys lie in parts now, or nowhere.
    pub async fn place(&mut self, places: Vec<(KeyHash, Option<RowAddress>)>, indexes: &Arc<IndexStore>) -> Result<()> {
        for former in self.keys.place(places, indexes).await.map_err(unreadable)? {
            self.superseded.entry(former.file).or_default().insert(former.row);
        }
        Ok(())
    }

    /// Where the rows of those of these keys lie that are in a part; or lay, if they are gone.
    pub async fn rows_of(&self, keys: &[KeyHash]) -> Result<KeyMap<RowAddress>> {
        self.keys.rows_of(keys).await.map_err(unreadable)
    }

    /// Those of these keys whose rows lie in a part, and are not gone.
    pub async fn live_keys(&self, keys: &[KeyHash]) -> Result<KeySet> {
        let rows = self.rows_of(keys).await?.into_iter();
        let is_gone = |row: &RowAddress| self.superseded.get(&row.file).is_some_and(|gone| gone.contains(row.row));
        Ok(rows.filter(|(_, row)| !is_gone(row)).map(|(key, _)| key).collect())
    }

    /// All keys that have a new row, or none any more, piece by piece: what the table has of them goes.
    pub async fn touched(&mut self) -> Result<TouchedKeys> {
        Ok(TouchedKeys(self.keys.touched().await.map_err(unreadable)?))
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

    /// The keys, for an index that follows the commit, and the files that it wrote.
    pub fn into_keys(self) -> (StagedKeys, HashSet<FileId>) {
        let files = self.written.keys().copied().collect();
        (self.keys, files)
    }

    /// Whether nothing is sealed.
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.written.is_empty() && self.keys.is_empty()
    }
}

/// Keys that a commit touches, piece by piece.
pub struct TouchedKeys(Touched);

impl TouchedKeys {
    /// The next keys; none if there are no more.
    pub async fn next(&mut self) -> Result<Option<Vec<KeyHash>>> {
        self.0.next().await.map_err(unreadable)
    }
}

fn unreadable(error: io::Error) -> Error {
    Error::retry(
        Code::IndexUnreadable,
        "cannot keep the keys of a large transaction on the local disk",
        error,
        "check the disk that state_dir lies on; the transaction is read again",
    )
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
