//! Which schema a key or a value was written under, and where its datum begins: in each form in which registries'
//! serializers say so.
//!
//! - Confluent's prefix: a zero byte and an id of four bytes; or a one and a GUID of sixteen.
//! - Confluent's record headers `__key_schema_id` and `__value_schema_id`, which hold the same; the datum is bare.
//! - Apicurio's record headers `apicurio.key.contentId` and `apicurio.value.contentId`: an id of eight bytes.
//! - AWS Glue's prefix: a three, a byte that says how the datum is compressed, and the UUID of a schema version.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use flate2::read::ZlibDecoder;
use sooner_schemas::wire::Malformed;

/// Largest datum that is unpacked, in bytes. Brokers' usual limits are far below, and few bytes must not become many.
const LARGEST_DATUM: usize = 30 << 20;

const GUID_MAGIC: u8 = 1;
const GLUE_VERSION: u8 = 3;
const GLUE_PLAIN: u8 = 0;
const GLUE_ZLIB: u8 = 5;

/// Identifier of a schema, as a message names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SchemaId {
    /// Id in a registry that speaks Confluent's API.
    Number(u32),
    /// GUID in a registry that speaks Confluent's API.
    Guid([u8; 16]),
    /// Id of a schema version in AWS Glue.
    GlueVersion([u8; 16]),
}

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchemaId::Number(id) => write!(f, "schema id {id}"),
            SchemaId::Guid(guid) => write!(f, "schema GUID {}", uuid_text(guid)),
            SchemaId::GlueVersion(id) => write!(f, "schema version {} of AWS Glue", uuid_text(id)),
        }
    }
}

/// A UUID in its usual form of 8, 4, 4, 4 and 12 digits.
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// A datum as it lies in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// The datum itself.
    Plain(&'a [u8]),
    /// The datum compressed, as a zlib stream (RFC 1950).
    Zlib(&'a [u8]),
}

impl<'a> Datum<'a> {
    /// The datum, unpacked.
    pub fn unpacked(self) -> Result<Cow<'a, [u8]>, String> {
        let packed = match self {
            Datum::Plain(bytes) => return Ok(Cow::Borrowed(bytes)),
            Datum::Zlib(packed) => packed,
        };
        let mut bytes = Vec::new();
        let limit = LARGEST_DATUM as u64 + 1;
        let unpacked = ZlibDecoder::new(packed).take(limit).read_to_end(&mut bytes);
        unpacked.map_err(|error| format!("its compressed value cannot be unpacked: {error}"))?;
        match bytes.len() > LARGEST_DATUM {
            true => Err(format!("its compressed value has more than {LARGEST_DATUM} bytes")),
            false => Ok(Cow::Owned(bytes)),
        }
    }
}

/// Splits a key or a value into the identifier of its schema and its datum. `header` is the value of the record header
/// that names the schema; none if the message has no such header.
pub fn split<'a>(part: &'a [u8], header: Option<&[u8]>) -> Result<(SchemaId, Datum<'a>), Malformed> {
    if let Some(header) = header {
        return Ok((id_of_header(header).ok_or(Malformed::NoHeader)?, Datum::Plain(part)));
    }
    match part {
        [] => Err(Malformed::Truncated),
        [0, rest @ ..] => {
            let (id, datum) = rest.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
            Ok((SchemaId::Number(u32::from_be_bytes(*id)), Datum::Plain(datum)))
        }
        [GUID_MAGIC, rest @ ..] => {
            let (guid, datum) = rest.split_first_chunk::<16>().ok_or(Malformed::Truncated)?;
            Ok((SchemaId::Guid(*guid), Datum::Plain(datum)))
        }
        [GLUE_VERSION, compression @ (GLUE_PLAIN | GLUE_ZLIB), rest @ ..] => {
            let (id, datum) = rest.split_first_chunk::<16>().ok_or(Malformed::Truncated)?;
            let datum = if *compression == GLUE_ZLIB { Datum::Zlib(datum) } else { Datum::Plain(datum) };
            Ok((SchemaId::GlueVersion(*id), datum))
        }
        _ => Err(Malformed::NoHeader),
    }
}

/// The identifier in a record header: Confluent's, with a byte that says which, or Apicurio's of eight bytes.
fn id_of_header(header: &[u8]) -> Option<SchemaId> {
    match header {
        [0, id @ ..] if id.len() == 4 => Some(SchemaId::Number(u32::from_be_bytes(id.try_into().ok()?))),
        [GUID_MAGIC, guid @ ..] if guid.len() == 16 => Some(SchemaId::Guid(guid.try_into().ok()?)),
        [..] if header.len() == 8 => {
            let id = u64::from_be_bytes(header.try_into().ok()?);
            Some(SchemaId::Number(u32::try_from(id).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    const UUID: [u8; 16] = [0x8A, 0x2B, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xFF];

    fn framed(head: &[u8], datum: &[u8]) -> Vec<u8> {
        [head, &UUID, datum].concat()
    }

    fn packed(datum: &[u8]) -> Vec<u8> {
        let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
        packer.write_all(datum).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn each_form_tells_its_schema_and_datum() {
        let datum = b"datum".as_slice();
        let cases = [
            ([&[0, 0, 0, 1, 2][..], datum].concat(), None, SchemaId::Number(258)),
            (framed(&[1], datum), None, SchemaId::Guid(UUID)),
            (framed(&[3, 0], datum), None, SchemaId::GlueVersion(UUID)),
            (framed(&[3, 5], &packed(datum)), None, SchemaId::GlueVersion(UUID)),
            (datum.to_vec(), Some(vec![0, 0, 0, 0, 9]), SchemaId::Number(9)),
            (datum.to_vec(), Some(framed(&[1], b"")), SchemaId::Guid(UUID)),
            (datum.to_vec(), Some(vec![0, 0, 0, 0, 0, 0, 1, 0]), SchemaId::Number(256)),
        ];
        for (part, header, expected) in cases {
            let (id, found) = split(&part, header.as_deref()).unwrap();
            assert_eq!((id, &*found.unpacked().unwrap()), (expected, datum), "{part:?} {header:?}");
        }
        assert_eq!(uuid_text(&UUID), "8a2b0001-0203-0405-0607-08090a0b0cff");
    }

    #[test]
    fn what_ends_early_or_is_another_form_is_no_event() {
        let cut = |bytes: &[u8], header: Option<&[u8]>| split(bytes, header).unwrap_err();
        for part in [&[][..], &[0, 0, 0, 1], &[1, 2, 3], &framed(&[3, 0], b"")[..17]] {
            assert_eq!(cut(part, None), Malformed::Truncated, "{part:?}");
        }
        for part in [&b"{}"[..], &[3], &framed(&[3, 1], b"")] {
            assert_eq!(cut(part, None), Malformed::NoHeader, "{part:?}");
        }
        for header in [&[][..], &[0, 1], &[1, 1], &[7; 17], &[1, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(cut(b"", Some(header)), Malformed::NoHeader, "{header:?}");
        }
        assert!(Datum::Zlib(b"no zlib").unpacked().unwrap_err().contains("cannot be unpacked"));
        let bomb = packed(&vec![0; LARGEST_DATUM + 1]);
        assert!(bomb.len() < 100_000 && Datum::Zlib(&bomb).unpacked().unwrap_err().contains("has more than"));
        assert_eq!(Datum::Zlib(&packed(&vec![0; LARGEST_DATUM])).unpacked().unwrap().len(), LARGEST_DATUM);
    }
}
