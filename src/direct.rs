//! The event log without a broker: a bounded channel inside the process. Postgres' slot is the durable log; what the
//! lake has applied is what may be confirmed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use sooner_api::{Code, Error, EventReader, EventWriter, Result, SchemaRegistry};
use sooner_schemas::Lsn;
use sooner_schemas::event::EventBatch;
use tokio::sync::mpsc;

use crate::budget::MemoryBudget;

/// The entrance.
pub struct DirectWriter {
    sender: mpsc::UnboundedSender<EventBatch>,
    budget: MemoryBudget,
    durable: Arc<AtomicU64>,
}

/// The exit.
pub struct DirectReader {
    receiver: mpsc::UnboundedReceiver<EventBatch>,
    durable: Arc<AtomicU64>,
}

/// Opens a log that holds as much as the budget allows.
pub fn open(budget: MemoryBudget, start_lsn: Lsn) -> (DirectWriter, DirectReader) {
    // The channel counts batches without bound; their bytes are bounded by the budget.
    let (sender, receiver) = mpsc::unbounded_channel();
    let durable = Arc::new(AtomicU64::new(start_lsn.0));
    (DirectWriter { sender, budget, durable: durable.clone() }, DirectReader { receiver, durable })
}

impl EventWriter for DirectWriter {
    async fn append(&mut self, mut batch: EventBatch) -> Result<()> {
        self.budget.reserve(&mut batch).await;
        self.sender.send(batch).map_err(|_| {
            Error::retry(Code::PeerEnded, "cannot hand events over", "the sink has stopped", "see its own error")
        })
    }

    fn durable_lsn(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }
}

impl EventReader for DirectReader {
    async fn next(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.receiver.recv().await)
    }

    fn applied(&mut self, durable_lsn: Lsn) {
        self.durable.fetch_max(durable_lsn.0, Ordering::AcqRel);
    }
}

/// Schema ids for a log that nobody else reads.
#[derive(Debug, Default)]
pub struct LocalSchemas {
    ids: Mutex<HashMap<(String, String), u32>>,
}

impl SchemaRegistry for LocalSchemas {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ids.len() as u32 + 1;
        Ok(*ids.entry((subject.to_owned(), schema.to_owned())).or_insert(next))
    }
}
