//! A table `public.t` on a disk, the events that feed it, and what a reader finds in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use sooner_api::{Feed, Lake, MemoryBudget, Rows};
use sooner_delta::log::live_files::LiveFile;
use sooner_delta::log::replay::replay;
use sooner_delta::log::table_version::TableVersion;
use sooner_delta::rows::columns::arrow_schema;
use sooner_delta::rows::data_file::DataFileWriter;
use sooner_delta::rows::stored_file;
use sooner_delta::store::location::TableLocation;
use sooner_delta::store::operations::put;
use sooner_delta::{DeltaLake, IndexSettings, LakeStore, PartLimits, S3Settings, WrittenTable};
use sooner_schemas::encode::{Encoder, Origin, SchemaIds, Snapshot, TupleValue};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{EventSchema, TableEvents, Watermark};
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

/// What a row holds beside its key.
pub type Row = (Option<String>, String);

/// A lake in a folder of its own, with an encoder of its table's events.
pub struct World {
    folder: tempfile::TempDir,
    part_bytes: usize,
    pub encoder: Encoder,
}

impl World {
    pub fn new(part_bytes: usize) -> World {
        World { folder: tempfile::tempdir().unwrap(), part_bytes, encoder: encoder(columns(), vec![0]) }
    }

    pub fn store(&self) -> LakeStore {
        LakeStore::open(&self.folder.path().display().to_string(), &S3Settings::default()).unwrap()
    }

    pub fn location(&self) -> TableLocation {
        let store = self.store();
        let folder = store.prefix().clone().join("public").join("t");
        TableLocation::new(store.root(), folder, store.folder_url(&["public", "t"]))
    }

    pub fn limits(&self) -> PartLimits {
        PartLimits { part_bytes: self.part_bytes, budget: MemoryBudget::new(1 << 20) }
    }

    /// Indexes of which next to nothing stays in memory.
    pub fn indexes(&self) -> IndexSettings {
        let folder = self.folder.path().join("index");
        IndexSettings { table_keys: 64, ..IndexSettings::new(Some(folder), 1 << 20) }
    }

    pub fn lake(&self) -> DeltaLake {
        DeltaLake::new(self.store(), "shop", self.limits()).with_indexes(&self.indexes())
    }

    pub async fn open(&self) -> WrittenTable {
        self.lake().open(&name(), &Feed::Slot("s".to_owned())).await.unwrap()
    }

    pub fn log_entry(&self, version: u64) -> PathBuf {
        self.folder.path().join(format!("public/t/_delta_log/{version:020}.json"))
    }

    /// Folder of the tables that were made for a cut.
    pub fn cut_tables(&self, cut: &str) -> PathBuf {
        self.folder.path().join("_sooner/shop/cut-tables").join(cut)
    }

    /// Names of the table's own files that start like this.
    pub fn files(&self, start: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join("public/t")).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(start)).collect()
    }

    pub fn events(&self, write: impl FnOnce(&Encoder, &mut TableEvents)) -> Rows {
        events(&self.encoder, write)
    }

    /// Rows of these ids, all with the same text, inserted by one transaction.
    pub fn inserted(&self, lsn: u64, ids: impl IntoIterator<Item = i64>, b: &str) -> Rows {
        self.events(|encoder, out| {
            for (ordinal, id) in ids.into_iter().enumerate() {
                let id = id.to_string();
                encoder.insert(out, &origin(lsn, ordinal as u64), &[text(&id), TupleValue::Null, text(b)]).unwrap();
            }
        })
    }

    pub async fn rows(&self) -> BTreeMap<i64, Row> {
        rows_at(&self.location()).await
    }
}

pub fn name() -> TableName {
    TableName::new("public", "t")
}

pub fn column(name: &str, scalar: Scalar) -> Column {
    Column::new(name, ColumnType::Scalar(scalar))
}

/// A key, a text that may be null, and one that may not.
pub fn columns() -> Vec<Column> {
    vec![column("id", Scalar::Int8), column("a", Scalar::Text).nullable(), column("b", Scalar::Text)]
}

pub fn schema(columns: Vec<Column>, key: Vec<usize>) -> Arc<EventSchema> {
    let relation = Relation::new(name(), columns, key);
    let key = key_schema("t", &relation).map(|key| key.to_string());
    let value = value_schema("t", &relation).to_string();
    Arc::new(EventSchema::parse(name(), key.as_deref(), &value).unwrap())
}

pub fn encoder(columns: Vec<Column>, key: Vec<usize>) -> Encoder {
    let relation = Relation::new(name(), columns.clone(), key.clone());
    Encoder::new(&relation, schema(columns, key), SchemaIds { key: Some(1), value: 2 }, "shop", "db")
}

pub fn events(encoder: &Encoder, write: impl FnOnce(&Encoder, &mut TableEvents)) -> Rows {
    let mut events = TableEvents::new(encoder.schema().clone());
    write(encoder, &mut events);
    Rows::new(events)
}

pub fn text(value: &str) -> TupleValue<'_> {
    TupleValue::Text(value.as_bytes())
}

pub fn origin(lsn: u64, ordinal: u64) -> Origin {
    let position = Position { commit_lsn: Lsn(lsn), ordinal };
    Origin { position, lsn: Lsn(lsn), xid: 1, source_micros: 0, now_micros: 0, snapshot: Snapshot::No }
}

pub fn mark(lsn: u64) -> Watermark {
    Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn), commit_micros: 0 }
}

pub async fn replayed(location: &TableLocation) -> TableVersion {
    replay(location, &[]).await.unwrap()
}

/// The live rows, as a reader of the log finds them.
pub async fn rows_at(location: &TableLocation) -> BTreeMap<i64, Row> {
    let version = replayed(location).await;
    let mut rows = BTreeMap::new();
    for (_, file) in version.files().iter() {
        let mut position = 0u32;
        let read = stored_file::read(&location.table, &file.path, file.size, &["id", "a", "b"], None, |batch| {
            let ids = batch.column(0).as_primitive::<Int64Type>();
            let (a, b) = (batch.column(1).as_string::<i32>(), batch.column(2).as_string::<i32>());
            for row in 0..batch.num_rows() {
                if !file.deleted.contains(position) {
                    let a = a.is_valid(row).then(|| a.value(row).to_owned());
                    let twice = rows.insert(ids.value(row), (a, b.value(row).to_owned()));
                    assert_eq!(twice, None, "two live rows have the key {}", ids.value(row));
                }
                position += 1;
            }
            Ok(())
        });
        read.await.unwrap();
    }
    rows
}

/// Writes a data file as another program would, and returns it as it is to be added to the log.
pub async fn foreign_file(location: &TableLocation, name: &str, rows: &[(i64, &str)]) -> LiveFile {
    let schema = arrow_schema(replayed(location).await.columns());
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id)));
    let a: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; rows.len()]));
    let b: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, b)| *b)));
    let batch = RecordBatch::try_new(schema, vec![ids, a, b]).unwrap();
    let mut writer = DataFileWriter::for_rows_like(&batch).unwrap();
    writer.write(&batch).unwrap();
    let bytes = writer.finish().unwrap().bytes;
    let file = LiveFile::written(name.into(), bytes.len() as u64, rows.len() as u64, 0);
    put(location.store(), &file.path, bytes).await.unwrap();
    file
}
