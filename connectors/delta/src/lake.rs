//! The lake: each source table at `<lake>/<schema>/<table>`, by the names of `store/folder_name.rs`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use object_store::path::Path;
use sooner_api::{Feed, Lake, Result};
use sooner_schemas::TableName;

use crate::effort::Effort;
use crate::history::table::HistoryTable;
use crate::history::views::Described;
use crate::index::index_store::{IndexSettings, IndexStore};
use crate::log::horizon::Horizon;
use crate::log::other_writers::other_writers;
use crate::log::position_names::PositionNames;
use crate::log::replay::replay;
use crate::log::retention::{Retention, RetentionSettings};
use crate::maintenance::compaction::Compaction;
use crate::maintenance::optimize::{Optimized, optimize};
use crate::maintenance::vacuum::{delete, find_unneeded};
use crate::merge::parts::PartLimits;
use crate::merge::{append, soft_delete};
use crate::settings::{SortColumns, TableSettings, Ways, WaysToWrite};
use crate::store::errors::store_error;
use crate::store::folder_name::name_of_folder;
use crate::store::lake_store::LakeStore;
use crate::store::location::{HISTORY_SUFFIX, TableLocation};
use crate::store::operations::retrying;
use crate::table::DeltaTable;
use crate::trace::look::look_up;
use crate::trace::row_trace::{RowQuestion, RowTrace};
use crate::written::{WrittenTable, unordered};

/// Bytes of memory of all key indexes together, unless it is told otherwise.
const DEFAULT_INDEX_BYTES: usize = 64 << 20;

/// What a table does not need any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// Number of files.
    pub files: usize,
    /// Bytes that they take.
    pub bytes: u64,
}

/// A lake of Delta tables, of one pipeline.
#[derive(Clone, Debug)]
pub struct DeltaLake {
    store: LakeStore,
    pipeline: String,
    settings: TableSettings,
}

impl DeltaLake {
    /// The tables of a pipeline in a store. Key indexes stay in memory.
    pub fn new(store: LakeStore, pipeline: &str, limits: PartLimits) -> DeltaLake {
        let indexes = IndexStore::new(&IndexSettings::new(None, DEFAULT_INDEX_BYTES));
        let (retention, sort_columns) = (RetentionSettings::default(), SortColumns::default());
        let effort = Effort::new();
        let ways = WaysToWrite::default();
        let settings = TableSettings { limits, indexes, retention, maps_columns: true, sort_columns, ways, effort };
        DeltaLake { store, pipeline: pipeline.to_owned(), settings }
    }

    /// The same lake, whose tables keep what they do not need any more as long as this.
    pub fn with_retention(mut self, retention: RetentionSettings) -> DeltaLake {
        self.settings.retention = retention;
        self
    }

    /// The same lake, whose tables get column mapping where they need it, or never.
    pub fn with_column_mapping(mut self, is_allowed: bool) -> DeltaLake {
        self.settings.maps_columns = is_allowed;
        self
    }

    /// The same lake, whose tables are sorted by these columns.
    pub fn with_sort_columns(mut self, columns: SortColumns) -> DeltaLake {
        self.settings.sort_columns = columns;
        self
    }

    /// The same lake, whose tables are written in these ways.
    pub fn with_ways(mut self, ways: WaysToWrite) -> DeltaLake {
        self.settings.ways = ways;
        self
    }

    /// The same lake, whose key indexes lie on disk and take so much memory.
    pub fn with_indexes(mut self, indexes: &IndexSettings) -> DeltaLake {
        self.settings.indexes = IndexStore::new(indexes);
        self
    }

    /// Where the lake lies.
    pub fn store(&self) -> &LakeStore {
        &self.store
    }

    /// Name of the pipeline.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Settings of the lake's tables.
    pub(crate) fn settings(&self) -> &TableSettings {
        &self.settings
    }

    /// Names of the tables that lie in the lake, whoever made them; also of those that only have a history.
    pub async fn tables(&self) -> Result<Vec<TableName>> {
        let mut tables = Vec::new();
        for schema in self.folders(self.store.prefix()).await? {
            let Some(schema_name) = name_of_folder(&schema) else { continue };
            let folder = self.store.prefix().clone().join(schema.as_str());
            let names = self
                .folders(&folder)
                .await?
                .into_iter()
                .filter_map(|folder| name_of_folder(folder.strip_suffix(HISTORY_SUFFIX).unwrap_or(&folder)));
            tables.extend(names.map(|table| TableName::new(&schema_name, &table)));
        }
        tables.sort();
        tables.dedup();
        Ok(tables)
    }

    /// Names of the folders in a folder.
    async fn folders(&self, folder: &Path) -> Result<Vec<String>> {
        let listed = retrying(|| async {
            let listed = self.store.root().list_with_delimiter(Some(folder)).await;
            listed.map_err(|error| store_error("cannot list the lake", &error))
        });
        let folders = listed.await?.common_prefixes;
        Ok(folders.iter().filter_map(|folder| folder.filename()).map(str::to_owned).collect())
    }

    /// Who else wrote the last entries of a table's log: names of engines, each with the version that it wrote last.
    pub async fn other_writers(&self, table: &TableName, entries: usize) -> Result<BTreeMap<String, u64>> {
        other_writers(&self.location(table), entries).await
    }

    /// Writes a table in as few files as possible; none if this pipeline did not make it.
    pub async fn optimize(&self, table: &TableName) -> Result<Option<Optimized>> {
        optimize(&self.location(table), table, &self.pipeline, &self.settings).await
    }

    /// Finds what no version of a table, nor of its history, needs that is kept, and deletes it if so asked; none if
    /// this pipeline made neither.
    pub async fn vacuum(&self, table: &TableName, deletes: bool) -> Result<Option<Vacuumed>> {
        let mut found: Option<Vacuumed> = None;
        for location in [self.location(table), self.history_location(table)] {
            let version = replay(&location, &[]).await?;
            if !version.is_made_by(&self.pipeline) {
                continue;
            }
            let (known, retention) = (version.number().unwrap_or_default(), Retention::of(version.metadata()));
            let unneeded = find_unneeded(&location, known, &retention, SystemTime::now()).await?;
            let found = found.get_or_insert_default();
            found.files += unneeded.len();
            found.bytes += unneeded.iter().map(|object| object.bytes).sum::<u64>();
            if deletes {
                delete(&location, unneeded.into_iter().map(|object| object.path).collect()).await?;
            }
        }
        Ok(found)
    }

    /// Looks for a row of a table, whose events come from this feed. Only reads; a pipeline may run meanwhile.
    pub async fn trace(&self, table: &TableName, feed: &Feed, question: &RowQuestion) -> Result<RowTrace> {
        let names = PositionNames::new(&self.pipeline, feed);
        look_up(table, &self.location(table), &names, question).await
    }

    /// Where a table lies.
    pub fn location(&self, table: &TableName) -> TableLocation {
        TableLocation::of_table(&self.store, table)
    }

    /// Where the history of a table lies.
    pub fn history_location(&self, table: &TableName) -> TableLocation {
        TableLocation::of_history(&self.store, table)
    }

    /// A table's history, as its log says it is; none if there is none.
    pub async fn describe_history(&self, table: &TableName) -> Result<Option<Described>> {
        let location = self.history_location(table);
        let version = replay(&location, &[]).await?;
        let (columns, key) = (version.columns().to_vec(), version.provenance().key);
        let horizon = Horizon::of(version.metadata());
        Ok(version.exists().then(|| Described { url: location.url.to_string(), columns, key, horizon }))
    }

    async fn open_mirror(&self, table: &TableName, feed: &Feed) -> Result<DeltaTable> {
        let names = PositionNames::new(&self.pipeline, feed);
        let compaction = Compaction::new(table.clone(), self.settings.effort.clone());
        DeltaTable::open(table.clone(), self.location(table), names, self.settings.clone(), compaction).await
    }

    async fn open_history(&self, table: &TableName, feed: &Feed) -> Result<HistoryTable> {
        let names = PositionNames::new(&self.pipeline, feed);
        let compaction = Compaction::new(table.clone(), self.settings.effort.clone());
        let location = self.history_location(table);
        HistoryTable::open(table.clone(), location, names, self.settings.clone(), compaction).await
    }
}

impl Lake for DeltaLake {
    type Table = WrittenTable;

    async fn probe(&self) -> Result<()> {
        self.store.probe().await
    }

    async fn open(&self, table: &TableName, feed: &Feed) -> Result<WrittenTable> {
        let ways @ Ways { mirror, history, append, .. } = self.settings.ways.of(table);
        let is_ordered = PositionNames::new(&self.pipeline, feed).knows_watermark();
        if append.is_some() && !is_ordered {
            return Err(append::unordered(table));
        }
        if ways.keeps_deleted() && !is_ordered {
            return Err(soft_delete::unordered(table));
        }
        if mirror && history && !is_ordered {
            return Err(unordered(table));
        }
        let mirror = if mirror || append.is_some() { Some(self.open_mirror(table, feed).await?) } else { None };
        let history = if history { Some(self.open_history(table, feed).await?) } else { None };
        Ok(WrittenTable::new(table.clone(), feed, mirror, history))
    }
}
