//! Messages of pgoutput, written byte by byte as Postgres sends them.

/// 2000-01-01, in microseconds since 1970.
pub const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// One column of a row.
#[derive(Clone, Copy)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// A TOASTed value that did not change.
    Unchanged,
    /// A value's text.
    Text(&'a str),
}

/// A column of a relation: its flags, name, type and modifier.
pub type Described<'a> = (u8, &'a str, u32, i32);

/// A transaction starts.
pub fn begin(commit_lsn: u64, commit_micros: i64, xid: u32) -> Vec<u8> {
    let mut message = vec![b'B'];
    message.extend(commit_lsn.to_be_bytes());
    message.extend((commit_micros - POSTGRES_EPOCH).to_be_bytes());
    message.extend(xid.to_be_bytes());
    message
}

/// A transaction ends.
pub fn commit(commit_lsn: u64, end_lsn: u64, commit_micros: i64) -> Vec<u8> {
    let mut message = vec![b'C', 0];
    message.extend(commit_lsn.to_be_bytes());
    message.extend(end_lsn.to_be_bytes());
    message.extend((commit_micros - POSTGRES_EPOCH).to_be_bytes());
    message
}

/// A relation is described.
pub fn relation(oid: u32, schema: &str, table: &str, identity: u8, columns: &[Described<'_>]) -> Vec<u8> {
    let mut message = with_oid(b'R', oid);
    push_name(&mut message, schema);
    push_name(&mut message, table);
    message.push(identity);
    message.extend((columns.len() as u16).to_be_bytes());
    for (flags, name, type_oid, modifier) in columns {
        message.push(*flags);
        push_name(&mut message, name);
        message.extend(type_oid.to_be_bytes());
        message.extend(modifier.to_be_bytes());
    }
    message
}

/// A row was inserted.
pub fn insert(oid: u32, row: &[Cell<'_>]) -> Vec<u8> {
    let mut message = with_oid(b'I', oid);
    push_row(&mut message, b'N', row);
    message
}

/// A row was updated; of the old one nothing is known.
pub fn update(oid: u32, new: &[Cell<'_>]) -> Vec<u8> {
    let mut message = with_oid(b'U', oid);
    push_row(&mut message, b'N', new);
    message
}

/// A row was updated; of the old one the key (`K`) or all (`O`) is known.
pub fn update_from(oid: u32, kind: u8, old: &[Cell<'_>], new: &[Cell<'_>]) -> Vec<u8> {
    let mut message = with_oid(b'U', oid);
    push_row(&mut message, kind, old);
    push_row(&mut message, b'N', new);
    message
}

/// A row was deleted, of which the key (`K`) or all (`O`) is known.
pub fn delete(oid: u32, kind: u8, old: &[Cell<'_>]) -> Vec<u8> {
    let mut message = with_oid(b'D', oid);
    push_row(&mut message, kind, old);
    message
}

/// Tables were truncated; `options` has 1 for CASCADE and 2 for RESTART IDENTITY.
pub fn truncate(oids: &[u32], options: u8) -> Vec<u8> {
    let mut message = vec![b'T'];
    message.extend((oids.len() as u32).to_be_bytes());
    message.push(options);
    for oid in oids {
        message.extend(oid.to_be_bytes());
    }
    message
}

fn with_oid(tag: u8, oid: u32) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend(oid.to_be_bytes());
    message
}

fn push_name(message: &mut Vec<u8>, name: &str) {
    message.extend(name.as_bytes());
    message.push(0);
}

fn push_row(message: &mut Vec<u8>, kind: u8, row: &[Cell<'_>]) {
    message.push(kind);
    message.extend((row.len() as u16).to_be_bytes());
    for cell in row {
        match cell {
            Cell::Null => message.push(b'n'),
            Cell::Unchanged => message.push(b'u'),
            Cell::Text(text) => {
                message.push(b't');
                message.extend((text.len() as u32).to_be_bytes());
                message.extend(text.as_bytes());
            }
        }
    }
}
