//! Sources: a real database's, and a simulated one's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration_tests::load::{self, Load};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::simulation::database::SimulatedDatabase;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sooner::direct::LocalSchemas;
use sooner_api::{
    Database, FollowedTable, MemoryBudget, Positions, Source, SourcePlan, SourceTable, Step, TableToCopy,
};
use sooner_postgres::encoders::EncoderFactory;
use sooner_postgres::guard::SlotLimit;
use sooner_postgres::inspection::TableFilter;
use sooner_postgres::memory::ReadLimits;
use sooner_postgres::{ConnectOptions, DatabaseSettings, PostgresDatabase};
use sooner_schemas::event::Op;
use sooner_schemas::{Lsn, Position, TableName};
use tokio::runtime::Handle;
use tokio::sync::mpsc::unbounded_channel;

/// What was read of a database's tables.
#[derive(Default)]
struct Seen {
    tables: BTreeMap<TableName, SeenTable>,
    watermark: Lsn,
    /// Where the stream started.
    start: Lsn,
}

#[derive(Default)]
struct SeenTable {
    is_copying: bool,
    is_copied: bool,
    streamed: u64,
    last: Option<Position>,
}

impl Seen {
    fn take(&mut self, step: &Step) {
        match step {
            Step::CopyStart(rows) => {
                let table = self.tables.entry(rows.table().clone()).or_default();
                assert!(table.streamed == 0, "a table that is copied first has no events before that");
                table.is_copying = true;
            }
            Step::CopyEnd { table, watermark } => {
                let table = self.tables.get_mut(table).expect("it has begun");
                assert!(std::mem::take(&mut table.is_copying), "a copy ends once");
                table.is_copied = true;
                assert!(
                    table.last.is_none_or(|last| last.commit_lsn <= watermark.commit_lsn),
                    "it is complete to there"
                );
            }
            Step::Rows(rows) | Step::Truncate(rows) => {
                let table = self.tables.entry(rows.table().clone()).or_default();
                for event in &rows.events.events {
                    if event.op == Op::Read {
                        assert!(table.is_copying, "a copied row outside of a copy");
                        assert!(event.position.commit_lsn <= self.watermark.max(self.start), "it stands between them");
                        continue;
                    }
                    table.streamed += 1;
                    assert!(table.last < Some(event.position), "{:?} after {:?}", event.position, table.last);
                    assert!(event.position.commit_lsn > self.watermark, "it was said to be complete before");
                    table.last = Some(event.position);
                }
            }
            Step::Complete(coverage) => {
                assert!(coverage.watermark.commit_lsn >= self.watermark, "a watermark moved back");
                self.watermark = coverage.watermark.commit_lsn;
                let followed = self.tables.values().filter(|table| table.streamed > 0).filter_map(|table| table.last);
                for last in followed {
                    assert!(last.commit_lsn <= self.watermark, "it stands between transactions");
                }
            }
            Step::Stop { table, error } => panic!("{table} stopped: {error}"),
            Step::CopyProgress { table, watermark, .. } => {
                assert!(self.tables.get(table).is_some_and(|table| table.is_copying), "a copy that has begun");
                let handed_on = watermark.map_or(self.watermark, |watermark| watermark.commit_lsn);
                assert!(handed_on <= self.watermark.max(self.start), "it stands between transactions");
            }
            Step::Note(_) => {}
        }
    }
}

/// Reads until everything up to an LSN has been delivered; returns what the slot may be confirmed to.
async fn read_to<S: Source>(source: &mut S, seen: &mut Seen, end: Lsn) -> Lsn {
    loop {
        for step in source.next().await.unwrap().steps {
            seen.take(&step);
            if let Step::Complete(coverage) = &step
                && coverage.watermark.end_lsn >= end
            {
                return coverage.watermark.end_lsn;
            }
        }
    }
}

fn whole(tables: impl IntoIterator<Item = SourceTable>) -> Vec<TableToCopy> {
    tables.into_iter().map(|table| TableToCopy { table, goes_on: None }).collect()
}

/// Copies run beside the stream; the stream goes on where a copy, or the consumer, is; and what was
/// confirmed does not come again.
async fn keeps_the_contract<D: Database>(database: &D, half_way: impl AsyncFn() -> Lsn, end: impl AsyncFn() -> Lsn) {
    let inspection = database.inspect(Default::default()).await.unwrap();
    assert_eq!(inspection.slot, None);
    let names: Vec<_> = inspection.tables.iter().map(|table| table.name().clone()).collect();
    assert!(names.is_sorted() && names.len() > 1);
    let (slot_lsn, snapshot) = database.create_slot().await.unwrap();
    let copy = whole(inspection.tables.clone());
    let (_asks, requests) = unbounded_channel();
    let (stream, apart) = (Vec::new(), Vec::new());
    let plan = SourcePlan {
        start_lsn: slot_lsn,
        snapshot: Some(snapshot),
        copy,
        stream,
        apart,
        keeps_columns: true,
        requests,
    };
    let mut source = database.open(plan).await.unwrap();
    let mut seen = Seen { start: slot_lsn, ..Seen::default() };
    let read = read_to(&mut source, &mut seen, half_way().await).await;
    while !(seen.tables.len() == names.len() && seen.tables.values().all(|table| table.is_copied)) {
        for step in source.next().await.unwrap().steps {
            seen.take(&step);
        }
    }
    let read = read.max(Lsn(seen.watermark.0 + 1));
    assert!(seen.tables.values().any(|table| table.streamed > 0), "nothing was streamed");
    source.confirm(read);
    source.confirm(Lsn(read.0 - 1));
    drop(source);
    let identity = database.identify().await.unwrap();
    assert!(identity.flushed_lsn >= seen.watermark);

    // One table goes on from where its consumer is, one is copied again, and the others are left out.
    let slot = loop {
        match database.inspect(Default::default()).await {
            Ok(inspection) => break inspection.slot.expect("it is there"),
            Err(error) => assert_eq!(error.class, sooner_api::Class::Retry, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(slot <= read);
    let mut tables = inspection.tables.into_iter();
    let table = tables.next().expect("a first table");
    let stream = vec![FollowedTable { table, written: None, covered: Positions::whole(seen.watermark) }];
    let copy = whole(tables.by_ref().take(1));
    let apart = tables.collect();
    let (_asks, requests) = unbounded_channel();
    let plan =
        SourcePlan { start_lsn: slot.max(read), snapshot: None, copy, stream, apart, keeps_columns: true, requests };
    let mut source = database.open(plan).await.unwrap();
    let mut again = Seen { start: slot.max(read), ..Seen::default() };
    again.tables.entry(names[0].clone()).or_default().last =
        Some(Position { commit_lsn: seen.watermark, ordinal: u64::MAX });
    read_to(&mut source, &mut again, end().await).await;
    while !again.tables.get(&names[1]).is_some_and(|table| table.is_copied) {
        for step in source.next().await.unwrap().steps {
            again.take(&step);
        }
    }
    assert!(again.tables.keys().all(|table| names[..2].contains(table)), "{:?}", again.tables.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_database_keeps_the_contract() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    let settings = DatabaseSettings {
        connect: ConnectOptions::parse(&postgres.url()).unwrap(),
        slot: "s".to_owned(),
        publication: "p".to_owned(),
        selects: TableFilter::new(|_| true),
        copy_tables_at_once: 2,
        copy_bytes_per_second: None,
        limits: ReadLimits { row_bytes: 16 << 20, copies: MemoryBudget::new(16 << 20) },
        slot_limit: SlotLimit::none(),
        survives_failover: None,
    };
    let encoders = Arc::new(EncoderFactory::new(LocalSchemas::default(), "shop", "shop"));
    let database = PostgresDatabase::new(settings, encoders, Handle::current());
    let load = Mutex::new(Some(Load::start(postgres.url(), 5)));
    let half_way = async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        postgres.end_lsn().await
    };
    let end = async || {
        let load = load.lock().unwrap().take().unwrap();
        load.stop().await;
        postgres.end_lsn().await
    };
    keeps_the_contract(&database, half_way, end).await;
}

#[tokio::test(start_paused = true)]
async fn simulated_databases_keep_the_contract() {
    for seed in 0..50 {
        let chance = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        let database = SimulatedDatabase::new(chance, tokio::time::Instant::now());
        database.set_calm(true);
        let history = database.history();
        let middle = history.committed(Duration::from_secs(2)).last().map_or(history.end(), |last| last.end_lsn);
        keeps_the_contract(&database, async || middle, async || history.end()).await;
    }
}
