//! The headers of an event's message.
//!
//! Every event states its position: `sooner.commit_lsn` (`0/16B3748`) and `sooner.ordinal` (`12`), together unique
//! and in commit order. `sooner.unavailable` lists the fields that hold a placeholder, because Postgres left their
//! value out. `sooner.copy` (`start`) marks a truncate after which all rows are copied again. A change of a key
//! carries Debezium's `__debezium.newkey` on the delete, and `__debezium.oldkey` on the create, as text. The create
//! also carries `sooner.old_key`, the former key as a key message, for a sink that needs the former row.

use std::io::Write;

use rdkafka::message::{Header, Headers, OwnedHeaders};
use sooner_schemas::event::Event;
use sooner_schemas::{Lsn, Position};

const COMMIT_LSN: &str = "sooner.commit_lsn";
const ORDINAL: &str = "sooner.ordinal";
const UNAVAILABLE: &str = "sooner.unavailable";
const COPY: &str = "sooner.copy";
const OLD_KEY: &str = "sooner.old_key";
const NEW_KEY_TEXT: &str = "__debezium.newkey";
/// Headers in which serializers name the schema, each of the key and of the value: Confluent's and Apicurio's.
const KEY_SCHEMA: [&str; 2] = ["__key_schema_id", "apicurio.key.contentId"];
const VALUE_SCHEMA: [&str; 2] = ["__value_schema_id", "apicurio.value.contentId"];
const OLD_KEY_TEXT: &str = "__debezium.oldkey";

/// Headers of an event's message, to be written.
pub struct EventHeaders<'a> {
    /// The event's position in commit order.
    pub position: Position,
    /// Names of fields that hold a placeholder, separated by commas.
    pub unavailable: Option<String>,
    /// A copy begins.
    pub copy_start: bool,
    /// On the delete of a changed key: the key that the row has from now on, as text.
    pub new_key_text: Option<String>,
    /// On the create of a changed key: the key that the row had before, as text.
    pub old_key_text: Option<String>,
    /// On the create of a changed key: the key that the row had before, as a key message.
    pub old_key: Option<&'a [u8]>,
}

impl EventHeaders<'_> {
    /// Size of those header values that may be long, in bytes.
    pub fn size_bytes(&self) -> usize {
        let texts = [&self.unavailable, &self.new_key_text, &self.old_key_text];
        texts.into_iter().flatten().map(String::len).sum::<usize>() + self.old_key.map_or(0, <[u8]>::len)
    }

    /// These headers in librdkafka's form.
    pub fn to_owned_headers(&self) -> OwnedHeaders {
        let mut lsn = Text::default();
        let mut ordinal = Text::default();
        let Position { commit_lsn: Lsn(value), ordinal: number } = self.position;
        let lsn = lsn.of(format_args!("{:X}/{:X}", value >> 32, value & 0xFFFF_FFFF));
        let ordinal = ordinal.of(format_args!("{number}"));
        let mut headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: COMMIT_LSN, value: Some(lsn) })
            .insert(Header { key: ORDINAL, value: Some(ordinal) });
        if let Some(fields) = &self.unavailable {
            headers = headers.insert(Header { key: UNAVAILABLE, value: Some(fields) });
        }
        if self.copy_start {
            headers = headers.insert(Header { key: COPY, value: Some("start") });
        }
        for (name, key) in [(NEW_KEY_TEXT, &self.new_key_text), (OLD_KEY_TEXT, &self.old_key_text)] {
            if let Some(text) = key {
                headers = headers.insert(Header { key: name, value: Some(text) });
            }
        }
        if let Some(key) = self.old_key {
            headers = headers.insert(Header { key: OLD_KEY, value: Some(key) });
        }
        headers
    }
}

/// Buffer on the stack for a short text, which saves an allocation.
#[derive(Default)]
struct Text {
    bytes: [u8; 24],
}

impl Text {
    fn of(&mut self, text: std::fmt::Arguments<'_>) -> &[u8] {
        let capacity = self.bytes.len();
        let mut rest = &mut self.bytes[..];
        let written = rest.write_fmt(text);
        debug_assert!(written.is_ok(), "24 bytes hold an LSN, and a number of 20 digits");
        let used = capacity - rest.len();
        &self.bytes[..used]
    }
}

/// A header that names a schema: its own name, and its value.
pub type SchemaHeader = (&'static str, Box<[u8]>);

/// Headers that a reader finds in a message; all empty if it has none of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundHeaders {
    /// The event's position in commit order; none if the writer gave none.
    pub position: Option<Position>,
    /// Names of fields that hold a placeholder, separated by commas.
    pub unavailable: Option<String>,
    /// A copy begins.
    pub copy_start: bool,
    /// Key message that the row had before its key changed.
    pub old_key: Option<Vec<u8>>,
    /// Header that names the key's schema, where the key itself does not.
    pub key_schema: Option<SchemaHeader>,
    /// Header that names the value's schema, where the value itself does not.
    pub value_schema: Option<SchemaHeader>,
}

impl FoundHeaders {
    /// Reads a message's headers. Unknown headers are ignored.
    pub fn read<H: Headers>(headers: Option<&H>) -> FoundHeaders {
        let mut found = FoundHeaders::default();
        let (mut commit_lsn, mut ordinal) = (None, None);
        let Some(headers) = headers else { return found };
        for header in headers.iter() {
            let value = header.value.unwrap_or_default();
            let text = || std::str::from_utf8(value).unwrap_or_default();
            match header.key {
                COMMIT_LSN => commit_lsn = text().parse::<Lsn>().ok(),
                ORDINAL => ordinal = text().parse::<u64>().ok(),
                UNAVAILABLE => found.unavailable = Some(text().to_owned()),
                COPY => found.copy_start = true,
                OLD_KEY => found.old_key = Some(value.to_vec()),
                other => {
                    let named = |names: [&'static str; 2]| names.into_iter().find(|name| *name == other);
                    if let Some(name) = named(KEY_SCHEMA) {
                        found.key_schema = Some((name, value.into()));
                    } else if let Some(name) = named(VALUE_SCHEMA) {
                        found.value_schema = Some((name, value.into()));
                    }
                }
            }
        }
        found.position = commit_lsn.zip(ordinal).map(|(commit_lsn, ordinal)| Position { commit_lsn, ordinal });
        found
    }
}

/// The names of an event's fields that hold a placeholder, separated by commas; none if there are none.
pub fn unavailable_fields(event: &Event, names: &[String]) -> Option<String> {
    if event.unavailable.is_empty() {
        return None;
    }
    let listed = event.unavailable.iter().filter_map(|&index| names.get(usize::from(index)));
    Some(listed.map(String::as_str).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive() {
        let position = Position { commit_lsn: Lsn(0x16_B374_D848), ordinal: u64::MAX };
        let written = EventHeaders {
            position,
            unavailable: Some("body,payload".into()),
            copy_start: true,
            new_key_text: None,
            old_key_text: Some("{\"id\":1}".into()),
            old_key: Some(&[0, 1]),
        };
        let found = FoundHeaders::read(Some(&written.to_owned_headers()));
        let expected = FoundHeaders {
            position: Some(position),
            unavailable: Some("body,payload".into()),
            copy_start: true,
            old_key: Some(vec![0, 1]),
            ..FoundHeaders::default()
        };
        assert_eq!(found, expected);
        assert_eq!(FoundHeaders::read::<OwnedHeaders>(None), FoundHeaders::default());
    }
}
