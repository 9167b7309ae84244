//! Whether a table is in a cut as its history says that it was: both are read as of the cut, and compared value by
//! value.
//!
//! The history's state at the cut's position is, for each key, the last event since the table was last copied whole or
//! emptied; a value that an event left out is that of the event before. Keys are taken in slices, by their hash, so
//! that what is in memory is bounded: of each row a hash of its key and one of each value.

use std::collections::HashMap;

use arrow_array::RecordBatch;
use siphasher::sip128::{Hasher128, SipHasher13};
use sooner_api::{Code, Error, Result};
use sooner_schemas::{Lsn, TableName};

use crate::cuts::Cut;
use crate::history::change_type::ChangeType;
use crate::history::columns::{ChainPlaces, extended, source_columns};
use crate::lake::DeltaLake;
use crate::log::replay::replay;
use crate::replaying::facts::FactColumns;
use crate::replaying::history_rows::HistoryRows;
use crate::replaying::range::{Bound, Start};
use crate::row_keys::{RowKeys, Slice};
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::mark;
use crate::stored_rows::StoredRows;
use crate::verification::{hash_value, text_of};

/// Bytes of hashes and keys that are in memory at the same time, about.
const SLICE_BYTES: u64 = 64 << 20;
/// Bytes of a row beside those of its values' hashes, about: its key as a text is among them.
const ROW_BYTES: u64 = 128;
/// Differences that are told one by one, at most.
pub const MOST_TOLD: usize = 100;

/// Hash of a value that is NULL.
const NULL: u64 = 0;
/// Stands for a value that no event of the history has.
const UNKNOWN: u64 = 1;

/// What was found of a table of a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutChecked {
    /// Rows of the table in the cut.
    pub rows: u64,
    /// How many rows differ.
    pub count: usize,
    /// Some of them.
    pub differences: Vec<CutDifference>,
    /// Rows with values that the history does not have, and that are equal otherwise.
    pub unproven: u64,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutDifference {
    /// Its key.
    pub key: String,
    /// In what.
    pub kind: CutDifferenceKind,
}

/// In what a row differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CutDifferenceKind {
    /// The history has it, and the cut does not.
    Missing,
    /// The cut has it, and the history does not.
    Extra,
    /// Both have it, with other values in these columns.
    Values(Vec<String>),
}

/// Values of a row, as hashes, since a commit LSN.
struct RowState {
    values: Box<[u64]>,
    key: String,
    since: Lsn,
}

/// Rows as a history has them at the position of a cut.
struct Past {
    rows: HashMap<u128, RowState>,
    /// For each column, since which commit LSN events of the history have values of it; the highest there is if none
    /// has. Older rows had no such column.
    first: Vec<Lsn>,
}

/// How rows of one side are read: the places of the columns that are compared, and of those of the key.
struct Side {
    places: Vec<usize>,
    keys: RowKeys,
    names: Vec<String>,
    /// Hash of what rows hold in a column that are older than it, where they hold something. The history has NULL
    /// there.
    missing: Vec<Option<u64>>,
}

/// Compares a table of a cut with its history as of the cut. An operator error if that proves nothing of it.
pub async fn check_cut(lake: &DeltaLake, cut: &Cut, table: &TableName) -> Result<CutChecked> {
    let versions = cut.tables.get(table).ok_or_else(|| unproven(cut, table, "the table is not in the cut"))?;
    let mirror = versions
        .mirror
        .as_ref()
        .ok_or_else(|| unproven(cut, table, "the cut has only its history, with which nothing else can be compared"))?;
    let history = versions.history.as_ref().ok_or_else(|| {
        unproven(cut, table, "the table had no history when the cut was made, and its source has gone on since")
    })?;
    let stored = StoredRows::at(lake.mirror_in_cut(table, mirror), mirror.version).await?;
    let history = HistoryRows::at(lake, table, history.version).await?;
    let columns = mark::without(stored.version.columns());
    let key = history.key();
    if key.is_empty() || stored.version.provenance().ignores_changes {
        return Err(unproven(cut, table, "it has no key, or changes of its rows are ignored"));
    }
    if history.key_changed() || stored.version.provenance().key != key {
        return Err(unproven(cut, table, "its rows had another key then, or have one since"));
    }
    let secret = rand::random();
    let present = side(&columns, (0..columns.len()).collect(), &key, secret);
    let (extended, places) = extended(table, history.columns(), &columns, false)?;
    if extended.len() > history.columns().len() {
        return Err(unproven(cut, table, "the history lacks columns that the table has"));
    }
    if source_columns(history.columns()).count() > places.len() {
        let why = "columns were renamed, dropped or given another type, and the history has them under former names";
        return Err(unproven(cut, table, why));
    }
    let past = side(&columns, places, &key, secret);
    let live = stored.version.files().size();
    let live = live.rows.saturating_sub(live.deleted_rows);
    let slices = live * (ROW_BYTES + 8 * columns.len() as u64) / SLICE_BYTES + 1;
    let mut checked = CutChecked { rows: 0, count: 0, differences: Vec::new(), unproven: 0 };
    for slice in Slice::all(slices) {
        let states = states(&history, &past, slice, cut, table).await?;
        compare(&stored, &present, slice, states, &mut checked).await?;
    }
    Ok(checked)
}

/// In what a table, as its history tells it, is another one than the lake has beside the history; none if in nothing.
pub async fn unlike_mirror(lake: &DeltaLake, table: &TableName) -> Result<Option<&'static str>> {
    let mirror = replay(&lake.location(table), &[]).await?;
    let history = replay(&lake.history_location(table), &[]).await?;
    if !mirror.exists() || !history.exists() {
        return Ok(None);
    }
    let columns = mark::without(mirror.columns());
    let (extended, places) = extended(table, history.columns(), &columns, false)?;
    Ok(if mirror.provenance().ignores_changes {
        Some("changes of its rows are ignored in the lake, and in its history they are not")
    } else if columns.len() < mirror.columns().len() {
        Some("rows that its source has deleted are kept in the lake, and its history has them as deleted")
    } else if extended.len() > history.columns().len() || source_columns(history.columns()).count() > places.len() {
        Some("columns were renamed, dropped or given another type, and its history has values under former names")
    } else if columns.iter().any(|column| column.missing.is_some()) {
        Some("a column was added with a default, and its history has NULL in rows that are older")
    } else {
        None
    })
}

fn side(columns: &[LakeColumn], places: Vec<usize>, key: &[String], secret: (u64, u64)) -> Side {
    let keys = columns.iter().zip(&places).filter(|(column, _)| key.contains(&column.name)).map(|(_, place)| *place);
    let missing = columns.iter().map(|column| {
        let values = column.missing.as_ref().and_then(|_| column.missing_values(1).ok())?;
        Some(value_hash(values.as_ref(), 0, secret))
    });
    Side {
        keys: RowKeys { places: keys.collect(), secret },
        names: columns.iter().map(|column| column.name.clone()).collect(),
        missing: missing.collect(),
        places,
    }
}

impl Side {
    fn key_text(&self, rows: &RecordBatch, row: usize) -> String {
        let text = |place: &usize| {
            let at = self.places.iter().position(|other| other == place).unwrap_or_default();
            format!("{}={}", self.names[at], text_of(rows.column(*place).as_ref(), row))
        };
        self.keys.places.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    fn values(&self, rows: &RecordBatch, row: usize) -> Box<[u64]> {
        self.places.iter().map(|place| value_hash(rows.column(*place).as_ref(), row, self.keys.secret)).collect()
    }
}

fn value_hash(values: &dyn arrow_array::Array, row: usize, (first, second): (u64, u64)) -> u64 {
    if values.is_null(row) {
        return NULL;
    }
    let mut hasher = SipHasher13::new_with_keys(first, second);
    hash_value(values, row, &mut hasher);
    (hasher.finish128().as_u128() as u64).max(UNKNOWN + 1)
}

/// Rows of a slice as a history has them at the position of a cut. An operator error if it does not know all of them.
async fn states(history: &HistoryRows, side: &Side, slice: Slice, cut: &Cut, table: &TableName) -> Result<Past> {
    history.check_reach(table, Start::After(Bound::Lsn(cut.lsn)))?;
    let mut states = HashMap::<u128, RowState>::new();
    // The first copy into a topic is not announced: its rows are the history's first, unless those are gone.
    let (mut is_whole, mut is_first) = (false, history.is_untrimmed());
    let mut first = vec![Lsn(u64::MAX); side.places.len()];
    let erased = ChainPlaces::of(history.columns()).map(|places| places.erased);
    history
        .scan(history.columns(), async |rows| {
            let facts = FactColumns::of(&rows)?;
            for row in 0..facts.len() {
                let at = facts.at(row)?;
                if at.position.commit_lsn > cut.lsn {
                    return Ok(false);
                }
                is_whole |= std::mem::take(&mut is_first) && at.change == ChangeType::Snapshot;
                for (first, place) in first.iter_mut().zip(&side.places).filter(|(first, _)| **first == Lsn(u64::MAX)) {
                    if rows.column(*place).is_valid(row) {
                        *first = at.position.commit_lsn;
                    }
                }
                match at.change {
                    ChangeType::SnapshotStart | ChangeType::Truncate => {
                        states.clear();
                        is_whole = true;
                        continue;
                    }
                    ChangeType::Preimage => continue,
                    _ => {}
                }
                // Of a row that was erased there are no values, and nothing in the cut.
                if erased.is_some_and(|erased| rows.column(erased).is_valid(row)) {
                    continue;
                }
                let key = side.keys.of(&rows, row);
                if !slice.has(key) {
                    continue;
                }
                if at.change == ChangeType::Delete {
                    states.remove(&key);
                    continue;
                }
                let mut values = side.values(&rows, row);
                for name in facts.unchanged(row) {
                    let Some(place) = side.names.iter().position(|known| *known == name) else { continue };
                    values[place] = states.get(&key).map_or(UNKNOWN, |former| former.values[place]);
                }
                let text = side.key_text(&rows, row);
                states.insert(key, RowState { values, key: text, since: at.position.commit_lsn });
            }
            Ok(true)
        })
        .await?;
    match is_whole {
        true => Ok(Past { rows: states, first }),
        false => Err(unproven(cut, table, "the history does not begin with a copy of the whole table")),
    }
}

/// Compares the rows of a slice in the cut with those of the history.
async fn compare(
    stored: &StoredRows,
    side: &Side,
    slice: Slice,
    mut past: Past,
    checked: &mut CutChecked,
) -> Result<()> {
    let columns = stored.version.columns();
    let has_mark = mark::of(columns).is_some();
    stored
        .scan(columns, &arrow_schema(columns), async |rows| {
            let rows = match has_mark {
                true => mark::living(&rows).map_err(|error| Error::internal("cannot compare rows of a cut", error))?,
                false => rows,
            };
            for row in 0..rows.num_rows() {
                let key = side.keys.of(&rows, row);
                if !slice.has(key) {
                    continue;
                }
                checked.rows += 1;
                let values = side.values(&rows, row);
                let Some(state) = past.rows.remove(&key) else {
                    checked.tell(side.key_text(&rows, row), CutDifferenceKind::Extra);
                    continue;
                };
                let is_older = |at: usize| {
                    Some(values[at]) == side.missing[at] && state.values[at] == NULL && state.since < past.first[at]
                };
                let differs =
                    |at: &usize| values[*at] != state.values[*at] && state.values[*at] != UNKNOWN && !is_older(*at);
                let names: Vec<String> = (0..values.len()).filter(differs).map(|at| side.names[at].clone()).collect();
                if !names.is_empty() {
                    checked.tell(state.key, CutDifferenceKind::Values(names));
                } else if state.values.contains(&UNKNOWN) {
                    checked.unproven += 1;
                }
            }
            Ok(())
        })
        .await?;
    for (_, state) in past.rows {
        checked.tell(state.key, CutDifferenceKind::Missing);
    }
    Ok(())
}

impl CutChecked {
    fn tell(&mut self, key: String, kind: CutDifferenceKind) {
        self.count += 1;
        if self.differences.len() < MOST_TOLD {
            self.differences.push(CutDifference { key, kind });
        }
    }
}

fn unproven(cut: &Cut, table: &TableName, why: &str) -> Error {
    Error::operator(
        Code::CutUnproven,
        format!("cannot prove that {table} is in the cut '{}' as it was", cut.name),
        why,
        "give the table write = [\"mirror\", \"history\"] for cuts to come; or run `sooner verify` when cuts are made",
    )
}
