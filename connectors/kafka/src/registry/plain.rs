//! Messages in the one form that events are read in further on: key and value are a Confluent header and a datum each.

use std::borrow::Cow;
use std::sync::Arc;

use sooner_api::{Code, Error, Result};
use sooner_schemas::wire::{HEADER_BYTES, write_header};

use super::schema_id::{SchemaId, split};
use crate::message::events::ON_WITHOUT_IT;
use crate::message::headers::SchemaHeader;
use crate::message::topic_message::TopicMessage;

/// Identifiers of the schemas of a message's key, if it has one, and value; none for a tombstone. A message that does
/// not name its schemas is an operator error.
pub fn schema_ids(message: &TopicMessage) -> Result<Option<(Option<SchemaId>, SchemaId)>> {
    let Some(value) = message.value() else { return Ok(None) };
    let id = |part: &[u8], header: &Option<SchemaHeader>| match split(part, value_of(header)) {
        Ok((id, _)) => Ok(id),
        Err(why) => Err(unreadable(message, &why.to_string())),
    };
    let headers = &message.headers;
    let value = id(value, &headers.value_schema)?;
    // An event of the whole table has no key.
    let key = message.key().map(|key| id(key, &headers.key_schema)).transpose()?;
    Ok(Some((key, value)))
}

/// A message with Confluent headers before its data, whatever form it came in. What such a header says of a schema
/// matters no more by then, so other forms get the id 0. A tombstone stays as it is.
pub fn plain(message: &TopicMessage) -> Result<Cow<'_, TopicMessage>> {
    let Some(value) = message.value() else { return Ok(Cow::Borrowed(message)) };
    let headers = &message.headers;
    let has_confluents = |part: &[u8]| part.first() == Some(&0);
    let is_plain = headers.key_schema.is_none()
        && headers.value_schema.is_none()
        && has_confluents(value)
        && message.key().is_none_or(has_confluents);
    if is_plain {
        return Ok(Cow::Borrowed(message));
    }
    let mut bytes = Vec::with_capacity(2 * HEADER_BYTES + message.key().map_or(0, <[u8]>::len) + value.len());
    let mut append = |part: &[u8], header: &Option<SchemaHeader>| {
        let datum = match split(part, value_of(header)) {
            Ok((_, datum)) => datum.unpacked(),
            Err(why) => Err(why.to_string()),
        };
        let start = bytes.len();
        write_header(&mut bytes, 0);
        bytes.extend_from_slice(&datum.map_err(|why| unreadable(message, &why))?);
        Ok(start..bytes.len())
    };
    let key = message.key().map(|key| append(key, &headers.key_schema)).transpose()?;
    let value = append(value, &headers.value_schema)?;
    let place = (message.topic.clone(), message.partition, message.offset);
    let headers = message.headers.clone();
    let rewritten = TopicMessage::new(place, message.written_micros, headers, Arc::new(bytes), key, Some(value));
    Ok(Cow::Owned(rewritten))
}

fn value_of(header: &Option<SchemaHeader>) -> Option<&[u8]> {
    header.as_ref().map(|(_, value)| &**value)
}

/// Operator error: a message cannot be read, for this reason.
pub fn unreadable(message: &TopicMessage, why: &str) -> Error {
    Error::operator(
        Code::MessageUnreadable,
        format!("cannot read the message at {}", message.place()),
        why,
        ON_WITHOUT_IT,
    )
}
