//! The ports: what a source, an event log, a lake table and a progress store promise each other; and the words that all
//! of them share: positions, table states, batches, errors.
//!
//! Each port has a production and a simulated implementation. None has default methods.

mod batch;
mod code;
mod copy_progress;
mod database;
mod error;
mod failpoint;
mod memory;
mod ports;
mod positions;
mod progress;
mod table_change;
mod table_state;
mod telemetry;

pub use batch::{CopyAnswer, CopyRequest, Coverage, EventBatch, Rows, Step, TableNote, Uncut, WholeTable};
pub use code::Code;
pub use copy_progress::{CopyProgress, CopyRest, LakeCopy, UnfinishedCopy};
pub use database::{
    Database, FollowedTable, GoesOn, Inspection, KnownNames, Source, SourcePlan, SourceTable, SystemIdentity,
    TableToCopy,
};
pub use error::{Class, Error, Result};
pub use failpoint::{
    ALTERATION_FAILPOINTS, COPY_FAILPOINTS, FAILPOINTS, KAFKA_FAILPOINTS, REPARTITION_FAILPOINTS, TRIMMING_FAILPOINTS,
    UPKEEP_FAILPOINTS, failpoint,
};
pub use memory::{MemoryBudget, Reservation};
pub use ports::{
    Alteration, Assigned, Clock, Committed, EventLog, EventReader, EventWriter, Feed, Lake, LakeTable, Opened,
    SchemaRegistry, Staged, Standing, TableSize, TableStart, WriterRequest,
};
pub use positions::{NextOffsets, Positions};
pub use progress::{Applied, AppliedTable, LakePosition, ProgressChange, ProgressRecord, ProgressStore, TableProgress};
pub use table_change::{Outcome, TableChange};
pub use table_state::{TableEffect, TableFact, TableState};
pub use telemetry::{
    Fact, NoTelemetry, PartitionOffsets, Side, SlotStanding, SuccessorStanding, TakesPart, Telemetry, TopicStanding,
};
