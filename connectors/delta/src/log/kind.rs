//! What a commit does to the rows that are there, and how the log tells it.

use super::horizon::Horizon;

/// What a commit does to the rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Replaces single rows.
    Merge,
    /// Removes all rows.
    Truncate,
    /// Replaces all rows, and the columns, by a copy.
    Copy,
    /// Moves rows from files into others, and changes none.
    Rearrange,
    /// Moves rows from files into others, but for those that are erased; says whether some of these were live. Whoever
    /// has read files for a commit of its own gives that up: the erased rows may be in what it writes.
    Erase {
        /// Whether live rows go.
        live: bool,
    },
    /// Moves rows of a history from files into others, but for those that it keeps no longer, and says since when it
    /// is whole. Whoever has read files for a commit of its own gives that up.
    Trim(Horizon),
}

impl Kind {
    /// Whether the files whose rows are named go whole.
    pub fn moves_files(self) -> bool {
        matches!(self, Kind::Rearrange | Kind::Erase { .. } | Kind::Trim(_))
    }

    /// Whether rows go because somebody has asked for that: then whoever writes the table does not miss them.
    pub fn is_asked_for(self) -> bool {
        matches!(self, Kind::Erase { .. } | Kind::Trim(_))
    }

    /// Whether readers of changes have to see the commit; they pass over one that changes no data.
    pub fn changes_data(self) -> bool {
        !matches!(self, Kind::Rearrange | Kind::Erase { live: false })
    }

    /// Name of the operation, as Delta's own writers call it.
    pub fn operation(self) -> &'static str {
        match self {
            Kind::Copy => "REPLACE TABLE AS SELECT",
            Kind::Truncate => "TRUNCATE",
            Kind::Merge => "MERGE",
            Kind::Rearrange | Kind::Erase { live: false } => "OPTIMIZE",
            Kind::Erase { live: true } | Kind::Trim(_) => "DELETE",
        }
    }
}
