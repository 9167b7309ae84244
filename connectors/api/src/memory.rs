//! Memory for events on their way, in bytes: whoever fills it waits for room, and whoever drops what it holds gives the
//! room back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// One unit of a budget: semaphores count in 32 bits.
const UNIT_BYTES: usize = 1024;
/// How often those who hold memory are asked again to give some back, while somebody waits for it.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(20);

/// A bound in bytes that several tasks share. Clones share the same bound.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    free: Arc<Semaphore>,
    total_units: u32,
    pressure: Arc<Notify>,
    /// How many wait for room.
    waiting: Arc<AtomicUsize>,
}

/// One who waits for room, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Room that is taken from a budget; dropping it gives the room back. The default holds nothing.
#[derive(Debug, Default)]
pub struct Reservation(Option<OwnedSemaphorePermit>);

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |permit| permit.num_permits() * UNIT_BYTES)
    }

    /// Takes a share of so many bytes out of this one; all that is left, if that is less.
    pub fn split(&mut self, bytes: usize) -> Reservation {
        let Some(permit) = &mut self.0 else { return Reservation::default() };
        let share = bytes.div_ceil(UNIT_BYTES).min(permit.num_permits());
        Reservation(permit.split(share))
    }
}

impl MemoryBudget {
    /// A budget of this size.
    pub fn new(bytes: usize) -> MemoryBudget {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        MemoryBudget {
            free: Arc::new(Semaphore::new(units as usize)),
            total_units: units,
            pressure: Arc::default(),
            waiting: Arc::default(),
        }
    }

    /// Takes room for so many bytes; waits until there is room. More than the whole budget waits for all of it.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let units = self.units(bytes);
        if let Ok(permit) = self.free.clone().try_acquire_many_owned(units) {
            return Reservation(Some(permit));
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        self.pressure.notify_waiters();
        let mut acquiring = std::pin::pin!(self.free.clone().acquire_many_owned(units));
        loop {
            tokio::select! {
                biased;
                // The semaphore is never closed.
                permit = &mut acquiring => return Reservation(permit.ok()),
                // A holder that was busy when the pressure rose is asked again.
                () = tokio::time::sleep(PRESSURE_INTERVAL) => self.pressure.notify_waiters(),
            }
        }
    }

    /// Takes room for so many bytes if there is room now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let permit = self.free.clone().try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(Reservation(Some(permit)))
    }

    /// Waits until somebody waits for room.
    pub async fn pressed(&self) {
        self.pressure.notified().await;
    }

    /// Bytes that are free at the moment.
    pub fn free_bytes(&self) -> usize {
        self.free.available_permits() * UNIT_BYTES
    }

    /// Bytes of the whole budget.
    pub fn limit_bytes(&self) -> usize {
        self.total_units as usize * UNIT_BYTES
    }

    /// Whether somebody waits for room at the moment.
    pub fn is_pressed(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.total_units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_a_reservation_gives_its_room_back() {
        let budget = MemoryBudget::new(10 << 10);
        let first = budget.reserve(6 << 10).await;
        assert_eq!((first.bytes(), budget.free_bytes()), (6 << 10, 4 << 10));
        assert!(budget.try_reserve(5 << 10).is_none());
        drop(first);
        assert_eq!(budget.free_bytes(), 10 << 10);
    }

    #[tokio::test]
    async fn more_than_everything_waits_for_everything_and_then_passes() {
        let budget = MemoryBudget::new(4 << 10);
        let held = budget.reserve(1).await;
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(1 << 20).await.bytes() }
        });
        budget.pressed().await;
        drop(held);
        assert_eq!(waiting.await.unwrap(), 4 << 10);
        assert_eq!(budget.free_bytes(), 4 << 10);
    }

    #[tokio::test]
    async fn shares_of_a_reservation_are_given_back_one_by_one() {
        let budget = MemoryBudget::new(10 << 10);
        let mut whole = budget.reserve(5 << 10).await;
        let (first, second) = (whole.split(3 << 10), whole.split(9 << 10));
        assert_eq!((first.bytes(), second.bytes(), whole.bytes()), (3 << 10, 2 << 10, 0));
        drop(first);
        assert_eq!(budget.free_bytes(), 8 << 10);
    }

    #[test]
    fn nothing_reserved_holds_nothing() {
        assert_eq!(Reservation::default().bytes(), 0);
    }
}
