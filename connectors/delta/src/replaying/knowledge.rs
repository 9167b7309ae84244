//! Of which moments a history can tell its table, beside those that it was trimmed of: from its first event on, and
//! while its rows are told apart by the key that it has now.

use arrow_array::RecordBatch;
use sooner_api::{Code, Error, Result};
use sooner_schemas::{Lsn, TableName};

use super::facts::FactColumns;
use super::history_rows::HistoryRows;
use super::range::instant;
use crate::history::change_type::ChangeType;
use crate::history::columns::{ChainPlaces, FACT_COLUMNS};
use crate::lake::DeltaLake;
use crate::log::horizon::Moment;
use crate::log::replay::replay;

/// A position, and its commit time in microseconds since 1970.
type At = (Lsn, i64);

/// What a history knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knowledge {
    /// Its first event; none if it has none.
    first: Option<At>,
    /// The start of the copy since which all rows have the key that the history has now, where it had another one
    /// before; none if there is no such copy.
    since_key: Option<At>,
    /// The key was another one before.
    key_changed: bool,
}

/// What the history of a table knows; none if it has none. All of it is read if its key was another one before.
pub async fn history_knowledge(lake: &DeltaLake, table: &TableName) -> Result<Option<Knowledge>> {
    let version = replay(&lake.history_location(table), &[]).await?;
    let Some(number) = version.number() else { return Ok(None) };
    let history = HistoryRows::at(lake, table, number).await?;
    let mut knowledge = Knowledge { first: None, since_key: None, key_changed: version.provenance().key_changed };
    if !knowledge.key_changed {
        history.scan(&history.columns()[..FACT_COLUMNS], async |rows| knowledge.begin(&rows)).await?;
        return Ok(Some(knowledge));
    }
    let key = history.key();
    let places = history.columns().iter().enumerate().filter(|(_, column)| key.contains(&column.name));
    let places: Vec<_> = places.map(|(place, _)| place).collect();
    let erased = ChainPlaces::of(history.columns()).map(|places| places.erased);
    let each = async |rows: RecordBatch| {
        knowledge.begin(&rows)?;
        knowledge.follow_key(&rows, &places, erased)
    };
    history.scan(history.columns(), each).await?;
    Ok(Some(knowledge))
}

impl Knowledge {
    /// Notes the first event; returns whether more rows are wanted.
    fn begin(&mut self, rows: &RecordBatch) -> Result<bool> {
        let facts = FactColumns::of(rows)?;
        if self.first.is_none() && !facts.is_empty() {
            let at = facts.at(0)?;
            self.first = Some((at.position.commit_lsn, at.commit_micros));
        }
        Ok(self.first.is_none())
    }

    /// Follows since when all rows have the key whose columns are at these places.
    fn follow_key(&mut self, rows: &RecordBatch, places: &[usize], erased: Option<usize>) -> Result<bool> {
        let facts = FactColumns::of(rows)?;
        for row in 0..facts.len() {
            let at = facts.at(row)?;
            match at.change {
                ChangeType::SnapshotStart => self.since_key = Some((at.position.commit_lsn, at.commit_micros)),
                ChangeType::Truncate => {}
                _ if erased.is_some_and(|erased| rows.column(erased).is_valid(row)) => {}
                _ if places.iter().any(|place| rows.column(*place).is_null(row)) => self.since_key = None,
                _ => {}
            }
        }
        Ok(true)
    }

    /// An operator error if the table cannot be told as of a moment, or as of now.
    pub fn check(&self, table: &TableName, moment: Option<&Moment<'_>>) -> Result<()> {
        let is_before = |at: At| moment.is_some_and(|moment| moment.is_before(at));
        let refused = |code, why: String, remedy: &str| {
            Err(Error::operator(code, format!("cannot tell {table} as of that moment from its history"), why, remedy))
        };
        if let Some(first) = self.first.filter(|first| is_before(*first)) {
            let why = format!("its history begins with {}", told(first));
            return refused(Code::HistoryTrimmed, why, "choose a moment after the end of the copy that it begins with");
        }
        let why = "its rows were told apart by another key before";
        let remedy = "query the events themselves, or have the table copied (`sooner copy`) for moments to come";
        match self.since_key {
            _ if !self.key_changed => Ok(()),
            None => refused(Code::HistoryKeyChanged, why.to_owned(), remedy),
            Some(since) if is_before(since) => refused(
                Code::HistoryKeyChanged,
                format!("{why}, up to the copy at {}", told(since)),
                "choose a later one",
            ),
            Some(_) => Ok(()),
        }
    }
}

fn told((lsn, micros): At) -> String {
    format!("{lsn} ({})", instant(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_the_first_event_or_of_another_key_are_refused() {
        let table = TableName::new("public", "t");
        let plain = Knowledge { first: Some((Lsn(10), 1_000_000)), since_key: None, key_changed: false };
        let code = |knowledge: Knowledge, moment| knowledge.check(&table, moment).err().map(|error| error.code);
        assert_eq!(code(plain, Some(&Moment::Lsn(9))), Some(Code::HistoryTrimmed));
        assert_eq!(code(plain, Some(&Moment::Micros(999_999))), Some(Code::HistoryTrimmed));
        assert_eq!((code(plain, Some(&Moment::Lsn(10))), code(plain, None)), (None, None));
        let changed = Knowledge { key_changed: true, ..plain };
        assert_eq!(code(changed, None), Some(Code::HistoryKeyChanged));
        let copied = Knowledge { since_key: Some((Lsn(50), 5_000_000)), ..changed };
        assert_eq!(code(copied, Some(&Moment::Lsn(49))), Some(Code::HistoryKeyChanged));
        assert_eq!((code(copied, Some(&Moment::Micros(5_000_000))), code(copied, None)), (None, None));
    }
}
