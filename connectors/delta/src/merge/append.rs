//! Append: the table holds the rows that were inserted. Rows are only added to it, so that none has to be found by its
//! key: there is no index, nothing is read, and no deletion vector is written.
//!
//! An event is taken once, by its position. What a copy brings is merged by key, as into a mirror, until the copy ends;
//! from then on an UPDATE, DELETE or TRUNCATE stops the table, or is ignored.

use std::sync::Arc;

use arrow_array::RecordBatch;
use sooner_api::{Code, Error, Result, Rows};
use sooner_schemas::avro::Shape;
use sooner_schemas::event::{Event, EventSchema, Op};
use sooner_schemas::wire::{Malformed, Reader, split_header};
use sooner_schemas::{Lsn, Position, TableName};

use super::event_plan::copy_again;
use super::parts::PartLimits;
use super::seal::next_columns;
use super::staging::Staging;
use crate::log::table_version::TableVersion;
use crate::rows::builder::ColumnBuilder;
use crate::rows::columns::{LakeColumn, arrow_schema, columns_of};
use crate::rows::reader::{RowReader, finish};
use crate::settings::OnChange;
use crate::store::location::TableLocation;

/// Bytes of events that wait in memory to become rows of a file.
const BATCH_BYTES: usize = 1 << 20;

/// What rows are added to.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Where its files lie.
    pub location: &'a TableLocation,
    /// The version that the next commit builds on.
    pub base: &'a TableVersion,
    /// Limits for files in memory.
    pub limits: &'a PartLimits,
}

/// How inserted rows are added to a table.
pub struct Appending {
    on_change: OnChange,
    reading: Option<Reading>,
    /// Position of the last event of the stream that was taken since the last break.
    last: Option<Position>,
}

/// How events of one schema are read, and rows of them that wait.
struct Reading {
    schema: Arc<EventSchema>,
    columns: Vec<LakeColumn>,
    rows: RowReader,
    builders: Vec<ColumnBuilder>,
    waiting: usize,
    bytes: usize,
}

/// What an event is for a table that rows are only added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The source inserted a row.
    Inserted,
    /// A copy read a row.
    Copied,
    /// The source changed or removed a row.
    Changed(&'static str),
}

impl Appending {
    /// Nothing waits yet.
    pub fn new(on_change: OnChange) -> Appending {
        Appending { on_change, reading: None, last: None }
    }

    /// Whether rows stay as they were inserted, whatever the source does to them.
    pub fn ignores_changes(&self) -> bool {
        self.on_change == OnChange::Ignore
    }

    /// Whether events of a schema can be read already.
    pub fn reads(&self, schema: &Arc<EventSchema>) -> bool {
        self.reading.as_ref().is_some_and(|reading| Arc::ptr_eq(&reading.schema, schema))
    }

    /// Learns how events of a schema are read. Nothing may wait.
    pub fn learn(&mut self, schema: &Arc<EventSchema>) -> Result<()> {
        let (columns, rows) = (columns_of(schema)?, RowReader::new(schema)?);
        let builders = rows.builders()?;
        self.reading = Some(Reading { schema: schema.clone(), columns, rows, builders, waiting: 0, bytes: 0 });
        Ok(())
    }

    /// Takes the events from `first` on, and seals what becomes too much. The table is complete up to `complete`: what
    /// is not newer comes again. An operator error for an event that does more than add a row, unless that is ignored.
    pub async fn take(
        &mut self,
        rows: &Rows,
        first: usize,
        complete: Option<Lsn>,
        target: Target<'_>,
        staging: &mut Staging,
    ) -> Result<()> {
        let (events, table) = (&rows.events, rows.events.schema.table.clone());
        for event in &events.events[first..] {
            let message = &events.bytes[event.value.clone()];
            let meaning = meaning_of(&events.schema, event, message).map_err(|why| unreadable(&table, why))?;
            match meaning {
                Meaning::Copied if target.location.is_next_generation || !target.base.exists() => {
                    self.add(event, message)?
                }
                Meaning::Copied => return Err(copied_over(&table)),
                _ if self.has(event.position, complete) => continue,
                // Whether a copied row and an inserted one are the same cannot be told without a key.
                _ if target.location.is_next_generation => return Err(changed_during_copy(&table)),
                Meaning::Inserted => self.add(event, message)?,
                Meaning::Changed(what) => self.change(what, rows, staging)?,
            }
            if meaning != Meaning::Copied {
                self.last = Some(event.position);
            }
            if self.bytes() >= BATCH_BYTES {
                self.seal(target, staging).await?;
            }
        }
        Ok(())
    }

    /// Whether an event of the stream was taken before.
    fn has(&self, position: Position, complete: Option<Lsn>) -> bool {
        let is_complete = complete.is_some_and(|complete| position.commit_lsn <= complete);
        is_complete || self.last.is_some_and(|last| position <= last)
    }

    fn add(&mut self, event: &Event, message: &[u8]) -> Result<()> {
        let Some(reading) = &mut self.reading else {
            return Err(Error::internal("cannot append rows", "their schema is not known"));
        };
        reading.rows.append(message, &event.unavailable, &mut reading.builders)?;
        reading.waiting += 1;
        reading.bytes += message.len();
        Ok(())
    }

    /// What the source does to rows that are there: an operator error, unless that is ignored.
    pub fn change(&self, what: &str, rows: &Rows, staging: &mut Staging) -> Result<()> {
        if self.on_change == OnChange::Park {
            return Err(changed(&rows.events.schema.table, what));
        }
        // A slot is confirmed whatever the table's log says; a topic is read again from there.
        staging.marks_positions |= !rows.next_offsets.is_empty();
        Ok(())
    }

    /// Bytes of events whose rows wait.
    pub fn bytes(&self) -> usize {
        self.reading.as_ref().map_or(0, |reading| reading.bytes)
    }

    /// Moves the rows that wait into a file that is not visible yet.
    pub async fn seal(&mut self, target: Target<'_>, staging: &mut Staging) -> Result<()> {
        let columns = next_columns(staging, target.base).to_vec();
        let Some(reading) = self.reading.as_mut().filter(|reading| reading.waiting > 0) else { return Ok(()) };
        let batch = reading.finish(&columns).map_err(|error| {
            let what = format!("cannot store rows of {}", reading.schema.table);
            Error::operator(Code::ValueUnholdable, what, error, copy_again(&reading.schema.table))
        })?;
        staging.parts.append(&batch, &target.base.files().ids())?;
        staging.parts.close_if_full(target.location, target.limits).await
    }

    /// Forgets what waits.
    pub fn discard(&mut self) {
        (self.reading, self.last) = (None, None);
    }
}

impl Reading {
    /// The rows that wait, as rows of a table with these columns.
    fn finish(&mut self, columns: &[LakeColumn]) -> std::result::Result<RecordBatch, arrow_schema::ArrowError> {
        let (rows, arrays) = (std::mem::take(&mut self.waiting), finish(&mut self.builders));
        self.bytes = 0;
        let arrays = columns.iter().map(|column| {
            let place = self.columns.iter().position(|own| own.is_same(column));
            place.map_or_else(|| column.missing_values(rows), |place| Ok(arrays[place].clone()))
        });
        RecordBatch::try_new(arrow_schema(columns), arrays.collect::<std::result::Result<_, _>>()?)
    }
}

/// What an event is. An update of the key is two events, of which neither is an insert.
fn meaning_of(schema: &EventSchema, event: &Event, message: &[u8]) -> std::result::Result<Meaning, Malformed> {
    Ok(match event.op {
        _ if event.position.is_copied() => Meaning::Copied,
        Op::Read => Meaning::Copied,
        Op::Delete => Meaning::Changed("a DELETE, or an UPDATE of the key"),
        _ if event.old_key.is_some() => Meaning::Changed("an UPDATE of the key"),
        Op::Create => Meaning::Inserted,
        // A topic tells by the envelope what happened to a row that is there.
        _ => match envelope_op(schema, message)? {
            Some("c") => Meaning::Inserted,
            Some("r") => Meaning::Copied,
            _ => Meaning::Changed("an UPDATE"),
        },
    })
}

/// The envelope's `op`, if it has that field.
fn envelope_op<'a>(schema: &EventSchema, message: &'a [u8]) -> std::result::Result<Option<&'a str>, Malformed> {
    let (_, datum) = split_header(message)?;
    let Some(envelope) = schema.value.as_record() else { return Ok(None) };
    let mut reader = Reader::new(datum);
    for field in &envelope.fields {
        match &field.schema.shape {
            Shape::String if field.name == "op" => return reader.string().map(Some),
            _ => field.schema.skip(&mut reader)?,
        }
    }
    Ok(None)
}

fn unreadable(table: &TableName, why: Malformed) -> Error {
    let what = format!("cannot read an event of {table}");
    Error::operator(Code::MessageUnreadable, what, why, copy_again(table))
}

fn changed(table: &TableName, what: &str) -> Error {
    Error::operator(
        Code::RowChanged,
        format!("cannot append a change of {table}"),
        format!(
            "the source has sent {what}, and the table is written by write = [\"append\"]: rows are only added to it"
        ),
        format!(
            "`sooner resume {table}` copies its rows as they are now; on_change = \"ignore\" keeps rows as they were \
             inserted, and write = [\"mirror\"] follows changes"
        ),
    )
}

fn changed_during_copy(table: &TableName) -> Error {
    Error::operator(
        Code::KeyMissing,
        format!("cannot append rows of {table} while they are copied"),
        "the table has no key, so that a row that was inserted during its copy cannot be told from a copied one",
        format!("`sooner resume {table}` while nobody writes to the table, or ALTER TABLE {table} ADD PRIMARY KEY (…)"),
    )
}

fn copied_over(table: &TableName) -> Error {
    Error::operator(
        Code::RowChanged,
        format!("cannot copy rows over those of {table}"),
        "the table is written by write = [\"append\"]: rows are only added to it, and these may be there already",
        format!("{}, whole", copy_again(table)),
    )
}

/// The error of a table without a key whose copy would lose rows that its source has removed.
pub fn cannot_keep(table: &TableName) -> Error {
    Error::operator(
        Code::KeyMissing,
        format!("cannot copy {table} again"),
        "changes of its rows are ignored, and it has no key: rows that only the lake has could not be told from others",
        format!(
            "ALTER TABLE {table} ADD PRIMARY KEY (…); or move the lake table away, which then begins with the rows that the \
             source has now; then `sooner resume {table}`"
        ),
    )
}

/// The error of a table that cannot be appended to because of how its events are read.
pub fn unordered(table: &TableName) -> Error {
    Error::operator(
        Code::PartitionsUnordered,
        format!("cannot append to {table}"),
        "its topic's partitions are not all read here in commit order, so that an event could not be told to come twice",
        "set write = [\"mirror\"] for this table, or let one sink read all partitions of a topic that sooner writes",
    )
}

/// Why a table has to be copied again that was written under another setting; none if it has not.
pub fn other_setting(ignored: bool, ignores: bool) -> Option<String> {
    let why = "changes of its rows were ignored (on_change = \"ignore\"), and are not any more: it may hold rows as they were";
    (ignored && !ignores).then(|| why.to_owned())
}
