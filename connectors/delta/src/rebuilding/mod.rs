//! Tables as they were at a position of which they have no version: made of their histories, for cuts. Such a table
//! lies beside the cut that it is made for, has one version, and goes with the cut.
//!
//! A history is read twice for each slice of its keys: first for which of its rows are wanted ([`choice`]), and then
//! for their values ([`writing`]). So memory is bounded, however large the table is.

pub mod choice;
pub mod shape;
mod writing;

use sooner_api::{MemoryBudget, Result};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};
use uuid::Uuid;

use self::choice::{Choice, Event};
use self::shape::Shape;
use crate::clock::now_millis;
use crate::history::change_type::ChangeType;
use crate::history::columns::{ChainPlaces, extended, source_columns};
use crate::lake::DeltaLake;
use crate::log::committer::{Committer, Outcome};
use crate::log::provenance::Provenance;
use crate::log::replay::replay;
use crate::log::transaction::{Kind, Transaction};
use crate::maintenance::past::{COPIED_MICROS, impossible};
use crate::merge::parts::{PartLimits, Parts};
use crate::replaying::facts::FactColumns;
use crate::replaying::history_rows::HistoryRows;
use crate::replaying::range::{Bound, Start};
use crate::row_keys::{RowKeys, Slice};
use crate::rows::columns::LakeColumn;
use crate::rows::mark;
use crate::store::location::TableLocation;

/// Bytes of what is known of keys that are in memory at the same time, about.
const SLICE_BYTES: u64 = 64 << 20;
/// Bytes of what is known of a key, about.
const KEY_BYTES: u64 = 96;
/// Bytes of values that rows borrow from others, at most, unless one row has more.
const BORROWED_BYTES: u64 = 32 << 20;
/// Keys of a slice, also of rows that are gone, from which on it is halved.
const MOST_KEYS: u64 = 2 * SLICE_BYTES / KEY_BYTES;
/// Slices are not halved beyond so many.
const MOST_SLICES: u128 = 1 << 20;
/// Size of the files that are written.
const FILE_BYTES: usize = 16 << 20;

/// A table that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its name at the source.
    pub table: &'a TableName,
    /// Every transaction up to this commit LSN is in it, and no other.
    pub lsn: Lsn,
    /// Commit time, in microseconds since 1970, of the latest position at or before that is known; 0 if none is.
    pub commit_micros: i64,
    /// The version of its history that it is made of, which is complete to there.
    pub history: u64,
    /// The version of the table whose columns it has; the latest if none.
    pub columns: Option<u64>,
    /// The last copy of the whole table by then was complete to this.
    pub copied_to: Option<Lsn>,
}

/// What is read, and how.
struct Rebuild<'a> {
    wanted: Wanted<'a>,
    history: HistoryRows,
    columns: Vec<LakeColumn>,
    /// For each column its place in the history.
    places: Vec<usize>,
    keys: RowKeys,
}

/// What was seen of a history, beside the rows of a slice.
struct Seen {
    /// For each column, number of the first row that has a value of it. Older rows had no such column.
    first: Vec<u64>,
    /// Commit time of the last event, in microseconds since 1970.
    last_micros: i64,
    /// Position of the last row that was copied, and its commit time.
    copied: Option<(Lsn, i64)>,
}

/// Makes a table at a location where nothing lies yet. Returns the commit time of its last event, in microseconds since
/// 1970. An operator error if the history does not say what every row was.
pub async fn rebuild(lake: &DeltaLake, wanted: Wanted<'_>, location: &TableLocation) -> Result<i64> {
    let shape = Shape::of_table(lake, wanted.table, wanted.columns).await?;
    rebuild_as(lake, wanted, &shape, location).await
}

/// An operator error if no table of this shape can be made, whatever its history has for rows.
pub async fn check_shape(lake: &DeltaLake, wanted: Wanted<'_>, shape: &Shape) -> Result<()> {
    Rebuild::new(lake, wanted, shape).await.map(drop)
}

/// As [`rebuild`], where the lake need not have the table itself.
pub async fn rebuild_as(lake: &DeltaLake, wanted: Wanted<'_>, shape: &Shape, location: &TableLocation) -> Result<i64> {
    let rebuild = Rebuild::new(lake, wanted, shape).await?;
    let limits = PartLimits { part_bytes: FILE_BYTES, budget: MemoryBudget::new(2 * FILE_BYTES) };
    let (base, mut parts) = (replay(location, &[]).await?, Parts::default());
    let mut slices: Vec<_> = Slice::all(shape.rows * KEY_BYTES / SLICE_BYTES + 1).collect();
    let mut last_micros = 0;
    while let Some(slice) = slices.pop() {
        let (choice, seen) = rebuild.choose(slice).await?;
        last_micros = seen.last_micros;
        let is_large = choice.keys() as u64 > MOST_KEYS || choice.borrowed_bytes > BORROWED_BYTES;
        if is_large && slice.of < MOST_SLICES {
            slices.extend(slice.halves());
            continue;
        }
        rebuild.write(choice.into_rows(), &seen.first, (&mut parts, &base.files().ids()), (location, &limits)).await?;
    }
    parts.close(location).await?;
    let complete = Watermark { commit_lsn: wanted.lsn, end_lsn: wanted.lsn, commit_micros: last_micros };
    let transaction = transaction(lake.pipeline(), &rebuild, shape, parts, complete);
    let plan = transaction.plan(&base, now_millis());
    match Committer::new(location, &wanted.table.to_string()).commit(0, transaction.id, &plan).await? {
        Outcome::Committed => Ok(last_micros),
        Outcome::Conflict(_) => Err(rebuild.refused("somebody else makes it at the same place", "try again")),
        Outcome::Unknown(error) => Err(error),
    }
}

fn transaction(pipeline: &str, rebuild: &Rebuild<'_>, shape: &Shape, parts: Parts, complete: Watermark) -> Transaction {
    let provenance = Provenance { since: None, ..shape.provenance.clone() };
    Transaction {
        id: Uuid::new_v4(),
        kind: Kind::Copy,
        pipeline: pipeline.to_owned(),
        retention: Default::default(),
        columns: Some(rebuild.columns.clone()),
        last_column_id: shape.last_column_id,
        provenance,
        refilled: Default::default(),
        added: parts.written().clone(),
        superseded: Default::default(),
        removed: Default::default(),
        txns: Default::default(),
        watermark: Some(complete),
        span: Default::default(),
    }
}

impl<'a> Rebuild<'a> {
    /// Of a table of this shape. An operator error if its history does not have all of them.
    async fn new(lake: &DeltaLake, wanted: Wanted<'a>, shape: &Shape) -> Result<Rebuild<'a>> {
        let history = HistoryRows::at(lake, wanted.table, wanted.history).await?;
        let provenance = &shape.provenance;
        let key = history.key();
        let refused = |why: &str, remedy: &str| Err(refused(&wanted, why, remedy));
        if key.is_empty() || provenance.ignores_changes {
            return refused("it has no key, or changes of its rows are ignored", LEAVE_OUT);
        }
        if history.key_changed() || provenance.key != key {
            return refused("its rows had another key then, or have one since", LEAVE_OUT);
        }
        if mark::of(&shape.columns).is_some() {
            return refused("it keeps rows that were deleted, which its history does not tell apart", LEAVE_OUT);
        }
        history.check_reach(wanted.table, Start::After(Bound::Lsn(wanted.lsn)))?;
        let (all, places) = extended(wanted.table, history.columns(), &shape.columns, false)?;
        if all.len() > history.columns().len() || source_columns(history.columns()).count() > places.len() {
            let why = "columns were added, renamed, dropped or given another type about then, or since";
            return refused(why, "query the history as of that position: `sooner history TABLE --as-of LSN`");
        }
        let columns: Vec<_> = shape
            .columns
            .iter()
            .map(|column| {
                let is_key = key.contains(&column.name);
                LakeColumn { nullable: column.nullable || !is_key, ..column.clone() }
            })
            .collect();
        let keys = columns.iter().zip(&places).filter(|(column, _)| key.contains(&column.name));
        let keys = RowKeys { places: keys.map(|(_, place)| *place).collect(), secret: rand::random() };
        Ok(Rebuild { wanted, history, columns, places, keys })
    }

    /// Which rows of the history are those of the table, of a slice of the keys. An operator error if it cannot be
    /// told.
    async fn choose(&self, slice: Slice) -> Result<(Choice, Seen)> {
        // The first copy into a topic is not announced: its rows are the history's first, unless those are gone.
        let mut is_first = self.history.is_untrimmed();
        let mut choice = Choice::new(!is_first);
        let mut seen = Seen { first: vec![u64::MAX; self.places.len()], last_micros: 0, copied: None };
        let (mut number, mut former) = (0, None);
        let erased = ChainPlaces::of(self.history.columns()).map(|places| places.erased);
        let each = async |rows: arrow_array::RecordBatch| {
            let facts = FactColumns::of(&rows)?;
            for row in 0..facts.len() {
                let at = facts.at(row)?;
                let is_past = at.position.commit_lsn <= self.wanted.lsn;
                let begins = matches!(at.change, ChangeType::SnapshotStart | ChangeType::Truncate);
                if begins && !is_past {
                    return Ok(false);
                }
                let this = number;
                if is_past {
                    number += 1;
                    seen.last_micros = seen.last_micros.max(at.commit_micros);
                    if at.change == ChangeType::Snapshot {
                        seen.copied = Some((at.position.commit_lsn, at.commit_micros));
                    }
                    choice.is_whole |= std::mem::take(&mut is_first) && at.change == ChangeType::Snapshot;
                    for (first, place) in seen.first.iter_mut().zip(&self.places) {
                        if *first == u64::MAX && rows.column(*place).is_valid(row) {
                            *first = this;
                        }
                    }
                }
                // Of a row that was erased there are no values.
                let is_erased = erased.is_some_and(|erased| rows.column(erased).is_valid(row));
                if begins {
                    choice.begin();
                } else if at.change == ChangeType::Preimage {
                    former = Some((at.position, self.keys.of(&rows, row)));
                } else if !is_erased {
                    let key = self.keys.of(&rows, row);
                    let is_new = former.is_some_and(|(position, former)| position == at.position && former != key);
                    if !slice.has(key) {
                        continue;
                    }
                    if choice.keys() as u64 > MOST_KEYS && slice.of < MOST_SLICES {
                        // It is halved, whatever comes.
                        return Ok(false);
                    }
                    if is_past {
                        let unchanged = self.places_of(&facts.unchanged(row));
                        let bytes = writing::text_bytes(&rows, &self.places, row);
                        choice.take(Event { number: this, change: at.change, key, unchanged: &unchanged, bytes });
                    } else {
                        choice.pass(at.change, key, at.commit_micros, is_new);
                    }
                }
            }
            Ok(true)
        };
        self.history.scan(self.history.columns(), each).await?;
        if choice.keys() as u64 <= MOST_KEYS || slice.of >= MOST_SLICES {
            self.check(&choice, &seen)?;
        }
        Ok((choice, seen))
    }

    /// Places of columns in the history, by their names; those that the table does not have are left out.
    fn places_of(&self, names: &[String]) -> Vec<usize> {
        let place = |name: &String| {
            self.columns.iter().position(|column| column.name == *name).map(|column| self.places[column])
        };
        names.iter().filter_map(place).collect()
    }

    /// An operator error unless it is certain what every row was.
    fn check(&self, choice: &Choice, seen: &Seen) -> Result<()> {
        if !choice.is_whole {
            let remedy = "choose a position after the end of the first copy that its history has";
            return Err(self.refused("its history does not begin with a copy of the whole table by then", remedy));
        }
        if choice.missing_until.is_some() {
            let why = "its rows were being copied then, or rows that it had were erased from the history since";
            return Err(self.refused(why, "choose a position after the end of that copy"));
        }
        if choice.has_unknown() {
            let why = "rows have values that no event of the history has: their keys changed while large values stayed";
            return Err(self.refused(why, "give the table REPLICA IDENTITY FULL for cuts to come"));
        }
        let known = seen.last_micros.max(self.wanted.commit_micros);
        let is_settled = |(lsn, micros): (Lsn, i64)| {
            micros + COPIED_MICROS <= known || self.wanted.copied_to.is_some_and(|complete| complete >= lsn)
        };
        if seen.copied.is_some_and(|copied| !is_settled(copied)) {
            let minutes = COPIED_MICROS / 60_000_000;
            let remedy = format!("choose a position at least {minutes} minute(s) later");
            return Err(self.refused("rows of it were copied at about that time", &remedy));
        }
        Ok(())
    }

    fn refused(&self, why: &str, remedy: &str) -> sooner_api::Error {
        refused(&self.wanted, why, remedy)
    }
}

/// What is to be done about a table that cannot be made of its history.
const LEAVE_OUT: &str = "choose a position at which it has a version, or leave it out by --tables";

fn refused(wanted: &Wanted<'_>, why: &str, remedy: &str) -> sooner_api::Error {
    let why = format!("no version of {} is exactly there, and none can be made of its history: {why}", wanted.table);
    impossible(wanted.lsn, why, remedy)
}
