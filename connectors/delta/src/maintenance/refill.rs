//! Files of a table that gets a column with a constant in all rows that are there: written again with that column, each
//! row where it was, so that deletion vectors and addresses of keys stay right.

use std::collections::{BTreeMap, HashMap};

use futures::StreamExt;
use object_store::path::Path;
use sooner_api::{Error, MemoryBudget, Result, failpoint};
use sooner_schemas::TableName;

use crate::index::key_index::FileId;
use crate::log::live_files::LiveFile;
use crate::log::position_names::PositionNames;
use crate::log::table_version::TableVersion;
use crate::log::transaction::{Kind, Transaction};
use crate::merge::intake::{changed_shape, copy_needed};
use crate::merge::parts::PartLimits;
use crate::merge::staging::{Staging, fills};
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::data_file::{self, DataFile, DataFileWriter};
use crate::rows::fitting::{fitted, unfit};
use crate::rows::stored_file;
use crate::store::location::TableLocation;
use crate::store::operations::{discard, put};

/// Files that were written again, by the paths of those that they replace.
#[derive(Default)]
pub struct Refilled {
    by_path: HashMap<String, LiveFile>,
}

/// Why a table has to be copied again for columns with a value in all rows; none if its files can be written again.
/// They are too large for that where each of them would take more memory than files may.
pub fn check_fill(
    table: &TableName,
    names: &PositionNames,
    base: &TableVersion,
    limits: &PartLimits,
    former: &[LakeColumn],
    columns: &[LakeColumn],
) -> Result<Option<Error>> {
    let are_too_large = || base.files().iter().any(|(_, file)| file.size > 2 * limits.part_bytes as u64);
    if !fills(former, columns) || !are_too_large() {
        return Ok(None);
    }
    let why = "a column has a value in all rows, and files are too large to be written again for it";
    match names.is_topic() {
        true => Err(changed_shape(table, why)),
        false => Ok(Some(copy_needed(table, why))),
    }
}

impl Refilled {
    /// Writes those of these files again that were not yet; returns all of them.
    async fn write(
        &mut self,
        files: impl Iterator<Item = (FileId, LiveFile)>,
        columns: &[LakeColumn],
        location: &TableLocation,
        budget: &MemoryBudget,
    ) -> Result<BTreeMap<FileId, LiveFile>> {
        let mut written = BTreeMap::new();
        for (id, file) in files {
            if !self.by_path.contains_key(file.key()) {
                // Encoded rows wait in memory until the file is whole. Whoever has the room may wait for this commit.
                let _room = budget.try_reserve(usize::try_from(file.size).unwrap_or(usize::MAX));
                let refilled = refill(&file, columns, location).await?;
                self.by_path.insert(file.key().to_owned(), refilled);
            }
            if let Some(refilled) = self.by_path.get(file.key()) {
                written.insert(id, LiveFile { vector: file.vector, deleted: file.deleted, ..refilled.clone() });
            }
        }
        Ok(written)
    }

    /// Fills what a transaction adds, and what is there before it, where that lacks columns that come with it.
    pub async fn complete(
        &mut self,
        transaction: &mut Transaction,
        staging: &Staging,
        base: &TableVersion,
        location: &TableLocation,
        limits: &PartLimits,
    ) -> Result<()> {
        let budget = &limits.budget;
        let columns = transaction.columns.as_deref().unwrap_or_else(|| base.columns()).to_vec();
        let sealed = transaction.added.iter().filter(|(id, _)| staging.unfilled.contains(id));
        let sealed: Vec<_> = sealed.map(|(id, file)| (*id, file.clone())).collect();
        let sealed = self.write(sealed.into_iter(), &columns, location, budget).await?;
        transaction.added.extend(sealed);
        if staging.fills_files && transaction.kind == Kind::Merge {
            let live = base.files().iter().map(|(id, file)| (id, file.clone()));
            transaction.refilled = self.write(live, &columns, location, budget).await?;
            failpoint("files_refilled");
        }
        Ok(())
    }

    /// Deletes files that were written and are not part of the table, and never will be.
    pub async fn discard(self, location: &TableLocation, is_live: impl Fn(&str) -> bool) {
        for file in self.by_path.values().filter(|file| !is_live(file.key())) {
            discard(location.store(), &file.path).await;
        }
    }
}

async fn refill(file: &LiveFile, columns: &[LakeColumn], location: &TableLocation) -> Result<LiveFile> {
    let (schema, path): (_, Path) = (arrow_schema(columns), data_file::new_path());
    let mut batches =
        stored_file::open(&location.table, &file.path, file.size, None, None, stored_file::READ_ROWS).await?;
    let mut writer: Option<DataFileWriter> = None;
    while let Some(batch) = batches.next().await {
        let batch = fitted(&batch?, columns, &schema).map_err(|error| unfit(&file.path, error))?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(DataFileWriter::for_rows_like(&batch)?),
        };
        writer.write(&batch)?;
        tokio::task::yield_now().await;
    }
    let Some(writer) = writer else { return Ok(file.clone()) };
    let rows = writer.rows();
    if file.rows.is_some_and(|known| known != u64::from(rows)) {
        return Err(unfit(&file.path, "it has another number of rows than the log says"));
    }
    let DataFile { bytes, statistics } = writer.finish()?;
    let size = bytes.len() as u64;
    put(location.store(), &path, bytes).await?;
    Ok(LiveFile::written(path, size, rows.into(), crate::clock::now_millis()).with_statistics(&statistics))
}
