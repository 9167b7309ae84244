//! What the sink loop and a table's worker tell each other.

use sooner_api::{Committed, Error, LakeCopy, Positions, Step};
use sooner_schemas::event::Watermark;

/// Versions of a table, of its mirror and of its history, that are complete to one position.
pub type Versions = (Option<u64>, Option<u64>);

/// What a worker is told.
#[derive(Debug)]
pub enum TableCommand {
    /// A step with events.
    Step(Box<Step>),
    /// The transaction of the last events has ended: every event of the table up to the watermark has been handed on.
    Complete(Watermark),
    /// So has a copy.
    CopyComplete(Watermark),
    /// The table cannot go on.
    Stop(Box<Error>),
    /// It is to be looked whether the table's log is still what was written.
    Inspect,
    /// Everything up to the watermark has been handed on, and nothing after it: which version has just that?
    Cut(Watermark),
}

impl From<Step> for TableCommand {
    fn from(step: Step) -> TableCommand {
        TableCommand::Step(Box::new(step))
    }
}

/// What a worker has committed.
#[derive(Debug)]
pub struct CommitReport {
    /// What that did.
    pub committed: Committed,
    /// What the table's log says that has been taken.
    pub positions: Option<Positions>,
    /// The table is complete up to here.
    pub watermark: Watermark,
    /// So many steps are committed.
    pub steps: u64,
    /// The copy that they belong to, if that has not ended: nothing of it is visible.
    pub copy: Option<LakeCopy>,
}

/// What a worker reports.
#[derive(Debug)]
pub enum TableReport {
    /// Everything up to a watermark is durable.
    Committed(CommitReport),
    /// The table's log is still what was written, up to the watermark.
    Inspected(Watermark),
    /// A copy has begun.
    CopyBegun,
    /// All rows of a copy are visible.
    CopyEnded(Watermark),
    /// The table stopped; further events are dropped.
    Stopped(Error),
    /// The table has to be copied again first; further events are dropped.
    CopyNeeded(Error),
    /// The version that was asked for at a watermark; none if the table is complete to no position.
    Cut(Watermark, Option<CutVersions>),
    /// The pipeline cannot go on.
    Failed(Error),
}

/// Versions of a table that are complete to one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutVersions {
    /// Of its mirror and of its history.
    pub versions: Versions,
    /// All of its events come here, in commit order, so that they are complete to there.
    pub is_whole: bool,
}
