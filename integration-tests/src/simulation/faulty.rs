//! An event log that at times is slow, and at times refuses a batch.

use std::time::Duration;

use rand::Rng;
use sooner_api::{
    Code, Error, EventBatch, EventLog, EventWriter, KnownNames, ProgressRecord, Result, TableStart, WriterRequest,
};
use sooner_schemas::{Lsn, TableName};

use super::chance::{draw, passing};
use super::database::SimulatedDatabase;

/// A log with faults at its entrance, while the database has faults.
pub struct FaultyLog<L> {
    /// The log.
    pub log: L,
    /// Whose faults it shares.
    pub database: SimulatedDatabase,
}

/// Its entrance.
pub struct FaultyWriter<W> {
    writer: W,
    database: SimulatedDatabase,
}

impl<L: EventLog> EventLog for FaultyLog<L> {
    type Writer = FaultyWriter<L::Writer>;
    type Reader = L::Reader;

    async fn known_names(&mut self) -> Result<KnownNames> {
        self.log.known_names().await
    }

    async fn open_writer(&mut self, request: WriterRequest<'_>) -> Result<Self::Writer> {
        let writer = self.log.open_writer(request).await?;
        Ok(FaultyWriter { writer, database: self.database.clone() })
    }

    async fn open_reader(&mut self) -> Result<L::Reader> {
        self.log.open_reader().await
    }
}

impl<W: EventWriter> EventWriter for FaultyWriter<W> {
    fn keeps_columns(&self) -> bool {
        self.writer.keeps_columns()
    }

    fn refused(&self) -> &[(TableName, Error)] {
        self.writer.refused()
    }

    fn stored(&self) -> Option<&ProgressRecord> {
        self.writer.stored()
    }

    async fn begin(&mut self, record: ProgressRecord) -> Result<Vec<TableStart>> {
        self.writer.begin(record).await
    }

    async fn start_at(&mut self, slot_lsn: Lsn) -> Result<()> {
        self.writer.start_at(slot_lsn).await
    }

    async fn append(&mut self, batch: EventBatch) -> Result<()> {
        let pause = draw(self.database.chance(), |random| random.random_range(0..10));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if self.database.fails(150) {
            return Err(passing(Code::KafkaUnreachable, "cannot append"));
        }
        self.writer.append(batch).await
    }

    fn durable_lsn(&self) -> Lsn {
        self.writer.durable_lsn()
    }

    fn broken(&self) -> impl Future<Output = Error> + Send + 'static {
        self.writer.broken()
    }

    async fn finish(&mut self) -> Result<()> {
        self.writer.finish().await
    }

    async fn settle(self) -> Lsn {
        self.writer.settle().await
    }
}
