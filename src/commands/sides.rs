//! The sides of a pipeline that a process runs.

/// Which sides of a pipeline a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// Source and sink in one process.
    Both,
    /// Only from the database to topics.
    Source,
    /// Only from topics to the lake.
    Sink,
}

impl Sides {
    /// What the audit trail calls a process of these sides.
    pub fn name(self) -> &'static str {
        match self {
            Sides::Both => "pipeline",
            Sides::Source => "source",
            Sides::Sink => "sink",
        }
    }
}
