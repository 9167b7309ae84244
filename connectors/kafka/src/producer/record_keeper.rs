//! The progress record as the running source keeps it: what has changed since it was last written, and when it has to
//! be written next. Without I/O.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sooner_api::{CopyProgress, Positions, Result, TableEffect, TableFact, TableNote, TableState, UnfinishedCopy};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Position, Relation, TableName};

use crate::progress::record::{RecordMessage, TopicProgress};

/// How often an idle source records its position.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps a progress record.
pub struct RecordKeeper {
    progress: TopicProgress,
    /// What was written before this source started. The stream repeats some of it.
    former: Positions,
    /// Tables whose part of the record has changed since it was last written.
    changed: BTreeSet<TableName>,
    /// The record has changed since it was last written.
    dirty: bool,
    /// The record has to be written at once, because somebody waits for it.
    urgent: bool,
    written_at: Instant,
    /// Tables of records that were written and that nobody has asked for yet; none if none was written.
    news: Option<BTreeSet<TableName>>,
}

impl RecordKeeper {
    /// Goes on from a record, which is written whole first. `forgotten` are tables of an earlier record that no longer
    /// take part.
    pub fn new(progress: TopicProgress, forgotten: impl IntoIterator<Item = TableName>) -> RecordKeeper {
        RecordKeeper {
            former: progress.covered(),
            changed: progress.record.tables.keys().cloned().chain(forgotten).collect(),
            progress,
            dirty: true,
            urgent: false,
            written_at: Instant::now(),
            news: None,
        }
    }

    /// The record as it will be written next.
    pub fn progress(&self) -> &TopicProgress {
        &self.progress
    }

    /// Whether an event of the stream was written before this source started.
    pub fn was_written(&self, position: Position) -> bool {
        self.former.covers_event(position)
    }

    /// A table's state; none if it does not take part.
    pub fn state(&self, table: &TableName) -> Option<&TableState> {
        self.progress.record.tables.get(table).map(|progress| &progress.state)
    }

    /// Lets something happen to a table; returns whether its events are to be dropped from here on.
    pub fn step(&mut self, table: &TableName, fact: TableFact) -> bool {
        let Some(progress) = self.progress.record.tables.get_mut(table) else { return false };
        let effects = progress.step(fact);
        if effects.contains(&TableEffect::Store) {
            (self.dirty, self.urgent) = (true, true);
            self.changed.insert(table.clone());
        }
        effects.contains(&TableEffect::DropEvents)
    }

    /// Notes what a table is while its events are written.
    pub fn set_relation(&mut self, table: &TableName, relation: Option<&Arc<Relation>>) {
        if let Some(progress) = self.progress.record.tables.get_mut(table)
            && progress.relation.as_ref() != relation
        {
            progress.relation = relation.cloned();
            self.changed.insert(table.clone());
        }
    }

    /// Notes how far a table's copy is; none if it could not go on from here.
    pub fn note_copy(&mut self, table: &TableName, source: Option<CopyProgress>) {
        let complete_lsn = self.progress.record.confirmed_lsn;
        if let Some(progress) = self.progress.record.tables.get_mut(table)
            && progress.state == TableState::Copying
        {
            progress.copy = source.map(|source| UnfinishedCopy { source: Some(source), lake: None, complete_lsn });
            self.changed.insert(table.clone());
            self.dirty = true;
        }
    }

    /// Notes what the source says of a table.
    pub fn note_table(&mut self, note: TableNote) {
        if let Some(progress) = self.progress.record.tables.get_mut(&note.table) {
            self.changed.insert(note.table.clone());
            progress.take(note);
            self.dirty = true;
        }
    }

    /// Notes the offset after the last event of a partition that was delivered. Offsets only grow: where a lower one is
    /// met, the topic was created again, and the offset that was used before is returned.
    pub fn advance(&mut self, table: &TableName, partition: i32, next: i64) -> std::result::Result<(), i64> {
        let topic = self.progress.topics.get_mut(table);
        let Some(known) = topic.and_then(|topic| topic.next_offsets.get_mut(partition as usize)) else { return Ok(()) };
        if next <= *known {
            return Err(*known);
        }
        *known = next;
        self.changed.insert(table.clone());
        Ok(())
    }

    /// Notes the offset after the last message that was delivered to the successor of a table's topic.
    pub fn advance_successor(&mut self, table: &TableName, partition: i32, next: i64) {
        self.change_topics(table, |progress| {
            let offsets = progress.successor_mut(table).map(|successor| &mut successor.next_offsets);
            if let Some(known) = offsets.and_then(|offsets| offsets.get_mut(partition as usize)) {
                *known = next.max(*known);
            }
        });
    }

    /// Changes where events of a table are, or will be.
    pub fn change_topics(&mut self, table: &TableName, change: impl FnOnce(&mut TopicProgress)) {
        change(&mut self.progress);
        self.dirty = true;
        self.changed.insert(table.clone());
    }

    /// Notes that events were written; of the stream, up to this position.
    pub fn note_events(&mut self, last: Option<Position>) {
        self.dirty = true;
        if let Some(position) = last {
            self.progress.note(position);
        }
    }

    /// Notes that whole transactions are written up to this watermark. `holds_events` says whether events wait for the
    /// commit, which brings the record with it.
    pub fn reach(&mut self, watermark: Watermark, holds_events: bool) {
        let progress = &mut self.progress;
        if watermark.end_lsn < progress.record.confirmed_lsn {
            return;
        }
        self.dirty |= watermark.end_lsn > progress.record.confirmed_lsn;
        // The stream may stand before the transaction that was split, after a restart.
        if progress.split.is_some_and(|split| split.commit_lsn <= watermark.commit_lsn) {
            progress.split = None;
            self.dirty = true;
            // Events of the transaction are on the topics already, and readers wait for its end.
            self.urgent |= !holds_events;
        }
        progress.commit_lsn = progress.commit_lsn.max(watermark.commit_lsn);
        progress.commit_micros = watermark.commit_micros;
        progress.record.confirmed_lsn = watermark.end_lsn;
    }

    /// Whether the record has changed since it was last written.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether somebody waits for the record, so that it has to be written at once.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Whether the record has to be written now, although no events bring it with them.
    pub fn is_due(&self, now: Instant) -> bool {
        self.urgent || (self.dirty && now.duration_since(self.written_at) >= IDLE_INTERVAL)
    }

    /// The messages that store what has changed.
    pub fn messages(&self) -> Result<Vec<RecordMessage>> {
        self.progress.messages(&self.changed)
    }

    /// Notes that those messages are committed.
    pub fn written(&mut self) {
        (self.dirty, self.urgent) = (false, false);
        self.written_at = Instant::now();
        self.news.get_or_insert_default().extend(std::mem::take(&mut self.changed));
    }

    /// Once after each commit: tables whose part of the record it has changed.
    pub fn take_news(&mut self) -> Option<BTreeSet<TableName>> {
        self.news.take()
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, Error, TableProgress};
    use sooner_schemas::Lsn;

    use super::*;
    use crate::progress::record::TopicOffsets;

    fn table() -> TableName {
        TableName::new("public", "t")
    }

    fn keeper(state: TableState) -> RecordKeeper {
        let mut progress = TopicProgress { commit_lsn: Lsn(100), ..TopicProgress::default() };
        progress.record.slot = "s".into();
        progress.record.confirmed_lsn = Lsn(110);
        progress.record.tables.insert(table(), TableProgress::new(state, None));
        let offsets = TopicOffsets {
            topic: "t".into(),
            generation: 1,
            begun_over: false,
            first_offsets: vec![0, 0],
            next_offsets: vec![5, 0],
        };
        progress.topics.insert(table(), offsets);
        let mut keeper = RecordKeeper::new(progress, None);
        keeper.written();
        keeper.take_news();
        keeper
    }

    fn streaming() -> TableState {
        TableState::Streaming { copied_lsn: Some(Lsn(50)) }
    }

    fn mark(lsn: u64) -> Watermark {
        Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 10), commit_micros: 7 }
    }

    fn at(lsn: u64, ordinal: u64) -> Position {
        Position { commit_lsn: Lsn(lsn), ordinal }
    }

    #[test]
    fn the_first_record_is_whole_and_later_ones_hold_what_changed() {
        let mut keeper = keeper(streaming());
        assert_eq!(keeper.messages().unwrap().len(), 1, "the head alone");
        keeper.advance(&table(), 1, 3).unwrap();
        assert_eq!(keeper.messages().unwrap().len(), 2);
        keeper.written();
        assert_eq!(keeper.take_news(), Some(BTreeSet::from([table()])));
        assert_eq!(keeper.take_news(), None);
    }

    #[test]
    fn an_offset_that_was_used_before_shows_that_the_topic_was_replaced() {
        let mut keeper = keeper(streaming());
        assert_eq!(keeper.advance(&table(), 0, 5), Err(5));
        assert_eq!(keeper.advance(&table(), 0, 6), Ok(()));
        assert_eq!(keeper.advance(&table(), 7, 1), Ok(()), "a partition that is not recorded");
    }

    #[test]
    fn parking_is_urgent_and_drops_events() {
        let mut keeper = keeper(streaming());
        let error = Error::operator(Code::MessageTooLarge, "w", "y", "r");
        assert!(keeper.step(&table(), TableFact::Failed(error)));
        assert!(keeper.is_due(Instant::now()));
        assert!(!keeper.step(&table(), TableFact::CopyEnded(Lsn(60))), "it stays parked");
        assert!(matches!(keeper.state(&table()), Some(TableState::Parked { copied_lsn: Some(Lsn(50)), .. })));
    }

    #[test]
    fn the_end_of_a_split_transaction_is_urgent_if_no_events_bring_it() {
        for (holds_events, urgent) in [(false, true), (true, false)] {
            let mut keeper = keeper(streaming());
            keeper.note_events(Some(at(120, 4)));
            keeper.written();
            keeper.reach(mark(119), false);
            assert!(keeper.progress().split.is_some(), "the transaction has not ended");
            keeper.reach(mark(120), holds_events);
            assert!(keeper.progress().split.is_none());
            assert_eq!(keeper.is_due(Instant::now()), urgent);
        }
    }

    #[test]
    fn what_was_written_before_the_start_is_known_for_good() {
        let mut keeper = keeper(streaming());
        keeper.note_events(Some(at(150, 0)));
        keeper.reach(mark(150), true);
        assert!(keeper.was_written(at(100, 3)) && !keeper.was_written(at(120, 0)));
    }

    #[test]
    fn a_watermark_that_is_behind_changes_nothing() {
        let mut keeper = keeper(streaming());
        keeper.reach(mark(20), false);
        assert!(!keeper.is_dirty());
        assert_eq!(keeper.progress().record.confirmed_lsn, Lsn(110));
    }
}
