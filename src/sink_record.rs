//! What a sink of topics stores beside its tables: each one's version and position, so that a table that was set back
//! is noticed. A pipeline's sinks share the record.

use sooner_api::{Applied, Assigned, EventBatch, EventReader, Opened, ProgressRecord, ProgressStore, Result};

/// A reader whose sink's report is stored as well.
pub struct RecordedReader<R, P> {
    reader: R,
    store: P,
    record: ProgressRecord,
}

impl<R: EventReader, P: ProgressStore> RecordedReader<R, P> {
    /// Goes on from the record that the sinks stored last.
    pub async fn open(reader: R, mut store: P) -> Result<RecordedReader<R, P>> {
        let record = store.load().await?.unwrap_or_default();
        Ok(RecordedReader { reader, store, record })
    }
}

impl<R: EventReader, P: ProgressStore> EventReader for RecordedReader<R, P> {
    async fn assigned(&mut self) -> Result<Option<Vec<Assigned>>> {
        let mut assigned = self.reader.assigned().await?;
        // Other sinks may have had these tables since.
        self.record = self.store.load().await?.unwrap_or_default();
        for table in assigned.iter_mut().flatten() {
            let known = self.record.tables.get(&table.table);
            table.lake = known.and_then(|progress| progress.lake.clone());
            table.copy = known.and_then(|progress| progress.copy.clone());
        }
        Ok(assigned)
    }

    async fn start(&mut self, tables: Vec<Opened>) -> Result<()> {
        self.reader.start(tables).await
    }

    async fn next(&mut self) -> Result<Option<EventBatch>> {
        self.reader.next().await
    }

    async fn store(&mut self, applied: Applied) -> Result<()> {
        let mut change = self.record.change_by(applied.clone());
        change.tables.retain(|name, progress| self.record.tables.get(name) != Some(progress));
        // The group's offsets say how far the topics are read.
        change.confirmed_lsn = None;
        if !change.is_empty() {
            self.store.save_change(&change).await?;
            self.record.apply(change);
        }
        self.reader.store(applied).await
    }
}
