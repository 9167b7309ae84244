//! The progress record as the running pipeline uses it: every change is stored before anything relies on it.

use sooner_api::{ProgressRecord, ProgressStore, Result, TablePhase, TableProgress};
use sooner_schemas::{Lsn, TableName};

/// The record, and where it is stored.
pub struct Ledger<P> {
    store: P,
    record: ProgressRecord,
}

impl<P: ProgressStore> Ledger<P> {
    /// Starts with a record, and stores it.
    pub async fn open(mut store: P, record: ProgressRecord) -> Result<Ledger<P>> {
        store.save(&record).await?;
        Ok(Ledger { store, record })
    }

    /// The record.
    pub fn record(&self) -> &ProgressRecord {
        &self.record
    }

    /// A table's phase; copying for one that is not known.
    pub fn phase(&self, table: &TableName) -> TablePhase {
        self.record.tables.get(&table.to_string()).map_or(TablePhase::Copying, |progress| progress.phase)
    }

    /// Stores that the slot will be confirmed up to here.
    pub async fn confirm(&mut self, lsn: Lsn) -> Result<()> {
        if lsn <= self.record.confirmed_lsn {
            return Ok(());
        }
        let mut next = self.record.clone();
        next.confirmed_lsn = lsn;
        self.replace(next).await
    }

    /// Stores a table's new phase.
    pub async fn set_phase(&mut self, table: &TableName, phase: TablePhase, reason: Option<String>) -> Result<()> {
        let mut next = self.record.clone();
        let known = next.tables.get(&table.to_string());
        let (oid, copied_lsn) = known.map_or((None, None), |known| (known.oid, known.copied_lsn));
        next.tables.insert(table.to_string(), TableProgress { phase, reason, oid, copied_lsn });
        self.replace(next).await
    }

    async fn replace(&mut self, next: ProgressRecord) -> Result<()> {
        self.store.save(&next).await?;
        self.record = next;
        Ok(())
    }
}
