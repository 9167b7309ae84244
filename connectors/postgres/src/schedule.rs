//! Which part of which table is copied next. Without I/O.
//!
//! A table is read by ranges of blocks. Rows that are written after its copy began come by the stream, so the blocks
//! that it had then are all there is to read.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sooner_api::CopyRest;
use sooner_schemas::Lsn;
use tokio::time::Instant;

use crate::table_schedule::{FIRST_BLOCKS, REST, TableSchedule};
pub use crate::table_schedule::{KeyTexts, Part};

/// Size of a block, as servers are usually built.
const BLOCK_BYTES: u64 = 8192;

/// A part of a table that is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Tells it from all others.
    pub id: u64,
    /// Object id of the table.
    pub table: u32,
    /// Which of the table's copies it belongs to.
    pub round: u32,
    /// What to read.
    pub part: Part,
}

/// What became of a chunk that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEnd {
    /// Every transaction that its snapshot sees has its commit record before this LSN.
    pub snapshot_lsn: Lsn,
    /// For the first part: the blocks that the table has.
    pub blocks: Option<u32>,
    /// How long it took.
    pub took: Duration,
}

/// What is left of all copies.
#[derive(Debug)]
pub struct Schedule {
    tables: BTreeMap<u32, TableSchedule>,
    /// Tables in the order in which they are begun.
    order: VecDeque<u32>,
    next_id: u64,
    next_round: u32,
    /// Chunks that may be on their way at the same time.
    at_once: usize,
    /// Blocks of a table's first part.
    first_blocks: u32,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule::at_pace(None)
    }
}

impl Schedule {
    /// Nothing is to be copied yet; what comes is read at so many bytes a second at most.
    pub fn at_pace(bytes_per_second: Option<u64>) -> Schedule {
        // A block's rows may have large values elsewhere.
        let first = bytes_per_second.map_or(u64::MAX, |bytes| bytes / BLOCK_BYTES / 16);
        let first_blocks = u32::try_from(first).unwrap_or(u32::MAX).clamp(1, FIRST_BLOCKS);
        let (tables, order) = (BTreeMap::new(), VecDeque::new());
        Schedule { tables, order, next_id: 0, next_round: 0, at_once: usize::MAX, first_blocks }
    }

    /// Adds a table, or begins it again: what is on its way of the former round does not count.
    pub fn begin(&mut self, table: u32) {
        self.next_round += 1;
        if self.tables.insert(table, TableSchedule::new(self.next_round, self.first_blocks)).is_none() {
            self.order.push_back(table);
        }
    }

    /// Adds a table of which only a rest is to be read, once it is released.
    pub fn resume(&mut self, table: u32, rest: &CopyRest) {
        self.begin(table);
        if let Some(table) = self.tables.get_mut(&table) {
            table.resume(rest);
        }
    }

    /// The rest of a table may be read from here on.
    pub fn release(&mut self, table: u32) {
        if let Some(table) = self.tables.get_mut(&table) {
            table.is_held = false;
        }
    }

    /// What has not been handed on of a table, whose rows lie in a file; none while that cannot be told.
    pub fn rest(&self, table: u32, file_node: u32) -> Option<CopyRest> {
        self.tables.get(&table)?.rest_of(file_node)
    }

    /// Forgets a table.
    pub fn remove(&mut self, table: u32) {
        self.tables.remove(&table);
        self.order.retain(|known| *known != table);
    }

    /// No more than so many chunks are given out at the same time from now on. Returns whether that is new.
    pub fn limit(&mut self, at_once: usize) -> bool {
        std::mem::replace(&mut self.at_once, at_once) != at_once
    }

    /// Whether nothing is copied.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether a chunk belongs to a copy that still counts.
    pub fn counts(&self, chunk: &Chunk) -> bool {
        self.tables.get(&chunk.table).is_some_and(|table| table.round == chunk.round)
    }

    /// The row with this key is to be read, since the stream has sent a part of it only, unless all of it is known:
    /// once all blocks have been read, only rows that wait to be read by their keys are not. `is_renamed` says that the
    /// row had another key before. Returns whether it is to be read.
    pub fn add_key(&mut self, table: u32, key: KeyTexts, is_renamed: bool) -> bool {
        let Some(table) = self.tables.get_mut(&table) else { return false };
        let is_known = table.has_all_blocks() && !table.keys.contains(&key) && !table.reading.contains(&key);
        (!is_known || is_renamed) && table.keys.insert(key)
    }

    /// The next chunk to read; none if there is none at the moment. A table that has been begun goes first, unless
    /// others have fewer chunks on their way.
    pub fn next(&mut self, now: Instant) -> Option<Chunk> {
        if self.tables.values().map(|table| table.in_flight).sum::<usize>() >= self.at_once {
            return None;
        }
        let candidates = self.order.iter().copied().filter(|oid| self.tables[oid].has_work(now));
        let oid = candidates.min_by_key(|oid| (self.tables[oid].in_flight, !self.tables[oid].is_begun))?;
        let table = self.tables.get_mut(&oid)?;
        let part = table.next_part()?;
        table.in_flight += 1;
        match &part {
            Part::Keys(keys) => table.reading.extend(keys.iter().cloned()),
            Part::Blocks(blocks) => table.blocks_in_flight.push(blocks.clone()),
            Part::First(_) => {}
        }
        self.next_id += 1;
        Some(Chunk { id: self.next_id, table: oid, round: table.round, part })
    }

    /// When a table that rests may go on; none if none rests.
    pub fn rests_until(&self) -> Option<Instant> {
        self.tables.values().filter_map(|table| table.rests_until).min()
    }

    /// A chunk was read, and all of its rows are handed on.
    pub fn ended(&mut self, chunk: &Chunk, end: ChunkEnd) {
        let Some(table) = self.tables.get_mut(&chunk.table).filter(|table| table.round == chunk.round) else { return };
        table.land(&chunk.part);
        table.snapshot_lsn = table.snapshot_lsn.max(end.snapshot_lsn);
        if let Part::First(taken) = chunk.part {
            let blocks = end.blocks.unwrap_or(0);
            table.rest = Some(taken.min(blocks)..blocks);
        }
        table.adapt(end.took);
    }

    /// A chunk could not be read: it is read again, after a rest, and in smaller parts if it took too long.
    pub fn failed(&mut self, chunk: &Chunk, took_too_long: bool, now: Instant) {
        let Some(table) = self.tables.get_mut(&chunk.table).filter(|table| table.round == chunk.round) else { return };
        table.land(&chunk.part);
        table.rests_until = Some(now + REST);
        match &chunk.part {
            Part::First(_) => table.is_begun = false,
            Part::Blocks(_) => table.returned.push(chunk.part.clone()),
            Part::Keys(keys) => table.keys.extend(keys.iter().cloned()),
        }
        if took_too_long {
            table.part_blocks = (table.part_blocks / 4).max(1);
        }
    }

    /// Tables whose rows have all been handed on, as soon as the stream has got to where their last snapshot was.
    pub fn take_complete(&mut self, read: Lsn) -> Vec<u32> {
        let complete = self.tables.iter().filter(|(_, table)| table.is_complete(read));
        let complete: Vec<_> = complete.map(|(oid, _)| *oid).collect();
        for table in &complete {
            self.remove(*table);
        }
        complete
    }

    /// Whether a table only waits for the stream to get to its last snapshot.
    pub fn waits_for_stream(&self) -> bool {
        self.tables.values().any(|table| table.is_read())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_schedule::PART_DURATION;

    fn end(blocks: Option<u32>, lsn: u64) -> ChunkEnd {
        ChunkEnd { snapshot_lsn: Lsn(lsn), blocks, took: PART_DURATION }
    }

    fn key(text: &str) -> KeyTexts {
        Box::new([text.into()])
    }

    #[test]
    fn a_table_is_read_by_ranges_of_the_blocks_that_it_had() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.begin(7);
        let first = schedule.next(now).unwrap();
        assert_eq!(first.part, Part::First(1024));
        assert_eq!(schedule.next(now), None, "it is not known how many blocks there are");
        schedule.ended(&first, end(Some(2500), 50));
        let chunks: Vec<_> = std::iter::from_fn(|| schedule.next(now)).collect();
        let parts: Vec<_> = chunks.iter().map(|chunk| chunk.part.clone()).collect();
        assert_eq!(parts, [Part::Blocks(1024..2048), Part::Blocks(2048..2500)]);
        schedule.ended(&chunks[0], end(None, 70));
        assert!(schedule.take_complete(Lsn(100)).is_empty());
        schedule.ended(&chunks[1], end(None, 60));
        assert!(schedule.take_complete(Lsn(69)).is_empty() && schedule.waits_for_stream());
        assert_eq!(schedule.take_complete(Lsn(70)), [7]);
        assert!(schedule.is_empty());
    }

    #[test]
    fn a_part_that_took_too_long_is_read_again_in_smaller_ones() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.begin(7);
        let first = schedule.next(now).unwrap();
        schedule.ended(&first, end(Some(1424), 50));
        let chunk = schedule.next(now).unwrap();
        schedule.failed(&chunk, true, now);
        assert_eq!(schedule.next(now), None, "it rests");
        assert_eq!(schedule.rests_until(), Some(now + REST));
        let parts: Vec<_> = std::iter::from_fn(|| schedule.next(now + REST)).map(|chunk| chunk.part).collect();
        assert_eq!(parts, [Part::Blocks(1024..1280), Part::Blocks(1280..1424)]);
    }

    #[test]
    fn a_table_that_begins_again_forgets_its_former_round() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.begin(7);
        let former = schedule.next(now).unwrap();
        schedule.begin(7);
        assert!(!schedule.counts(&former));
        schedule.ended(&former, end(Some(9), 50));
        let chunk = schedule.next(now).unwrap();
        assert_eq!(chunk.part, Part::First(1024));
        schedule.ended(&chunk, end(Some(0), 60));
        assert_eq!(schedule.take_complete(Lsn(60)), [7]);
    }

    #[test]
    fn rows_that_the_stream_sent_in_part_are_read_before_the_table_is_complete() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.begin(7);
        let first = schedule.next(now).unwrap();
        assert!(schedule.add_key(7, key("a"), false));
        assert!(!schedule.add_key(7, key("a"), false), "once");
        schedule.ended(&first, end(Some(1), 50));
        assert!(schedule.take_complete(Lsn(100)).is_empty());
        let chunk = schedule.next(now).unwrap();
        assert_eq!(chunk.part, Part::Keys(vec![key("a")]));
        assert!(!schedule.add_key(7, key("b"), false), "its block was read");
        schedule.ended(&chunk, end(None, 120));
        assert!(schedule.take_complete(Lsn(100)).is_empty());
        assert_eq!(schedule.take_complete(Lsn(120)), [7]);
    }

    #[test]
    fn a_copy_that_was_broken_off_goes_on_with_what_had_not_been_handed_on() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.begin(7);
        let first = schedule.next(now).unwrap();
        assert_eq!(schedule.rest(7, 5), None, "it is not known how many blocks there are");
        schedule.ended(&first, end(Some(5000), 50));
        let chunks: Vec<_> = (0..3).map(|_| schedule.next(now).unwrap()).collect();
        schedule.add_key(7, key("a"), false);
        schedule.ended(&chunks[1], end(None, 70));
        schedule.failed(&chunks[2], false, now);
        let rest = schedule.rest(7, 5).unwrap();
        let blocks = vec![3072..4096, 1024..2048, 4096..5000];
        let (keys, run) = (vec![key("a")], String::new());
        assert_eq!(rest, CopyRest { file_node: 5, blocks, keys, snapshot_lsn: Lsn(70), run });

        let mut resumed = Schedule::default();
        resumed.resume(7, &rest);
        assert_eq!(resumed.next(now), None, "the stream has to get there first");
        assert!(resumed.take_complete(Lsn(100)).is_empty());
        resumed.release(7);
        let chunks: Vec<_> = std::iter::from_fn(|| resumed.next(now)).collect();
        let parts: Vec<_> = chunks.iter().map(|chunk| chunk.part.clone()).collect();
        let blocks = [3072..4096, 1024..2048, 4096..5000].map(Part::Blocks);
        assert_eq!((&parts[..3], &parts[3]), (&blocks[..], &Part::Keys(vec![key("a")])));
        chunks.iter().for_each(|chunk| resumed.ended(chunk, end(None, 60)));
        assert!(resumed.take_complete(Lsn(69)).is_empty(), "what was handed on before the break is as far as this");
        assert_eq!(resumed.take_complete(Lsn(70)), [7]);
    }

    #[test]
    fn several_tables_are_read_side_by_side_and_one_that_rests_keeps_nobody() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.begin(1);
        schedule.begin(2);
        let first = schedule.next(now).unwrap();
        assert_eq!(first.table, 1);
        schedule.failed(&first, false, now);
        let other = schedule.next(now).unwrap();
        assert_eq!(other.table, 2);
        schedule.ended(&other, end(Some(5000), 1));
        assert_eq!(schedule.next(now).unwrap().table, 2);
        assert_eq!(schedule.next(now + REST).unwrap(), Chunk { id: 4, part: Part::First(1024), ..first });
    }
}
