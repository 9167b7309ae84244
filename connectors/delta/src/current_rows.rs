//! Rows of a table for whoever compares them with its source: those of its mirror, or, of one that has only a history,
//! those of a table that is made of that for the occasion.

use sooner_api::{Code, Error, Result};
use sooner_schemas::event::EventSchema;
use sooner_schemas::{Lsn, TableName};
use uuid::Uuid;

use crate::cuts::CutTable;
use crate::lake::DeltaLake;
use crate::log::replay::replay;
use crate::rebuilding::shape::Shape;
use crate::rebuilding::{Wanted, rebuild_as};
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
}

impl<'a> LookedAt<'a> {
    /// A table of this lake, which has its rows, or only its history.
    pub fn new(lake: &'a DeltaLake, table: TableName, has_mirror: bool) -> LookedAt<'a> {
        LookedAt { lake, table, has_mirror, folder: format!("verify-{}", Uuid::new_v4().simple()) }
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

    async fn of_history(&self, version: u64, schema: &EventSchema, lsn: Lsn) -> Result<CurrentRows> {
        let LookedAt { lake, table, folder, .. } = self;
        let history = HistoryRows::at(lake, table, version).await?;
        if history.key().is_empty() {
            return Err(Error::operator(
                Code::KeyMissing,
                format!("cannot compare {table} with its source"),
                "the lake has only its history, and it has no key: which of its events are rows by now is not known",
                "give the table a primary key; or, if rows are only ever added to it, write = [\"append\"]",
            ));
        }
        let shape = Shape::of_events(&columns_of(schema)?, history.key(), history.rows());
        let location = rebuilt_location(lake, &format!("{folder}/{}", Uuid::new_v4().simple()), table);
        // The pipeline says that it is complete to there, so whatever was copied is, too.
        let wanted = Wanted { table, lsn, commit_micros: 0, history: version, columns: None, copied_to: Some(lsn) };
        rebuild_as(lake, wanted, &shape, &location).await?;
        Ok(CurrentRows { stored: StoredRows::at(location, 0).await?, version: Some(version) })
    }
}
