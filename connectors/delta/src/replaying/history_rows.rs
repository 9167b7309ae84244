//! Rows of a history in commit order, read from its files in the lake: those that a range cannot concern are left out
//! by their statistics, and the others merged. In memory are some rows of each file that overlaps the place that is
//! read, which are few: the program writes files of a history one after the other.

use arrow_array::RecordBatch;
use serde_json::Value;
use sooner_api::Result;
use sooner_schemas::temporal::zoned_micros;
use sooner_schemas::{Lsn, Position, TableName};

use super::facts::{FactColumns, check_columns};
use super::file_cursor::FileCursor;
use super::range::{Bound, From, Start};
use crate::history::columns::FACT_COLUMNS;
use crate::lake::DeltaLake;
use crate::log::horizon::{Horizon, Moment, check_within};
use crate::log::live_files::LiveFile;
use crate::log::replay::{replay, replay_to};
use crate::log::table_version::TableVersion;
use crate::maintenance::past::PastLog;
use crate::rows::columns::LakeColumn;
use crate::store::location::TableLocation;

/// How much later than one before it a transaction may say that it was committed, at most: its time is taken before its
/// place in the log.
const OUT_OF_ORDER_MICROS: i64 = 60_000_000;

/// One version of a table's history.
pub struct HistoryRows {
    location: TableLocation,
    version: TableVersion,
    from: From,
}

/// Up to where a table's history is complete, as its log says, and the commit time of that, in microseconds since 1970;
/// none if it does not say.
pub async fn history_watermark(lake: &DeltaLake, table: &TableName) -> Result<Option<(Lsn, i64)>> {
    let location = lake.history_location(table);
    match PastLog::open(&location, table).await? {
        Some(log) => log.position_at(i64::MAX).await,
        None => Ok(None),
    }
}

impl HistoryRows {
    /// The latest version of a table's history, to be read from a bound on; none if there is no history.
    pub async fn open(lake: &DeltaLake, table: &TableName, from: From) -> Result<Option<HistoryRows>> {
        let location = lake.history_location(table);
        let version = replay(&location, &[]).await?;
        if !version.exists() {
            return Ok(None);
        }
        check_columns(version.columns())?;
        Ok(Some(HistoryRows { location, version, from }))
    }

    /// The commit LSN of the last event of a table's history that was committed at or before a moment, in microseconds
    /// since 1970; none if there is none, or no history.
    pub async fn position_at(lake: &DeltaLake, table: &TableName, micros: i64) -> Result<Option<Lsn>> {
        let from = From::After(Bound::Micros(micros));
        let Some(history) = HistoryRows::open(lake, table, from).await? else { return Ok(None) };
        let before = history.version.files().iter().filter(|(_, file)| history.is_before(file));
        let mut last = before.filter_map(|(_, file)| history.number_of(file, "maxValues")).map(Lsn).max();
        let each = async |rows: RecordBatch| {
            let (facts, mut is_beyond) = (FactColumns::of(&rows)?, false);
            for row in 0..facts.len() {
                let at = facts.at(row)?;
                match at.commit_micros <= micros {
                    true => last = last.max(Some(at.position.commit_lsn)),
                    false => is_beyond |= at.commit_micros > micros.saturating_add(OUT_OF_ORDER_MICROS),
                }
            }
            Ok(!is_beyond)
        };
        history.scan(&history.columns()[..FACT_COLUMNS], each).await?;
        Ok(last)
    }

    /// A version of a table's history, to be read from its beginning on.
    pub async fn at(lake: &DeltaLake, table: &TableName, version: u64) -> Result<HistoryRows> {
        let location = lake.history_location(table);
        let version = replay_to(&location, Some(version), &[]).await?;
        check_columns(version.columns())?;
        Ok(HistoryRows { location, version, from: From::Copy })
    }

    /// Whether no row was ever removed from the history because it was old.
    pub fn is_untrimmed(&self) -> bool {
        Horizon::of(self.version.metadata()).is_none()
    }

    /// An operator error if rows were removed from the history that an event from `start` on may have been.
    pub fn check_reach(&self, table: &TableName, start: Start) -> Result<()> {
        let moment = match start {
            Start::After(Bound::Micros(micros)) => Moment::Micros(micros),
            Start::After(Bound::Lsn(lsn)) | Start::At(Position { commit_lsn: lsn, .. }) => Moment::Lsn(lsn.0),
        };
        check_within(table, Horizon::of(self.version.metadata()), &moment)
    }

    /// All columns of the history.
    pub fn columns(&self) -> &[LakeColumn] {
        self.version.columns()
    }

    /// How many rows it has.
    pub fn rows(&self) -> u64 {
        self.version.files().size().rows
    }

    /// Columns of the source's key; empty for a table without one.
    pub fn key(&self) -> Vec<String> {
        self.version.provenance().key
    }

    /// Whether rows were told apart by another key before.
    pub fn key_changed(&self) -> bool {
        self.version.provenance().key_changed
    }

    /// Whether there are rows at or before the bound that are not read.
    pub fn knows_before(&self) -> bool {
        self.version.files().iter().any(|(_, file)| self.is_before(file))
    }

    /// Hands rows to `each` in commit order, until it says that it has enough. `columns` are the first of the
    /// history's, and those that say what happened at least.
    pub async fn scan(
        &self,
        columns: &[LakeColumn],
        mut each: impl AsyncFnMut(RecordBatch) -> Result<bool>,
    ) -> Result<()> {
        let mut waiting: Vec<(Position, &LiveFile)> = Vec::new();
        for (_, file) in self.version.files().iter().filter(|(_, file)| !self.is_before(file)) {
            let least = self.number_of(file, "minValues").unwrap_or_default();
            waiting.push((Position { commit_lsn: Lsn(least), ordinal: 0 }, file));
        }
        // The last one is opened next.
        waiting.sort_by_key(|(least, _)| std::cmp::Reverse(*least));
        let mut open: Vec<FileCursor> = Vec::new();
        loop {
            let mut heads = self.heads(&mut open, columns).await?;
            while let Some((least, file)) = waiting.last().copied() {
                if heads.first().is_some_and(|(head, _)| *head < least) {
                    break;
                }
                waiting.pop();
                open.push(FileCursor::open(&self.location, file, columns).await?);
                heads = self.heads(&mut open, columns).await?;
            }
            let Some((_, first)) = heads.first() else { return Ok(()) };
            let others = heads.get(1).map(|(head, _)| *head).into_iter().chain(waiting.last().map(|(least, _)| *least));
            let limit = others.min();
            let Some(rows) = open[*first].take_before(limit) else { return Ok(()) };
            if !each(rows).await? {
                return Ok(());
            }
        }
    }

    /// Positions of the next rows of open files, the earliest first, each with its file. Files at their end are closed.
    async fn heads(&self, open: &mut Vec<FileCursor>, columns: &[LakeColumn]) -> Result<Vec<(Position, usize)>> {
        let mut heads = Vec::new();
        let mut at = 0;
        while at < open.len() {
            match open[at].head(columns).await? {
                Some(head) => {
                    heads.push((head, at));
                    at += 1;
                }
                None => drop(open.remove(at)),
            }
        }
        heads.sort_unstable();
        Ok(heads)
    }

    /// Whether all rows of a file are at or before the bound.
    fn is_before(&self, file: &LiveFile) -> bool {
        match self.from {
            From::Copy => false,
            From::After(Bound::Lsn(lsn)) => self.number_of(file, "maxValues").is_some_and(|most| Lsn(most) <= lsn),
            From::After(Bound::Micros(micros)) => {
                let most = self.bound_of(file, "maxValues", 3);
                // Other writers' statistics may lack what is below a millisecond.
                let most = most.and_then(|most| zoned_micros(most.as_str()?).ok());
                most.is_some_and(|most| most.saturating_add(999) <= micros)
            }
        }
    }

    /// The smallest or the largest commit LSN of a file's rows, as its statistics have it.
    fn number_of(&self, file: &LiveFile, which: &str) -> Option<u64> {
        self.bound_of(file, which, 1)?.as_i64().map(i64::cast_unsigned)
    }

    fn bound_of(&self, file: &LiveFile, which: &str, place: usize) -> Option<Value> {
        let statistics = file.add.get("stats").and_then(Value::as_str)?;
        let statistics: Value = serde_json::from_str(statistics).ok()?;
        statistics.get(which)?.get(self.version.columns()[place].stored_name()).cloned()
    }
}
