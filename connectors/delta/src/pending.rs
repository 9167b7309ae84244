//! Events that wait in memory: kept as bytes, collapsed to the last state of each key, and for values that Postgres left
//! out, the trail to where they are.

use sooner_schemas::event::{Event, Op, TableEvents};

use crate::key::{KeyHash, KeyMap};

/// The number of a state in a [`Pending`].
pub type StateId = u32;

/// Where the row was before a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// Nowhere that matters: the event holds everything.
    Nothing,
    /// In an earlier state of this batch.
    State(StateId),
    /// In a data file, under this key.
    Stored(KeyHash),
}

/// What an event made of a key.
#[derive(Clone, Copy, Debug)]
struct State {
    batch: u32,
    event: u32,
    key: KeyHash,
    former: Former,
}

/// Where a value that was left out is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In the message of this state.
    InState(StateId),
    /// In a data file, in the row of this key.
    Stored(KeyHash),
    /// Nowhere.
    Lost,
}

/// The events of one table since the last seal.
#[derive(Default)]
pub struct Pending {
    batches: Vec<TableEvents>,
    states: Vec<State>,
    latest: KeyMap<StateId>,
    bytes: usize,
}

impl Pending {
    /// Takes a batch in; its events are then pushed one by one.
    pub fn open_batch(&mut self, events: TableEvents) -> u32 {
        self.bytes += events.size_bytes();
        self.states.reserve(events.events.len());
        self.latest.reserve(events.events.len());
        self.batches.push(events);
        self.batches.len() as u32 - 1
    }

    /// Takes the last opened batch out again.
    pub fn take_batch(&mut self, batch: u32) -> TableEvents {
        self.batches.swap_remove(batch as usize)
    }

    /// The batch of that number.
    pub fn batch(&self, batch: u32) -> &TableEvents {
        &self.batches[batch as usize]
    }

    /// Takes an event: `key` is its row's; `old_key` the one that the row had before, if that changed.
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

    /// The last states of all keys, in commit order, with their keys.
    pub fn winners(&self) -> Vec<(StateId, KeyHash)> {
        let mut winners: Vec<_> = self.latest.values().map(|&state| (state, self.states[state as usize].key)).collect();
        winners.sort_unstable_by_key(|(state, _)| *state);
        winners
    }

    /// A state's event.
    pub fn event(&self, state: StateId) -> &Event {
        let State { batch, event, .. } = self.states[state as usize];
        &self.batches[batch as usize].events[event as usize]
    }

    /// A state's value message.
    pub fn message(&self, state: StateId) -> &[u8] {
        let State { batch, .. } = self.states[state as usize];
        &self.batches[batch as usize].bytes[self.event(state).value.clone()]
    }

    /// Follows a value that a state's event left out to where it is.
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

    /// Memory held, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes + self.states.len() * (size_of::<State>() + 2 * size_of::<(KeyHash, StateId)>())
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}
