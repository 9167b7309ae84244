//! Encodes a change as an event: key, envelope and position, appended to a batch.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use super::{RowPlan, TupleValue, ValueError};
use crate::event::{Event, EventSchema, Op, TableEvents};
use crate::lsn::{Lsn, Position};
use crate::relation::Relation;
use crate::wire::{write_bytes, write_header, write_long};

/// Registry ids of a table's key and value schemas.
#[derive(Clone, Copy, Debug)]
pub struct SchemaIds {
    /// Id of the key schema; none for a table without a key.
    pub key: Option<u32>,
    /// Id of the value schema.
    pub value: u32,
}

/// Whether a row was read by the initial copy or from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// The row was read by the initial copy.
    Yes,
    /// The row was read from the stream.
    No,
}

/// Origin of an event: what its `source` block and its timestamps are written from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Position of the event.
    pub position: Position,
    /// LSN of the row's own WAL record; for a copied row, the LSN of the snapshot.
    pub lsn: Lsn,
    /// Transaction id; 0 for a copied row.
    pub xid: u32,
    /// Commit time of the transaction, or the time of the copy's start, in microseconds since 1970.
    pub source_micros: i64,
    /// The wall clock's time, in microseconds since 1970.
    pub now_micros: i64,
    /// Whether the row was copied or streamed.
    pub snapshot: Snapshot,
}

/// Appends the events of one relation to a batch. A method that fails leaves the batch as it was.
#[derive(Debug)]
pub struct Encoder {
    schema: Arc<EventSchema>,
    ids: SchemaIds,
    key: Option<RowPlan>,
    key_columns: Vec<usize>,
    row: RowPlan,
    source_head: Vec<u8>,
    source_database: Vec<u8>,
    source_table: Vec<u8>,
}

impl Encoder {
    /// Compiles the plan for a relation of `database`; `prefix` is the pipeline's name, the `name` of the source block.
    pub fn new(relation: &Relation, schema: Arc<EventSchema>, ids: SchemaIds, prefix: &str, database: &str) -> Encoder {
        Encoder {
            schema,
            ids,
            key: (!relation.key.is_empty()).then(|| RowPlan::key(relation)),
            key_columns: relation.key.clone(),
            row: RowPlan::value(relation),
            source_head: strings(&[env!("CARGO_PKG_VERSION"), "postgresql", prefix]),
            source_database: strings(&[database]),
            source_table: strings(&[&relation.name.schema, &relation.name.table]),
        }
    }

    /// The schemas under which the events are written.
    pub fn schema(&self) -> &Arc<EventSchema> {
        &self.schema
    }

    /// Number of columns that a row must have at least.
    pub fn width(&self) -> usize {
        self.row.width()
    }

    /// Appends a row that the initial copy read.
    pub fn read(&self, out: &mut TableEvents, origin: &Origin, row: &[TupleValue<'_>]) -> Result<(), ValueError> {
        self.upsert(out, origin, Op::Read, None, row, None)
    }

    /// Appends an inserted row.
    pub fn insert(&self, out: &mut TableEvents, origin: &Origin, row: &[TupleValue<'_>]) -> Result<(), ValueError> {
        self.upsert(out, origin, Op::Create, None, row, None)
    }

    /// Appends an updated row whose key did not change; `before` is the whole old row, if the replica identity is full.
    pub fn update(
        &self,
        out: &mut TableEvents,
        origin: &Origin,
        before: Option<&[TupleValue<'_>]>,
        row: &[TupleValue<'_>],
    ) -> Result<(), ValueError> {
        self.upsert(out, origin, Op::Update, before, row, None)
    }

    /// Appends the new row of an update that changed the key, as an insert; `old` holds the old key.
    pub fn insert_renamed(
        &self,
        out: &mut TableEvents,
        origin: &Origin,
        old: &[TupleValue<'_>],
        row: &[TupleValue<'_>],
    ) -> Result<(), ValueError> {
        self.upsert(out, origin, Op::Create, None, row, Some(old))
    }

    /// Appends a deleted row; `whole` says whether `old` holds all columns or only the key.
    pub fn delete(
        &self,
        out: &mut TableEvents,
        origin: &Origin,
        old: &[TupleValue<'_>],
        whole: bool,
    ) -> Result<(), ValueError> {
        self.event(out, origin, Op::Delete, |encoder, bytes| {
            let key = encoder.write_key(bytes, old)?;
            let start = bytes.len();
            write_header(bytes, encoder.ids.value);
            write_long(bytes, 1);
            if whole {
                encoder.row.write(bytes, old, &mut Vec::new())?;
            } else {
                encoder.row.write_key_only(bytes, old)?;
            }
            write_long(bytes, 0);
            Ok(Parts { key, value_start: start, unavailable: Vec::new(), old_key: None })
        })
    }

    /// Appends the truncation of the table.
    pub fn truncate(&self, out: &mut TableEvents, origin: &Origin) {
        self.without_rows(out, origin, Op::Truncate);
    }

    /// Appends the start of a copy, after which all rows of the table follow again.
    pub fn copy_start(&self, out: &mut TableEvents, origin: &Origin) {
        self.without_rows(out, origin, Op::CopyStart);
    }

    fn without_rows(&self, out: &mut TableEvents, origin: &Origin, op: Op) {
        let written = self.event(out, origin, op, |encoder, bytes| {
            let start = bytes.len();
            write_header(bytes, encoder.ids.value);
            write_long(bytes, 0);
            write_long(bytes, 0);
            Ok(Parts { key: start..start, value_start: start, unavailable: Vec::new(), old_key: None })
        });
        debug_assert!(written.is_ok(), "a truncate has no values that could fail");
    }

    /// Formats the key columns of `row` for a message to the operator, such as `id=7`; a value that is not known is
    /// shown as `?`.
    pub fn describe_key(&self, relation: &Relation, row: &[TupleValue<'_>]) -> String {
        let parts = self.key_columns.iter().map(|&index| match row.get(index) {
            Some(TupleValue::Text(text)) => {
                format!("{}={}", relation.columns[index].name, String::from_utf8_lossy(text))
            }
            _ => format!("{}=?", relation.columns[index].name),
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    fn upsert(
        &self,
        out: &mut TableEvents,
        origin: &Origin,
        op: Op,
        before: Option<&[TupleValue<'_>]>,
        row: &[TupleValue<'_>],
        old_key: Option<&[TupleValue<'_>]>,
    ) -> Result<(), ValueError> {
        self.event(out, origin, op, |encoder, bytes| {
            let old_key = old_key.map(|old| encoder.write_key(bytes, old)).transpose()?;
            let key = encoder.write_key(bytes, row)?;
            let value_start = bytes.len();
            write_header(bytes, encoder.ids.value);
            match before {
                None => write_long(bytes, 0),
                Some(before) => {
                    write_long(bytes, 1);
                    encoder.row.write(bytes, before, &mut Vec::new())?;
                }
            }
            write_long(bytes, 1);
            let mut unavailable = Vec::new();
            encoder.row.write(bytes, row, &mut unavailable)?;
            Ok(Parts { key, value_start, unavailable, old_key })
        })
    }

    /// Appends an event: `write` appends key and row images, then the rest of the envelope is added. If `write`
    /// fails, everything that was appended is removed.
    fn event(
        &self,
        out: &mut TableEvents,
        origin: &Origin,
        op: Op,
        write: impl FnOnce(&Encoder, &mut Vec<u8>) -> Result<Parts, ValueError>,
    ) -> Result<(), ValueError> {
        let start = out.bytes.len();
        match write(self, &mut out.bytes) {
            Ok(parts) => {
                self.write_source(&mut out.bytes, origin);
                write_tail(&mut out.bytes, op, origin.now_micros);
                out.events.push(Event {
                    position: origin.position,
                    op,
                    key: parts.key,
                    value: parts.value_start..out.bytes.len(),
                    unavailable: parts.unavailable.into(),
                    old_key: parts.old_key,
                });
                Ok(())
            }
            Err(error) => {
                out.bytes.truncate(start);
                Err(error)
            }
        }
    }

    fn write_key(&self, bytes: &mut Vec<u8>, row: &[TupleValue<'_>]) -> Result<Range<usize>, ValueError> {
        let start = bytes.len();
        if let (Some(plan), Some(id)) = (&self.key, self.ids.key) {
            write_header(bytes, id);
            plan.write_complete(bytes, row)?;
        }
        Ok(start..bytes.len())
    }

    fn write_source(&self, out: &mut Vec<u8>, origin: &Origin) {
        out.extend_from_slice(&self.source_head);
        write_long(out, origin.source_micros.div_euclid(1000));
        write_long(out, 0);
        write_bytes(out, if origin.snapshot == Snapshot::Yes { b"true" } else { b"false" });
        out.extend_from_slice(&self.source_database);
        write_sequence(out, origin.position);
        write_optional(out, origin.source_micros);
        write_optional(out, origin.source_micros.wrapping_mul(1000));
        out.extend_from_slice(&self.source_table);
        write_optional(out, i64::from(origin.xid));
        write_optional(out, origin.lsn.0 as i64);
        out.extend_from_slice(&[0, 0, 0]);
    }
}

/// What the row images of an event left in the batch: their ranges, and the columns that are unavailable.
struct Parts {
    key: Range<usize>,
    value_start: usize,
    unavailable: Vec<u16>,
    old_key: Option<Range<usize>>,
}

/// Appends the `sequence` field, `["<commit_lsn>","<ordinal>"]` in decimal: unique, and in commit order when
/// compared as two numbers.
fn write_sequence(out: &mut Vec<u8>, position: Position) {
    let mut text = [0u8; 48];
    let capacity = text.len();
    let mut rest = &mut text[..];
    let written = write!(rest, "[\"{}\",\"{}\"]", position.commit_lsn.0, position.ordinal);
    debug_assert!(written.is_ok(), "48 bytes hold two numbers of 20 digits and 7 signs");
    let used = capacity - rest.len();
    write_long(out, 1);
    write_bytes(out, &text[..used]);
}

fn write_tail(out: &mut Vec<u8>, op: Op, now_micros: i64) {
    write_long(out, 0);
    write_bytes(out, op.code().as_bytes());
    write_optional(out, now_micros.div_euclid(1000));
    write_optional(out, now_micros);
    write_optional(out, now_micros.wrapping_mul(1000));
}

fn write_optional(out: &mut Vec<u8>, value: i64) {
    write_long(out, 1);
    write_long(out, value);
}

fn strings(texts: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        write_bytes(&mut out, text.as_bytes());
    }
    out
}
