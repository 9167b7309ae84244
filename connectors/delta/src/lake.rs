//! The lake: each source table at `<lake>/<schema>/<table>`.

use std::sync::Arc;

use sooner_api::{Feed, Lake, Result};
use sooner_schemas::TableName;
use tokio::sync::Semaphore;

use crate::log::position_names::PositionNames;
use crate::maintenance::compaction::Compaction;
use crate::merge::parts::PartLimits;
use crate::store::lake_store::LakeStore;
use crate::store::location::TableLocation;
use crate::table::DeltaTable;

/// A lake of Delta tables, of one pipeline.
#[derive(Clone, Debug)]
pub struct DeltaLake {
    store: LakeStore,
    pipeline: String,
    limits: PartLimits,
    /// One place for each rewrite of files at the same time.
    rewrites: Arc<Semaphore>,
}

impl DeltaLake {
    /// The tables of a pipeline in a store.
    pub fn new(store: LakeStore, pipeline: &str, limits: PartLimits) -> DeltaLake {
        DeltaLake { store, pipeline: pipeline.to_owned(), limits, rewrites: Arc::new(Semaphore::new(1)) }
    }
}

impl Lake for DeltaLake {
    type Table = DeltaTable;

    async fn probe(&self) -> Result<()> {
        self.store.probe().await
    }

    async fn open(&self, table: &TableName, feed: &Feed) -> Result<DeltaTable> {
        let parts = [table.schema.as_str(), table.table.as_str()];
        let folder = self.store.prefix().clone().join(parts[0]).join(parts[1]);
        let location = TableLocation::new(self.store.root(), folder, self.store.folder_url(&parts));
        let names = PositionNames::new(&self.pipeline, feed);
        let compaction = Compaction::new(table.clone(), self.rewrites.clone());
        DeltaTable::open(table.clone(), location, names, self.limits.clone(), compaction).await
    }
}
