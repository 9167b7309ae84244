//! Reads of a history's data files what says which rows go: what happened, when, to which key, and whether it is a held
//! subject's.

use std::hash::Hasher;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use siphasher::sip128::{Hasher128, SipHasher13};
use sooner_api::Result;

use super::held::HeldColumns;
use super::rule::{Change, EventRow, Key};
use super::unsent::{NONE, UnsentSets};
use crate::erasure::subject::{is_another_type_of, text_of};
use crate::log::live_files::LiveFile;
use crate::log::table_version::TableVersion;
use crate::rows::columns::LakeColumn;
use crate::rows::fitting::unfit;

/// Names of the columns that say what happened, as a history has them.
const CHANGE: &str = "_change_type";
/// Commit LSN of an event.
pub const LSN: &str = "_commit_lsn";
const ORDINAL: &str = "_ordinal";
/// Commit time of an event.
pub const TIME: &str = "_commit_time";
const UNCHANGED: &str = "_unchanged";

/// How rows of a history are read.
pub struct EventColumns<'a> {
    change: String,
    lsn: String,
    ordinal: String,
    time: String,
    unchanged: String,
    /// For each column of the key its own name in data files, and those of the columns that have its values of other
    /// types.
    key: Vec<Vec<String>>,
    held: HeldColumns<'a>,
    doubts_copies: bool,
    seeds: (u64, u64),
}

/// The time and the position of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Commit time, in microseconds since 1970; none where that is not known.
    pub micros: Option<i64>,
    /// Commit LSN.
    pub lsn: i64,
    /// Whether the table was emptied then, or a copy begins of which nobody doubts that it ended; and the event's
    /// number at its LSN.
    pub restart: Option<i64>,
}

/// Name of one of a history's own columns in its data files.
pub fn stored_name(columns: &[LakeColumn], name: &str) -> String {
    let column = columns.iter().find(|column| column.name == name);
    column.map_or(name, |column| column.stored_name()).to_owned()
}

impl<'a> EventColumns<'a> {
    /// For a version of a history, of which subjects are held. `doubts_copies` if a copy that began may never have
    /// ended: rows from before it count as long as no later event is of their key.
    pub fn of(version: &TableVersion, held: HeldColumns<'a>, doubts_copies: bool) -> EventColumns<'a> {
        let columns = version.columns();
        let stored = |name: &str| stored_name(columns, name);
        let key = version.provenance().key;
        let names_of = |name: &String| {
            let others = columns.iter().filter(|column| is_another_type_of(column, name));
            [stored(name)].into_iter().chain(others.map(|column| column.stored_name().to_owned())).collect()
        };
        EventColumns {
            change: stored(CHANGE),
            lsn: stored(LSN),
            ordinal: stored(ORDINAL),
            time: stored(TIME),
            unchanged: stored(UNCHANGED),
            key: key.iter().map(names_of).collect(),
            held,
            doubts_copies,
            seeds: rand::random(),
        }
    }

    /// Whether the table has a key.
    pub fn are_keyed(&self) -> bool {
        !self.key.is_empty()
    }

    /// Name of a hold.
    pub fn hold(&self, hold: usize) -> &str {
        self.held.name(hold)
    }

    /// Names of the columns that say when something happened.
    pub fn of_moments(&self) -> Vec<&str> {
        vec![&self.change, &self.lsn, &self.ordinal, &self.time]
    }

    /// Names of all columns that are read.
    pub fn names(&self) -> Vec<&str> {
        let facts = [&self.change, &self.lsn, &self.ordinal, &self.unchanged].map(String::as_str);
        facts.into_iter().chain(self.key.iter().flatten().map(String::as_str)).chain(self.held.names()).collect()
    }

    /// When what rows tell happened.
    pub fn moments(&self, file: &LiveFile, rows: &RecordBatch) -> Result<Vec<Moment>> {
        let changes = self.texts(file, rows)?;
        let (lsns, ordinals) = (whole(file, rows, &self.lsn)?, whole(file, rows, &self.ordinal)?);
        let times = times(rows, &self.time).ok_or_else(|| odd(file, &self.time))?;
        let moment = |row: usize| Moment {
            micros: times.is_valid(row).then(|| times.value(row)),
            lsn: lsns.value(row),
            restart: self.restarts(changes.value(row)).then(|| ordinals.value(row)),
        };
        Ok((0..rows.num_rows()).map(moment).collect())
    }

    /// What rows tell; sets of columns that the source left out are numbered by `sets`.
    pub fn rows(&self, file: &LiveFile, rows: &RecordBatch, sets: &mut UnsentSets) -> Result<Vec<EventRow>> {
        let changes = self.texts(file, rows)?;
        let (lsns, ordinals) = (whole(file, rows, &self.lsn)?, whole(file, rows, &self.ordinal)?);
        let unchanged = rows.column_by_name(&self.unchanged).and_then(|lists| lists.as_list_opt::<i32>());
        let keys = self.keys(rows);
        let read = |(row, key): (usize, Option<Key>)| EventRow {
            change: change_of(changes.value(row)),
            at: (lsns.value(row), ordinals.value(row)),
            key,
            unsent: unchanged.map_or(NONE, |lists| set_of(lists, row, sets)),
            held: self.held.hold_of(rows, row),
        };
        Ok(keys.into_iter().enumerate().map(read).collect())
    }

    fn restarts(&self, change: &str) -> bool {
        change_of(change) == Change::Restart && !(self.doubts_copies && change == "snapshot_start")
    }

    fn texts<'b>(&self, file: &LiveFile, rows: &'b RecordBatch) -> Result<&'b StringArray> {
        let texts = rows.column_by_name(&self.change).and_then(|texts| texts.as_string_opt::<i32>());
        texts.filter(|texts| texts.null_count() == 0).ok_or_else(|| odd(file, &self.change))
    }

    /// Hashes of the rows' keys; none for a row that lacks a column of its key.
    fn keys(&self, rows: &RecordBatch) -> Vec<Option<Key>> {
        let columns: Vec<Vec<_>> = self
            .key
            .iter()
            .map(|names| {
                names.iter().enumerate().filter_map(|(at, name)| Some((at, rows.column_by_name(name)?))).collect()
            })
            .collect();
        let hash = |row: usize| {
            let mut hasher = SipHasher13::new_with_keys(self.seeds.0, self.seeds.1);
            for column in &columns {
                let (at, values) = column.iter().find(|(_, values)| values.is_valid(row))?;
                let text = text_of(values.as_ref(), row);
                hasher.write(&(*at as u64).to_le_bytes());
                hasher.write(&(text.len() as u64).to_le_bytes());
                hasher.write(text.as_bytes());
            }
            (!columns.is_empty()).then(|| hasher.finish128().as_u128())
        };
        (0..rows.num_rows()).map(hash).collect()
    }
}

fn change_of(name: &str) -> Change {
    match name {
        "delete" => Change::Delete,
        "update_preimage" => Change::Preimage,
        "truncate" | "snapshot_start" => Change::Restart,
        _ => Change::State,
    }
}

fn set_of(lists: &ListArray, row: usize, sets: &mut UnsentSets) -> u32 {
    if lists.is_null(row) {
        return NONE;
    }
    let names = lists.value(row);
    match names.as_string_opt::<i32>() {
        Some(names) => sets.number_of(names.iter().flatten()),
        None => NONE,
    }
}

fn whole<'b>(file: &LiveFile, rows: &'b RecordBatch, name: &str) -> Result<&'b Int64Array> {
    let values = rows.column_by_name(name).and_then(|values| values.as_primitive_opt::<Int64Type>());
    values.filter(|values| values.null_count() == 0).ok_or_else(|| odd(file, name))
}

fn times<'b>(rows: &'b RecordBatch, name: &str) -> Option<&'b TimestampMicrosecondArray> {
    rows.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>()
}

fn odd(file: &LiveFile, column: &str) -> sooner_api::Error {
    unfit(&file.path, format!("its column {column} is not that of a history"))
}
