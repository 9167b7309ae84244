//! A world without a broker: both halves in one process, with the real log between them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sooner::direct::DirectLog;
use sooner::pipeline::sink_side::SinkSide;
use sooner::pipeline::source_side::SourceSide;
use sooner_api::{EventLog, Result, TableState};
use sooner_schemas::Lsn;
use tokio::sync::watch;

use super::chance::happens;
use super::faulty::FaultyLog;
use super::history::{TABLES, table_name};
use super::progress::SimulatedProgress;
use super::world::{Summary, WILD_ATTEMPTS, World, live};

/// Runs processes until everything is confirmed.
pub async fn run(world: &World) -> Summary {
    let progress = SimulatedProgress::default();
    world.database.set_judge(judge(world.clone(), progress.clone()));
    let mut summary = Summary::default();
    loop {
        let calm = summary.attempts > WILD_ATTEMPTS;
        world.set_calm(calm);
        world.ask_for_copies(progress.stored().as_ref(), calm);
        let ended = live(world, calm, &mut summary, attempt(world, progress.clone(), calm)).await;
        if ended && world.database.is_done() && all_stream(&progress) {
            return summary;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn all_stream(progress: &SimulatedProgress) -> bool {
    let Some(record) = progress.stored() else { return false };
    (0..TABLES).all(|table| matches!(record.state(&table_name(table)), TableState::Streaming { .. }))
}

/// What is confirmed is in the lake, or in a copy that goes on, unless it is stored that the table is copied later.
fn judge(world: World, progress: SimulatedProgress) -> super::database::Judge {
    let (lake, database) = (world.lake.clone(), Arc::new(world.database.clone()));
    Arc::new(move |durable: Lsn| {
        let Some(record) = progress.stored() else { return };
        assert!(durable <= record.confirmed_lsn, "it is stored before it is confirmed");
        for table in 0..TABLES {
            let name = table_name(table);
            let last = database.history().last_change(table, durable);
            let Some(last) = last else { continue };
            let goes_on = record.tables.get(&name).is_some_and(|progress| progress.copy.is_some());
            let taken = match record.state(&name) {
                TableState::Streaming { .. } => lake.positions(&name),
                // It may just have ended.
                TableState::Copying if goes_on => lake.copied_positions(&name).or_else(|| lake.positions(&name)),
                _ => continue,
            };
            let taken = taken.and_then(|positions| positions.commit_lsn());
            assert!(taken >= Some(last), "{durable} was confirmed, but {name} is at {taken:?}, not at {last}");
        }
    })
}

/// One life of the process: both halves run until everything is confirmed, or one of them ends.
async fn attempt(world: &World, progress: SimulatedProgress, calm: bool) -> Result<()> {
    let settings = world.sink_settings();
    let log = DirectLog::new(progress.clone(), "slot", settings.budget.clone());
    let mut log = FaultyLog { log, database: world.database.clone() };
    let mut reader = log.open_reader().await?;
    let (halt, halted) = watch::channel(false);
    let (_never, unhalted) = watch::channel(false);
    let mut recopy = !calm && happens(&world.chance, 60);
    let halt_when_done = async {
        while !world.database.is_done() || !all_stream(&progress) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        halt.send_replace(true);
        std::future::pending::<()>().await;
    };
    let sourced = async {
        let (database, requests, telemetry) = (&world.database, &world.requests, &world.trace);
        let side = SourceSide {
            database,
            slot: "slot",
            copies_when_slot_is_gone: false,
            takes_whole_tables: true,
            requests,
            telemetry,
        };
        let mut log = log;
        side.attempt(&mut log, &mut recopy, halted).await
    };
    let sunk = async {
        let (lake, clock, telemetry) = (&world.lake, world.clock.clone(), &world.trace);
        let side = SinkSide { lake, settings: &settings, clock, telemetry };
        let ended = side.attempt(&mut reader, &mut HashMap::new(), unhalted).await;
        // The source notices when it appends.
        drop(reader);
        ended
    };
    let both = async {
        let (sourced, sunk) = tokio::join!(sourced, sunk);
        sunk.and(sourced).map(drop)
    };
    tokio::select! {
        biased;
        result = both => result,
        () = halt_when_done => Ok(()),
    }
}
