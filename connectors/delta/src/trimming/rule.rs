//! Which rows of a history go, without I/O. Rows are judged up to a position, the cut-off; all that come after it stay.
//!
//! What is known at the cut-off stays: of each key the newest row, unless that is a delete; and where the source left
//! columns out of it, of each of these the newest row that has it. What was before the last time that the table was
//! emptied or copied is no longer known. So what the table was at any moment since the cut-off is told as before.
//!
//! Rows of a subject that a legal hold keeps stay, and with them every row of their keys: without the deletes among
//! them, rows that are gone would seem to be there.

use std::collections::HashMap;

use super::unsent::{NONE, SetNumber, UnsentSets};

/// Position of an event: its commit LSN, and its number there.
pub type At = (i64, i64);
/// Hash of a key.
pub type Key = u128;
/// Number of a hold.
pub type HoldNumber = usize;

/// What a row of a history says that it is, as far as that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The row became so.
    State,
    /// It was deleted.
    Delete,
    /// It had been so before an update.
    Preimage,
    /// The table was emptied, or its copy begins.
    Restart,
}

/// A row of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// What it says that it is.
    pub change: Change,
    /// Its position.
    pub at: At,
    /// Its key; none where it has none.
    pub key: Option<Key>,
    /// Columns that the source left out.
    pub unsent: SetNumber,
    /// The hold of the subject whose row it is.
    pub held: Option<HoldNumber>,
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Stays,
    /// It goes.
    Goes,
    /// It would go, and a hold keeps it.
    Held(HoldNumber),
}

/// What is known of the rows of one key up to the cut-off.
#[derive(Clone, Debug, Default)]
struct KeyState {
    /// The newest row of which the source sent all columns, and whether it is a delete.
    whole: Option<(At, bool)>,
    /// For each set of columns that the source left out, the newest row.
    partial: Vec<(SetNumber, At)>,
    held: Option<HoldNumber>,
}

/// What is known of a history's keys up to the cut-off.
#[derive(Debug)]
pub struct Keys {
    /// Whether the table has a key.
    is_keyed: bool,
    /// Position at which the table was last emptied or copied; none if it was not, of what is judged.
    restarted: Option<At>,
    states: HashMap<Key, KeyState>,
}

impl Keys {
    /// Nothing is known yet, of a table with a key or without one.
    pub fn new(is_keyed: bool, restarted: Option<At>) -> Keys {
        Keys { is_keyed, restarted, states: HashMap::new() }
    }

    /// Number of keys of which something is known.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Takes note of a row before the cut-off; of one whose key is not known yet only if `is_new`.
    pub fn note(&mut self, row: &EventRow, is_new: bool) {
        let Some(key) = row.key.filter(|_| self.is_keyed && row.change != Change::Restart) else { return };
        let state = match is_new {
            true => self.states.entry(key).or_default(),
            false => match self.states.get_mut(&key) {
                Some(state) => state,
                None => return,
            },
        };
        state.held = state.held.or(row.held);
        if self.restarted.is_none_or(|restarted| row.at > restarted) {
            state.note(row);
        }
    }

    /// What becomes of a row before the cut-off, once all of them are noted. The row of a key that is not known stays,
    /// unless the table was emptied or copied after it.
    pub fn judge(&self, row: &EventRow, sets: &UnsentSets) -> Verdict {
        let state = row.key.and_then(|key| self.states.get(&key));
        let is_former = self.restarted.is_some_and(|restarted| row.at < restarted);
        let goes = match row.change {
            _ if !self.is_keyed || is_former => true,
            Change::Restart => false,
            Change::Preimage => row.key.is_none() || state.is_some(),
            Change::State | Change::Delete => state.is_some_and(|state| !state.needs(row.at, sets)),
        };
        match row.held.or_else(|| state?.held) {
            Some(hold) if goes => Verdict::Held(hold),
            _ if goes => Verdict::Goes,
            _ => Verdict::Stays,
        }
    }
}

impl KeyState {
    fn note(&mut self, row: &EventRow) {
        let is_delete = row.change == Change::Delete;
        if row.change == Change::Preimage {
            return;
        }
        if row.unsent == NONE || is_delete {
            // Of two at the same position, the one that is no delete counts.
            let noted = (row.at, is_delete);
            let is_newer = |known: (At, bool)| noted.0 > known.0 || (noted.0 == known.0 && known.1);
            if self.whole.is_none_or(is_newer) {
                self.whole = Some(noted);
            }
            return;
        }
        match self.partial.iter_mut().find(|(set, _)| *set == row.unsent) {
            Some((_, at)) => *at = row.at.max(*at),
            None => self.partial.push((row.unsent, row.at)),
        }
    }

    /// Whether the row at a position is needed to tell what the key's row is.
    fn needs(&self, at: At, sets: &UnsentSets) -> bool {
        let partial = self.partial.iter().max_by_key(|(_, at)| *at).copied();
        let whole = self.whole.map(|(at, _)| at);
        let Some((set, newest)) = partial.filter(|(_, at)| Some(*at) > whole) else {
            return self.whole.is_some_and(|(newest, is_delete)| !is_delete && at >= newest);
        };
        let sent = |column: &str| {
            let having = self.partial.iter().filter(|(set, _)| !sets.has(*set, column)).map(|(_, at)| *at);
            having.max().max(whole)
        };
        at >= newest || sets.columns(set).any(|column| sent(column) == Some(at))
    }
}
