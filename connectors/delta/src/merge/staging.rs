//! What the next commit will hold: events in memory, rows in files that no log mentions yet, and what happens to the
//! table as a whole.

use std::collections::BTreeSet;

use sooner_api::{Error, Positions, Result, Rows};
use sooner_schemas::TableName;
use uuid::Uuid;

use super::event_plan::EventPlan;
use super::parts::Parts;
use super::pending::Pending;
use crate::index::key_index::FileId;
use crate::log::provenance::Provenance;
use crate::log::span::Span;
use crate::log::table_version::TableVersion;
use crate::log::transaction::Kind;
use crate::rows::column_mapping::greatest_id;
use crate::rows::columns::LakeColumn;

/// The content of the next commit.
pub struct Staging {
    /// Recognises the commit in the log, whatever became of the response.
    pub commit_id: Uuid,
    /// What it does to the rows that are there.
    pub kind: Kind,
    /// The table's columns from this commit on, if they change.
    pub columns: Option<Vec<LakeColumn>>,
    /// The last column's number that was given on the way to them; none without column mapping.
    pub last_column_id: Option<i32>,
    /// Where they come from.
    pub provenance: Provenance,
    /// A column comes in which older rows hold a value: the table's files are written again with the commit.
    pub fills_files: bool,
    /// Sealed files that lack such a column.
    pub unfilled: BTreeSet<FileId>,
    /// How the events in memory are read.
    pub plan: Option<EventPlan>,
    /// Events in memory.
    pub pending: Pending,
    /// Sealed rows.
    pub parts: Parts,
    /// What has been taken of the feed since the last commit.
    pub positions: Option<Positions>,
    /// Which events it holds.
    pub span: Span,
    /// It is to be committed although it may hold nothing but positions: of events that bring no row, and that nobody
    /// needs to read again.
    pub marks_positions: bool,
}

impl Staging {
    /// Nothing staged; events are read by this plan.
    pub fn new(plan: Option<EventPlan>) -> Staging {
        Staging {
            commit_id: Uuid::new_v4(),
            kind: Kind::Merge,
            columns: None,
            last_column_id: None,
            provenance: Provenance::default(),
            fills_files: false,
            unfilled: BTreeSet::new(),
            plan,
            pending: Pending::default(),
            parts: Parts::default(),
            positions: None,
            span: Span::default(),
            marks_positions: false,
        }
    }

    /// Where the table's columns come from after the next commit.
    pub fn provenance_after(&self, base: &TableVersion) -> Provenance {
        match self.columns {
            Some(_) => self.provenance.clone(),
            None => base.provenance(),
        }
    }

    /// The table has these columns from the next commit on.
    pub fn set_columns(&mut self, columns: Vec<LakeColumn>, provenance: Provenance) {
        self.provenance = provenance;
        self.last_column_id = self.last_column_id.max(greatest_id(&columns));
        self.columns = Some(columns);
    }

    /// Columns came, and no file is open that lacks them: notes which files do, if older rows hold values in them.
    pub fn note_missing(&mut self, former: &[LakeColumn], now: &[LakeColumn]) {
        if fills(former, now) {
            self.unfilled.extend(self.parts.written().keys());
        }
    }

    /// The table has other columns from the next commit on, and no file is open that lacks them. Where older rows hold
    /// values in them, its files are filled.
    pub fn change_columns(&mut self, former: &[LakeColumn], now: Vec<LakeColumn>, provenance: Provenance) {
        self.note_missing(former, &now);
        self.fills_files |= fills(former, &now);
        self.set_columns(now, provenance);
    }

    /// A copy begins: whatever was staged is replaced by it. What has been taken of the feed stays taken.
    pub fn begin_copy(&mut self, columns: Vec<LakeColumn>, provenance: Provenance) {
        let positions = self.positions.take();
        *self = Staging { kind: Kind::Copy, positions, ..Staging::new(None) };
        self.set_columns(columns, provenance);
    }

    /// The table was truncated: whatever was staged before goes too.
    pub fn truncate(&mut self) {
        if self.kind == Kind::Merge {
            self.kind = Kind::Truncate;
        }
        (self.fills_files, self.unfilled) = (false, BTreeSet::new());
        self.pending.clear();
        self.parts = Parts::default();
    }

    /// Stages the events from `first` on.
    pub fn take_rows(&mut self, table: &TableName, rows: Rows, first: usize) -> Result<()> {
        self.note_rows(&rows, first);
        let Staging { plan, pending, .. } = self;
        let Some(plan) = plan else {
            return Err(Error::internal("cannot stage events", "their schema is not known"));
        };
        let count = rows.events.events.len();
        let batch = pending.open_batch(rows);
        let mut scratch = Vec::new();
        for index in first..count {
            let (key, old_key) = plan.keys_of(table, pending.batch(batch), index, &mut scratch)?;
            pending.push(batch, index as u32, key, old_key);
        }
        Ok(())
    }

    /// Notes what has been taken of the feed, of which the events from `first` on count.
    pub fn note_rows(&mut self, rows: &Rows, first: usize) {
        self.note(rows.positions());
        self.span.note(rows.events.events.get(first..).unwrap_or_default());
    }

    /// Notes what has been taken of the feed.
    pub fn note(&mut self, positions: Option<Positions>) {
        match (&mut self.positions, positions) {
            (Some(known), Some(more)) => known.advance(&more),
            (known, more) => *known = known.take().or(more),
        }
    }

    /// Notes positions that come with columns rather than events: a topic was read to its end, and another one goes on
    /// once the table's log says so.
    pub fn note_told(&mut self, told: &Rows) {
        self.note(told.positions());
        self.marks_positions |= !told.next_offsets.is_empty();
    }

    /// Whether all rows that the table has now go.
    pub fn replaces(&self) -> bool {
        self.kind != Kind::Merge
    }

    /// Whether a copy is staged, whose rows are taken whatever the table's log says.
    pub fn is_copy(&self) -> bool {
        self.kind == Kind::Copy
    }

    /// Whether a commit would change nothing.
    pub fn is_empty(&self) -> bool {
        let has_rows = !self.pending.is_empty() || !self.parts.is_empty();
        !self.replaces() && self.columns.is_none() && !has_rows && !self.marks_positions
    }
}

/// Whether older rows hold values in columns that came.
pub fn fills(former: &[LakeColumn], now: &[LakeColumn]) -> bool {
    let mut new = now.iter().filter(|column| !former.iter().any(|was| was.is_same(column)));
    new.any(|column| column.missing.is_some())
}
