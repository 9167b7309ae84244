//! A lake table: opened from its log, fed with events, committed to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use object_store::ObjectStore;
use serde_json::Value;
use sooner_api::{Committed, Error, LakeTable, Result, Staged};
use sooner_schemas::event::{EventSchema, Op, TableEvents, Watermark};
use sooner_schemas::{Lsn, TableName};

use crate::actions::{check_protocol, log_path};
use crate::app_ids::AppIds;
use crate::columns::{Difference, LakeColumn, columns_of, compare, parse_schema_string, widen};
use crate::data_file;
use crate::index::{KeyIndex, RowAddress};
use crate::key::KeyPlan;
use crate::live_files::{LiveFile, LiveFiles};
use crate::rows::RowReader;
use crate::snapshot::TableLocation;
use crate::staging::{Shape, Staging};
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
    /// The table is complete up to here, where that is known.
    pub(crate) watermark: Option<Lsn>,
    /// None until the first event needs it.
    pub(crate) index: Option<KeyIndex>,
    pub(crate) staging: Staging,
    secret: (u64, u64),
    /// Why events cannot be merged into the table as it lies there. Copying it anew mends that.
    unusable: Option<Error>,
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
            watermark: None,
            index: None,
            staging: Staging::new(),
            secret: rand::random(),
        };
        if let Some(snapshot) = table.location.load(&table.app_ids.all()).await? {
            table.applied = table.app_ids.applied(&snapshot.txns);
            table.next_offsets = table.app_ids.next_offsets(&snapshot.txns);
            table.watermark = table.app_ids.watermark(&snapshot.txns);
            if table.applied.is_some() {
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

    /// Goes on under other names: more or fewer partitions are read here.
    pub fn set_app_ids(&mut self, app_ids: AppIds) {
        self.app_ids = app_ids;
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
            let remedy = format!("restore the schema, or `sooner resume {}`, which copies the table anew", self.name);
            Error::operator(format!("cannot merge into the lake table {}", self.name), why, remedy)
        })?;
        self.metadata = metadata;
        Ok(())
    }

    /// Learns how the events of a schema are read; says so if the table has to be copied for it.
    async fn adopt_schema(&mut self, schema: &Arc<EventSchema>) -> Result<Staged> {
        if self.staging.shape.as_ref().is_some_and(|shape| Arc::ptr_eq(&shape.schema, schema)) {
            return Ok(Staged::Taken);
        }
        self.seal_pending().await?;
        let columns = columns_of(schema)?;
        match compare(self.next_columns(), &columns) {
            Difference::None => {}
            Difference::Widened => {
                let added = &columns[self.next_columns().len().min(columns.len())..];
                let filled = |added: &&LakeColumn| !added.nullable || schema.columns_with_default.contains(&added.name);
                // A topic's writer has the rows copied anew where that is needed, before it sends the new shape.
                if let Some(column) = added.iter().find(filled).filter(|_| !self.app_ids.are_of_topic()) {
                    let why =
                        format!("rows older than the column '{}' hold values that no event tells of", column.name);
                    return Ok(Staged::NeedsCopy(why));
                }
                // The open part has the former columns.
                self.close_part().await?;
                self.staging.columns = Some(widen(self.next_columns(), &columns));
            }
            Difference::Incompatible(what) => return Err(self.changed_shape(&what)),
        }
        self.set_shape(schema)?;
        Ok(Staged::Taken)
    }

    fn set_shape(&mut self, schema: &Arc<EventSchema>) -> Result<()> {
        let Some(key) = &schema.key else {
            return Err(Error::operator(
                format!("cannot merge {} into the lake", self.name),
                "the table has neither a primary key nor a replica identity index, so its rows cannot be told apart",
                format!("ALTER TABLE {} ADD PRIMARY KEY (…), or leave the table out (exclude)", self.name),
            ));
        };
        let keys = KeyPlan::new(&self.name, key, self.secret)?;
        if self.staging.shape.as_ref().is_some_and(|shape| !shape.keys.same_columns(&keys)) {
            return Err(self.changed_shape("its key changed"));
        }
        self.staging.shape = Some(Shape { schema: schema.clone(), rows: RowReader::new(schema)?, keys });
        Ok(())
    }

    fn changed_shape(&self, what: &str) -> Error {
        Error::operator(
            format!("cannot merge {} into the lake", self.name),
            format!("the table's shape changed: {what}"),
            format!("`sooner resume {}` copies the table anew in its new shape", self.name),
        )
    }

    /// Builds the key index from the key columns of all live files.
    async fn build_index(&mut self) -> Result<()> {
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
            return Err(Error::fatal("cannot build the key index", "the key is not known yet", "report this"));
        };
        let mut next_row = 0u32;
        data_file::read(&self.location.table, &file.path, file.size, &shape.keys.columns(), None, |batch| {
            let hashes = shape.keys.hash_rows(&batch).ok_or_else(|| {
                let what = format!("cannot read the key columns of {}", file.path);
                Error::operator(what, "they are missing or of another type", self.copy_anew())
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

    fn copy_anew(&self) -> String {
        format!("`sooner resume {}` copies the table anew", self.name)
    }

    fn take_events(&mut self, events: TableEvents, first: usize) -> Result<()> {
        let count = events.events.len();
        self.staging.last_lsn = events.events.last().map_or(Lsn::ZERO, |event| event.position.commit_lsn);
        let mut scratch = Vec::new();
        let batch = self.staging.pending.open_batch(events);
        let mut batch = Some(batch);
        for index in first..count {
            let Some(number) = batch else { break };
            let events = self.staging.pending.batch(number);
            if matches!(events.events[index].op, Op::Truncate | Op::CopyStart) {
                batch = self.truncate_at(number, index);
                continue;
            }
            let (key, old_key) = self.keys_of(number, index, &mut scratch)?;
            self.staging.pending.push(number, index as u32, key, old_key);
        }
        Ok(())
    }

    /// Drops what was staged before a truncate; what follows it in its batch stays.
    fn truncate_at(&mut self, batch: u32, index: usize) -> Option<u32> {
        let rest = self.staging.pending.take_batch(batch);
        self.staging.truncate();
        (index + 1 < rest.events.len()).then(|| self.staging.pending.open_batch(rest))
    }

    fn keys_of(&self, batch: u32, index: usize, scratch: &mut Vec<u8>) -> Result<(u128, Option<u128>)> {
        let malformed = |why| {
            let what = format!("cannot read the key of an event of {}", self.name);
            Error::operator(what, why, self.copy_anew())
        };
        let Some(shape) = &self.staging.shape else {
            return Err(Error::fatal("cannot stage events", "their schema is not known", "report this"));
        };
        let events = self.staging.pending.batch(batch);
        let event = &events.events[index];
        let key = shape.keys.hash_message(&events.bytes[event.key.clone()], scratch).map_err(malformed)?;
        let old_key = event.old_key.clone().map(|range| shape.keys.hash_message(&events.bytes[range], scratch));
        Ok((key, old_key.transpose().map_err(malformed)?))
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
        if self.app_ids.are_of_topic() {
            return self.stage_from_topic(events).await;
        }
        let applied = self.applied.filter(|_| !self.staging.copying).unwrap_or(Lsn::ZERO);
        let first = events.events.partition_point(|event| event.position.commit_lsn <= applied);
        if first == events.events.len() {
            return Ok(Staged::Taken);
        }
        self.stage_from(events, first).await
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
    fn begin_copy_of(&mut self, schema: &Arc<EventSchema>) -> Result<()> {
        if self.version.is_some() && self.applied.is_none() {
            return Err(self.made_by_somebody_else());
        }
        check_protocol(&self.name.to_string(), &self.protocol, &Value::Null)?;
        self.unusable = None;
        self.index = None;
        self.staging = Staging::new();
        self.staging.replaces = true;
        self.staging.copying = true;
        self.staging.columns = Some(columns_of(schema)?);
        Ok(())
    }

    async fn stage_from(&mut self, events: TableEvents, first: usize) -> Result<Staged> {
        if let Some(error) = &self.unusable {
            return Err(error.clone());
        }
        if let Staged::NeedsCopy(why) = self.adopt_schema(&events.schema).await? {
            return Ok(Staged::NeedsCopy(why));
        }
        self.build_index().await?;
        self.take_events(events, first)?;
        Ok(Staged::Taken)
    }

    /// Events of a topic say themselves when a copy starts; and a table that is not there yet starts with the first.
    async fn stage_from_topic(&mut self, events: TableEvents) -> Result<Staged> {
        for (partition, next) in &events.next_offsets {
            self.staging.next_offsets.insert(*partition, *next);
        }
        let Some(first) = events.events.first() else { return Ok(Staged::Taken) };
        let of_whole_table = matches!(first.op, Op::CopyStart | Op::Truncate);
        assert!(!of_whole_table || events.events.len() == 1, "an event of the whole table stands alone");
        if of_whole_table && self.version.is_some() && !self.app_ids.orders_whole_table() {
            return Err(self.cannot_order());
        }
        match first.op {
            Op::CopyStart => {
                let next_offsets = std::mem::take(&mut self.staging.next_offsets);
                self.begin_copy_of(&events.schema)?;
                self.staging.next_offsets = next_offsets;
                return Ok(Staged::Taken);
            }
            _ if self.version.is_some() && !self.staging.replaces && self.applied.is_none() => {
                return Err(self.made_by_somebody_else());
            }
            Op::Truncate if events.schema.key.is_none() => {
                if self.version.is_some() || self.staging.columns.is_some() {
                    self.staging.truncate();
                }
                return Ok(Staged::Taken);
            }
            _ => {}
        }
        if self.version.is_none() && self.staging.columns.is_none() {
            self.staging.columns = Some(columns_of(&events.schema)?);
            self.index = Some(KeyIndex::default());
        }
        self.stage_from(events, 0).await
    }

    fn cannot_order(&self) -> Error {
        Error::operator(
            format!("cannot truncate {}, or copy it anew", self.name),
            "its topic's partitions are not all read here in commit order, so rows of other partitions that are older \
             cannot be told from newer ones",
            "stop the other sinks until this one has done it (it goes on by itself then); topics that Debezium writes \
             must have one partition for it",
        )
    }

    pub(crate) fn made_by_somebody_else(&self) -> Error {
        Error::operator(
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
