//! What every event log promises, run over each implementation.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};

use integration_tests::simulation::log;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sooner::budget::MemoryBudget;
use sooner::direct;
use sooner_api::{EventReader, EventWriter};
use sooner_schemas::Lsn;
use sooner_schemas::event::{EventBatch, Watermark};

fn batch(lsn: u64) -> EventBatch {
    let watermark = Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn), commit_micros: 0 };
    EventBatch { watermark: Some(watermark), ..EventBatch::default() }
}

async fn keeps_order_and_ends<W: EventWriter, R: EventReader>(mut writer: W, mut reader: R) {
    let write = async move {
        for lsn in 1..=100 {
            writer.append(batch(lsn)).await.unwrap();
        }
    };
    let read = async move {
        let mut seen = Vec::new();
        while let Some(batch) = reader.next().await.unwrap() {
            seen.push(batch.watermark.unwrap().end_lsn.0);
        }
        seen
    };
    let ((), seen) = tokio::join!(write, read);
    assert_eq!(seen, (1..=100).collect::<Vec<_>>());
}

async fn never_moves_back<W: EventWriter, R: EventReader>(writer: W, mut reader: R) {
    assert_eq!(writer.durable_lsn(), Lsn(10), "it starts where everything was durable before");
    reader.applied(Lsn(20));
    assert_eq!(writer.durable_lsn(), Lsn(20));
    reader.applied(Lsn(15));
    assert_eq!(writer.durable_lsn(), Lsn(20));
}

async fn refuses_when_nobody_reads<W: EventWriter, R: EventReader>(mut writer: W, reader: R) {
    drop(reader);
    assert!(writer.append(batch(1)).await.is_err());
}

async fn a_cancelled_read_loses_nothing<W: EventWriter, R: EventReader>(mut writer: W, mut reader: R) {
    for _ in 0..20 {
        tokio::select! {
            biased;
            _ = reader.next() => panic!("there is nothing to read"),
            () = tokio::task::yield_now() => {}
        }
    }
    writer.append(batch(1)).await.unwrap();
    assert!(reader.next().await.unwrap().is_some());
}

fn direct_log() -> (direct::DirectWriter, direct::DirectReader) {
    direct::open(MemoryBudget::new(1 << 20), Lsn(10))
}

fn simulated_log() -> (log::SimulatedWriter, log::SimulatedReader) {
    log::open(Arc::new(Mutex::new(StdRng::seed_from_u64(1))), Lsn(10), true)
}

#[tokio::test(start_paused = true)]
async fn the_direct_log_keeps_the_contract() {
    let (writer, reader) = direct_log();
    keeps_order_and_ends(writer, reader).await;
    let (writer, reader) = direct_log();
    never_moves_back(writer, reader).await;
    let (writer, reader) = direct_log();
    refuses_when_nobody_reads(writer, reader).await;
    let (writer, reader) = direct_log();
    a_cancelled_read_loses_nothing(writer, reader).await;
}

#[tokio::test(start_paused = true)]
async fn the_simulated_log_keeps_the_contract() {
    let (writer, reader) = simulated_log();
    keeps_order_and_ends(writer, reader).await;
    let (writer, reader) = simulated_log();
    never_moves_back(writer, reader).await;
    let (writer, reader) = simulated_log();
    refuses_when_nobody_reads(writer, reader).await;
    let (writer, reader) = simulated_log();
    a_cancelled_read_loses_nothing(writer, reader).await;
}
