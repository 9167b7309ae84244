//! A lake table: opened from its log, fed with events, committed to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use object_store::ObjectStore;
use serde_json::Value;
use sooner_api::{Code, Committed, Error, LakeTable, Result, Staged};
use sooner_schemas::event::{EventSchema, TableEvents, Watermark};
use sooner_schemas::{Lsn, TableName};

use crate::actions::{check_protocol, is_made_by, log_path};
use crate::app_ids::AppIds;
use crate::columns::{LakeColumn, parse_schema_string};
use crate::data_file;
use crate::index::{KeyIndex, RowAddress};
use crate::live_files::{LiveFile, LiveFiles};
use crate::snapshot::TableLocation;
use crate::staging::Staging;
use crate::store::get;

/// One table of the lake.
pub struct DeltaTable {
    pub(crate) name: TableName,
    pub(crate) location: TableLocation,
    pub(crate) app_ids: AppIds,
    /// None while the table does not exist.
    pub(crate) version: Option<u64>,
    pub(crate) metadata: Value,
    pub(crate) protocol: Value,
    pub(crate) columns: Vec<LakeColumn>,
    pub(crate) files: LiveFiles,
    pub(crate) applied: Option<Lsn>,
    /// Of the partitions that its events come from: the offset after the last event that is in it.
    pub(crate) next_offsets: BTreeMap<i32, i64>,
    /// Which topic of its name they are of, where that is known.
    pub(crate) generation: Option<i64>,
    /// The table is complete up to here, where that is known.
    pub(crate) watermark: Option<Lsn>,
    /// None until the first event needs it.
    pub(crate) index: Option<KeyIndex>,
    pub(crate) staging: Staging,
    pub(crate) secret: (u64, u64),
    /// Why events cannot be merged into the table as it lies there. Copying it again mends that.
    pub(crate) unusable: Option<Error>,
    pub(crate) commits_since_checkpoint: u64,
    /// Size at which a data file is closed, and the next one begins.
    pub(crate) part_bytes: usize,
}

impl DeltaTable {
    /// Opens a table as its log says it is.
    pub async fn open(
        name: TableName,
        location: TableLocation,
        app_ids: AppIds,
        part_bytes: usize,
    ) -> Result<DeltaTable> {
        let mut table = DeltaTable {
            name,
            location,
            app_ids,
            version: None,
            metadata: Value::Null,
            protocol: Value::Null,
            unusable: None,
            commits_since_checkpoint: 0,
            part_bytes,
            columns: Vec::new(),
            files: LiveFiles::default(),
            applied: None,
            next_offsets: BTreeMap::new(),
            generation: None,
            watermark: None,
            index: None,
            staging: Staging::new(),
            secret: rand::random(),
        };
        if let Some(snapshot) = table.location.load(&table.app_ids.all()).await? {
            table.applied = table.app_ids.applied(&snapshot.txns);
            table.next_offsets = table.app_ids.next_offsets(&snapshot.txns);
            table.generation = table.app_ids.generation_in(&snapshot.txns);
            table.watermark = table.app_ids.watermark(&snapshot.txns);
            if table.applied.is_some() || is_made_by(table.app_ids.pipeline(), &snapshot.metadata) {
                let usable = check_protocol(&table.name.to_string(), &snapshot.protocol, &snapshot.metadata);
                let adopted = usable.and_then(|()| table.adopt_metadata(snapshot.metadata));
                table.unusable = adopted.err();
            }
            table.protocol = snapshot.protocol;
            table.version = Some(snapshot.version);
            table.files = snapshot.files;
        }
        Ok(table)
    }

    /// Of the partitions that its events come from: the offset after the last event that is in it.
    pub fn next_offsets(&self) -> &BTreeMap<i32, i64> {
        &self.next_offsets
    }

    /// The LSN up to which the table is complete, where that is known.
    pub fn watermark_lsn(&self) -> Option<Lsn> {
        self.watermark
    }

    /// Whether this pipeline filled it from somewhere else before: from another topic, or another one of the same name. What its
    /// log says of positions means nothing then, until a copy replaces its rows.
    pub fn is_of_former_topic(&self) -> bool {
        let of_other_generation = self.generation.is_some() && self.generation != self.app_ids.generation();
        of_other_generation || (self.version.is_some() && self.applied.is_none() && !self.is_foreign())
    }

    /// Whether somebody else made it.
    pub(crate) fn is_foreign(&self) -> bool {
        self.version.is_some() && self.applied.is_none() && !is_made_by(self.app_ids.pipeline(), &self.metadata)
    }

    /// The names under which it keeps positions.
    pub fn app_ids(&self) -> &AppIds {
        &self.app_ids
    }

    /// Whether nobody has committed since this was opened or last committed.
    pub async fn is_current(&self) -> Result<bool> {
        let next = log_path(self.version.map_or(0, |version| version + 1));
        Ok(get(store(self), &next).await?.is_none())
    }

    /// The table's columns after the next commit.
    pub(crate) fn next_columns(&self) -> &[LakeColumn] {
        self.staging.columns.as_deref().unwrap_or(&self.columns)
    }

    /// Takes over metadata that the log holds.
    pub(crate) fn adopt_metadata(&mut self, metadata: Value) -> Result<()> {
        let schema = metadata.get("schemaString").and_then(Value::as_str).unwrap_or_default();
        self.columns = parse_schema_string(schema).ok_or_else(|| {
            let why = "it has a column of a type that events do not have: somebody changed its schema";
            let remedy = format!("restore the schema, or `sooner resume {}`, which copies the table again", self.name);
            Error::operator(
                Code::TableColumnsChanged,
                format!("cannot merge into the lake table {}", self.name),
                why,
                remedy,
            )
        })?;
        self.metadata = metadata;
        Ok(())
    }

    /// Builds the key index from the key columns of all live files.
    pub(crate) async fn build_index(&mut self) -> Result<()> {
        if self.index.is_some() || self.staging.replaces {
            return Ok(());
        }
        let mut index = KeyIndex::default();
        let files: Vec<_> = self.files.iter().map(|(id, file)| (id, file.clone())).collect();
        index.reserve(files.iter().filter_map(|(_, file)| file.rows).sum::<u64>() as usize);
        for (id, file) in files {
            self.index_file(id, &file, &mut index).await?;
        }
        tracing::debug!(table = %self.name, keys = index.len(), "built the key index");
        self.index = Some(index);
        Ok(())
    }

    /// Adds a file's live rows to an index.
    pub(crate) async fn index_file(&self, id: u32, file: &LiveFile, index: &mut KeyIndex) -> Result<()> {
        let Some(shape) = &self.staging.shape else {
            return Err(Error::fatal(
                Code::Internal,
                "cannot build the key index",
                "the key is not known yet",
                "report this",
            ));
        };
        let mut next_row = 0u32;
        data_file::read(&self.location.table, &file.path, file.size, &shape.keys.columns(), None, |batch| {
            let hashes = shape.keys.hash_rows(&batch).ok_or_else(|| {
                let what = format!("cannot read the key columns of {}", file.path);
                Error::operator(Code::FileDamaged, what, "they are missing or of another type", self.copy_anew())
            })?;
            for key in hashes {
                if !file.deleted.contains(next_row) {
                    index.insert(key, RowAddress { file: id, row: next_row });
                }
                next_row += 1;
            }
            Ok(())
        })
        .await
    }

    pub(crate) fn copy_anew(&self) -> String {
        format!("`sooner resume {}` copies the table again", self.name)
    }
}

impl LakeTable for DeltaTable {
    fn name(&self) -> &TableName {
        &self.name
    }

    fn applied_lsn(&self) -> Option<Lsn> {
        self.applied
    }

    fn table_version(&self) -> Option<u64> {
        self.version
    }

    async fn begin_copy(&mut self, schema: Arc<EventSchema>) -> Result<()> {
        self.begin_copy_of(&schema)?;
        self.set_shape(&schema)
    }

    async fn stage(&mut self, events: TableEvents) -> Result<Staged> {
        match self.app_ids.are_of_topic() {
            true => self.stage_from_topic(events).await,
            false => self.stage_from_stream(events).await,
        }
    }

    fn staged_bytes(&self) -> usize {
        self.staging.pending.size_bytes()
    }

    async fn seal(&mut self) -> Result<()> {
        self.seal_pending().await
    }

    async fn commit(&mut self, watermark: Watermark) -> Result<Committed> {
        self.commit_staged(watermark).await
    }

    fn discard(&mut self) {
        // How keys are hashed stays known: the index depends on it.
        self.staging = std::mem::replace(&mut self.staging, Staging::new()).next();
    }
}

impl DeltaTable {
    pub(crate) fn made_by_somebody_else(&self) -> Error {
        Error::operator(
            Code::TableForeign,
            format!("cannot write {} to the lake", self.name),
            format!("there is a table at {} already, and this pipeline did not make it", self.location.url),
            "move it away, or give the lake another url",
        )
    }
}

/// The wall clock, in milliseconds since 1970.
pub(crate) fn now_millis() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// The table's own store.
pub(crate) fn store(table: &DeltaTable) -> &dyn ObjectStore {
    &*table.location.table
}
