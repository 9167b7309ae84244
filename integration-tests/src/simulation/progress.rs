//! A simulated progress store.

use std::sync::{Arc, Mutex};

use sooner_api::{Code, Error, ProgressChange, ProgressRecord, ProgressStore, Result};
use sooner_schemas::Lsn;

/// A progress store in memory. Its clones share the record over all attempts; a save fails if another clone has saved
/// since this one last loaded or saved.
#[derive(Clone, Default)]
pub struct SimulatedProgress {
    stored: Arc<Mutex<(u64, Option<ProgressRecord>)>>,
    known: u64,
}

impl SimulatedProgress {
    /// The record that was stored last.
    pub fn stored(&self) -> Option<ProgressRecord> {
        self.stored.lock().expect("one thread").1.clone()
    }
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
            return Err(Error::retry(Code::PipelineTakenOver, "stale", "another attempt saved", "nothing"));
        }
        let former = stored.1.as_ref().map_or(Lsn::ZERO, |record| record.confirmed_lsn);
        // Whoever copies everything again begins at zero.
        assert!(record.confirmed_lsn >= former || record.confirmed_lsn == Lsn::ZERO, "progress moved back");
        *stored = (stored.0 + 1, Some(record.clone()));
        self.known = stored.0;
        Ok(())
    }

    async fn save_change(&mut self, change: &ProgressChange) -> Result<()> {
        let mut record = self.stored().unwrap_or_default();
        record.apply(change.clone());
        self.save(&record).await
    }
}
