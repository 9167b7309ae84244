//! What a source repairs on the topics before it writes: brokers can lose the end of a transaction (see
//! [`partition_ends`](super::partition_ends)).
//!
//! A predecessor's last record counts, whatever became of its transaction: all that it covers was written before it.
//! What of that nobody sees is written again, together with the next record, so each event is seen once, and in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::settings::KafkaSettings;
use crate::cluster::topic_partition::TopicPartition;
use crate::producer::partition_ends::{OwnedMessage, PartitionEnds};
use crate::producer::route::TopicRoute;
use crate::producer::transaction_writer::TransactionWriter;
use crate::progress::load::{load, load_written};
use crate::progress::record::TopicProgress;
use sooner_api::{Code, Error, Result};

/// How long the end of a transaction may take to reach all its partitions.
const END_LIMIT: Duration = Duration::from_secs(15);
/// How often a running source looks whether a transaction of its own hangs.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(15);

/// Partitions in which something cannot be seen, each with its stable end.
type Behind = BTreeMap<TopicPartition, i64>;

/// Ends transactions that hang. The producer has fenced its predecessors, so nothing else is open.
pub async fn end_open_transactions(
    ends: &PartitionEnds,
    producer: &mut TransactionWriter,
    partitions: &[TopicPartition],
) -> Result<()> {
    let mut open = find_open(ends, partitions)?;
    if open.is_empty() {
        return Ok(());
    }
    tracing::warn!(partitions = ?open, "transactions of a former source hang, and are aborted; what was committed is written again");
    producer.end_open(&open)?;
    let asked = Instant::now();
    while asked.elapsed() < END_LIMIT {
        open = find_open(ends, &open)?;
        if open.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (topic, partition) = &open[0];
    Err(Error::retry(
        Code::TransactionOpen,
        format!("cannot write to {topic}/{partition}"),
        "a transaction of another producer is open there, or its end does not arrive",
        "kafka-transactions.sh find-hanging tells whose it is; it is inspected again",
    ))
}

fn find_open(ends: &PartitionEnds, partitions: &[TopicPartition]) -> Result<Vec<TopicPartition>> {
    let mut open = Vec::new();
    for (topic, partition) in partitions {
        if ends.is_open(topic, *partition)? {
            open.push((topic.clone(), *partition));
        }
    }
    Ok(open)
}

/// What is to be written again. Afterwards the record counts what is seen.
pub fn take_lost<'a>(
    ends: &PartitionEnds,
    progress: &mut TopicProgress,
    routes: impl Iterator<Item = &'a TopicRoute>,
) -> Result<Vec<OwnedMessage>> {
    let mut again = Vec::new();
    for route in routes {
        let lost = ends.take_lost(progress, &route.table, route.is_compacted)?;
        if !lost.is_empty() {
            tracing::info!(table = %route.table, messages = lost.len(), "what was lost with a transaction is written again");
        }
        again.extend(lost);
    }
    Ok(again)
}

/// Returns only when a committed transaction of this source hangs: then the source has to start over, which repairs it.
pub async fn watch_for_hanging(settings: KafkaSettings, written: impl Fn() -> TopicProgress) -> Error {
    if settings.producer.transactional_id.is_none() {
        return std::future::pending().await;
    }
    let ends = match PartitionEnds::open(&settings) {
        Ok(ends) => Arc::new(ends),
        Err(error) => return error,
    };
    let mut former = Behind::new();
    loop {
        tokio::time::sleep(INSPECTION_INTERVAL).await;
        let (ends, topic, progress) = (ends.clone(), settings.topics.progress.clone(), written());
        let (sender, found) = tokio::sync::oneshot::channel();
        // A thread that nobody waits for when the process ends.
        std::thread::spawn(move || sender.send(find_behind(&ends, &topic, &progress)));
        let behind = found.await.unwrap_or_default();
        if let Some(((topic, partition), _)) =
            behind.iter().find(|(partition, end)| former.get(*partition) == Some(*end))
        {
            return Error::retry(
                Code::TransactionHanging,
                format!("what was committed to {topic}/{partition} cannot be seen"),
                "the broker has lost the end of a transaction there",
                "nothing; the source starts over and ends it",
            );
        }
        former = behind;
    }
}

/// Partitions whose committed events are not all to be seen, each with its stable end. One that cannot be asked is left
/// out.
fn find_behind(ends: &PartitionEnds, progress_topic: &str, progress: &TopicProgress) -> Behind {
    let events = progress.topics.values().flat_map(|offsets| {
        let numbered = (0..).zip(&offsets.next_offsets);
        numbered.map(|(partition, next)| ((offsets.topic.clone(), partition), Some(*next)))
    });
    let records = ((progress_topic.to_owned(), 0), None);
    let mut behind = Behind::new();
    for (named, next) in events.chain([records]) {
        let (topic, partition) = &named;
        let asked = ends.stable_end(topic, *partition).and_then(|end| {
            let is_behind = match next {
                Some(next) => end < next,
                None => ends.is_open(topic, *partition)?,
            };
            Ok(is_behind.then_some(end))
        });
        if let Ok(Some(end)) = asked {
            behind.insert(named, end);
        }
    }
    behind
}

/// The last record of this source's predecessors.
pub fn last_record(settings: &KafkaSettings) -> Result<Option<TopicProgress>> {
    match settings.producer.transactional_id {
        Some(_) => load_written(settings),
        None => load(settings),
    }
}

/// Partitions of topics that are to take the place of others.
pub fn partitions_of_successors(record: &TopicProgress) -> Vec<TopicPartition> {
    let successors = record.lineages.values().filter_map(|lineage| lineage.successor.as_ref());
    let partitions = successors.flat_map(|successor| {
        let numbers = 0..successor.next_offsets.len() as i32;
        numbers.map(|partition| (successor.topic.clone(), partition))
    });
    partitions.collect()
}

/// The last record, in which what was written to successors of topics counts only as far as it was committed; a
/// successor that lacks some of that is begun again.
pub fn last_with_successors(settings: &KafkaSettings, ends: Option<&PartitionEnds>) -> Result<Option<TopicProgress>> {
    let (last, Some(ends)) = (last_record(settings)?, ends) else { return load(settings) };
    let Some(mut last) = last else { return Ok(None) };
    if last.lineages.is_empty() {
        return Ok(Some(last));
    }
    last.keep_committed_successors(load(settings)?.as_ref());
    for (table, lineage) in &mut last.lineages {
        let Some(successor) = &mut lineage.successor else { continue };
        for (partition, next) in (0..).zip(&successor.next_offsets) {
            if !ends.ends_at(&successor.topic, partition, *next)? {
                tracing::warn!(%table, topic = successor.topic, partition, "brokers lost the end of a transaction; the new topic is begun again");
                successor.is_lost = true;
            }
        }
    }
    Ok(Some(last))
}
