//! A world in memory, driven by a seed: a database with a history, an event log that fails, a lake that loses answers.
//! The real loops of source and sink run over it. Time is tokio's paused clock, which jumps to the next timer.

pub mod database;
pub mod lake;
pub mod log;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner::budget::MemoryBudget;
use sooner::ledger::Ledger;
use sooner::pipeline::sink::{SinkLoop, SinkSettings};
use sooner::pipeline::source;
use sooner::pipeline::worker::WorkerSettings;
use sooner::status::StatusBoard;
use sooner_api::{Clock, Code, Lake, ProgressRecord, ProgressStore, Result};
use sooner_schemas::Lsn;
use tokio::sync::watch;

use database::{Database, SimulatedSource, TABLES, table_name};
use lake::{Faults, SimulatedLake};

/// Virtual time after which a world that has not settled is stuck.
const LIMIT: Duration = Duration::from_secs(600);

/// The random number generator that everything in a simulated world shares.
pub type Chance = Arc<Mutex<StdRng>>;

/// Draws a value from the world's random number generator.
pub fn draw<T>(chance: &Chance, pick: impl FnOnce(&mut StdRng) -> T) -> T {
    pick(&mut chance.lock().expect("one thread"))
}

/// Clock of a simulated world: virtual microseconds since its start.
#[derive(Clone)]
pub struct SimulatedClock(tokio::time::Instant);

impl Clock for SimulatedClock {
    fn now_micros(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_micros()).expect("a short simulation")
    }
}

/// What happened in one run of a simulated world.
#[derive(Debug, Default)]
pub struct Summary {
    /// Number of attempts, the last one included.
    pub attempts: u32,
    /// Number of attempts that were cut off, as by `kill -9`.
    pub kills: u32,
    /// Number of attempts that ended with an error.
    pub failures: u32,
}

/// Runs the world of a seed until everything is confirmed; panics unless its lake then equals its database.
pub async fn run(seed: u64) -> Summary {
    let chance: Chance = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
    let database = Arc::new(Database::with_history(&chance));
    let lake = SimulatedLake::new(chance.clone());
    let progress = SimulatedProgress::default();
    let clock = SimulatedClock(tokio::time::Instant::now());
    let mut summary = Summary::default();
    loop {
        summary.attempts += 1;
        // After twelve attempts faults and kills stop, so that every run ends.
        let calm = summary.attempts > 12;
        lake.set_faults(if calm { Faults::none() } else { Faults::some() });
        let attempt = attempt(&chance, &database, &lake, progress.clone(), clock.clone(), calm);
        let life = Duration::from_millis(draw(&chance, |random| random.random_range(5..3000)));
        match tokio::time::timeout(if calm { LIMIT } else { life }, attempt).await {
            Err(_) if calm => panic!("seed {seed}: it is stuck; confirmed {}", database.confirmed()),
            Err(_) => summary.kills += 1,
            Ok(Err(_)) => summary.failures += 1,
            Ok(Ok(())) => break,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(lake.rows(), database.rows(), "seed {seed}: the lake differs");
    assert_eq!(database.confirmed(), database.end(), "seed {seed}: log is held back");
    summary
}

/// One attempt, as one life of the process: runs both loops until everything is confirmed, or one of them fails.
async fn attempt(
    chance: &Chance,
    database: &Arc<Database>,
    lake: &SimulatedLake,
    mut progress: SimulatedProgress,
    clock: SimulatedClock,
    calm: bool,
) -> Result<()> {
    let start_lsn = database.confirmed();
    let record = progress.load().await?.unwrap_or_else(|| ProgressRecord {
        system_id: "simulated".to_owned(),
        timeline: 1,
        slot: "slot".to_owned(),
        confirmed_lsn: start_lsn,
        tables: Default::default(),
    });
    assert!(start_lsn <= record.confirmed_lsn, "the slot is ahead of what was stored");
    let ledger = Ledger::open(progress, record).await?;
    let mut tables = Vec::new();
    for table in 0..TABLES {
        tables.push(lake.open(&table_name(table)).await?);
    }
    let (mut writer, mut reader) = log::open(chance.clone(), start_lsn, calm);
    let settings = SinkSettings {
        worker: WorkerSettings { freshness: Duration::from_millis(100), seal_bytes: 2000 },
        confirm_interval: Duration::from_millis(50),
        start_lsn,
    };
    let budget = MemoryBudget::new(1 << 20);
    let sink = SinkLoop::start(tables, settings, ledger, budget, StatusBoard::default(), clock);
    let (stop, stopped) = watch::channel(false);
    let mut source = SimulatedSource::new(database.clone(), lake.clone(), chance.clone(), start_lsn, calm);
    let stop_when_done = async {
        while database.confirmed() < database.end() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.send_replace(true);
        std::future::pending::<()>().await;
    };
    let both = async {
        // Each side owns its end of the log and drops it when it stops, so that the other side notices.
        let sourced = async move { source::run(&mut source, &mut writer, stopped).await };
        let sunk = async move { sink.run(&mut reader).await };
        let (sourced, sunk) = tokio::join!(sourced, sunk);
        sunk?;
        sourced
    };
    tokio::select! {
        result = both => result,
        () = stop_when_done => Ok(()),
    }
}

/// A progress store in memory. Its clones share the record over all attempts; a save fails if another clone has saved
/// since this one last loaded or saved.
#[derive(Clone, Default)]
pub struct SimulatedProgress {
    stored: Arc<Mutex<(u64, Option<ProgressRecord>)>>,
    known: u64,
}

impl ProgressStore for SimulatedProgress {
    async fn load(&mut self) -> Result<Option<ProgressRecord>> {
        let stored = self.stored.lock().expect("one thread");
        self.known = stored.0;
        Ok(stored.1.clone())
    }

    async fn save(&mut self, record: &ProgressRecord) -> Result<()> {
        let mut stored = self.stored.lock().expect("one thread");
        if stored.0 != self.known {
            return Err(sooner_api::Error::retry(Code::PipelineTakenOver, "stale", "another attempt saved", "nothing"));
        }
        let former = stored.1.as_ref().map_or(Lsn::ZERO, |record| record.confirmed_lsn);
        assert!(record.confirmed_lsn >= former, "progress moved back");
        *stored = (stored.0 + 1, Some(record.clone()));
        self.known = stored.0;
        Ok(())
    }
}
