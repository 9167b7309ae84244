//! The data files that a table consists of, with the rows that are deleted from them. They are kept up to date
//! commit by commit, so that the log is replayed only once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use object_store::path::Path;
use roaring::RoaringBitmap;
use serde_json::{Map, Value, json};
use sooner_api::TableSize;

use crate::index::key_index::{FileId, RowAddress};

/// A data file that belongs to the table's current version.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveFile {
    /// Path of the file below the table, decoded.
    pub path: Path,
    /// Size of the file in bytes.
    pub size: u64,
    /// Number of rows in the file, deleted ones included; none if its statistics do not contain it.
    pub rows: Option<u64>,
    /// The file's add action, without its deletion vector.
    pub add: Map<String, Value>,
    /// Descriptor of the file's deletion vector, if it has one.
    pub vector: Option<Value>,
    /// Positions of the rows that are deleted.
    pub deleted: RoaringBitmap,
}

/// Gives numbers to data files. Clones share one sequence, and no number is given twice.
#[derive(Clone, Debug, Default)]
pub struct FileIds(Arc<AtomicU32>);

impl FileIds {
    /// A number for a file that is about to be written or taken in.
    pub fn reserve(&self) -> FileId {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// No number up to this one is given any more.
    fn skip_to(&self, id: FileId) {
        self.0.fetch_max(id, Ordering::Relaxed);
    }

    /// The highest number that was given.
    pub fn last(&self) -> FileId {
        self.0.load(Ordering::Relaxed)
    }
}

/// The live files of a table, by number and by the path that the log gives them.
#[derive(Debug, Default)]
pub struct LiveFiles {
    files: HashMap<FileId, LiveFile>,
    by_path: HashMap<String, FileId>,
    ids: FileIds,
}

impl LiveFile {
    /// A file from an add action; none if its path or its size is missing or malformed. The rows that its deletion
    /// vector deletes have to be read separately.
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

    /// A file that this process has written, without deleted rows; `now_millis` is its modification time.
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

    /// The same file with statistics of its columns, as JSON.
    pub fn with_statistics(mut self, statistics: &str) -> LiveFile {
        self.add.insert("stats".to_owned(), json!(statistics));
        self
    }

    /// Path of the file as the log has it, which is URL-encoded.
    pub fn key(&self) -> &str {
        self.add.get("path").and_then(Value::as_str).unwrap_or_default()
    }

    /// The file's add action, with this deletion vector if there is one. `changes_data` says whether rows are written
    /// or go by it, rather than lie elsewhere.
    pub fn add_action(&self, vector: Option<&Value>, changes_data: bool) -> Value {
        let mut add = self.add.clone();
        add.insert("dataChange".to_owned(), json!(changes_data));
        if let Some(vector) = vector {
            add.insert("deletionVector".to_owned(), vector.clone());
            if let Some(stats) = add.get("stats").and_then(Value::as_str).and_then(with_wide_bounds) {
                add.insert("stats".to_owned(), json!(stats));
            }
        }
        Value::Object(add)
    }

    /// The file's remove action, with the deletion vector that the file has now. `changes_data` says whether rows go by
    /// it, rather than lie elsewhere.
    pub fn remove_action(&self, now_millis: i64, changes_data: bool) -> Value {
        let mut remove = json!({
            "path": self.key(),
            "deletionTimestamp": now_millis,
            "dataChange": changes_data,
            "extendedFileMetadata": true,
            "partitionValues": {},
            "size": self.size,
        });
        if let Some(vector) = &self.vector {
            remove["deletionVector"] = vector.clone();
        }
        remove
    }

    /// Whether every row of the file is deleted once these are, too; false if the number of rows is not known.
    pub fn is_emptied_by(&self, also: &RoaringBitmap) -> bool {
        self.rows == Some(self.deleted.union_len(also))
    }
}

/// Statistics of a file that has lost rows: minima and maxima may be those of rows that are gone. The text is not taken
/// apart, since numbers would not come back as they are.
fn with_wide_bounds(stats: &str) -> Option<String> {
    if stats.contains("\"tightBounds\":true") {
        return Some(stats.replacen("\"tightBounds\":true", "\"tightBounds\":false", 1));
    }
    let says_so = stats.contains("\"tightBounds\"");
    let rest = stats.trim_start().strip_prefix('{').filter(|_| !says_so)?;
    let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
    Some(format!("{{\"tightBounds\":false{comma}{rest}"))
}

impl LiveFiles {
    /// No files; those to come get numbers of a sequence.
    pub fn numbered_by(ids: FileIds) -> LiveFiles {
        LiveFiles { ids, ..LiveFiles::default() }
    }

    /// The same files, with numbers of a sequence.
    pub fn numbered_anew(self, ids: FileIds) -> LiveFiles {
        let mut numbered = LiveFiles::numbered_by(ids);
        for file in self.files.into_values() {
            numbered.insert(file);
        }
        numbered
    }

    /// The same files under numbers that they had in another process: those of `known` paths. The others, and those to
    /// come, get numbers beyond `last`.
    pub fn numbered_as(self, known: &HashMap<&str, FileId>, last: FileId) -> LiveFiles {
        let mut numbered = LiveFiles::numbered_by(FileIds(Arc::new(AtomicU32::new(last))));
        for file in self.files.into_values() {
            match known.get(file.key()) {
                Some(&id) => numbered.insert_as(id, file),
                None => drop(numbered.insert(file)),
            }
        }
        numbered
    }

    /// The sequence that the files' numbers come from.
    pub fn ids(&self) -> FileIds {
        self.ids.clone()
    }

    /// Number of the file at a path; none if it is not live.
    pub fn id_of(&self, path: &str) -> Option<FileId> {
        self.by_path.get(path).copied()
    }

    /// Adds a file and returns its number: a new one, or that of the file of the same path, which it replaces.
    pub fn insert(&mut self, file: LiveFile) -> FileId {
        let id = match self.by_path.get(file.key()) {
            Some(&id) => id,
            None => self.ids.reserve(),
        };
        self.insert_as(id, file);
        id
    }

    /// Adds a file under a reserved number.
    pub fn insert_as(&mut self, id: FileId, file: LiveFile) {
        self.ids.skip_to(id);
        self.by_path.insert(file.key().to_owned(), id);
        self.files.insert(id, file);
    }

    /// Removes the file with the path that the log has; does nothing if there is none.
    pub fn remove(&mut self, path: &str) {
        if let Some(id) = self.by_path.remove(path) {
            self.files.remove(&id);
        }
    }

    /// The file with this number.
    pub fn get(&self, id: FileId) -> Option<&LiveFile> {
        self.files.get(&id)
    }

    /// The file with the path that the log has.
    pub fn find(&self, path: &str) -> Option<&LiveFile> {
        self.by_path.get(path).and_then(|id| self.files.get(id))
    }

    /// Whether a row is live: its file belongs to the table, and the row is not deleted.
    pub fn holds(&self, row: RowAddress) -> bool {
        self.files.get(&row.file).is_some_and(|file| !file.deleted.contains(row.row))
    }

    /// What they amount to.
    pub fn size(&self) -> TableSize {
        let mut size = TableSize { files: self.files.len() as u64, ..TableSize::default() };
        for file in self.files.values() {
            size.bytes += file.size;
            size.rows += file.rows.unwrap_or_default();
            size.deleted_rows += file.deleted.len();
        }
        size
    }

    /// All files with their numbers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &LiveFile)> {
        self.files.iter().map(|(id, file)| (*id, file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, rows: u64) -> LiveFile {
        LiveFile::written(Path::from(path), 100, rows, 5)
    }

    #[test]
    fn an_add_action_is_read_back() {
        let written = file("part-1.parquet", 7);
        let Value::Object(add) = written.add_action(None, true) else { panic!("an object") };
        assert_eq!(LiveFile::from_add(add), Some(written));
    }

    #[test]
    fn statistics_of_a_file_with_a_vector_are_wide_bounds() {
        let vector = json!({"storageType": "i"});
        let add = file("a", 7).add_action(Some(&vector), true);
        assert_eq!(add["deletionVector"], vector);
        assert!(add["stats"].as_str().is_some_and(|stats| stats.contains("\"tightBounds\":false")));
    }

    #[test]
    fn a_file_is_emptied_by_what_is_left_of_it() {
        let mut file = file("a", 3);
        file.deleted = [0].into_iter().collect();
        assert!(!file.is_emptied_by(&[1].into_iter().collect()));
        assert!(file.is_emptied_by(&[1, 2].into_iter().collect()));
        file.rows = None;
        assert!(!file.is_emptied_by(&[1, 2].into_iter().collect()), "nobody says how many rows it has");
    }

    #[test]
    fn files_keep_their_numbers_and_numbers_are_never_given_twice() {
        let mut files = LiveFiles::default();
        let first = files.insert(file("a", 1));
        assert_eq!(files.insert(file("a", 2)), first);
        files.remove("a");
        assert!(files.find("a").is_none());
        assert_ne!(files.insert(file("a", 1)), first);
        assert_ne!(files.ids().reserve(), files.ids().reserve());
    }

    #[test]
    fn a_sequence_goes_on_for_files_that_are_read_again() {
        let mut files = LiveFiles::default();
        let ids = files.ids();
        let (old, staged) = (files.insert(file("a", 1)), ids.reserve());
        let mut again = LiveFiles::default();
        again.insert(file("a", 1));
        let again = again.numbered_anew(ids);
        let now = again.id_of("a").unwrap();
        assert!(now > old && now > staged && again.ids().reserve() > now);
        let mut others = LiveFiles::default();
        others.insert_as(9, file("b", 1));
        assert_eq!(others.ids().reserve(), 10);
    }

    #[test]
    fn files_get_back_the_numbers_that_they_had() {
        let mut files = LiveFiles::default();
        for path in ["a", "b", "c"] {
            files.insert(file(path, 1));
        }
        let files = files.numbered_as(&HashMap::from([("b", 70), ("gone", 71)]), 75);
        assert_eq!(files.id_of("b"), Some(70));
        assert!(["a", "c"].iter().all(|path| files.id_of(path) > Some(75)));
        assert_eq!(files.ids().reserve(), 78);
    }

    #[test]
    fn a_row_is_held_while_it_is_not_deleted() {
        let mut files = LiveFiles::default();
        let mut with_vector = file("a", 3);
        with_vector.deleted = [1].into_iter().collect();
        let id = files.insert(with_vector);
        assert!(files.holds(RowAddress { file: id, row: 0 }));
        assert!(!files.holds(RowAddress { file: id, row: 1 }));
        assert!(!files.holds(RowAddress { file: id + 1, row: 0 }));
    }
}
