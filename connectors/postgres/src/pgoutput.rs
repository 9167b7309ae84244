//! Parser for pgoutput's messages, protocol version 1; values are borrowed from the message, not copied.
//!
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>. Version 2 adds stream
//! messages around these; they will be in a sibling of this module.

use bytes::Buf;
use sooner_schemas::Lsn;
use sooner_schemas::encode::TupleValue;

/// Microseconds between 1970-01-01 and Postgres' epoch, 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Error: the message ends early or has an unknown part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A row of a message: one value per column, in the relation's order.
pub type Tuple<'a> = Vec<TupleValue<'a>>;

/// The old row of an update or a delete, as far as the message holds it.
#[derive(Debug, PartialEq)]
pub enum OldRow<'a> {
    /// Only the replica identity's columns ('K'); the others are null.
    Key(Tuple<'a>),
    /// All columns ('O'): the replica identity is full.
    Whole(Tuple<'a>),
}

/// A relation as the stream describes it: its name, replica identity and columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationShape {
    /// Object id of the relation.
    pub oid: u32,
    /// Name of its schema.
    pub schema: String,
    /// Name of the table in that schema.
    pub table: String,
    /// Replica identity (`relreplident`): `d` default, `n` nothing, `f` full or `i` index.
    pub identity: u8,
    /// Columns in the order of the rows' values.
    pub columns: Vec<ShapeColumn>,
}

/// A column as the stream describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeColumn {
    /// Whether it is part of the replica identity.
    pub in_identity: bool,
    /// Name.
    pub name: String,
    /// Object id of its type.
    pub type_oid: u32,
    /// Type modifier; -1 for none.
    pub modifier: i32,
}

/// A message of the stream.
#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    /// A transaction starts.
    Begin {
        /// LSN of the transaction's commit record.
        commit_lsn: Lsn,
        /// Commit time, microseconds since 1970.
        commit_micros: i64,
        /// Transaction id.
        xid: u32,
    },
    /// A transaction ends.
    Commit {
        /// LSN of the transaction's commit record.
        commit_lsn: Lsn,
        /// LSN of the end of the transaction, after its commit record.
        end_lsn: Lsn,
        /// Commit time, microseconds since 1970.
        commit_micros: i64,
    },
    /// A relation is described, before its first change and after it was altered.
    Relation(RelationShape),
    /// A row was inserted.
    Insert {
        /// Object id of the relation.
        oid: u32,
        /// The inserted row.
        new: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// Object id of the relation.
        oid: u32,
        /// What is known of the old row; none if the identity did not change.
        old: Option<OldRow<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// Object id of the relation.
        oid: u32,
        /// What is known of the deleted row.
        old: OldRow<'a>,
    },
    /// Tables were truncated.
    Truncate {
        /// Object ids of the relations.
        oids: Vec<u32>,
    },
    /// Type names, origins and logical messages, which are ignored.
    Other,
}

/// Parses one message; its values borrow from `bytes`.
pub fn parse(mut bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let bytes = &mut bytes;
    Ok(match u8(bytes)? {
        b'I' => {
            let oid = u32(bytes)?;
            expect(bytes, b'N')?;
            Message::Insert { oid, new: tuple(bytes)? }
        }
        b'U' => update(bytes)?,
        b'D' => {
            let oid = u32(bytes)?;
            let kind = u8(bytes)?;
            Message::Delete { oid, old: old_row(kind, bytes)? }
        }
        b'B' => Message::Begin { commit_lsn: lsn(bytes)?, commit_micros: time(bytes)?, xid: u32(bytes)? },
        b'C' => {
            u8(bytes)?;
            Message::Commit { commit_lsn: lsn(bytes)?, end_lsn: lsn(bytes)?, commit_micros: time(bytes)? }
        }
        b'R' => Message::Relation(relation(bytes)?),
        b'T' => {
            let count = u32(bytes)?;
            u8(bytes)?;
            Message::Truncate { oids: (0..count).map(|_| u32(bytes)).collect::<Result<_, _>>()? }
        }
        b'Y' | b'O' | b'M' => Message::Other,
        _ => return Err(Malformed("unknown message type")),
    })
}

/// Converts microseconds since 2000-01-01 (Postgres' epoch) to microseconds since 1970-01-01.
pub fn unix_micros(postgres_micros: i64) -> i64 {
    postgres_micros.saturating_add(EPOCH_MICROS)
}

/// Converts microseconds since 1970-01-01 to microseconds since 2000-01-01 (Postgres' epoch).
pub fn postgres_micros(unix_micros: i64) -> i64 {
    unix_micros.saturating_sub(EPOCH_MICROS)
}

fn update<'a>(bytes: &mut &'a [u8]) -> Result<Message<'a>, Malformed> {
    let oid = u32(bytes)?;
    let kind = u8(bytes)?;
    if kind == b'N' {
        return Ok(Message::Update { oid, old: None, new: tuple(bytes)? });
    }
    let old = old_row(kind, bytes)?;
    expect(bytes, b'N')?;
    Ok(Message::Update { oid, old: Some(old), new: tuple(bytes)? })
}

fn old_row<'a>(kind: u8, bytes: &mut &'a [u8]) -> Result<OldRow<'a>, Malformed> {
    match kind {
        b'K' => Ok(OldRow::Key(tuple(bytes)?)),
        b'O' => Ok(OldRow::Whole(tuple(bytes)?)),
        _ => Err(Malformed("unknown kind of old row")),
    }
}

fn tuple<'a>(bytes: &mut &'a [u8]) -> Result<Tuple<'a>, Malformed> {
    let columns = u16(bytes)?;
    let mut row = Vec::with_capacity(columns.into());
    for _ in 0..columns {
        row.push(match u8(bytes)? {
            b'n' => TupleValue::Null,
            b'u' => TupleValue::Unavailable,
            b't' => {
                let length = u32(bytes)? as usize;
                let (value, rest) = bytes.split_at_checked(length).ok_or(Malformed("a value ends early"))?;
                *bytes = rest;
                TupleValue::Text(value)
            }
            _ => return Err(Malformed("unknown kind of value")),
        });
    }
    Ok(row)
}

fn relation(bytes: &mut &[u8]) -> Result<RelationShape, Malformed> {
    let oid = u32(bytes)?;
    let schema = text(bytes)?;
    let table = text(bytes)?;
    let identity = u8(bytes)?;
    let count = u16(bytes)?;
    let columns = (0..count).map(|_| {
        Ok(ShapeColumn {
            in_identity: u8(bytes)? & 1 != 0,
            name: text(bytes)?,
            type_oid: u32(bytes)?,
            modifier: u32(bytes)? as i32,
        })
    });
    let columns = columns.collect::<Result<_, _>>()?;
    // An empty schema name stands for pg_catalog.
    let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
    Ok(RelationShape { oid, schema, table, identity, columns })
}

fn text(bytes: &mut &[u8]) -> Result<String, Malformed> {
    let end = bytes.iter().position(|&byte| byte == 0).ok_or(Malformed("a name ends early"))?;
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    bytes.advance(end + 1);
    Ok(text)
}

fn expect(bytes: &mut &[u8], tag: u8) -> Result<(), Malformed> {
    if u8(bytes)? == tag { Ok(()) } else { Err(Malformed("a new row does not follow where it should")) }
}

fn u8(bytes: &mut &[u8]) -> Result<u8, Malformed> {
    bytes.try_get_u8().map_err(|_| Malformed("the message ends early"))
}

fn u16(bytes: &mut &[u8]) -> Result<u16, Malformed> {
    bytes.try_get_u16().map_err(|_| Malformed("the message ends early"))
}

fn u32(bytes: &mut &[u8]) -> Result<u32, Malformed> {
    bytes.try_get_u32().map_err(|_| Malformed("the message ends early"))
}

fn lsn(bytes: &mut &[u8]) -> Result<Lsn, Malformed> {
    bytes.try_get_u64().map(Lsn).map_err(|_| Malformed("the message ends early"))
}

fn time(bytes: &mut &[u8]) -> Result<i64, Malformed> {
    bytes.try_get_i64().map(unix_micros).map_err(|_| Malformed("the message ends early"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_with_an_old_key_and_an_untouched_value() {
        let mut bytes = vec![b'U', 0, 0, 0, 9, b'K', 0, 2, b't', 0, 0, 0, 1, b'1', b'n'];
        bytes.extend([b'N', 0, 2, b't', 0, 0, 0, 1, b'2', b'u']);
        let expected = Message::Update {
            oid: 9,
            old: Some(OldRow::Key(vec![TupleValue::Text(b"1"), TupleValue::Null])),
            new: vec![TupleValue::Text(b"2"), TupleValue::Unavailable],
        };
        assert_eq!(parse(&bytes), Ok(expected));
    }

    #[test]
    fn every_cut_of_a_message_is_an_error_and_no_panic() {
        let mut begin = vec![b'B'];
        begin.extend([0; 20]);
        let mut relation = vec![b'R', 0, 0, 0, 9];
        relation.extend(b"public\0t\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff");
        let insert = vec![b'I', 0, 0, 0, 9, b'N', 0, 1, b't', 0, 0, 0, 1, b'1'];
        for message in [begin, relation, insert] {
            assert!(parse(&message).is_ok());
            for end in 0..message.len() {
                assert!(parse(&message[..end]).is_err());
            }
        }
    }
}
