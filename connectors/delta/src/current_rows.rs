//! Rows of a table for whoever compares them with its source: those of its mirror, or, of one that has only a history,
//! those of a table that is made of that for the occasion.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use sooner_api::{Code, Error, Result};
use sooner_schemas::event::EventSchema;
use sooner_schemas::{Lsn, TableName};
use uuid::Uuid;

use crate::cuts::CutTable;
use crate::lake::DeltaLake;
use crate::log::replay::replay;
use crate::rebuilding::shape::Shape;
use crate::rebuilding::{Wanted, check_shape, rebuild_as};
use crate::rebuilt::{rebuilt_location, remove_rebuilt};
use crate::replaying::history_rows::{HistoryRows, history_watermark};
use crate::rows::columns::columns_of;
use crate::stored_rows::StoredRows;

/// Rows of a table, at one version.
pub struct CurrentRows {
    /// The rows.
    pub stored: StoredRows,
    /// Version of the table, or of its history.
    pub version: Option<u64>,
}

/// A table of the lake whose rows are looked at. What is made for that is removed by [`LookedAt::end`]; what a killed
/// process leaves goes as whatever attempts to make cuts leave.
pub struct LookedAt<'a> {
    lake: &'a DeltaLake,
    table: TableName,
    has_mirror: bool,
    /// Where tables lie that are made for it.
    folder: String,
    /// Folders of those that were made last. Whoever looks at one may look at the one before, too.
    made: Mutex<VecDeque<String>>,
}

impl<'a> LookedAt<'a> {
    /// A table of this lake, which has its rows, or only its history.
    pub fn new(lake: &'a DeltaLake, table: TableName, has_mirror: bool) -> LookedAt<'a> {
        let folder = format!("verify-{}", Uuid::new_v4().simple());
        LookedAt { lake, table, has_mirror, folder, made: Mutex::default() }
    }

    /// Whether the lake has its rows as they are, and not only its history.
    pub fn has_mirror(&self) -> bool {
        self.has_mirror
    }

    /// Its latest rows; its source's events have this schema. None if the lake has no such table. Rows that are made of
    /// its history are complete to `lsn` at least, which the pipeline must have reached; an operator error if the
    /// history does not tell what every row is.
    pub async fn latest(&self, schema: &EventSchema, lsn: Lsn) -> Result<Option<CurrentRows>> {
        let LookedAt { lake, table, .. } = self;
        if self.has_mirror {
            let stored = lake.rows_of(table).await?;
            return Ok(stored.map(|stored| CurrentRows { version: stored.version.number(), stored }));
        }
        let Some(version) = replay(&lake.history_location(table), &[]).await?.number() else { return Ok(None) };
        let reached = history_watermark(lake, table).await?.map_or(Lsn::ZERO, |(reached, _)| reached);
        self.of_history(version, schema, lsn.max(reached)).await.map(Some)
    }

    /// Its rows in a cut at a position. An operator error if the cut has none.
    pub async fn in_cut(&self, cut: Option<&CutTable>, schema: &EventSchema, lsn: Lsn) -> Result<CurrentRows> {
        let LookedAt { lake, table, .. } = self;
        if let Some(mirror) = cut.and_then(|cut| cut.mirror.as_ref()) {
            let stored = StoredRows::at(lake.mirror_in_cut(table, mirror), mirror.version).await?;
            return Ok(CurrentRows { stored, version: Some(mirror.version) });
        }
        match cut.and_then(|cut| cut.history.as_ref()) {
            Some(history) => self.of_history(history.version, schema, lsn).await,
            None => Err(Error::operator(
                Code::CutUnproven,
                format!("cannot compare {table} with its source"),
                "a cut that was made for that does not have it",
                "see that the pipeline runs (`sooner status`), and verify it again",
            )),
        }
    }

    /// Removes what was made.
    pub async fn end(self) -> Result<()> {
        match self.has_mirror {
            true => Ok(()),
            false => remove_rebuilt(self.lake, &self.folder).await,
        }
    }

    /// An operator error if there is nothing that its source could be compared with, before that is read.
    pub async fn check(&self, schema: &EventSchema) -> Result<()> {
        let LookedAt { lake, table, .. } = self;
        let version = replay(&lake.history_location(table), &[]).await?.number();
        let Some(version) = version.filter(|_| !self.has_mirror) else { return Ok(()) };
        let shape = self.shape(version, schema).await?;
        check_shape(lake, wanted(table, version, Lsn(u64::MAX)), &shape).await
    }

    /// What a table is like that is made of a version of its history.
    async fn shape(&self, version: u64, schema: &EventSchema) -> Result<Shape> {
        let table = &self.table;
        let history = HistoryRows::at(self.lake, table, version).await?;
        if history.key().is_empty() {
            return Err(Error::operator(
                Code::KeyMissing,
                format!("cannot compare {table} with its source"),
                "the lake has only its history, and it has no key: which of its events are rows by now is not known",
                "give the table a primary key; or, if rows are only ever added to it, write = [\"append\"]",
            ));
        }
        Ok(Shape::of_events(&columns_of(schema)?, history.key(), history.rows()))
    }

    async fn of_history(&self, version: u64, schema: &EventSchema, lsn: Lsn) -> Result<CurrentRows> {
        let LookedAt { lake, table, folder, .. } = self;
        let shape = self.shape(version, schema).await?;
        let made = format!("{folder}/{}", Uuid::new_v4().simple());
        let location = rebuilt_location(lake, &made, table);
        rebuild_as(lake, wanted(table, version, lsn), &shape, &location).await?;
        let needless = {
            let mut known = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            known.push_back(made);
            if known.len() > 2 { known.pop_front() } else { None }
        };
        if let Some(needless) = needless {
            remove_rebuilt(lake, &needless).await?;
        }
        Ok(CurrentRows { stored: StoredRows::at(location, 0).await?, version: Some(version) })
    }
}

/// A table that is to be made. The pipeline says that it is complete to there, so whatever was copied is, too.
fn wanted(table: &TableName, history: u64, lsn: Lsn) -> Wanted<'_> {
    Wanted { table, lsn, commit_micros: 0, history, columns: None, copied_to: Some(lsn) }
}
