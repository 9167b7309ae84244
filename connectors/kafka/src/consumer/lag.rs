//! Lag: how many messages of each partition have not been read yet, and where the group stands for outside tools.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::Statistics;
use sooner_api::{Fact, PartitionOffsets, Side, Telemetry};
use sooner_schemas::TableName;

use super::standby::Standby;
use crate::cluster::throttle::Throttle;
use crate::cluster::topic_partition::{Offsets, TopicPartition};
use crate::message::topic_message::TopicMessage;

/// How often it is reported how much is unread.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Reports the messages that went to the dead letters since it was called last.
pub(crate) type LetterReport = Arc<dyn Fn() + Send + Sync>;

/// Offsets of the partitions that are read, shared by the reader, the consumer's statistics, and whoever shows the
/// lag.
#[derive(Clone, Debug, Default)]
pub struct LagGauge(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    partitions: HashMap<TopicPartition, PartitionOffsets>,
    /// Tables of the topics that are read.
    tables: HashMap<String, TableName>,
    /// What was committed to the group in this process.
    committed: HashMap<TopicPartition, GroupOffset>,
    /// Offsets after the last messages that were polled.
    polled: Offsets,
    /// Up to where partitions were fetched of which nothing waited to be polled, since that was last looked at.
    fetched: Offsets,
    reading_micros: Option<i64>,
    throttle: Throttle,
    standby: Standby,
}

/// What the group has of a partition. The end of a transaction takes an offset, too, and tools that subtract offsets
/// would call it unread for ever: where no message follows, the offset after it is committed.
#[derive(Debug)]
struct GroupOffset {
    /// The offset after the last message that is durable in the lake.
    next_offset: i64,
    /// The offset after that message, and after the ends of transactions that follow it.
    committed: i64,
}

impl LagGauge {
    /// Where each partition that is read stands, by table.
    pub fn by_table(&self) -> BTreeMap<TableName, BTreeMap<i32, PartitionOffsets>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables: BTreeMap<TableName, BTreeMap<i32, PartitionOffsets>> = BTreeMap::new();
        for ((topic, partition), offsets) in &known.partitions {
            let Some(table) = known.tables.get(topic) else { continue };
            tables.entry(table.clone()).or_default().insert(*partition, *offsets);
        }
        tables
    }

    /// Time of the events that are being read, in microseconds since 1970; none where all has been read that their
    /// writer has reported.
    pub fn reading_micros(&self) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reading_micros
    }

    /// Sets the time of the events that are read from now on. A time of zero or less counts as none.
    pub(crate) fn reading(&self, micros: Option<i64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reading_micros = micros.filter(|micros| *micros > 0);
    }

    /// Starts measuring: exactly these partitions are read from now on, from these offsets, of topics of these tables.
    /// A table's name cannot be told from its topic's, which may lack some of its characters.
    pub(crate) fn start(&self, positions: &Offsets, tables: HashMap<String, TableName>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.tables = tables;
        known.partitions.retain(|place, _| positions.contains_key(place));
        // What was polled and is read again stays noted: statistics may be older than this.
        known.fetched.clear();
        drop(known);
        self.read_to(positions);
    }

    /// Notes that partitions have been read up to these offsets.
    pub(crate) fn read_to(&self, positions: &Offsets) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, offset) in positions {
            known.partitions.entry(place.clone()).or_default().next_offset = *offset;
        }
    }

    /// What to commit to the group where messages are durable up to these offsets.
    pub(crate) fn commit(&self, durable: Offsets) -> Offsets {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let to_commit = |(place, next_offset): (TopicPartition, i64)| {
            let former = known.committed.get(&place).filter(|former| former.next_offset == next_offset);
            let committed = former.map_or(next_offset, |former| former.committed);
            known.committed.insert(place.clone(), GroupOffset { next_offset, committed });
            (place, committed)
        };
        durable.into_iter().map(to_commit).collect()
    }

    /// Notes that messages were polled up to these offsets.
    pub(crate) fn polled(&self, messages: &[TopicMessage]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            let place = (message.topic.to_string(), message.partition);
            known.polled.insert(place, message.offset + 1);
        }
    }

    /// Offsets to commit in place of those that were, once each. What was polled before has to be noted.
    pub(crate) fn take_ends(&self) -> Offsets {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { partitions, committed, polled, fetched, .. } = &mut *known;
        let mut ends = Offsets::new();
        for (place, until) in fetched.drain() {
            // All messages that were polled have been handed on, and are durable.
            if let (Some(read), Some(group)) = (partitions.get(&place), committed.get_mut(&place))
                && group.next_offset == read.next_offset
                && polled.get(&place).is_none_or(|polled| *polled <= read.next_offset)
                && until > group.committed
            {
                group.committed = until;
                ends.insert(place, until);
            }
        }
        ends
    }

    /// How long brokers made the consumer wait, because of a quota; none if they told nothing since the last call.
    pub(crate) fn throttled(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).throttle.take()
    }

    /// Whether the member has joined the group, and was given no partitions.
    pub(crate) fn is_standby(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).standby.waits()
    }

    /// Takes the last stable offsets from librdkafka's statistics, and what was fetched. A negative offset means that
    /// it is not known.
    pub(crate) fn hear(&self, statistics: &Statistics) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.throttle.hear(statistics);
        known.standby.hear(statistics);
        let Known { partitions, fetched, .. } = &mut *known;
        for (place, offsets) in partitions {
            let (topic, partition) = place;
            let told = statistics.topics.get(topic).and_then(|topic| topic.partitions.get(partition));
            let Some(told) = told else { continue };
            offsets.end_offset = Some(told.ls_offset).filter(|end| *end >= 0).or(offsets.end_offset);
            if told.fetchq_cnt == 0 {
                fetched.insert(place.clone(), told.next_offset);
            }
        }
    }
}

/// Reports again and again how many messages of each table have not been read.
pub(crate) async fn report_lag<T: Telemetry>(
    telemetry: T,
    lag: LagGauge,
    letters: LetterReport,
    in_transactions: bool,
) {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        letters();
        telemetry.record(Fact::Standby(lag.is_standby()));
        if let Some(wait) = lag.throttled() {
            telemetry.record(Fact::Throttled(Side::Sink, wait));
        }
        for (table, partitions) in lag.by_table() {
            let messages = partitions.values().map(|offsets| offsets.unread(in_transactions)).sum();
            let reading_micros = lag.reading_micros().filter(|_| messages > 0);
            telemetry.record(Fact::Unread { table: &table, messages, reading_micros, partitions });
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::{Partition, Topic};

    use super::*;
    use crate::message::headers::FoundHeaders;

    fn place() -> TopicPartition {
        ("t".to_owned(), 0)
    }

    fn at(offset: i64) -> Offsets {
        Offsets::from([(place(), offset)])
    }

    fn fetched(next_offset: i64, fetchq_cnt: i64) -> Statistics {
        let partition = Partition { next_offset, fetchq_cnt, ..Partition::default() };
        let topic = Topic { partitions: HashMap::from([(0, partition)]), ..Topic::default() };
        Statistics { topics: HashMap::from([("t".to_owned(), topic)]), ..Statistics::default() }
    }

    fn message(offset: i64) -> TopicMessage {
        TopicMessage::new(("t".into(), 0, offset), None, FoundHeaders::default(), Arc::new(Vec::new()), None, None)
    }

    #[test]
    fn the_group_stands_after_the_end_of_a_transaction_once_all_messages_before_it_are_durable() {
        let gauge = LagGauge::default();
        gauge.start(&at(0), HashMap::new());
        gauge.polled(&[message(4)]);
        gauge.read_to(&at(5));
        gauge.hear(&fetched(6, 0));
        assert_eq!(gauge.take_ends(), Offsets::new(), "nothing is durable");
        assert_eq!(gauge.commit(at(5)), at(5));
        gauge.hear(&fetched(6, 1));
        assert_eq!(gauge.take_ends(), Offsets::new(), "a message waits");
        gauge.hear(&fetched(6, 0));
        assert_eq!(gauge.take_ends(), at(6));
        gauge.hear(&fetched(6, 0));
        assert_eq!((gauge.take_ends(), gauge.commit(at(5))), (Offsets::new(), at(6)), "it never moves back");
        gauge.hear(&fetched(9, 0));
        gauge.polled(&[message(7)]);
        assert_eq!(gauge.take_ends(), Offsets::new(), "a message was polled, and not handed on");
        gauge.read_to(&at(9));
        assert_eq!(gauge.commit(at(9)), at(9));
    }
}
