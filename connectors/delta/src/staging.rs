//! What the next commit will make visible: events in memory, sealed rows in files, and where each key's row then lies.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use sooner_schemas::Lsn;
use sooner_schemas::event::EventSchema;
use uuid::Uuid;

use crate::columns::LakeColumn;
use crate::data_file::DataFileWriter;
use crate::index::{FileId, KeyIndex, RowAddress};
use crate::key::{KeyHash, KeyMap, KeyPlan, KeySet};
use crate::live_files::LiveFile;
use crate::pending::Pending;
use crate::rows::RowReader;

/// How the events of one schema are read.
pub struct Shape {
    /// The schema.
    pub schema: Arc<EventSchema>,
    /// Rows.
    pub rows: RowReader,
    /// Keys.
    pub keys: KeyPlan,
}

/// A file that is being filled.
pub struct OpenPart {
    /// Its number.
    pub id: FileId,
    /// Its rows.
    pub writer: DataFileWriter,
}

/// The content of the next commit.
pub struct Staging {
    /// Recognises the commit in the log, whatever became of the response.
    pub commit_id: Uuid,
    /// All rows that the table has now go.
    pub replaces: bool,
    /// This is an initial copy: its rows are taken whatever the table's log says.
    pub copying: bool,
    /// The table's columns from this commit on, if they change.
    pub columns: Option<Vec<LakeColumn>>,
    /// How the events in memory are read.
    pub shape: Option<Shape>,
    /// Events in memory.
    pub pending: Pending,
    /// The file that sealed rows go to.
    pub open_part: Option<OpenPart>,
    /// Files that are written.
    pub parts: BTreeMap<FileId, LiveFile>,
    /// Rows of parts that later events superseded.
    pub superseded: BTreeMap<FileId, RoaringBitmap>,
    /// Keys whose row lies in a part.
    pub moved: KeyIndex,
    /// Keys that have no row any more.
    pub gone: KeySet,
    /// Where the rows of such keys lay, if in a part: the second event of a changed key may need a value of it.
    pub gone_rows: KeyMap<RowAddress>,
    /// The last event's commit LSN.
    pub last_lsn: Lsn,
    /// For events from a topic: partitions, each with the offset after the last event.
    pub next_offsets: BTreeMap<i32, i64>,
}

impl Staging {
    /// Nothing staged.
    pub fn new() -> Staging {
        Staging {
            commit_id: Uuid::new_v4(),
            replaces: false,
            copying: false,
            columns: None,
            shape: None,
            pending: Pending::default(),
            open_part: None,
            parts: BTreeMap::new(),
            superseded: BTreeMap::new(),
            moved: KeyIndex::default(),
            gone: KeySet::default(),
            gone_rows: KeyMap::default(),
            last_lsn: Lsn::ZERO,
            next_offsets: BTreeMap::new(),
        }
    }

    /// Nothing staged, but events are read as before.
    pub fn next(self) -> Staging {
        Staging { shape: self.shape, ..Staging::new() }
    }

    /// The table was truncated: whatever was staged before goes too.
    pub fn truncate(&mut self) {
        self.replaces = true;
        self.pending.clear();
        self.open_part = None;
        self.parts.clear();
        self.superseded.clear();
        self.moved = KeyIndex::default();
        self.gone.clear();
        self.gone_rows.clear();
    }

    /// Notes that a key's row lies in a part now, or nowhere.
    pub fn place(&mut self, key: KeyHash, row: Option<RowAddress>) {
        let former = match row {
            Some(row) => {
                if !self.gone.is_empty() {
                    self.gone.remove(&key);
                }
                self.moved.insert(key, row)
            }
            None => {
                self.gone.insert(key);
                let former = self.moved.remove(key);
                self.gone_rows.extend(former.map(|row| (key, row)));
                former
            }
        };
        if let Some(former) = former {
            self.superseded.entry(former.file).or_default().insert(former.row);
        }
    }

    /// Whether a commit would change nothing.
    pub fn is_empty(&self) -> bool {
        !self.replaces
            && self.columns.is_none()
            && self.pending.is_empty()
            && self.open_part.is_none()
            && self.parts.is_empty()
            && self.gone.is_empty()
    }
}
