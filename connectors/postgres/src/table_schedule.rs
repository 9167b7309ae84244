//! What is left of one table's copy. Without I/O.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use sooner_api::CopyRest;
use sooner_schemas::Lsn;
use tokio::time::Instant;

/// Blocks of a table's first part, at most.
pub const FIRST_BLOCKS: u32 = 1024;
/// Blocks of a part at most.
const MOST_BLOCKS: u32 = 1 << 17;
/// How long reading a part should take: its transaction is as long.
pub const PART_DURATION: Duration = Duration::from_millis(700);
/// Rows that are read by their keys at once.
const KEYS_AT_ONCE: usize = 500;
/// Rows that are still to be read by their keys, at most, for a copy to go on after a break.
const KEYS_REMEMBERED: usize = 5_000;
/// How long a table rests after a part of it could not be read.
pub const REST: Duration = Duration::from_millis(500);

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

/// What is left of one table's copy.
#[derive(Debug)]
pub struct TableSchedule {
    /// Which of the table's copies it is.
    pub round: u32,
    /// A part of it has been given out.
    pub is_begun: bool,
    /// The stream has to get somewhere first.
    pub is_held: bool,
    /// Blocks that nobody has been given yet; none before it is known how many there are.
    pub rest: Option<Range<u32>>,
    /// Parts that could not be read.
    pub returned: Vec<Part>,
    /// Rows of which the stream has sent a part only.
    pub keys: BTreeSet<KeyTexts>,
    /// Those of them that are being read.
    pub reading: BTreeSet<KeyTexts>,
    /// Parts that are on their way.
    pub in_flight: usize,
    /// Of those, parts by blocks.
    pub blocks_in_flight: Vec<Range<u32>>,
    /// Blocks of the next part.
    pub part_blocks: u32,
    /// Nothing is read before this.
    pub rests_until: Option<Instant>,
    /// What has been read is complete, at the earliest, once the stream has got here.
    pub snapshot_lsn: Lsn,
}

impl TableSchedule {
    /// What is left of a copy that begins.
    pub fn new(round: u32, first_blocks: u32) -> TableSchedule {
        TableSchedule {
            round,
            is_begun: false,
            is_held: false,
            rest: None,
            returned: Vec::new(),
            keys: BTreeSet::new(),
            reading: BTreeSet::new(),
            in_flight: 0,
            blocks_in_flight: Vec::new(),
            part_blocks: first_blocks,
            rests_until: None,
            snapshot_lsn: Lsn::ZERO,
        }
    }

    /// Only a rest is to be read, once it is released.
    pub fn resume(&mut self, rest: &CopyRest) {
        (self.is_begun, self.is_held) = (true, true);
        self.rest = Some(0..0);
        self.returned = rest.blocks.iter().rev().cloned().map(Part::Blocks).collect();
        self.keys.extend(rest.keys.iter().cloned());
        self.snapshot_lsn = rest.snapshot_lsn;
    }

    /// What has not been handed on; none while that cannot be told.
    pub fn rest_of(&self, file_node: u32) -> Option<CopyRest> {
        let returned = self.returned.iter().filter_map(|part| match part {
            Part::Blocks(blocks) => Some(blocks.clone()),
            _ => None,
        });
        let rest = self.rest.clone()?;
        let blocks = returned.chain(self.blocks_in_flight.iter().cloned()).chain([rest]);
        let keys: Vec<_> = self.keys.union(&self.reading).cloned().collect();
        (keys.len() <= KEYS_REMEMBERED).then(|| CopyRest {
            file_node,
            blocks: blocks.filter(|blocks| !blocks.is_empty()).collect(),
            keys,
            snapshot_lsn: self.snapshot_lsn,
            run: String::new(),
        })
    }

    /// Whether something is left that may be read at a moment.
    pub fn has_work(&self, now: Instant) -> bool {
        let is_left = !self.is_begun
            || !self.returned.is_empty()
            || !self.keys.is_empty()
            || self.rest.as_ref().is_some_and(|rest| !rest.is_empty());
        is_left && !self.is_held && self.rests_until.is_none_or(|until| until <= now)
    }

    /// What is read next; none if nothing is at the moment.
    pub fn next_part(&mut self) -> Option<Part> {
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
    pub fn land(&mut self, part: &Part) {
        self.in_flight -= 1;
        match part {
            Part::Keys(keys) => self.reading.retain(|key| !keys.contains(key)),
            Part::Blocks(blocks) => self.blocks_in_flight.retain(|flying| flying != blocks),
            Part::First(_) => {}
        }
    }

    /// Whether all blocks have been read.
    pub fn has_all_blocks(&self) -> bool {
        let rest_is_empty = self.rest.as_ref().is_some_and(|rest| rest.start >= rest.end);
        rest_is_empty && self.returned.is_empty() && self.blocks_in_flight.is_empty()
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

    /// Sizes of further parts follow how long one took.
    pub fn adapt(&mut self, took: Duration) {
        let factor = (PART_DURATION.as_secs_f64() / took.as_secs_f64().max(0.001)).clamp(0.25, 4.0);
        self.part_blocks = ((f64::from(self.part_blocks) * factor) as u32).clamp(1, MOST_BLOCKS);
    }

    /// Whether nothing is left to read.
    pub fn is_read(&self) -> bool {
        self.is_begun
            && !self.is_held
            && self.in_flight == 0
            && self.returned.is_empty()
            && self.keys.is_empty()
            && self.rest.as_ref().is_some_and(Range::is_empty)
    }

    /// Whether nothing is left, and the stream, which has got to `read`, has all of it.
    pub fn is_complete(&self, read: Lsn) -> bool {
        self.is_read() && self.snapshot_lsn <= read
    }
}
