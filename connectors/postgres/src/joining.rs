//! A table whose copy joins the stream.

use std::sync::Arc;
use std::time::Duration;

use sooner_api::{CopyProgress, CopyRequest, CopyRest, Error, Step};
use sooner_schemas::{Lsn, Relation};
use tokio::time::Instant;

use crate::chunk::CopiedTable;
use crate::schedule::Schedule;
use crate::touched::Touched;

/// How often it is reported how far a copy is.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A table whose copy joins the stream.
pub struct Joining {
    /// The table, and how its rows become events.
    pub copied: Arc<CopiedTable>,
    /// Tells the copy from others of the table.
    pub id: u64,
    /// The request for it, if its rows are copied over those that are there.
    pub in_place: Option<CopyRequest>,
    /// What the stream has changed of it meanwhile.
    pub touched: Touched,
    /// Rows that were handed on.
    pub rows: u64,
    /// It was said what it waits for.
    pub is_told: bool,
    /// How often it took too long.
    pub timeouts: u32,
    reported: Instant,
    /// By what was reported last, it goes on after a break.
    goes_on: bool,
}

/// A copy that has ended.
#[derive(Debug)]
pub enum Ended {
    /// Of a whole table, with this step.
    Whole(Step),
    /// Of the rows that were asked for.
    InPlace(CopyRequest),
}

/// What a report means for the stream.
#[derive(Debug)]
pub enum Joined {
    /// Nothing is to be handed on.
    Nothing,
    /// Rows join the stream.
    Rows(Step),
    /// All rows of a part of a table, given by its object id, have joined.
    Part(u32),
    /// The table, by its object id, has changed: its copy starts over.
    Altered(u32),
    /// A column of the table may be NULL, whatever the catalog says: its copy starts over.
    UnexpectedNull(u32, String),
    /// The table cannot be copied before a person has done something.
    Stopped(u32, Error),
    /// Nothing can be copied.
    Failed(Error),
}

impl Joining {
    /// A copy that begins once the stream has handed on what is at or before an LSN.
    pub fn new(copied: Arc<CopiedTable>, id: u64, in_place: Option<CopyRequest>, emitted: Lsn) -> Joining {
        Joining {
            copied,
            id,
            in_place,
            touched: Touched::since(Lsn(emitted.0 + 1)),
            rows: 0,
            is_told: false,
            timeouts: 0,
            reported: Instant::now(),
            goes_on: false,
        }
    }

    /// A copy that goes on after so many rows.
    pub fn resumed(copied: Arc<CopiedTable>, id: u64, rows: u64) -> Joining {
        Joining { rows, goes_on: true, ..Joining::new(copied, id, None, Lsn::ZERO) }
    }

    /// How far the copy is, now and then, or if it must be told; nothing if there is no news. None in it if the copy
    /// could not go on after a break, as was said before. Rows that are copied over those that are there begin again.
    pub fn report(&mut self, schedule: &Schedule, must: bool) -> Option<Option<CopyProgress>> {
        if self.in_place.is_some() || !must && self.reported.elapsed() < REPORT_INTERVAL {
            return None;
        }
        let rest = self.rest(schedule);
        let went_on = std::mem::replace(&mut self.goes_on, rest.is_some());
        self.reported = Instant::now();
        let progress = rest.map(|rest| CopyProgress { id: self.id, rows: self.rows, rest });
        (went_on || progress.is_some()).then_some(progress)
    }

    /// Whether a break would cost much.
    pub fn is_fragile(&self, schedule: &Schedule) -> bool {
        self.rows > 0 && (self.in_place.is_some() || self.rest(schedule).is_none())
    }

    /// None of a partitioned table: its partitions may have others beside them after a break.
    fn rest(&self, schedule: &Schedule) -> Option<CopyRest> {
        let table = &self.copied.table;
        let rest = schedule.rest(table.relation.oid, table.facts.file_node);
        rest.filter(|_| table.facts.partitions.is_none())
    }
}

/// Whether two states of a relation have the same columns.
pub fn has_shape_of(relation: &Relation, other: &Relation) -> bool {
    let shape = |relation: &Relation| -> Vec<_> {
        relation.columns.iter().map(|column| (column.name.clone(), column.type_oid, column.modifier)).collect()
    };
    shape(relation) == shape(other)
}
