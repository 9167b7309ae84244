//! Events that wait in memory to be sealed: kept as bytes, collapsed to the last state of each key; and, for values
//! that Postgres left out, the trail to where they are found.

use sooner_schemas::event::{Event, Op, TableEvents};

use crate::key::{KeyHash, KeyMap};

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
    batches: Vec<TableEvents>,
    states: Vec<State>,
    latest: KeyMap<StateId>,
    bytes: usize,
}

impl Pending {
    /// Adds a batch and returns its number. Its events count only once they are pushed, one by one.
    pub fn open_batch(&mut self, events: TableEvents) -> u32 {
        self.bytes += events.size_bytes();
        self.states.reserve(events.events.len());
        self.latest.reserve(events.events.len());
        self.batches.push(events);
        self.batches.len() as u32 - 1
    }

    /// Removes and returns a batch, which must be the one that was opened last.
    pub fn take_batch(&mut self, batch: u32) -> TableEvents {
        self.batches.swap_remove(batch as usize)
    }

    /// The batch with this number.
    pub fn batch(&self, batch: u32) -> &TableEvents {
        &self.batches[batch as usize]
    }

    /// Pushes an event, given by its batch and its index in it, as the latest state of `key`. `old_key` is the key
    /// that the row had before, if it changed. Push events in commit order.
    pub fn push(&mut self, batch: u32, event: u32, key: KeyHash, old_key: Option<KeyHash>) {
        let lineage = old_key.unwrap_or(key);
        let former = {
            let event = &self.batches[batch as usize].events[event as usize];
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
    pub fn winners(&self) -> Vec<(StateId, KeyHash)> {
        let mut winners: Vec<_> = self.latest.values().map(|&state| (state, self.states[state as usize].key)).collect();
        winners.sort_unstable_by_key(|(state, _)| *state);
        winners
    }

    /// The event that led to a state.
    pub fn event(&self, state: StateId) -> &Event {
        let State { batch, event, .. } = self.states[state as usize];
        &self.batches[batch as usize].events[event as usize]
    }

    /// The value message of a state's event.
    pub fn message(&self, state: StateId) -> &[u8] {
        let State { batch, .. } = self.states[state as usize];
        &self.batches[batch as usize].bytes[self.event(state).value.clone()]
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

    /// Approximate memory held, in bytes: the batches, the states and the map of keys.
    pub fn size_bytes(&self) -> usize {
        self.bytes + self.states.len() * (size_of::<State>() + 2 * size_of::<(KeyHash, StateId)>())
    }

    /// Whether no event has been pushed.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}
