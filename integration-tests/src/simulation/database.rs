//! A simulated database: a history that grows with time, a slot, and a judge of what is confirmed to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use sooner_api::{Code, Database, Inspection, Result, SourcePlan, SourceTable, SystemIdentity};
use sooner_schemas::{Column, ColumnType, Lsn, Relation, Scalar};
use tokio::time::Instant;

use super::chance::{Chance, draw, happens, passing};
use super::history::{History, START, TABLES, Transaction, end_of, table_name};
use super::source::SimulatedSource;

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

    /// The slot's position; none before it exists.
    pub fn confirmed(&self) -> Option<Lsn> {
        *self.0.slot.lock().expect("one thread")
    }

    /// Whether everything has happened and is confirmed.
    pub fn is_done(&self) -> bool {
        self.confirmed() == Some(self.history().end())
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

    async fn answer(&self, what: &str) -> Result<()> {
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

impl Database for SimulatedDatabase {
    type Source = SimulatedSource;
    /// Where the snapshot was taken.
    type Snapshot = Lsn;

    async fn inspect(&self) -> Result<Inspection> {
        self.answer("cannot inspect").await?;
        let tables = (0..TABLES).map(|table| SourceTable {
            relation: relation(table),
            estimated_rows: None,
            size_bytes: 0,
            file_node: 0,
        });
        Ok(Inspection { tables: tables.collect(), slot: self.confirmed() })
    }

    async fn identify(&self) -> Result<SystemIdentity> {
        self.answer("cannot identify").await?;
        let flushed_lsn = end_of(self.committed());
        Ok(SystemIdentity { system_id: "simulated".to_owned(), timeline: 1, flushed_lsn })
    }

    async fn create_slot(&self) -> Result<(Lsn, Lsn)> {
        self.answer("cannot create the slot").await?;
        let lsn = end_of(self.committed()).max(START);
        *self.0.slot.lock().expect("one thread") = Some(lsn);
        self.answer("the answer was lost").await?;
        Ok((lsn, lsn))
    }

    async fn open(&self, plan: SourcePlan<Lsn>) -> Result<SimulatedSource> {
        self.answer("cannot stream").await?;
        let snapshot = plan.snapshot.unwrap_or_else(|| end_of(self.committed()));
        let confirmed = self.confirmed().expect("a slot is created first");
        assert!(plan.start_lsn >= confirmed, "the slot cannot send what was confirmed");
        Ok(SimulatedSource::new(self.clone(), plan, snapshot))
    }
}
