//! What is in a letter, for a person: key and value decoded by the registry's schemas as far as they go, otherwise as
//! hexadecimal digits and text.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sooner_schemas::avro::Schema;

use crate::message::datum_json::{datum_json, hex};
use crate::registry::reader::SchemaReader;
use crate::registry::schema_id::{SchemaId, split};

/// So many bytes are shown of what cannot be decoded.
const SHOWN_BYTES: usize = 2048;
/// How long the registry may take: somebody waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Key or value of a letter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Decoded {
    /// Its size in bytes.
    pub bytes: usize,
    /// The id of its schema; none if it does not begin with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_id: Option<u32>,
    /// The schema's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// What it says, as far as it can be decoded; none if nothing can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// Why it cannot be decoded to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Its first bytes in hexadecimal digits, if it cannot be decoded to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    /// The same as text, with dots for what is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Decoded {
    /// Decodes a key or a value.
    pub async fn new(message: &[u8], registry: &SchemaReader) -> Decoded {
        let mut decoded = Decoded { bytes: message.len(), ..Decoded::default() };
        decoded.trouble = decoded.decode(message, registry).await.err();
        if decoded.trouble.is_some() {
            let shown = &message[..message.len().min(SHOWN_BYTES)];
            (decoded.hex, decoded.text) = (Some(hex(shown)), Some(preview(shown)));
        }
        decoded
    }

    async fn decode(&mut self, message: &[u8], registry: &SchemaReader) -> Result<(), String> {
        let (id, datum) = split(message, None).map_err(|why| why.to_string())?;
        if let SchemaId::Number(number) = id {
            self.schema_id = Some(number);
        }
        let (datum, schema) = (datum.unpacked()?, schema(registry, id).await?);
        self.read(&schema, &datum).map_or(Ok(()), Err)
    }

    /// Decodes a datum, and returns why it does not go to its end.
    fn read(&mut self, schema: &Schema, datum: &[u8]) -> Option<String> {
        self.schema = schema.as_record().map(|record| record.name.clone());
        let (json, why) = datum_json(schema, datum);
        self.json = Some(json);
        why
    }
}

/// The schema with an id, or why there is none.
async fn schema(registry: &SchemaReader, id: SchemaId) -> Result<Schema, String> {
    let asked = tokio::time::timeout(PATIENCE, registry.schema(id)).await;
    let text = asked.map_err(|_| "the schema registry does not answer".to_owned())?;
    let text = text.map_err(|error| format!("{}: {}", error.what, error.why))?;
    Schema::parse(&text).map_err(|why| why.to_string())
}

/// Bytes as text, with a dot for each that is none.
fn preview(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() || c == char::REPLACEMENT_CHARACTER { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_previewed_as_text() {
        assert_eq!(preview(b"\0\0\0\x01no \xFFAvro\n \xC3\xA4"), "....no .Avro. \u{e4}");
    }

    #[test]
    fn a_datum_is_decoded_as_far_as_it_goes() {
        let schema = r#"{"type":"record","name":"K","fields":[{"name":"a","type":"int"},{"name":"b","type":"int"}]}"#;
        let schema = Schema::parse(schema).unwrap();
        let mut decoded = Decoded::default();
        assert_eq!(decoded.read(&schema, &[2, 4]), None);
        assert_eq!(decoded.json, Some(serde_json::json!({"a": 1, "b": 2})));
        assert!(decoded.read(&schema, &[2]).is_some());
        assert_eq!((decoded.json, decoded.schema.as_deref()), (Some(serde_json::json!({"a": 1})), Some("K")));
    }
}
