//! What is looked for in topics, and what a message has of it: by the columns of its row, decoded by the registry's
//! schemas, and by its bytes as they lie.

use std::collections::HashMap;
use std::sync::Arc;

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};
use serde_json::Value;
use sooner_api::{Class, Result};
use sooner_schemas::avro::Schema;
use tokio::runtime::Handle;

use crate::message::datum_json::datum_json;
use crate::message::headers::FoundHeaders;
use crate::registry::reader::SchemaReader;
use crate::registry::schema_id::{SchemaId, split};

/// Tells whether some bytes hold a value that is long enough to be known by its bytes.
pub type HoldsValue = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// What is looked for in the topics of a table.
#[derive(Clone)]
pub struct Sought {
    /// Columns, each with the text of a value.
    pub columns: Vec<(String, String)>,
    /// Tells whether bytes hold a value.
    pub holds: HoldsValue,
}

/// What a message has of what is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// Its row, or its key, has a value in its column.
    Row,
    /// A value's bytes stand in another column, or in a header.
    Elsewhere,
    /// A value's bytes stand in a message that cannot be decoded.
    Unreadable,
}

/// What a message says of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowEvent {
    /// No value: compaction removes what came before.
    Tombstone,
    /// The row is gone.
    Delete,
    /// The row is there.
    Live,
    /// Nobody can tell, because the message cannot be decoded.
    Unknown,
}

/// A message, as far as it is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// What it has of what is looked for.
    pub held: Held,
    /// Whether its key has a value.
    pub key_holds: bool,
    /// What it says of its row.
    pub event: RowEvent,
}

/// Decodes messages by the registry's schemas.
pub struct Decoder {
    registry: SchemaReader,
    runtime: Handle,
    /// None for a schema that the registry does not have.
    schemas: HashMap<SchemaId, Option<Arc<Schema>>>,
}

impl Decoder {
    /// Asks a registry.
    pub fn new(registry: SchemaReader, runtime: Handle) -> Decoder {
        Decoder { registry, runtime, schemas: HashMap::new() }
    }

    /// Examines a message. An error only where the registry cannot be reached.
    pub fn examine(&mut self, message: &BorrowedMessage<'_>, sought: &Sought) -> Result<Examined> {
        let headers = FoundHeaders::read(message.headers());
        let named = |header: &Option<(&'static str, Box<[u8]>)>| header.as_ref().map(|(_, value)| value.to_vec());
        let (key_schema, value_schema) = (named(&headers.key_schema), named(&headers.value_schema));
        let key = self.decode(message.key(), key_schema.as_deref())?;
        let value = self.decode(message.payload(), value_schema.as_deref())?;
        let mut raw: Vec<&[u8]> = message.key().into_iter().chain(message.payload()).collect();
        let texts: Option<Vec<&[u8]>> =
            message.headers().map(|headers| headers.iter().filter_map(|header| header.value).collect());
        raw.extend(texts.unwrap_or_default());
        Ok(judge(sought, &key, message.payload().map(|_| &value), &raw))
    }

    /// Key or value as JSON; none if it cannot be decoded to its end.
    fn decode(&mut self, part: Option<&[u8]>, header: Option<&[u8]>) -> Result<Option<Value>> {
        let Some(Ok((id, datum))) = part.map(|part| split(part, header)) else { return Ok(None) };
        let (Some(schema), Ok(datum)) = (self.schema(id)?, datum.unpacked()) else { return Ok(None) };
        let (value, trouble) = datum_json(&schema, &datum);
        Ok(trouble.is_none().then_some(value))
    }

    fn schema(&mut self, id: SchemaId) -> Result<Option<Arc<Schema>>> {
        if let Some(known) = self.schemas.get(&id) {
            return Ok(known.clone());
        }
        let schema = match self.runtime.block_on(self.registry.schema(id)) {
            Ok(text) => Schema::parse(&text).ok().map(Arc::new),
            Err(error) if error.class == Class::Operator => None,
            Err(error) => return Err(error),
        };
        self.schemas.insert(id, schema.clone());
        Ok(schema)
    }
}

/// Bytes of a key without the id of its schema, which a key may have several of.
pub fn key_datum(message: &BorrowedMessage<'_>) -> Option<Vec<u8>> {
    let key = message.key()?;
    let headers = FoundHeaders::read(message.headers());
    let datum = split(key, headers.key_schema.as_ref().map(|(_, value)| &**value));
    let datum = datum.ok().and_then(|(_, datum)| datum.unpacked().ok().map(|datum| datum.into_owned()));
    Some(datum.unwrap_or_else(|| key.to_vec()))
}

/// `value` is none for a tombstone, and holds none for a value that cannot be decoded.
fn judge(sought: &Sought, key: &Option<Value>, value: Option<&Option<Value>>, raw: &[&[u8]]) -> Examined {
    let has = |row: &Value| sought.columns.iter().any(|(column, text)| row.get(column).is_some_and(|at| is(at, text)));
    let key_holds = key.as_ref().is_some_and(&has) || raw.first().is_some_and(|bytes| (sought.holds)(bytes));
    let (event, row_holds) = match value {
        None => (RowEvent::Tombstone, false),
        Some(None) => (RowEvent::Unknown, false),
        Some(Some(value)) => {
            let part = |name: &str| value.get(name).filter(|part| part.is_object());
            let event = if part("after").is_some() { RowEvent::Live } else { RowEvent::Delete };
            (event, [part("before"), part("after")].into_iter().flatten().any(has))
        }
    };
    let held = if row_holds || key.as_ref().is_some_and(has) {
        Held::Row
    } else if !raw.iter().any(|bytes| (sought.holds)(bytes)) {
        Held::Nothing
    } else if event == RowEvent::Unknown {
        Held::Unreadable
    } else {
        Held::Elsewhere
    };
    Examined { held, key_holds, event }
}

/// Whether a value as JSON is the one with this text.
fn is(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string == text,
        Value::Number(number) => number.to_string() == text,
        Value::Bool(truth) => truth.to_string() == text,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sought() -> Sought {
        let holds = |bytes: &[u8]| bytes.windows(4).any(|window| window == b"jane");
        Sought { columns: vec![("email".into(), "jane".into()), ("id".into(), "7".into())], holds: Arc::new(holds) }
    }

    #[test]
    fn a_row_is_known_by_its_columns_in_any_state_and_by_its_key() {
        let examined = |key: Value, value: Option<Value>, raw: &[&[u8]]| {
            let judged = judge(&sought(), &Some(key), value.map(Some).as_ref(), raw);
            (judged.held, judged.key_holds, judged.event)
        };
        let before = json!({"before": {"email": "jane", "id": 1}, "after": null, "op": "d"});
        assert_eq!(examined(json!({"id": 1}), Some(before), &[b"", b"jane"]), (Held::Row, false, RowEvent::Delete));
        let after = json!({"before": null, "after": {"email": "joe", "note": "with jane"}, "op": "c"});
        let held = (Held::Elsewhere, false, RowEvent::Live);
        assert_eq!(examined(json!({"id": 1}), Some(after.clone()), &[b"", b"joe with jane"]), held);
        assert_eq!(examined(json!({"id": 7}), Some(after), &[b"", b""]), (Held::Row, true, RowEvent::Live));
        assert_eq!(examined(json!({"id": 8}), None, &[b""]), (Held::Nothing, false, RowEvent::Tombstone));
    }

    #[test]
    fn what_cannot_be_decoded_is_known_by_its_bytes_alone() {
        let judged = |raw: &[&[u8]]| judge(&sought(), &None, Some(&None), raw);
        let expected = Examined { held: Held::Unreadable, key_holds: false, event: RowEvent::Unknown };
        assert_eq!(judged(&[b"\0\0\0\0\x09\x02", b"xx jane xx"]), expected);
        assert_eq!(judged(&[b"", b"joe"]).held, Held::Nothing);
    }
}
