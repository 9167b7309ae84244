//! Copies that wait for the stream to get somewhere.

use sooner_api::CopyRequest;
use sooner_schemas::Lsn;

use crate::chunk::CopiedTable;
use crate::postponed::Reshaped;

/// A copy that waits.
pub struct Announced {
    /// Object id of the table.
    pub oid: u32,
    /// Where the stream has to get before: what is before may be changes of rows of another shape, or changes that the
    /// consumer has already.
    pub from: Lsn,
    /// What then happens.
    pub start: CopyStart,
}

/// How a copy starts.
pub enum CopyStart {
    /// All rows come again, by the copy with this id.
    Whole(CopiedTable, u64),
    /// Rows that were asked for are copied over those that are there.
    InPlace(CopiedTable, CopyRequest),
    /// It goes on after a break.
    Released,
    /// It is no copy: its columns are others, although no event may say so.
    Reshaped(Box<Reshaped>),
}

/// Copies that wait.
#[derive(Default)]
pub struct Waiting(Vec<Announced>);

impl Waiting {
    /// A copy waits for the stream to get to an LSN.
    pub fn push(&mut self, oid: u32, from: Lsn, start: CopyStart) {
        self.0.push(Announced { oid, from, start });
    }

    /// Takes those that the stream has got far enough for.
    pub fn take_due(&mut self, end_lsn: Lsn) -> Vec<Announced> {
        self.0.extract_if(.., |announced| end_lsn >= announced.from).collect()
    }

    /// A table is not copied.
    pub fn remove(&mut self, oid: u32) {
        self.0.retain(|announced| announced.oid != oid);
    }

    /// Whether a copy of a table waits.
    pub fn holds(&self, oid: u32) -> bool {
        self.0.iter().any(|announced| announced.oid == oid)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
