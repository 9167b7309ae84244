//! A table's events of a range, read from its topic again: committed messages in commit order, each event once, without
//! a group's offsets. A topic that took the place of another one has what that had, so it alone is read.
//!
//! A thread reads the partitions piece by piece, and holds no more than a piece of each; where to begin is found by the
//! positions in messages' headers, or by the times at which they were written.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use sooner_api::{Code, Error, Result, TableState};
use sooner_schemas::event::{EventSchema, TableEvents};
use sooner_schemas::{Lsn, Position, TableName};
use tokio::sync::mpsc;

use crate::cluster::admin::Admin;
use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;
use crate::message::events::append;
use crate::message::headers::FoundHeaders;
use crate::message::topic_message::TopicMessage;
use crate::producer::replay::ReplayMerge;
use crate::progress::load::load;
use crate::registry::plain::plain;
use crate::registry::reader::{RegistryKind, SchemaReader};
use crate::registry::schema_cache::SchemaCache;

/// Size of a piece of one partition, in bytes of keys and values.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait to be taken apart.
const QUEUE_PIECES: usize = 2;
/// How long messages may fail to come that are known to be there.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for what is not visible yet.
const PAUSE: Duration = Duration::from_millis(20);
/// How much earlier a message may have been written than the commit of its event, by other clocks.
const CLOCKS_MILLIS: i64 = 600_000;
/// Offsets among which the first one is not searched for any more.
const NEAR_OFFSETS: i64 = 256;

/// From where on a topic is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// From its first message.
    Beginning,
    /// After the events of transactions at or before this commit LSN.
    Lsn(Lsn),
    /// After those that were committed before this time, in milliseconds since 1970.
    Millis(i64),
}

/// A part of a table's topic.
#[derive(Clone, Debug)]
pub struct TopicRange {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// There are events at or before the start that are not read.
    pub knows_before: bool,
    /// Of some partitions, events at or before this position may be gone; none if nothing is.
    pub whole_after: Option<Position>,
    /// Everything before it is written, as long as the table is followed.
    pub end_lsn: Lsn,
    /// Commit time of the last transaction that is written, in microseconds since 1970.
    pub commit_micros: i64,
    /// Why the source does not write the table's events at the moment, if it does not.
    pub stopped: Option<String>,
    table: TableName,
    settings: KafkaSettings,
    offsets: Vec<Range<i64>>,
}

impl TopicRange {
    /// The part of a table's topic from somewhere to where its source has written it. An operator error if the source
    /// has not written the table, or the topic does not keep each event.
    pub async fn open(settings: &KafkaSettings, table: &TableName, from: ReadFrom) -> Result<TopicRange> {
        let (asked, name) = (settings.clone(), table.clone());
        let opening = tokio::task::spawn_blocking(move || open(asked, name, from));
        let (range, partitions) = opening.await.map_err(|panic| Error::internal("cannot read a topic", panic))??;
        let state = Admin::new(settings)?.describe(&range.topic, partitions).await?;
        match state.is_compacted() {
            true => Err(refused(
                &range.topic,
                "it is compacted, which removes all events of a key but the last",
                "replay from the table's history (--source history), or set cleanup.policy of the topic to delete",
            )),
            false => Ok(range),
        }
    }

    /// Hands events to `each` in commit order, each once, until it says that it has enough.
    pub async fn read(
        &self,
        registry: &RegistryKind,
        mut each: impl AsyncFnMut(&TableEvents) -> Result<bool>,
    ) -> Result<()> {
        let (sender, mut pieces) = mpsc::channel(QUEUE_PIECES);
        let range = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_pieces(&range, &sender) {
                // Whoever has enough does not listen any more.
                let _ = sender.blocking_send(Err(error));
            }
        });
        let mut schemas = SchemaCache::new(SchemaReader::new(registry)?);
        let mut last = None;
        while let Some(piece) = pieces.recv().await {
            let mut events: Option<TableEvents> = None;
            for message in piece? {
                let Some(schema) = schemas.find(&self.table, &message).await? else { continue };
                let position = message.position().ok_or_else(|| self.unplaced(&message))?;
                if last.is_some_and(|last| position <= last) {
                    continue;
                }
                last = Some(position);
                if let Some(former) = events.take_if(|events| !Arc::ptr_eq(&events.schema, &schema))
                    && !each(&former).await?
                {
                    return Ok(());
                }
                add(&mut events, schema, &message)?;
            }
            if let Some(events) = events
                && !each(&events).await?
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn unplaced(&self, message: &TopicMessage) -> Error {
        let why = format!("the message at {} does not say where in the log its event is", message.place());
        refused(&self.topic, &why, "replay from the table's history: --source history")
    }
}

fn add(events: &mut Option<TableEvents>, schema: Arc<EventSchema>, message: &TopicMessage) -> Result<()> {
    let message = plain(message)?;
    append(events.get_or_insert_with(|| TableEvents::new(schema)), &message, 0)
}

fn open(settings: KafkaSettings, table: TableName, from: ReadFrom) -> Result<(TopicRange, i32)> {
    let unwritten = || {
        let why = format!("the source has not written a topic of {table}, as far as {} says", settings.topics.progress);
        Error::operator(
            Code::ProgressMissing,
            format!("cannot read the topic of {table}"),
            why,
            "see `sooner status` for the tables; topics of other writers cannot be replayed",
        )
    };
    let record = load(&settings)?.ok_or_else(unwritten)?;
    let written = record.topics.get(&table).ok_or_else(unwritten)?;
    let topic = written.topic.clone();
    let partitions = Admin::new(&settings)?.list()?.get(&topic).copied();
    let partitions = partitions.ok_or_else(|| {
        Error::operator(Code::TopicMissing, format!("cannot read the topic {topic}"), "it does not exist", "restore it")
    })?;
    let is_partial = record.lineages.get(&table).is_some_and(|lineage| lineage.is_partial);
    let known = record.record.tables.get(&table).map(|table| &table.state);
    let stopped = match known {
        Some(TableState::Parked { error, .. }) => Some(error.to_string()),
        Some(TableState::Gone) | None => Some("it takes no part any more".to_owned()),
        Some(_) => None,
    };
    let mut range = TopicRange {
        topic: topic.into(),
        knows_before: false,
        whole_after: None,
        end_lsn: record.record.confirmed_lsn.max(record.commit_lsn),
        commit_micros: record.commit_micros,
        stopped,
        table,
        offsets: Vec::new(),
        settings,
    };
    let reader = RangeReader::open(&range.settings, Isolation::Committed)?;
    let since = match from {
        ReadFrom::Millis(millis) => {
            reader.offsets_since(&range.topic, partitions, millis.saturating_sub(CLOCKS_MILLIS))?
        }
        _ => Vec::new(),
    };
    for (partition, end) in (0..partitions).zip(written.next_offsets.iter().copied()) {
        let (first, _) = reader.bounds(&range.topic, partition)?;
        let begin = written.first_offset(partition);
        let low = first.max(begin);
        let start = match from {
            ReadFrom::Beginning => low,
            ReadFrom::Lsn(lsn) => first_after(&reader, &range.topic, partition, low..end, lsn)?,
            ReadFrom::Millis(_) => since.get(partition as usize).copied().flatten().unwrap_or(end).clamp(low, end),
        };
        range.knows_before |= start > low;
        if start == low && (first > begin || is_partial) {
            let head = position_at(&reader, &range.topic, partition, low..end)?;
            // Where nothing is left nobody knows what is gone.
            let head = head.map_or(Position { commit_lsn: Lsn(u64::MAX), ordinal: 0 }, |(_, head)| head);
            range.whole_after = range.whole_after.max(Some(head));
        }
        range.offsets.push(start..end.max(start));
    }
    Ok((range, partitions))
}

/// An offset before which no event is wanted: those of a partition are in commit order.
fn first_after(reader: &RangeReader, topic: &str, partition: i32, offsets: Range<i64>, lsn: Lsn) -> Result<i64> {
    let (mut low, mut high) = (offsets.start, offsets.end);
    while high - low > NEAR_OFFSETS {
        let middle = low + (high - low) / 2;
        match position_at(reader, topic, partition, middle..high)? {
            Some((offset, position)) if position.commit_lsn <= lsn => low = offset,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The first message of some offsets that says its position, with its offset.
fn position_at(
    reader: &RangeReader,
    topic: &str,
    partition: i32,
    offsets: Range<i64>,
) -> Result<Option<(i64, Position)>> {
    let mut found = None;
    reader.read(topic, partition, offsets, |message| {
        found = FoundHeaders::read(message.headers()).position.map(|position| (message.offset(), position));
        Ok(if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(found)
}

/// Reads the partitions to their ends, and sends what comes next in commit order.
fn read_pieces(range: &TopicRange, sender: &mpsc::Sender<Result<Vec<TopicMessage>>>) -> Result<()> {
    let reader = RangeReader::open(&range.settings, Isolation::Committed)?;
    let starts: Vec<i64> = range.offsets.iter().map(|offsets| offsets.start).collect();
    let ends: Vec<i64> = range.offsets.iter().map(|offsets| offsets.end).collect();
    let (mut merge, mut heard) = (ReplayMerge::new(&starts), Instant::now());
    loop {
        for partition in 0..ends.len() {
            fill(range, &reader, &mut merge, partition)?;
        }
        let piece: Vec<_> = std::iter::from_fn(|| merge.next(&ends)).map(|(message, _)| message).collect();
        let is_read = |partition: usize| merge.fetched(partition) >= ends[partition] && merge.is_empty(partition);
        if !piece.is_empty() {
            heard = Instant::now();
            if sender.blocking_send(Ok(piece)).is_err() {
                return Ok(());
            }
        } else if (0..ends.len()).all(is_read) {
            return Ok(());
        } else if heard.elapsed() > PATIENCE {
            let what = format!("cannot read the topic {}", range.topic);
            let why = "messages that its source has written do not come";
            return Err(Error::operator(Code::TransactionHanging, what, why, "begin again; see `sooner check`"));
        } else {
            thread::sleep(PAUSE);
        }
    }
}

/// Reads a piece of a partition of which nothing waits.
fn fill(
    range: &TopicRange,
    reader: &RangeReader,
    merge: &mut ReplayMerge<TopicMessage>,
    partition: usize,
) -> Result<()> {
    let (from, end) = (merge.fetched(partition), range.offsets[partition].end);
    if from >= end || !merge.is_empty(partition) {
        return Ok(());
    }
    let number = partition as i32;
    if reader.bounds(&range.topic, number)?.0 > from {
        return Err(expired(&range.topic));
    }
    let mut bytes = 0;
    let reached = reader.read(&range.topic, number, from..end, |message| {
        let copied = copied(&range.topic, message);
        bytes += copied.size_bytes();
        merge.push(partition, copied.offset, copied.position(), copied.key().is_none(), copied);
        Ok(if bytes >= PIECE_BYTES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if reached && bytes < PIECE_BYTES {
        // What stands between the last message and the end is no message.
        merge.reach(partition, end);
    }
    Ok(())
}

fn copied(topic: &Arc<str>, message: &BorrowedMessage<'_>) -> TopicMessage {
    let mut bytes = Vec::new();
    let mut append = |part: &[u8]| {
        bytes.extend_from_slice(part);
        bytes.len() - part.len()..bytes.len()
    };
    let (key, value) = (message.key().map(&mut append), message.payload().map(&mut append));
    let place = (topic.clone(), message.partition(), message.offset());
    let written = message.timestamp().to_millis().map(|millis| millis.saturating_mul(1000));
    TopicMessage::new(place, written, FoundHeaders::read(message.headers()), Arc::new(bytes), key, value)
}

/// The error of a topic from which retention has removed events that are wanted.
pub fn expired(topic: &str) -> Error {
    Error::operator(
        Code::EventsExpired,
        format!("cannot read all events of the range from the topic {topic}"),
        "its retention has removed messages that may belong to it",
        "choose a later --from, or replay from the table's history (--source history)",
    )
}

fn refused(topic: &str, why: &str, remedy: &str) -> Error {
    Error::operator(Code::ReplayImpossible, format!("cannot replay events of the topic {topic}"), why, remedy)
}
