//! What an envelope's `source` block says of the transaction:
//! <https://debezium.io/documentation/reference/3.6/connectors/postgresql.html#postgresql-create-events>

use sooner_schemas::avro::{Schema, Shape};
use sooner_schemas::event::EventSchema;
use sooner_schemas::wire::{Malformed, Reader, split_header};

/// What an envelope says of the transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source {
    /// Commit time, in microseconds since 1970.
    pub commit_micros: Option<i64>,
    /// Id of the transaction.
    pub transaction: Option<i64>,
}

/// Commit time of an event, in microseconds since 1970; none if its envelope does not say it.
pub fn commit_micros(schema: &EventSchema, message: &[u8]) -> Result<Option<i64>, Malformed> {
    let (_, datum) = split_header(message)?;
    let Some(envelope) = schema.value.as_record() else { return Ok(None) };
    let mut reader = Reader::new(datum);
    for field in &envelope.fields {
        if field.name == "source" {
            return Ok(read_source(&field.schema, &mut reader)?.commit_micros);
        }
        field.schema.skip(&mut reader)?;
    }
    Ok(None)
}

/// Reads the next value, which is a `source` block.
pub fn read_source(schema: &Schema, reader: &mut Reader<'_>) -> Result<Source, Malformed> {
    let mut source = Source::default();
    let mut millis = None;
    let Some(record) = schema.as_record() else {
        schema.skip(reader)?;
        return Ok(source);
    };
    for field in &record.fields {
        match field.name.as_str() {
            "ts_ms" => millis = read_long(&field.schema, reader)?,
            "ts_us" => source.commit_micros = read_long(&field.schema, reader)?,
            "txId" => source.transaction = read_long(&field.schema, reader)?,
            _ => field.schema.skip(reader)?,
        }
    }
    source.commit_micros = source.commit_micros.or_else(|| millis.and_then(|millis| millis.checked_mul(1000)));
    Ok(source)
}

fn read_long(schema: &Schema, reader: &mut Reader<'_>) -> Result<Option<i64>, Malformed> {
    let (value, null) = schema.without_null();
    if !matches!(value.shape, Shape::Long | Shape::Int) {
        schema.skip(reader)?;
        return Ok(None);
    }
    if let Some(null) = null
        && reader.length()? == null
    {
        return Ok(None);
    }
    reader.long().map(Some)
}
