//! What a row of a history says that it is.

use sooner_schemas::event::Op;

/// What a row of a history says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeType {
    /// A row was inserted.
    Insert,
    /// The row as it was before an update; the one that it became follows at the same position.
    Preimage,
    /// The row as an update made it.
    Postimage,
    /// A row was deleted.
    Delete,
    /// A row was read by a copy.
    Snapshot,
    /// All rows of the table were removed.
    Truncate,
    /// A copy of the whole table begins.
    SnapshotStart,
}

/// All of them.
const ALL: [ChangeType; 7] = [
    ChangeType::Insert,
    ChangeType::Preimage,
    ChangeType::Postimage,
    ChangeType::Delete,
    ChangeType::Snapshot,
    ChangeType::Truncate,
    ChangeType::SnapshotStart,
];

impl ChangeType {
    /// The name of a change, as Delta's change data feed has it where it has it:
    /// <https://docs.delta.io/latest/delta-change-data-feed.html>
    pub fn name(self) -> &'static str {
        match self {
            ChangeType::Insert => "insert",
            ChangeType::Preimage => "update_preimage",
            ChangeType::Postimage => "update_postimage",
            ChangeType::Delete => "delete",
            ChangeType::Snapshot => "snapshot",
            ChangeType::Truncate => "truncate",
            ChangeType::SnapshotStart => "snapshot_start",
        }
    }

    /// The change of a name; none if there is no such one.
    pub fn of_name(name: &str) -> Option<ChangeType> {
        ALL.into_iter().find(|change| change.name() == name)
    }

    /// The operation of an event that it is a row of.
    pub fn op(self) -> Op {
        match self {
            ChangeType::Insert => Op::Create,
            ChangeType::Preimage | ChangeType::Postimage => Op::Update,
            ChangeType::Delete => Op::Delete,
            ChangeType::Snapshot => Op::Read,
            ChangeType::Truncate => Op::Truncate,
            ChangeType::SnapshotStart => Op::CopyStart,
        }
    }

    /// What an event is, by its envelope's `op`: whoever reads a topic tells rows that are there from those that are
    /// not, and leaves the rest to the envelope.
    pub fn of(event: Op, op: Option<&str>) -> ChangeType {
        match (event, op) {
            (Op::Truncate, _) => ChangeType::Truncate,
            (Op::CopyStart, _) => ChangeType::SnapshotStart,
            (Op::Delete, _) => ChangeType::Delete,
            (_, Some("r")) | (Op::Read, _) => ChangeType::Snapshot,
            (_, Some("c")) | (Op::Create, _) => ChangeType::Insert,
            (Op::Update, _) => ChangeType::Postimage,
        }
    }
}
