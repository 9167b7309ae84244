//! The lake of Delta tables: each source table lies at `<lake>/<schema>/<table>`.

use sooner_api::{Lake, Result};
use sooner_schemas::TableName;

use crate::app_ids::AppIds;
use crate::snapshot::TableLocation;
use crate::store::LakeStore;
use crate::table::DeltaTable;

/// A lake of Delta tables, as one pipeline writes them.
#[derive(Clone, Debug)]
pub struct DeltaLake {
    store: LakeStore,
    app_ids: AppIds,
    part_bytes: usize,
}

impl DeltaLake {
    /// The lake of one pipeline in a store, which keeps its positions under the names `app_ids`. Each table holds up
    /// to about `part_bytes` of a data file in memory.
    pub fn new(store: LakeStore, app_ids: AppIds, part_bytes: usize) -> DeltaLake {
        DeltaLake { store, app_ids, part_bytes }
    }
}

impl Lake for DeltaLake {
    type Table = DeltaTable;

    async fn open(&self, table: &TableName) -> Result<DeltaTable> {
        self.open_as(table, self.app_ids.clone()).await
    }
}

impl DeltaLake {
    /// Opens a table whose positions are kept under the names `app_ids`, instead of the lake's.
    pub async fn open_as(&self, table: &TableName, app_ids: AppIds) -> Result<DeltaTable> {
        let parts = [table.schema.as_str(), table.table.as_str()];
        let folder = self.store.prefix().clone().join(parts[0]).join(parts[1]);
        let location = TableLocation::new(self.store.root(), folder, self.store.folder_url(&parts));
        DeltaTable::open(table.clone(), location, app_ids, self.part_bytes).await
    }
}
