//! A simulated database: a history that grows with time, a slot, and a judge of what is confirmed to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use sooner_api::{Code, Result};
use sooner_schemas::{Column, ColumnType, Lsn, Relation, Scalar};
use tokio::time::Instant;

use super::chance::{Chance, draw, happens, passing};
use super::history::{History, Transaction, table_name};

/// Checks an LSN that is confirmed: what is before it cannot be read again.
pub type Judge = Arc<dyn Fn(Lsn) + Send + Sync>;

/// A simulated database; its clones are the same one.
#[derive(Clone)]
pub struct SimulatedDatabase(Arc<Shared>);

struct Shared {
    history: History,
    slot: Mutex<Option<Lsn>>,
    judge: Mutex<Judge>,
    calm: AtomicBool,
    chance: Chance,
    started: Instant,
}

impl SimulatedDatabase {
    /// A database with a random history.
    pub fn new(chance: Chance, started: Instant) -> SimulatedDatabase {
        SimulatedDatabase(Arc::new(Shared {
            history: History::random(&chance),
            slot: Mutex::new(None),
            judge: Mutex::new(Arc::new(|_| {})),
            calm: AtomicBool::new(false),
            chance,
            started,
        }))
    }

    /// Its whole history, also what is still to come.
    pub fn history(&self) -> &History {
        &self.0.history
    }

    /// What is committed by now.
    pub fn committed(&self) -> &[Transaction] {
        self.0.history.committed(self.0.started.elapsed())
    }

    /// Microseconds since the world's start.
    pub fn elapsed_micros(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_micros()).expect("a short simulation")
    }

    /// The slot's position; none before it exists.
    pub fn confirmed(&self) -> Option<Lsn> {
        *self.0.slot.lock().expect("one thread")
    }

    /// Whether everything has happened and is confirmed.
    pub fn is_done(&self) -> bool {
        self.confirmed() == Some(self.history().end())
    }

    /// Creates the slot.
    pub fn create_slot_at(&self, lsn: Lsn) {
        *self.0.slot.lock().expect("one thread") = Some(lsn);
    }

    /// Moves the slot.
    pub fn confirm(&self, durable_lsn: Lsn) {
        let judge = self.0.judge.lock().expect("one thread").clone();
        judge(durable_lsn);
        let mut slot = self.0.slot.lock().expect("one thread");
        *slot = slot.map(|slot| slot.max(durable_lsn));
    }

    /// Sets who judges what is confirmed.
    pub fn set_judge(&self, judge: Judge) {
        *self.0.judge.lock().expect("one thread") = judge;
    }

    /// Fails at times, or never.
    pub fn set_calm(&self, calm: bool) {
        self.0.calm.store(calm, Ordering::Relaxed);
    }

    /// Whether something goes wrong that goes wrong once in so many times.
    pub fn fails(&self, once_in: u32) -> bool {
        !self.0.calm.load(Ordering::Relaxed) && happens(&self.0.chance, once_in)
    }

    /// The world's random numbers.
    pub fn chance(&self) -> &Chance {
        &self.0.chance
    }

    /// Answers after a while, or fails to.
    pub async fn answer(&self, what: &str) -> Result<()> {
        let pause = draw(&self.0.chance, |random| random.random_range(0..30));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match self.fails(40) {
            true => Err(passing(Code::PostgresUnreachable, what)),
            false => Ok(()),
        }
    }
}

/// What a simulated table is.
pub fn relation(table: usize) -> Relation {
    let column = |name| Column::new(name, ColumnType::Scalar(Scalar::Int8));
    Relation { oid: table as u32 + 1, ..Relation::new(table_name(table), vec![column("id"), column("value")], vec![0]) }
}
