//! An event log in memory that is slow at times, and at times refuses.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use sooner_api::{Error, EventReader, EventWriter, Result};
use sooner_schemas::Lsn;
use sooner_schemas::event::EventBatch;

use super::{Chance, draw};

/// Batches that it holds at most.
const CAPACITY: usize = 8;

#[derive(Default)]
struct Shared {
    batches: VecDeque<EventBatch>,
    durable: Lsn,
    writer_gone: bool,
    reader_gone: bool,
}

/// The entrance.
pub struct SimulatedWriter {
    shared: Arc<Mutex<Shared>>,
    chance: Chance,
    calm: bool,
}

/// The exit.
pub struct SimulatedReader {
    shared: Arc<Mutex<Shared>>,
}

/// Opens an empty log.
pub fn open(chance: Chance, start_lsn: Lsn, calm: bool) -> (SimulatedWriter, SimulatedReader) {
    let shared = Arc::new(Mutex::new(Shared { durable: start_lsn, ..Shared::default() }));
    (SimulatedWriter { shared: shared.clone(), chance, calm }, SimulatedReader { shared })
}

impl EventWriter for SimulatedWriter {
    async fn append(&mut self, batch: EventBatch) -> Result<()> {
        let (pause, refuses) = draw(&self.chance, |random| (random.random_range(0..10), random.random_ratio(1, 150)));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if refuses && !self.calm {
            return Err(Error::retry("cannot append", "simulated", "nothing"));
        }
        while self.shared.lock().expect("one thread").batches.len() >= CAPACITY {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut shared = self.shared.lock().expect("one thread");
        if shared.reader_gone {
            return Err(Error::retry("cannot append", "nobody reads", "nothing"));
        }
        shared.batches.push_back(batch);
        Ok(())
    }

    fn durable_lsn(&self) -> Lsn {
        self.shared.lock().expect("one thread").durable
    }
}

impl Drop for SimulatedWriter {
    fn drop(&mut self) {
        self.shared.lock().expect("one thread").writer_gone = true;
    }
}

impl EventReader for SimulatedReader {
    async fn next(&mut self) -> Result<Option<EventBatch>> {
        loop {
            {
                let mut shared = self.shared.lock().expect("one thread");
                if let Some(batch) = shared.batches.pop_front() {
                    return Ok(Some(batch));
                }
                if shared.writer_gone {
                    return Ok(None);
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn applied(&mut self, durable_lsn: Lsn) {
        let mut shared = self.shared.lock().expect("one thread");
        shared.durable = shared.durable.max(durable_lsn);
    }
}

impl Drop for SimulatedReader {
    fn drop(&mut self) {
        self.shared.lock().expect("one thread").reader_gone = true;
    }
}
