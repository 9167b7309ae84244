//! The memory that events may take between being read and being sealed into files.

use std::sync::Arc;

use sooner_schemas::event::{EventBatch, TableEvents};
use tokio::sync::{Notify, Semaphore};

/// One unit of the budget; a semaphore counts in 32 bits.
const UNIT_BYTES: usize = 1024;

/// A bound in bytes, shared by whoever fills memory and whoever empties it.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    free: Arc<Semaphore>,
    total_units: u32,
    pressure: Arc<Notify>,
}

impl MemoryBudget {
    /// A budget of this size.
    pub fn new(bytes: usize) -> MemoryBudget {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        MemoryBudget { free: Arc::new(Semaphore::new(units as usize)), total_units: units, pressure: Arc::default() }
    }

    /// Reserves room for a batch, and marks its parts with their share; waits until there is room. A batch larger than
    /// the whole budget waits for all of it.
    pub async fn reserve(&self, batch: &mut EventBatch) {
        let mut left = self.total_units;
        for table in &mut batch.tables {
            let units = u32::try_from(table.size_bytes().div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(left);
            left -= units;
            table.reserved_bytes = units as usize * UNIT_BYTES;
        }
        let units = self.total_units - left;
        if let Ok(permits) = self.free.try_acquire_many(units) {
            return permits.forget();
        }
        self.pressure.notify_waiters();
        let mut acquiring = std::pin::pin!(self.free.acquire_many(units));
        loop {
            tokio::select! {
                permits = &mut acquiring => {
                    // The semaphore is never closed.
                    if let Ok(permits) = permits { permits.forget() }
                    return;
                }
                // Whoever was busy when the pressure rose hears of it again.
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => self.pressure.notify_waiters(),
            }
        }
    }

    /// Gives room back.
    pub fn release(&self, bytes: usize) {
        self.free.add_permits(bytes / UNIT_BYTES);
    }

    /// Gives back what dropped events held.
    pub fn release_events(&self, events: &TableEvents) {
        self.release(events.reserved_bytes);
    }

    /// Waits until somebody waits for room.
    pub async fn pressed(&self) {
        self.pressure.notified().await;
    }
}
