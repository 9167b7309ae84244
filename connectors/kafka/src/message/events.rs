//! Turns a message of a topic into an event of its table.

use std::sync::Arc;

use sooner_api::{Code, Error, Result};
use sooner_schemas::Position;
use sooner_schemas::avro::{Field, RecordSchema, Schema, Shape};
use sooner_schemas::event::{Event, EventSchema, Op, TableEvents};
use sooner_schemas::placeholder::find_placeholders;
use sooner_schemas::wire::{Malformed, Reader, split_header};

use crate::message::topic_message::TopicMessage;

/// Remedy of the error for a message that cannot be read.
pub const ON_WITHOUT_IT: &str = "let nothing but change events in Debezium's envelope go to this topic; then `sooner resume` \
                                 the table at its source, or set dead_letter_topic of [kafka] to set such messages aside";

/// Appends a message's event; a tombstone has none. `arrived` takes the place of the commit LSN for a message whose
/// writer gave it no position. A message that cannot be read is an operator error, and nothing is appended.
pub fn append(out: &mut TableEvents, record: &TopicMessage, arrived: u64) -> Result<()> {
    let Some(value) = record.value() else { return Ok(()) };
    let (op, unavailable) = judge(&out.schema, record, value).map_err(|why| unreadable(record, why))?;
    let old_key = record.headers.old_key.as_deref().filter(|_| record.position().is_some());
    let old_key = old_key.map(|key| append_bytes(&mut out.bytes, key));
    let key = append_bytes(&mut out.bytes, record.key().unwrap_or_default());
    let value = append_bytes(&mut out.bytes, value);
    out.events.push(Event {
        position: record.position().unwrap_or(Position { commit_lsn: sooner_schemas::Lsn(arrived), ordinal: 0 }),
        op,
        key,
        value,
        unavailable: unavailable.into(),
        old_key,
    });
    Ok(())
}

fn append_bytes(bytes: &mut Vec<u8>, part: &[u8]) -> std::ops::Range<usize> {
    let start = bytes.len();
    bytes.extend_from_slice(part);
    start..bytes.len()
}

/// The operation of a message's event, and the indexes of the row's fields that hold placeholders; or why the
/// message cannot be read.
fn judge(
    schema: &Arc<EventSchema>,
    record: &TopicMessage,
    value: &[u8],
) -> std::result::Result<(Op, Vec<u16>), String> {
    let envelope = schema.value.as_record().ok_or("its schema is no record")?;
    let after = envelope.field_index("after").ok_or("its schema has no 'after'")?;
    let row = envelope.fields[after].schema.as_record().ok_or("its schema's 'after' is no record")?;
    let (_, datum) = split_header(value).map_err(|why| why.to_string())?;
    let mut reader = Reader::new(datum);
    let malformed = |why: Malformed| why.to_string();
    skip_fields(&envelope.fields[..after], &mut reader).map_err(malformed)?;
    let null = envelope.fields[after].schema.without_null().1;
    let gone = match null {
        Some(null) => reader.length().map_err(malformed)? == null,
        None => false,
    };
    let mut unavailable = Vec::new();
    if !gone {
        let mut row_reader = reader;
        row.fields.iter().try_for_each(|field| pass(&field.schema, &mut reader)).map_err(malformed)?;
        if record.position().is_none() {
            unavailable = find_placeholders(row, &mut row_reader).map_err(malformed)?;
        }
    }
    // The value is read to its end: whoever decodes the row later no longer knows the message's place.
    let truncates = read_op(&envelope.fields[after + 1..], &mut reader).map_err(malformed)? == Some("t");
    if !reader.rest().is_empty() {
        return Err(format!("{} bytes are left over after its value", reader.rest().len()));
    }
    check_key(schema, record.key())?;
    if let Some(fields) = &record.headers.unavailable {
        unavailable = listed(row, fields)?;
    }
    match (record.key(), gone, record.headers.copy_start) {
        (Some(_), true, _) => Ok((Op::Delete, Vec::new())),
        (Some(_), false, _) => Ok((Op::Update, unavailable)),
        (None, true, true) => Ok((Op::CopyStart, Vec::new())),
        (None, true, false) if truncates => Ok((Op::Truncate, Vec::new())),
        (None, ..) => {
            Err("it has no key, so its row cannot be told from others: the table needs a primary key".to_owned())
        }
    }
}

fn skip_fields(fields: &[Field], reader: &mut Reader<'_>) -> std::result::Result<(), Malformed> {
    fields.iter().try_for_each(|field| field.schema.skip(reader))
}

/// The envelope's `op`, if it has that field; other fields are skipped.
fn read_op<'a>(fields: &[Field], reader: &mut Reader<'a>) -> std::result::Result<Option<&'a str>, Malformed> {
    let mut op = None;
    for field in fields {
        match &field.schema.shape {
            Shape::String if field.name == "op" => op = Some(reader.string()?),
            _ => field.schema.skip(reader)?,
        }
    }
    Ok(op)
}

/// Skips a value of a row. Texts are checked to be UTF-8 here, since whoever decodes them later no longer knows the
/// message's place.
fn pass(schema: &Schema, reader: &mut Reader<'_>) -> std::result::Result<(), Malformed> {
    match &schema.shape {
        Shape::String => reader.string().map(drop),
        Shape::Union(branches) => pass(branches.get(reader.length()?).ok_or(Malformed::NoSuchBranch)?, reader),
        _ => schema.skip(reader),
    }
}

fn check_key(schema: &EventSchema, key: Option<&[u8]>) -> std::result::Result<(), String> {
    let (Some(key), Some(schema)) = (key, &schema.key) else { return Ok(()) };
    let read = split_header(key).and_then(|(_, datum)| {
        let mut reader = Reader::new(datum);
        schema.skip(&mut reader)?;
        Ok(reader.rest().len())
    });
    match read {
        Ok(0) => Ok(()),
        Ok(left) => Err(format!("{left} bytes are left over after its key")),
        Err(why) => Err(format!("its key: {why}")),
    }
}

fn listed(row: &RecordSchema, fields: &str) -> std::result::Result<Vec<u16>, String> {
    let index = |name: &str| {
        let index = row.field_index(name).ok_or_else(|| format!("it lists a field '{name}' that its schema lacks"))?;
        Ok(index as u16)
    };
    fields.split(',').map(index).collect()
}

fn unreadable(record: &TopicMessage, why: String) -> Error {
    Error::operator(
        Code::MessageUnreadable,
        format!("cannot read the message at {}", record.place()),
        why,
        ON_WITHOUT_IT,
    )
}
