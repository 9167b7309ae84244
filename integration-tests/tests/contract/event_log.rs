//! Event logs: inside the process, of Kafka, and simulated.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use integration_tests::kafka::Kafka;
use integration_tests::registry::Registry;
use integration_tests::simulation::progress::SimulatedProgress;
use integration_tests::simulation::topics::Topics;
use sooner::config::{Config, KafkaConfig};
use sooner::direct::DirectLog;
use sooner_api::{
    Applied, AppliedTable, Class, EventBatch, EventLog, EventReader, EventWriter, MemoryBudget, NoTelemetry, Opened,
    Positions, ProgressRecord, Standing, Step, TableProgress, TableState, WriterRequest,
};
use sooner_kafka::KafkaLog;
use sooner_kafka::producer::repartition_rules::RepartitionDesk;
use sooner_kafka::registry::client::Registry as RegistryClient;
use sooner_schemas::Lsn;

use super::rows::{Events, complete, mark, name, table};

/// The slot's first position, and the snapshot of the copy.
const START: u64 = 10;
/// The last event's commit LSN.
const END: u64 = 110;
/// Rows of the copy.
const COPIED: u64 = 7;

/// What was read.
#[derive(Default)]
struct Seen {
    copied: u64,
    copy_ended: bool,
    streamed: Vec<u64>,
    watermark: u64,
}

impl Seen {
    /// Steps come in order: a copy's rows between its start and its end; and a watermark says that every event at or
    /// below it has been delivered, and none above.
    fn take(&mut self, step: &Step) {
        match step {
            Step::CopyStart(_) => *self = Seen { watermark: self.watermark, ..Seen::default() },
            Step::Rows(rows) => {
                for event in &rows.events.events {
                    match event.position.commit_lsn.0 {
                        START => self.copied += 1,
                        lsn => self.streamed.push(lsn),
                    }
                }
            }
            Step::CopyEnd { watermark, .. } => {
                assert_eq!(self.copied, COPIED, "the end comes after all rows");
                assert_eq!(watermark.commit_lsn, Lsn(START));
                self.copy_ended = true;
            }
            Step::Complete(coverage) => {
                let watermark = coverage.watermark.commit_lsn.0;
                assert!(watermark >= self.watermark, "a watermark moved back");
                if coverage.applies_to(&name()) && !self.streamed.is_empty() {
                    assert_eq!(self.streamed.last().copied(), Some(watermark.max(START)));
                }
                self.watermark = watermark;
            }
            other => panic!("{other:?}"),
        }
    }

    fn assert_complete(&self) {
        assert!(self.copy_ended);
        assert_eq!(self.streamed, (START + 1..=END).collect::<Vec<_>>());
    }
}

/// An exit with what was taken from it, as a sink would use it.
struct Exit<R> {
    reader: R,
    taken: Option<Positions>,
    is_started: bool,
}

impl<R: EventReader> Exit<R> {
    fn new(reader: R) -> Exit<R> {
        Exit { reader, taken: None, is_started: false }
    }

    /// Starts to read what is assigned, if that is new.
    async fn settle(&mut self) {
        if std::mem::replace(&mut self.is_started, true) {
            return;
        }
        let assigned = self.reader.assigned().await.unwrap().expect("the log goes on");
        let opened = assigned.into_iter().map(|assigned| Opened {
            table: assigned.table,
            standing: if self.taken.is_some() { Standing::Follows } else { Standing::Absent },
            positions: self.taken.clone(),
            watermark: None,
            error: None,
            needs_copy: false,
            copy: None,
            copied: None,
        });
        self.reader.start(opened.collect()).await.unwrap();
    }

    fn take(&mut self, batch: Option<EventBatch>, seen: &mut Seen) {
        // What is read has changed hands.
        let Some(batch) = batch else { return self.is_started = false };
        for taken in batch.rows().filter_map(sooner_api::Rows::positions) {
            match &mut self.taken {
                Some(known) => known.advance(&taken),
                none => *none = Some(taken),
            }
        }
        batch.steps.iter().for_each(|step| seen.take(step));
    }

    /// Reads until everything is there, again and again for a moment each: no read that is cancelled loses anything.
    async fn read_all(&mut self) -> Seen {
        let (mut seen, mut cancelled) = (Seen::default(), 0);
        while seen.watermark < END {
            self.settle().await;
            tokio::select! {
                biased;
                batch = self.reader.next() => self.take(batch.unwrap(), &mut seen),
                () = tokio::time::sleep(Duration::from_millis(2)) => cancelled += 1,
            }
            tokio::task::yield_now().await;
        }
        assert!(cancelled > 0, "no read was cancelled");
        seen
    }
}

/// A reader, as soon as there is something to read.
async fn open_exit<L: EventLog>(log: &mut L) -> Exit<L::Reader> {
    loop {
        match log.open_reader().await {
            Ok(reader) => return Exit::new(reader),
            Err(error) => assert_eq!(error.class, Class::Retry, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn open_writer<L: EventLog>(log: &mut L, slot_exists: bool) -> L::Writer {
    let tables = [table()];
    log.open_writer(WriterRequest { tables: &tables, slot_exists, recopy: false }).await.unwrap()
}

fn record() -> ProgressRecord {
    let copying = TableProgress::new(TableState::Copying, Some(table().relation.oid));
    ProgressRecord {
        system_id: "7".into(),
        timeline: 1,
        slot: "slot".into(),
        tables: BTreeMap::from([(name(), copying)]),
        ..ProgressRecord::default()
    }
}

/// Copies the table and streams events, with pauses in which there is nothing to read.
async fn append_all<W: EventWriter>(writer: &mut W, events: &Events) {
    let starts = writer.begin(record()).await.unwrap();
    assert_eq!(starts.len(), 1);
    assert_eq!((&starts[0].table, &starts[0].state), (&name(), &TableState::Copying));
    writer.start_at(Lsn(START)).await.unwrap();
    let batch = |steps| EventBatch { steps, ..EventBatch::default() };
    writer.append(batch(vec![Step::CopyStart(events.copy_start(START))])).await.unwrap();
    for number in 0..COPIED {
        writer.append(batch(vec![Step::Rows(events.copied(START, number))])).await.unwrap();
    }
    let end = Step::CopyEnd { table: name(), watermark: mark(START) };
    writer.append(batch(vec![end, complete(START)])).await.unwrap();
    for lsn in START + 1..=END {
        writer.append(batch(vec![Step::Rows(events.inserted(lsn)), complete(lsn)])).await.unwrap();
        if lsn % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Everything comes once and in order; it becomes durable, stays so, and the next writer finds it.
async fn keeps_the_contract<L: EventLog>(open: impl Fn() -> L, events: &Events) {
    let mut log = open();
    let mut writer = open_writer(&mut log, false).await;
    assert_eq!(writer.stored(), None);
    let (mut writer, mut exit) = tokio::join!(
        async {
            append_all(&mut writer, events).await;
            writer
        },
        async {
            let mut exit = open_exit(&mut log).await;
            exit.read_all().await.assert_complete();
            exit
        }
    );
    let applied = |lsn| {
        let state = TableState::Streaming { copied_lsn: Some(Lsn(START)) };
        let tables = BTreeMap::from([(name(), AppliedTable { state, lake: None, note: None, copy: None })]);
        Applied { confirmed_lsn: Some(Lsn(lsn)), tables }
    };
    exit.reader.store(applied(END)).await.unwrap();
    while writer.durable_lsn() < Lsn(END) {
        writer.append(EventBatch::default()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    exit.reader.store(applied(START)).await.unwrap();
    assert_eq!(writer.durable_lsn(), Lsn(END), "it never moves back");
    writer.finish().await.unwrap();
    drop(exit);

    let mut log = open();
    let next = open_writer(&mut log, true).await;
    let stored = next.stored().expect("it was stored");
    assert_eq!((stored.confirmed_lsn, stored.slot.as_str()), (Lsn(END), "slot"));
    assert_eq!(stored.state(&name()), TableState::Streaming { copied_lsn: Some(Lsn(START)) });
}

/// Of two writers under one name, the first one fails.
async fn fences_the_former_writer<L: EventLog>(open: impl Fn() -> L, events: &Events) {
    let (mut first_log, mut second_log) = (open(), open());
    let mut first = open_writer(&mut first_log, false).await;
    first.begin(record()).await.unwrap();
    let mut second = open_writer(&mut second_log, false).await;
    second.begin(record()).await.unwrap();
    let steps = vec![Step::CopyStart(events.copy_start(START)), complete(START)];
    let appended = first.append(EventBatch { steps, ..EventBatch::default() }).await;
    let error = match appended {
        Ok(()) => first.finish().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.class, Class::Retry, "{error}");
}

/// Inside one process, each end hears of the other one's end.
#[tokio::test]
async fn either_end_of_the_direct_log_is_told() {
    let events = Events::local().await;
    let open = || DirectLog::new(SimulatedProgress::default(), "slot", MemoryBudget::new(1 << 20));
    for reader_ends in [false, true] {
        let mut log = open();
        let mut writer = open_writer(&mut log, false).await;
        let mut exit = open_exit(&mut log).await;
        let begin = async { writer.begin(record()).await.unwrap() };
        let start = async {
            let assigned = exit.reader.assigned().await.unwrap().unwrap();
            assert_eq!(assigned.len(), 1);
            exit.reader.start(Vec::new()).await.unwrap();
        };
        tokio::join!(begin, start);
        let batch = || EventBatch { steps: vec![Step::Rows(events.inserted(11))], ..EventBatch::default() };
        if reader_ends {
            drop(exit);
            assert!(writer.append(batch()).await.is_err());
        } else {
            writer.append(batch()).await.unwrap();
            drop(writer);
            assert!(exit.reader.next().await.unwrap().is_some());
            assert!(exit.reader.next().await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn the_direct_log_keeps_the_contract() {
    let progress = SimulatedProgress::default();
    let open = || DirectLog::new(progress.clone(), "slot", MemoryBudget::new(1 << 20));
    keeps_the_contract(open, &Events::local().await).await;
}

#[tokio::test(start_paused = true)]
async fn simulated_topics_keep_the_contract() {
    let events = Events::local().await;
    let topics = Topics::default();
    topics.give(&name(), 0);
    keeps_the_contract(|| topics.log(0), &events).await;
    let topics = Topics::default();
    fences_the_former_writer(|| topics.log(0), &events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_topics_keep_the_contract() {
    let (kafka, registry) = (Kafka::start(), Registry::start());
    for (number, delivery) in ["exactly-once", "at-least-once"].into_iter().enumerate() {
        let config = kafka_config(&kafka, &registry, &format!("c{number}"), delivery);
        let events =
            Events::registered(RegistryClient::new(config.registry.writable().unwrap().clone()).unwrap()).await;
        keeps_the_contract(|| kafka_log(&config), &events).await;
    }
    let config = kafka_config(&kafka, &registry, "f", "exactly-once");
    let events = Events::registered(RegistryClient::new(config.registry.writable().unwrap().clone()).unwrap()).await;
    fences_the_former_writer(|| kafka_log(&config), &events).await;
}

fn kafka_config(kafka: &Kafka, registry: &Registry, name: &str, delivery: &str) -> KafkaConfig {
    let text = format!(
        "name = '{name}'\n[lake]\nurl = '/unused'\n[kafka]\nbrokers = '{}'\npartitions = 3\ndelivery = '{delivery}'\n\
         [registry]\nurl = '{}'\n",
        kafka.brokers(),
        registry.url()
    );
    Config::parse(&text, Path::new(".")).unwrap().kafka.unwrap()
}

fn kafka_log(config: &KafkaConfig) -> KafkaLog<NoTelemetry> {
    KafkaLog {
        settings: config.settings.clone(),
        registry: config.registry.clone(),
        topics: config.topics.clone(),
        subjects: config.subjects,
        written_by: config.written_by,
        keeps_columns: true,
        budget: MemoryBudget::new(1 << 20),
        repartitions: RepartitionDesk::closed(),
        telemetry: NoTelemetry,
    }
}
