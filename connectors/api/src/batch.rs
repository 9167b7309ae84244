//! What travels from the source to the lake: steps, in order within each table.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sooner_schemas::event::{Op, TableEvents, Watermark};
use sooner_schemas::{CatalogFacts, Lsn, Position, Relation, TableName};

use crate::{CopyProgress, Error, MemoryBudget, NextOffsets, Positions, Reservation, TableChange};

/// Events of one table under one pair of schemas, in commit order, with the memory that they hold.
#[derive(Debug)]
pub struct Rows {
    /// Keys and values.
    pub events: TableEvents,
    /// For events from a topic: of each partition, the offset after its last event here. Empty for a stream.
    pub next_offsets: NextOffsets,
    /// Incarnation of that topic, where its writer reports it.
    pub generation: Option<i64>,
    /// Of events of a topic, where there are none: the position from which the table has the columns of the schema.
    pub told_at: Option<Position>,
    /// Of an event of the whole table.
    pub whole: WholeTable,
    /// Room in the memory budget, given back when the events are dropped.
    pub reservation: Reservation,
}

/// Where an event of the whole table stands in its topic, each partition of which has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WholeTable {
    /// The topic begins with it: nothing comes before it in any partition.
    pub opens_topic: bool,
    /// The table has gone past it in another partition before.
    pub is_repeated: bool,
    /// The one in the topic's first partition is not among these: somebody else reads it, or it was read before.
    pub lacks_first: bool,
}

/// One step of a table's events.
#[derive(Debug)]
pub enum Step {
    /// Changes of rows, or copied rows.
    Rows(Rows),
    /// A copy begins: all rows of the table come again after it, maybe under another schema. Holds one event.
    CopyStart(Rows),
    /// So much of a copy has been delivered.
    CopyProgress {
        /// Table.
        table: TableName,
        /// How far its copy is; none if it could not go on from here after a break.
        progress: Option<Box<CopyProgress>>,
        /// Up to where all of its changes have been delivered; none inside a transaction.
        watermark: Option<Watermark>,
    },
    /// All rows of the copy have been delivered; the table is complete up to the watermark.
    CopyEnd {
        /// Table.
        table: TableName,
        /// What it is complete to.
        watermark: Watermark,
    },
    /// All rows of the table are removed. Holds one event.
    Truncate(Rows),
    /// The table cannot go on: none of its events follow before a copy begins. That is started at once if the error is
    /// of code [`CopyNeeded`](crate::Code::CopyNeeded); otherwise a person has to ask for it.
    Stop {
        /// Table.
        table: TableName,
        /// Why, and what to do.
        error: Error,
    },
    /// What is known of a table once the events before are written.
    Note(Box<TableNote>),
    /// Whole transactions have been delivered up to here.
    Complete(Coverage),
}

/// What a table is at its source by now. It is stored, so that what changes later is noticed even across a stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableNote {
    /// Table.
    pub table: TableName,
    /// What its rows are written by; none if that has not changed.
    pub relation: Option<Arc<Relation>>,
    /// What the catalog says of it.
    pub facts: Arc<CatalogFacts>,
}

/// Which tables are complete up to a watermark: all, but for these. Of tables that are copied, their own copy says how
/// far they are. So a table that is copied or parked withholds nobody's watermark. Each list is in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Every event at or before it has been delivered.
    pub watermark: Watermark,
    /// Tables that are being copied.
    pub except: Vec<TableName>,
    /// Tables of which events stand where they are not read yet, such as in another topic.
    pub elsewhere: Vec<TableName>,
    /// Tables that their source has parked, or that wait for something there: events of theirs are not in the log.
    pub stopped: Vec<TableName>,
    /// Tables that are no longer part of the pipeline.
    pub gone: Vec<TableName>,
    /// Tables that cannot be cut here.
    pub uncut: Arc<Uncut>,
}

/// Tables that cannot be cut at a watermark although they are complete to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uncut {
    /// Not yet: they hold what comes later, or are about to be read from another place.
    pub ahead: BTreeSet<TableName>,
    /// Not here: others read some of their events.
    pub shared: BTreeSet<TableName>,
}

/// Steps that are handed on at once.
#[derive(Debug, Default)]
pub struct EventBatch {
    /// The steps. Those of one table are in commit order; the order between tables means nothing, except that
    /// [`Step::Complete`] applies to all steps before it.
    pub steps: Vec<Step>,
    /// How far the server has written its log, for measuring lag; zero where that is not known.
    pub server_end: Lsn,
    /// What became of requests, once the steps have been taken.
    pub answers: Vec<CopyAnswer>,
    /// What was noticed of tables since the batch before.
    pub changes: Vec<TableChange>,
}

/// Somebody asks for rows of a table to be copied again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRequest {
    /// Table.
    pub table: TableName,
    /// SQL condition on its rows. They are copied over those in the lake, while the table is followed. None for all
    /// rows, which then replace the table.
    pub condition: Option<String>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyAnswer {
    /// All rows have been handed on. They are durable once a later watermark is.
    HandedOn(CopyRequest),
    /// It cannot be done.
    Refused(CopyRequest, Error),
}

impl Rows {
    /// Events of a stream, without reserved memory.
    pub fn new(events: TableEvents) -> Rows {
        let (next_offsets, reservation) = (NextOffsets::new(), Reservation::default());
        Rows { events, next_offsets, generation: None, told_at: None, whole: WholeTable::default(), reservation }
    }

    /// The table.
    pub fn table(&self) -> &TableName {
        &self.events.schema.table
    }

    /// Commit LSN of the last event; none if there are no events.
    pub fn last_lsn(&self) -> Option<Lsn> {
        self.events.events.last().map(|event| event.position.commit_lsn)
    }

    /// Position from which the table has the columns of the schema: that of the first event, if there is one.
    pub fn first_position(&self) -> Option<Position> {
        self.events.events.first().map(|event| event.position).or(self.told_at)
    }

    /// What has been taken once these are: the offsets of a topic, or else the whole transaction of the last event.
    pub fn positions(&self) -> Option<Positions> {
        if self.next_offsets.is_empty() {
            return self.last_lsn().map(Positions::whole);
        }
        Some(Positions::Topic { generation: self.generation, next_offsets: self.next_offsets.clone() })
    }

    /// The step that these events are: an event of the whole table is a step of its own, and stands alone.
    pub fn into_step(self) -> Step {
        match self.events.events.first().map(|event| event.op) {
            Some(Op::CopyStart) => Step::CopyStart(self),
            Some(Op::Truncate) => Step::Truncate(self),
            _ => Step::Rows(self),
        }
    }
}

impl Step {
    /// The events of a step, if it has any.
    pub fn rows(&self) -> Option<&Rows> {
        match self {
            Step::Rows(rows) | Step::CopyStart(rows) | Step::Truncate(rows) => Some(rows),
            _ => None,
        }
    }

    /// The events of a step, if it has any.
    pub fn rows_mut(&mut self) -> Option<&mut Rows> {
        match self {
            Step::Rows(rows) | Step::CopyStart(rows) | Step::Truncate(rows) => Some(rows),
            _ => None,
        }
    }
}

impl Coverage {
    /// All tables are complete up to a watermark.
    pub fn all(watermark: Watermark) -> Coverage {
        Coverage { watermark, ..Coverage::default() }
    }

    /// Whether a table is complete up to the watermark.
    pub fn applies_to(&self, table: &TableName) -> bool {
        let excepted = [&self.except, &self.elsewhere, &self.stopped, &self.gone];
        excepted.into_iter().all(|tables| tables.binary_search(table).is_err())
    }

    /// Whether events of the table stand where they are not read yet.
    pub fn is_elsewhere(&self, table: &TableName) -> bool {
        self.elsewhere.binary_search(table).is_ok()
    }
}

impl EventBatch {
    /// Memory that the events hold, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.rows().map(|rows| rows.events.size_bytes()).sum()
    }

    /// Number of events.
    pub fn event_count(&self) -> usize {
        self.rows().map(|rows| rows.events.events.len()).sum()
    }

    /// The last coverage in the batch, if there is one.
    pub fn coverage(&self) -> Option<&Coverage> {
        self.steps.iter().rev().find_map(|step| match step {
            Step::Complete(coverage) => Some(coverage),
            _ => None,
        })
    }

    /// The events of all steps.
    pub fn rows(&self) -> impl Iterator<Item = &Rows> {
        self.steps.iter().filter_map(Step::rows)
    }

    /// Takes room for all events, and gives each step its share to hold. Waits until there is room.
    pub async fn reserve(&mut self, budget: &MemoryBudget) {
        let mut reserved = budget.reserve(self.size_bytes()).await;
        for rows in self.steps.iter_mut().filter_map(Step::rows_mut) {
            rows.reservation = reserved.split(rows.events.size_bytes());
        }
    }
}
