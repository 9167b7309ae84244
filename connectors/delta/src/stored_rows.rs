//! The live rows of one version of a table, read from its files.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::StreamExt;
use sooner_api::Result;
use sooner_schemas::TableName;

use crate::lake::DeltaLake;
use crate::log::replay::{replay, replay_to};
use crate::log::table_version::TableVersion;
use crate::rows::columns::LakeColumn;
use crate::rows::fitting::{fitted, unfit};
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::location::TableLocation;

/// A version of a table, whose rows can be read.
pub struct StoredRows {
    location: TableLocation,
    /// The version.
    pub version: TableVersion,
}

impl DeltaLake {
    /// The latest version of a table; none if there is no table.
    pub async fn rows_of(&self, table: &TableName) -> Result<Option<StoredRows>> {
        let location = self.location(table);
        let version = replay(&location, &[]).await?;
        Ok(version.exists().then_some(StoredRows { location, version }))
    }

    /// Whether the lake has a table, or a history of it, that its pipeline made.
    pub async fn is_ours(&self, table: &TableName) -> Result<bool> {
        let mut is_ours = false;
        for location in [self.location(table), self.history_location(table)] {
            let version = replay(&location, &[]).await?;
            is_ours |= version.exists() && version.is_made_by(self.pipeline());
        }
        Ok(is_ours)
    }
}

impl StoredRows {
    /// A version of the table at a location. One that the log has no more is an operator error.
    pub async fn at(location: TableLocation, version: u64) -> Result<StoredRows> {
        let version = replay_to(&location, Some(version), &[]).await?;
        Ok(StoredRows { location, version })
    }

    /// Hands all live rows to `each`, batch by batch, as rows of these columns under this schema.
    pub async fn scan(
        &self,
        columns: &[LakeColumn],
        schema: &SchemaRef,
        mut each: impl AsyncFnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        for (_, file) in self.version.files().iter() {
            let stored = StoredFile::open(&self.location.table, &file.path, file.size, true).await?;
            let rows = u32::try_from(stored.rows()).unwrap_or(u32::MAX);
            let live: Vec<u32> = (0..rows).filter(|row| !file.deleted.contains(*row)).collect();
            let is_whole = live.len() == rows as usize;
            let mut batches = stored.batches(None, (!is_whole).then_some(live.as_slice()), READ_ROWS)?;
            while let Some(batch) = batches.next().await {
                let batch = fitted(&batch?, columns, schema);
                each(batch.map_err(|error| unfit(&file.path, error))?).await?;
            }
        }
        Ok(())
    }
}
