//! Whether all events of a range are known, given its rows in commit order. Without I/O.
//!
//! From the start of a copy on, every event of the table is kept: the copy's rows join the stream, whose events are not
//! held up. Before the start of a copy some may be missing, since the last event that is there: the table may have been
//! stopped. So a range is whole if no copy begins in it, something is known at or before its start, and something that
//! is no start of a copy is known after it, or it is known that there is nothing yet.

use arrow_array::RecordBatch;
use sooner_api::{Code, Error, Result};
use sooner_schemas::{Lsn, TableName};

use super::facts::{FactColumns, RowFacts};
use super::range::{Bound, From, Range, Start, instant};
use crate::history::change_type::ChangeType;

/// Looks at rows in commit order.
pub struct Survey<'a> {
    table: &'a TableName,
    range: Range,
    /// Something at or before the start is there.
    knows_before: bool,
    /// Nothing was there before what is looked at.
    is_from_first: bool,
    first: Option<RowFacts>,
    /// The start of the last copy of those that are wanted.
    copy: Option<RowFacts>,
    last: Option<RowFacts>,
    /// The first row that is beyond the range.
    beyond: Option<RowFacts>,
    /// Rows are there that nothing of the range can follow.
    is_passed: bool,
    rows: u64,
}

/// Events that are all known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The first of them.
    pub start: Start,
    /// Number of their rows.
    pub rows: u64,
    /// Commit LSN of the last one; none if there is none.
    pub last: Option<Lsn>,
}

impl<'a> Survey<'a> {
    /// Of a table's rows in a range; `knows_before` if the source has rows at or before its start that are not shown.
    pub fn new(table: &'a TableName, range: Range, knows_before: bool) -> Survey<'a> {
        let (first, copy, last, beyond) = (None, None, None, None);
        Survey {
            table,
            range,
            knows_before,
            is_from_first: false,
            first,
            copy,
            last,
            beyond,
            is_passed: false,
            rows: 0,
        }
    }

    /// The same, where nothing that was written is gone: a topic may begin with the rows of a copy that was not
    /// announced.
    pub fn from_the_very_first(self) -> Survey<'a> {
        Survey { is_from_first: true, ..self }
    }

    /// Whether the start of a copy was among the rows.
    pub fn knows_copy(&self) -> bool {
        self.copy.is_some()
    }

    /// Takes a row in; false once no later one can be wanted.
    pub fn note(&mut self, row: RowFacts) -> bool {
        self.first.get_or_insert(row);
        if !self.range.to.covers(&row) {
            self.beyond.get_or_insert(row);
            self.is_passed = self.range.to.is_passed_by(&row);
            return !self.is_passed;
        }
        self.last = Some(row);
        match self.range.from {
            From::After(bound) if bound.covers(&row) => self.knows_before = true,
            From::Copy if row.change == ChangeType::SnapshotStart => (self.copy, self.rows) = (Some(row), 1),
            _ => {
                if row.change == ChangeType::SnapshotStart {
                    self.copy = Some(row);
                }
                self.rows += 1;
            }
        }
        true
    }

    /// Takes rows in; false once no later ones can be wanted.
    pub fn note_all(&mut self, rows: &RecordBatch) -> Result<bool> {
        let facts = FactColumns::of(rows)?;
        for row in 0..facts.len() {
            if !self.note(facts.at(row)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The events that are wanted, or why they are not all known. `complete` says why not all of them may have got
    /// here yet, if that is not shown by later ones.
    pub fn finish(self, complete: Result<()>) -> Result<Found> {
        let start = self.start()?;
        match self.beyond {
            Some(row) if row.change == ChangeType::SnapshotStart => self.check_gap(&row)?,
            _ if self.is_passed => {}
            _ => complete?,
        }
        let last = self.last.filter(|row| start.admits(row)).map(|row| row.position.commit_lsn);
        Ok(Found { start, rows: self.rows, last })
    }

    fn start(&self) -> Result<Start> {
        match (self.range.from, self.copy) {
            (From::Copy, Some(copy)) => Ok(Start::At(copy.position)),
            // The first copy to a topic is not announced: nothing was there before it.
            (From::Copy, None) if self.begins_with_a_copy() => {
                Ok(Start::At(self.first.map(|first| first.position).unwrap_or_default()))
            }
            (From::Copy, None) => Err(self.refused(
                "no copy of the whole table is known that began by then".to_owned(),
                "give an LSN or a time as --from",
            )),
            (From::After(_), Some(copy)) => {
                let why = format!("the table was copied {}; what happened before it may be missing", at(&copy));
                let remedy = format!(
                    "replay up to an earlier moment and begin again with that copy: --from copy has it and all events \
                     since, --from {} only those after its start",
                    copy.position.commit_lsn
                );
                Err(self.refused(why, &remedy))
            }
            (From::After(bound), None) if self.knows_before => Ok(Start::After(bound)),
            (From::After(_), None) => {
                let why = match self.first {
                    Some(first) => format!("the first event that is there is one {}", at(&first)),
                    None => "no event is there".to_owned(),
                };
                Err(self.refused(why, "choose a later --from, or --from copy, or another --source"))
            }
        }
    }

    fn begins_with_a_copy(&self) -> bool {
        let begins = |first: RowFacts| first.change == ChangeType::Snapshot && self.range.to.covers(&first);
        self.is_from_first && self.first.is_some_and(begins)
    }

    /// An error unless the range ends with the last event before a copy.
    fn check_gap(&self, copy: &RowFacts) -> Result<()> {
        let reaches = |last: &RowFacts| match self.range.to {
            Bound::Lsn(lsn) => last.position.commit_lsn >= lsn,
            Bound::Micros(micros) => last.commit_micros >= micros,
        };
        if self.last.as_ref().is_some_and(reaches) {
            return Ok(());
        }
        let why = format!("the table was copied {}, and events shortly before that may be missing", at(copy));
        let remedy = match self.last {
            Some(last) => format!("--to {} is the last event before it that is there", last.position.commit_lsn),
            None => "choose a range that begins with that copy: --from copy".to_owned(),
        };
        Err(self.refused(why, &remedy))
    }

    fn refused(&self, why: String, remedy: &str) -> Error {
        refused(self.table, self.range, why, remedy)
    }
}

fn at(row: &RowFacts) -> String {
    format!("at {} ({})", row.position.commit_lsn, instant(row.commit_micros))
}

/// The error of a range of which not all events are known.
pub fn refused(table: &TableName, range: Range, why: String, remedy: &str) -> Error {
    let from = match range.from {
        From::After(bound) => format!("from {bound}"),
        From::Copy => "from its last copy".to_owned(),
    };
    let what = format!("cannot replay all events of {table} {from} to {}", range.to);
    Error::operator(Code::ReplayImpossible, what, why, remedy)
}

#[cfg(test)]
mod tests {
    use sooner_schemas::Position;

    use super::*;

    fn row(lsn: u64, change: ChangeType) -> RowFacts {
        let position = Position { commit_lsn: Lsn(lsn), ordinal: 0 };
        RowFacts { change, position, commit_micros: lsn as i64 * 1_000_000, transaction: None }
    }

    fn surveyed(from: From, to: u64, rows: &[RowFacts], complete: bool) -> std::result::Result<Found, String> {
        let table = TableName::new("public", "t");
        let mut survey = Survey::new(&table, Range { from, to: Bound::Lsn(Lsn(to)) }, false);
        let _ = rows.iter().all(|row| survey.note(*row));
        let complete = if complete { Ok(()) } else { Err(Error::internal("not", "complete")) };
        survey.finish(complete).map_err(|error| error.to_string())
    }

    fn after(lsn: u64) -> From {
        From::After(Bound::Lsn(Lsn(lsn)))
    }

    #[test]
    fn a_range_is_whole_between_what_is_known_before_and_after_it() {
        use ChangeType::{Insert, SnapshotStart};
        let rows = [row(10, SnapshotStart), row(10, ChangeType::Snapshot), row(20, Insert), row(30, Insert)];
        let found = surveyed(after(10), 25, &rows, false).unwrap();
        assert_eq!((found.rows, found.last), (1, Some(Lsn(20))));
        assert_eq!(surveyed(after(20), 30, &rows, true).unwrap().rows, 1);
        assert!(surveyed(after(20), 30, &rows, false).unwrap_err().contains("complete"), "more may come");
        let why = surveyed(after(5), 25, &rows, true).unwrap_err();
        assert!(why.contains("copied at 0/A"), "{why}");
        let why = surveyed(after(15), 25, &rows[2..], true).unwrap_err();
        assert!(why.contains("first event that is there is one at 0/14"), "{why}");
        let copy = surveyed(From::Copy, 25, &rows, false).unwrap();
        assert_eq!((copy.rows, copy.start), (3, Start::At(rows[0].position)));
    }

    #[test]
    fn what_was_before_a_copy_is_whole_up_to_its_last_event() {
        use ChangeType::{Insert, SnapshotStart};
        let rows = [row(10, Insert), row(20, Insert), row(40, SnapshotStart), row(50, Insert)];
        assert_eq!(surveyed(after(10), 20, &rows, false).unwrap().rows, 1);
        let why = surveyed(after(10), 30, &rows, true).unwrap_err();
        assert!(why.contains("--to 0/14 is the last"), "{why}");
        let why = surveyed(after(10), 50, &rows, true).unwrap_err();
        assert!(why.contains("copied at 0/28"), "{why}");
        assert_eq!(surveyed(From::Copy, 50, &rows, true).unwrap().rows, 2);
        let unannounced = [row(10, ChangeType::Snapshot), row(20, Insert)];
        assert!(surveyed(From::Copy, 20, &unannounced, true).is_err(), "its first rows may be gone");
        let table = TableName::new("public", "t");
        let range = Range { from: From::Copy, to: Bound::Lsn(Lsn(20)) };
        let mut survey = Survey::new(&table, range, false).from_the_very_first();
        assert!(unannounced.iter().all(|row| survey.note(*row)));
        assert_eq!(survey.finish(Ok(())).unwrap().rows, 2);
        assert!(surveyed(From::Copy, 20, &rows[..2], true).is_err(), "nobody knows what was before");
    }

    #[test]
    fn commit_times_may_be_somewhat_out_of_order() {
        let table = TableName::new("public", "t");
        let range = Range { from: From::After(Bound::Micros(1_000_000)), to: Bound::Micros(3_000_000) };
        let mut survey = Survey::new(&table, range, false);
        let mut late = row(3, ChangeType::Insert);
        late.commit_micros = 3_000_001;
        assert!(survey.note(row(1, ChangeType::Insert)) && survey.note(late));
        let mut early = row(4, ChangeType::Insert);
        early.commit_micros = 2_999_999;
        assert!(survey.note(early), "its time is before that of the one before it");
        assert!(!survey.note(row(50, ChangeType::Insert)));
        assert_eq!(survey.finish(Ok(())).unwrap().rows, 1);
    }
}
