//! A world with topics: a source, and two sinks between which topics move at any time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use sooner::pipeline::sink_side::SinkSide;
use sooner::pipeline::source_side::SourceSide;
use sooner_api::{EventLog, Positions, Result, TableState};
use tokio::sync::watch;

use super::chance::{draw, happens};
use super::faulty::FaultyLog;
use super::history::{TABLES, table_name};
use super::topics::Topics;
use super::world::{Summary, WILD_ATTEMPTS, World, live};

/// Number of sinks.
const SINKS: usize = 2;

/// Runs processes until everything is in the lake.
pub async fn run(world: &World) -> Summary {
    let topics = Topics::default();
    let judged = topics.clone();
    world.database.set_judge(Arc::new(move |durable| {
        assert!(durable <= judged.durable_lsn(), "what is confirmed is on the topics");
    }));
    for table in 0..TABLES {
        topics.give(&table_name(table), table % SINKS);
    }
    let mut summary = Summary::default();
    loop {
        let calm = summary.attempts > WILD_ATTEMPTS;
        world.set_calm(calm);
        world.ask_for_copies(topics.stored().as_ref(), calm);
        let rebalances = std::cell::Cell::new(0);
        let ended = live(world, calm, &mut summary, attempt(world, &topics, calm, &rebalances)).await;
        summary.rebalances += rebalances.get();
        if ended && is_done(world, &topics) {
            return summary;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Everything is on the topics, and in the lake.
fn is_done(world: &World, topics: &Topics) -> bool {
    let Some(record) = topics.stored() else { return false };
    let in_lake = |table| {
        let name = table_name(table);
        let ends = Positions::Topic { generation: Some(1), next_offsets: topics.ends(&name) };
        let streams = matches!(record.state(&name), TableState::Streaming { .. });
        streams && world.lake.positions(&name).is_some_and(|taken| taken.covers(&ends))
    };
    world.database.is_done() && (0..TABLES).all(in_lake)
}

/// One life of all processes: they run until everything is in the lake, or one of them ends.
async fn attempt(world: &World, topics: &Topics, calm: bool, rebalances: &std::cell::Cell<u32>) -> Result<()> {
    let (halt, halted) = watch::channel(false);
    let mut recopy = !calm && happens(&world.chance, 60);
    let source = async {
        let (database, requests, telemetry) = (&world.database, &world.requests, &world.trace);
        let side = SourceSide {
            database,
            slot: "slot",
            copies_when_slot_is_gone: false,
            takes_whole_tables: false,
            requests,
            telemetry,
        };
        let mut log = FaultyLog { log: topics.log(0), database: world.database.clone() };
        side.attempt(&mut log, &mut recopy, halted.clone()).await.map(drop)
    };
    let sinks =
        async { tokio::try_join!(sink(world, topics, 0, halted.clone()), sink(world, topics, 1, halted.clone())) };
    let unrest = async {
        loop {
            tokio::time::sleep(Duration::from_millis(draw(&world.chance, |random| random.random_range(50..1500))))
                .await;
            let (table, sink) =
                draw(&world.chance, |random| (random.random_range(0..TABLES), random.random_range(0..SINKS)));
            if !calm {
                topics.give(&table_name(table), sink);
                rebalances.set(rebalances.get() + 1);
            }
        }
    };
    let watch_for_end = async {
        while !is_done(world, topics) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        biased;
        result = async { tokio::try_join!(source, sinks).map(drop) } => result,
        () = watch_for_end => {
            halt.send_replace(true);
            Ok(())
        }
        () = unrest => Ok(()),
    }
}

async fn sink(world: &World, topics: &Topics, number: usize, halted: watch::Receiver<bool>) -> Result<()> {
    let settings = world.sink_settings();
    let (lake, clock, telemetry) = (&world.lake, world.clock.clone(), &world.trace);
    let side = SinkSide { lake, settings: &settings, clock, telemetry };
    let mut known = HashMap::new();
    while !*halted.borrow() {
        let mut reader = topics.log(number).open_reader().await?;
        side.attempt(&mut reader, &mut known, halted.clone()).await?;
    }
    Ok(())
}
