//! From events in memory to rows in a part: the last state of each key, decoded, completed, and placed.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use sooner_api::{Code, Error, Result};
use sooner_schemas::event::Op;

use super::event_plan::copy_again;
use super::fill::{self, Gap};
use super::parts::Parts;
use super::pending::{Former, Found, Pending, RowState, StateId};
use super::sealing::{Outcome, Sealer, Sealing};
use super::staging::Staging;
use crate::index::key::{KeyHash, KeySet};
use crate::index::key_index::RowAddress;
use crate::log::table_version::TableVersion;
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::mark;
use crate::rows::reader::finish;

/// Rows of one Arrow batch.
const BATCH_ROWS: usize = 16 << 10;
/// Bytes of the events of one Arrow batch, unless it is one event: what is encoded is in memory three times meanwhile.
const BATCH_BYTES: usize = 2 << 20;
/// Rows of a batch where values have to be filled in: those are large, or Postgres would not have left them out.
const FILLED_BATCH_ROWS: usize = 256;
/// Share of a part that values may take which are filled in at a time.
const FILLED_SHARE: usize = 4;

impl Sealer<'_> {
    /// Moves events from memory into parts.
    pub async fn seal(&self, staging: &mut Staging) -> Result<()> {
        if staging.pending.is_empty() {
            return Ok(());
        }
        let (replaces, is_copy) = (staging.replaces(), staging.is_copy() || self.is_copy);
        let columns = next_columns(staging, self.base).to_vec();
        let Staging { plan, pending, parts, .. } = staging;
        let Some(plan) = plan else {
            return Err(Error::internal("cannot seal events", "their schema is not known"));
        };
        let Outcome { mut rows, deleted_at, stored, mut gone } = match mark::of(&columns) {
            Some(_) => self.keep_deleted(plan, pending, replaces)?,
            None => self.drop_deleted(pending),
        };
        if is_copy {
            // The rest of such a row has not been copied yet; a row that is there still follows whole.
            let incomplete = rows.extract_if(.., |row| !self.is_whole(pending, row.state, replaces));
            gone.extend(incomplete.map(|row| row.key).filter(|key| deleted_at.contains_key(key)));
        }
        let fills = rows.iter().any(|row| !pending.event(row.state).unavailable.is_empty());
        let deleted_at = &deleted_at;
        let sealing = Sealing { sealer: self, plan, columns: &columns, pending, replaces, deleted_at };
        let mut placed = sealing.mark_stored(stored, parts).await?;
        let mut batch_rows = if fills { FILLED_BATCH_ROWS } else { BATCH_ROWS };
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let chunk = next_batch(pending, rest, batch_rows);
            let Some(batch) = sealing.decode(chunk, parts).await? else {
                batch_rows = chunk.len() / 2;
                continue;
            };
            rest = &rest[chunk.len()..];
            let first = parts.append(&batch, &self.base.files().ids())?;
            let rows = chunk.iter().zip(first.row..);
            placed.extend(rows.map(|(RowState { key, .. }, row)| (*key, Some(RowAddress { file: first.file, row }))));
            parts.close_if_full(self.location, self.limits).await?;
        }
        placed.extend(gone.into_iter().map(|key| (key, None)));
        parts.place(placed, self.indexes).await?;
        pending.clear();
        Ok(())
    }

    /// Where rows go that the source has deleted.
    fn drop_deleted(&self, pending: &Pending) -> Outcome {
        let (deleted, mut rows): (Vec<_>, Vec<_>) =
            pending.winners().into_iter().partition(|row| pending.event(row.state).op == Op::Delete);
        // A delete may be the first event of a changed key, and the second one may need a value of the row: so the row
        // is written, though it is gone. In commit order only the last event here can wait for another one.
        let waits = deleted.iter().filter(|row| !self.in_commit_order || pending.is_last(row.state));
        rows.extend(waits.filter_map(|row| Some(RowState { state: pending.row_before(row.state)?, ..*row })));
        Outcome { rows, gone: deleted.into_iter().map(|row| row.key).collect(), ..Outcome::default() }
    }

    /// Whether all values of a state can be found.
    fn is_whole(&self, pending: &Pending, state: StateId, replaces: bool) -> bool {
        pending.event(state).unavailable.iter().all(|&column| match pending.find(state, column) {
            Found::InState(_) => true,
            Found::Stored(key) => self.row_of(key, replaces).is_some(),
            Found::Lost => false,
        })
    }
}

/// As many of these states as fit into one batch, but one at least.
fn next_batch<'a>(pending: &Pending, states: &'a [RowState], most_rows: usize) -> &'a [RowState] {
    let mut bytes = 0;
    let fits = |row: &&RowState| {
        bytes += pending.message(row.state).len();
        bytes <= BATCH_BYTES
    };
    let rows = states.iter().take(most_rows).take_while(fits).count();
    &states[..rows.max(1).min(states.len())]
}

/// Keys of the rows that values have to be taken from: those that Postgres left out, and, where deleted rows are kept,
/// all of a deleted row.
pub fn stored_keys(staging: &Staging, keeps_deleted: bool) -> Vec<KeyHash> {
    let pending = &staging.pending;
    let gaps = pending.states().flat_map(|state| {
        let unavailable = pending.event(state).unavailable.iter();
        unavailable.map(move |&column| pending.find(state, column))
    });
    let gaps = gaps.filter_map(|found| if let Found::Stored(key) = found { Some(key) } else { None });
    let deleted = pending.states().filter(|state| keeps_deleted && pending.event(*state).op == Op::Delete);
    let deleted = deleted.filter_map(|state| match pending.deletion(state).1 {
        Former::Stored(key) => Some(key),
        Former::State(_) | Former::Nothing => None,
    });
    let keys: KeySet = gaps.chain(deleted).collect();
    keys.into_iter().collect()
}

/// The table's columns after the next commit.
pub fn next_columns<'a>(staging: &'a Staging, base: &'a TableVersion) -> &'a [LakeColumn] {
    staging.columns.as_deref().unwrap_or_else(|| base.columns())
}

impl Sealing<'_> {
    /// Decodes the rows of these states, with the values that Postgres left out filled in; none if there are several
    /// and the latter are too large together.
    async fn decode(&self, states: &[RowState], parts: &mut Parts) -> Result<Option<RecordBatch>> {
        let mut left_bytes = match states.len() {
            1 => usize::MAX,
            _ => self.sealer.limits.part_bytes / FILLED_SHARE,
        };
        let schema = arrow_schema(self.columns);
        let mut builders = self.plan.rows.builders()?;
        let mut gaps: BTreeMap<usize, Vec<Gap>> = BTreeMap::new();
        for (row, RowState { state, .. }) in states.iter().enumerate() {
            let event = self.pending.event(*state);
            self.plan.rows.append(self.pending.message(*state), &event.unavailable, &mut builders)?;
            for &column in &event.unavailable {
                let found = self.pending.find(*state, column);
                gaps.entry(column.into()).or_default().push(Gap { row, found });
            }
        }
        let mut arrays = finish(&mut builders);
        for (column, gaps) in gaps {
            let in_table = self.columns.iter().find(|known| known.is_same(&self.plan.columns[column]));
            // A column that was dropped since then needs no values.
            let Some(in_table) = in_table else { continue };
            match fill::fill(self, parts, (column, in_table), &arrays[column], &gaps, &mut left_bytes).await? {
                Some(filled) => arrays[column] = filled,
                None => return Ok(None),
            }
        }
        let in_table = self.columns.iter().enumerate().map(|(place, column)| {
            if mark::is_mark(column) {
                return Ok(mark::values(states.iter().map(|row| self.deleted_at.get(&row.key).copied())));
            }
            let array = self.plan.place_of(column, place).and_then(|place| arrays.get(place).cloned());
            array.map_or_else(|| column.missing_values(states.len()), Ok)
        });
        let arrays = in_table.collect::<std::result::Result<Vec<_>, _>>();
        arrays.and_then(|arrays| RecordBatch::try_new(schema, arrays)).map(Some).map_err(|error| {
            let (what, table) = (format!("cannot store rows of {}", self.sealer.table), self.sealer.table);
            Error::operator(Code::ValueUnholdable, what, error, copy_again(table))
        })
    }
}
