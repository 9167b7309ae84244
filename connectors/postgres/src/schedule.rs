//! Which part of which table is copied next. Without I/O.
//!
//! A table is read by ranges of blocks. Rows that are written after its copy began come by the stream, so the blocks
//! that it had then are all there is to read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use sooner_schemas::Lsn;
use tokio::time::Instant;

/// Blocks of a table's first part.
const FIRST_BLOCKS: u32 = 1024;
/// Blocks of a part at most.
const MOST_BLOCKS: u32 = 1 << 17;
/// How long reading a part should take: its transaction is as long.
const PART_DURATION: Duration = Duration::from_millis(700);
/// Rows that are read by their keys at once.
const KEYS_AT_ONCE: usize = 500;
/// How long a table rests after a part of it could not be read.
const REST: Duration = Duration::from_millis(500);

/// Texts of a row's key columns, in the key's order.
pub type KeyTexts = Box<[Box<str>]>;

/// A part of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// So many of its first blocks; and it is found out how many there are.
    First(u32),
    /// These blocks.
    Blocks(Range<u32>),
    /// The rows with these keys.
    Keys(Vec<KeyTexts>),
}

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
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule { tables: BTreeMap::new(), order: VecDeque::new(), next_id: 0, next_round: 0, at_once: usize::MAX }
    }
}

#[derive(Debug)]
struct TableSchedule {
    round: u32,
    is_begun: bool,
    /// Blocks that nobody has been given yet; none before it is known how many there are.
    rest: Option<Range<u32>>,
    /// Parts that could not be read.
    returned: Vec<Part>,
    /// Rows of which the stream has sent a part only, and those of them that are being read.
    keys: BTreeSet<KeyTexts>,
    reading: BTreeSet<KeyTexts>,
    in_flight: usize,
    /// Of those, parts by blocks.
    blocks_in_flight: usize,
    part_blocks: u32,
    rests_until: Option<Instant>,
    snapshot_lsn: Lsn,
}

impl Schedule {
    /// Adds a table, or begins it again: what is on its way of the former round does not count.
    pub fn begin(&mut self, table: u32) {
        self.next_round += 1;
        let new = TableSchedule {
            round: self.next_round,
            is_begun: false,
            rest: None,
            returned: Vec::new(),
            keys: BTreeSet::new(),
            reading: BTreeSet::new(),
            in_flight: 0,
            blocks_in_flight: 0,
            part_blocks: FIRST_BLOCKS,
            rests_until: None,
            snapshot_lsn: Lsn::ZERO,
        };
        if self.tables.insert(table, new).is_none() {
            self.order.push_back(table);
        }
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
            Part::First(_) | Part::Blocks(_) => table.blocks_in_flight += 1,
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

impl TableSchedule {
    fn has_work(&self, now: Instant) -> bool {
        let is_left = !self.is_begun
            || !self.returned.is_empty()
            || !self.keys.is_empty()
            || self.rest.as_ref().is_some_and(|rest| !rest.is_empty());
        is_left && self.rests_until.is_none_or(|until| until <= now)
    }

    fn next_part(&mut self) -> Option<Part> {
        self.rests_until = None;
        if !std::mem::replace(&mut self.is_begun, true) {
            return Some(Part::First(self.part_blocks));
        }
        if self.keys.len() >= KEYS_AT_ONCE {
            return self.take_keys();
        }
        if let Some(part) = self.returned.pop() {
            return Some(self.cut(part));
        }
        if let Some(rest) = self.rest.as_mut().filter(|rest| rest.start < rest.end) {
            let end = rest.end.min(rest.start.saturating_add(self.part_blocks));
            return Some(Part::Blocks(std::mem::replace(&mut rest.start, end)..end));
        }
        self.take_keys()
    }

    fn take_keys(&mut self) -> Option<Part> {
        let keys: Vec<_> = std::iter::from_fn(|| self.keys.pop_first()).take(KEYS_AT_ONCE).collect();
        (!keys.is_empty()).then_some(Part::Keys(keys))
    }

    /// A chunk is not on its way any more.
    fn land(&mut self, part: &Part) {
        self.in_flight -= 1;
        match part {
            Part::Keys(keys) => self.reading.retain(|key| !keys.contains(key)),
            Part::First(_) | Part::Blocks(_) => self.blocks_in_flight -= 1,
        }
    }

    fn has_all_blocks(&self) -> bool {
        let rest_is_empty = self.rest.as_ref().is_some_and(|rest| rest.start >= rest.end);
        rest_is_empty && self.returned.is_empty() && self.blocks_in_flight == 0
    }

    /// The part, or its beginning if it is larger than parts are by now.
    fn cut(&mut self, part: Part) -> Part {
        let Part::Blocks(blocks) = part else { return part };
        let middle = blocks.start.saturating_add(self.part_blocks).min(blocks.end);
        if middle < blocks.end {
            self.returned.push(Part::Blocks(middle..blocks.end));
        }
        Part::Blocks(blocks.start..middle)
    }

    fn adapt(&mut self, took: Duration) {
        let factor = (PART_DURATION.as_secs_f64() / took.as_secs_f64().max(0.001)).clamp(0.25, 4.0);
        self.part_blocks = ((f64::from(self.part_blocks) * factor) as u32).clamp(1, MOST_BLOCKS);
    }

    fn is_read(&self) -> bool {
        self.is_begun
            && self.in_flight == 0
            && self.returned.is_empty()
            && self.keys.is_empty()
            && self.rest.as_ref().is_some_and(Range::is_empty)
    }

    fn is_complete(&self, read: Lsn) -> bool {
        self.is_read() && self.snapshot_lsn <= read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
