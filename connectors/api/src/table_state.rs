//! A table's life, on one page: what state it is in, what may happen to it, and what follows.
//!
//! ```text
//!            selected                      rows complete
//!   (none) ───────────▶ copying ─────────────────────────▶ streaming
//!                        ▲ ▲ │                               │ │
//!          copy begins   │ │ │ error                   error │ │ copy needed
//!                        │ │ ▼                               ▼ │
//!                        │ parked ◀──────────────────────────┘ │
//!                        └─────────────────────────────────────┘
//!   waiting: known, but something else comes first (a publication, the start of a copy on the topic)
//!   gone:    dropped or deselected at the source; the lake table is kept
//! ```
//!
//! Everything else that says how a table is doing (progress records, status, the loops' own flags) is a view of this.

use serde::{Deserialize, Serialize};
use sooner_schemas::Lsn;

use crate::Error;

/// What a table is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum TableState {
    /// Known, but not begun: the error says what it waits for. Its events are dropped, since a copy follows.
    Waiting {
        /// What it waits for.
        error: Error,
    },
    /// Its rows are being copied, or will be. Nothing of the copy is visible before it is complete.
    Copying,
    /// Follows the stream.
    Streaming {
        /// Events at or below this commit LSN are part of its last copy. None where the copy's end was not reported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        copied_lsn: Option<Lsn>,
    },
    /// Stopped until `sooner resume`, which copies it again; its events are dropped meanwhile.
    Parked {
        /// Why it stopped, and what to do.
        error: Error,
        /// The last complete copy, which its events up to here follow; none if it stopped before one was complete.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        copied_lsn: Option<Lsn>,
    },
    /// No longer part of the pipeline. Its lake table stays as it was.
    Gone,
}

/// What happened to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableFact {
    /// It is selected, published and readable.
    Selected,
    /// It has to wait for something before it can be copied.
    Blocked(Error),
    /// It must be copied again: somebody asked for it, or rows changed without an event.
    CopyNeeded,
    /// A copy has begun: all rows come again.
    CopyBegun,
    /// All rows of the copy are written, and nothing before this commit LSN is missing.
    CopyEnded(Lsn),
    /// It cannot go on without a person.
    Failed(Error),
    /// It was dropped, or is no longer selected.
    Removed,
}

/// What follows from a fact, for whoever holds the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableEffect {
    /// The new state is stored before anything relies on it.
    Store,
    /// Staged events are discarded, and further ones dropped until a copy begins.
    DropEvents,
    /// A copy is started.
    StartCopy,
}

impl TableState {
    /// The state after a fact, and what follows. Pure; a state that stays is not stored again.
    pub fn step(&self, fact: TableFact) -> (TableState, Vec<TableEffect>) {
        let (next, mut effects) = self.follow(fact);
        if next == *self {
            effects.retain(|effect| *effect != TableEffect::Store);
        }
        (next, effects)
    }

    fn follow(&self, fact: TableFact) -> (TableState, Vec<TableEffect>) {
        use TableEffect::{DropEvents, StartCopy, Store};
        let unchanged = || (self.clone(), Vec::new());
        let copied_lsn = self.copied_lsn();
        match (self, fact) {
            (TableState::Gone, TableFact::Selected) => (TableState::Copying, vec![Store, StartCopy]),
            (TableState::Waiting { .. }, TableFact::Selected) => (TableState::Copying, vec![Store, StartCopy]),
            (_, TableFact::Selected) => unchanged(),
            (TableState::Gone, TableFact::Removed) => unchanged(),
            (_, TableFact::Removed) => (TableState::Gone, vec![Store, DropEvents]),
            (TableState::Gone, _) => unchanged(),
            (_, TableFact::CopyNeeded) => (TableState::Copying, vec![Store, DropEvents, StartCopy]),
            (TableState::Copying, TableFact::CopyBegun) => unchanged(),
            (_, TableFact::CopyBegun) => (TableState::Copying, vec![Store]),
            // Parked on the way: some of its rows were dropped.
            (TableState::Parked { .. } | TableState::Waiting { .. }, TableFact::CopyEnded(_)) => unchanged(),
            (TableState::Streaming { copied_lsn: Some(known) }, TableFact::CopyEnded(lsn)) if *known >= lsn => {
                unchanged()
            }
            (_, TableFact::CopyEnded(lsn)) => (TableState::Streaming { copied_lsn: Some(lsn) }, vec![Store]),
            // The first reason is the one to act on.
            (TableState::Parked { .. }, TableFact::Failed(_)) => unchanged(),
            (_, TableFact::Failed(error)) => (TableState::Parked { error, copied_lsn }, vec![Store, DropEvents]),
            (TableState::Parked { .. }, TableFact::Blocked(_)) => unchanged(),
            (_, TableFact::Blocked(error)) => (TableState::Waiting { error }, vec![Store, DropEvents]),
        }
    }

    /// Whether events of the stream are taken.
    pub fn takes_events(&self) -> bool {
        matches!(self, TableState::Copying | TableState::Streaming { .. })
    }

    /// Whether the table holds back what may be confirmed, whatever else is known of it: only while it follows the
    /// stream. A copy does if it goes on after a break; what is parked or waits is copied later.
    pub fn holds_back(&self) -> bool {
        matches!(self, TableState::Streaming { .. })
    }

    /// The commit LSN of the last complete copy.
    pub fn copied_lsn(&self) -> Option<Lsn> {
        match self {
            TableState::Streaming { copied_lsn } | TableState::Parked { copied_lsn, .. } => *copied_lsn,
            _ => None,
        }
    }

    /// Why it does not go on, and what to do.
    pub fn error(&self) -> Option<&Error> {
        match self {
            TableState::Parked { error, .. } | TableState::Waiting { error } => Some(error),
            _ => None,
        }
    }

    /// One word for people: `copying`, `streaming`, `parked`, `waiting` or `gone`.
    pub fn name(&self) -> &'static str {
        match self {
            TableState::Waiting { .. } => "waiting",
            TableState::Copying => "copying",
            TableState::Streaming { .. } => "streaming",
            TableState::Parked { .. } => "parked",
            TableState::Gone => "gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Code;

    fn error(why: &str) -> Error {
        Error::operator(Code::ShapeChanged, "cannot merge", why, "resume it")
    }

    fn streaming(lsn: u64) -> TableState {
        TableState::Streaming { copied_lsn: Some(Lsn(lsn)) }
    }

    fn parked(why: &str, copied_lsn: Option<Lsn>) -> TableState {
        TableState::Parked { error: error(why), copied_lsn }
    }

    fn any_state() -> impl Strategy<Value = TableState> {
        prop_oneof![
            Just(TableState::Copying),
            Just(TableState::Gone),
            (0..9u64).prop_map(streaming),
            Just(TableState::Streaming { copied_lsn: None }),
            Just(parked("a", None)),
            Just(parked("b", Some(Lsn(4)))),
            Just(TableState::Waiting { error: error("c") }),
        ]
    }

    fn any_fact() -> impl Strategy<Value = TableFact> {
        prop_oneof![
            Just(TableFact::Selected),
            Just(TableFact::Removed),
            Just(TableFact::CopyNeeded),
            Just(TableFact::CopyBegun),
            (0..9u64).prop_map(|lsn| TableFact::CopyEnded(Lsn(lsn))),
            Just(TableFact::Failed(error("x"))),
            Just(TableFact::Blocked(error("y"))),
        ]
    }

    proptest! {
        #[test]
        fn a_state_that_changes_is_stored(state in any_state(), fact in any_fact()) {
            let (next, effects) = state.step(fact);
            prop_assert_eq!(next != state, effects.contains(&TableEffect::Store));
        }

        #[test]
        fn whoever_stops_taking_events_drops_them(state in any_state(), fact in any_fact()) {
            let (next, effects) = state.step(fact);
            if state.takes_events() && !next.takes_events() {
                prop_assert!(effects.contains(&TableEffect::DropEvents));
            }
        }

        #[test]
        fn a_fact_that_is_repeated_changes_nothing_more(state in any_state(), fact in any_fact()) {
            let (once, _) = state.step(fact.clone());
            let (twice, _) = once.step(fact);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn only_a_copy_leads_back_to_the_stream(state in any_state(), fact in any_fact()) {
            let (next, _) = state.step(fact.clone());
            if matches!(next, TableState::Streaming { .. }) && !matches!(state, TableState::Streaming { .. }) {
                prop_assert!(matches!(fact, TableFact::CopyEnded(_)));
            }
        }

        #[test]
        fn states_survive_json(state in any_state()) {
            let text = serde_json::to_string(&state).unwrap();
            prop_assert_eq!(serde_json::from_str::<TableState>(&text).unwrap(), state);
        }
    }

    #[test]
    fn a_table_parked_in_the_middle_of_its_copy_stays_parked_at_its_end() {
        let (parked, _) = TableState::Copying.step(TableFact::Failed(error("row 7")));
        let (state, effects) = parked.step(TableFact::CopyEnded(Lsn(9)));
        assert_eq!((state, effects), (parked, vec![]));
    }

    #[test]
    fn the_first_reason_for_parking_is_kept() {
        let (state, _) = streaming(5).step(TableFact::Failed(error("first")));
        let (state, _) = state.step(TableFact::Failed(error("second")));
        assert_eq!(state, parked("first", Some(Lsn(5))));
    }

    #[test]
    fn resuming_copies_again() {
        let (state, effects) = parked("why", Some(Lsn(5))).step(TableFact::CopyNeeded);
        assert_eq!(state, TableState::Copying);
        assert!(effects.contains(&TableEffect::StartCopy));
    }

    #[test]
    fn only_a_streaming_table_holds_back_what_is_confirmed() {
        assert!(streaming(1).holds_back());
        for state in [TableState::Copying, TableState::Gone, parked("p", None)] {
            assert!(!state.holds_back(), "{}", state.name());
        }
    }

    #[test]
    fn a_dropped_table_that_is_created_again_is_copied() {
        let (gone, _) = streaming(3).step(TableFact::Removed);
        assert_eq!(gone, TableState::Gone);
        assert_eq!(gone.step(TableFact::Failed(error("late"))).0, TableState::Gone);
        assert_eq!(gone.step(TableFact::Selected).0, TableState::Copying);
    }
}
