//! Other states of rows that are gone: of a row whose subject is known by one value, former states may have had another
//! one. Where the row is gone from its source, all its states are the subject's.

use std::collections::{HashMap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};
use futures::StreamExt;
use object_store::path::Path;
use sooner_api::Result;

use super::objects::{DataObject, FoundFile, open};
use super::subject::text_of;
use crate::index::key_index::FileId;
use crate::log::live_files::LiveFile;
use crate::log::table_version::TableVersion;
use crate::rows::mark;
use crate::rows::stored_file::READ_ROWS;
use crate::store::location::TableLocation;

/// Texts of keys.
pub type Keys = HashSet<String>;

/// Columns of a history that say in which order rows came, and what became of them.
const CHANGE: [&str; 3] = ["_change_type", "_commit_lsn", "_ordinal"];

/// Columns of a table's key, by their names in data files.
#[derive(Clone, Debug, Default)]
pub struct KeyColumns {
    /// None of them if the table has no key.
    pub key: Vec<String>,
    /// The column that says when a row was deleted, which the table keeps nevertheless.
    mark: Option<String>,
    is_history: bool,
}

impl KeyColumns {
    /// The key of a table, as its log says it.
    pub fn of(version: &TableVersion) -> KeyColumns {
        let columns = version.columns();
        let stored = |name: &str| columns.iter().find(|column| column.name == name).map(|column| column.stored_name());
        let names: Option<Vec<_>> = version.provenance().key.iter().map(|name| stored(name)).collect();
        let key = names.unwrap_or_default().into_iter().map(str::to_owned).collect();
        let mark = mark::of(columns).map(|mark| mark.stored_name().to_owned());
        KeyColumns { key, mark, is_history: CHANGE.iter().all(|name| stored(name).is_some()) }
    }

    /// Text of a row's key; none without a key.
    pub fn text_of(&self, rows: &RecordBatch, row: usize) -> Option<String> {
        let values = self.key.iter().map(|name| {
            let values = rows.column_by_name(name)?;
            values.is_valid(row).then(|| text_of(values.as_ref(), row))
        });
        let values: Vec<_> = values.collect::<Option<_>>()?;
        (!values.is_empty()).then(|| values.join("\u{1f}"))
    }

    /// Whether its source has deleted a row that a mirror keeps.
    fn is_deleted(&self, rows: &RecordBatch, row: usize) -> bool {
        let mark = self.mark.as_ref().and_then(|mark| rows.column_by_name(mark));
        mark.is_some_and(|mark| mark.is_valid(row))
    }

    fn read_columns(&self) -> Vec<&str> {
        let change = CHANGE.iter().copied().filter(|_| self.is_history);
        self.key.iter().chain(&self.mark).map(String::as_str).chain(change).collect()
    }
}

/// What is known of the row of one key.
#[derive(Default)]
struct States {
    /// Where they lie: number of the object, and position.
    places: Vec<(usize, u32)>,
    /// A mirror's row is live, or the last event of a history is none that deletes the row.
    is_live: bool,
    last: Option<(i64, i64)>,
}

/// Adds the other states of rows that have these keys and are gone to what was found.
pub async fn other_states(
    location: &TableLocation,
    objects: &[DataObject],
    live: &HashMap<Path, (FileId, LiveFile)>,
    key: &KeyColumns,
    keys: &Keys,
    found: &mut Vec<FoundFile>,
) -> Result<()> {
    let (mut states, mut restart) = (HashMap::<String, States>::new(), None);
    for (number, object) in objects.iter().enumerate() {
        let Some(stored) = open(location, object).await? else { continue };
        let mut batches = stored.batches(Some(&key.read_columns()), None, READ_ROWS)?;
        let (mut first, file) = (0, live.get(&object.path).map(|(_, file)| file));
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                if key.is_history && matches!(change_of(&batch, row), Some("truncate" | "snapshot_start")) {
                    restart = restart.max(position_of(&batch, row));
                }
                let Some(text) = key.text_of(&batch, row).filter(|text| keys.contains(text)) else { continue };
                let (state, position) = (states.entry(text).or_default(), first + row as u32);
                state.places.push((number, position));
                match key.is_history {
                    true => state.note_event(&batch, row),
                    false => {
                        let is_there = file.is_some_and(|file| !file.deleted.contains(position));
                        state.is_live |= is_there && !key.is_deleted(&batch, row);
                    }
                }
            }
            first += batch.num_rows() as u32;
        }
    }
    // What a copy did not find any more, or a TRUNCATE took, has no event of its own.
    let is_gone = |state: &States| !state.is_live || key.is_history && state.last < restart;
    for (number, row) in states.into_values().filter(is_gone).flat_map(|state| state.places) {
        let object = &objects[number];
        match found.iter_mut().find(|file| file.object.path == object.path) {
            Some(file) => drop(file.rows.insert(row)),
            None => {
                let live = live.get(&object.path).cloned();
                found.push(FoundFile { object: object.clone(), rows: [row].into_iter().collect(), live });
            }
        }
    }
    Ok(())
}

impl States {
    fn note_event(&mut self, rows: &RecordBatch, row: usize) {
        let at = position_of(rows, row);
        if at >= self.last {
            self.is_live = change_of(rows, row) != Some("delete");
            self.last = at;
        }
    }
}

/// Commit LSN and ordinal of an event.
fn position_of(rows: &RecordBatch, row: usize) -> Option<(i64, i64)> {
    let number = |name: &str| {
        let values = rows.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        values.is_valid(row).then(|| values.value(row))
    };
    number("_commit_lsn").zip(number("_ordinal"))
}

/// What an event was.
fn change_of(rows: &RecordBatch, row: usize) -> Option<&str> {
    let kinds = rows.column_by_name("_change_type")?.as_string_opt::<i32>()?;
    kinds.is_valid(row).then(|| kinds.value(row))
}
