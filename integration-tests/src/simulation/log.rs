//! A simulated event log in memory, which at times is slow and at times refuses a batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use sooner_api::{Code, Error, EventReader, EventWriter, Result};
use sooner_schemas::Lsn;
use sooner_schemas::event::EventBatch;

use super::{Chance, draw};

/// Number of batches that the log holds at most; `append` waits while it is full.
const CAPACITY: usize = 8;

#[derive(Default)]
struct Shared {
    batches: VecDeque<EventBatch>,
    durable: Lsn,
    writer_gone: bool,
    reader_gone: bool,
}

/// Writing end of the event log. Dropping it ends the stream for the reader, after the batches that are left.
pub struct SimulatedWriter {
    shared: Arc<Mutex<Shared>>,
    chance: Chance,
    calm: bool,
}

/// Reading end of the event log. What it reports as applied becomes durable for the writer.
pub struct SimulatedReader {
    shared: Arc<Mutex<Shared>>,
}

/// Opens an empty event log that is durable up to `start_lsn`; a calm one never refuses a batch.
pub fn open(chance: Chance, start_lsn: Lsn, calm: bool) -> (SimulatedWriter, SimulatedReader) {
    let shared = Arc::new(Mutex::new(Shared { durable: start_lsn, ..Shared::default() }));
    (SimulatedWriter { shared: shared.clone(), chance, calm }, SimulatedReader { shared })
}

impl EventWriter for SimulatedWriter {
    async fn append(&mut self, batch: EventBatch) -> Result<()> {
        let (pause, refuses) = draw(&self.chance, |random| (random.random_range(0..10), random.random_ratio(1, 150)));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if refuses && !self.calm {
            return Err(Error::retry(Code::KafkaUnreachable, "cannot append", "simulated", "nothing"));
        }
        while self.shared.lock().expect("one thread").batches.len() >= CAPACITY {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut shared = self.shared.lock().expect("one thread");
        if shared.reader_gone {
            return Err(Error::retry(Code::PeerEnded, "cannot append", "nobody reads", "nothing"));
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
