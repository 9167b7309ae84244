//! The files that a table consists of, with the rows that are gone from them. Kept up to date commit by commit, so that
//! the log is replayed only once.

use std::collections::HashMap;

use object_store::path::Path;
use roaring::RoaringBitmap;
use serde_json::{Map, Value, json};

use crate::index::{FileId, RowAddress};

/// A data file of the table.
#[derive(Clone, Debug)]
pub struct LiveFile {
    /// Path below the table.
    pub path: Path,
    /// Size in bytes.
    pub size: u64,
    /// Rows in it, gone ones included; none if its statistics do not tell.
    pub rows: Option<u64>,
    /// The add action, without its deletion vector.
    pub add: Map<String, Value>,
    /// Descriptor of its deletion vector.
    pub vector: Option<Value>,
    /// Rows that are gone.
    pub deleted: RoaringBitmap,
}

/// The live files, by number and by the path that the log gives them.
#[derive(Debug, Default)]
pub struct LiveFiles {
    files: HashMap<FileId, LiveFile>,
    by_path: HashMap<String, FileId>,
    next_id: FileId,
}

impl LiveFile {
    /// From an add action; the rows that its vector removes are to be read separately.
    pub fn from_add(mut add: Map<String, Value>) -> Option<LiveFile> {
        let path = Path::from_url_path(add.get("path")?.as_str()?).ok()?;
        let vector = add.remove("deletionVector").filter(|vector| !vector.is_null());
        let stats = add.get("stats").and_then(Value::as_str);
        let stats: Option<Value> = stats.and_then(|stats| serde_json::from_str(stats).ok());
        Some(LiveFile {
            path,
            size: add.get("size")?.as_u64()?,
            rows: stats.and_then(|stats| stats.get("numRecords")?.as_u64()),
            add,
            vector,
            deleted: RoaringBitmap::new(),
        })
    }

    /// A file that we have written.
    pub fn written(path: Path, size: u64, rows: u64, now_millis: i64) -> LiveFile {
        let stats = json!({"numRecords": rows, "tightBounds": false}).to_string();
        let add = json!({
            "path": path.as_ref(),
            "partitionValues": {},
            "size": size,
            "modificationTime": now_millis,
            "dataChange": true,
            "stats": stats,
        });
        let Value::Object(add) = add else { unreachable!("json! of braces is an object") };
        LiveFile { path, size, rows: Some(rows), add, vector: None, deleted: RoaringBitmap::new() }
    }

    /// Its path as the log has it.
    pub fn key(&self) -> &str {
        self.add.get("path").and_then(Value::as_str).unwrap_or_default()
    }

    /// The add action with a vector.
    pub fn add_action(&self, vector: Option<&Value>) -> Value {
        let mut add = self.add.clone();
        add.insert("dataChange".to_owned(), json!(true));
        if let Some(vector) = vector {
            add.insert("deletionVector".to_owned(), vector.clone());
            // Minima and maxima may be those of rows that are gone.
            let stats = add.get("stats").and_then(Value::as_str).and_then(|stats| serde_json::from_str(stats).ok());
            if let Some(Value::Object(mut stats)) = stats {
                stats.insert("tightBounds".to_owned(), json!(false));
                add.insert("stats".to_owned(), json!(Value::Object(stats).to_string()));
            }
        }
        Value::Object(add)
    }

    /// The remove action, with the vector that the file has now.
    pub fn remove_action(&self, now_millis: i64) -> Value {
        let mut remove = json!({
            "path": self.key(),
            "deletionTimestamp": now_millis,
            "dataChange": true,
            "extendedFileMetadata": true,
            "partitionValues": {},
            "size": self.size,
        });
        if let Some(vector) = &self.vector {
            remove["deletionVector"] = vector.clone();
        }
        remove
    }

    /// Whether every row is gone once these are gone too.
    pub fn is_emptied_by(&self, also: &RoaringBitmap) -> bool {
        self.rows == Some(self.deleted.union_len(also))
    }
}

impl LiveFiles {
    /// A number for a file that is about to be written.
    pub fn reserve_id(&mut self) -> FileId {
        self.next_id += 1;
        self.next_id
    }

    /// Takes a file in under a new number, or under its former one if the path is known.
    pub fn insert(&mut self, file: LiveFile) -> FileId {
        let id = match self.by_path.get(file.key()) {
            Some(&id) => id,
            None => self.reserve_id(),
        };
        self.insert_as(id, file);
        id
    }

    /// Takes a file in under a reserved number.
    pub fn insert_as(&mut self, id: FileId, file: LiveFile) {
        self.by_path.insert(file.key().to_owned(), id);
        self.files.insert(id, file);
    }

    /// Drops a file.
    pub fn remove(&mut self, path: &str) {
        if let Some(id) = self.by_path.remove(path) {
            self.files.remove(&id);
        }
    }

    /// Drops all files.
    pub fn clear(&mut self) {
        self.files.clear();
        self.by_path.clear();
    }

    /// A file by its number.
    pub fn get(&self, id: FileId) -> Option<&LiveFile> {
        self.files.get(&id)
    }

    /// A file by its number, to change it.
    pub fn get_mut(&mut self, id: FileId) -> Option<&mut LiveFile> {
        self.files.get_mut(&id)
    }

    /// A file by the path that the log gives it.
    pub fn find(&self, path: &str) -> Option<&LiveFile> {
        self.by_path.get(path).and_then(|id| self.files.get(id))
    }

    /// Whether a row is there and not gone.
    pub fn holds(&self, row: RowAddress) -> bool {
        self.files.get(&row.file).is_some_and(|file| !file.deleted.contains(row.row))
    }

    /// All files.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &LiveFile)> {
        self.files.iter().map(|(id, file)| (*id, file))
    }
}
