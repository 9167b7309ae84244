//! Chains the rows that are written to a history. The end of the chain is looked up in the table, and known from then
//! on as long as nobody else adds rows.

use arrow_array::RecordBatch;
use serde_json::Value;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use super::chain::{End, NO_HASH, chained};
use super::columns::ChainPlaces;
use super::head::end_of;
use crate::log::commit::LogEntry;
use crate::log::table_version::TableVersion;
use crate::rows::columns::LakeColumn;
use crate::store::location::TableLocation;

/// Where the next row of a history is chained to.
#[derive(Debug)]
pub struct Links {
    is_on: bool,
    /// The end of the chain in the table; none if it has to be looked up.
    known: Option<End>,
    /// The end with the rows that are staged; none if there are none.
    staged: Option<End>,
}

impl Links {
    /// Of a history whose rows are chained from now on, or are not.
    pub fn new(is_on: bool) -> Links {
        Links { is_on, known: None, staged: None }
    }

    /// Whether rows are chained.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Rows to be staged, chained to those before, if rows are chained. `given` is the last number that was given,
    /// maybe to a row that somebody has removed: it is not given again, so that the row is missed.
    pub async fn chain(
        &mut self,
        rows: RecordBatch,
        columns: &[LakeColumn],
        location: &TableLocation,
        base: &TableVersion,
        given: Option<i64>,
    ) -> Result<RecordBatch> {
        let Some(places) = ChainPlaces::of(columns).filter(|_| self.is_on) else { return Ok(rows) };
        let end = match self.staged.or(self.known) {
            Some(end) => end,
            None => {
                let end = end_of(location, base).await?.unwrap_or(End { sequence: 0, hash: NO_HASH });
                End { sequence: end.sequence.max(given.unwrap_or_default()), ..end }
            }
        };
        let (rows, end) = chained(&rows, columns, places, end)
            .map_err(|error| Error::internal("cannot chain rows of a history", error))?;
        self.staged = Some(end);
        Ok(rows)
    }

    /// Number of the last row that is staged; none if none is.
    pub fn staged_sequence(&self) -> Option<i64> {
        self.staged.map(|end| end.sequence)
    }

    /// Somebody else has committed. A retriable error if that adds rows, and rows are staged that are chained already:
    /// both would follow the same row.
    pub fn follow(&mut self, table: &TableName, entry: &LogEntry) -> Result<()> {
        let adds = |add: &serde_json::Map<String, Value>| add.get("dataChange").and_then(Value::as_bool) != Some(false);
        if entry.erases || !entry.adds.iter().any(adds) {
            return Ok(());
        }
        self.known = None;
        match self.staged {
            Some(_) => Err(overtaken(table)),
            None => Ok(()),
        }
    }

    /// What was staged is committed.
    pub fn committed(&mut self) {
        self.known = self.staged.take().or(self.known);
    }

    /// Forgets what is staged, and looks the end up before the next row.
    pub fn discard(&mut self) {
        *self = Links::new(self.is_on);
    }
}

fn overtaken(table: &TableName) -> Error {
    Error::retry(
        Code::CommitOvertaken,
        format!("cannot commit to the history of {table}"),
        "another writer has added rows to it, which these would have to follow in its chain",
        "nothing; what is in the lake is read again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_were_chained_before_somebody_elses_are_given_up() {
        let (table, end) = (TableName::new("public", "t"), End { sequence: 7, hash: NO_HASH });
        let entry = |text: &str| LogEntry::parse(text.as_bytes()).unwrap();
        let added = entry("{\"add\":{\"path\":\"a\",\"dataChange\":true}}");
        let moved = entry(
            "{\"add\":{\"path\":\"a\",\"dataChange\":false}}\n{\"remove\":{\"path\":\"b\",\"dataChange\":false}}",
        );
        let mut links = Links { staged: Some(end), ..Links::new(true) };
        links.committed();
        assert_eq!((links.known, links.staged), (Some(end), None));
        links.follow(&table, &moved).unwrap();
        assert_eq!(links.known, Some(end), "rows that lie elsewhere are the same rows");
        links.follow(&table, &added).unwrap();
        assert_eq!(links.known, None, "the end is looked up again");
        links.staged = Some(end);
        assert_eq!(links.follow(&table, &added).unwrap_err().code, Code::CommitOvertaken);
        links.follow(&table, &moved).unwrap();
    }
}
