//! Encodes a change as an event, appended to a batch: its images, and the envelope around them.

use std::io::Write;
use std::sync::Arc;

use super::images::{ImageWriter, Images, SchemaIds};
use super::masking::Masking;
use super::tuple::{RowChange, TupleValue, ValueError};
use crate::event::{Event, EventSchema, Op, TableEvents};
use crate::lsn::{Lsn, Position};
use crate::relation::Relation;
use crate::wire::{write_bytes, write_long};

/// Size of a row from which on memory for it is taken exactly.
const LARGE_BYTES: usize = 256 << 10;
/// Size of what an event has beside its row, at most, but for texts that the table's names make longer.
const ENVELOPE_BYTES: usize = 1 << 10;

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
///
/// An event is written in two parts: [`Encoder::images`] writes the images of the row, [`Encoder::finish`] adds the
/// rest of the envelope when position and commit time are known. The other methods do both at once.
#[derive(Debug)]
pub struct Encoder {
    schema: Arc<EventSchema>,
    images: ImageWriter,
    source_head: Vec<u8>,
    source_database: Vec<u8>,
    source_table: Vec<u8>,
}

impl Encoder {
    /// Compiles the plan for a relation of `database`; `prefix` is the pipeline's name, the `name` of the source block.
    pub fn new(relation: &Relation, schema: Arc<EventSchema>, ids: SchemaIds, prefix: &str, database: &str) -> Encoder {
        Encoder::masked(relation, None, schema, ids, (prefix, database))
    }

    /// The same of rows that `masking` makes of those that Postgres sends, as they are in `relation`; `origin` is the
    /// prefix and the database.
    pub fn masked(
        relation: &Relation,
        masking: Option<Masking>,
        schema: Arc<EventSchema>,
        ids: SchemaIds,
        origin: (&str, &str),
    ) -> Encoder {
        let (prefix, database) = origin;
        Encoder {
            schema,
            images: ImageWriter::new(relation, ids, masking),
            source_head: strings(&[env!("CARGO_PKG_VERSION"), "postgresql", prefix]),
            source_database: strings(&[database]),
            source_table: strings(&[&relation.name.schema, &relation.name.table]),
        }
    }

    /// Schemas that the events are written under.
    pub fn schema(&self) -> &Arc<EventSchema> {
        &self.schema
    }

    /// Number of columns that a row must have.
    pub fn width(&self) -> usize {
        self.images.width()
    }

    /// Writes the images of rows, which [`Encoder::finish`] makes events of.
    pub fn images(&self) -> &ImageWriter {
        &self.images
    }

    /// Makes an event of images that were appended last to the batch's bytes.
    pub fn finish(&self, out: &mut TableEvents, images: Images, origin: &Origin) {
        assert_eq!(images.value.end, out.bytes.len(), "an envelope is finished where its images end");
        self.write_source(&mut out.bytes, origin);
        write_tail(&mut out.bytes, images.op, origin.now_micros);
        out.events.push(Event {
            position: origin.position,
            op: images.op,
            key: images.key,
            value: images.value.start..out.bytes.len(),
            unavailable: images.unavailable,
            old_key: images.old_key,
        });
    }

    /// Makes an event of images that lie in other bytes, where they waited for their transaction's commit.
    pub fn finish_from(&self, waiting: &[u8], images: Images, out: &mut TableEvents, origin: &Origin) {
        let start = out.bytes.len();
        out.bytes.extend_from_slice(&waiting[images.start()..images.value.end]);
        self.finish(out, images.moved(start), origin);
    }

    /// Appends a row that a copy read.
    pub fn read(&self, out: &mut TableEvents, origin: &Origin, row: &[TupleValue<'_>]) -> Result<(), ValueError> {
        self.event(out, origin, Op::Read, RowChange::New(row))
    }

    /// Appends an inserted row.
    pub fn insert(&self, out: &mut TableEvents, origin: &Origin, row: &[TupleValue<'_>]) -> Result<(), ValueError> {
        self.event(out, origin, Op::Create, RowChange::New(row))
    }

    /// Appends an updated row whose key stayed; `before` is the whole old row, if the replica identity is full.
    pub fn update(
        &self,
        out: &mut TableEvents,
        origin: &Origin,
        before: Option<&[TupleValue<'_>]>,
        row: &[TupleValue<'_>],
    ) -> Result<(), ValueError> {
        self.event(out, origin, Op::Update, RowChange::Changed(before, row))
    }

    /// Appends the row that an update of the key made; `old` holds the old key.
    pub fn insert_renamed(
        &self,
        out: &mut TableEvents,
        origin: &Origin,
        old: &[TupleValue<'_>],
        row: &[TupleValue<'_>],
    ) -> Result<(), ValueError> {
        self.event(out, origin, Op::Create, RowChange::Renamed(old, row))
    }

    /// Appends a deleted row, of which the whole or only the key is known.
    pub fn delete(
        &self,
        out: &mut TableEvents,
        origin: &Origin,
        old: &[TupleValue<'_>],
        whole: bool,
    ) -> Result<(), ValueError> {
        self.event(out, origin, Op::Delete, if whole { RowChange::Removed(old) } else { RowChange::RemovedKey(old) })
    }

    /// Appends a truncate of the table.
    pub fn truncate(&self, out: &mut TableEvents, origin: &Origin) {
        let images = self.images.write_without_rows(&mut out.bytes, Op::Truncate);
        self.finish(out, images, origin);
    }

    /// Appends the start of a copy, after which all rows of the table come again.
    pub fn copy_start(&self, out: &mut TableEvents, origin: &Origin) {
        let images = self.images.write_without_rows(&mut out.bytes, Op::CopyStart);
        self.finish(out, images, origin);
    }

    fn event(&self, out: &mut TableEvents, origin: &Origin, op: Op, change: RowChange<'_>) -> Result<(), ValueError> {
        let row_bytes = change.size_bytes();
        if row_bytes >= LARGE_BYTES {
            // Memory that grows bit by bit ends up twice as large.
            out.bytes.reserve_exact(row_bytes + ENVELOPE_BYTES);
        }
        let images = self.images.write(&mut out.bytes, op, change)?;
        self.finish(out, images, origin);
        Ok(())
    }

    /// Formats the key columns of `row` for a message to the operator, such as `id=7`; a value that is not known, or is
    /// masked, is shown as `?`. The relation is as the source has it.
    pub fn describe_key(&self, relation: &Relation, row: &[TupleValue<'_>]) -> String {
        let parts = relation.key.iter().map(|&index| (&relation.columns[index], row.get(index)));
        let parts = parts.map(|(column, value)| match value {
            Some(TupleValue::Text(text)) if column.hiding_mask().is_none() => {
                format!("{}={}", column.name, String::from_utf8_lossy(text))
            }
            _ => format!("{}=?", column.name),
        });
        parts.collect::<Vec<_>>().join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{key_schema, value_schema};
    use crate::{Column, ColumnType, Scalar, TableName};

    fn encoder() -> Encoder {
        let columns = vec![
            Column::new("id", ColumnType::Scalar(Scalar::Int8)),
            Column::new("body", ColumnType::Scalar(Scalar::Text)).nullable(),
        ];
        let relation = Relation::new(TableName::new("public", "t"), columns, vec![0]);
        let key = key_schema("t", &relation).unwrap().to_string();
        let value = value_schema("t", &relation).to_string();
        let schema = EventSchema::parse(relation.name.clone(), Some(&key), &value).unwrap();
        assert_eq!(schema.relation, Some(relation.clone()), "the schema brings its relation");
        Encoder::new(&relation, Arc::new(schema), SchemaIds { key: Some(1), value: 2 }, "p", "db")
    }

    fn origin(ordinal: u64) -> Origin {
        Origin {
            position: Position { commit_lsn: Lsn(100), ordinal },
            lsn: Lsn(90),
            xid: 7,
            source_micros: 5,
            now_micros: 6,
            snapshot: Snapshot::No,
        }
    }

    fn row<'a>(id: &'a str, body: &'a str) -> [TupleValue<'a>; 2] {
        [TupleValue::Text(id.as_bytes()), TupleValue::Text(body.as_bytes())]
    }

    #[test]
    fn an_envelope_that_is_finished_later_is_the_same() {
        let encoder = encoder();
        let mut at_once = TableEvents::new(encoder.schema().clone());
        encoder.insert(&mut at_once, &origin(0), &row("1", "a")).unwrap();
        encoder.insert_renamed(&mut at_once, &origin(1), &row("1", "a"), &row("2", "a")).unwrap();
        encoder.delete(&mut at_once, &origin(2), &row("2", ""), false).unwrap();
        let mut waiting = vec![9; 3];
        let (new, old) = (row("2", "a"), row("1", "a"));
        let changes = [(Op::Create, RowChange::New(&old)), (Op::Create, RowChange::Renamed(&old, &new))].into_iter();
        let removed = row("2", "");
        let images: Vec<_> = changes
            .chain([(Op::Delete, RowChange::RemovedKey(&removed))])
            .map(|(op, change)| encoder.images().write(&mut waiting, op, change).unwrap())
            .collect();
        let mut later = TableEvents::new(encoder.schema().clone());
        for (ordinal, images) in images.into_iter().enumerate() {
            encoder.finish_from(&waiting, images, &mut later, &origin(ordinal as u64));
        }
        assert_eq!(later.bytes, at_once.bytes);
        let parts = |events: &TableEvents| -> Vec<_> {
            events
                .events
                .iter()
                .map(|event| (event.op, event.key.clone(), event.old_key.clone(), event.value.clone()))
                .collect()
        };
        assert_eq!(parts(&later), parts(&at_once));
    }

    #[test]
    fn a_value_that_fails_leaves_nothing() {
        let encoder = encoder();
        let mut bytes = vec![1, 2];
        let error = encoder.images().write(&mut bytes, Op::Create, RowChange::New(&row("x", "a"))).unwrap_err();
        assert_eq!((bytes, error.column.as_str()), (vec![1, 2], "id"));
    }

    #[test]
    fn a_key_is_described_for_people() {
        let relation = encoder().schema().relation.clone().unwrap();
        assert_eq!(encoder().describe_key(&relation, &row("7", "x")), "id=7");
        assert_eq!(encoder().describe_key(&relation, &[TupleValue::Null, TupleValue::Null]), "id=?");
    }
}
