//! What is known of tables and waits for its moment: copies that begin between two transactions, and an inspection of
//! all tables.

use std::time::Duration;

use sooner_api::{Error, Result};
use tokio::time::Instant;

/// While tables are copied, all tables are inspected again no sooner than this after the last time: copies go on
/// afterwards, but what is on its way is read again.
const INSPECTION_PAUSE: Duration = Duration::from_secs(10);

/// What waits.
#[derive(Debug)]
pub struct Postponed {
    /// Tables, by object id, that have to be copied again.
    pub recopy: Vec<u32>,
    /// Tables, by object id, that were dropped while others were copied.
    pub dropped: Vec<u32>,
    /// Why all tables have to be inspected again.
    changed: Option<Error>,
    /// Tables are being copied.
    is_copying: bool,
    /// Copies would begin again, and have come some way.
    is_fragile: bool,
    /// When all tables were inspected.
    inspected: Instant,
}

impl Default for Postponed {
    fn default() -> Postponed {
        let (recopy, dropped, inspected) = (Vec::new(), Vec::new(), Instant::now());
        Postponed { recopy, dropped, changed: None, is_copying: false, is_fragile: false, inspected }
    }
}

impl Postponed {
    /// Tables came or went, and nothing is wrong until they are inspected: an error, now or later.
    pub fn change(&mut self, dropped: Option<u32>, why: Error) -> Result<()> {
        self.dropped.extend(dropped);
        self.changed.get_or_insert(why);
        self.set_copying(self.is_copying, self.is_fragile)
    }

    /// Whether tables are being copied, and whether that would begin again. An error if tables came or went, and it is
    /// time to see to it.
    pub fn set_copying(&mut self, is_copying: bool, is_fragile: bool) -> Result<()> {
        (self.is_copying, self.is_fragile) = (is_copying, is_fragile);
        let is_time = !is_copying || !is_fragile && self.inspected.elapsed() >= INSPECTION_PAUSE;
        match self.changed.take_if(|_| is_time) {
            Some(changed) => Err(changed),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::Code;

    use super::*;

    fn changed() -> Error {
        Error::retry(Code::TablesChanged, "the tables are inspected again", "one was dropped", "nothing")
    }

    #[tokio::test(start_paused = true)]
    async fn tables_are_inspected_again_at_once_unless_copies_would_be_broken_off_all_the_time() {
        let mut postponed = Postponed::default();
        assert!(postponed.change(None, changed()).is_err());
        postponed.set_copying(true, false).unwrap();
        postponed.change(Some(7), changed()).unwrap();
        assert_eq!(postponed.dropped, [7]);
        postponed.set_copying(true, false).unwrap();
        assert_eq!(postponed.set_copying(false, false).unwrap_err().code, Code::TablesChanged);
        postponed.change(None, changed()).unwrap_err();
        postponed.set_copying(true, false).unwrap();
        postponed.change(None, changed()).unwrap();
        tokio::time::sleep(INSPECTION_PAUSE).await;
        postponed.set_copying(true, true).unwrap();
        assert_eq!(postponed.set_copying(true, false).unwrap_err().code, Code::TablesChanged);
        postponed.set_copying(true, false).unwrap();
    }
}
