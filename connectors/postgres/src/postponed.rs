//! What is known of tables and waits for its moment: copies that begin between two transactions, and an inspection of
//! all tables.

use std::sync::Arc;
use std::time::Duration;

use sooner_api::{Error, Result, SourceTable};
use sooner_schemas::Relation;
use tokio::time::Instant;

/// While tables are copied, all tables are inspected again no sooner than this after the last time: copies go on
/// afterwards, but what is on its way is read again.
const INSPECTION_PAUSE: Duration = Duration::from_secs(10);

/// A table whose columns are others by now, and whose rows need no copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshaped {
    /// The table, as it is by now.
    pub table: SourceTable,
    /// What its events were last written by, when that was noticed.
    pub written: Arc<Relation>,
}

/// What waits.
#[derive(Debug)]
pub struct Postponed {
    /// Tables, by object id, that have to be copied again.
    pub recopy: Vec<u32>,
    /// Tables whose columns are others by now.
    pub reshaped: Vec<Reshaped>,
    /// Tables, by object id, that were dropped while others were copied.
    pub dropped: Vec<u32>,
    /// Why all tables have to be inspected again.
    changed: Option<Error>,
    /// Tables are being copied.
    is_copying: bool,
    /// When all tables were inspected.
    inspected: Instant,
}

impl Default for Postponed {
    fn default() -> Postponed {
        let (recopy, reshaped, dropped) = Default::default();
        Postponed { recopy, reshaped, dropped, changed: None, is_copying: false, inspected: Instant::now() }
    }
}

impl Postponed {
    /// Whether there is something to be done about a table, once the stream is between two transactions.
    pub fn is_due(&self) -> bool {
        !self.recopy.is_empty() || !self.reshaped.is_empty()
    }

    /// Tables came or went, and nothing is wrong until they are inspected: an error now, or once it is time to see to
    /// it.
    pub fn change(&mut self, dropped: Option<u32>, why: Error) -> Result<()> {
        if !self.is_copying {
            return Err(why);
        }
        self.dropped.extend(dropped);
        self.changed.get_or_insert(why);
        Ok(())
    }

    /// Whether tables are being copied. An error if tables came or went, and it is time to see to it, which it never is
    /// while copies are fragile: they have come some way, and would begin again.
    pub fn set_copying(&mut self, is_copying: bool, are_fragile: impl FnOnce() -> bool) -> Result<()> {
        self.is_copying = is_copying;
        if self.changed.is_none() {
            return Ok(());
        }
        let is_time = !is_copying || self.inspected.elapsed() >= INSPECTION_PAUSE && !are_fragile();
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
        postponed.set_copying(true, || false).unwrap();
        postponed.change(Some(7), changed()).unwrap();
        assert_eq!(postponed.dropped, [7]);
        postponed.set_copying(true, || false).unwrap();
        assert_eq!(postponed.set_copying(false, || false).unwrap_err().code, Code::TablesChanged);
        postponed.change(None, changed()).unwrap_err();
        postponed.set_copying(true, || false).unwrap();
        postponed.change(None, changed()).unwrap();
        tokio::time::sleep(INSPECTION_PAUSE).await;
        postponed.set_copying(true, || true).unwrap();
        assert_eq!(postponed.set_copying(true, || false).unwrap_err().code, Code::TablesChanged);
        postponed.set_copying(true, || false).unwrap();
    }
}
