//! What is known of tables and waits for its moment: copies that begin between two transactions, and an inspection of
//! all tables that begins once no table is copied.

use sooner_api::{Error, Result};

/// What waits.
#[derive(Debug, Default)]
pub struct Postponed {
    /// Tables, by object id, that have to be copied again.
    pub recopy: Vec<u32>,
    /// Tables, by object id, that were dropped while others were copied.
    pub dropped: Vec<u32>,
    /// Why all tables have to be inspected again.
    changed: Option<Error>,
    /// Tables are being copied. To inspect all tables means to begin copies again, so it waits for that.
    is_copying: bool,
}

impl Postponed {
    /// Tables came or went, and nothing is wrong until they are inspected: an error now, or once no table is copied.
    pub fn change(&mut self, dropped: Option<u32>, why: Error) -> Result<()> {
        if !self.is_copying {
            return Err(why);
        }
        self.dropped.extend(dropped);
        self.changed = Some(why);
        Ok(())
    }

    /// Whether tables are being copied. An error if tables came or went meanwhile.
    pub fn set_copying(&mut self, is_copying: bool) -> Result<()> {
        self.is_copying = is_copying;
        match self.changed.take_if(|_| !is_copying) {
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

    #[test]
    fn tables_are_inspected_again_once_none_is_copied() {
        let mut postponed = Postponed::default();
        assert!(postponed.change(None, changed()).is_err());
        postponed.set_copying(true).unwrap();
        postponed.change(Some(7), changed()).unwrap();
        assert_eq!(postponed.dropped, [7]);
        postponed.set_copying(true).unwrap();
        assert_eq!(postponed.set_copying(false).unwrap_err().code, Code::TablesChanged);
        postponed.set_copying(false).unwrap();
    }
}
