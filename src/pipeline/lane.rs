//! One table as the sink loop sees it: what has been handed to its worker, and what of that is visible. Without I/O.

use sooner_api::{
    AppliedTable, CopyProgress, Coverage, Error, LakePosition, TableFact, TableNote, TableState, UnfinishedCopy,
};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

use super::kept_copy::KeptCopy;
use super::messages::CommitReport;

/// A table's lane.
#[derive(Debug)]
pub struct Lane {
    /// Table.
    pub name: TableName,
    /// What it is doing, as its worker has reported.
    pub state: TableState,
    /// Commit LSN of the last event that was handed on; the highest there is, if the table cannot go on after it.
    handed_on: Lsn,
    /// The table is complete up to here.
    complete: Watermark,
    /// So it is up to here, by a log whose last entry was looked at afterwards.
    inspected: Watermark,
    /// What was handed on last ended inside a transaction.
    is_open: bool,
    /// Steps that were handed on.
    steps: u64,
    /// The last of those whose events stand at a position that was read or complete already: copied rows.
    last_copied_step: Option<u64>,
    /// A copy of it is being handed on.
    is_copying: bool,
    /// What was read last did not cover it, so that it is complete to what it was before.
    is_uncovered: bool,
    /// For events of it stand where they are not read yet.
    is_elsewhere: bool,
    /// What is durable of its copy.
    kept_copy: KeptCopy,
    /// What its lake table is.
    lake: Option<LakePosition>,
    /// What its source has said of it, to be stored once everything up to a commit LSN is visible.
    note: Option<(Lsn, TableNote)>,
    /// A step that changes only its columns, and is not committed: until then nothing is stored of what it is by now.
    column_step: Option<u64>,
    /// It has changed since that was last stored.
    is_changed: bool,
    /// It holds nothing after this position. What is read may be behind that: a former process has committed it.
    reached: Lsn,
}

impl Lane {
    /// A table in this state, which its own log says is complete up to `complete`.
    pub fn new(name: TableName, state: TableState, complete: Watermark) -> Lane {
        let is_copying = state == TableState::Copying;
        Lane {
            name,
            state,
            handed_on: Lsn::ZERO,
            complete,
            inspected: complete,
            is_open: false,
            steps: 0,
            last_copied_step: None,
            is_copying,
            is_uncovered: false,
            is_elsewhere: false,
            kept_copy: KeptCopy::default(),
            lake: None,
            note: None,
            column_step: None,
            is_changed: false,
            reached: complete.commit_lsn,
        }
    }

    /// The table holds events up to here.
    pub fn note_reached(&mut self, reached: Lsn) {
        self.reached = self.reached.max(reached);
    }

    /// Whether the table may hold what comes after a watermark.
    pub fn is_beyond(&self, watermark: Watermark) -> bool {
        self.reached > watermark.commit_lsn
    }

    /// The table's copy goes on from here.
    pub fn resume_copy(&mut self, copy: UnfinishedCopy) {
        self.kept_copy = KeptCopy::resumed(copy);
    }

    /// Events are handed on, the last one at this LSN, or columns alone. Up to `read` all had been read before.
    pub fn hand_on(&mut self, last: impl Into<Option<Lsn>>, read: Watermark) {
        let last = last.into();
        if self.is_clean()
            && !self.is_uncovered
            && (!self.is_copying || self.kept_copy.goes_on())
            && read.commit_lsn > self.complete.commit_lsn
        {
            // It was complete to there, without a commit of its own.
            if self.is_inspected() {
                self.inspected = read;
            }
            self.complete = read;
        }
        // Copied rows bear the position of an earlier event.
        self.steps += 1;
        self.column_step = if last.is_none() { Some(self.steps) } else { self.column_step };
        let last = last.unwrap_or(read.commit_lsn);
        if last <= read.commit_lsn.max(self.complete.commit_lsn) {
            self.last_copied_step = Some(self.steps);
        }
        self.handed_on = self.handed_on.max(last);
        self.is_open = true;
    }

    /// A copy begins.
    pub fn begin_copy(&mut self) {
        self.is_copying = true;
        // All of its rows are replaced, by those of another server perhaps.
        self.reached = Lsn::ZERO;
        self.is_changed |= self.kept_copy.clear();
        if self.handed_on == Lsn(u64::MAX) {
            self.handed_on = self.complete.commit_lsn;
        }
    }

    /// A copy ends; returns whether the worker has to hear of it.
    pub fn end_copy(&mut self) -> bool {
        let was_copying = std::mem::take(&mut self.is_copying);
        std::mem::take(&mut self.is_open) || was_copying
    }

    /// Whole transactions have been read up to a coverage; returns whether the worker has to hear of it. A coverage
    /// that excepts the table says only that its copy has not ended.
    pub fn cover(&mut self, coverage: &Coverage) -> bool {
        self.is_uncovered = !coverage.applies_to(&self.name);
        self.is_elsewhere = coverage.is_elsewhere(&self.name);
        (self.is_copying || !self.is_uncovered) && std::mem::take(&mut self.is_open)
    }

    /// So much of its copy has been handed on, up to the end of a transaction or not; returns whether the worker has to
    /// hear of it.
    pub fn copied(&mut self, progress: Option<CopyProgress>, is_between: bool) -> bool {
        if self.state == TableState::Copying {
            self.is_changed |= self.kept_copy.report(self.steps, progress);
        }
        is_between && std::mem::take(&mut self.is_open)
    }

    fn holds_back(&self) -> bool {
        self.state.holds_back() || self.state == TableState::Copying && self.kept_copy.goes_on()
    }

    /// The source says what it knows of the table after what was handed on.
    pub fn note(&mut self, mut note: TableNote) {
        if let Some((_, former)) = self.note.take() {
            note.relation = note.relation.or(former.relation);
        }
        self.note = Some((self.handed_on, note));
    }

    /// The table cannot go on after what was handed on. Nothing may be confirmed past that before it is stored.
    pub fn stop(&mut self) {
        self.handed_on = Lsn(u64::MAX);
    }

    /// The worker has made steps durable, with everything up to a watermark.
    pub fn committed(&mut self, report: CommitReport) {
        let CommitReport { committed, positions, watermark, steps, copy } = report;
        self.column_step.take_if(|step| *step <= steps);
        self.last_copied_step.take_if(|last| *last <= steps);
        self.complete = watermark;
        self.note_reached(watermark.commit_lsn);
        self.is_changed = true;
        self.kept_copy.commit(steps, copy, watermark.end_lsn);
        if copy.is_none() {
            self.lake = Some(LakePosition { version: committed.table_version, positions, watermark });
        }
    }

    /// The table's log is still what its worker wrote, up to a watermark.
    pub fn inspected(&mut self, watermark: Watermark) {
        if watermark.commit_lsn > self.inspected.commit_lsn {
            self.inspected = watermark;
        }
    }

    /// Whether what the table is complete to may be relied on.
    pub fn is_inspected(&self) -> bool {
        self.inspected.commit_lsn >= self.complete.commit_lsn
    }

    /// What keeps the database from forgetting what the table has: everything after what was inspected.
    pub fn withheld_from(&self) -> Option<Lsn> {
        let is_withheld = self.holds_back() && !self.is_inspected();
        let inspected = is_withheld.then_some(self.inspected.end_lsn);
        inspected.into_iter().chain(self.held_back_from()).min()
    }

    /// Lets something happen to the table; returns whether its state changed.
    pub fn step(&mut self, fact: TableFact) -> bool {
        let begins_again = fact == TableFact::CopyNeeded;
        let (next, _) = self.state.step(fact);
        let changed = next != self.state;
        self.state = next;
        self.is_changed |= changed;
        if begins_again || self.state != TableState::Copying {
            self.is_changed |= self.kept_copy.clear();
        }
        changed
    }

    /// Everything that was handed on is visible.
    pub fn is_clean(&self) -> bool {
        self.complete.commit_lsn >= self.handed_on && self.last_copied_step.is_none()
    }

    /// What the table keeps from being confirmed: everything after what it is complete to. None while it holds nothing
    /// back: it is clean, or it is copied again anyway.
    pub fn held_back_from(&self) -> Option<Lsn> {
        let ended_copy = self.state == TableState::Copying && !self.is_copying;
        let is_behind = !self.is_clean() || self.is_elsewhere;
        ((self.holds_back() || ended_copy) && is_behind).then_some(self.complete.end_lsn)
    }

    /// What the table is complete to, if it is behind what has been read.
    pub fn behind(&self) -> Option<Watermark> {
        (!self.is_clean() || self.is_uncovered).then_some(self.complete)
    }

    /// Whether it follows the stream, so that the stream's watermark says something of it.
    pub fn follows_stream(&self) -> bool {
        self.state.holds_back() && !self.is_copying
    }

    /// What has to be stored, once after each change. `read` is up to where whole transactions have been read.
    pub fn take_change(&mut self, read: Watermark) -> Option<AppliedTable> {
        let (complete, holds_back) = (self.complete.commit_lsn, self.holds_back() && self.column_step.is_none());
        // A table that stopped is judged anew when it is copied.
        let note = self.note.take_if(|(after, _)| *after <= complete && holds_back).map(|(_, note)| note);
        if !std::mem::take(&mut self.is_changed) && note.is_none() {
            return None;
        }
        let mut lake = self.lake.clone();
        if let Some(lake) = lake.as_mut().filter(|_| self.behind().is_none() && self.follows_stream()) {
            lake.watermark = if read.commit_lsn > lake.watermark.commit_lsn { read } else { lake.watermark };
        }
        let copy = self.kept_copy.to_store(self.is_clean().then_some(read.end_lsn));
        Some(AppliedTable { state: self.state.clone(), lake, note, copy })
    }

    /// Why the table does not go on.
    pub fn error(&self) -> Option<&Error> {
        self.state.error()
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, Committed, CopyRest, LakeCopy};

    use super::*;

    fn mark(lsn: u64) -> Watermark {
        Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_micros: 0 }
    }

    fn lane(state: TableState) -> Lane {
        Lane::new(TableName::new("public", "t"), state, mark(10))
    }

    fn streaming() -> TableState {
        TableState::Streaming { copied_lsn: None }
    }

    fn committed(table_version: u64, lsn: u64, steps: u64) -> CommitReport {
        let committed = Committed { table_version, ..Committed::default() };
        CommitReport { committed, positions: None, watermark: mark(lsn), steps, copy: None }
    }

    fn copied_until(lsn: u64, steps: u64, version: u64) -> CommitReport {
        CommitReport { copy: Some(LakeCopy { id: 7, version }), ..committed(0, lsn, steps) }
    }

    fn progress(rows: u64) -> CopyProgress {
        CopyProgress { id: 7, rows, rest: CopyRest::default() }
    }

    fn error() -> Error {
        Error::operator(Code::ShapeChanged, "w", "y", "r")
    }

    #[test]
    fn what_was_handed_on_is_held_back_until_it_is_visible() {
        let mut lane = lane(streaming());
        assert_eq!(lane.held_back_from(), None);
        lane.hand_on(Lsn(30), mark(20));
        assert_eq!(lane.held_back_from(), Some(Lsn(28)), "it was complete to 20 without a commit");
        lane.committed(committed(1, 30, 9));
        assert_eq!(lane.held_back_from(), None);
    }

    #[test]
    fn rows_copied_over_those_of_a_clean_table_are_held_back_until_they_are_visible() {
        let mut lane = lane(streaming());
        lane.hand_on(Lsn(30), mark(20));
        lane.committed(committed(1, 30, 1));
        lane.hand_on(Lsn(30), mark(30));
        assert_eq!(lane.held_back_from(), Some(Lsn(38)));
        lane.committed(committed(2, 30, 1));
        assert!(!lane.is_clean(), "that commit had begun before");
        lane.committed(committed(3, 30, 2));
        assert!(lane.is_clean());
        // While a commit is under way, too.
        lane.hand_on(Lsn(40), mark(30));
        lane.hand_on(Lsn(40), mark(40));
        lane.committed(committed(4, 40, 3));
        assert!(!lane.is_clean());
    }

    #[test]
    fn what_is_visible_is_withheld_until_the_log_was_looked_at_afterwards() {
        let mut lane = lane(streaming());
        lane.hand_on(Lsn(30), mark(20));
        lane.committed(committed(1, 30, 1));
        assert_eq!((lane.held_back_from(), lane.withheld_from()), (None, Some(Lsn(28))));
        lane.hand_on(Lsn(40), mark(30));
        lane.inspected(mark(30));
        assert_eq!(lane.withheld_from(), Some(Lsn(38)));
        lane.committed(committed(2, 40, 2));
        lane.inspected(mark(40));
        assert_eq!(lane.withheld_from(), None);
    }

    #[test]
    fn a_copy_holds_nothing_back_until_it_has_been_handed_on_whole() {
        let mut lane = lane(TableState::Copying);
        lane.hand_on(Lsn(50), mark(20));
        assert_eq!(lane.held_back_from(), None);
        assert!(lane.cover(&Coverage::all(mark(30))), "what has come of it may become durable");
        assert_eq!(lane.held_back_from(), None);
        assert!(lane.end_copy());
        assert_eq!(lane.held_back_from(), Some(Lsn(18)));
        lane.committed(committed(0, 50, 9));
        lane.step(TableFact::CopyEnded(Lsn(50)));
        assert!(lane.follows_stream() && lane.held_back_from().is_none());
    }

    #[test]
    fn what_is_durable_of_a_copy_is_held_back_and_stored_with_its_progress() {
        let mut lane = lane(TableState::Copying);
        lane.hand_on(Lsn(20), mark(20));
        assert!(lane.copied(Some(progress(5)), true), "its rows may become durable");
        lane.hand_on(Lsn(30), mark(20));
        assert!(lane.cover(&Coverage::all(mark(30))));
        lane.committed(copied_until(20, 1, 0));
        assert_eq!(lane.held_back_from(), Some(Lsn(28)));
        let copy = lane.take_change(mark(30)).unwrap().copy.unwrap();
        assert_eq!((copy.source, copy.lake.unwrap().version, copy.complete_lsn), (Some(progress(5)), 0, Lsn(28)));
        lane.committed(copied_until(30, 2, 1));
        lane.inspected(mark(30));
        assert_eq!(lane.withheld_from(), None);
        lane.copied(Some(progress(6)), true);
        let copy = lane.take_change(mark(40)).unwrap().copy.unwrap();
        assert_eq!((copy.source, copy.complete_lsn), (Some(progress(6)), Lsn(48)), "nothing came after it");
        lane.begin_copy();
        assert_eq!(lane.take_change(mark(40)).unwrap().copy, None, "another copy");
    }

    #[test]
    fn a_table_that_cannot_go_on_holds_back_until_its_state_says_so() {
        let mut lane = lane(streaming());
        lane.stop();
        assert_eq!(lane.held_back_from(), Some(Lsn(18)));
        assert!(lane.step(TableFact::Failed(error())));
        assert_eq!(lane.held_back_from(), None);
        let change = lane.take_change(mark(40)).unwrap();
        assert!(matches!(change.state, TableState::Parked { .. }));
        assert!(lane.take_change(mark(40)).is_none(), "once");
    }

    #[test]
    fn a_clean_table_is_stored_as_complete_to_what_was_read() {
        let mut lane = lane(streaming());
        lane.hand_on(Lsn(30), mark(20));
        lane.committed(committed(7, 30, 9));
        let lake = lane.take_change(mark(90)).unwrap().lake.unwrap();
        assert_eq!((lake.version, lake.watermark), (7, mark(90)));
        lane.committed(committed(8, 90, 9));
        lane.hand_on(Lsn(95), mark(90));
        let lake = lane.take_change(mark(99)).unwrap().lake.unwrap();
        assert_eq!(lake.watermark, mark(90), "something of it is not visible yet");
    }
}
