//! What a source mends on the topics before it writes: brokers can lose the end of a transaction (see [`sooner_kafka::tails`]).
//!
//! A predecessor's last record counts, whatever became of its transaction: all that it covers was written before it. What of
//! that nobody sees is written again, together with the next record, so each event is seen once, and in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sooner_api::{Error, Result, TablePhase};
use sooner_kafka::producer::EventProducer;
use sooner_kafka::progress::{self, TopicProgress};
use sooner_kafka::settings::KafkaSettings;
use sooner_kafka::tails::{Lack, OwnedMessage, Tails};
use sooner_kafka::writer::WriterProgress;

/// How long the end of a transaction may take to reach all its partitions.
const END_LIMIT: Duration = Duration::from_secs(15);
/// How often a running source looks whether a transaction of its own hangs.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// A partition: topic and number.
type Place = (String, i32);

/// Ends transactions that hang. The producer has fenced its predecessors, so nothing else is open.
pub async fn end_open_transactions(tails: &Tails, producer: &mut EventProducer, places: &[Place]) -> Result<()> {
    let mut open = find_open(tails, places)?;
    if open.is_empty() {
        return Ok(());
    }
    tracing::warn!(partitions = ?open, "transactions of a former source hang, and are aborted; what was committed is written again");
    producer.end_open(&open)?;
    let asked = Instant::now();
    while asked.elapsed() < END_LIMIT {
        open = find_open(tails, &open)?;
        if open.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (topic, partition) = &open[0];
    Err(Error::retry(
        format!("cannot write to {topic}/{partition}"),
        "a transaction of another producer is open there, or its end does not arrive",
        "kafka-transactions.sh find-hanging tells whose it is; it is looked at again",
    ))
}

fn find_open(tails: &Tails, places: &[Place]) -> Result<Vec<Place>> {
    let mut open = Vec::new();
    for (topic, partition) in places {
        if tails.is_open(topic, *partition)? {
            open.push((topic.clone(), *partition));
        }
    }
    Ok(open)
}

/// What is to be written again. A table that lacks rows of its copy is to be copied anew.
pub fn find_lack(tails: &Tails, progress: &mut TopicProgress) -> Result<Vec<OwnedMessage>> {
    let names: Vec<_> = progress.record.tables.keys().cloned().collect();
    let mut again = Vec::new();
    for name in names {
        match tails.lack(progress, &name)? {
            Lack::Messages(messages) if messages.is_empty() => {}
            Lack::Messages(messages) => {
                tracing::info!(table = name, events = messages.len(), "events of a lost transaction are written again");
                again.extend(messages);
            }
            Lack::Copy => {
                tracing::warn!(table = name, "rows of its copy were lost with a transaction; it is copied anew");
                if let Some(table) = progress.record.tables.get_mut(&name) {
                    table.phase = TablePhase::Copying;
                    table.copied_lsn = None;
                }
            }
        }
    }
    Ok(again)
}

/// Returns only when a committed transaction of this source hangs: then the source has to start over, which mends it.
pub async fn watch_for_hanging(settings: KafkaSettings, progress: WriterProgress) -> Error {
    if settings.producer.transactional_id.is_none() {
        return std::future::pending().await;
    }
    let tails = match Tails::open(&settings) {
        Ok(tails) => Arc::new(tails),
        Err(error) => return error,
    };
    let mut former = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let (tails, topic, written) = (tails.clone(), settings.topics.progress.clone(), progress.read());
        let (sender, looked) = tokio::sync::oneshot::channel();
        // A thread that nobody waits for when the process ends.
        std::thread::spawn(move || sender.send(find_behind(&tails, topic, &written)));
        let Ok(Ok(behind)) = looked.await else {
            // Brokers that are away are the writer's to tell.
            continue;
        };
        if let Some(((topic, partition), _)) = behind.iter().find(|(place, end)| former.get(*place) == Some(*end)) {
            return Error::retry(
                format!("what was committed to {topic}/{partition} cannot be seen"),
                "the broker has lost the end of a transaction there",
                "nothing; the source starts over and ends it",
            );
        }
        former = behind;
    }
}

/// Partitions whose committed events are not all to be seen, each with its stable end.
fn find_behind(tails: &Tails, progress_topic: String, progress: &TopicProgress) -> Result<BTreeMap<Place, i64>> {
    let mut behind = BTreeMap::new();
    for offsets in progress.topics.values() {
        for (partition, next) in (0..).zip(&offsets.next_offsets) {
            let end = tails.stable_end(&offsets.topic, partition)?;
            if end < *next {
                behind.insert((offsets.topic.clone(), partition), end);
            }
        }
    }
    if tails.is_open(&progress_topic, 0)? {
        let end = tails.stable_end(&progress_topic, 0)?;
        behind.insert((progress_topic, 0), end);
    }
    Ok(behind)
}

/// The last record of this source's predecessors.
pub fn last_record(settings: &KafkaSettings) -> Result<Option<TopicProgress>> {
    match settings.producer.transactional_id {
        Some(_) => progress::load_written(settings),
        None => progress::load(settings),
    }
}
