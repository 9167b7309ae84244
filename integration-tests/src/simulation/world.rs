//! What outlives the processes of a simulated world, and how a process lives in it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner::control::Requests;
use sooner::pipeline::sink::SinkSettings;
use sooner::pipeline::worker::WorkerSettings;
use sooner_api::{Class, Clock, CopyRequest, Fact, MemoryBudget, ProgressRecord, Result, TableState, Telemetry};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::chance::{Chance, draw, happens};
use super::database::SimulatedDatabase;
use super::history::{TABLES, table_name};
use super::lake::SimulatedLake;

/// Virtual time after which a world that has not settled is stuck.
const LIMIT: Duration = Duration::from_secs(600);
/// After so many attempts faults and kills stop, so that every run ends.
pub const WILD_ATTEMPTS: u32 = 12;

/// Clock of a simulated world: virtual microseconds since its start.
#[derive(Clone)]
pub struct SimulatedClock(Instant);

impl Clock for SimulatedClock {
    fn now_micros(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_micros()).expect("a short simulation")
    }
}

/// What happened in one run of a simulated world.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of attempts, the last one included.
    pub attempts: u32,
    /// Number of attempts that were cut off, as by `kill -9`.
    pub kills: u32,
    /// Number of attempts that ended with an error.
    pub failures: u32,
    /// Number of times that a table was parked.
    pub parked: usize,
    /// Number of copies that began, or went on after a break.
    pub copies: usize,
    /// Of those, how many went on.
    pub resumed: usize,
    /// Number of times that tables changed hands between sinks.
    pub rebalances: u32,
    /// Every fact, in its order.
    pub facts: Vec<String>,
}

/// Everything that outlives a process.
#[derive(Clone)]
pub struct World {
    /// The seed, for messages.
    pub seed: u64,
    /// Its random numbers.
    pub chance: Chance,
    /// Its database.
    pub database: SimulatedDatabase,
    /// Its lake.
    pub lake: SimulatedLake,
    /// Requests to the pipeline.
    pub requests: Requests,
    /// Its time.
    pub clock: SimulatedClock,
    /// What was told.
    pub trace: Trace,
}

impl World {
    /// The world of a seed; requests are files in a folder.
    pub fn new(seed: u64, folder: &Path) -> World {
        let chance: Chance = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        let started = Instant::now();
        World {
            seed,
            database: SimulatedDatabase::new(chance.clone(), started),
            lake: SimulatedLake::new(chance.clone()),
            requests: Requests::new(folder),
            clock: SimulatedClock(started),
            trace: Trace::default(),
            chance,
        }
    }

    /// Makes the database and the lake fail at times, or never.
    pub fn set_calm(&self, calm: bool) {
        self.database.set_calm(calm);
        self.lake.set_calm(calm);
    }

    /// Somebody asks for copies: of what is parked, and now and then of a table that is well.
    pub fn ask_for_copies(&self, record: Option<&ProgressRecord>, calm: bool) {
        for table in (0..TABLES).map(table_name) {
            let is_parked = record.is_some_and(|record| matches!(record.state(&table), TableState::Parked { .. }));
            if is_parked && (calm || happens(&self.chance, 3)) || !calm && happens(&self.chance, 40) {
                self.requests.resume(&table).expect("a folder");
            }
            if !calm && happens(&self.chance, 10) {
                let condition = Some("the simulated source copies all rows".to_owned());
                self.requests.ask(&CopyRequest { table, condition }).expect("a folder");
            }
        }
    }

    /// Settings of a sink.
    pub fn sink_settings(&self) -> SinkSettings {
        SinkSettings {
            cuts: sooner::pipeline::cutting::CutDesk::closed(),
            worker: WorkerSettings {
                freshness: Duration::from_millis(100),
                copy_freshness: Duration::from_millis(150),
                seal_bytes: 2000,
                commits: Arc::new(Semaphore::new(2)),
                inspection_interval: Duration::from_millis(500),
            },
            tables: Default::default(),
            store_interval: Duration::from_millis(50),
            budget: MemoryBudget::new(1 << 20),
        }
    }

    /// How long a process lives before it is killed.
    fn life(&self, calm: bool) -> Duration {
        let wild = Duration::from_millis(draw(&self.chance, |random| random.random_range(5..3000)));
        if calm { LIMIT } else { wild }
    }
}

/// Runs a process until it ends or is killed; returns whether it ended well.
pub async fn live(world: &World, calm: bool, summary: &mut Summary, process: impl Future<Output = Result<()>>) -> bool {
    summary.attempts += 1;
    match tokio::time::timeout(world.life(calm), process).await {
        Err(_) if calm => panic!("seed {}: it is stuck", world.seed),
        Err(_) => summary.kills += 1,
        Ok(Err(error)) => {
            assert_eq!(error.class, Class::Retry, "seed {}: nobody is needed, but: {error}", world.seed);
            summary.failures += 1;
        }
        Ok(Ok(())) => return true,
    }
    false
}

/// Facts as text.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    /// All facts until now; they are forgotten.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("one thread"))
    }
}

impl Telemetry for Trace {
    fn record(&self, fact: Fact<'_>) {
        self.0.lock().expect("one thread").push(format!("{fact:?}"));
    }
}
