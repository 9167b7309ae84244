//! Events that wait in memory to be sealed: kept as bytes, collapsed to the last state of each key; and, for values
//! that Postgres left out, the trail to where they are found.

use sooner_api::Rows;
use sooner_schemas::event::{Event, Op, TableEvents};

use crate::index::key::{KeyHash, KeyMap};

/// Number of a state in a [`Pending`]; states are numbered in commit order.
pub type StateId = u32;

/// Where a row's values before a state are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// They are not needed: the event holds all values.
    Nothing,
    /// In this earlier state, which is pending, too.
    State(StateId),
    /// In a data file, in the row of this key.
    Stored(KeyHash),
}

/// State that an event gave to a key.
#[derive(Clone, Copy, Debug)]
struct State {
    batch: u32,
    event: u32,
    key: KeyHash,
    former: Former,
}

/// The state of a row, of one key.
#[derive(Clone, Copy, Debug)]
pub struct RowState {
    /// The state.
    pub state: StateId,
    /// Its key.
    pub key: KeyHash,
}

/// Where a value that Postgres left out is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In the value message of this state's event.
    InState(StateId),
    /// In a data file, in the row of this key.
    Stored(KeyHash),
    /// The value is neither pending nor stored.
    Lost,
}

/// Events of one table since the last seal.
#[derive(Default)]
pub struct Pending {
    batches: Vec<Rows>,
    states: Vec<State>,
    latest: KeyMap<StateId>,
    bytes: usize,
}

impl Pending {
    /// Takes a batch in, with the memory that is reserved for it; its events are then pushed one by one.
    pub fn open_batch(&mut self, rows: Rows) -> u32 {
        let events = &rows.events;
        self.bytes += events.size_bytes();
        self.states.reserve(events.events.len());
        self.latest.reserve(events.events.len());
        self.batches.push(rows);
        self.batches.len() as u32 - 1
    }

    /// The batch with this number.
    pub fn batch(&self, batch: u32) -> &TableEvents {
        &self.batches[batch as usize].events
    }

    /// Pushes an event, given by its batch and its index in it, as the latest state of `key`. `old_key` is the key
    /// that the row had before, if it changed. Push events in commit order.
    pub fn push(&mut self, batch: u32, event: u32, key: KeyHash, old_key: Option<KeyHash>) {
        let lineage = old_key.unwrap_or(key);
        let former = {
            let event = &self.batches[batch as usize].events.events[event as usize];
            let needs_former = event.op == Op::Delete || !event.unavailable.is_empty();
            match (needs_former, self.latest.get(&lineage)) {
                (false, _) => Former::Nothing,
                (true, Some(&state)) => Former::State(state),
                (true, None) => Former::Stored(lineage),
            }
        };
        let id = self.states.len() as StateId;
        self.states.push(State { batch, event, key, former });
        self.latest.insert(key, id);
    }

    /// Forgets all events: the table was truncated.
    pub fn clear(&mut self) {
        *self = Pending::default();
    }

    /// The last state of each key, with that key, in commit order.
    pub fn winners(&self) -> Vec<RowState> {
        let rows = self.latest.values().map(|&state| RowState { state, key: self.states[state as usize].key });
        let mut winners: Vec<_> = rows.collect();
        winners.sort_unstable_by_key(|row| row.state);
        winners
    }

    /// All states, in commit order.
    pub fn states(&self) -> impl Iterator<Item = StateId> + use<> {
        0..self.states.len() as StateId
    }

    /// The event that led to a state.
    pub fn event(&self, state: StateId) -> &Event {
        let State { batch, event, .. } = self.states[state as usize];
        &self.batches[batch as usize].events.events[event as usize]
    }

    /// The value message of a state's event.
    pub fn message(&self, state: StateId) -> &[u8] {
        let State { batch, .. } = self.states[state as usize];
        &self.batches[batch as usize].events.bytes[self.event(state).value.clone()]
    }

    /// Finds the value of a column that a state's event left out, by following the row's former states.
    pub fn find(&self, state: StateId, column: u16) -> Found {
        let mut former = self.states[state as usize].former;
        loop {
            match former {
                Former::Nothing => return Found::Lost,
                Former::Stored(key) => return Found::Stored(key),
                Former::State(id) => {
                    let event = self.event(id);
                    if event.op != Op::Delete && !event.unavailable.contains(&column) {
                        return Found::InState(id);
                    }
                    former = self.states[id as usize].former;
                }
            }
        }
    }

    /// The state that a row had in memory before this one deleted it.
    pub fn row_before(&self, state: StateId) -> Option<StateId> {
        match self.states[state as usize].former {
            Former::State(former) if self.event(former).op != Op::Delete => Some(former),
            _ => None,
        }
    }

    /// The state by which a row was deleted, given the last one of its key, and where the row's values are. Of several
    /// deletes in a row, the first one counts.
    pub fn deletion(&self, last: StateId) -> (StateId, Former) {
        let mut first = last;
        loop {
            match self.states[first as usize].former {
                Former::State(former) if self.event(former).op == Op::Delete => first = former,
                former => return (first, former),
            }
        }
    }

    /// Whether nothing came after this state.
    pub fn is_last(&self, state: StateId) -> bool {
        state as usize + 1 == self.states.len()
    }

    /// Approximate memory held, in bytes: the batches, the states and the map of keys.
    pub fn size_bytes(&self) -> usize {
        self.bytes + self.states.len() * (size_of::<State>() + 2 * size_of::<(KeyHash, StateId)>())
    }

    /// Whether no event has been pushed.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use sooner_schemas::event::EventSchema;
    use sooner_schemas::{Lsn, Position, TableName};

    use super::*;

    /// One event: what happened, its key, the key before, and whether column 1 was left out.
    type Change = (Op, KeyHash, Option<KeyHash>, bool);

    fn pending(changes: &[Change]) -> Pending {
        let value = r#"{"type":"record","name":"Envelope","fields":[]}"#;
        let schema = Arc::new(EventSchema::parse(TableName::new("public", "t"), None, value).unwrap());
        let mut events = TableEvents::new(schema);
        for (ordinal, (op, _, _, left_out)) in changes.iter().enumerate() {
            events.bytes.push(ordinal as u8);
            events.events.push(Event {
                position: Position { commit_lsn: Lsn(1), ordinal: ordinal as u64 },
                op: *op,
                key: 0..0,
                value: ordinal..ordinal + 1,
                unavailable: if *left_out { Box::new([1]) } else { Box::default() },
                old_key: None,
            });
        }
        let mut pending = Pending::default();
        let batch = pending.open_batch(Rows::new(events));
        for (index, (_, key, old_key, _)) in changes.iter().enumerate() {
            pending.push(batch, index as u32, *key, *old_key);
        }
        pending
    }

    fn winners(pending: &Pending) -> Vec<(u8, KeyHash)> {
        pending.winners().into_iter().map(|row| (pending.message(row.state)[0], row.key)).collect()
    }

    #[test]
    fn only_the_last_state_of_each_key_is_left_in_commit_order() {
        let pending = pending(&[
            (Op::Create, 1, None, false),
            (Op::Create, 2, None, false),
            (Op::Update, 1, None, false),
            (Op::Delete, 3, None, false),
        ]);
        assert_eq!(winners(&pending), [(1, 2), (2, 1), (3, 3)]);
    }

    #[test]
    fn a_value_that_was_left_out_is_in_the_event_before() {
        let pending =
            pending(&[(Op::Create, 1, None, false), (Op::Update, 1, None, true), (Op::Update, 1, None, true)]);
        assert_eq!(pending.find(2, 1), Found::InState(0));
    }

    #[test]
    fn a_value_that_no_event_has_is_in_the_stored_row() {
        let pending = pending(&[(Op::Update, 1, None, true)]);
        assert_eq!(pending.find(0, 1), Found::Stored(1));
    }

    #[test]
    fn a_changed_key_leads_to_the_row_of_the_former_key() {
        let changes = [(Op::Delete, 1, None, false), (Op::Create, 2, Some(1), true)];
        assert_eq!(pending(&changes).find(1, 1), Found::Stored(1));
        let changes = [(Op::Create, 1, None, false), (Op::Delete, 1, None, false), (Op::Create, 2, Some(1), true)];
        assert_eq!(pending(&changes).find(2, 1), Found::InState(0));
    }

    #[test]
    fn a_value_left_out_of_a_row_that_was_just_made_is_lost() {
        let mut pending = pending(&[(Op::Create, 1, None, false)]);
        pending.states[0].former = Former::Nothing;
        assert_eq!(pending.find(0, 1), Found::Lost);
    }

    proptest! {
        #[test]
        fn as_many_keys_win_as_were_touched(keys in prop::collection::vec(0..9u128, 0..40)) {
            let changes: Vec<Change> = keys.iter().map(|key| (Op::Update, *key, None, false)).collect();
            let pending = pending(&changes);
            let last_of = |key: u128| keys.iter().rposition(|known| *known == key).unwrap() as u8;
            let expected: std::collections::BTreeSet<_> = keys.iter().map(|key| (last_of(*key), *key)).collect();
            prop_assert_eq!(winners(&pending), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
